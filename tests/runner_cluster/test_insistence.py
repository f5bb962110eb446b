"""Commands that are tried again: which, for how long, and what is said in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from runner.cluster.insistence import Insistence
from runner.cluster.protocol import Hand
from runner.deadline import Deadline
from runner.errors import Cancelled, CommandResult, Expired, StepFailed, TimedOut

REFUSED = "The connection to the server x was refused - did you specify the right host or port?"
WEBHOOK = 'Error from server (InternalError): failed calling webhook "check.example.test": EOF'
IMMUTABLE = 'The Deployment "web" is invalid: spec.selector: Invalid value: {}: field is immutable'
QUOTA = 'pods "a" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1'


@dataclass
class Step:
    """A hand with a deadline, which notes down the events."""

    deadline: Deadline
    events: list[dict[str, Any]] = field(default_factory=list)

    def emit(self, event: str, /, **fields: Any) -> None:
        self.events.append({"event": event, **fields})


def failed(stderr: str) -> StepFailed:
    return StepFailed("kubectl failed", result=CommandResult(("kubectl", "apply"), 1, "", stderr, 0.1))


def attempts(step: Step) -> Insistence:
    return Insistence(cast("Hand", step))


@pytest.mark.parametrize(
    ("stderr", "nature", "rule"),
    [(REFUSED, "transient", "ConnectionRefused"), (WEBHOOK, "converging", "WebhookNotServing")],
)
def test_what_heals_is_tried_again(stderr: str, nature: str, rule: str) -> None:
    """After a pause, with the rule that matched in the log."""
    step = Step(Deadline(30))
    attempts(step).after(failed(stderr))

    (event,) = step.events
    assert (event["event"], event["attempt"], event["nature"], event["rule"]) == ("command retried", 1, nature, rule)


def test_what_does_not_fails_at_once() -> None:
    """With a sentence, a hint, and kubectl's own words without noise behind it."""
    step = Step(Deadline(30))
    with pytest.raises(StepFailed) as caught:
        attempts(step).after(failed(f"Warning: old\n{IMMUTABLE}"))

    assert caught.value.message == "deployment/web exists, and its spec.selector cannot be changed"
    assert (caught.value.reason, bool(caught.value.hint)) == ("ImmutableField", True)
    assert caught.value.result
    assert caught.value.result.stderr == f"{IMMUTABLE}\n"
    assert step.events == []


def test_unknown_words_are_shown_as_they_are() -> None:
    """Nothing is made up about them, and nothing is tried again."""
    with pytest.raises(StepFailed, match="kubectl failed"):
        attempts(Step(Deadline(30))).after(failed("something new"))
    with pytest.raises(StepFailed, match="no child"):
        attempts(Step(Deadline(30))).after(StepFailed("no child"))


def test_patience_of_a_rule_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may change within seconds only is believed after them."""
    now = [0.0]
    monkeypatch.setattr("runner.cluster.insistence.time.monotonic", lambda: now[0])
    step = Step(Deadline(3600))
    work = attempts(step)

    work.after(failed(QUOTA))
    now[0] = 3.5
    with pytest.raises(StepFailed) as caught:
        work.after(failed(QUOTA))
    assert caught.value.reason == "QuotaExceeded"
    assert len(step.events) == 1


def test_deadline_tells_what_stood_in_the_way() -> None:
    """Whether it comes in a pause or in the middle of the next command."""
    with pytest.raises(TimedOut) as caught:
        attempts(Step(Deadline(0))).after(failed(WEBHOOK))
    assert caught.value.message == "timed out after 0 s: the admission webhook check.example.test does not answer"
    assert caught.value.reason == "WebhookNotServing"

    work = attempts(Step(Deadline(30)))
    work.after(failed(REFUSED))
    with pytest.raises(TimedOut) as caught:
        work.after(Expired("timed out after 30 s"))
    assert caught.value.message == "timed out after 30 s: the API server does not take connections"


def test_signal_ends_the_pause() -> None:
    """A run that is told to stop does not wait for a webhook."""
    deadline = Deadline(30)
    deadline.cancel("SIGINT")
    with pytest.raises(Cancelled):
        attempts(Step(deadline)).after(failed(WEBHOOK))


def test_kubectl_that_does_not_end() -> None:
    """The time is over while it runs, and it said nothing so far."""
    with pytest.raises(TimedOut) as caught:
        attempts(Step(Deadline(30))).after(Expired("timed out after 7 s", reason="timeout"))
    assert caught.value.message == "timed out after 7 s: kubectl had not ended"
    assert "webhook" in caught.value.hint
