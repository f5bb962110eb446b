"""Events as JSON lines in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner.errors import ExitCode, UsageError
from runner.events import Event
from runner.reports import lines

if TYPE_CHECKING:
    from tests.reports.conftest import MakeEvent


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_every_event_is_a_line(tmp_path: Path, events: list[Event]) -> None:
    """Debug events too: the file is what reports are made from after a crash."""
    path = tmp_path / "events.jsonl"
    sink = lines.make(path)
    for event in events:
        sink(event)
        assert read(path)[-1] == event.record()
    sink.close()
    assert read(path) == [event.record() for event in events]
    assert sink.error == ""


def test_it_appends(tmp_path: Path, event: MakeEvent) -> None:
    """Several runs may share a file."""
    path = tmp_path / "events.jsonl"
    for _ in range(2):
        sink = lines.make(path)
        sink(event("note", message="hello"))
        sink.close()
    assert len(read(path)) == 2


def test_a_file_in_no_folder(tmp_path: Path) -> None:
    """It says which file, why not, and what to type."""
    path = tmp_path / "no" / "events.jsonl"
    with pytest.raises(UsageError) as caught:
        lines.make(path)
    assert caught.value.message == f"cannot write events to {path}: no such file or directory"
    assert caught.value.hint == f"mkdir -p {path.parent}"
    assert caught.value.code is ExitCode.USAGE


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """Nor can events be written to a folder."""
    with pytest.raises(UsageError, match="is a directory") as caught:
        lines.make(tmp_path)
    assert caught.value.hint == "name a file that you may write"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_does_not_end_the_run(event: MakeEvent) -> None:
    """What went wrong first is kept for a warning at the end."""
    sink = lines.make(Path("/dev/full"))
    sink(event("note", message="hello"))
    sink(event("note", message="hello"))
    sink.close()
    assert sink.error == "events are missing in /dev/full: no space left on device"


def test_a_closed_file_is_no_crash(tmp_path: Path, event: MakeEvent) -> None:
    """An event that comes late, from a thread that still ends, is only missing."""
    sink = lines.make(tmp_path / "events.jsonl")
    sink.close()
    sink.close()
    sink(event("note", message="late"))
    assert "closed file" in sink.error
