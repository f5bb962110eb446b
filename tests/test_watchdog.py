"""The watchdog: small, hard to kill by accident, and it acts exactly when a run is gone without a goodbye."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from runner import watchdog
from runner.cluster.protocol import Gone
from runner.errors import StepFailed
from runner.journal import Journal, Place, Undo, replay
from runner.watchdog import Watchdog

if TYPE_CHECKING:
    from tests.conftest import FakeBin

POD = Undo(id="run/1", engine="kubectl", api_version="v1", kind="Pod", name="a", namespace="demo", uid="u1")
# A run that starts a child, waits for a line on its standard input, and says goodbye when it is told to.
RUN = """
import os, pathlib, sys, subprocess
from runner import orphans, shell
from runner.deadline import Deadline
from runner.journal import Journal
from runner.watchdog import Watchdog
folder = pathlib.Path(sys.argv[1])
guard = Watchdog(folder)
journal = Journal(folder, guard)
journal.start((), "test")
shell.keep_ledger(orphans.Ledger(journal))
child = shell.start(shell.Command(("sleep", "300")))
print(child.pid, journal.make_temporary(), flush=True)
guard(True)
print("stands", flush=True)
if sys.stdin.readline() == "goodbye\\n":
    child.stop()
    journal.end("success", 0)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int, Path]]]:
    """Start a run, in this folder; answers it, its child's number and its temporary folder."""
    runs: list[subprocess.Popen[str]] = []

    def start(folder: str = "run") -> tuple[subprocess.Popen[str], int, Path]:
        argv = [sys.executable, "-c", RUN, str(tmp_path / folder)]
        env = {**os.environ, "TMPDIR": str(tmp_path), "MARK": str(tmp_path)}
        run = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, process_group=0)
        runs.append(run)
        assert run.stdout
        child, folder = run.stdout.readline().split()
        assert run.stdout.readline() == "stands\n"
        return run, int(child), Path(folder)

    yield start
    for run in runs:
        run.kill()
        run.communicate()


def watchdogs(mark: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"MARK={mark}".encode() in (path / "environ").read_bytes()
            if mine and b"watchdog.py" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def wait_until_over(folder: Path) -> None:
    """The lock is free: the run and its watchdog are gone."""
    with (folder / "journal.jsonl").open("rb+") as file:
        end = time.monotonic() + 60
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < end
                time.sleep(0.02)


def gone(pid: int) -> bool:
    """No process, or one that nobody buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_killed_run_is_undone(start: Any, tmp_path: Path) -> None:
    """Its group is killed; its child, which has a session of its own, and its temporary folder go, and it is told."""
    run, child, folder = start()
    (pid,) = watchdogs(tmp_path)
    memory = Path(f"/proc/{pid}/status").read_text()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    wait_for((tmp_path / "run/watchdog.jsonl").exists)  # it waits for the same lock as we shall
    wait_until_over(tmp_path / "run")

    assert int(memory.partition("VmRSS:")[2].split()[0]) < 20_000
    assert os.getsid(0) != pid
    assert gone(child)
    assert not folder.exists()
    past = replay(tmp_path / "run")
    assert past.end
    assert (past.end.status, past.end.code, past.end.by, past.children) == ("crashed", 137, "watchdog", {})
    said = [json.loads(line) for line in (tmp_path / "run/watchdog.jsonl").read_text().splitlines()]
    assert [line["event"] for line in said] == ["watchdog started", "watchdog ended"]
    assert said[-1]["children"] == ["sleep"]


def test_goodbye_ends_the_watchdog(start: Any, tmp_path: Path) -> None:
    """It writes nothing, and is nobody's child that would have to be buried."""
    run, _, _ = start()
    (pid,) = watchdogs(tmp_path)
    run.communicate("goodbye\n", timeout=30)
    wait_until_over(tmp_path / "run")
    wait_for(lambda: gone(pid))

    assert not (tmp_path / "run/watchdog.jsonl").exists()
    assert replay(tmp_path / "run").finished


def test_a_bug_in_the_watchdog_is_told(start: Any, runner: Callable[..., Any], tmp_path: Path) -> None:
    """A real one, whose own work breaks (what is pinned there is no kubeconfig at all): nobody sees its streams, so it
    writes into the run folder what happened, what is left and what to type; `runner show` tells it.
    """
    name = "20260101-000001-aaaa"
    folder = tmp_path / "runs" / name
    run, child, _ = start(f"runs/{name}")
    (folder / "kubeconfig").write_text("[]")
    record = msgspec.structs.replace(POD, id=f"{name}/1")
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps({"undo": msgspec.to_builtins(record)}) + "\n")
    run.kill()
    run.wait()
    wait_for((folder / "watchdog.jsonl").exists)  # it waits for the same lock as we shall
    wait_until_over(folder)
    shown = runner("show", name, "--state-dir", tmp_path)

    line = f"runner clean --run {name} --state-dir={tmp_path}"
    records = [json.loads(text) for text in (folder / "watchdog.jsonl").read_text().splitlines()]
    said = {record["event"]: record for record in records}
    assert said["warning"]["message"].startswith("bug in the watchdog: AttributeError: ")
    assert said["warning"]["hint"] == line
    assert (said["object left"]["object"], said["watchdog ended"]["left"]) == ("pod/a (namespace demo)", 1)
    assert gone(child)
    assert shown.returncode == 0
    assert "bug in the watchdog: AttributeError: " in shown.stdout
    assert f"{name}: crashed, begun " in shown.stdout
    assert shown.stdout.endswith(f"  left: pod/a (namespace demo)\n  try: {line}\n")


