"""What `runner runs`, `show` and `clean` share: finding past runs, and saying what they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from runner.errors import ExitCode, UsageError
from runner.journal import Past, line, past_runs, replay, state_flags

_MEANINGS = {
    "success": "passed",
    "failure": "failed",
    "error": "not started",
    "bug": "a bug in runner",
    "unknown": "of another machine",
}


def find(runs: Path, name: str) -> Past:
    """The run of this id, or of the only one that begins or ends so; `last` is the newest. Raises `UsageError`."""
    folders = list(past_runs(runs))
    if not folders:
        raise UsageError(f"no run is remembered in {runs}", hint="--state-dir names another folder")
    if name == "last":
        return replay(folders[-1])
    found = [folder for folder in folders if folder.name == name] or [
        folder for folder in folders if name and (folder.name.startswith(name) or folder.name.endswith(name))
    ]
    if not found:
        raise UsageError(f"there is no run {name} in {runs}", hint=f"`{line('runs', *state_flags(runs))}` lists them")
    if len(found) > 1:
        raise UsageError(f"{name} may be any of {', '.join(folder.name for folder in found)}", hint="write it in full")
    return replay(found[0])


def in_words(status: str, past: Past | None = None) -> str:
    """How a run ended, for people, as its report said it; machines read the status itself."""
    if past and past.end and past.end.code == ExitCode.CLEANUP and status == past.end.status:
        return f"passed, {len(past.doomed)} left" if past.doomed else "passed"
    return _MEANINGS.get(status, status)


def begun(past: Past) -> datetime | None:
    return datetime.fromisoformat(past.started.started) if past.started else None


def when(past: Past) -> str:
    """The local time of a run's start."""
    moment = begun(past)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else "?"


def age(past: Past) -> float:
    """Seconds since its start; never negative, whatever the clock did meanwhile."""
    moment = begun(past)
    return max(0.0, (datetime.now(UTC) - moment).total_seconds()) if moment else float("inf")


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows in columns; the first is the heading."""
    from runner.reports.wording import cells, harmless, pad

    lines = [[harmless(cell) for cell in row] for row in rows]
    widths = [max(map(cells, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(pad(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )
