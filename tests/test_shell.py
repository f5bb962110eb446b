"""Child processes: output, exit codes, deadlines, groups. Every test starts real ones."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from runner import masking, process_table, shell
from runner.deadline import Deadline
from runner.errors import Cancelled, CannotStart, TimedOut
from runner.shell import Command


def bash(script: str) -> Command:
    return Command(("bash", "-c", script))


def test_result_carries_code_and_both_streams() -> None:
    """Code and output are answered whatever the code is."""
    result = shell.run(bash("echo out; echo err >&2; exit 3"), Deadline(30))

    assert (result.code, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_lines_come_while_the_child_runs() -> None:
    """Each line is handed on when it is complete, also the last one without a newline."""
    lines: list[tuple[str, str]] = []

    shell.run(bash("echo a; echo b >&2; printf c"), Deadline(30), lambda stream, line: lines.append((stream, line)))

    assert sorted(lines) == [("stderr", "b"), ("stdout", "a"), ("stdout", "c")]


def test_output_that_is_not_utf8_is_replaced() -> None:
    """Bytes of another encoding neither raise nor change the type."""
    result = shell.run(bash(r"printf '\xff\xfe ok'"), Deadline(30))

    assert result.stdout == "\ufffd\ufffd ok"


def test_megabytes_on_both_streams_do_not_deadlock() -> None:
    """Both pipes are drained at the same time."""
    half = "head -c 5000000 /dev/zero | tr '\\0' x"

    result = shell.run(bash(f"{half}; {half} >&2"), Deadline(60))

    assert (len(result.stdout), len(result.stderr)) == (5_000_000, 5_000_000)


def test_endless_output_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is bounded in memory, and the reader is told what was dropped."""
    monkeypatch.setattr(shell, "KEEP_BYTES", 1 << 17)

    result = shell.run(bash("head -c 1000000 /dev/zero | tr '\\0' x; echo end"), Deadline(60))

    assert result.stdout.startswith("… ")
    assert "bytes of older output dropped" in result.stdout
    assert result.stdout.endswith("xend\n")


def test_stdin_is_empty_unless_given() -> None:
    """A child never reads the terminal of the user."""
    assert shell.run(Command(("cat",)), Deadline(30)).stdout == ""
    assert shell.run(Command(("cat",), stdin="hello"), Deadline(30)).stdout == "hello"


