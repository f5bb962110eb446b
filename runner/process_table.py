"""The processes of this machine, as Linux tells them in /proc. Where there is none, nothing is known of them."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

START: Final = 19
"""Of `stat`: the moment of the process's start."""
SESSION: Final = 3
_RUNTIMES: Final = frozenset({"buildah-oci-runtime", "buildah-chroot-runtime", "crun", "runc"})
_HELPER_SECONDS = 2.0
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


def kill_work(builder: int) -> None:
    """Kill what a builder of images runs in containers, and leave alone who clears away after that: itself, itself once
    more (without root, podman and buildah start themselves anew in a user namespace; a wrapper script starts them,
    too), and its short-lived helpers, such as those that make and remove a container's network.
    """
    _, *own = _command(builder)
    home = _pid_namespace(builder)
    commands = {pid: _command(pid) for pid in descendants(builder)}
    runtimes = {pid for pid, (program, *_) in commands.items() if program.rpartition("/")[2] in _RUNTIMES}
    for pid, (_, *arguments) in commands.items():
        if pid in runtimes or arguments in (own, own[1:]):
            continue
        space = _pid_namespace(pid)
        # A container whose network fails when it was made, and has not begun, stays known to the runtime.
        if (home and space and space != home) or (not runtimes and _age(pid) > _HELPER_SECONDS):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _pid_namespace(pid: int) -> str:
    """Empty when it is gone, or may not be looked at."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def _age(pid: int) -> float:
    """Seconds since its start; 0 when it is gone."""
    fields = stat(pid)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[START]) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return [""]
