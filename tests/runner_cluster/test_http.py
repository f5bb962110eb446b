"""HTTP over a unix socket: answers, watches, cut connections, cancelling."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from runner.cluster.http import Api, ApiError, Unreachable
from runner.deadline import Deadline
from runner.errors import Cancelled, TimedOut

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"a": true}'


@contextmanager
def serving(path: Path, *answers: bytes | Callable[[socket.socket], None]) -> Iterator[Api]:
    """A server on a unix socket: each connection takes requests and gives the next answers; then it hangs up."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    left = list(answers)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client, suppress(OSError):  # a client may be gone before it is answered
                while left and client.recv(1 << 16):
                    answer = left.pop(0)
                    if callable(answer):
                        answer(client)
                        break
                    client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        with closing(Api(lambda _: str(path))) as api:
            yield api
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        server.close()


def hang_up(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_RDWR)


def test_answers_are_parsed(tmp_path: Path) -> None:
    """Several requests use one connection."""
    with serving(tmp_path / "s", OK, OK) as api:
        assert [api.get("/a", Deadline(10)), api.get("/b", Deadline(10))] == [{"a": True}] * 2


def test_errors_carry_the_servers_words(tmp_path: Path) -> None:
    """Status, reason and message; also when the answer is not JSON."""
    body = b'{"kind": "Status", "reason": "NotFound", "message": "pods \\"x\\" not found"}'
    status = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    plain = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\noops\n"
    with serving(tmp_path / "s", status, plain) as api:
        with pytest.raises(ApiError) as caught:
            api.get("/", Deadline(10))
        assert (caught.value.status, caught.value.reason) == (404, "NotFound")
        assert caught.value.message == 'pods "x" not found'
        with pytest.raises(ApiError, match="oops"):
            api.get("/", Deadline(10))


def test_connection_that_was_closed_meanwhile_is_replaced(tmp_path: Path) -> None:
    """A kept connection may be dead: the request is sent again, once, on a new one."""
    with serving(tmp_path / "s", OK, hang_up, OK) as api:
        assert api.get("/", Deadline(10)) == {"a": True}
        assert api.get("/", Deadline(10)) == {"a": True}


def test_connection_of_a_thread_that_ended_is_closed(tmp_path: Path) -> None:
    """The server here takes one at a time: the second thread is heard when the first one's connection is gone."""
    answers: list[object] = []
    with serving(tmp_path / "s", OK, OK) as api, Deadline(5) as deadline:
        for _ in range(2):
            thread = threading.Thread(target=lambda: answers.append(api.get("/", deadline)))
            thread.start()
            thread.join()
        assert len(api._kept) == 1
    assert answers == [{"a": True}] * 2


def test_answers_that_drip(tmp_path: Path) -> None:
    """What comes slowly is waited for, as long as it comes; but not longer than the deadline."""

    def drip(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n")
        for byte in b'{"a": true}':
            time.sleep(0.05)
            with suppress(OSError):  # the client does not want more
                client.send(bytes([byte]))

    with serving(tmp_path / "s", drip, drip) as api:
        assert api.request("GET", "/", Deadline(10), within=0.4) == {"a": True}
        with pytest.raises(TimedOut):
            api.request("GET", "/", Deadline(0.3), within=0.2)


@pytest.mark.parametrize(
    ("answer", "reason", "message"),
    [
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
            "connection cut",
            "the connection was cut (Incomplete",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
            "connection cut",
            "the connection was cut (Incomplete",
        ),
        (b"SSH-2.0-OpenSSH\r\n", "unreadable answer", "the answer is not HTTP (BadStatusLine)"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
            "unreadable answer",
            "the answer is not JSON: '<ht",
        ),
        (b"", "connection cut", "the connection was cut (RemoteDisconnected)"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, answer: bytes, reason: str, message: str) -> None:
    def give(client: socket.socket) -> None:
        client.sendall(answer)
        hang_up(client)

    with serving(tmp_path / "s", give) as api, pytest.raises(Unreachable) as caught:
        api.get("/", Deadline(10))
    assert caught.value.reason == reason
    assert caught.value.message.startswith(message)


def test_nobody_listens(tmp_path: Path) -> None:
    """An error of its own, which callers may wait out."""
    with closing(Api(lambda _: str(tmp_path / "none"))) as api:
        with pytest.raises(Unreachable):
            api.get("/", Deadline(10))
        with pytest.raises(Unreachable):
            next(api.stream("/", Deadline(10)))


def test_stream_ends_with_the_connection(tmp_path: Path) -> None:
    """Lines come as they are sent; the end of the stream is the end of the iteration."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with serving(tmp_path / "s", head + b'9\r\n{"n": 1}\n\r\n9\r\n{"n": 2}\n\r\n0\r\n\r\n') as api:
        assert list(api.stream("/", Deadline(10))) == [{"n": 1}, {"n": 2}]


def test_stream_that_is_cut_is_no_end(tmp_path: Path) -> None:
    """Between two lines, too: the last chunk is missing."""

    def cut(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b'9\r\n{"n": 1}\n\r\n')
        hang_up(client)

    with serving(tmp_path / "s", cut) as api:
        stream = api.stream("/", Deadline(10))
        assert next(stream) == {"n": 1}
        with pytest.raises(Unreachable, match="was cut"):
            next(stream)


@pytest.mark.parametrize("when", ["before", "while it is silent"])
def test_cancel_ends_a_stream_at_once(tmp_path: Path, when: str) -> None:
    """A signal reaches a watch in which nothing happens."""
    over = threading.Event()
    deadline = Deadline(20)

    def silent(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        deadline.cancel("SIGINT")
        over.wait(20)

    with serving(tmp_path / "s", silent) as api:
        if when == "before":
            deadline.cancel("SIGINT")
        with pytest.raises(Cancelled):
            list(api.stream("/", deadline))
        over.set()


def test_events_do_not_prolong_a_stream(tmp_path: Path) -> None:
    """The deadline holds for the whole watch, not for the time between two events."""
    over = threading.Event()

    def now_and_then(client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"3\r\n{}\n\r\n")
        for _ in range(100):
            client.sendall(b"3\r\n{}\n\r\n")
            if over.wait(0.2):
                break

    with serving(tmp_path / "s", now_and_then) as api:
        started = time.monotonic()
        with pytest.raises(TimedOut):
            list(api.stream("/", Deadline(0.6)))
        took = time.monotonic() - started
        over.set()

    assert took < 10
