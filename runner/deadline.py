"""When to stop: the one object that goes down from the engine to whatever blocks.

A `Deadline` ends at a moment in time, or when it is cancelled, whichever comes first; a child ends with its parent.
Whoever blocks subscribes with `on_cancel` (close the socket, wake the selector), so that a signal is felt at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from runner.errors import Cancelled, Expired

FOREVER = float("inf")


class Deadline:
    """A moment after which work is pointless. `seconds` counts from now; None means as long as the parent lasts."""

    def __init__(self, seconds: float | None = None, parent: Deadline | None = None) -> None:
        own = FOREVER if seconds is None else time.monotonic() + seconds
        self.seconds: float | None = parent.seconds if parent and parent.moment <= own else seconds
        self.moment: float = min(own, parent.moment) if parent else own
        self._lock = threading.RLock()
        self._reason: str | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._release: Callable[[], None] = lambda: None
        if parent:
            self._release = parent.on_cancel(lambda: self.cancel(parent.reason or "cancelled"))

    def child(self, seconds: float | None = None) -> Deadline:
        """A deadline for a part of the work: its own limit, and this one's."""
        return Deadline(seconds, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    @property
    def reason(self) -> str | None:
        """Why it was cancelled, or None."""
        return self._reason

    @property
    def cancelled(self) -> bool:
        return self._reason is not None

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.moment

    @property
    def ended(self) -> bool:
        return self.cancelled or self.expired

    def remaining(self, at_most: float = FOREVER) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, min(at_most, self.moment - time.monotonic()))

    def socket_timeout(self) -> float | None:
        """`remaining` in the form that sockets and selectors take: None for no limit, never 0 (which means poll)."""
        left = self.remaining()
        return None if left == FOREVER else max(left, 0.001)

    def cancel(self, reason: str) -> None:
        """End it now. Callbacks run in the caller's thread, once; the first reason stays."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def cancel_later(self, seconds: float, reason: str) -> None:
        """`cancel` after so many seconds; meanwhile somebody else may."""
        timer = threading.Timer(seconds, self.cancel, (reason,))
        timer.daemon = True
        timer.start()

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when this is cancelled (at once if it already is); the answer takes the call back."""
        with self._lock:
            if self._reason is None:
                key = id(callback)
                self._callbacks[key] = callback
                return lambda: self._forget(key)
        callback()
        return lambda: None

    @contextmanager
    def closing(self, callback: Callable[[], None]) -> Iterator[None]:
        """`on_cancel` for the length of a with block."""
        release = self.on_cancel(callback)
        try:
            yield
        finally:
            release()

    def _forget(self, key: int) -> None:
        with self._lock:
            self._callbacks.pop(key, None)

    def check(self) -> None:
        """Raise `Cancelled` or `TimedOut` when there is no time left."""
        if self._reason is not None:
            raise Cancelled(self._reason)
        if self.expired:
            raise Expired(f"timed out after {self.seconds or 0:g} s", reason="timeout")

    def pause(self, seconds: float) -> None:
        """Wait before the next attempt; ends early, by `check`'s exceptions, when there is no time left."""
        woken = threading.Event()
        with self.closing(woken.set):
            woken.wait(self.remaining(seconds))
        self.check()
