"""The processes of this machine, as Linux tells them in /proc. Where there is none, nothing is known of them."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

START: Final = 19
"""Of `stat`: the moment of the process's start."""
SESSION: Final = 3
_PARENT: Final = 1


class Entry(NamedTuple):
    """A process that lives."""

    pid: int
    parent: int
    session: int


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the one after the program's name; none when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def living() -> Iterator[Entry]:
    """All processes but zombies."""
    for path in Path("/proc").glob("[0-9]*"):
        fields = stat(int(path.name))
        if fields and fields[0] != "Z":
            yield Entry(int(path.name), int(fields[_PARENT]), int(fields[SESSION]))


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs, whichever session they are in."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in living():
        children[entry.parent].append(entry.pid)
    found, todo = list[int](), [pid]
    while todo:
        born = children[todo.pop()]
        found += born
        todo += born
    return found


def kill_descendants(pid: int) -> None:
    """Kill them, and leave alone the process itself, and itself once more: without root, podman and buildah start
    themselves anew in a user namespace, with the same arguments.
    """
    own = _arguments(pid)
    for descendant in descendants(pid):
        if _arguments(descendant) != own:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(descendant, signal.SIGKILL)


def _arguments(pid: int) -> list[bytes]:
    """Without the name of the program."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:]
    except OSError:
        return []
