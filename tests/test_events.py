"""The bus: levels, order, and no secret beyond it; in every sink and in the reports."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner import masking
from runner.cli import main
from runner.events import LEVELS, SCHEMA, Event, Events
from runner.reports import lines, log

ROOT = Path(__file__).parent.parent


@pytest.fixture
def seen() -> list[Event]:
    return []


@pytest.fixture
def bus(seen: list[Event]) -> Events:
    return Events("r1", (seen.append,))


def test_event_is_one_flat_object() -> None:
    """`schema` first, the time in UTC with milliseconds, then level, phrase, run and the fields."""
    event = Event("step passed", "info", "r1", datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC), {"step": "a"})

    assert list(event.record().items()) == [
        ("schema", SCHEMA),
        ("time", "2026-01-02T03:04:05.678Z"),
        ("level", "info"),
        ("event", "step passed"),
        ("run", "r1"),
        ("step", "a"),
    ]


def test_level_comes_from_the_phrase(bus: Events, seen: list[Event]) -> None:
    """And can be raised for one event."""
    for phrase in LEVELS:
        bus.emit(phrase)
    bus.emit("command output", level="info", line="x")

    assert [(event.name, event.level) for event in seen[:-1]] == list(LEVELS.items())
    assert (seen[-1].name, seen[-1].level, seen[-1].fields) == ("command output", "info", {"line": "x"})
    assert {event.run for event in seen} == {"r1"}


def test_levels() -> None:
    """What the phrases are worth: failures are errors, what children do is for -v."""
    assert set(LEVELS.values()) == {"debug", "info", "warning", "error"}
    assert {name for name, level in LEVELS.items() if level == "error"} == {"step failed", "object left"}
    assert {name for name in LEVELS if name.startswith("command ")} - {"command retried"} <= {
        name for name, level in LEVELS.items() if level == "debug"
    }


def test_unknown_phrase_is_a_mistake(bus: Events) -> None:
    """A phrase without a level cannot be emitted."""
    with pytest.raises(KeyError):
        bus.emit("something else")


def test_every_phrase_of_the_program_is_known() -> None:
    """All calls of `emit` with a literal phrase use one of the table."""
    source = "\n".join(path.read_text() for path in (ROOT / "runner").rglob("*.py") if path.name != "events.py")
    used = set(re.findall(r"\bemit\(\s*\"([^\"]+)\"", source))

    assert used
    assert used <= set(LEVELS)


def test_sinks_get_events_one_at_a_time_in_order(bus: Events) -> None:
    """From many threads: every sink sees the same order, and is never entered twice at once."""
    first: list[Any] = []
    second: list[Any] = []
    inside = threading.Lock()

    def sink(event: Event) -> None:
        assert inside.acquire(blocking=False)
        first.append(event.fields["n"])
        inside.release()

    bus.add(sink)
    bus.add(lambda event: second.append(event.fields["n"]))

    def work(start: int) -> None:
        for n in range(100):
            bus.emit("note", n=start + n)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert first == second
    assert len(first) == 300
    assert [n for n in first if n < 1000] == list(range(100))


def test_sink_may_emit(bus: Events, seen: list[Event]) -> None:
    """A sink that reports something itself does not block the bus."""
    bus.add(lambda event: bus.emit("warning", message="x") if event.name == "note" else None)
    thread = threading.Thread(target=bus.emit, args=("note",), kwargs={"message": "a"}, daemon=True)
    thread.start()
    thread.join(10)

    assert not thread.is_alive()
    assert [event.name for event in seen] == ["note", "warning"]


# -- secrets --------------------------------------------------------------------------------------------------------


def test_secret_is_masked_before_every_sink(bus: Events, seen: list[Event], tmp_path: Path) -> None:
    """The log as text and as JSON, and the file of events."""
    text, as_json = io.StringIO(), io.StringIO()
    kept = lines.make(tmp_path / "events.jsonl")
    for sink in (log.make(text, "text", 1, {}), log.make(as_json, "json", 1, {}), kept):
        bus.add(sink)
    masking.hide(['hun"ter\\2é'])
    bus.emit("command output", step="steps[0]", stream="stdout", line='the password is hun"ter\\2é!')
    bus.emit("command started", step="steps[0]", argv=["login", '--password=hun"ter\\2é'], cwd="/")
    kept.close()
    written = (tmp_path / "events.jsonl").read_text()

    assert seen[0].fields["line"] == "the password is ***!"
    assert seen[1].fields["argv"] == ["login", "--password=***"]
    for output in (text.getvalue(), as_json.getvalue(), written):
        assert "ter" not in output
        assert output.count("***") == 2


Execute = Callable[..., tuple[str, str, str]]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Execute:
    """Run a workflow that prints a secret in every way; answers stdout, stderr and the files that the run left."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    file = tmp_path / "w.yaml"
    file.write_text(
        "inputs: {token: {secret: true, env: E_TOKEN, required: true}}\n"
        "steps:\n"
        "  - id: a\n"
        '    name: "say ${{ inputs.token }}"\n'
        '    run: echo "$T"\n'
        '    env: &e {T: "${{ inputs.token }}"}\n'
        "    show: true\n"
        '  - {run: [echo, "${{ steps.a.outputs.stdout }}"]}\n'
        '  - {run: "echo \\"$T\\" >&2; exit 1", env: *e}\n'
    )

    def execute(secret: str, *arguments: str) -> tuple[str, str, str]:
        monkeypatch.setenv("E_TOKEN", secret)
        assert main(["run", str(file), "--events", str(tmp_path / "events"), *arguments]) == 1
        captured = capsys.readouterr()
        state = "".join(path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file())
        return captured.out, captured.err, state + (tmp_path / "events").read_text()

    return execute


@pytest.mark.parametrize("arguments", [(), ("-v",), ("-o", "json"), ("-v", "--log-format", "json")], ids=" ".join)
def test_run_shows_no_secret(execute: Execute, arguments: tuple[str, ...]) -> None:
    """Neither the report nor the log nor a file of the run has it; the place where it was is marked."""
    out, err, kept = execute("hunter22", *arguments)

    assert "hunter22" not in out + err + kept
    assert "***" in out
    assert "***" in err
    assert "***" in kept


@pytest.mark.parametrize("secret", ['pass"zq7x', "pass\\zq7x"])
def test_report_as_text_shows_no_secret_with_quotes(execute: Execute, secret: str) -> None:
    """Signs that JSON and shells escape."""
    out, err, kept = execute(secret)

    assert "zq7x" not in out + err + kept


@pytest.mark.parametrize("secret", ['pass"zq7x', "pass\\zq7x"])
def test_report_as_json_shows_no_secret_with_quotes(execute: Execute, secret: str) -> None:
    """The same as one JSON object."""
    out, err, kept = execute(secret, "-o", "json")

    assert "zq7x" not in out + err + kept