def test_it_holds_nothing_that_the_run_inherited(tmp_path: Path) -> None:
    """Neither a lock of whoever started the run nor its output: a CI step waits for the end of both."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    journal = Journal(tmp_path / "run")
    guard = Watchdog(tmp_path / "run")
    guard(True)
    os.close(write)

    assert os.read(read, 1) == b""  # nobody else has it open
    os.close(read)
    journal.end("success", 0)
    journal.close()
    guard.close()


def test_without_a_watchdog_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that would make something fails, with the reason; one that ends at once counts as none."""
    monkeypatch.setattr(watchdog, "__file__", str(tmp_path / "missing.py"))
    journal = Journal(tmp_path / "run", Watchdog(tmp_path / "run"))

    for _ in range(2):
        with pytest.raises(StepFailed, match="cannot be started: it ended at once; so nothing is made"):
            journal.intend(POD)
    assert journal.records == ()
    assert journal.spawning("kubectl")  # a child is no object
    journal.close()


def test_a_watchdog_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, but not for ever."""
    (tmp_path / "hangs.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(watchdog, "__file__", str(tmp_path / "hangs.py"))
    monkeypatch.setattr(watchdog, "_START_SECONDS", 0.2)
    guard = Watchdog(tmp_path / "run")
    with pytest.raises(StepFailed, match=r"cannot be started: it is not ready after 0.2 s"):
        guard(True)


def test_a_watchdog_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's reason; at the end of the run it is no matter any more."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    guard = Watchdog(tmp_path / "run")
    guard(False)
    with pytest.raises(StepFailed, match=r"cannot be started: .*No such file or directory"):
        guard(True)
    guard.close()


class Cluster:
    """Answers each round of undoing from a script: a reason for what is left, or nothing."""

    environment: dict[str, str | None] = {}

    def __init__(self, *rounds: Gone | Exception) -> None:
        self.rounds = list(rounds)

    def undo(self, records: Sequence[Undo], hand: Any, *, hurry: bool) -> Iterator[Gone]:
        assert hurry
        answer = self.rounds.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield answer

    def close(self) -> None: ...


@pytest.fixture
def rescue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Undo a run that made a Pod on a cluster; answers what the watchdog wrote."""

    def rescue(*rounds: Gone | Exception) -> list[dict[str, Any]]:
        cluster = Cluster(*rounds)
        monkeypatch.setattr("runner.cluster.choose.reopen", lambda *_: cluster)
        monkeypatch.setattr(watchdog, "_FIRST_PAUSE", 0.001)
        journal = Journal(tmp_path / "run")
        journal.at(Place(engine="kubectl", context="kind-a"))
        journal.intend(POD)
        (tmp_path / "run/kubeconfig").write_text("{}")
        watchdog.rescue(tmp_path / "run", os.dup(journal._file))
        journal.close()
        assert cluster.rounds == []
        past = replay(tmp_path / "run")
        assert (tmp_path / "run/kubeconfig").exists() is bool(past.doomed)  # `runner clean` needs it
        return [json.loads(line) for line in (tmp_path / "run/watchdog.jsonl").read_text().splitlines()]

    return rescue


