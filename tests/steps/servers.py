"""A server on this machine for the tests of `verify`, and the little of the engine that it needs."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Selection
from runner.deadline import Deadline
from runner.expressions import compile as compile_expression
from runner.steps import verify
from runner.steps.kind import Forwarded, Scene


class FakeContext:
    """What `verify` needs of a step: a deadline, what forwards bound, expressions."""

    def __init__(self, tmp_path: Any, seconds: float = 10, **bound: str) -> None:
        self.deadline = Deadline(seconds)
        self.waits: list[str] = []
        self.scene = Scene(dialect=KubectlDialect(), namespace="", folder=tmp_path, timeout=seconds, patience=seconds)
        self.workflow_folder = tmp_path
        self.attempts = 0
        self.that = ""
        self.shown: list[str] = []
        self.nested: Callable[[], None] = lambda: None
        self._bound = bound
        self.others: dict[int, Forwarded] = {}
        self.cluster: Any = None

    def observed(self, equivalent: str) -> None:
        self.equivalent = equivalent

    def waiting(self, what: str, seconds: float = 0.0) -> None:
        self.waits.append(what)

    def forwarded(self, host: str, port: int) -> Forwarded | None:
        bound = self._bound.get(host)
        return Forwarded(bound, Selection("pod", ("web",)), "80") if bound else None

    def forwards(self) -> dict[int, Forwarded]:
        return self.others

    def show(self, text: str) -> None:
        self.shown.append(text)

    def run_steps(self, key: str) -> None:
        assert key == "throughout"
        self.nested()

    def evaluate(self, key: str, **variables: Any) -> Any:
        return compile_expression(self.that, {"response": "dyn"}).evaluate(variables)


class Server(ThreadingHTTPServer):
    """Answers by a function of the test, and keeps what it was asked."""

    daemon_threads = True
    scheme = "http"

    def __init__(self, answer: Callable[[Handler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        self.server.answer(self)

    do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815 - http.server's names

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(answer: Callable[[Handler], None], secure: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server that answers by this function, in plain HTTP or with TLS."""
    with Server(answer) as server:
        if secure:
            server.socket = secure.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            server.scheme = "https"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def verified(context: FakeContext, **data: Any) -> dict[str, Any]:
    context.that = data.get("that", "")
    return verify.run(msgspec.convert(data, verify.Args), context)  # type: ignore[arg-type]


def hello(handler: Handler) -> None:
    handler.say(200, b'{"say": "Hello", "n": [1, 2]}', Content_Type="application/json")
