"""Many watches in one place: each in a thread of its own, all of them waking the one who waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Self

from runner.deadline import Deadline
from runner.errors import Cancelled, RunnerError, TimedOut

if TYPE_CHECKING:
    from runner.cluster.protocol import Object

Watch = Callable[[Deadline], Iterator[list["Object"]]]


class Vigil:
    """The newest state of everything that is followed, until the `with` block ends."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._own = deadline.child()
        self._changed = threading.Condition()
        self._news = False
        self._threads: dict[Hashable, threading.Thread] = {}
        self._found: dict[Hashable, Sequence[Object]] = {}
        self._lost: dict[Hashable, RunnerError | None] = {}
        self._error: RunnerError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._own.cancel("the wait ended")
        for thread in self._threads.values():
            thread.join()

    def follow(self, key: Hashable, watch: Watch, *, needed: bool = True) -> None:
        """Watch from now on, once for each key. When the watch of something that is `needed` fails, `pause` raises
        that; other keys are `lost` then.
        """
        if key not in self._threads:
            thread = threading.Thread(target=self._watch, args=(key, watch, needed), name=f"watch {key}", daemon=True)
            self._threads[key] = thread
            thread.start()

    def seen(self, key: Hashable) -> Sequence[Object] | None:
        """The objects as they are now; None when the first answer is still awaited, or will not come."""
        return self._found.get(key)

    def awaited(self, key: Hashable) -> bool:
        """Whether the first answer may still come."""
        return key not in self._found and key not in self._lost

    def lost(self, key: Hashable) -> RunnerError | None:
        """Why nothing is seen of something that is not `needed`; None where it is, or may yet be."""
        return self._lost.get(key)

    def pause(self, seconds: float) -> None:
        """Return at the next change, or after so many seconds; raises the deadline's exceptions."""
        with self._deadline.closing(self._wake), self._changed:
            until = time.monotonic() + self._deadline.remaining(seconds)
            while not (self._news or self._error or self._deadline.cancelled):
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self._news = False
        if self._error:
            raise self._error
        self._deadline.check()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _watch(self, key: Hashable, watch: Watch, needed: bool) -> None:
        error: RunnerError | None = None
        try:
            for objects in watch(self._own):
                with self._changed:
                    self._found[key] = objects
                    self._news = True
                    self._changed.notify_all()
        except (Cancelled, TimedOut):
            return  # whoever waits knows
        except RunnerError as raised:
            error = raised
        except BaseException as bug:
            error = RunnerError(f"the watch of {key} broke: {type(bug).__name__}: {bug}")
            raise
        finally:
            with self._changed:
                self._lost[key] = error
                self._error = self._error or (error if needed else None)
                self._news = True
                self._changed.notify_all()
