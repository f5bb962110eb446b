"""Child processes: start one, stream its output, end its whole group. The only door to `sh`.

`sh` forks and execs; reading, waiting and killing are done here, because its own threads poll every 100 ms:
- it is given file descriptors for all three streams: no pty, no feeding and no reading threads, one wake-up a second;
- `_bg=1`, not True: with True it makes the child ignore SIGHUP;
- its timeouts kill only the child itself: here its whole group is ended, also what an ended child left in it (what left
  the group carries a mark of the ledger, and ends with the run);
- its exceptions, which print argv and cut the output at 750 characters, never leave this module.
"""

from __future__ import annotations

import errno
import gc
import os
import selectors
import shlex
import shutil
import signal
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from runner.deadline import Deadline
from runner.errors import CannotStart, CommandResult
from runner.masking import mask
from runner.process_table import kill_work

# A child that prints more than this keeps its newest output; what was dropped is counted in a line of its own.
KEEP_BYTES = 16 * 1024 * 1024
# Of a child that lives on, somebody takes each line as it comes; the last of them are kept for what it says at its end.
KEEP_OF_LONG_LIVED = 128 * 1024
# Of a line that is longer than this only the beginning is handed on.
LONGEST_LINE = 1024 * 1024
SHOWN_OF_LONG = 64 * 1024
GRACE_SECONDS = 2.0
# After a cancel, such as that of a signal, others wait for the end.
HURRIED_SECONDS = 0.4
_KILLED_SECONDS = 3.0
_CLEARING_SECONDS = 3.0
_LEAF_SECONDS = 0.1
# Pipes of a child, and what sh opens while it starts one.
_DESCRIPTORS = 24

# `("stdout" | "stderr", line without its newline)`, called from the thread that pumps the child.
OnLine = Callable[[str, str], None]

