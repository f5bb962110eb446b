"""The supervised `kubectl port-forward`, with a fake kubectl that dies as the real one does."""

from __future__ import annotations

import queue
import socket
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner import shell
from runner.cluster import portforward
from runner.cluster.portforward import REFUSED, PortForward, command
from runner.cluster.relay import Relay
from runner.cluster.targets import Follower, Place, Sight
from runner.deadline import Deadline
from runner.errors import Cancelled, StepFailed, TimedOut

if TYPE_CHECKING:
    from tests.conftest import FakeBin
    from tests.runner_cluster.conftest import FakeHand

# Each life of the fake is a word: `refuse` a connection and die as kubectl does, `echo`, `die` at once, be `forbidden`,
# be `mute`.
FAKE = """
import pathlib, select, socket, sys, threading
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
servers = []
for word in sys.argv[2:]:
    if word.startswith(":"):
        servers.append(socket.create_server(("127.0.0.1", 0)))
        print(f"Forwarding from 127.0.0.1:{servers[-1].getsockname()[1]} -> {word[1:]}", flush=True)
def serve(client):
    while data := client.recv(65536):
        client.sendall(data)
    client.close()
while True:
    ready, _, _ = select.select(servers, [], [])
    client, _ = ready[0].accept()
    print("Handling connection for 1", flush=True)
    if life == "refuse-second":
        first, (client, _) = client, ready[0].accept()
        life = "refuse"
    if life == "refuse":
        print("E1 an error occurred forwarding 1 -> 80: connection refused", file=sys.stderr, flush=True)
        client.close()
        sys.exit("error: lost connection to pod")
    threading.Thread(target=serve, args=(client,), daemon=True).start()
"""


def place(name: str, **ports: int) -> Place:
    return Place("pod", name, name, ports or {"http": 80})


class Fakes:
    """What is around a forward: a kubectl with given lives, and a target that the test shows."""

    def __init__(self, folder: Path, fake_bin: FakeBin, hand: FakeHand) -> None:
        self.sights: queue.Queue[Sight] = queue.Queue()
        self.events: list[dict[str, Any]] = []
        self._lives = folder / "lives"
        self._hand = hand
        self._event = threading.Semaphore(0)
        self._hand.emit = self._emit  # type: ignore[method-assign]
        (folder / "fake.py").write_text(textwrap.dedent(FAKE))
        fake_bin.put("kubectl", f'exec {sys.executable} -I {folder / "fake.py"} {self._lives} "$@"')

    def await_event(self) -> None:
        assert self._event.acquire(timeout=20)

    def _emit(self, event: str, /, **fields: Any) -> None:
        self.events.append({"event": event, **fields})
        self._event.release()

    def forward(self, *lives: str, sight: Sight | None = None) -> PortForward:
        self._lives.write_text(" ".join(lives))
        self.sights.put(sight or Sight(place("app-0"), unfit={"app-0": ""}))
        return PortForward(Follower(self._look), "default", {}, "127.0.0.1:5000", self._hand)

    def _look(self, deadline: Deadline) -> Iterator[Sight]:
        while True:
            with suppress(queue.Empty):
                yield self.sights.get(timeout=0.05)
            deadline.check()


@contextmanager
def relaying(forward: PortForward) -> Iterator[Relay]:
    with closing(Relay("127.0.0.1", 0)) as local, closing(forward):
        local.start(partial(forward.serve, "http"))
        yield local


