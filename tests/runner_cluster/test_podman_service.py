"""Where podman answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.cluster.http import Api
from runner.cluster.podman_service import RemoteSocket, Service
from runner.deadline import Deadline
from runner.errors import Cancelled, CannotStart, TimedOut


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


def test_podman_cannot_serve(fakes: Any, service: Service) -> None:
    fakes.put("podman", "echo 'Error: no space left on device' >&2; exit 125")
    with pytest.raises(CannotStart, match="does not start: Error: no space left on device"):
        service.path(Deadline(10))


def test_a_service_that_hangs_ends_with_the_deadline(fakes: Any, service: Service) -> None:
    """In time, and at a signal."""
    fakes.put("podman", "exec /bin/sleep 600")
    with pytest.raises(TimedOut):
        service.path(Deadline(0.1))
    deadline = Deadline(60)
    threading.Timer(0.1, deadline.cancel, ("SIGINT",)).start()
    with pytest.raises(Cancelled, match="SIGINT"):
        service.path(deadline)


def test_a_closed_service_is_not_started_again(service: Service) -> None:
    service.close()
    with pytest.raises(CannotStart, match="is closed"):
        service.path(Deadline(10))


def test_a_podman_behind_ssh_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINER_HOST", "ssh://core@vm/run/podman.sock")
    with Deadline(5) as deadline, pytest.raises(CannotStart, match="is not a unix socket"):
        RemoteSocket(deadline)


def test_the_socket_of_a_machine(fakes: Any) -> None:
    fakes.put("podman", "echo /run/machine.sock")
    with Deadline(5) as deadline:
        assert RemoteSocket(deadline).path(deadline) == "/run/machine.sock"
    assert fakes.calls == ["podman machine inspect --format {{.ConnectionInfo.PodmanSocket.Path}}"]


def test_a_machine_that_does_not_exist(fakes: Any) -> None:
    fakes.put("podman", "echo 'Error: podman-machine-default: VM does not exist' >&2; exit 125")
    with Deadline(5) as deadline, pytest.raises(CannotStart, match="has no socket: Error: podman-machine-default"):
        RemoteSocket(deadline)


@pytest.mark.podman
def test_the_service_is_started_again_when_it_dies(podman_env: dict[str, str], service: Service) -> None:
    api = Api(service.path)
    with Deadline(10) as deadline:
        assert api.get("/v4.0.0/libpod/info", deadline)
        child = service._child
        assert child is not None
        child.stop()
        assert api.get("/v4.0.0/libpod/info", deadline)
    api.close()
    assert service._child is not child


@pytest.mark.podman
def test_close_ends_the_service_and_is_harmless_twice(podman_env: dict[str, str], service: Service) -> None:
    path = Path(service.path(Deadline(10)))
    assert path.is_socket()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    service.close()
    service.close()
    assert not path.parent.exists()
