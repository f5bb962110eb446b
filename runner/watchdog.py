"""The process that undoes a run which cannot do so itself: killed, out of memory, or out of time after a signal.

It is started before the first thing that somebody would have to undo, in a session of its own, so that the end of a
terminal, a CI step or a process group does not reach it; it ignores the signals that those send. It sleeps until the
kernel lets go of the journal's lock, which is when the run is gone, however that ended. If the run said goodbye it
just ends. Otherwise it ends the run's children, undoes the journal, and writes what it did to `watchdog.jsonl`. While
the API server is away it keeps trying for PATIENCE seconds.

It cannot survive what ends everything at once: the machine, a container, a CI system that kills by cgroup or by a
variable of the environment. For that there is `runner clean`.

The upper half runs as a script in a bare interpreter: it imports nothing but a few modules of the standard library, so
that the sleeping process is small. The lower half is imported only when it must act.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from runner.deadline import Deadline
    from runner.events import Events
    from runner.journal import Journal, Past, Undo
    from runner.result import Leftover

PATIENCE = 600.0
_START_SECONDS = 30.0
_ROUND_SECONDS = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP)
_READY = 3
_TAIL = 4096
_MOST_FILES = 1 << 16


class Watchdog:
    """Starts the watchdog of a run, once, and tells when it stands. Called by the journal: implements its `guard`."""

    def __init__(self, folder: Path) -> None:
        import threading  # not above: the sleeping process has no use for it

        self._folder = folder
        self._lock = threading.Lock()
        self._ready = -1
        self._pid = 0
        self._why = ""

    def __call__(self, must_stand: bool) -> None:
        """Raises `StepFailed` when it must stand and does not."""
        with self._lock:
            if not self._pid:
                self._start()
            if must_stand:
                self._await()
                if self._why:
                    raise _not_standing(self._why)

    def close(self) -> None:
        """Take leave of the process that started it."""
        with self._lock:
            self._await()

    def _start(self) -> None:
        self._why = ""
        self._ready, write = os.pipe()
        package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - light
        environment = {name: value for name, value in os.environ.items() if name != "RUNNER_CHILD"}
        # A bare interpreter does not find the packages of this one; it is told where they are.
        argv = [sys.executable, "-I", "-S", __file__, str(self._folder), package, *sys.path]
        null = os.devnull
        actions = [
            (os.POSIX_SPAWN_DUP2, write, _READY),
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
        ]
        try:
            self._pid = _spawn(argv, environment, actions)
        except OSError as error:
            self._why = str(error)
            os.close(self._ready)
            self._ready = -1
        finally:
            os.close(write)

    def _await(self) -> None:
        """Wait until it stands or is known not to; the next call starts one that does not anew."""
        if self._ready < 0:
            return
        import select

        spoke = select.select([self._ready], [], [], _START_SECONDS)[0]
        word = os.read(self._ready, 16) if spoke else b""
        os.close(self._ready)
        self._ready = -1
        if not spoke:
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)  # only the one that started it: it itself is nobody's child
        if not word:
            self._pid = 0
            self._why = "it ended at once" if spoke else f"it is not ready after {_START_SECONDS:g} s"


def _spawn(argv: list[str], environment: dict[str, str], actions: list[tuple[Any, ...]]) -> int:
    try:
        return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsid=True)
    except NotImplementedError:  # by this C library; then it leaves the session a moment later, by itself
        return os.posix_spawn(argv[0], argv, environment, file_actions=actions)


def _not_standing(why: str) -> Exception:
    from runner.errors import StepFailed

    return StepFailed(
        f"the watchdog, which cleans up when the runner is killed, cannot be started: {why}; so nothing is made",
        reason="watchdog",
    )


def _sleep(folder: str) -> None:
    """The script: become nobody's child, wait for the end of the run, and undo it if need be."""
    if os.fork():
        os._exit(0)
    os.setsid()  # again: whoever kills the group of the process that was just left must not find this one in it
    for number in _IGNORED:
        signal.signal(number, lambda *_: None)  # not SIG_IGN: the children of this process would inherit it
    os.umask(0o077)
    os.chdir("/")
    journal = os.open(f"{folder}/journal.jsonl", os.O_RDWR | os.O_APPEND)
    try:  # noqa: SIM105 - light
        os.write(_READY, str(os.getpid()).encode())
    except OSError:  # nobody listens any more: the run was killed while this process began
        pass
    # Also what the runner itself inherited, such as the lock of whoever started it.
    os.dup2(journal, 3)
    _close_from(4)
    journal = 3
    os.set_inheritable(journal, False)
    fcntl.flock(journal, fcntl.LOCK_EX)
    size = os.fstat(journal).st_size
    last = os.pread(journal, _TAIL, max(0, size - _TAIL)).splitlines()[-1:]
    if last and last[0].startswith(b'{"end"') and b'"handover"' not in last[0]:
        return
    sys.path[:] = [path for path in sys.argv[2:] if path]
    from pathlib import Path

    rescue(Path(folder), journal)