_spawning = threading.Lock()
_alive: set[Child] = set()
_ledger: Ledger | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute: `argv[0]` is a program's name or path, `env` is laid over the environment (None removes).

    `leaves_first` is for builders: they clear away when what they started is ended, and not when they are. Their output
    never loses its reader, for they hold its end themselves: to write into nothing ends a program at once, and whoever
    ends the children of a run that was killed could not have it clear away.
    """

    argv: tuple[str, ...]
    stdin: str | None = None
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: Path | None = None
    leaves_first: bool = False

    def __str__(self) -> str:
        return shlex.join(self.argv)


class Ledger(Protocol):
    """Where children are written down, so that somebody can end them when this process is killed."""

    def spawning(self, program: str, *, leaves_first: bool) -> dict[str, str]:
        """A child is about to start; answers what its environment must have."""

    def spawned(self, mark: Mapping[str, str], pid: int) -> None: ...

    def ended(self, mark: Mapping[str, str]) -> None: ...


def keep_ledger(ledger: Ledger | None) -> None:
    """Write down all children from now on."""
    global _ledger  # noqa: PLW0603 - as `_alive`: children belong to the process
    _ledger = ledger


def find(program: str, env: Mapping[str, str] | None = None) -> str | None:
    """The absolute path of a program on PATH, or None.

    Relative folders of PATH are passed over: they mean where a child is started, where the files of a stranger may lie.
    """
    listed = (env or os.environ).get("PATH", os.defpath).split(os.pathsep)
    found = shutil.which(program, path=os.pathsep.join(folder for folder in listed if os.path.isabs(folder)))  # noqa: PTH117 - of text
    return str(Path(found).absolute()) if found else None


def run(command: Command, deadline: Deadline, on_line: OnLine | None = None) -> CommandResult:
    """Run a child to its end and answer what it printed, whatever its exit code.

    Raises `CannotStart` when the program is missing, and `deadline.check`'s exceptions after the whole group was ended.
    """
    child = Child(command, on_line)
    with deadline.closing(child.wake):
        child.pump(deadline)
    if not child.exited:
        if command.leaves_first:
            child.end_in_background()
            child.await_end(deadline)
        else:
            child.end(HURRIED_SECONDS if deadline.cancelled else GRACE_SECONDS)
        deadline.check()
    return child.result()


def start(command: Command, on_line: OnLine | None = None, on_exit: Callable[[], None] | None = None) -> Child:
    """Start a child that lives until it ends or `stop` is called; a thread drains its output all the time."""
    child = Child(command, on_line, KEEP_OF_LONG_LIVED)
    child.pump_in_background(on_exit)
    return child


def alive() -> tuple[Child, ...]:
    """The children of this process that have not ended."""
    return tuple(_alive)


class Child:
    """A running child process, leader of its own session. Made by `run` and `start`."""

    def __init__(self, command: Command, on_line: OnLine | None, keep: int = 0) -> None:
        self.command = command
        self._on_line = on_line
        self._started = time.monotonic()
        self._seconds = 0.0
        self._code: int | None = None
        self._reaped: int | None = None
        self._ended = threading.Event()
        self._ending: Deadline | None = None
        """Cancelled when what `end_in_background` began is over."""
        self._thread: threading.Thread | None = None
        _check_room(command)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._waking = threading.Lock()
        self._draining = threading.RLock()
        self._streams = {"stdout": _Stream(keep or KEEP_BYTES), "stderr": _Stream(keep or KEEP_BYTES)}
        self._ledger = _ledger
        self._mark = self._ledger.spawning(command.argv[0], leaves_first=command.leaves_first) if self._ledger else {}
        try:
            self._process = _spawn(command, self._streams, self._mark)
        except BaseException as error:
            self._close_pipes()
            if self._ledger:
                self._ledger.ended(self._mark)
            if _is_exhausted(error):
                raise _exhausted(command, error) from None
            raise
        self.pid: int = self._process.pid
        if self._ledger:
            self._ledger.spawned(self._mark, self.pid)
        _alive.add(self)
        threading.Thread(target=self._await_exit, name=f"exit of {self.pid}", daemon=True).start()

    @property
    def exited(self) -> bool:
        return self._code is not None

    @property
    def ending(self) -> bool:
        """Whether `end_in_background` was called."""
        return self._ending is not None

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._code

    def result(self) -> CommandResult:
        """What it printed so far and how it ended (code -1 while it runs)."""
        code = -1 if self._code is None else self._code
        out, err = (self._streams[name].text() for name in ("stdout", "stderr"))
        return CommandResult(self.command.argv, code, out, err, self._seconds or time.monotonic() - self._started)

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """End it and its group: TERM, then KILL after `grace` seconds. Returns when it is gone; harmless twice."""
        if self._thread is None:
            self.end(grace)
            return
        self.signal(signal.SIGTERM)
        if not self._ended.wait(grace):
            self.signal(signal.SIGKILL)
        if self._thread is not threading.current_thread():
            self._thread.join(_KILLED_SECONDS)

    def end_in_background(self) -> None:
        """`end` in a thread of its own: after a signal objects are deleted at once, while a builder clears away."""
        over = Deadline()

        def body() -> None:
            try:
                self.end(HURRIED_SECONDS)
            finally:
                over.cancel("ended")

        threading.Thread(target=body, name=f"end of {self.pid}", daemon=True).start()
        self._ending = over

    def await_end(self, deadline: Deadline) -> None:
        """Return when what `end_in_background` began is over, or the deadline cancelled; nobody hears it after that."""
        woken = threading.Event()
        assert self._ending  # noqa: S101 - it has been called
        with self._ending.closing(woken.set), deadline.closing(woken.set):
            woken.wait()
        self._on_line = None

    def end(self, grace: float = GRACE_SECONDS) -> None:
        """`stop` for a child that is pumped by the caller's own thread."""
        if self.command.leaves_first:
            self._end_leaves()
            if self.exited:
                return
        self.signal(signal.SIGTERM)
        with Deadline(grace) as politely:
            self.pump(politely)
        if not self.exited:
            self.signal(signal.SIGKILL)
            with Deadline(_KILLED_SECONDS) as briefly:  # one that runs as another user cannot be killed
                self.pump(briefly)

    def _end_leaves(self) -> None:
        """Kill what it started, again and again, until it has nothing left to do but to clear away and end."""
        with Deadline(_CLEARING_SECONDS) as limit:
            while not self.exited and not limit.ended:
                kill_work(self.pid)
                with limit.child(_LEAF_SECONDS) as briefly:
                    self.pump(briefly)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group, if it still runs."""
        if not self.exited:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def wake(self) -> None:
        """Make `pump` look at its deadline now; callable from any thread."""
        with self._waking, suppress(OSError):
            os.write(self._wake_write, b"!")

    def pump_in_background(self, on_exit: Callable[[], None] | None) -> None:
        def body() -> None:
            self.pump(Deadline())
            if on_exit:
                on_exit()

        self._thread = threading.Thread(target=body, name=f"child {self.command.argv[0]}", daemon=True)
        self._thread.start()

    def pump(self, deadline: Deadline) -> None:
        """Drain both streams until the child ended or the deadline did."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ, "wake")
            for name, stream in self._streams.items():
                if not stream.closed:
                    selector.register(stream.read_end, selectors.EVENT_READ, name)
            while not deadline.ended and not self.exited:
                ready = {key.data for key, _ in selector.select(deadline.socket_timeout())}
                for name in ready & self._streams.keys():
                    self._drain(name)
                    if self._streams[name].ended:
                        selector.unregister(self._streams[name].read_end)
                        with self._draining:
                            self._streams[name].close()
                if "wake" in ready:
                    os.read(self._wake_read, 64)
                if self._reaped is not None:
                    self._finish(self._reaped)

    def catch_up(self) -> None:
        """Hand over the lines that it has printed so far, without waiting for the thread that pumps."""
        for name in self._streams:
            self._drain(name)

    def _drain(self, name: str) -> bool:
        """Take one chunk; False when there is none."""
        with self._draining:
            stream = self._streams[name]
            lines, more = stream.read()
            self._hand_on(name, lines)
            return more

    def _hand_on(self, name: str, lines: Iterable[str]) -> None:
        on_line = self._on_line  # `await_end` takes it away, from another thread
        if on_line:
            for line in lines:
                on_line(name, line)

    def _await_exit(self) -> None:
        self._reaped = self._process.exit_code  # blocks in waitpid
        self.wake()

    def _finish(self, code: int) -> None:
        """The leader is gone: end what it left in its group, and take the output that is still in the pipes."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for name, stream in self._streams.items():
            while not stream.closed and self._drain(name):
                pass
            self._hand_on(name, stream.finish())
        self._seconds = time.monotonic() - self._started
        self._code = code
        self._close_pipes()
        if self._ledger:
            self._ledger.ended(self._mark)
        _alive.discard(self)
        self._ended.set()

    def _close_pipes(self) -> None:
        with self._draining:
            for stream in self._streams.values():
                stream.close()
        os.close(self._wake_read)
        with self._waking:  # a late `wake` fails, instead of writing into whatever has the number by then
            write_end, self._wake_write = self._wake_write, -1
            os.close(write_end)


class _Stream:
    """One output stream of a child: the pipe, the bytes that were read, the line that is not complete yet."""

    def __init__(self, keep: int) -> None:
        self._most = keep
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.closed = False
        self.ended = False
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._rest = b""
        self._cut = False
        """Whether the line that goes on was too long: what comes until its end is passed over."""

    def read(self) -> tuple[list[str], bool]:
        """The complete lines in the next chunk, and whether there was one."""
        if self.closed:
            return [], False
        try:
            chunk = os.read(self.read_end, 1 << 16)
        except BlockingIOError:
            return [], False
        if not chunk:
            self.ended = True
            return [], False
        self._keep(chunk)
        *lines, rest = (self._rest + chunk).split(b"\n")
        if lines and self._cut:
            lines, self._cut = lines[1:], False
        self._rest = b"" if self._cut else rest
        if len(self._rest) > LONGEST_LINE:
            lines.append(_beginning(self._rest))
            self._rest, self._cut = b"", True
        return [_decode(line) for line in lines], True

    def finish(self) -> list[str]:
        """The last line, when it had no newline."""
        rest, self._rest = self._rest, b""
        return [_decode(rest)] if rest else []

    def text(self) -> str:
        kept = b"".join(self._kept).decode("utf-8", "replace")
        if not self._dropped:
            return kept
        # Its first line is the end of one: of a secret that was cut there, nobody would know the rest.
        return f"… {self._dropped} bytes of older output dropped\n" + (kept.partition("\n")[2] or kept)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.read_end)

    def _keep(self, chunk: bytes) -> None:
        self._kept.append(chunk)
        self._size += len(chunk)
        while self._size > self._most:
            oldest = self._kept.popleft()
            self._size -= len(oldest)
            self._dropped += len(oldest)


def _beginning(line: bytes) -> bytes:
    """What is shown of a line that is too long. Masked before it is cut: half a secret is not known as one."""
    shown = mask(_decode(line))[:SHOWN_OF_LONG]
    return f"{shown}… (this line is longer than {LONGEST_LINE >> 20} MiB)".encode()


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")


def _spawn(command: Command, streams: Mapping[str, _Stream], mark: Mapping[str, str]) -> Any:
    """Fork and exec; the parent's copies of the write ends are closed, so that the end of a stream is seen."""
    import sh  # 60 ms: not for those who only validate

    env = environment({**mark, **command.env})
    program = find(command.argv[0], env)
    writers = [streams[name].write_end for name in ("stdout", "stderr")]
    readers = [stream.read_end for stream in streams.values()] if command.leaves_first else []
    try:
        if program is None:
            raise _not_found(command.argv[0], command.cwd)
        if any("\0" in text for text in (*command.argv, *env.values())):
            raise CannotStart(f"an argument or variable of {command.argv[0]} has a NUL character in it")
        with _stdin(command.stdin) as stdin, _spawning, _inheritable(readers), warnings.catch_warnings():
            # Python 3.12+ warns about fork with threads; between fork and exec sh only closes and duplicates files.
            warnings.simplefilter("ignore", DeprecationWarning)
            command_: Any = sh.Command(program)  # its type knows no truth but True for `_bg`
            return command_(
                *command.argv[1:],
                _bg=1,
                _bg_exc=False,
                _ok_code=range(-64, 256),
                _new_session=True,
                _in=stdin,
                _out=writers[0],
                _err=writers[1],
                _pass_fds=readers,
                _env=env,
                _cwd=str(command.cwd) if command.cwd else None,
            )
    except sh.ForkException as error:
        raise CannotStart(f"{command.argv[0]} cannot be started: {str(error).strip().splitlines()[-1]}") from None
    finally:
        for writer in writers:
            os.close(writer)


