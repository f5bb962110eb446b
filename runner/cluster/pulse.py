"""Notices that an API server went silent: a watch in which nothing happens looks the same as one that is dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from runner.cluster.http import ApiError, Unreachable
from runner.deadline import Deadline
from runner.errors import RunnerError

EVERY_SECONDS: Final = 3.0
OVERDUE_SECONDS: Final = 150.0
"""API servers send each watch a bookmark about once a minute; one that is silent for longer is opened again."""


class Ear:
    """One watch: when it heard something last, and the deadline that ends it."""

    def __init__(self, life: Deadline) -> None:
        self.life = life
        self.heard = time.monotonic()

    def hears(self) -> None:
        self.heard = time.monotonic()


class Pulse:
    """While watches are open and all are silent: asks every three seconds whether the server is there, in one request
    for all of them, and ends the watches when it is not.
    """

    def __init__(self, probe: Callable[[Deadline], object], every: float = EVERY_SECONDS) -> None:
        self._probe = probe
        self._every = every
        self._lock = threading.Lock()
        self._ears: set[Ear] = set()
        self._thread: threading.Thread | None = None
        self._closed = Deadline()

    @contextmanager
    def listening(self, deadline: Deadline) -> Iterator[Ear]:
        """While a watch is open. Its `life` is cancelled, with the reason, when the watch should be given up."""
        with deadline.child() as life:
            ear = Ear(life)
            with self._lock:
                self._ears.add(ear)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
                    self._thread.start()
            try:
                yield ear
            finally:
                with self._lock:
                    self._ears.discard(ear)

    def close(self) -> None:
        """End the thread; harmless twice."""
        self._closed.cancel("the cluster was closed")

    def _beat(self) -> None:
        while True:
            try:
                self._closed.pause(self._every)
            except RunnerError:
                return
            with self._lock:
                ears = tuple(self._ears)
                if not ears:
                    self._thread = None
                    return
            now = time.monotonic()
            for ear in ears:
                if now - ear.heard > OVERDUE_SECONDS:
                    ear.life.cancel(f"nothing was heard for {OVERDUE_SECONDS:g} s")
            if now - max(ear.heard for ear in ears) >= self._every and (why := self._silence()):
                for ear in ears:
                    ear.life.cancel(why)

    def _silence(self) -> str:
        """Why the server is not there; empty when it answers, whatever the answer is."""
        with Deadline(self._every, self._closed) as deadline:
            try:
                self._probe(deadline)
            except ApiError as error:
                return error.message if error.of_gateway or error.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
            except RunnerError as error:
                return error.message if isinstance(error, Unreachable) else f"no answer within {self._every:g} s"
        return ""
