"""The proxy before the API server's proxy, with a fake one of those on a unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner.cluster.gateway import Gateway
from runner.cluster.relay import Relay
from runner.cluster.targets import Follower, Place, Sight
from runner.deadline import Deadline
from runner.errors import CannotStart, StepFailed, TimedOut

if TYPE_CHECKING:
    from tests.runner_cluster.conftest import FakeHand

PREFIX = "/api/v1/namespaces/demo/services/web:80/proxy"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Serve = Callable[[socket.socket, bytes], None]


class FakeApi:
    """Answers each connection by the next of the functions (the last one stays), after the head of a request."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "api.sock")
        self.heads: list[str] = []
        self.serve: list[Serve] = [lambda client, rest: client.sendall(OK)]
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen(64)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            serve = self.serve.pop(0) if len(self.serve) > 1 else self.serve[0]
            threading.Thread(target=self._talk, args=(client, serve), daemon=True).start()

    def _talk(self, client: socket.socket, serve: Serve) -> None:
        with client, suppress(OSError):  # one that does not wait for the answer
            data = b""
            while b"\r\n\r\n" not in data:
                chunk = client.recv(1 << 16)
                if not chunk:
                    return
                data += chunk
            head, _, rest = data.partition(b"\r\n\r\n")
            self.heads.append(head.decode())
            serve(client, rest)


def says(answer: bytes) -> Serve:
    return lambda client, rest: client.sendall(answer)


def status(code: int, message: str) -> Serve:
    text = json.dumps({"kind": "Status", "apiVersion": "v1", "code": code, "message": message}).encode()
    head = f"HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return says(head.encode() + text)


def look(deadline: Deadline) -> Iterator[Sight]:
    yield Sight(Place("service", "web", "1", {"http": 80}))
    deadline.pause(600)


@contextmanager
def gateway(path: Callable[[Deadline], str], look: Callable[[Deadline], Iterator[Sight]] = look) -> Iterator[Gateway]:
    with closing(Gateway(Follower(look), "demo", path)) as opened:
        yield opened


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    with closing(FakeApi(tmp_path)) as fake:
        yield fake


@pytest.fixture
def port(api: FakeApi) -> Iterator[int]:
    """Where a forward listens that leads to the fake."""
    with ExitStack() as opened:
        far = opened.enter_context(gateway(lambda _: api.path))
        relay = opened.enter_context(closing(Relay("127.0.0.1", 0)))
        relay.start(partial(far.serve, "http"))
        yield relay.port


@contextmanager
def client(port: int) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        yield connection


