"""The tree of scopes: a part of a run, what its steps came to, and what must end when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from runner.steps.kind import Forwarded

if TYPE_CHECKING:
    from runner.cluster.protocol import Selection
    from runner.result import StepResult


class Scope:
    """A list of steps while it runs, which ends what it began: that of the workflow, or one inside of a step."""

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.failed: StepResult | None = None
        """The first step that failed here and was not tolerated."""
        self._closers: list[Callable[[], None]] = []
        self._bound: dict[tuple[str, int], Forwarded] = {}
        self._lock = threading.Lock()

    def close_later(self, close: Callable[[], None]) -> None:
        with self._lock:
            self._closers.append(close)

    def bind(self, host: str, port: int, target: Selection, target_port: str) -> None:
        with self._lock:
            self._bound[_name(host), port] = Forwarded(host, target, target_port)

    def forwarded(self, host: str, port: int) -> Forwarded | None:
        """The forward that listens there, of this scope or one around it."""
        found = self._bound.get((_name(host), port))
        return found or (self.parent.forwarded(host, port) if self.parent else None)

    def forwards(self) -> dict[int, Forwarded]:
        """All of this scope and those around it, by their local ports."""
        with self._lock:
            own = {port: forward for (_, port), forward in self._bound.items()}
        return {**(self.parent.forwards() if self.parent else {}), **own}

    def close(self) -> None:
        """End everything, newest first."""
        while self._closers:
            self._closers.pop()()
        self._bound.clear()


def _name(host: str) -> str:
    """Addresses of this machine go by one name."""
    return "localhost" if host in ("127.0.0.1", "::1") else host
