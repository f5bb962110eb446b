"""How the time of a workflow is shared out. `begun` lies in the past, so that no test has to wait."""

from __future__ import annotations

import time

import pytest

from runner.invocation import Budget


def after(seconds: float, total: float) -> Budget:
    """The budget of a workflow that began so many seconds ago."""
    return Budget(total, time.monotonic() - seconds)


@pytest.mark.parametrize(("total", "for_steps"), [(900, 840), (300, 240), (100, 80), (10, 8), (0.5, 0.4)])
def test_a_part_is_kept(total: float, for_steps: float) -> None:
    """A fifth, and 60 s at most, is not for the steps."""
    assert Budget(total).for_steps == for_steps


@pytest.mark.parametrize(
    ("spent", "total", "for_finally", "for_cleanup"),
    [
        (840, 900, 30, 60),  # the deadline of the steps: `finally` leaves half of the rest to the cleanup
        (870, 900, 5, 30),
        (10, 900, 120, 120),
        (950, 900, 5, 5),
        (8, 10, 5, 5),
    ],
)
def test_what_is_left(spent: float, total: float, for_finally: float, for_cleanup: float) -> None:
    """What the steps did not use is added, up to a limit; both always have 5 s."""
    budget = after(spent, total)

    assert (budget.for_finally(), budget.for_cleanup()) == pytest.approx((for_finally, for_cleanup), abs=0.1)


def test_a_cleanup_hurries_when_time_is_short() -> None:
    """With less than the 32 s that a Pod may take, and then some."""
    assert [after(spent, 900).short for spent in (0, 840, 855, 865, 1000)] == [False, False, False, True, True]
