"""A proxy in plain HTTP before an API server (`kubectl proxy --port`), which makes requests fail on demand.

Each request has a connection of its own. Upgraded connections (port-forward) are passed on as they are, and can be cut.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

CONTROL = "/~faults/"
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """What a client asked: its head as it came, and the body that came with it."""

    method: str
    path: str
    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def upgrades(self) -> bool:
        return b"\nupgrade:" in self.head.lower()


# Given the client, the request, and how to reach the real server.
Fault = Callable[["Exchange"], None]


@dataclass
class Plan:
    """Which requests fail how: those whose line matches `on`, `times` of them after each arming."""

    fault: Fault
    on: str = ""
    times: int = 1_000_000
    cut_open: bool = False
    """Arming also cuts every connection that is open at that moment."""
    armed: bool = False
    """From the beginning."""


@dataclass(frozen=True)
class Hit:
    """A request that failed: when, at which arming (`wait`), and its line."""

    moment: float
    armed: str
    line: str


@dataclass
class FaultServer:
    """Listens on a free port of localhost. Nothing fails before `arm`."""

    upstream: int
    plan: Plan
    hits: list[Hit] = field(default_factory=list)
    requests: list[tuple[float, str]] = field(default_factory=list)
    armed: str = ""
    armed_at: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._left = 0
        self._open: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        if self.plan.armed:
            self.arm("start")

    def arm(self, name: str) -> None:
        """From now on requests fail, as the plan says; an empty name ends that."""
        with self._lock:
            self.armed = name
            self._left = self.plan.times if name else 0
            self.armed_at[name] = time.monotonic()
            cut = list(self._open) if name and self.plan.cut_open else []
        for connection in cut:
            reset_connection(connection)

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in list(self._open):
            _shut(connection)
        self._thread.join()

    @property
    def kubeconfig(self) -> str:
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "faults", "cluster": {"server": self.url}}],
                "contexts": [{"name": "faults", "context": {"cluster": "faults", "user": "faults"}}],
                "users": [{"name": "faults", "user": {}}],
                "current-context": "faults",
            }
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while not self.over.is_set():
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = _read_request(client)
            if request is None:
                return
            if request.path.startswith(CONTROL):
                self.arm(request.path.removeprefix(CONTROL))
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
                return
            with self._listed(client):
                self._fault(request)(Exchange(self, client, request))

    @contextmanager
    def _listed(self, client: socket.socket) -> Iterator[None]:
        self._open.add(client)
        try:
            yield
        finally:
            self._open.discard(client)

    def _fault(self, request: Request) -> Fault:
        with self._lock:
            now = time.monotonic()
            self.requests.append((now, request.line))
            if self._left and re.search(self.plan.on, request.line):
                self._left -= 1
                self.hits.append(Hit(now, self.armed, request.line))
                return self.plan.fault
        return pass_on


@dataclass(frozen=True)
class Exchange:
    """One request on its way."""

    server: FaultServer
    client: socket.socket
    request: Request

    def ask(self) -> socket.socket:
        """A connection to the real server, with the request on it; the answer ends it."""
        far = socket.create_connection(("127.0.0.1", self.server.upstream))
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = self.request.head
        if not self.request.upgrades:
            head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        far.sendall(head + self.request.body)
        return far

    def answer(self, status: int, reason: str, message: str = "", **headers: str) -> None:
        body = json.dumps(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": status,
                "reason": reason,
                "message": message or f"made to fail with {status}",
            }
        ).encode()
        self.raw(status, body, "application/json", **headers)

    def raw(self, status: int, body: bytes, type_: str, **headers: str) -> None:
        fields = {"Content-Type": type_, "Content-Length": str(len(body)), "Connection": "close", **headers}
        lines = "".join(f"{key.replace('_', '-')}: {value}\r\n" for key, value in fields.items())
        self.client.sendall(f"HTTP/1.1 {status} Made\r\n{lines}\r\n".encode() + body)

    def stream(self) -> None:
        """The beginning of an answer whose lines follow, until the connection ends."""
        self.client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")


# -- faults -------------------------------------------------------------------------------------------------------


def pass_on(exchange: Exchange) -> None:
    """No fault."""
    with closing(exchange.ask()) as far:
        if exchange.request.upgrades:
            up = threading.Thread(target=_copy, args=(exchange.client, far), daemon=True)
            up.start()
        else:
            # A client that leaves ends its watch upstream, too.
            threading.Thread(target=_end_with, args=(exchange.client, far), daemon=True).start()
        _copy(far, exchange.client)


def delay(seconds: float) -> Fault:
    """The answer comes late."""

    def fault(exchange: Exchange) -> None:
        time.sleep(seconds)
        pass_on(exchange)

    return fault


def reset(exchange: Exchange) -> None:
    """The connection is reset instead of an answer; the server never sees the request."""
    reset_connection(exchange.client)


def cut(exchange: Exchange) -> None:
    """The connection ends in the middle of the answer."""
    with closing(exchange.ask()) as far:
        head, rest = _read_head(far)
        exchange.client.sendall(head + rest[:10])
    reset_connection(exchange.client)


def black_hole(exchange: Exchange) -> None:
    """The connection is accepted, and nothing ever comes."""
    exchange.server.over.wait(600)


def status(code: int, reason: str, **headers: str) -> Fault:
    """An answer that is a failure."""
    return lambda exchange: exchange.answer(code, reason, **headers)


def gone_event(exchange: Exchange) -> None:
    """A watch that brings `410 Gone` as an event."""
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"}
    exchange.stream()
    exchange.client.sendall(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")


def garbage(exchange: Exchange) -> None:
    """A success that is no JSON, as a captive portal gives it."""
    exchange.raw(200, b"<html>Log in to the wireless network</html>", "text/html")


def drip(exchange: Exchange) -> None:
    """The answer comes in small pieces."""
    if exchange.request.upgrades:
        pass_on(exchange)
        return
    with closing(exchange.ask()) as far:
        while data := far.recv(1 << 16):
            for at in range(0, len(data), 256):
                exchange.client.sendall(data[at : at + 256])
                time.sleep(0.01)


def closed_each(seconds: float) -> Fault:
    """A watch that the server ends, in peace, after a moment."""

    def fault(exchange: Exchange) -> None:
        with closing(exchange.ask()) as far:
            far.settimeout(seconds)
            end = time.monotonic() + seconds
            with suppress(TimeoutError):
                while time.monotonic() < end and (data := far.recv(1 << 16)):
                    exchange.client.sendall(data)
            exchange.client.sendall(b"0\r\n\r\n")  # the last chunk

    return fault


def silent_watch(exchange: Exchange) -> None:
    """A watch that begins, and then nothing comes, while the connection stays."""
    with closing(exchange.ask()) as far:
        head, _ = _read_head(far)
    exchange.client.sendall(re.sub(rb"(?i)\r\ntransfer-encoding:[^\r]*", b"", head))
    exchange.server.over.wait(600)


# -- sockets ------------------------------------------------------------------------------------------------------


def reset_connection(connection: socket.socket) -> None:
    """End it with RST."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)
        connection.close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _copy(source: socket.socket, target: socket.socket) -> None:
    """All bytes to their end; then both ends know."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _shut(target)


def _end_with(client: socket.socket, far: socket.socket) -> None:
    with suppress(OSError):
        while client.recv(1 << 12):
            pass
    _shut(far)


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """(the head with its empty line, what came after it)."""
    data = b""
    while _HEAD_END not in data:
        more = connection.recv(1 << 16)
        if not more:
            raise ConnectionError("it ended within its head")
        data += more
    head, _, rest = data.partition(_HEAD_END)
    return head + _HEAD_END, rest


def _read_request(client: socket.socket) -> Request | None:
    try:
        head, body = _read_head(client)
    except ConnectionError:
        return None
    method, path, _ = head.decode("latin-1").split(" ", 2)
    size = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if size:
        while len(body) < int(size[1]):
            body += client.recv(1 << 16)
    elif re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        while not body.endswith(b"0\r\n\r\n"):
            body += client.recv(1 << 16)
    return Request(method, path, head, body)
