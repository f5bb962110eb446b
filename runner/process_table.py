"""The processes of this machine, as Linux tells them in /proc. Where there is none, nothing is known of them."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

LEAVES_FIRST: Final = ("podman", "buildah")
"""Programs that clear away when what they started is ended, and not when they are: builders of images."""
START: Final = 19
"""Of `stat`: the moment of the process's start."""
_PARENT, _SESSION = 1, 3


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
            yield Entry(int(path.name), int(fields[_PARENT]), int(fields[_SESSION]))


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


def kill_descendants(pid: int) -> bool:
    """Kill them, and leave the process itself alone; answers whether there were any."""
    found = descendants(pid)
    for descendant in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(descendant, signal.SIGKILL)
    return bool(found)