def _close_from(first: int) -> None:
    """Close these and all above. Where nobody lists them, a limit may be a thousand million: it is not believed."""
    try:
        numbers = [int(name) for name in os.listdir("/dev/fd")]  # noqa: PTH208 - light
    except OSError:
        numbers = list(range(first, min(os.sysconf("SC_OPEN_MAX"), _MOST_FILES)))
    for number in numbers:
        if number >= first:
            try:
                os.close(number)
            except OSError:  # the one that listed them
                continue


# --- what follows runs only when it must act


def rescue(folder: Path, descriptor: int) -> None:
    """Undo a run whose journal this process has locked, and say goodbye in its place."""
    from runner.events import Events
    from runner.journal import WATCHDOG_LOG
    from runner.reports import lines

    log = lines.make(folder / WATCHDOG_LOG)
    events = Events(folder.name, (log,))
    try:
        _rescue(folder, descriptor, events)
    except Exception as error:  # noqa: BLE001 - nobody else would ever hear of it
        _tell_bug(error, events, "the run was not undone: runner clean")
    log.close()


def _tell_bug(error: Exception, events: Events, hint: str) -> None:
    events.emit("warning", message=f"bug in the watchdog: {type(error).__name__}: {error}", hint=hint)


def _rescue(folder: Path, descriptor: int, events: Events) -> None:
    import shutil

    from runner import orphans
    from runner.cleanup import address, leftover, tidy, told
    from runner.journal import Journal, replay

    journal = Journal.resume(folder, descriptor)
    assert journal is not None  # noqa: S101 - it is locked already
    past = replay(folder)
    events.emit("watchdog started", pid=os.getpid(), objects=len(past.doomed), handover=past.end is not None)
    children = orphans.end(past.children.values())
    orphans.end_marked(past.id)
    for mark in past.children:
        journal.ended(mark)
    for path in past.temporary:
        shutil.rmtree(path, ignore_errors=True)
    left: dict[str, Leftover] = {}
    try:
        left = _undo(past, journal, events)
    except Exception as error:  # noqa: BLE001 - what was undone until then must be written down
        _tell_bug(error, events, journal.clean_line)
    doomed = {record.id for record in past.doomed}
    remaining = [record for record in journal.records if record.id in doomed]
    for record in remaining:
        rest = left.get(record.id) or leftover(record, "it was not reached", place=past.place)
        events.emit("object left", **told(rest))
    tidy(folder, left=bool(remaining))
    kept = [address(record) for record in past.spared]
    events.emit("watchdog ended", left=len(remaining), kept=kept, children=children)
    end = past.end
    status, code = (end.status, end.code) if end else ("crashed", 128 + signal.SIGKILL)
    journal.end(status, code, left=len(remaining), by="watchdog")


def _undo(past: Past, journal: Journal, events: Events) -> dict[str, Leftover]:
    """Undo what is left, again and again while the cluster is away; answers what remains."""
    from contextlib import suppress

    from runner.cleanup import leftover
    from runner.deadline import Deadline
    from runner.errors import RunnerError

    doomed = list(past.doomed)
    left: dict[str, Leftover] = {}
    pause = _FIRST_PAUSE
    with Deadline(PATIENCE) as patience, suppress(RunnerError):
        while doomed:
            try:
                with patience.child(_ROUND_SECONDS) as deadline:
                    now = _undo_once(past, doomed, journal, events, deadline)
            except (RunnerError, OSError) as error:
                now = {record.id: leftover(record, str(error), place=past.place) for record in doomed}
            left = {key: item for key, item in left.items() if item.hopeless} | now
            doomed = [record for record in doomed if record.id in now and not now[record.id].hopeless]
            if doomed:
                patience.pause(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
    return left


def _undo_once(
    past: Past, doomed: Sequence[Undo], journal: Journal, events: Events, deadline: Deadline
) -> dict[str, Leftover]:
    """What is left, by the id of its record."""
    from runner.cleanup import Remover
    from runner.cluster.choose import reopen

    cluster = reopen(past.place.engine if past.place else "kubectl", past.folder, deadline, journal.make_temporary)
    try:
        remover = Remover(cluster, journal, past.id, events.emit)
        return remover.undo(doomed, deadline, hurry=True)[1]
    finally:
        cluster.close()


if __name__ == "__main__":
    _sleep(sys.argv[1])