@pytest.fixture
def fakes(tmp_path: Path, fake_bin: FakeBin, hand: FakeHand, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    monkeypatch.setattr(portforward, "_SHORTEST_SILENCE", 0.1)  # the fake is slow to refuse on a busy machine
    return Fakes(tmp_path, fake_bin, hand)


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def connect(forward: PortForward, port: str = "http") -> socket.socket:
    with Deadline(20) as deadline:
        return forward.connect(port, deadline)


def test_argv_is_what_people_type() -> None:
    """Loopback only, free ports, the Pod by name; one kubectl for all ports."""
    line = "kubectl port-forward --address=127.0.0.1 --namespace=ns pod/app :80 :90"
    assert str(command("ns", "app", [80, 90])) == line


def test_connections_pass(fakes: Fakes, fake_bin: FakeBin) -> None:
    """One kubectl serves many connections."""
    with relaying(fakes.forward("echo")) as local:
        assert [ask(local.port) for _ in range(20)] == [b"hello"] * 20
    assert len(fake_bin.calls) == 1
    assert fakes.events == []


def test_several_ports_share_one_kubectl(fakes: Fakes, fake_bin: FakeBin) -> None:
    """Every port leads to its own end, and two names of one port to the same."""
    sight = Sight(place("app", http=80, metrics=90, web=80))
    with closing(fakes.forward("echo", sight=sight)) as forward:
        ends = [connect(forward, port) for port in ("http", "metrics", "web")]
        ports = [end.getpeername()[1] for end in ends]
        for end in ends:
            end.close()
    assert ports[0] == ports[2] != ports[1]
    assert [call[-2:] for call in fake_bin.calls] == [[":80", ":90"]]


def test_ready_means_that_the_port_answers(fakes: Fakes, fake_bin: FakeBin, hand: FakeHand) -> None:
    """Refusals before that are no news: it is said what is waited for."""
    with closing(fakes.forward("refuse", "refuse", "echo")) as forward:
        assert forward.await_answer(["http"], hand) == "pod/app-0"
    assert len(fake_bin.calls) == 3
    assert hand.waits == ["pod/app-0 to listen on port 80"] * 3
    assert fakes.events == []


def test_a_kubectl_that_vanishes_turns_clients_away(
    fakes: Fakes, fake_bin: FakeBin, hand: FakeHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not wait, the log says why, once; and when it is back, so is the forward."""
    monkeypatch.setattr(portforward, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setenv("PATH", str(fake_bin.folder))
    with relaying(forward := fakes.forward("echo")) as local:
        forward.await_answer(["http"], hand)
        (fake_bin.folder / "kubectl").rename(fake_bin.folder / "away")
        end_kubectl()
        answer = b""
        with suppress(ConnectionResetError):  # an end, or this one, as the client's words were read or not
            answer = ask(local.port)
        assert answer == b""
        (fake_bin.folder / "away").rename(fake_bin.folder / "kubectl")
        fakes.await_event()
        assert ask(local.port) == b"hello"
    (warning,) = hand.warnings
    assert warning.startswith("the forward 127.0.0.1:5000 is down: ")
    assert "kubectl" in warning
    assert [event["event"] for event in fakes.events] == ["forward restarted"]


def test_a_kubectl_that_never_was_there_ends_the_step(
    fakes: Fakes, fake_bin: FakeBin, hand: FakeHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, with the reason."""
    monkeypatch.setenv("PATH", str(fake_bin.folder))
    (fake_bin.folder / "kubectl").unlink()
    with closing(fakes.forward("echo")) as forward, pytest.raises(StepFailed, match="kubectl is not installed"):
        forward.await_answer(["http"], hand)


def test_refused_connections_are_repeated(fakes: Fakes, hand: FakeHand) -> None:
    """The Pod does not listen for a moment: kubectl dies twice, and the client's question still gets its answer."""
    with relaying(forward := fakes.forward("echo", "refuse", "refuse", "echo")) as local:
        forward.await_answer(["http"], hand)
        end_kubectl()
        assert ask(local.port) == b"hello"
    assert [event["why"] for event in fakes.events] == ["kubectl port-forward ended", REFUSED]
    assert fakes.events[0].items() >= {
        ("event", "forward restarted"),
        ("local", "127.0.0.1:5000"),
        ("target", "pod/app-0"),
    }


def test_restart_is_a_warning_when_something_was_answered(
    fakes: Fakes, hand: FakeHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, nobody noticed: a Pod that was taken for want of a better one gave way to a ready one."""
    monkeypatch.setattr(portforward, "_QUIET_SECONDS", 0)
    with relaying(forward := fakes.forward("echo")) as local:
        forward.await_answer(["http"], hand)
        for _ in range(2):
            end_kubectl()
            assert ask(local.port) == b"hello"
    assert [event["level"] for event in fakes.events] == ["info", "warning"]


def test_kubectl_that_does_not_start_is_started_again(fakes: Fakes) -> None:
    """Before it listens it may fail for reasons that pass, such as a Pod that is pending again."""
    with relaying(fakes.forward("die", "die", "echo")) as local:
        assert ask(local.port) == b"hello"


def end_kubectl() -> None:
    for child in shell.alive():
        child.stop()


def test_killed_kubectl_is_replaced_while_nobody_connects(fakes: Fakes, hand: FakeHand) -> None:
    """An idle forward notices that its child is gone."""
    with closing(forward := fakes.forward("echo")):
        forward.await_answer(["http"], hand)
        end_kubectl()
        fakes.await_event()
        connect(forward).close()
    assert len(fakes.events) == 1


def test_a_replaced_pod_is_followed_while_nobody_connects(fakes: Fakes, fake_bin: FakeBin, hand: FakeHand) -> None:
    """New connections go to the new Pod, those to the old one live as long as that, and both are known."""
    with closing(forward := fakes.forward("echo")):
        forward.await_answer(["http"], hand)
        old = connect(forward)
        fakes.sights.put(Sight(place("app-1"), unfit={"app-0": "pod/app-0 is being deleted", "app-1": ""}))
        fakes.await_event()
        with connect(forward) as new:
            assert new.getpeername() != old.getpeername()
        old.sendall(b"still")
        assert old.recv(5) == b"still"
        fakes.sights.put(Sight(place("app-1"), unfit={"app-1": ""}))
        assert old.recv(1) == b""
        old.close()
    assert [call[-2] for call in fake_bin.calls] == ["pod/app-0", "pod/app-1"]
    (event,) = fakes.events
    assert (event["target"], event["why"]) == ("pod/app-1", "pod/app-0 is being deleted")


def test_clients_wait_while_there_is_no_pod(fakes: Fakes, hand: FakeHand) -> None:
    """Between two Pods a connection is delayed."""
    with relaying(forward := fakes.forward("echo")) as local:
        forward.await_answer(["http"], hand)
        fakes.sights.put(Sight(problem=StepFailed("no Pods"), unfit={}))
        end_kubectl()
        threading.Timer(0.1, fakes.sights.put, args=[Sight(place("app-1"), unfit={"app-1": ""})]).start()
        assert ask(local.port) == b"hello"
    assert [event["target"] for event in fakes.events] == ["pod/app-1"]


def test_what_never_comes_is_said_at_once(fakes: Fakes, hand: FakeHand) -> None:
    """A hopeless target ends the wait; one that may come is said while it is waited for, and at the deadline."""
    never = Sight(problem=StepFailed("deployment/web is scaled to 0", hint="kubectl scale"), patience=0)
    with closing(fakes.forward("echo", sight=never)) as forward, pytest.raises(StepFailed, match="scaled to 0"):
        forward.await_answer(["http"], hand)

    missing = Sight(problem=StepFailed("pod/app does not exist", hint="kubectl get pod"))
    hand.deadline = Deadline(0.3)
    with closing(fakes.forward("echo", sight=missing)) as forward, pytest.raises(TimedOut) as caught:
        forward.await_answer(["http"], hand)
    assert hand.waits == ["pod/app does not exist"]
    assert caught.value.message == "pod/app does not exist, also not within 0.3 s"
    assert caught.value.hint == "kubectl get pod"


def test_a_refusal_is_explained_by_the_pod(fakes: Fakes, hand: FakeHand) -> None:
    """Nothing listens because the container crashes: then that is the reason, at once."""
    crashing = Sight(place("app"), StepFailed("pod/app: CrashLoopBackOff"), patience=0, unfit={"app": ""})
    with closing(fakes.forward("refuse", sight=crashing)) as forward, pytest.raises(StepFailed, match="CrashLoop"):
        forward.await_answer(["http"], hand)


def test_missing_permission_is_final(fakes: Fakes) -> None:
    """What cannot heal is said at once, in kubectl's words, with the other way."""
    with closing(fakes.forward("forbidden")) as forward, pytest.raises(StepFailed) as caught:
        connect(forward)
    assert 'User "ci" cannot create resource' in caught.value.message
    assert "`via: proxy`" in caught.value.hint


def end_of_time(deadline: Deadline, forward: PortForward) -> None:
    deadline.moment = 0.0
    forward._follower.wake()


def test_time_runs_out_while_kubectl_starts_again(fakes: Fakes) -> None:
    """What the one before it said is the reason: the newest has not said anything yet."""
    with closing(fakes.forward("refuse", "mute")) as forward, Deadline(20) as deadline:
        with connect(forward) as far:
            assert far.recv(1) == b""
            assert forward.refused(far)
        threading.Timer(0.3, end_of_time, args=[deadline, forward]).start()
        with pytest.raises(TimedOut) as caught:
            forward.connect("http", deadline)

    assert caught.value.message == f"port 80 of pod/app-0 does not answer: {REFUSED}"
    assert caught.value.hint == "which port does it listen on? kubectl logs pod/app-0 --namespace=default"


def test_what_may_have_been_delivered_is_not_repeated(fakes: Fakes) -> None:
    """Kubectl ends all connections when one is refused: with several that wait, nobody knows which one it was."""
    with closing(fakes.forward("refuse-second")) as forward:
        first, second = connect(forward), connect(forward)
        for far in (first, second):
            with far:
                with suppress(ConnectionError):
                    far.recv(1)
                assert not forward.refused(far)


def test_connect_can_be_cancelled(fakes: Fakes) -> None:
    """A signal ends the wait for a forward that does not come."""
    with closing(fakes.forward("die")) as forward, Deadline(20) as deadline:
        threading.Timer(0.1, deadline.cancel, args=["SIGINT"]).start()
        with pytest.raises(Cancelled):
            forward.connect("http", deadline)


def test_close_leaves_nothing(fakes: Fakes, hand: FakeHand) -> None:
    """No child and no thread of it lives on, and whoever waits is told."""
    threads = set(threading.enumerate())
    forward = fakes.forward("echo")
    forward.await_answer(["http"], hand)
    forward.close()
    forward.close()

    assert shell.alive() == ()
    assert not [thread.name for thread in set(threading.enumerate()) - threads if "forward" in thread.name]
    with pytest.raises(Cancelled):
        connect(forward)
