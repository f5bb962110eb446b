"""The runner's own listening socket: it passes bytes on, keeps its port, and says again what nobody took."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from runner.cluster.relay import Relay, Say, await_listener, carry, check_free
from runner.deadline import Deadline
from runner.errors import CannotStart


class FakeDialer:
    """A dialer that connects to servers of the test, one for each connection in turn; the last one stays."""

    def __init__(self, *addresses: int, refusals: int = 0) -> None:
        self.connections = 0
        self._addresses = list(addresses)
        self._refusals = refusals

    def connect(self, port: str, deadline: Deadline, say: Say | None = None) -> socket.socket:
        self.connections += 1
        address = self._addresses.pop(0) if len(self._addresses) > 1 else self._addresses[0]
        return socket.create_connection(("127.0.0.1", address))

    def silence(self) -> float:
        return 0.1

    def answered(self, far: socket.socket) -> None: ...

    def refused(self, far: socket.socket) -> bool:
        self._refusals -= 1
        return self._refusals >= 0


@contextmanager
def relaying(dialer: FakeDialer) -> Iterator[Relay]:
    with closing(Relay("127.0.0.1", 0)) as relay:
        relay.start(partial(carry, dialer, "80"))
        yield relay


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that handles every connection in a thread; answers its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:

        def accept() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(client,), daemon=True).start()

        def handle(client: socket.socket) -> None:
            with client, suppress(OSError):  # the other end may be gone already
                serve(client)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def echo(client: socket.socket) -> None:
    while data := client.recv(1 << 16):
        client.sendall(data)


def hang_up(client: socket.socket) -> None:
    client.recv(1)  # takes something, answers nothing


def ask(port: int, question: bytes) -> bytes:
    """Send, say that this is all, and read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:

        def send() -> None:
            client.sendall(question)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
        sender.join()
    return answer


def test_megabytes_pass_in_both_directions() -> None:
    """What goes in comes out, whatever its size, and the end of a stream is passed on."""
    question = os.urandom(1 << 20) * 20
    with serving(echo) as server, relaying(FakeDialer(server)) as relay:
        assert ask(relay.port, question) == question


def test_many_clients_at_once() -> None:
    """Fifty connections live side by side."""
    answers: dict[int, bytes] = {}
    with serving(echo) as server, relaying(FakeDialer(server)) as relay:

        def client(number: int) -> None:
            answers[number] = ask(relay.port, str(number).encode() * 10_000)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert answers == {number: str(number).encode() * 10_000 for number in range(50)}


def test_what_was_refused_is_said_again() -> None:
    """A question that the far end refused goes to the next one, without the client's doing."""
    with serving(hang_up) as refusing, serving(echo) as server:
        dialer = FakeDialer(refusing, refusing, server, refusals=2)
        with relaying(dialer) as relay:
            assert ask(relay.port, b"hello") == b"hello"
    assert dialer.connections == 3


def test_what_was_taken_is_not_said_again() -> None:
    """A far end that took the question and ended without an answer is not asked twice."""
    with serving(hang_up) as server:
        dialer = FakeDialer(server)
        with relaying(dialer) as relay:
            assert ask(relay.port, b"hello") == b""
    assert dialer.connections == 1


def test_close_ends_the_listener_and_every_connection() -> None:
    """After close nothing listens, and clients see the end; twice is harmless."""
    with serving(echo) as server:
        relay = Relay("127.0.0.1", 0)
        relay.start(partial(carry, FakeDialer(server), "80"))
        with socket.create_connection(("127.0.0.1", relay.port), timeout=20) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            relay.close()
            relay.close()
            assert client.recv(1) == b""
    check_free("127.0.0.1", relay.port)


def test_an_answer_before_the_question_is_all_there() -> None:
    """A far end that ends early is heard, and the client is not left with its question."""

    def refuse(client: socket.socket) -> None:
        client.recv(1)
        client.sendall(b"too much")
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 16):
            pass

    with (
        serving(refuse) as server,
        relaying(FakeDialer(server)) as relay,
        socket.create_connection(("127.0.0.1", relay.port), timeout=20) as client,
    ):
        client.sendall(b"x" * 100)
        assert client.recv(100) == b"too much"


def test_half_closed_connections_go_on() -> None:
    """Each direction ends by itself: what comes after the client's end still comes."""

    def count(client: socket.socket) -> None:
        total = sum(map(len, iter(lambda: client.recv(1 << 16), b"")))
        for number in range(3):
            client.sendall(f"{number}:{total} ".encode())

    with serving(count) as server, relaying(FakeDialer(server)) as relay:
        assert ask(relay.port, b"x" * 1000) == b"0:1000 1:1000 2:1000 "


def test_clients_that_vanish_leave_nothing() -> None:
    """A client that resets its connection ends the far one, although that says nothing more."""
    ended = threading.Semaphore(0)

    def silent(client: socket.socket) -> None:
        client.sendall(b"x")
        with suppress(ConnectionError):
            while client.recv(1):
                pass
        ended.release()

    with serving(silent) as server, relaying(FakeDialer(server)) as relay:
        for _ in range(20):
            client = socket.create_connection(("127.0.0.1", relay.port), timeout=20)
            client.recv(1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert all(ended.acquire(timeout=20) for _ in range(20))


def test_nothing_leaks() -> None:
    """After many connections there are no more threads and file descriptors than before."""

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with serving(echo) as server:
        before = open_files()
        with relaying(FakeDialer(server)) as relay:
            for number in range(300):
                assert ask(relay.port, b"%d" % number) == b"%d" % number
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("forward")]
        patience = time.monotonic() + 20  # the server of the test closes its ends when it comes to it
        while open_files() > before:
            assert time.monotonic() < patience
            time.sleep(0.01)


def test_connections_wait_for_the_start() -> None:
    """The port is taken from the beginning; who connects early is served late."""
    with (
        serving(echo) as server,
        closing(Relay("127.0.0.1", 0)) as relay,
        socket.create_connection(("127.0.0.1", relay.port), timeout=20) as client,
    ):
        client.sendall(b"early")
        relay.start(partial(carry, FakeDialer(server), "80"))
        assert client.recv(5) == b"early"


def test_a_listener_is_awaited() -> None:
    """A port answers when a connection to it stays open, speaks, or ends without having been refused."""
    with serving(lambda client: None) as ending, serving(echo) as server:
        patient = FakeDialer(ending, ending, server, refusals=2)
        await_listener(patient, "80", Deadline(20), lambda _: None)
        content = FakeDialer(ending, server)
        await_listener(content, "80", Deadline(20), lambda _: None)
    assert (patient.connections, content.connections) == (3, 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_busy_port_names_the_process(host: str) -> None:
    """Who holds the port is said before anything starts, for both loopback addresses."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(CannotStart) as caught:
            check_free("127.0.0.1", port)

    place = f"[::1]:{port}" if ":" in host else f"{host}:{port}"
    assert caught.value.message.startswith(f"the local port {place} is in use by ")
    assert f"(pid {os.getpid()})" in caught.value.message


def test_address_of_another_machine() -> None:
    """An address that is not ours is an error of its own."""
    with pytest.raises(CannotStart, match=r"cannot listen on 192\.0\.2\.1:80"):
        check_free("192.0.2.1", 80)
