"""Events folded into what a person at a terminal wants to see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runner.events import Event
from runner.reports.progress import Progress, Row
from runner.reports.terminal import Style

if TYPE_CHECKING:
    from tests.reports.conftest import Golden, MakeEvent


def drawn(rows: list[Row]) -> list[str]:
    return [f"{row.sign} {row.text}  {row.right}".rstrip() for row in rows]


def test_a_whole_run(events: list[Event], golden: Golden) -> None:
    """After each event: what is settled (as it stays), and what is going on (indented)."""
    progress, lines = Progress(Style()), []
    for second, event in enumerate(events):
        progress.fold(event, float(second))
        lines += [f"{line}\n" for line in drawn(progress.finished())]
        lines += [f"        {line}\n" for line in drawn(progress.current(second + 0.5))]
    golden("progress.txt", "".join(lines))


def test_a_running_step(event: MakeEvent) -> None:
    """Its name, how long it runs, what it waits for, and how many come after it."""
    progress = Progress(Style())
    progress.fold(event("workflow started", workflow="w", steps=4), 0)
    progress.fold(event("step started", workflow="w", step="steps[0]", name="Wait"), 1)
    progress.fold(event("step waiting", workflow="w", step="steps[0]", waiting_for="pod/x: Pending"), 2)
    assert drawn(progress.current(1.5)) == ["▸ Wait  0.5 s", "  pod/x: Pending", "· 3 more steps"]
    assert drawn(progress.current(66)) == ["▸ Wait  1 min 5 s", "  pod/x: Pending", "· 3 more steps"]
    progress.fold(event("step retried", workflow="w", step="steps[0]", attempt=2, reason="exit code 1\nmore"), 2)
    assert drawn(progress.current(2))[1] == "  attempt 2: exit code 1"


def test_steps_in_parallel(event: MakeEvent) -> None:
    """Each has its own line until it ends."""
    progress = Progress(Style())
    for name in "ab":
        progress.fold(event("step started", workflow="w", step=f"steps.{name}", name=name), 0)
    progress.fold(event("step waiting", workflow="w", step="steps.b", waiting_for="b's Pod"), 0)
    assert drawn(progress.current(2)) == ["▸ a  2.0 s", "▸ b  2.0 s", "  b's Pod"]
    progress.fold(event("step passed", workflow="w", step="steps.a", name="a", seconds=2), 2)
    assert drawn(progress.finished()) == ["✓ a  2.0 s"]
    assert drawn(progress.current(2)) == ["▸ b  2.0 s", "  b's Pod"]


def test_a_cleanup_that_names_its_objects(event: MakeEvent) -> None:
    """Lists are counted."""
    progress = Progress(Style())
    progress.fold(event("cleanup ended", workflow="w", deleted=2, left=["pod/x"], kept=[], seconds=1), 0)
    assert drawn(progress.finished()) == ["✗ cleanup: 2 objects deleted, 1 left  1.0 s"]


def test_settled_rows_are_answered_once(event: MakeEvent) -> None:
    """What scrolled away is not drawn again."""
    progress = Progress(Style())
    progress.fold(event("note", message="hello"), 0)
    assert drawn(progress.finished()) == ["  hello"]
    assert progress.finished() == []


def test_debug_output_is_not_shown(event: MakeEvent) -> None:
    """Only `show: true` prints; -v has the log instead of this view."""
    progress = Progress(Style())
    progress.fold(event("command output", step="s", line="x"), 0)
    assert progress.finished() == []


def test_ascii(events: list[Event]) -> None:
    """Where the encoding has no signs there are none."""
    progress = Progress(Style(unicode=False))
    for event in events:
        progress.fold(event, 0)
        assert all(line.isascii() for line in drawn(progress.current(0)))
    assert all(line.isascii() for line in drawn(progress.finished()))


@pytest.mark.parametrize(
    "phrase",
    [
        "run started", "workflow started", "workflow ended", "step started", "step waiting", "step retried",
        "step passed", "step failed", "step skipped", "step cancelled", "command output", "note", "warning",
        "interrupted", "object left", "forward restarted", "cleanup started", "cleanup waiting", "cleanup ended",
        "request retried", "run ended",
    ],
)  # fmt: skip
def test_missing_fields(event: MakeEvent, phrase: str) -> None:
    """An event with nothing in it is drawn with what there is."""
    progress = Progress(Style())
    progress.fold(event(phrase, level="info"), 0)
    progress.current(1)
    assert all(row.text.isprintable() for row in progress.finished())


def test_no_control_characters(event: MakeEvent) -> None:
    """Names, reasons and output cannot move the cursor or break a row."""
    progress, evil = Progress(Style()), "x\x1b[2J\ny\r\x9bz"
    progress.fold(event("run started", files=["a", "b"], context=evil, engine=evil), 0)
    progress.fold(event("workflow started", workflow=evil, steps=9), 0)
    for phrase in ("step started", "step waiting", "step retried", "step failed", "step skipped", "step cancelled"):
        names = ("workflow", "step", "name", "reason", "message", "because", "waiting_for")
        progress.fold(event(phrase, **dict.fromkeys(names, evil)), 0)
        assert all(row.text.isprintable() for row in progress.current(0))
    progress.fold(event("object left", object=evil, why=evil, command=evil), 0)
    progress.fold(event("warning", message=evil, hint=evil), 0)
    progress.fold(event("command output", level="info", line=evil), 0)
    assert all(row.text.isprintable() for row in progress.finished())
