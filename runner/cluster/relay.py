"""The runner's own listening socket behind a forward: it keeps its local port while the far end comes and goes."""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from runner.deadline import Deadline
from runner.errors import CannotStart, RunnerError

_CHUNK: Final = 1 << 16
_REPLAY: Final = 1 << 16
"""Bytes of a client that are kept until the far end answers, to be said again when the far end refused to listen."""
CONNECT_SECONDS: Final = 60.0
"""So long a client waits while its target is away."""
_EXHAUSTED_SECONDS: Final = 0.1
_GONE: Final = select.POLLHUP | select.POLLERR
_LISTENING: Final = "0A"
"""The state of a listening socket in /proc/net/tcp."""

Say = Callable[[str], None]


def check_free(host: str, port: int) -> None:
    """Raise `CannotStart`, naming the process, when something else listens on a local port that will be needed.

    For a loopback address `[::1]` counts as well: what dials `localhost` would reach the other program there.
    """
    for address in (host, "::1") if host in ("127.0.0.1", "localhost") else (host,):
        try:
            _listen(address, port).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE or address == host:
                raise _refusal(address, port, error) from None


class Relay:
    """Listens on `host:port` (0: a free one) from the beginning; `start` has every connection served by a thread of its
    own, those included that were made before. `close` ends all.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            self._server = _listen(host, port)
        except OSError as error:
            raise _refusal(host, port, error) from None
        self.host = host
        self.port: int = self._server.getsockname()[1]
        self._life = Deadline()
        self._threads: set[threading.Thread] = set()
        self._woken, self._wake = socket.socketpair()
        self._thread: threading.Thread | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def start(self, serve: Callable[[socket.socket, Deadline], None]) -> None:
        """`serve` carries a connection to its end; the deadline is cancelled by `close`. Its `RunnerError`s and
        `OSError`s end the connection and nothing else.
        """
        self._thread = threading.Thread(target=self._accept, args=(serve,), name=f"forward {self.port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the listener and every connection; harmless twice."""
        if self._life.cancelled:
            return
        self._life.cancel("the forward ended")
        self._wake.close()
        if self._thread:
            self._thread.join()
        self._woken.close()
        self._server.close()
        for thread in tuple(self._threads):
            thread.join()

    def _accept(self, serve: Callable[[socket.socket, Deadline], None]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._life.cancelled:
                selector.select()
                try:
                    client, _ = self._server.accept()
                except BlockingIOError:
                    continue
                except OSError:  # we are out of file descriptors: some connection must end first
                    with suppress(RunnerError):
                        self._life.pause(_EXHAUSTED_SECONDS)
                    continue
                thread = threading.Thread(target=self._serve, args=(serve, client), name="forwarded", daemon=True)
                self._threads.add(thread)
                thread.start()

    def _serve(self, serve: Callable[[socket.socket, Deadline], None], client: socket.socket) -> None:
        try:
            with client, self._life.closing(lambda: shut(client)):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # A far end that does not come any more: the client sees the connection end.
                with suppress(OSError, RunnerError):
                    serve(client, self._life)
        finally:
            self._threads.discard(threading.current_thread())


class Dialer(Protocol):
    """What carries bytes to the ports of a target, wherever it runs now. Ports are named as the user wrote them."""

    def connect(self, port: str, deadline: Deadline, say: Say | None = None) -> socket.socket:
        """A new connection. Blocks while the target is being reached again, and tells `say` what it waits for; raises
        `TimedOut`, `Cancelled`, or `StepFailed` when it cannot come any more.
        """

    def silence(self) -> float:
        """A connection that the far end refused is closed within so many seconds; one that stays open was taken."""

    def answered(self, far: socket.socket) -> None:
        """This connection said something: it was not refused."""

    def refused(self, far: socket.socket) -> bool:
        """Whether this connection, which ended without a byte, was refused by the target: nothing was delivered."""


def await_listener(dialer: Dialer, port: str, deadline: Deadline, say: Say) -> None:
    """Return when the port takes a connection. `connect` paces the attempts."""
    while True:
        with dialer.connect(port, deadline, say) as far:
            open_, _, _ = select.select([far], [], [], dialer.silence())
            if not open_ or _speaks(far) or not dialer.refused(far):
                return  # a connection that was taken and ended has somebody at its end, too


def carry(dialer: Dialer, port: str, client: socket.socket, life: Deadline) -> None:
    """Pass bytes between a client and the far end until that one ends.

    Until the far end answers, what the client said is kept; when the far end refuses, it is said again to the next one.
    """
    said = bytearray()
    with life.child(CONNECT_SECONDS) as patience:
        while True:
            with dialer.connect(port, patience) as far, life.closing(lambda: shut(far)):
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                exchange = Exchange(client, far, said, partial(dialer.answered, far))
                with suppress(ConnectionError):  # refused, reset, or a client that vanished
                    exchange.run()
                if not dialer.refused(far) or not exchange.repeatable:
                    return


class Exchange:
    """Both directions between a client and its far end, in one thread, with one chunk at most on its way in each: who
    reads slowly slows down who writes. With `said`, what the client says is added to it until the far end answers, and
    what is in it already is said first.
    """

    def __init__(
        self,
        client: socket.socket,
        far: socket.socket,
        said: bytearray | None = None,
        answered: Callable[[], None] | None = None,
    ) -> None:
        client.setblocking(False)
        far.setblocking(False)
        self._client = client
        self._far = far
        self._said = said
        self._answered = answered
        self._up = _Flow(client, far, bytes(said or b""))
        self._down = _Flow(far, client)

    @property
    def repeatable(self) -> bool:
        """Whether the far end has said nothing, and the client something that was kept (or may yet)."""
        return self._said is not None and (bool(self._said) or not self._up.ended)

    def run(self) -> None:
        """Return when the far end has ended; the client's end is only passed on. Raises `ConnectionError` when one of
        them vanishes.
        """
        while not self._down.ended:
            ready = self._ready()
            if ready.get(self._client.fileno(), 0) & _GONE and self._up.ended:
                raise ConnectionResetError
            if self._down.can_move(ready):
                if self._down.take() and self._answered:
                    self._answered()
                    self._answered = self._said = None
                self._down.give()
            if self._up.can_move(ready):
                self._keep(self._up.take())
                try:
                    self._up.give()
                    if self._up.ended:
                        self._far.shutdown(socket.SHUT_WR)
                except OSError:  # it takes no more, but may have said why
                    self._up.ended = True

    def _ready(self) -> dict[int, int]:
        """What can be done now, by file descriptor. The client is always looked at, for it may vanish."""
        masks = {self._client.fileno(): 0}
        for flow in (self._up, self._down):
            if not flow.ended:
                number, mask = flow.waits_for()
                masks[number] = masks.get(number, 0) | mask
        poll = select.poll()
        for number, mask in masks.items():
            poll.register(number, mask)
        return dict(poll.poll())

    def _keep(self, data: bytes) -> None:
        if self._said is not None:
            self._said += data
            if len(self._said) > _REPLAY:
                self._said = None


class _Flow:
    """One direction. It waits for its source to say something, or for its sink to take the rest of that."""

    def __init__(self, source: socket.socket, sink: socket.socket, rest: bytes = b"") -> None:
        self._source = source
        self._sink = sink
        self._rest = memoryview(rest)
        self.ended = False

    def waits_for(self) -> tuple[int, int]:
        return (self._sink.fileno(), select.POLLOUT) if self._rest else (self._source.fileno(), select.POLLIN)

    def can_move(self, ready: dict[int, int]) -> bool:
        number, mask = self.waits_for()
        return not self.ended and bool(ready.get(number, 0) & (mask | _GONE))

    def take(self) -> bytes:
        """Read a chunk, unless the one before is still on its way."""
        if self._rest:
            return b""
        try:
            data = self._source.recv(_CHUNK)
        except BlockingIOError:
            return b""
        self.ended = not data
        self._rest = memoryview(data)
        return data

    def give(self) -> None:
        if self._rest:
            with suppress(BlockingIOError):
                self._rest = self._rest[self._sink.send(self._rest) :]


def _speaks(far: socket.socket) -> bool:
    try:
        return bool(far.recv(1))
    except ConnectionError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((host, port))
        server.listen(128)
        server.setblocking(False)
    except OSError:
        server.close()
        raise
    return server


def shut(end: socket.socket) -> None:
    """Wake whoever reads from it."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _refusal(host: str, port: int, error: OSError) -> CannotStart:
    return _busy(host, port) if error.errno == errno.EADDRINUSE else _not_bindable(host, port, error)


def _busy(host: str, port: int) -> CannotStart:
    holder = _holder(port)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return CannotStart(
        f"the local port {place} is in use" + (f" by {holder}" if holder else ""),
        hint='end that program, or name another local port; ":80", with nothing before the colon, takes a free one',
    )


def _not_bindable(host: str, port: int, error: OSError) -> CannotStart:
    return CannotStart(
        f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}",
        hint="ports below 1024 may need root" if error.errno == errno.EACCES else "is it an address of this machine?",
    )


def _holder(port: int) -> str:
    """`python3 (pid 4711)`: the process that listens on a local port, or nothing when that cannot be seen."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not wanted:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(fd.readlink()) in wanted for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return "a process of another user"


def _inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    yield fields[9]
