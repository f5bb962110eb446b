"""Programs that answer from a script and record how they were called, and the hand of a step that runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from runner.deadline import Deadline
from runner.errors import CommandResult, StepFailed
from runner.shell import Command, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from runner.cluster.protocol import Ref
    from runner.journal import Undo


@dataclass
class Fakes:
    """A folder that is PATH: what is not put there is not installed."""

    folder: Path
    log: Path

    def put(self, name: str, script: str = "") -> None:
        """Install a program: bash that sees its arguments; `$*` is all of them."""
        record = f"{{ printf '%s\\037' \"${{0##*/}}\" \"$@\"; echo; }} >>'{self.log}'"
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{record}\n{script}\n")
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """Every call so far, as a line."""
        if not self.log.exists():
            return []
        return [" ".join(line.split("\037")[:-1]) for line in self.log.read_text().splitlines()]


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CONTAINER_HOST", "CONTAINER_CONNECTION", "KIND_EXPERIMENTAL_PROVIDER"):
        monkeypatch.delenv(name, raising=False)
    return Fakes(folder, tmp_path / "calls")


@dataclass
class FakeHand:
    """What a step gives to the cluster code, without an engine around it: commands are run for real."""

    folder: Path
    run_id: str = "test"
    deadline: Deadline = field(default_factory=lambda: Deadline(30))
    waits: list[str] = field(default_factory=list)

    def execute(self, command: Command, *, check: bool = True) -> CommandResult:
        result = run(command, self.deadline)
        if check and result.code:
            raise StepFailed(f"{command.argv[0]} failed with {result.code}", details=result.stderr, result=result)
        return result

    def waiting(self, what: str) -> None:
        self.waits.append(what)

    def warn(self, message: str, *, hint: str = "") -> None: ...

    def intend(self, ref: Ref) -> Undo:
        raise NotImplementedError

    def made(self, record: Undo, uid: str) -> None: ...

    def unmade(self, record: Undo) -> None: ...

    def deleted(self, ref: Ref) -> None: ...

    def emit(self, event: str, /, **fields: Any) -> None: ...


@pytest.fixture
def hand(tmp_path: Path) -> FakeHand:
    folder = tmp_path / "step"
    folder.mkdir()
    return FakeHand(folder)


@pytest.fixture
def run_command() -> Callable[[Command], CommandResult]:
    """How the guard asks a provider's tool."""
    return lambda command: run(command, Deadline(5))
