"""The far end of a forward to a Pod."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from runner.cluster.podman_backend import PodmanFarEnd
from runner.cluster.protocol import Object, Selection
from runner.deadline import Deadline
from runner.errors import Cancelled, Expired, StepFailed

if TYPE_CHECKING:
    from tests.runner_cluster.conftest import FakeHand

POD = Selection("pod", ("web",))
SERVICE = {"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 5000}]}}


@dataclass
class FakeObserver:
    """Knows one Pod, and remembers who was asked for."""

    address: str = "127.0.0.1"
    published: dict[int, int] = field(default_factory=dict)
    known: dict[tuple[str, str], Object] = field(default_factory=dict)
    asked: list[Selection] = field(default_factory=list)
    late: bool = True
    """Whether the Pod comes a moment after the look."""

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[Object]]:
        self.asked.append(selection)
        if self.late:
            yield []
        status = {"podIP": self.address, "published": self.published}
        yield [{"kind": "Pod", "metadata": {"name": "web"}, "spec": {}, "status": status}]


def far_end(observer: FakeObserver, target: Selection = POD, *, direct: bool = True) -> PodmanFarEnd:
    return PodmanFarEnd(observer, target, direct=direct)  # type: ignore[arg-type]


def connect(far: PodmanFarEnd, port: int | str) -> socket.socket:
    with Deadline(5) as deadline:
        return far.connect(str(port), deadline)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_connection_to_the_pod(server: socket.socket) -> None:
    port = server.getsockname()[1]
    with connect(far_end(FakeObserver()), port) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)


def test_a_connection_to_a_published_port(server: socket.socket) -> None:
    port = server.getsockname()[1]
    with connect(far_end(FakeObserver(published={5000: port}), direct=False), 5000) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)


def test_a_port_that_answers(server: socket.socket, hand: FakeHand) -> None:
    """Ready means that every port takes a connection, and says what it waits for until then."""
    port = str(server.getsockname()[1])
    far_end(FakeObserver()).await_answer([port], hand)
    assert hand.waits == ["a running Pod of pod/web", f"pod/web to listen on port {port}"]


def test_a_pod_that_runs_and_does_not_listen_yet_is_one_line(server: socket.socket, hand: FakeHand) -> None:
    """However often its address is looked up again."""
    port = str(server.getsockname()[1])
    server.close()
    far = far_end(FakeObserver(late=False))
    hand.deadline = Deadline(0.2)
    with pytest.raises(Expired):
        far.await_answer([port], hand)
    assert set(hand.waits) == {f"pod/web to listen on port {port}"}


def test_without_root_an_unpublished_port_cannot_be_reached() -> None:
    with pytest.raises(StepFailed, match="port 80 of pod/web cannot be reached"):
        connect(far_end(FakeObserver(published={5000: 1}), direct=False), 80)


def test_a_pod_that_does_not_listen_is_tried_again_until_the_end(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    observer = FakeObserver()
    far = far_end(observer)
    with Deadline(30) as deadline:
        threading.Timer(0.1, deadline.cancel, args=("enough",)).start()
        with pytest.raises(Cancelled, match="enough"):
            far.connect(str(port), deadline)
    assert len(observer.asked) > 2  # it is looked for again, for it may have been replaced


@pytest.mark.parametrize("port", ["80", "http"])
def test_a_service_of_the_run_leads_to_its_pods(port: str, server: socket.socket) -> None:
    spec = {**SERVICE["spec"], "ports": [{"name": "http", "port": 80, "targetPort": server.getsockname()[1]}]}
    observer = FakeObserver(known={("Service", "front"): {"spec": spec}})
    connect(far_end(observer, Selection("svc", ("front",))), port).close()
    assert observer.asked == [Selection("Pod", selector="app=web")]


def test_a_service_that_nobody_applied() -> None:
    with pytest.raises(StepFailed, match="podman has no service/front"):
        connect(far_end(FakeObserver(), Selection("service", ("front",))), 80)


def test_a_port_that_a_service_does_not_have() -> None:
    with pytest.raises(StepFailed, match="has no port 81") as failed:
        connect(far_end(FakeObserver(known={("Service", "front"): SERVICE}), Selection("service", ("front",))), 81)
    assert failed.value.hint == "its ports: 80"
