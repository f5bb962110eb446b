"""What must be undone, on disk before it happens.

A run folder holds `journal.jsonl`: one JSON object a line, `{"undo": …}` before a mutation, `{"made": id, "uid": …}`
after it, `{"undone": id}` when it is gone. Whoever reads it can undo the run; undoing twice is harmless.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from runner.errors import CannotStart


class Undo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object of a cluster (or of podman) that the run is about to make, and how to name it when it must go.

    `uid` is empty until the object exists; an object with another UID is not ours. `scope` is the path of the step
    that made it. `keep` means that the user wants it to stay.
    """

    id: str
    engine: str
    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    scope: str = ""
    keep: bool = False

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


def state_folder() -> Path:
    """Where runs are remembered: `$XDG_STATE_HOME/runner`."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "runner"


def new_run_id() -> str:
    """Sortable by time, valid as a label's value: `20261123-101502-4f7a`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def unfinished(folder: Path) -> bool:
    """Whether a run folder still has something to undo, or is that of a run that goes on or crashed."""
    open_: set[str] = set()
    try:
        lines = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
        for record in map(json.loads, lines):
            if "undo" in record:
                open_.add(record["undo"]["id"])
            open_.discard(record.get("undone", ""))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, AttributeError):
        return True
    return bool(open_)


class Journal:
    """The undo records of one run, in memory and in its folder. Callable from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._records: dict[str, Undo] = {}
        try:
            folder.mkdir(parents=True, mode=0o700)
            self._file = (folder / "journal.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            raise CannotStart(
                f"the run folder {folder} cannot be written: {error.strerror}",
                hint="set XDG_STATE_HOME to a folder that can be written",
            ) from None

    @property
    def records(self) -> tuple[Undo, ...]:
        """What is still to be undone, in the order in which it was made."""
        with self._lock:
            return tuple(self._records.values())

    def intend(self, record: Undo) -> None:
        """Write down what is about to be made."""
        with self._lock:
            self._records[record.id] = record
            self._write({"undo": msgspec.to_builtins(record)})

    def made(self, record: Undo, uid: str) -> None:
        """It exists now, with this UID."""
        with self._lock:
            self._records[record.id] = msgspec.structs.replace(record, uid=uid)
            self._write({"made": record.id, "uid": uid})

    def undone(self, record: Undo) -> None:
        """It is gone, or was never made."""
        with self._lock:
            self._records.pop(record.id, None)
            self._write({"undone": record.id})

    def close(self) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
