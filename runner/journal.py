"""What must be undone, on disk before it happens.

A run folder holds `journal.jsonl`: one JSON object a line. `{"run": …}` is the first, `{"cluster": …}` says where;
`{"undo": …}` stands before a mutation, `{"made": id, "uid": …}` after it, `{"undone": id}` when it is gone and
`{"kept": id}` when the user wants it to stay, `{"doomed": id}` when the run has decided to remove it, and
`{"dependents": id, "are": […]}` before its deletion, for what must go with it and may outlive it; `{"child": …}`,
`{"spawned": …}`, `{"ended": …}` and `{"temporary": …}` are what the run has on this machine; `{"end": …}` is its
goodbye. `replay` reads it: whoever has that can undo the run, and undoing twice is harmless.

The journal is locked as long as the run, or whoever undoes it, is alive. The kernel lets go of the lock with the
process, however that ends, so nobody is taken for alive because a process number was used again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shlex
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from runner.errors import CannotStart, StepFailed

NAME: Final = "journal.jsonl"
KUBECONFIG: Final = "kubeconfig"
"""The pinned copy in the run folder; it lives as long as something may have to be undone with it."""
WATCHDOG_LOG: Final = "watchdog.jsonl"
EVENTS: Final = "events.jsonl"
STEPS: Final = "steps"
"""Rendered files of the steps, in the run folder."""


_TAIL: Final = 4096
_LOCK_SECONDS: Final = 2.0
_LOCK_PAUSE: Final = 0.005


class Dependent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An object that somebody else made for one of the run's, and that goes with it."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


class Undo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object of a cluster (or of podman) that the run is about to make, and how to name it when it must go.

    `uid` is empty until the object exists; an object with another UID is not ours. `scope` is the path of the step
    that made it. `keep` means that the user wants it to stay, `spare` that it stays when the run does not pass.
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
    spare: bool = False
    dependents: tuple[Dependent, ...] = ()
    """What was known to go with it when its deletion began: it may outlive its owner."""

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"

    @property
    def run(self) -> str:
        """The id of the run, with which its records begin (`RUN/NUMBER`)."""
        return self.id.rpartition("/")[0]


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs: `boot` tells one start of the machine from the next, `cwd` is where `files` are relative to."""

    id: str
    started: str
    pid: int
    host: str
    boot: str = ""
    version: str = ""
    files: tuple[str, ...] = ()
    cwd: str = ""


# What a hint says to type, and not what it says about kubectl.
_TO_TYPE: Final = re.compile(
    r"\bkubectl (?=(?:api-resources|auth|cluster-info|create|delete|describe|events|explain|get|logs|patch|rollout"
    r"|scale)\b)"
)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster of a run; `server` is empty for podman."""

    engine: str
    context: str
    server: str = ""
    named: bool = False
    """The context was named with --context or in the file, so that it may be one that is not local."""
    kubeconfig: str = ""
    """The file that --kubeconfig named; absolute."""

    @property
    def flags(self) -> tuple[str, ...]:
        """What runner and kubectl must be told to mean the same cluster."""
        file = (f"--kubeconfig={self.kubeconfig}",) if self.kubeconfig else ()
        return (*file, f"--context={self.context}") if self.named else file

    def told(self, hint: str) -> str:
        """A hint whose lines to type mean this cluster, whatever the current context is by then."""
        told = f"kubectl {shlex.join(self.flags)} "
        return _TO_TYPE.sub(lambda _: told, hint) if self.flags else hint


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A child of the run, leader of its own session: `mark` stands in its environment. `pid` is 0 when the run died
    before it knew; `start` is the moment of its start in the kernel's own words, to tell it from a later namesake. One
    that `leaves_first` clears away when what it started is ended, and not when it is (see `shell.Command`).
    """

    mark: str
    pid: int = 0
    start: str = ""
    program: str = ""
    leaves_first: bool = False


