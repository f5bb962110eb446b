"""SIGINT, SIGTERM and SIGHUP, taken by a thread: the interpreter's handlers do nothing, so nothing can deadlock."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Self

LONGEST = 0.5
_NOHUP = (signal.SIGHUP, signal.SIG_IGN)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """While this is entered, signals call `on_signal(number, name)` in a thread of its own; the third one leaves."""

    def __init__(self, on_signal: Callable[[int, str], None], on_third: Callable[[], None]) -> None:
        self._on_signal = on_signal
        self._on_third = on_third
        self._count = 0

    def __enter__(self) -> Self:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._old_wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        # nohup has the last word about SIGHUP.
        taken = [number for number in SIGNALS if (number, signal.getsignal(number)) != _NOHUP]
        self._old = {number: signal.signal(number, lambda *_: None) for number in taken}
        self._thread = threading.Thread(target=self._listen, name="signal listener", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Who was told to end does so by itself now; another signal would only spoil the last words and the exit code.
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_IGN if self._count else handler)
        signal.set_wakeup_fd(self._old_wakeup)
        self._write.close()
        self._thread.join()
        self._read.close()

    def _listen(self) -> None:
        while numbers := self._read.recv(16):
            for number in numbers:
                if number in SIGNALS:
                    self._take(number)

    def _take(self, number: int) -> None:
        self._count += 1
        if self._count >= 3:  # noqa: PLR2004 - the third signal
            _within(LONGEST, self._on_third)
            os._exit(128 + number)
        _within(LONGEST, lambda: self._on_signal(number, signal.Signals(number).name))


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Do it, but go on after some time when it blocks, as writing to a pipe does that nobody reads."""
    thread = threading.Thread(target=action, name="signals", daemon=True)
    thread.start()
    thread.join(seconds)