@contextmanager
def _inheritable(descriptors: Sequence[int]) -> Iterator[None]:
    """They stay open in what is executed meanwhile."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    try:
        yield
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of a child: that of this process with changes laid over it (None removes).

    Where a proxy is set, it is not for this machine: many programs would send it what is meant for a forwarded port.
    """
    env = {**os.environ}
    for name, value in changes.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    if any(env.get(name) for name in _PROXIES):
        direct = [host for name in ("NO_PROXY", "no_proxy") for host in env.get(name, "").split(",") if host]
        env["NO_PROXY"] = env["no_proxy"] = ",".join(dict.fromkeys((*direct, *_THIS_MACHINE)))
    return env


_PROXIES = tuple(name for scheme in ("http", "https", "all") for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper()))
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


def _check_room(command: Command) -> None:
    """Raise `CannotStart` when there are no descriptors for a child: half-way, some would stay open for ever."""
    taken: list[int] = []
    try:
        while len(taken) < _DESCRIPTORS:
            taken += os.pipe()
    except OSError as error:
        raise _exhausted(command, error) from None
    finally:
        for descriptor in taken:
            os.close(descriptor)


def _is_exhausted(error: BaseException) -> bool:
    """No more processes, memory or threads."""
    if isinstance(error, OSError):
        return error.errno in (errno.EAGAIN, errno.ENOMEM)
    return type(error) is RuntimeError and "thread" in str(error)


def _exhausted(command: Command, error: BaseException) -> CannotStart:
    gc.enable()  # sh switches it off before it forks, and on again when that went well
    why = getattr(error, "strerror", None) or str(error)
    return CannotStart(f"{command.argv[0]} cannot be started: {why}", hint="see the limits of this user: ulimit -a")


def _not_found(program: str, cwd: Path | None) -> CannotStart:
    if "/" not in program:
        return CannotStart(f"{program} is not installed", hint=f"install {program}, or put it on PATH")
    if (cwd or Path()).joinpath(program).exists():
        return CannotStart(
            f"{program} is not executable", hint=f"chmod +x {program}, or name its interpreter before it"
        )
    return CannotStart(f"there is no program {program}", hint="a path is relative to the folder in which it is started")


def _stdin(text: str | None) -> IO[bytes]:
    """A file to read from: nothing, or the text (a file, not a pipe: nobody has to feed it)."""
    if text is None:
        return Path(os.devnull).open("rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(text.encode())
    file.seek(0)
    return file


def quote(argv: Iterable[str]) -> str:
    """An argv as a line that a shell understands."""
    return shlex.join(argv)
