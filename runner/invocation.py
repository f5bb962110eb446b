"""One invocation: what its workflows share, and how its time is shared out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runner.cluster.images import find_builder
from runner.deadline import Deadline
from runner.journal import Journal

if TYPE_CHECKING:
    from runner.cluster.images import Builder
    from runner.cluster.protocol import Cluster
    from runner.events import Events

# From the first signal to the end of the process. CI systems kill 10 s after their first signal.
SIGNAL_BUDGET: Final = 7.0
SIGNAL_FINALLY: Final = 1.2
"""From the first signal to the end of `finally`, so that the first deletion is asked for within 2 s: some CI systems
kill soon after that. What collects logs of objects comes before their deletion, so it has to be quick.
"""
# Longer than the next workflows' and the watchdog's patience can take after a workflow's own time.
AFTERMATH: Final = 1200.0
_SIGNALLED: Final = "its time after a signal is over"
_RESERVE: Final = 60.0
_FINALLY: Final = 120.0
_CLEANUP: Final = 120.0
_LEAST: Final = 5.0
"""`finally` and the cleanup have so long each, even where the timeout of the workflow is shorter than that."""
_CALM: Final = 40.0
"""A Pod that ignores SIGTERM takes 32 s by default: with less time than this, Pods get a grace of 1 s."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The time of one workflow, in seconds. Its last fifth (60 s at most) is kept for `finally` and the cleanup; they
    have more when the steps took less.
    """

    total: float
    begun: float = field(default_factory=time.monotonic)

    @property
    def reserve(self) -> float:
        return min(_RESERVE, self.total / 5)

    @property
    def for_steps(self) -> float:
        return self.total - self.reserve

    def for_finally(self) -> float:
        """From now on; half of the reserve stays for the cleanup."""
        return min(_FINALLY, max(_LEAST, self._left() - self.reserve / 2))

    def for_cleanup(self) -> float:
        """From now on."""
        return min(_CLEANUP, max(_LEAST, self._left()))

    @property
    def short(self) -> bool:
        """Whether the cleanup has to hurry."""
        return self.for_cleanup() < _CALM

    def _left(self) -> float:
        return self.begun + self.total - time.monotonic()


@dataclass
class Run:
    """One invocation: what its workflows share."""

    id: str
    folder: Path
    events: Events
    journal: Journal
    cluster: Cluster | None = None
    keep: str = ""
    """Overrides the workflow's `keep` when set."""
    namespace: str = ""
    """Overrides the workflow's namespace when set."""
    timeout: float | None = None
    """Overrides the workflow's timeout when set."""
    budget: Budget = field(default_factory=lambda: Budget(900.0))
    """The time of the workflow that runs, or ran last."""
    more: bool = False
    """Another workflow follows: namespaces may end meanwhile."""
    builder: Callable[[str], Builder] = find_builder
    """Finds the image builder of this machine; commands give one that remembers."""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    """Of the undo records; no two of a run have the same."""
    signal: int = 0
    signalled_at: float = 0.0
    work: Deadline = field(default_factory=Deadline)
    """Steps run under this; the first signal cancels it."""
    cleanup: Deadline = field(default_factory=Deadline)
    """Cleanup waits under this; the second signal cancels it."""

    def interrupt(self, number: int, name: str) -> None:
        """Take a signal: the first ends the steps, the second the waiting of the cleanup. Any thread."""
        # First the deed, then the word: a log that nobody reads may block.
        if not self.signal:
            self.signal, self.signalled_at = number, time.monotonic()
            self.work.cancel(name)
            budget = f"ending the step and cleaning up for up to {SIGNAL_BUDGET:g} s; again: do not wait"
            self.events.emit("interrupted", signal=name, message=budget)
        else:
            self.cleanup.cancel(name)
            self.events.emit("interrupted", signal=name, message="not waiting for deletions; again: leave at once")

    def hasten(self, cleanup: Deadline) -> None:
        """After a signal: a cleanup has no more than what is left of its budget."""
        cleanup.cancel_later(self.left_after_signal(), _SIGNALLED)

    def hasten_finally(self, reserve: Deadline) -> None:
        reserve.cancel_later(max(0.0, self.signalled_at + SIGNAL_FINALLY - time.monotonic()), _SIGNALLED)

    def left_after_signal(self, least: float = 1.0) -> float:
        return max(least, self.signalled_at + SIGNAL_BUDGET - time.monotonic())
