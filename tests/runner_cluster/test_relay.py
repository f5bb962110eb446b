"""The runner's own listening socket: it passes bytes on, keeps its port, and says again what nobody took."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from runner.cluster.relay import Relay, check_free
from runner.deadline import Deadline
from runner.errors import CannotStart


class FakeBackend:
    """A backend that connects to servers of the test, one for each connection in turn; the last one stays."""

    def __init__(self, *addresses: int, refusals: int = 0) -> None:
        self.port = 80
        self.connections = 0
        self.closed = False
        self._addresses = list(addresses)
        self._refusals = refusals

    def connect(self, deadline: Deadline) -> socket.socket:
        self.connections += 1
        address = self._addresses.pop(0) if len(self._addresses) > 1 else self._addresses[0]
        return socket.create_connection(("127.0.0.1", address))

    def refused(self, far: socket.socket) -> bool:
        self._refusals -= 1
        return self._refusals >= 0

    def close(self) -> None:
        self.closed = True


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
            with client:
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
    with serving(echo) as server, closing(Relay("127.0.0.1", 0, FakeBackend(server))) as relay:
        assert ask(relay.port, question) == question


def test_many_clients_at_once() -> None:
    """Fifty connections live side by side."""
    answers: dict[int, bytes] = {}
    with serving(echo) as server, closing(Relay("127.0.0.1", 0, FakeBackend(server))) as relay:

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
        backend = FakeBackend(refusing, refusing, server, refusals=2)
        with closing(Relay("127.0.0.1", 0, backend)) as relay:
            assert ask(relay.port, b"hello") == b"hello"
    assert backend.connections == 3


def test_what_was_taken_is_not_said_again() -> None:
    """A far end that took the question and ended without an answer is not asked twice."""
    with serving(hang_up) as server:
        backend = FakeBackend(server)
        with closing(Relay("127.0.0.1", 0, backend)) as relay:
            assert ask(relay.port, b"hello") == b""
    assert backend.connections == 1


def test_close_ends_the_listener_and_every_connection() -> None:
    """After close nothing listens, and clients see the end; twice is harmless."""
    with serving(echo) as server:
        backend = FakeBackend(server)
        relay = Relay("127.0.0.1", 0, backend)
        with socket.create_connection(("127.0.0.1", relay.port), timeout=20) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            relay.close()
            relay.close()
            assert client.recv(1) == b""
    assert backend.closed
    check_free("127.0.0.1", relay.port)


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
