"""Asking all the time while something else goes on, and what came of it: how many asks failed, the longest gap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec

from runner.errors import Cancelled, Expired, StepFailed
from runner.steps.expecting import Try

if TYPE_CHECKING:
    from runner.deadline import Deadline

PAUSE: Final = 0.05
"""Seconds between an answer and the next ask."""


class Record(msgspec.Struct, frozen=True):
    """What came of it. `gap` is the longest time in seconds without a good answer, `gap_began` its start; `good` is
    the last answer as expected, `worst` the first ask that failed, `reasons` how often each of the reasons came.
    """

    asks: int
    failures: int
    seconds: float
    gap: float
    gap_began: datetime
    good: Try | None
    worst: Try | None
    reasons: Mapping[str, int]

    def __str__(self) -> str:
        failed = f"{self.failures} of them failed" if self.failures else "all as expected"
        began = f", from {self.gap_began:%H:%M:%S}.{self.gap_began.microsecond // 1000:03}" if self.failures else ""
        return (
            f"asked {self.asks} times in {self.seconds:.1f} s, {failed};"
            f" {self.gap:.2f} s without a good answer at the longest{began}"
        )


class Asker:
    """Asks in a thread of its own from its creation until `stop`; ends with its `with` block in any case.

    `ask` asks once; what it raises as `StepFailed` counts as a failure as well.
    """

    def __init__(self, ask: Callable[[Deadline], Try], limit: Deadline, most: int) -> None:
        self._ask = ask
        self._life = limit.child()
        self._most = most
        self._stopping = threading.Event()
        self._enough = threading.Event()
        self._bug: Exception | None = None
        self._asks = self._failures = 0
        self._began = self._good = time.monotonic()
        self._gap, self._gap_began = 0.0, self._began
        self._last: Try | None = None
        self._good_try: Try | None = None
        self._worst: Try | None = None
        self._reasons: dict[str, int] = {}
        self._thread = threading.Thread(target=self._work, name="asking", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._life.cancel("nobody listens any more")
        self._thread.join()
        self._life.__exit__()

    def wait(self, seconds: float) -> None:
        """Return after this time, or as soon as too many asks failed. Raises the limit's exceptions."""
        with self._life.closing(self._enough.set):
            self._enough.wait(self._life.remaining(seconds))
        self._life.check()

    def stop(self) -> Record:
        """Ask a last time, and answer what came of it all."""
        self._stopping.set()
        self._thread.join()
        if self._bug:
            raise self._bug
        now = time.monotonic()
        if self._last and self._last.wrong:
            self._note_gap(now)
        return Record(
            asks=self._asks,
            failures=self._failures,
            seconds=now - self._began,
            gap=self._gap,
            gap_began=datetime.fromtimestamp(time.time() - (now - self._gap_began)).astimezone(),
            good=self._good_try,
            worst=self._worst,
            reasons=self._reasons,
        )

    def _work(self) -> None:
        try:
            last = False
            while not last:
                last = self._stopping.is_set()
                self._keep(self._once())
                self._stopping.wait(PAUSE)
        except (Cancelled, Expired):
            pass
        except Exception as error:  # noqa: BLE001 - raised again by `stop`, in the thread of the step
            self._bug = error
            self._enough.set()

    def _once(self) -> Try:
        try:
            return self._ask(self._life)
        except Expired:
            raise
        except StepFailed as error:
            return Try((error.message,))

    def _keep(self, tried: Try) -> None:
        self._asks += 1
        self._last = tried
        if not tried.wrong:
            now = time.monotonic()
            self._note_gap(now)
            self._good, self._good_try = now, tried
            return
        self._failures += 1
        self._worst = self._worst or tried
        reason = tried.wrong[0].partition("\n")[0]
        self._reasons[reason] = self._reasons.get(reason, 0) + 1
        if self._failures > self._most:
            self._enough.set()

    def _note_gap(self, now: float) -> None:
        if now - self._good > self._gap:
            self._gap, self._gap_began = now - self._good, self._good
