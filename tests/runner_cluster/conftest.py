"""Programs that answer from a script and record how they were called, and the hand of a step that runs them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.cluster import patience
from runner.cluster.kubeconfig import Selected
from runner.cluster.kubectl import Kubectl
from runner.deadline import Deadline
from runner.errors import CommandResult, StepFailed
from runner.shell import Command, run
from tests.runner_cluster.fake_api import FakeApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runner.cluster.protocol import Ref
    from runner.journal import Dependent, Undo


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
    lifetime: float = 60.0
    allowed: frozenset[str] = frozenset()
    deadline: Deadline = field(default_factory=lambda: Deadline(30))
    waits: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """The dependents that `undo` wrote into the journal."""

    def execute(self, command: Command, *, check: bool = True) -> CommandResult:
        result = run(command, self.deadline)
        if check and result.code:
            raise StepFailed(f"{command.argv[0]} failed with {result.code}", details=result.stderr, result=result)
        return result

    def waiting(self, what: str, seconds: float = 0.0) -> None:
        self.waits.append(what)

    def depends(self, record: Undo, more: Iterable[Dependent]) -> None:
        self.written += [f"{dependent} of {record}" for dependent in more]

    def warn(self, message: str, *, hint: str = "") -> None:
        self.warnings.append(message)

    def note(self, message: str) -> None: ...

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


# -- a cluster whose API server is a fake


SERVE = """\
case $1 in
proxy)
  socket=${2#--unix-socket=}
  ln -s "$API" "$socket"
  echo "Starting to serve on $socket"
  exec sleep 600 ;;
esac
"""


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """An API server with nothing in it."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:  # socket paths are short
        fake = FakeApi(Path(folder, "api"))
        yield fake
        fake.close()


@dataclass
class News:
    """What a cluster reported."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, phrase: str, /, *, level: str = "", **fields: Any) -> None:
        self.events.append((phrase, {**fields, "level": level}))

    @property
    def rules(self) -> list[str]:
        """By which rules requests were repeated, in order."""
        return [fields["rule"] for phrase, fields in self.events if phrase == "request retried"]


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
def cluster(api: FakeApi, news: News, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubectl]:
    """Kubectl's side of a cluster: the program is a fake whose proxy leads to the fake API server."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program = folder / "kubectl"
    program.write_text(f"#!/bin/bash\n{SERVE}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("API", str(api.path))
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.005)
    pinned = tmp_path / "kubeconfig"
    pinned.write_text("{}")
    real = Kubectl(Selected("dev", "dev", "https://10.0.0.1:6443", "", "dev", {}), pinned, report=news)
    yield real
    real.close()
