"""`runner show ID`: what happened in a past run, also in one that was killed."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from runner.cleanup import address
from runner.commands import history, runs
from runner.events import Event
from runner.journal import EVENTS, WATCHDOG_LOG, Past, clean_line, runs_folder


def run(options: Namespace) -> int:
    from runner.reports import terminal

    past = history.find(runs_folder(options.state_dir), options.run)
    records = list(_records(past))
    if options.output == "json":
        from runner.reports.encode import as_json

        document = {"schema": 1, **runs.document(past), "events": records}
        terminal.write(sys.stdout, as_json(document, indent=2) + "\n")
    else:
        style = terminal.Style.of(sys.stdout)
        terminal.write(sys.stdout, "".join(f"{line}\n" for line in _lines(past, records, style, options.verbose)))
    return 0


def _records(past: Past) -> Iterator[dict[str, Any]]:
    """The events of the run, then those of its watchdog; a line that a crash cut off is left out."""
    for name in (EVENTS, WATCHDOG_LOG):
        try:
            lines = (past.folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "event" in record:
                yield record


def _lines(past: Past, records: list[dict[str, Any]], style: Any, verbose: bool) -> Iterator[str]:
    from runner.reports.readable import Readable

    readable = Readable(style, verbose)
    for record in records:
        if verbose or record.get("level") != "debug":
            yield readable(_event(record))
    started = past.started
    who = f", process {started.pid} on {started.host}" if started else ""
    yield f"{past.id}: {history.in_words(past.status, past)}, begun {history.when(past)}{who}"
    for left in past.doomed if past.status != "running" else ():
        yield f"  left: {address(left)}"
    for kept in past.spared:
        yield f"  kept: {address(kept)}"
    if past.records and past.status not in ("running", "cleaning"):
        yield f"  try: {clean_line(past.folder, past.place)}"


def _event(record: dict[str, Any]) -> Event:
    fields = {key: value for key, value in record.items() if key not in ("schema", "time", "level", "event", "run")}
    time = datetime.fromisoformat(record["time"])
    return Event(record["event"], record.get("level", "info"), record.get("run", ""), time, fields)