def test_it_tries_again_while_the_cluster_is_away(rescue: Any, tmp_path: Path) -> None:
    """Until the object is gone."""
    said = rescue(StepFailed("refused"), Gone(POD, "connection refused"), Gone(POD))

    assert [line["event"] for line in said] == ["watchdog started", "object deleted", "watchdog ended"]
    assert replay(tmp_path / "run").records == {}


def test_it_gives_up_what_is_forbidden(rescue: Any, tmp_path: Path) -> None:
    """At once, and says what is left and why."""
    said = rescue(Gone(POD, "pods is forbidden", hopeless=True))

    left = next(line for line in said if line["event"] == "object left")
    assert (left["object"], left["why"]) == ("pod/a (namespace demo)", "pods is forbidden")
    past = replay(tmp_path / "run")
    assert past.end
    assert (past.end.left, [record.name for record in past.doomed]) == (1, ["a"])


def test_a_bug_is_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one before anything is undone; the run stays one that `runner clean` finds."""
    journal = Journal(tmp_path / "run")
    journal.intend(POD)
    monkeypatch.setattr("runner.journal.replay", lambda _: 1 / 0)
    watchdog.rescue(tmp_path / "run", os.dup(journal._file))
    journal.close()

    (said,) = map(json.loads, (tmp_path / "run/watchdog.jsonl").read_text().splitlines())
    assert said["message"] == "bug in the watchdog: ZeroDivisionError: division by zero"
    assert [record.name for record in replay(tmp_path / "run").doomed] == ["a"]


def test_run_that_is_killed_while_its_watchdog_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens when it says that it stands; it stands all the same."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    journal = Journal(tmp_path / "run")
    temporary = Path(journal.make_temporary())
    journal.close()
    dog = watchdog.Watchdog(tmp_path / "run")
    dog._start()
    os.close(dog._ready)
    os.waitpid(dog._pid, 0)
    wait_for((tmp_path / "run/watchdog.jsonl").exists)
    wait_until_over(tmp_path / "run")

    assert not temporary.exists()
    end = replay(tmp_path / "run").end
    assert end
    assert end.by == "watchdog"


def test_second_signal_leaves_a_builder_to_it(fake_bin: FakeBin, tmp_path: Path) -> None:
    """The run does not wait until that has cleared away, and the watchdog does."""
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go")
    works = "trap '' TERM; echo >begun; read <go; : >cleared; exit 125"
    fake_bin.put("podman", f'[ "$1" = build ] || {{ echo podman version 4.3.1; exit; }}; {works}')
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "flow.yaml").write_text("steps: [{build: {image: app, builder: podman, load: false}}]")
    own = {
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "KUBECONFIG": os.devnull,
    }
    argv = [sys.executable, "-m", "runner", "flow.yaml"]
    with subprocess.Popen(argv, cwd=tmp_path, env={**os.environ, **own}, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr
        assert (tmp_path / "begun").read_text() == "\n"
        for words in ("again: do not wait", "has not cleared away yet"):
            run.send_signal(signal.SIGTERM)
            assert any(words in line for line in run.stderr)
        assert run.wait(30) == 128 + signal.SIGTERM
    (folder,) = (tmp_path / "state/runner/runs").iterdir()
    with (tmp_path / "go").open("r+b", buffering=0) as go:  # nobody need read it
        go.write(b"\n")
        wait_until_over(folder)

    assert (tmp_path / "cleared").exists()
