"""How long a kubectl command is tried again, and what is said when its time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runner.cluster.insistence import Insistence
from runner.deadline import Deadline
from runner.errors import CommandResult, Expired, StepFailed, TimedOut

if TYPE_CHECKING:
    from tests.runner_cluster.conftest import FakeHand


def complaint(stderr: str) -> StepFailed:
    return StepFailed("kubectl failed", result=CommandResult(("kubectl", "apply"), 1, "", stderr, 0.1))


def test_kubectl_that_does_not_end(hand: FakeHand) -> None:
    """The time is over while it runs, and it said nothing so far."""
    with pytest.raises(TimedOut) as caught:
        Insistence(hand).after(Expired("timed out after 7 s", reason="timeout"))
    assert caught.value.message == "timed out after 7 s: kubectl had not ended"
    assert "webhook" in caught.value.hint


def test_time_that_is_over_before_it_heals(hand: FakeHand) -> None:
    """What stood in the way all the time is the reason."""
    hand.deadline = Deadline(0.01)  # shorter than the first pause
    with pytest.raises(TimedOut) as caught:
        Insistence(hand).after(complaint("Error from server (TooManyRequests): later"))
    assert caught.value.message.startswith("timed out after 0.01 s: ")
    assert caught.value.result is not None


def test_what_nobody_can_explain_is_not_repeated(hand: FakeHand) -> None:
    with pytest.raises(StepFailed, match="kubectl failed"):
        Insistence(hand).after(complaint("error: something new"))
