"""Exceptions and exit codes, nothing else.

Every exception that the program raises on purpose is a `RunnerError`; it carries facts, and `cli.py` is the one place
that turns it into a message and an exit code. Anything else that reaches `cli.py` is a bug and exits with 70.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar

import msgspec

MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE})
"""Errors of the machine, not of the program: a full or read-only disk, too many open files."""


class ExitCode(IntEnum):
    """What the process answers; a run that a signal ended answers 128 + the signal's number instead."""

    PASSED = 0
    FAILED = 1
    USAGE = 2
    CANNOT_START = 3
    DEADLINE = 4
    CLEANUP = 5
    BUG = 70


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a file, at a place.

    `line` and `column` count from 1; 0 means that the problem is about the whole file. `source` is the offending line
    as it stands in the file, and `width` how many characters of it the caret marks.
    """

    file: str
    line: int
    column: int
    message: str
    hint: str = ""
    source: str = ""
    width: int = 1
    severity: str = "error"

    @property
    def place(self) -> str:
        """`file:line:column`, as editors and CI systems recognise it."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class RunnerError(Exception):
    """The root: a sentence about what happened, and (`hint`) what to do about it."""

    code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RunnerError):
    """The command line asks for something that does not exist or does not fit together."""

    code = ExitCode.USAGE


class InvalidWorkflow(RunnerError):
    """A workflow file has problems; all of them are in `problems`, in the order of the file."""

    code = ExitCode.USAGE

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''}")
        self.problems = problems


class CannotStart(RunnerError):
    """A tool, a cluster or a permission that the run needs is not there; nothing was changed."""

    code = ExitCode.CANNOT_START


class CommandResult(msgspec.Struct, frozen=True):
    """A child process that ended: `code` is negative for a signal, and `lines` holds both streams as they came."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float


class StepFailed(RunnerError):
    """A step did not reach its goal. `details` is what a reader needs to see in full: output, state, a difference.

    `objects` is what the cluster said about the objects in question, as plain data (`cluster/diagnosis.py`).
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        reason: str = "",
        details: str = "",
        result: CommandResult | None = None,
        objects: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.details = details
        self.result = result
        self.objects = objects


class TimedOut(StepFailed):
    """A step reached its deadline before its goal."""


class Expired(TimedOut):
    """A deadline's own words: whoever waited has not said yet what for."""


class Cancelled(RunnerError):
    """What was going on was told to stop: by a signal, by the run's deadline, or because its scope ended."""
