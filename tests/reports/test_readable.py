"""An event as readable text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runner.events import LEVELS, Event
from runner.reports.readable import Readable
from runner.reports.terminal import Style

if TYPE_CHECKING:
    from tests.reports.conftest import Golden, MakeEvent

pytestmark = pytest.mark.usefixtures("utc")


def test_every_event(events: list[Event], golden: Golden) -> None:
    """One line per event, blocks behind bars."""
    readable = Readable(Style(), verbose=True)
    golden("readable.txt", "".join(f"{readable(event)}\n" for event in events))


def test_ascii(events: list[Event]) -> None:
    """Where the encoding has no signs there are none."""
    readable = Readable(Style(unicode=False))
    assert all(readable(event).isascii() for event in events)


def test_every_phrase_has_a_sample(events: list[Event]) -> None:
    """A phrase that is added to `LEVELS` gets a line in the golden file."""
    assert {event.name for event in events} == set(LEVELS)


def test_the_line_of_a_step(event: MakeEvent) -> None:
    """Time, what happened, which step, its name, how long it took."""
    line = Readable(Style())(
        event("step passed", workflow="pod", step="steps.web", name="Forward the port", seconds=0.21)
    )
    assert line == "10:15:02 step passed        steps.web     Forward the port  0.21 s"


def test_outputs_are_for_the_curious(event: MakeEvent) -> None:
    """-v shows them, long ones cut."""
    passed = event("step passed", step="steps.web", outputs={"port": 5000, "body": "x" * 1000})
    assert "outputs" not in Readable(Style())(passed)
    line = Readable(Style(), verbose=True)(passed)
    assert "outputs.port=5000 outputs.body=xxx" in line
    assert line.endswith("x…")


@pytest.mark.parametrize("seconds", [3, 3.0])
def test_one_attempt_is_not_worth_a_word(event: MakeEvent, seconds: float) -> None:
    """Only repeated attempts are shown."""
    readable = Readable(Style())
    assert "attempts" not in readable(event("step passed", step="s", seconds=seconds, attempts=1))
    assert "attempts=2" in readable(event("step passed", step="s", seconds=seconds, attempts=2))


def test_several_workflows(event: MakeEvent) -> None:
    """Then a step says whose it is."""
    readable = Readable(Style())
    readable(event("run started", files=["a.yaml", "b.yaml"]))
    assert " a/steps[0] " in readable(event("step started", workflow="a", step="steps[0]", name="x"))


@pytest.mark.parametrize("field", ["step", "name", "message", "reason", "hint", "because", "unknown"])
@pytest.mark.parametrize("evil", ["\x1b[2J", "a\nb", "a\r\nb", "\u2028", "\x9b1A", "a\n::error::b", "a\x0bb"])
def test_no_field_breaks_the_structure(event: MakeEvent, field: str, evil: str) -> None:
    """Every line begins with a time or with a bar, and none holds a control character."""
    fields: dict[str, Any] = {"step": "s", "name": "n", "message": "m", field: f"x{evil}y"}
    for phrase in ("step failed", "step skipped", "step started", "warning"):
        first, *others = Readable(Style(), verbose=True)(event(phrase, **fields)).split("\n")
        assert first.startswith("10:15:02 ")
        assert all(line.startswith("         │ ") for line in others)
        assert "".join([first, *others]).isprintable()


def test_output_of_children(event: MakeEvent) -> None:
    """Behind the step's name with -v, behind a bar when the step says `show`."""
    readable = Readable(Style())
    assert readable(event("command output", step="steps.web", line="\x1b[32mok\x1b[0m")) == "  web | ok"
    assert readable(event("command output", step="steps[2]", line="")) == "  steps[2] |"
    assert readable(event("command output", level="info", step="steps.web", line="10%\r20%")) == "  │ 10%\n  │ 20%"


def test_a_failure_with_everything(event: MakeEvent) -> None:
    """Whatever a failed step's event carries is shown, in this order."""
    failed = event(
        "step failed",
        step="steps.web",
        name="n",
        seconds=1,
        details="d1\nd2",
        output="o",
        command="kubectl get",
        hint="h",
        message="m",
        place="w.yaml:3:1",
    )
    assert [line.strip(" │") for line in Readable(Style())(failed).split("\n")[1:]] == [
        "w.yaml:3:1",
        "m",
        "try: h",
        "command: kubectl get",
        "o",
        "d1",
        "d2",
    ]


def test_colour(event: MakeEvent) -> None:
    """The phrase carries the colour: green passed, red failed, yellow warned, dim the details."""
    readable = Readable(Style(colour=True))
    assert "\x1b[32mstep passed" in readable(event("step passed", step="s"))
    assert "\x1b[31mstep failed" in readable(event("step failed", step="s"))
    assert "\x1b[33mwarning" in readable(event("warning", message="m"))
    assert "\x1b[2mcommand started" in readable(event("command started", argv=["x"]))
    assert "\x1b[32mworkflow ended" in readable(event("workflow ended", workflow="w", status="success"))


def test_a_phrase_from_the_future() -> None:
    """What is not known is shown as key=value."""
    from datetime import UTC, datetime

    event = Event("moon landed", "info", "r1", datetime(2026, 1, 2, 10, 15, 2, tzinfo=UTC), {"place": "sea", "n": 1})
    assert Readable(Style())(event) == "10:15:02 moon landed        place=sea n=1"
