"""What podman has, as a service tells it that answers from a table."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest

from runner.cluster.http import Api
from runner.cluster.podman_dialect import NETWORK
from runner.cluster.podman_observer import Observer
from runner.cluster.protocol import Ref, Selection
from runner.cluster.readiness import judge
from runner.deadline import Deadline
from runner.errors import Cancelled, StepFailed, TimedOut

MOMENT = "2026-11-23T20:55:15.450284721Z"


class FakeService:
    """podman's service on a socket: `answers` are by path, `events` are written as they are put there."""

    def __init__(self, folder: Path) -> None:
        self.file = str(folder / "s.sock")
        self.answers: dict[str, Any] = {}
        self.happened = threading.Semaphore(0)
        self._closed = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.removeprefix("/v4.0.0/libpod")
                if path.startswith("/events"):
                    self.send_response(200)
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    self.close_connection = True
                    while "stream=true" in path and outer.happened.acquire() and not outer._closed:
                        self._chunk(b'{"Type":"pod","Action":"start","Actor":{"ID":"x","Attributes":{}}}\n')
                    with contextlib.suppress(BrokenPipeError):
                        self._chunk(b"")
                    return
                found = outer.answers.get(path)
                body = json.dumps(found if found is not None else {"message": "no such thing", "cause": ""}).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _chunk(self, data: bytes) -> None:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

            def address_string(self) -> str:
                return "unix"

            def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002

        class Server(ThreadingMixIn, UnixStreamServer):
            daemon_threads = True

        self._server = Server(self.file, Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def path(self) -> str:
        return self.file

    def close(self) -> None:
        self._closed = True
        self.happened.release()
        self._server.shutdown()
        self._server.server_close()

    def put_pod(self, name: str, *, labels: dict[str, str] | None = None) -> None:
        """A Pod with one container, which runs."""
        self.answers["/containers/infra/json"] = {"State": {"Status": "running"}, "NetworkSettings": {}}
        self.answers[f"/containers/{name}-1/json"] = {
            "Id": f"{name}-1",
            "Name": f"{name}-app",
            "State": {"Status": "running", "ExitCode": 0, "StartedAt": MOMENT, "FinishedAt": MOMENT},
            "HostConfig": {"RestartPolicy": {"Name": "always"}},
        }
        entry = {
            "Id": f"id of {name}",
            "Name": name,
            "InfraId": "infra",
            "Status": "Running",
            "Created": MOMENT,
            "Labels": labels,
            "Containers": [{"Id": "infra"}, {"Id": f"{name}-1"}],
        }
        self.answers["/pods/json"] = [*self.answers.get("/pods/json", []), entry]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    fake = FakeService(tmp_path)
    yield fake
    fake.close()


@pytest.fixture
def observer(service: FakeService) -> Iterator[Observer]:
    observer = Observer(Api(lambda _: service.path()))
    yield observer
    observer.api.close()


def test_a_pod(service: FakeService, observer: Observer) -> None:
    service.put_pod("web")
    live = observer.get(Ref("pods", "web"), Deadline(5))
    assert live is not None
    assert judge(live, "ready").state == "done"
    assert live["metadata"]["uid"] == "id of web"


def test_a_deployment(service: FakeService, observer: Observer) -> None:
    service.put_pod("web-pod-0")
    live = observer.get(Ref("deployment.apps", "web"), Deadline(5))
    assert live is not None
    assert judge(live, "ready").state == "done"
    assert observer.get(Ref("deployment", "api"), Deadline(5)) is None


def test_a_network(service: FakeService, observer: Observer) -> None:
    """Podman has no list of networks that could be asked for a kind of Kubernetes."""
    service.answers["/networks/net/json"] = {"name": "net", "created": MOMENT}
    live = observer.get(Ref(NETWORK, "net"), Deadline(5))
    assert live is not None
    assert observer.exists(NETWORK, "net", live["metadata"]["uid"], Deadline(5))
    assert observer.get(Ref(NETWORK, "other"), Deadline(5)) is None


def test_expand(service: FakeService, observer: Observer) -> None:
    service.put_pod("one", labels={"app": "a"})
    service.put_pod("two", labels={"app": "b"})
    assert [ref.name for ref in observer.expand(Selection("po", selector="app=b"), Deadline(5))] == ["two"]


def test_a_watch_yields_the_state_and_then_changes_only(service: FakeService, observer: Observer) -> None:
    with Deadline(10) as deadline:
        seen = observer.watch(Selection("pod", ("web",)), deadline)
        assert next(seen) == []
        service.happened.release()  # something else happened: nothing to tell
        service.put_pod("web")
        service.happened.release()
        assert [item["metadata"]["name"] for item in next(seen)] == ["web"]


def test_a_watch_ends_with_its_deadline(observer: Observer) -> None:
    with Deadline(0.2) as deadline, pytest.raises(TimedOut):
        list(observer.watch(Selection("pod", ("web",)), deadline))


def test_a_watch_ends_when_it_is_cancelled(observer: Observer) -> None:
    with Deadline(30) as deadline:
        seen = observer.watch(Selection("pod", ("web",)), deadline)
        next(seen)
        threading.Thread(target=deadline.cancel, args=("enough",)).start()
        with pytest.raises(Cancelled, match="enough"):
            next(seen)
        assert deadline.remaining() > 20


def test_podman_has_no_ingress(observer: Observer) -> None:
    with pytest.raises(StepFailed, match="podman has no ingress"):
        observer.expand(Selection("ingress", selector="a=b"), Deadline(5))


def test_namespaces_are_taken_at_their_word(observer: Observer) -> None:
    assert observer.get(Ref("Namespace", "any"), Deadline(5)) is not None


def test_what_podman_keeps_of_an_object(service: FakeService, observer: Observer) -> None:
    service.put_pod("web-pod-0")
    service.answers["/volumes/data/json"] = {"CreatedAt": "today", "Labels": None}
    with Deadline(5) as deadline:
        pod, volume = observer.live("Deployment", "web", deadline), observer.live("Volume", "data", deadline)
        assert pod is not None
        assert (pod.uid, pod.name, pod.status) == ("id of web-pod-0", "web-pod-0", "Running")
        assert volume is not None
        assert (volume.uid, volume.labels) == ("today", {})
        assert observer.live("Volume", "other", deadline) is None
        assert observer.live("ConfigMap", "any", deadline) is None
        assert observer.exists("Volume", "data", "today", deadline)
        assert not observer.exists("Volume", "data", "yesterday", deadline)


def test_what_a_run_applied_and_podman_does_not_keep(observer: Observer) -> None:
    service = {"kind": "Service", "metadata": {"name": "web", "labels": {"app": "a"}}}
    observer.known["Service", "web"] = service
    assert observer.get(Ref("svc", "web"), Deadline(5)) == service
    assert observer.expand(Selection("service", selector="app=b"), Deadline(5)) == []
