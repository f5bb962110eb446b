"""Deadlines: time, cancellation, and the way from parent to child."""

from __future__ import annotations

import threading
import time

import pytest

from runner.deadline import Deadline
from runner.errors import Cancelled, TimedOut


def test_child_ends_with_its_parent() -> None:
    """A child deadline never lasts longer than its parent, however much time it was given."""
    parent = Deadline(0.0)

    assert parent.child(60).expired


def test_cancelling_reaches_children_and_callbacks_once() -> None:
    """A cancelled parent cancels its children with its reason; each callback is called once."""
    calls: list[str] = []
    parent = Deadline(60)
    child = parent.child(60)
    child.on_cancel(lambda: calls.append("woken"))

    parent.cancel("SIGINT")
    parent.cancel("SIGTERM")

    assert (child.reason, calls) == ("SIGINT", ["woken"])


def test_callback_of_a_cancelled_deadline_runs_at_once() -> None:
    """Subscribing too late is not missed."""
    calls: list[str] = []
    deadline = Deadline()
    deadline.cancel("over")

    deadline.on_cancel(lambda: calls.append("now"))

    assert calls == ["now"]


def test_callback_can_be_taken_back() -> None:
    """What `on_cancel` answers unsubscribes."""
    calls: list[str] = []
    deadline = Deadline()
    with deadline.closing(lambda: calls.append("called")):
        pass

    deadline.cancel("over")

    assert calls == []


def test_check_tells_cancelled_from_timed_out() -> None:
    """The two ways to end are two exceptions."""
    cancelled = Deadline(60)
    cancelled.cancel("SIGTERM")

    with pytest.raises(Cancelled, match="SIGTERM"):
        cancelled.check()
    with pytest.raises(TimedOut, match="timed out after 0 s"):
        Deadline(0).check()


def test_pause_ends_when_cancelled() -> None:
    """A pause of a minute ends as soon as the deadline is cancelled."""
    deadline = Deadline(60)
    threading.Timer(0.05, deadline.cancel, ["SIGINT"]).start()
    started = time.monotonic()

    with pytest.raises(Cancelled):
        deadline.pause(60)

    assert time.monotonic() - started < 15


def test_leaving_a_child_forgets_it() -> None:
    """A parent does not keep the callbacks of children that ended."""
    parent = Deadline(60)
    with parent.child(1):
        pass

    assert parent._callbacks == {}


@pytest.mark.parametrize(("seconds", "expected"), [(None, None), (0.0, 0.001)])
def test_socket_timeout_never_polls(seconds: float | None, expected: float | None) -> None:
    """No limit is None, and no time left is a millisecond rather than 0, which would mean non-blocking."""
    assert Deadline(seconds).socket_timeout() == expected
