"""Events as JSON lines in a file: the run's folder has one, `--events FILE` asks for another."""

from __future__ import annotations

from pathlib import Path

from runner.errors import UsageError
from runner.events import Event
from runner.reports.encode import as_json


class Lines:
    """A sink that appends. Every event is in the file when the call returns, so that it survives whatever comes next.

    A disk that fills up during the run does not end the run; `error` then says what went wrong first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error = ""
        try:
            self._file = path.open("a", encoding="ascii")
        except OSError as error:
            raise UsageError(f"cannot write events to {path}: {_reason(error)}", hint=_hint(path)) from error

    def __call__(self, event: Event) -> None:
        try:
            self._file.write(as_json(event.record()) + "\n")
            self._file.flush()
        except (OSError, ValueError) as error:
            self.error = self.error or f"events are missing in {self.path}: {_reason(error)}"

    def close(self) -> None:
        """Nothing more is written; harmless when called again."""
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or f"events are missing in {self.path}: {_reason(error)}"


def make(path: Path) -> Lines:
    """A sink that appends to this file. Raises `UsageError` when it cannot be opened."""
    return Lines(path)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _hint(path: Path) -> str:
    if not path.parent.is_dir():
        return f"mkdir -p {path.parent}"
    return "name a file that you may write"
