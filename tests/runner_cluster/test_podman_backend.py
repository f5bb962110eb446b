"""The far end of a forward to a Pod."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from runner.cluster.podman_backend import PodmanBackend
from runner.cluster.protocol import Object, Selection
from runner.deadline import Deadline
from runner.errors import Cancelled, StepFailed

POD = Selection("pod", ("web",))
SERVICE = {"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 5000}]}}


@dataclass
class FakeObserver:
    """Knows one Pod, and remembers who was asked for."""

    address: str = "127.0.0.1"
    published: dict[int, int] = field(default_factory=dict)
    known: dict[tuple[str, str], Object] = field(default_factory=dict)
    asked: list[Selection] = field(default_factory=list)

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[Object]]:
        self.asked.append(selection)
        yield []
        status = {"podIP": self.address, "published": self.published}
        yield [{"kind": "Pod", "metadata": {"name": "web"}, "spec": {}, "status": status}]


def backend(observer: FakeObserver, port: int | str, target: Selection = POD, *, direct: bool = True) -> PodmanBackend:
    with Deadline(5) as deadline:
        return PodmanBackend(observer, target, str(port), deadline, direct=direct)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_connection_to_the_pod(server: socket.socket) -> None:
    port = server.getsockname()[1]
    far = backend(FakeObserver(), port)
    with Deadline(5) as deadline, far.connect(deadline) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)
    assert far.port == port


def test_a_connection_to_a_published_port(server: socket.socket) -> None:
    far = backend(FakeObserver(published={5000: server.getsockname()[1]}), 5000, direct=False)
    with Deadline(5) as deadline:
        far.connect(deadline).close()
    assert far.port == 5000


def test_without_root_an_unpublished_port_cannot_be_reached() -> None:
    with pytest.raises(StepFailed, match="port 80 of pod/web cannot be reached"):
        backend(FakeObserver(published={5000: 1}), 80, direct=False)


def test_a_pod_that_does_not_listen_is_tried_again_until_the_end(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    observer = FakeObserver()
    far = backend(observer, port)
    with Deadline(30) as deadline:
        threading.Timer(0.1, deadline.cancel, args=("enough",)).start()
        with pytest.raises(Cancelled, match="enough"):
            far.connect(deadline)
    assert len(observer.asked) > 2  # it is looked for again, for it may have been replaced


@pytest.mark.parametrize("port", ["80", "http"])
def test_a_service_of_the_run_leads_to_its_pods(port: str) -> None:
    observer = FakeObserver(known={("Service", "front"): SERVICE})
    assert backend(observer, port, Selection("svc", ("front",))).port == 5000
    assert observer.asked == [Selection("Pod", selector="app=web")]


def test_a_service_that_nobody_applied() -> None:
    with pytest.raises(StepFailed, match="podman has no service/front"):
        backend(FakeObserver(), 80, Selection("service", ("front",)))


def test_a_port_that_a_service_does_not_have() -> None:
    with pytest.raises(StepFailed, match="has no port 81") as failed:
        backend(FakeObserver(known={("Service", "front"): SERVICE}), 81, Selection("service", ("front",)))
    assert failed.value.hint == "its ports: 80"
