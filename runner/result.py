"""What a run came to, as data; every report is a rendering of these records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runner.errors import ExitCode, Problem


class Status(StrEnum):
    """How a step or a workflow ended. `steps.<id>.outcome` is one of these words."""

    SUCCESS = "success"
    FAILURE = "failure"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step failed: a sentence, what to do, and everything that a reader needs to see in full.

    `reason` is a stable word for machines (`timeout`, `ErrImageNeverPull`, `exit_code`); `command`, `code` and `output`
    are set when a child process failed; `place` is where the step stands in the file, `source` that line. `objects` is
    what the cluster said about the objects in question, in plain values; `details` has it as text.
    """

    message: str
    hint: str = ""
    reason: str = ""
    details: str = ""
    command: str = ""
    code: int | None = None
    output: str = ""
    place: str = ""
    source: str = ""
    objects: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step: `path` is its stable address (`steps.web`, `steps[2]`), `section` the list that it stands in, `depth`
    how many steps it stands inside of. Those inside of a step follow it.
    """

    path: str
    name: str
    kind: str
    section: str
    line: int
    status: Status
    seconds: float = 0.0
    attempts: int = 0
    id: str = ""
    skipped_because: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    tolerated: bool = False
    commands: tuple[str, ...] = ()
    shown: str = ""
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object that the run made and could not remove, why, and the command that removes it."""

    object: str
    why: str
    command: str
    hopeless: bool = False
    """Trying again cannot help."""
    hint: str = ""
    """What to do where the command alone does not help."""


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What was undone at the end: how many objects are gone, what was kept on purpose, what could not be removed."""

    deleted: int = 0
    kept: tuple[str, ...] = ()
    left: tuple[Leftover, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """One workflow file. `cause` says why it did not simply pass: `deadline`, `SIGINT`, an exception's sentence."""

    name: str
    file: str
    status: Status
    seconds: float
    steps: tuple[StepResult, ...]
    cleanup: Cleanup = field(default_factory=Cleanup)
    cause: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A whole invocation. `signal` is the number of the signal that ended it, 0 for none."""

    run: str
    workflows: tuple[WorkflowResult, ...]
    seconds: float
    engine: str = ""
    context: str = ""
    folder: str = ""
    signal: int = 0
    deadline_exceeded: bool = False
    handover: bool = False
    """The watchdog goes on to remove what is left."""
    clean: str = ""
    """The command that removes what is left."""
    error: str = ""
    hint: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def status(self) -> str:
        """In a word: `cancelled` by a signal or the deadline, `invalid` or `error` when it could not start."""
        if self.error:
            return "error"
        if any(problem.severity != "warning" for problem in self.problems):
            return "invalid"
        if self.signal or self.deadline_exceeded:
            return str(Status.CANCELLED)
        return str(Status.SUCCESS if self.exit_code == ExitCode.PASSED else Status.FAILURE)

    @property
    def exit_code(self) -> int:
        """Precedence: signal, deadline, failed step, incomplete cleanup."""
        if self.signal:
            return 128 + self.signal
        if self.deadline_exceeded:
            return ExitCode.DEADLINE
        if any(workflow.status is not Status.SUCCESS for workflow in self.workflows):
            return ExitCode.FAILED
        if any(workflow.cleanup.left for workflow in self.workflows):
            return ExitCode.CLEANUP
        return ExitCode.PASSED