def test_environment_is_laid_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given variables are set, None removes one, others are inherited."""
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("REMOVED", "2")
    command = Command(("bash", "-c", 'echo "$KEPT-${REMOVED-}-$NEW"'), env={"REMOVED": None, "NEW": "3"})

    assert shell.run(command, Deadline(30)).stdout == "1--3\n"


def test_working_directory(tmp_path: Path) -> None:
    """A child runs where it is told to."""
    assert shell.run(Command(("pwd",), cwd=tmp_path), Deadline(30)).stdout == f"{tmp_path}\n"


def test_missing_program_says_what_to_install() -> None:
    """A program that is not there is a sentence, not a traceback."""
    with pytest.raises(CannotStart, match="no-such-program is not installed") as caught:
        shell.run(Command(("no-such-program",)), Deadline(30))

    assert "put it on PATH" in caught.value.hint


def test_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    """A failed start names the reason."""
    with pytest.raises(CannotStart, match="No such file or directory"):
        shell.run(Command(("true",), cwd=tmp_path / "nowhere"), Deadline(30))


def test_deadline_ends_grandchildren_too(tmp_path: Path) -> None:
    """At the deadline the whole group is gone, not only the child itself."""
    pids = tmp_path / "pids"

    with pytest.raises(TimedOut):
        shell.run(bash(f"sleep 300 & echo $! >{pids}; echo $$ >>{pids}; wait"), Deadline(0.5))

    # They were killed when `run` returned; the kernel may need a moment to end them.
    _until(lambda: not any(_alive(int(pid)) for pid in pids.read_text().split()))


def test_child_that_ignores_terminate_is_killed(tmp_path: Path) -> None:
    """TERM is followed by KILL after the grace period."""
    ready = tmp_path / "ready"
    child = shell.start(bash(f"trap '' TERM; touch {ready}; while :; do sleep 0.1; done"))
    _until(ready.exists)

    child.stop(grace=0.2)

    assert child.code == -signal.SIGKILL


def test_ended_child_leaves_no_background_process(tmp_path: Path) -> None:
    """What a finished script left in the background is ended with it, and does not hold the result up."""
    pid = tmp_path / "pid"
    started = time.monotonic()

    result = shell.run(bash(f"sleep 300 & echo $! >{pid}; echo done"), Deadline(60))

    assert (result.stdout, time.monotonic() - started < 10) == ("done\n", True)
    _until(lambda: not _alive(int(pid.read_text())))


def test_cancelling_is_felt_at_once() -> None:
    """A cancelled deadline wakes whoever waits for a child."""
    deadline = Deadline(60)
    threading.Timer(0.1, deadline.cancel, ["SIGINT"]).start()
    started = time.monotonic()

    with pytest.raises(Cancelled, match="SIGINT"):
        shell.run(Command(("sleep", "300")), deadline)

    assert time.monotonic() - started < 15


def test_a_cancel_leaves_little_time_to_a_child_that_ignores_sigterm() -> None:
    """What comes after a signal must not wait for it."""
    deadline = Deadline(60)
    cancelled: list[float] = []

    def cancel(*_: str) -> None:
        cancelled.append(time.monotonic())
        deadline.cancel("SIGINT")

    with pytest.raises(Cancelled):
        shell.run(bash("trap '' TERM; echo ready; while :; do sleep 0.1; done"), deadline, cancel)

    assert time.monotonic() - cancelled[0] < shell.GRACE_SECONDS


def test_background_child_streams_and_tells_its_end() -> None:
    """A background child hands on its lines while it lives, and calls back when it ends."""
    first = threading.Event()
    ended = threading.Event()

    child = shell.start(bash("echo up; read -r _ || true"), lambda *_: first.set(), ended.set)

    assert first.wait(30)
    assert ended.wait(30)
    _until(lambda: child.exited)
    assert (child.code, child in shell.alive()) == (0, False)


def test_of_a_child_that_lives_on_little_is_kept() -> None:
    """Each line is handed on, but a forward of hours does not remember every connection."""
    ended, lines = threading.Event(), []
    child = shell.start(bash("seq 100000; echo last >&2; exit 3"), lambda _, line: lines.append(line), ended.set)
    assert ended.wait(30)

    result = child.result()
    assert len(lines) == 100_001
    assert len(result.stdout) < 300_000
    assert "\n100000\n" in result.stdout
    assert (result.stderr, result.code) == ("last\n", 3)


def test_many_children_leak_nothing() -> None:
    """Two hundred children later there are as many descriptors and threads as before."""
    shell.run(Command(("true",)), Deadline(30))
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(200):
        shell.run(Command(("true",)), Deadline(30))

    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert shell.alive() == ()


def test_too_few_descriptors_is_a_sentence_and_leaks_none() -> None:
    """With any number of them, a child starts, or it is said why not and nothing stays open."""
    shell.run(bash("true"), Deadline(30))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = _descriptors()
    outcomes: set[str | int] = set()
    filled = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[-1] + 1, limits[1]))
        with suppress(OSError):
            while True:
                filled.append(os.dup(0))
        for spare in range(2, 60, 3):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before[-1] + 1 + spare, limits[1]))
            try:
                outcomes.add(shell.run(bash("exit 3"), Deadline(30)).code)
            except CannotStart as error:
                outcomes.add(error.message)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in filled:
            os.close(descriptor)

    assert outcomes == {3, "bash cannot be started: Too many open files"}
    assert _descriptors() == before


def _descriptors() -> list[int]:
    return sorted(int(path.name) for path in Path("/dev/fd").iterdir())


def test_stopping_twice_is_harmless() -> None:
    """A child that was stopped can be stopped again."""
    child = shell.start(Command(("sleep", "300")))

    child.stop()
    child.stop()

    assert child.code == -signal.SIGTERM


def test_signal_death_is_a_negative_code() -> None:
    """A child that a signal ended answers the signal's number, negative."""
    assert shell.run(bash("kill -USR1 $$"), Deadline(30)).code == -signal.SIGUSR1


def _alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _until(condition: object) -> None:
    """Wait for something that another process does; fails after 30 s."""
    deadline = Deadline(30)
    while not condition():  # type: ignore[operator]
        deadline.pause(0.01)


