"""Many watches in one place: what wakes the one who waits, and that nothing is left when the wait ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from runner.cluster.vigil import Vigil
from runner.deadline import Deadline
from runner.errors import Cancelled, Expired, StepFailed

Objects = list[dict[str, Any]]


def forever(*states: Objects) -> Any:
    """A watch that shows these and is silent then, until its deadline ends."""

    def watch(deadline: Deadline) -> Iterator[Objects]:
        yield from states
        ended = threading.Event()
        with deadline.closing(ended.set):
            ended.wait(20)
        deadline.check()

    return watch


def broken(error: Exception) -> Any:
    def watch(deadline: Deadline) -> Iterator[Objects]:
        yield []
        raise error

    return watch


def test_a_change_wakes() -> None:
    """The newest state of each watch; a key that is followed again is not watched again."""
    before = threading.active_count()
    with Vigil(Deadline(20)) as vigil:
        first = vigil.awaited("a")
        assert first
        vigil.follow("a", forever([], [{"x": 1}]))
        vigil.follow("a", forever([{"x": 2}]))
        while vigil.seen("a") != [{"x": 1}]:
            vigil.pause(20)
        assert not vigil.awaited("a")
        assert vigil.seen("b") is None
    assert threading.active_count() == before


def test_time_wakes() -> None:
    """At most so long, at the deadline with its exception, when it is cancelled at once."""
    with Vigil(Deadline(20)) as vigil:
        vigil.pause(0.01)
    with Vigil(Deadline(0.01)) as vigil, pytest.raises(Expired):
        vigil.pause(20)
    deadline = Deadline(20)
    threading.Timer(0.05, deadline.cancel, ("SIGINT",)).start()
    with Vigil(deadline) as vigil, pytest.raises(Cancelled):
        vigil.pause(20)


def test_watch_that_is_needed_ends_the_wait() -> None:
    """With its own words; one that is only helpful is lost, and no longer awaited."""
    with Vigil(Deadline(20)) as vigil:
        vigil.follow("events", broken(StepFailed("forbidden")), needed=False)
        while "events" not in vigil._lost:
            vigil.pause(20)
        vigil.pause(0.01)
        vigil.follow("pods", broken(StepFailed("no such kind")))
        with pytest.raises(StepFailed, match="no such kind"):
            _pause_for_ever(vigil)


def _pause_for_ever(vigil: Vigil) -> None:
    while True:
        vigil.pause(20)


def test_watch_that_never_begins_is_not_awaited() -> None:
    """As on an engine that keeps no events."""
    with Vigil(Deadline(20)) as vigil:
        vigil.follow("events", lambda _: iter(()), needed=False)
        while vigil.awaited("events"):
            vigil.pause(20)
        assert vigil.seen("events") is None
