"""`runner runs`: the runs that this machine remembers, the newest last."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.cleanup import address
from runner.commands import history
from runner.journal import Past, past_runs, replay, runs_folder


def run(options: Namespace) -> int:
    from runner.reports import terminal

    runs = [replay(folder) for folder in past_runs(runs_folder(options.state_dir))]
    if options.output == "json":
        from runner.reports.encode import as_json

        terminal.write(sys.stdout, as_json({"schema": 1, "runs": [document(past) for past in runs]}, indent=2) + "\n")
    elif runs:
        terminal.write(sys.stdout, history.table([("ID", "WHEN", "STATUS", "LEFT", "FILES"), *map(_row, runs)]))
    else:
        terminal.write(sys.stderr, f"no run is remembered in {runs_folder(options.state_dir)}\n")
    return 0


def document(past: Past) -> dict[str, Any]:
    """A run as JSON: `left` and `kept` name objects, `code` is the exit code, null for one that did not say it."""
    started, place = past.started, past.place
    return {
        "run": past.id,
        "started": started.started if started else None,
        "ended": past.end.ended if past.end else None,
        "status": past.status,
        "code": past.end.code if past.end else None,
        "files": list(started.files) if started else [],
        "folder": str(past.folder),
        "engine": place.engine if place else "",
        "context": place.context if place else "",
        "made": past.made,
        "left": [address(record) for record in past.doomed],
        "kept": [address(record) for record in past.spared],
    }


def _row(past: Past) -> tuple[str, ...]:
    kept = f" ({len(past.spared)} kept)" if past.spared else ""
    status = past.status
    left = "" if status == "running" else f"{len(past.doomed) or '-'}{kept}"
    files = " ".join(map(_from_here(past.started.cwd), past.started.files)) if past.started else ""
    return past.id, history.when(past), history.in_words(status, past), left, files


def _from_here(folder: str) -> Callable[[str], str]:
    """How to name a file of a run that was started in this folder: as it was, or in full when that was elsewhere."""
    here = not folder or Path(folder) == Path.cwd()
    return lambda file: file if here else str(Path(folder, file))