# -- the environment of children --------------------------------------------------------------------------------------


def test_proxies_are_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy is set, what is for a forwarded port does not go there; what was excepted before still is."""
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert "NO_PROXY" not in shell.environment({})
    monkeypatch.setenv("NO_PROXY", "example.com,localhost")
    env = shell.environment({"https_proxy": "http://proxy:3128", "GONE": None})

    assert env["NO_PROXY"] == env["no_proxy"] == "example.com,localhost,127.0.0.1,::1"


def test_programs_in_relative_folders_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubectl beside the workflow is not the user's kubectl."""
    (tmp_path / "kubectl").write_text("#!/bin/sh\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.chdir(tmp_path)

    for path in (".", "", f".{os.pathsep}relative", os.pathsep):
        assert shell.find("kubectl", {"PATH": path}) is None
    assert shell.find("kubectl", {"PATH": f".{os.pathsep}{tmp_path}"}) == str(tmp_path / "kubectl")


def test_nul_characters() -> None:
    """No argument and no variable can have one; that is a message and no traceback."""
    for command in (Command(("true", "a\0b")), Command(("true",), env={"A": "\0"})):
        with Deadline(10) as deadline, pytest.raises(CannotStart, match="NUL character"):
            shell.run(command, deadline)


def test_line_without_an_end() -> None:
    """Of a line that is longer than a megabyte its beginning is handed on, once; half a secret is not in it."""
    lines: list[str] = []
    masking.hide(["the-secret-value"])
    script = (
        "head -c 65528 /dev/zero | tr '\\0' x; printf the-secret-value; "
        "head -c 3000000 /dev/zero | tr '\\0' y; echo; echo b"
    )
    with Deadline(30) as deadline:
        result = shell.run(Command(("bash", "-c", script)), deadline, lambda _, line: lines.append(line))

    assert [line[-60:] for line in lines] == [f"{'x' * 18}***yyyyy… (this line is longer than 1 MiB)", "b"]
    assert len(result.stdout) == 65528 + 16 + 3000000 + 3


def test_dropped_output_ends_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of too much output begins with a whole line."""
    monkeypatch.setattr(shell, "KEEP_BYTES", 100_000)
    with Deadline(30) as deadline:
        result = shell.run(Command(("bash", "-c", "for ((i = 100000; i < 150000; i++)); do echo $i; done")), deadline)
    note, *lines = result.stdout.splitlines()

    assert note.endswith("bytes of older output dropped")
    assert {len(line) for line in lines} == {6}
    assert lines[-1] == "149999"


def test_builders_clear_away_after_what_they_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these the leaves are ended, and they themselves only when they do not end by that."""
    monkeypatch.setattr(process_table, "_HELPER_SECONDS", 0.2)
    said: list[str] = []
    script = "trap '' TERM; sleep 300; echo cleared"
    with pytest.raises(TimedOut), Deadline(0.5) as deadline:
        shell.run(Command(("bash", "-c", script), leaves_first=True), deadline, lambda _, line: said.append(line))
    assert "cleared" in said  # and what bash says of the leaf, sooner or later

    began = time.monotonic()
    busy = "trap '' TERM; echo begun; while :; do :; done"
    with pytest.raises(TimedOut), Deadline(0.5) as deadline:
        shell.run(Command(("bash", "-c", busy), leaves_first=True), deadline)
    assert time.monotonic() - began < 10


def test_after_a_signal_builders_clear_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for that before the end."""
    monkeypatch.setattr(process_table, "_HELPER_SECONDS", 0.2)
    os.mkfifo(tmp_path / "go")
    said: list[str] = []
    script = "trap '' TERM; echo begun; sleep 300; read <go; echo late; : >cleared"
    deadline = Deadline()

    def on_line(_: str, line: str) -> None:
        said.append(line)
        deadline.cancel("SIGTERM")

    with pytest.raises(Cancelled):
        shell.run(Command(("bash", "-c", script), cwd=tmp_path, leaves_first=True), deadline, on_line)
    (child,) = (child for child in shell.alive() if child.ending)
    with (tmp_path / "go").open("r+b", buffering=0) as go:  # nobody need read it
        go.write(b"\n")
        child.await_end(Deadline())

    assert (child.code, said) == (0, ["begun"])
    assert (tmp_path / "cleared").exists()
