"""The runner's own listening socket behind a forward: it keeps its local port while the far end comes and goes."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from runner.deadline import Deadline
from runner.errors import CannotStart, RunnerError

if TYPE_CHECKING:
    from runner.cluster.protocol import Backend

_CHUNK: Final = 1 << 16
_REPLAY: Final = 1 << 16
"""Bytes of a client that are kept until the far end answers, to be said again when the far end refused to listen."""
_CONNECT_SECONDS: Final = 60.0
_LISTENING: Final = "0A"
"""The state of a listening socket in /proc/net/tcp."""


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
    """Listens on `host:port` (0: a free one) and passes every connection on to the backend. `close` ends all."""

    def __init__(self, host: str, port: int, backend: Backend) -> None:
        try:
            self._server = _listen(host, port)
        except OSError as error:
            raise _refusal(host, port, error) from None
        self.host = host
        self.port: int = self._server.getsockname()[1]
        self._backend = backend
        self._life = Deadline()
        self._woken, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name=f"forward {self.port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the listener and every connection; harmless twice."""
        if self._life.cancelled:
            return
        self._life.cancel("the forward ended")
        self._wake.close()
        self._thread.join()
        self._woken.close()
        self._server.close()
        self._backend.close()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._life.cancelled:
                selector.select()
                with suppress(OSError):  # the client is gone already, or we are out of file descriptors
                    client, _ = self._server.accept()
                    threading.Thread(target=self._serve, args=(client,), name="forwarded", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, self._life.closing(lambda: _shut(client)):
            client.setblocking(True)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A far end that does not come any more: the client sees the connection end.
            with suppress(OSError, RunnerError):
                _Conversation(client, self._backend, self._life).run()


class _Conversation:
    """One client and its far end. Until the far end answers, what the client said is kept and can be said again."""

    def __init__(self, client: socket.socket, backend: Backend, life: Deadline) -> None:
        self._client = client
        self._backend = backend
        self._life = life
        self._patience = life.child(_CONNECT_SECONDS)
        self._lock = threading.Lock()
        self._far: socket.socket | None = None
        self._said: bytearray | None = bytearray()
        """None when it cannot be said again: the far end answered, or it is too long."""
        self._client_done = False

    def run(self) -> None:
        listener = threading.Thread(target=self._listen_to_client, name="forwarded up", daemon=True)
        try:
            while self._connect():
                if not listener.ident:
                    listener.start()
                self._answer()
                if self._said is None or self._far is None or not self._backend.refused(self._far):
                    break
        finally:
            self._patience.__exit__()
            _shut(self._client)
            if self._far:
                _shut(self._far)
            if listener.ident:
                listener.join()
            if self._far:
                self._far.close()

    def _connect(self) -> bool:
        """Reach the far end (again) and repeat what the client said; False when the client is gone."""
        if self._client_done and not self._said:
            return False
        far = self._backend.connect(self._patience)
        with self._lock:
            if self._far:
                self._far.close()
            self._far = far
            with suppress(OSError):  # it ended already: `_answer` sees that
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                far.sendall(self._said or b"")
                if self._client_done:
                    far.shutdown(socket.SHUT_WR)
        return True

    def _answer(self) -> None:
        """Pass on what the far end says, to its end."""
        assert self._far is not None  # noqa: S101 - set by `_connect`
        far = self._far
        with self._life.closing(lambda: _shut(far)), suppress(ConnectionError):
            while data := far.recv(_CHUNK):
                self._said = None
                self._client.sendall(data)

    def _listen_to_client(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(_CHUNK):
                with self._lock:
                    self._keep(data)
                    self._pass_on(data)
        with self._lock, suppress(OSError):
            self._client_done = True
            if self._far:
                self._far.shutdown(socket.SHUT_WR)

    def _keep(self, data: bytes) -> None:
        if self._said is not None:
            self._said += data
            if len(self._said) > _REPLAY:
                self._said = None

    def _pass_on(self, data: bytes) -> None:
        assert self._far is not None  # noqa: S101 - the thread starts after the first connection
        try:
            self._far.sendall(data)
        except OSError:
            if self._said is None:
                raise


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


def _shut(end: socket.socket) -> None:
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
        hint='end that program, or name another local port; ":5000" with nothing before the colon takes a free one',
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
