"""The structured log."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from runner.events import Event
from runner.reports import log

if TYPE_CHECKING:
    from tests.reports.conftest import Golden, MakeEvent

pytestmark = pytest.mark.usefixtures("utc")


def written(
    events: list[Event], log_format: log.LogFormat = "text", verbosity: log.Verbosity = 0, **environ: str
) -> str:
    stream = io.StringIO()
    sink = log.make(stream, log_format, verbosity, environ)
    for event in events:
        sink(event)
    return stream.getvalue()


def test_text(events: list[Event], golden: Golden) -> None:
    """What a CI log shows."""
    golden("log.txt", written(events))


def test_quiet(events: list[Event], golden: Golden) -> None:
    """-q: only warnings and errors."""
    golden("log_quiet.txt", written(events, verbosity=-1))


def test_verbose(events: list[Event], golden: Golden) -> None:
    """-v: commands and what they print, too."""
    golden("log_verbose.txt", written(events, verbosity=1))


def test_json(events: list[Event]) -> None:
    """Each line is exactly the event's record; the same events as in text."""
    loud = [event.record() for event in events if event.level != "debug"]
    lines = written(events, "json").splitlines()
    assert [json.loads(line) for line in lines] == loud
    assert list(json.loads(lines[0])) == list(loud[0])
    assert len(written(events, "json", 1).splitlines()) == len(events)


def test_github_is_not_commanded(events: list[Event]) -> None:
    """No line of a log on GitHub is a command, whatever children print."""
    for log_format in ("text", "json"):
        text = written(events, log_format, 1, GITHUB_ACTIONS="true")
        assert not any(line.lstrip().startswith("::") for line in text.splitlines())
        assert "##[" not in text


def test_commands_within_a_line(event: MakeEvent) -> None:
    """GitHub looks for `##[` anywhere in a line: a space keeps it from being one."""
    line = event("command output", level="info", step="steps.x", line="a ##[add-mask]b")
    assert written([line], GITHUB_ACTIONS="true") == "  │ a ## [add-mask]b\n"
    assert written([line]) == "  │ a ##[add-mask]b\n"


def test_colour_is_forced(event: MakeEvent) -> None:
    """FORCE_COLOR is for CI systems that render colours."""
    assert "\x1b[33m" in written([event("warning", message="m")], FORCE_COLOR="1")
    assert "\x1b" not in written([event("warning", message="m")])


def test_ascii_stream(events: list[Event]) -> None:
    """A stream that has no signs gets none, and never an exception."""
    raw = io.BytesIO()
    sink = log.make(io.TextIOWrapper(raw, encoding="ascii"), "text", 1, {})
    for event in events:
        sink(event)
    assert b"\n  | ::error::shown 10%\n" in raw.getvalue()


def test_a_stream_that_went_away(events: list[Event]) -> None:
    """A closed stderr does not end a run that still has to clean up."""
    stream = io.StringIO()
    sink = log.make(stream, "text", 1, {})
    stream.close()
    for event in events:
        sink(event)


def fresh(code: str) -> str:
    """What a fresh interpreter prints for this code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_rich_is_not_imported() -> None:
    """It would cost 100 ms; structlog must not drag it in, and it can still be imported later."""
    code = (
        "import sys; from runner.reports import log; log.make(sys.stderr);"
        "print([name for name in sys.modules if name.split('.')[0] == 'rich']);"
        "import rich.console; print(rich.console.Console.__name__)"
    )
    assert fresh(code) == "[]\nConsole"


def test_rich_that_is_in_use_stays() -> None:
    """After the live view, structlog is imported as it is, and rich is not taken away."""
    code = (
        "import sys, rich.console; from runner.reports import log; log.make(sys.stderr);"
        "print(sys.modules['rich'] is rich, 'rich.console' in sys.modules)"
    )
    assert fresh(code) == "True True"


def test_structlog_is_imported_when_a_sink_is_made() -> None:
    """`validate` and `plan` never pay for it."""
    assert fresh("import sys, runner.reports.log; print('structlog' in sys.modules)") == "False"