class End(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How it ended. `left`: how many objects it could not remove; `handover`: the watchdog goes on with these."""

    status: str
    code: int
    ended: str
    left: int = 0
    handover: bool = False
    by: Literal["", "watchdog", "clean"] = ""


@dataclass
class Past:
    """A run as its journal tells it. `records` are what was not undone; of these `kept` are left on purpose."""

    folder: Path
    started: Started | None = None
    place: Place | None = None
    records: dict[str, Undo] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    condemned: set[str] = field(default_factory=set)
    """What the run itself began to remove, also where it did not pass."""
    children: dict[str, Process] = field(default_factory=dict)
    temporary: list[str] = field(default_factory=list)
    """Private folders for sockets; most are gone already."""
    end: End | None = None
    made: int = 0
    torn: int = 0
    """Lines that cannot be read: the last one of a crash, or what a full disk left."""

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        """It said goodbye and left nothing to others."""
        return self.end is not None and not self.end.handover

    @property
    def status(self) -> str:
        """`running`, `cleaning` (the watchdog is at it), `crashed`, or the word with which it ended."""
        if is_alive(self.folder):
            return "cleaning" if self.end or (self.folder / WATCHDOG_LOG).exists() else "running"
        return self.end.status if self.end else "crashed"

    @property
    def doomed(self) -> tuple[Undo, ...]:
        """What is left and nobody wanted to keep, in the order in which it was made."""
        passed = self.end is not None and self.end.status == "success"
        return tuple(
            record
            for record in self.records.values()
            if not (record.keep or record.id in self.kept)
            and (passed or not record.spare or record.id in self.condemned)
        )

    @property
    def spared(self) -> tuple[Undo, ...]:
        doomed = {record.id for record in self.doomed}
        return tuple(record for record in self.records.values() if record.id not in doomed)


def replay(folder: Path) -> Past:
    """Read a run folder; changes nothing. A line that cannot be read is passed over. Raises OSError."""
    past = Past(folder)
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return past
    for line in lines:
        try:
            _take(past, json.loads(line))
        except (ValueError, KeyError, TypeError, msgspec.ValidationError):
            past.torn += bool(line.strip())
    return past


def _take(past: Past, line: Mapping[str, Any]) -> None:
    match next(iter(line)):
        case "run":
            past.started = msgspec.convert(line["run"], Started)
        case "cluster":
            past.place = msgspec.convert(line["cluster"], Place)
        case "undo":
            record = msgspec.convert(line["undo"], Undo)
            past.records[record.id] = record
        case "made":
            past.records[line["made"]] = msgspec.structs.replace(past.records[line["made"]], uid=line["uid"])
            past.made += 1
        case "undone":
            past.records.pop(line["undone"], None)
        case "kept":
            past.kept.add(line["kept"])
        case "doomed":
            past.condemned.add(line["doomed"])
        case "dependents":
            more = msgspec.convert(line["are"], tuple[Dependent, ...])
            past.records[line["dependents"]] = _with(past.records[line["dependents"]], more)
        case "child":
            process = msgspec.convert(line["child"], Process)
            past.children[process.mark] = process
        case "spawned":
            known = past.children[line["spawned"]]
            past.children[known.mark] = msgspec.structs.replace(known, pid=line["pid"], start=line["start"])
        case "ended":
            past.children.pop(line["ended"], None)
        case "temporary":
            past.temporary.append(line["temporary"])
        case "end":
            past.end = msgspec.convert(line["end"], End)


def _with(record: Undo, more: Iterable[Dependent]) -> Undo:
    return msgspec.structs.replace(record, dependents=tuple(dict.fromkeys((*record.dependents, *more))))


def state_folder() -> Path:
    """Where runs are remembered: `$XDG_STATE_HOME/runner`."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "runner"


def runs_folder(state: str = "") -> Path:
    """The folder of all run folders; `state` is what `--state-dir` says."""
    return (Path(state).expanduser().absolute() if state else state_folder()) / "runs"


def state_flags(runs: Path) -> tuple[str, ...]:
    """What a command must be told to look into these run folders."""
    return () if runs == runs_folder() else (f"--state-dir={runs.parent}",)


def line(*words: str) -> str:
    """A command of runner, as a person types it."""
    return shlex.join(("runner", *words))


def clean_line(folder: Path, place: Place | None) -> str:
    """What a person types to remove what the run of this folder left."""
    return line("clean", "--run", folder.name, *state_flags(folder.parent), *(place.flags if place else ()))


def past_runs(runs: Path) -> Iterator[Path]:
    """The run folders, oldest first."""
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(path for path in runs.iterdir() if (path / NAME).is_file())


RUN_ID: Final = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


def new_run_id() -> str:
    """Sortable by time, valid as a label's value: `20261123-101502-4f7a`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def boot_id() -> str:
    """What tells this start of the machine from others; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def needs_a_look(folder: Path) -> bool:
    """Whether a run may have left something; reads only the end of the journal."""
    try:
        with (folder / NAME).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            last = json.loads(file.read().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return True
    end = last.get("end") or {"left": 1}
    return bool(end.get("left") or end.get("handover"))


def leftovers(runs: Path) -> Iterator[Past]:
    """Runs that are dead and left something that nobody wanted to keep, oldest first."""
    for folder in past_runs(runs):
        if needs_a_look(folder) and not is_alive(folder):
            with suppress(OSError):
                past = replay(folder)
                if past.doomed:
                    yield past


def unfinished(folder: Path) -> bool:
    """Whether a run folder still has something to undo, or is that of a run that goes on."""
    try:
        return bool(replay(folder).records) or is_alive(folder)
    except OSError:
        return True


def is_alive(folder: Path) -> bool:
    """Whether the run, or its watchdog, lives: somebody holds the lock."""
    try:
        file = (folder / NAME).open("rb")
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Journal:
    """The undo records of one run, in memory and in its folder. Callable from any thread.

    `guard` is called before anything is written that somebody else may have to undo, with True when it is an object:
    then the watchdog must stand before this returns.
    """

    def __init__(self, folder: Path, guard: Callable[[bool], object] = bool) -> None:
        self._begin(folder, guard)
        try:
            folder.mkdir(parents=True, mode=0o700)
            self._file = _open(folder)
            _lock(self._file)
        except BlockingIOError:
            raise CannotStart(
                f"the run folder {folder} is locked by another process", hint="name another one with --state-dir"
            ) from None
        except OSError as error:
            raise CannotStart(
                f"the run folder {folder} cannot be written: {error.strerror}",
                hint="name a folder that can be written with --state-dir, or set XDG_STATE_HOME",
            ) from None

    @classmethod
    def resume(cls, folder: Path, descriptor: int | None = None) -> Journal | None:
        """The journal of a run that ended, to undo it; None when somebody else does so, or the run goes on.

        `descriptor` is the open and locked file of the watchdog.
        """
        self = cls.__new__(cls)
        self._begin(folder, bool)
        self._torn = True  # the last line may be
        self._file = _open(folder) if descriptor is None else descriptor
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            return None
        past = replay(folder)
        self._records, self.place = dict(past.records), past.place
        return self

    def _begin(self, folder: Path, guard: Callable[[bool], object]) -> None:
        self.folder = folder
        self.place: Place | None = None
        """Where objects are made."""
        self.goodbye: End | None = None
        self._guard = guard
        self._lock = threading.Lock()
        self._records: dict[str, Undo] = {}
        self._gone: list[Undo] = []
        self._numbers = count(1)
        self._torn = False

    @property
    def clean_line(self) -> str:
        """What a person types to remove what is left."""
        return clean_line(self.folder, self.place)

    @property
    def records(self) -> tuple[Undo, ...]:
        """What is still to be undone, in the order in which it was made."""
        with self._lock:
            return tuple(self._records.values())

    @property
    def gone(self) -> tuple[Undo, ...]:
        """What existed and was undone."""
        with self._lock:
            return tuple(self._gone)

    def start(self, files: tuple[str, ...], version: str) -> None:
        """The first line: who runs what."""
        started = Started(
            id=self.folder.name,
            started=now(),
            pid=os.getpid(),
            host=socket.gethostname(),
            boot=boot_id(),
            version=version,
            files=files,
            cwd=str(Path.cwd()),
        )
        try:
            self._write({"run": msgspec.to_builtins(started)})
        except OSError as error:
            raise CannotStart(
                f"the run folder {self.folder} cannot be written: {error.strerror}",
                hint="free some space, or name another folder with --state-dir",
            ) from None

    def at(self, place: Place) -> None:
        """Where objects will be made."""
        self.place = place
        self._note({"cluster": msgspec.to_builtins(place)})

    def intend(self, record: Undo) -> None:
        """Write down what is about to be made; on the disk when this returns. Raises `StepFailed` when it is not: then
        it must not be made.
        """
        self._guard(True)
        with self._lock:
            try:
                self._write({"undo": msgspec.to_builtins(record)})
                os.fsync(self._file)
            except OSError as error:
                raise StepFailed(
                    f"{record} is not made, because the journal {self.folder / NAME} cannot be written: "
                    f"{error.strerror}",
                    hint="what a run makes must be written down first, so that it can be removed after a crash; "
                    "free some space, or name another folder with --state-dir",
                    reason="journal",
                ) from None
            self._records[record.id] = record

    def made(self, record: Undo, uid: str) -> None:
        """It exists now, with this UID."""
        with self._lock:
            self._records[record.id] = msgspec.structs.replace(record, uid=uid)
            self._note({"made": record.id, "uid": uid})

    def depends(self, record: Undo, more: Iterable[Dependent]) -> None:
        """These must go with it: its owner is deleted now, and then nobody else knows them."""
        with self._lock:
            known = self._records.get(record.id, record)
            self._records[record.id] = new = _with(known, more)
            if new != known:
                self._note({"dependents": record.id, "are": [msgspec.to_builtins(item) for item in new.dependents]})

    def again(self, record: Undo) -> None:
        """It was undone, and something of it is still there."""
        with self._lock:
            self._records[record.id] = record
            self._gone = [known for known in self._gone if known.id != record.id]
            self._note({"undo": msgspec.to_builtins(record)})

    def undone(self, record: Undo, *, stays: bool = False) -> None:
        """It is gone, or was never made; or it stays, because others use it now."""
        with self._lock:
            known = self._records.pop(record.id, None)
            if known and known.uid and not stays:
                self._gone.append(known)
            self._note({"undone": record.id})

    def kept(self, record: Undo) -> None:
        """It stays, because the user wants it to."""
        with self._lock:
            self._note({"kept": record.id})

    def condemned(self, record: Undo) -> None:
        """It is removed now; whoever goes on with that need not know how the run ended."""
        with self._lock:
            self._note({"doomed": record.id})

    def spawning(self, program: str, *, leaves_first: bool = False) -> str:
        """A child is about to be started; answers the mark that its environment must carry."""
        self._guard(False)
        with self._lock:
            mark = f"{self.folder.name}/{next(self._numbers)}"
            self._note({"child": {"mark": mark, "program": program, "leaves_first": leaves_first}})
        return mark

    def spawned(self, mark: str, pid: int, start: str) -> None:
        """It has this process number, since this moment."""
        with self._lock:
            self._note({"spawned": mark, "pid": pid, "start": start})

    def ended(self, mark: str) -> None:
        """The child and its group are gone."""
        with self._lock:
            self._note({"ended": mark})

    def make_temporary(self) -> str:
        """A private folder with a short path, for sockets; written down before it is made."""
        self._guard(False)
        path = Path(tempfile.gettempdir()) / f"runner-{secrets.token_hex(4)}"
        with self._lock:
            self._note({"temporary": str(path)})
        path.mkdir(mode=0o700)
        return str(path)

    def end(
        self,
        status: str,
        code: int,
        *,
        left: int = 0,
        handover: bool = False,
        by: Literal["", "watchdog", "clean"] = "",
    ) -> None:
        """The goodbye, after which the watchdog has nothing to do unless it is a `handover`."""
        with self._lock:
            self.goodbye = End(status=status, code=code, ended=now(), left=left, handover=handover, by=by)
            self._note({"end": msgspec.to_builtins(self.goodbye)})

    def close(self) -> None:
        """Let go of the lock; harmless twice."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _note(self, line: dict[str, Any]) -> None:
        """Write what can be missing: undoing asks the cluster what is there, and does no harm twice."""
        with suppress(OSError):
            self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        text = ("\n" if self._torn else "") + json.dumps(line) + "\n"
        data = text.encode()
        self._torn = True
        if os.write(self._file, data) != len(data):
            import errno

            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False


def _lock(file: int) -> None:
    """Lock a new journal. `is_alive` of another process may hold it for a moment. Raises BlockingIOError."""
    limit = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > limit:
                raise
            time.sleep(_LOCK_PAUSE)


def _open(folder: Path) -> int:
    return os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
