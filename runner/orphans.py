"""Children that a run left: which processes they are, and how they end.

A child is known by its process number and the moment of its start, together with its session: what it started and left
is in there too. One that was just being started when the run died is known by the mark in its environment; so is, when
the run is over, whatever left the session of its child. A daemon that is to outlive the run is started without it:
`env -u RUNNER_CHILD setsid …`.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Final

from runner.journal import Journal, Process
from runner.process_table import SESSION, START, kill_work, living, stat

MARK: Final = "RUNNER_CHILD"
"""The variable that names a child in its environment."""
GRACE_SECONDS: Final = 1.0
_PAUSE: Final = 0.02
_CLEARING_SECONDS: Final = 5.0
_LEAF_SECONDS: Final = 0.1
_OF_PODMAN: Final = frozenset(
    {"aardvark-dns", "catatonit", "conmon", "pasta", "pasta.avx2", "rootlessport", "slirp4netns"}
)
"""Started by some podman command, they serve the containers of this user, also those that are to stay."""


class Ledger:
    """Writes the children of `shell` into the journal; implements `shell.Ledger`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def spawning(self, program: str, *, leaves_first: bool) -> dict[str, str]:
        return {MARK: self._journal.spawning(program, leaves_first=leaves_first)}

    def spawned(self, mark: Mapping[str, str], pid: int) -> None:
        self._journal.spawned(mark[MARK], pid, start_of(pid))

    def ended(self, mark: Mapping[str, str]) -> None:
        self._journal.ended(mark[MARK])


def end(children: Iterable[Process]) -> list[str]:
    """End these and all in their sessions: TERM, then KILL. Answers their programs, those that were alive.

    Builders come last, and clear away before that.
    """
    wanted = {child.mark: child for child in children}
    builders = {mark: child for mark, child in wanted.items() if child.leaves_first}
    ended = _end_sessions({mark: child for mark, child in wanted.items() if mark not in builders})
    working = _alive(builders)
    _let_clear_away([pid for pids in working.values() for pid in pids])
    ended |= working.keys() | _end_sessions(builders)
    return [child.program for mark, child in wanted.items() if mark in ended]


def _end_sessions(wanted: dict[str, Process]) -> set[str]:
    """Answers the marks of those that were alive."""
    groups: dict[str, list[int]] = {}

    def look() -> set[int]:
        found = _alive(wanted)
        groups.update(found)
        return {pid for pids in found.values() for pid in pids}

    _end(look)
    return set(groups)


def end_marked(run: str) -> None:
    """End what still carries a mark of this run, whichever session it is in; for when all its children have ended."""
    own = os.getpid()  # of who cleans up in what the run has left

    def is_marked(pid: int) -> bool:
        return pid != own and _mark_of(pid).startswith(f"{run}/") and not _serves_podman(pid)

    _end(lambda: {entry.pid for entry in living() if is_marked(entry.pid)})


def _end(look: Callable[[], set[int]]) -> None:
    """End what `look` finds: TERM, then KILL for what it finds still."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pids = look()
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        _await(pids)


def _let_clear_away(pids: Iterable[int]) -> None:
    """Kill what the leaders among these run, again and again, until they have nothing left to do but to clear away and
    end. No event tells that one has started something. What they say is read, for a full pipe would hold them up.
    """
    leaders = [pid for pid in pids if _leads(pid)]
    limit = time.monotonic() + _CLEARING_SECONDS
    with ExitStack() as stack:
        outputs = [stack.enter_context(output) for pid in leaders for output in _outputs(pid)]
        while leaders and time.monotonic() < limit:
            for pid in leaders:
                kill_work(pid)
            _await(leaders, _LEAF_SECONDS)
            for output in outputs:
                while output.read(1 << 16):
                    pass
            leaders = [pid for pid in leaders if _leads(pid)]


def _outputs(pid: int) -> Iterator[IO[bytes]]:
    """The other ends of its standard output and error, where these are pipes."""
    for path in (Path(f"/proc/{pid}/fd/1"), Path(f"/proc/{pid}/fd/2")):
        with suppress(OSError):
            end = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if path.is_fifo() else None
            if end is not None:
                yield os.fdopen(end, "rb", buffering=0)


def _leads(pid: int) -> bool:
    """Whether it is alive, and the first of its session."""
    fields = stat(pid)
    return bool(fields) and fields[0] != "Z" and int(fields[SESSION]) == pid


def _await(pids: Iterable[int], seconds: float = GRACE_SECONDS) -> None:
    """Wait until they ended, so long at most. They are nobody's children any more: only the kernel tells."""
    limit = time.monotonic() + seconds
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        except (AttributeError, OSError):  # an old kernel, or none that has this
            while (fields := stat(pid)) and fields[0] != "Z" and time.monotonic() < limit:
                time.sleep(_PAUSE)
            continue
        try:
            poll = select.poll()  # `select` takes no number above 1023
            poll.register(handle, select.POLLIN)
            poll.poll(max(0.0, limit - time.monotonic()) * 1000)
        finally:
            os.close(handle)


def _alive(wanted: dict[str, Process]) -> dict[str, list[int]]:
    """The processes of each child that has any; zombies are none."""
    found: dict[str, list[int]] = {}
    sessions = {child.pid: child for child in wanted.values() if child.pid and _may_be(child)}
    unknown = {mark for mark, child in wanted.items() if not child.pid}
    if not sessions and not unknown:
        return {}
    for pid, _, session in living():
        child = sessions.get(session)
        mark = child.mark if child else _mark_of(pid) if unknown else ""
        if child or mark in unknown:
            found.setdefault(mark, []).append(pid)
    return found


def _may_be(child: Process) -> bool:
    """Whether this number can still be the child's: nobody has it (but perhaps its session), or it itself does."""
    fields = stat(child.pid)
    return bool(child.start) and (not fields or fields[START] == child.start)


def _mark_of(pid: int) -> str:
    with suppress(OSError):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = variable.partition(b"=")
            if name == MARK.encode():
                return value.decode("ascii", "replace")
    return ""


def _serves_podman(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() in _OF_PODMAN
    return False


def start_of(pid: int) -> str:
    """The moment of a process's start in the kernel's words; empty where there is no /proc, or no such process."""
    fields = stat(pid)
    return fields[START] if fields else ""