def ask(connection: http.client.HTTPConnection, target: str = "/", **headers: str) -> tuple[int, bytes]:
    connection.request("GET", target, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def raw(port: int, question: bytes) -> bytes:
    """Send bytes and read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(question)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_requests_lead_to_the_target(api: FakeApi, port: int) -> None:
    """Path, query and headers are those of the client; the connection there is one request long, that here stays."""
    with client(port) as connection:
        assert ask(connection, "/a/b%20c?d=e", Cookie="f=g") == (200, b"ok")
        kept = connection.sock
        assert ask(connection, "http://127.0.0.1:1/x") == (200, b"ok")
        assert connection.sock is kept
    assert [head.splitlines()[0] for head in api.heads] == [
        f"GET {PREFIX}/a/b%20c?d=e HTTP/1.1",
        f"GET {PREFIX}/x HTTP/1.1",
    ]
    assert "Cookie: f=g" in api.heads[0]
    for head in api.heads:
        assert (
            head.count("Host: localhost") == head.count("Connection: close") == head.lower().count("connection:") == 1
        )


def test_links_in_pages_lead_back(api: FakeApi, port: int) -> None:
    """The API server writes its own paths into pages and redirects."""
    api.serve = [
        says(f"HTTP/1.1 302 Found\r\nLocation: https://10.0.0.1{PREFIX}/login\r\nContent-Length: 0\r\n\r\n".encode()),
        says(b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere/x\r\nContent-Length: 0\r\n\r\n"),
        says(OK),
    ]
    with client(port) as connection:
        places = []
        for _ in range(2):
            connection.request("GET", "/")
            answer = connection.getresponse()
            places.append(answer.getheader("Location"))
            answer.read()
        assert places == ["/login", "https://elsewhere/x"]
        ask(connection, f"{PREFIX}/style.css")
        ask(connection, f"{PREFIX}x")
    assert [head.split()[1] for head in api.heads[2:]] == [f"{PREFIX}/style.css", f"{PREFIX}{PREFIX}x"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /../../secrets HTTP/1.1\r\n\r\n", 400),
        (b"GET /x/%2e%2E/y HTTP/1.1\r\n\r\n", 400),
        (b"GET secrets HTTP/1.1\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\nHost: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nName : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000, 431),
    ],
)
def test_what_does_not_pass(api: FakeApi, port: int, request_: bytes, code: int) -> None:
    """A program of this machine must not reach more of the API server than the target, and learns why."""
    answer = raw(port, request_)
    assert answer.startswith(f"HTTP/1.1 {code} ".encode())
    assert b"\r\n\r\nrunner: " in answer
    assert api.heads == []


def test_nobody_acts_as_somebody_else(api: FakeApi, port: int) -> None:
    """Headers with which the API server would do that are left out."""
    with client(port) as connection:
        headers = {"Impersonate-User": "admin", "X-Remote-User": "admin", "X-Other": "kept"}
        assert ask(connection, **headers) == (200, b"ok")
    assert "admin" not in api.heads[0]
    assert "X-Other: kept" in api.heads[0]


def test_bodies_pass_in_both_directions(api: FakeApi, port: int) -> None:
    """With a length or in chunks, larger than any buffer, and while the answer is on its way already."""
    size = 20_000_000

    def echo(chat: socket.socket, rest: bytes) -> None:
        chat.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + rest)
        left = size - len(rest)
        while left:
            data = chat.recv(1 << 16)
            left -= len(data)
            chat.sendall(data)

    def count(chat: socket.socket, rest: bytes) -> None:
        while not rest.endswith(b"0\r\nX: trailer\r\n\r\n"):
            rest += chat.recv(1 << 16)
        chat.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%05d\r\n0\r\n\r\n" % rest.count(b"x"))

    api.serve = [echo, count, says(OK)]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        question = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size
        sender = threading.Thread(target=connection.sendall, args=[question + b"x" * size])
        sender.start()
        answer = connection.makefile("rb")
        while (answer.readline()) != b"\r\n":
            pass
        assert answer.read(size) == b"x" * size
        sender.join()

        # The same connection goes on: the ends of question and answer were seen.
        connection.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            connection.sendall(b"3E8;a=b\r\n" + b"x" * 1000 + b"\r\n")
        connection.sendall(b"0\r\nX: trailer\r\n\r\n")
        while answer.readline() != b"\r\n":
            pass
        assert answer.read(15) == b"5\r\n03000\r\n0\r\n\r\n"
        connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        assert answer.read().endswith(b"Connection: close\r\n\r\n")


def test_answers_that_end_with_the_connection(api: FakeApi, port: int) -> None:
    """Without a length, and cut short: the client sees the same."""
    api.serve = [says(b"HTTP/1.1 200 OK\r\n\r\nall of it")]
    assert raw(port, b"GET / HTTP/1.1\r\n\r\n").endswith(b"Connection: close\r\n\r\nall of it")
    for cut in (b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"):
        api.serve = [says(b"HTTP/1.1 200 OK\r\n" + cut)]
        with client(port) as connection, pytest.raises(http.client.IncompleteRead):
            ask(connection)


def test_interim_answers_and_early_ends(api: FakeApi, port: int) -> None:
    """`100 Continue` reaches a client that waits for it; a question that nobody wants is not heard to its end."""

    def patient(chat: socket.socket, rest: bytes) -> None:
        chat.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert chat.recv(4) == b"data"
        chat.sendall(OK)

    api.serve = [patient, says(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"data")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert b"413" in raw(port, b"PUT / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf")


def test_other_protocols(api: FakeApi, port: int) -> None:
    """After `101 Switching Protocols` bytes pass in both directions; without it they do not."""

    def echo(chat: socket.socket, rest: bytes) -> None:
        chat.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello ")
        while data := chat.recv(1 << 16):
            chat.sendall(data)

    upgrade = b"GET /ws HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n"
    api.serve = [echo, says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno"), says(OK)]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(upgrade)
        answer = connection.makefile("rb")
        assert b"101" in answer.readline()
        while answer.readline() != b"\r\n":
            pass
        assert answer.read(6) == b"hello "
        connection.sendall(b"world")
        assert answer.read(5) == b"world"
    assert "Connection: Upgrade, close\r\nUpgrade: echo" in api.heads[0]

    assert raw(port, upgrade + b"GET /second HTTP/1.0\r\n\r\n").count(b"HTTP/1.1 ") == 2
    assert api.heads[-1].startswith(f"GET {PREFIX}/second ")


def test_a_client_that_vanishes_ends_the_request(api: FakeApi, port: int) -> None:
    """Also while the target says nothing."""
    ended = threading.Event()

    def silent(chat: socket.socket, rest: bytes) -> None:
        assert chat.recv(1) == b""
        ended.set()

    api.serve = [silent]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while not api.heads:
            threading.Event().wait(0.01)
    assert ended.wait(20)


def test_ready_means_that_the_target_answers(api: FakeApi, hand: FakeHand) -> None:
    """What the API server says itself is no answer; an error of the target is."""
    api.serve = [
        status(503, 'no endpoints available for service "web"'),
        status(503, "error trying to reach service: dial tcp 10.0.0.9:80: connect: connection refused"),
        says(b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"),
    ]
    with gateway(lambda _: api.path) as far:
        assert far.await_answer(["http"], hand) == "service/web"
    assert len(api.heads) == 3
    assert hand.waits[0] == "port 80 of service/web to answer"


def test_what_is_missing_is_said(api: FakeApi, hand: FakeHand) -> None:
    """No permission at once, no endpoints at the deadline, no target as soon as that is known."""
    message = 'services "web:80" is forbidden: User "ci" cannot get resource "services/proxy"'
    api.serve = [status(403, message), status(503, 'no endpoints available for service "web"')]
    with gateway(lambda _: api.path) as far:
        with pytest.raises(StepFailed) as caught:
            far.await_answer(["http"], hand)
        assert caught.value.message == f"the API server's proxy is not allowed: {message}"
        assert caught.value.hint.startswith("ask for the permission `get services/proxy`")

        hand.deadline = Deadline(0.3)
        with pytest.raises(TimedOut) as late:
            far.await_answer(["http"], hand)
        assert late.value.message == "port 80 of service/web does not answer: it has no endpoints that are ready"
        assert late.value.hint.endswith("--selector=kubernetes.io/service-name=web")

    def nowhere(deadline: Deadline) -> Iterator[Sight]:
        yield Sight(problem=StepFailed("service/web has no port 81"), patience=0)
        deadline.pause(600)

    with gateway(lambda _: api.path, nowhere) as far, pytest.raises(StepFailed, match="has no port 81"):
        far.await_answer(["http"], hand)


def test_a_proxy_that_ends_is_asked_again(api: FakeApi, port: int) -> None:
    """What only looks is sent again; what changes something is not, for it may have been heard."""
    api.serve = [lambda client, rest: None, lambda client, rest: None, says(OK)]
    with client(port) as connection:
        assert ask(connection) == (200, b"ok")
        api.serve = [lambda client, rest: None, says(OK)]
        connection.request("POST", "/", b"x")
        assert connection.getresponse().status == 502


def test_without_kubectl_proxy_clients_learn_why(api: FakeApi) -> None:
    """A request is answered also when nothing can be asked."""

    def gone(deadline: Deadline) -> str:
        raise CannotStart("kubectl proxy does not start: no such context")

    for path, code in ((gone, b"503"), (lambda _: api.path + "x", b"502")):
        with gateway(path) as far, closing(Relay("127.0.0.1", 0)) as relay:
            relay.start(partial(far.serve, "http"))
            assert raw(relay.port, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 " + code)
