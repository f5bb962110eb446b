"""The supervised `kubectl port-forward`, with a fake kubectl that dies as the real one does."""

from __future__ import annotations

import socket
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner import shell
from runner.cluster.portforward import KubectlBackend, command
from runner.cluster.relay import Relay
from runner.deadline import Deadline
from runner.errors import Cancelled, StepFailed, TimedOut

if TYPE_CHECKING:
    from tests.conftest import FakeBin
    from tests.runner_cluster.conftest import FakeHand

# Each life of the fake is a word: `refuse` a connection and die as kubectl does, `echo`, `die` at once, be `forbidden`,
# be `mute`.
FAKE = """
import pathlib, socket, sys
lives = pathlib.Path(sys.argv[1])
life, *rest = lives.read_text().split()
if rest:
    lives.write_text(" ".join(rest))
if life == "die":
    sys.exit("error: unable to forward port because pod is not running. Current status=Pending")
if life == "forbidden":
    sys.exit('Error from server (Forbidden): pods "app" is forbidden: User "ci" cannot create resource')
if life == "mute":
    import time
    time.sleep(60)
server = socket.create_server(("127.0.0.1", 0))
print(f"Forwarding from 127.0.0.1:{server.getsockname()[1]} -> 80", flush=True)
while True:
    client, _ = server.accept()
    print("Handling connection for 1", flush=True)
    if life == "refuse":
        print("E1123 portforward.go:424] an error occurred: connect: connection refused", file=sys.stderr, flush=True)
        client.close()
        sys.exit("error: lost connection to pod")
    while data := client.recv(65536):
        client.sendall(data)
    client.close()
"""


class Fakes:
    """The backend's surroundings: a kubectl with given lives, and what was resolved."""

    def __init__(self, folder: Path, fake_bin: FakeBin, hand: FakeHand) -> None:
        self.resolved: list[str] = []
        self.events: list[dict[str, Any]] = []
        self._lives = folder / "lives"
        self._hand = hand
        self._hand.emit = lambda event, **fields: self.events.append({"event": event, **fields})  # type: ignore[method-assign]
        (folder / "fake.py").write_text(textwrap.dedent(FAKE))
        fake_bin.put("kubectl", f"exec {sys.executable} -I {folder / 'fake.py'} {self._lives}")

    def backend(self, *lives: str) -> KubectlBackend:
        self._lives.write_text(" ".join(lives))
        return KubectlBackend(self._resolve, "default", {}, self._hand, Deadline(20))

    def _resolve(self, deadline: Deadline) -> tuple[str, int]:
        pod = f"app-{len(self.resolved)}"
        self.resolved.append(pod)
        return pod, 80


@pytest.fixture
def fakes(tmp_path: Path, fake_bin: FakeBin, hand: FakeHand) -> Fakes:
    return Fakes(tmp_path, fake_bin, hand)


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_argv_is_what_people_type() -> None:
    """Loopback only, a free port, the Pod by name."""
    assert str(command("ns", "app", 80)) == "kubectl port-forward --address=127.0.0.1 --namespace=ns pod/app :80"


def test_connections_pass(fakes: Fakes, fake_bin: FakeBin) -> None:
    """One kubectl serves many connections."""
    with closing(Relay("127.0.0.1", 0, fakes.backend("echo"))) as relay:
        assert [ask(relay.port) for _ in range(20)] == [b"hello"] * 20
    assert len(fake_bin.calls) == 1
    assert fakes.events == []


def test_refused_connections_are_repeated(fakes: Fakes, fake_bin: FakeBin) -> None:
    """The Pod does not listen yet: kubectl dies twice, and the client's question still gets its answer."""
    with closing(Relay("127.0.0.1", 0, fakes.backend("refuse", "refuse", "echo"))) as relay:
        assert ask(relay.port) == b"hello"
    assert [call[-2] for call in fake_bin.calls] == ["pod/app-0", "pod/app-1", "pod/app-2"]
    assert [event["event"] for event in fakes.events] == ["forward restarted"] * 2
    assert fakes.events[0]["why"] == "the connection was refused, nothing listens there (yet)"


def test_kubectl_that_does_not_start_is_started_again(fakes: Fakes) -> None:
    """Before it listens it may fail for reasons that pass, such as a Pod that is pending again."""
    with closing(Relay("127.0.0.1", 0, fakes.backend("die", "die", "echo"))) as relay:
        assert ask(relay.port) == b"hello"
    assert "Current status=Pending" in fakes.events[0]["why"]


def test_killed_kubectl_is_replaced(fakes: Fakes) -> None:
    """When the child is gone, the next connection gets another one."""
    backend = fakes.backend("echo")
    with closing(Relay("127.0.0.1", 0, backend)) as relay:
        assert ask(relay.port) == b"hello"
        for child in shell.alive():
            child.stop()
        assert ask(relay.port) == b"hello"
    assert len(fakes.resolved) == 2


def test_missing_permission_is_final(fakes: Fakes) -> None:
    """What cannot heal is said at once, in kubectl's words."""
    backend = fakes.backend("forbidden")
    with closing(backend), pytest.raises(StepFailed, match='User "ci" cannot create resource'):
        backend.connect(Deadline(20))


def test_time_runs_out_while_kubectl_starts_again(fakes: Fakes) -> None:
    """What the one before it said is the reason: the newest has not said anything yet."""
    backend = fakes.backend("refuse", "mute")
    with closing(backend):
        far = backend.connect(Deadline(20))
        assert backend._tunnel
        backend._tunnel.refused.wait(20)
        with Deadline(20) as deadline:
            fakes._hand.emit = lambda event, **_: setattr(deadline, "moment", 0.0)  # type: ignore[method-assign]
            with pytest.raises(TimedOut) as caught:
                backend.connect(deadline)
        far.close()

    assert caught.value.message == (
        "port 80 of pod/app-1 does not answer: the connection was refused, nothing listens there (yet)"
    )
    assert caught.value.hint == "does the program listen on 0.0.0.0:80?"


def test_connect_can_be_cancelled(fakes: Fakes) -> None:
    """A signal ends the wait for a forward that does not come."""
    backend = fakes.backend("die")
    deadline = Deadline(20)
    fakes._hand.emit = lambda event, **_: deadline.cancel("SIGINT")  # type: ignore[method-assign]
    with closing(backend), pytest.raises(Cancelled):
        backend.connect(deadline)


def test_close_leaves_no_child(fakes: Fakes) -> None:
    """Nothing of it lives on."""
    backend = fakes.backend("echo")
    backend.connect(Deadline(20)).close()
    backend.close()
    backend.close()

    assert shell.alive() == ()
