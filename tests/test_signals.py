"""Signals of a real process: the first two are handed over, the third one leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO

import pytest

from runner.signals import SIGNALS, Signals

# Prints what it is told, one line each; ends when its standard input does.
CHILD = """
import sys, threading
from runner.signals import Signals

def say(text):
    print(text, flush=True)

def on_signal(number, name):
    say(f"{number} {name} {threading.current_thread().name}")

with Signals(on_signal, lambda: say("third")):
    say("ready")
    BODY
say("left")
"""
WAITING = "sys.stdin.read()"
BLOCKED = "lock = threading.Lock(); lock.acquire(); lock.acquire()"
BUSY = "while not sys.stdin.closed: sum(range(1000))"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that waits in BODY; it is ended afterwards."""
    children: list[subprocess.Popen[str]] = []

    def start(body: str = WAITING) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", CHILD.replace("BODY", body)]
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        children.append(child)
        assert line(child) == "ready"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    stdout: IO[str] | None = child.stdout
    assert stdout is not None
    return stdout.readline().rstrip("\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_first_signal_is_handed_over(start: Start, number: signal.Signals) -> None:
    """In a thread of its own, with its number and name; the program goes on and ends by itself."""
    child = start()
    child.send_signal(number)

    assert line(child) == f"{number.value} {number.name} signals"
    out, err = child.communicate("", timeout=30)
    assert (out, err, child.returncode) == ("left\n", "", 0)


@pytest.mark.parametrize("body", [WAITING, BLOCKED, BUSY], ids=["read", "lock", "loop"])
def test_signal_reaches_whatever_the_main_thread_does(start: Start, body: str) -> None:
    """Also one that is blocked in a lock, and one that computes; no KeyboardInterrupt is raised in it."""
    child = start(body)
    child.send_signal(signal.SIGINT)

    assert line(child) == "2 SIGINT signals"
    assert child.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_third_signal_leaves_at_once(start: Start, number: signal.Signals) -> None:
    """Two are handed over; the third one is told and ends the process with 128 + its number, whatever it waits for."""
    child = start(BLOCKED)
    for _ in range(2):
        child.send_signal(number)
        assert line(child) == f"{number.value} {number.name} signals"
    child.send_signal(number)

    out, err = child.communicate(timeout=30)
    assert (out, err, child.returncode) == ("third\n", "", 128 + number)


def test_nohup_has_the_last_word(start: Start) -> None:
    """A hang-up that was ignored at the start stays ignored."""
    child = start(
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n    with Signals(on_signal, lambda: None):\n"
        "        say('inner'); sys.stdin.read()"
    )
    assert line(child) == "inner"
    child.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGINT)

    assert line(child) == "2 SIGINT signals"


def test_different_signals_count_together(start: Start) -> None:
    """Ctrl-C, then a closed terminal, then a CI system's SIGTERM."""
    child = start()
    child.send_signal(signal.SIGINT)
    assert line(child) == "2 SIGINT signals"
    child.send_signal(signal.SIGHUP)
    assert line(child) == "1 SIGHUP signals"
    child.send_signal(signal.SIGTERM)

    assert child.wait(30) == 143


def test_other_signals_are_none_of_ours(start: Start) -> None:
    """A handler that somebody else installed wakes the same pipe, and is not taken for one of ours."""
    child = start("import signal; signal.signal(signal.SIGUSR1, lambda *_: say('other')); say('set'); sys.stdin.read()")
    assert line(child) == "set"
    for _ in range(3):
        child.send_signal(signal.SIGUSR1)
        assert line(child) == "other"
    child.send_signal(signal.SIGINT)

    assert line(child) == "2 SIGINT signals"


def test_handlers_are_put_back() -> None:
    """After the block signals are what they were before, also when it is left by an exception."""
    before = [signal.getsignal(number) for number in SIGNALS]
    during = []
    with suppress(ZeroDivisionError), Signals(lambda *_: None, lambda: None):
        during = [signal.getsignal(number) for number in SIGNALS]
        raise ZeroDivisionError

    assert not {*during} & {*before}
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_it_can_be_entered_again_and_leaves_no_file_open() -> None:
    """As tests and programs that embed us do."""
    count = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH208, PTH112
    for _ in range(3):
        with Signals(lambda *_: None, lambda: None):
            pass
    after = len(os.listdir("/proc/self/fd")) if count else 0  # noqa: PTH208

    assert after == count
