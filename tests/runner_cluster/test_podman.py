"""The engine on a real podman."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner.cluster import podman
from runner.cluster.podman import Podman, PodmanDialect
from runner.cluster.podman_dialect import DEFAULT_NETWORK, NETWORK, POD_KINDS, VOLUME_KINDS
from runner.cluster.protocol import RUN_LABEL, Manifest, Object, Ref, Selection
from runner.cluster.readiness import judge
from runner.cluster.waiting import Goal, wait_for
from runner.deadline import Deadline
from runner.errors import Cancelled, CannotStart, CommandResult, StepFailed
from runner.journal import Undo
from runner.shell import Command, run

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/runner-test-app:1"


@dataclass
class StepHand:
    """What a step gives to the engine; its journal is a list."""

    folder: Path
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    lifetime: float = 60.0
    allowed: frozenset[str] = frozenset()
    deadline: Deadline = field(default_factory=lambda: Deadline(60))
    records: list[Undo] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)

    def execute(self, command: Command, *, check: bool = True) -> CommandResult:
        self.argv.append(str(command))
        result = run(command, self.deadline)
        if check and result.code:
            raise StepFailed(f"{command.argv[0]} failed", details=result.stderr, result=result)
        return result

    def waiting(self, what: str, seconds: float = 0.0) -> None: ...

    def warn(self, message: str, *, hint: str = "") -> None:
        self.warnings.append(message)

    def note(self, message: str) -> None: ...

    def intend(self, ref: Ref) -> Undo:
        record = Undo(
            id=secrets.token_hex(4), engine="podman", api_version=ref.api_version, kind=ref.kind, name=ref.name
        )
        self.records.append(record)
        return record

    def made(self, record: Undo, uid: str) -> None:
        self.unmade(record)
        self.records.append(
            Undo(id=record.id, engine="podman", api_version="", kind=record.kind, name=record.name, uid=uid)
        )

    def unmade(self, record: Undo) -> None:
        self.records = [item for item in self.records if item.id != record.id]

    def emit(self, event: str, /, **fields: Any) -> None: ...

    def deleted(self, ref: Ref) -> None:
        self.records = [item for item in self.records if (item.kind, item.name) != (ref.kind, ref.name)]


@pytest.fixture
def hand(tmp_path: Path) -> StepHand:
    return StepHand(tmp_path)


def manifest(object_: Object) -> Manifest:
    return Manifest(object_, "app/web.yaml", 3)


def pod(name: str, image: str = IMAGE, **more: Any) -> Object:
    container = {"name": "app", "image": image, "imagePullPolicy": "Never", **more.pop("container", {})}
    meta = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container], **more}}


def deployment(name: str, replicas: int = 1, **more: Any) -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod(name, **more)["spec"]}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def test_podman_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Deadline(5) as deadline, pytest.raises(CannotStart, match="podman is not installed") as failed:
        podman.start(tmp_path, deadline)
    assert "apt-get install podman" in failed.value.hint


def shell_podman(*words: str) -> str:
    answer = subprocess.run(["podman", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"podman {' '.join(words)}: {answer.stderr}"
    return answer.stdout.strip()


def exists(kind: str, name: str) -> bool:
    return subprocess.run(["podman", kind, "exists", name], check=False).returncode == 0


@pytest.fixture(scope="module")
def image(podman_env: dict[str, str]) -> str:
    """A web server on port 5000 that says hello."""
    base = os.environ.get("BASE_IMAGE", "docker.io/library/python:3-alpine")
    argv = [
        "build",
        "--tag",
        IMAGE,
        "--label=of=tests",
        f"--build-arg=BASE={base}",
        str(ROOT / "workflows" / "pythonapp"),
    ]
    shell_podman(*argv)  # with an id of its own: others build pythonapp at the same time
    if not exists("network", DEFAULT_NETWORK):  # podman makes it for the first Pod of a machine
        shell_podman("network", "create", DEFAULT_NETWORK)
    return IMAGE


@pytest.fixture
def real(image: str, tmp_path: Path) -> Iterator[Podman]:
    with Deadline(30) as deadline:
        started = podman.start(tmp_path, deadline)
    yield started
    started.close()


@pytest.fixture
def name() -> Iterator[str]:
    """A name for a Pod or a Deployment; what still has it afterwards is removed."""
    word = f"test-{secrets.token_hex(3)}"
    yield word
    names = (word, f"{word}-pod-0", f"{word}-pod")
    for _ in range(2):  # a crash loop can make podman give up
        subprocess.run(["podman", "pod", "stop", "--time=0", "--ignore", *names], capture_output=True, check=False)
        subprocess.run(["podman", "pod", "rm", "--force", "--ignore", *names], capture_output=True, check=False)


def await_state(engine: Podman, selection: Selection, until: str, hand: StepHand) -> Any:
    """The verdict of a wait that ended."""
    for objects in engine.watch(selection, hand.deadline):
        for item in objects:
            verdict = judge(item, until)
            if verdict.state == "done" or verdict.hopeless:
                return verdict
    raise AssertionError


def ask(engine: Podman, target: Selection, port: str, hand: StepHand) -> str:
    """What the web server behind a forward says."""
    far = engine.far_end(target, [port], "port_forward", "", hand)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = far.connect(port, hand.deadline)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
        far.close()


SLEEP = {
    "command": ["python3", "-c", "import signal; signal.signal(15, lambda *_: exit()); print('up'); signal.pause()"]
}
CRASH = {"command": ["python3", "-c", "print('no database'); raise SystemExit(3)"]}


@pytest.mark.podman
def test_a_pod_lives_and_is_undone(real: Podman, hand: StepHand, name: str) -> None:
    app = pod(name, container={"ports": [{"name": "http", "containerPort": 5000}]})
    (applied,) = real.apply([manifest(app)], "", hand)
    assert applied.created
    assert shell_podman("pod", "inspect", "--format", "{{.ID}}", name) == applied.uid
    assert [(record.name, record.uid) for record in hand.records] == [(name, applied.uid)]
    assert await_state(real, Selection("pod", (name,)), "ready", hand).state == "done"
    assert "Hello" in ask(real, Selection("pod", (name,)), "http", hand)
    assert shell_podman("port", f"{name}-app") == ""  # a containerPort does not take a port of this machine
    (gone,) = real.undo(hand.records, hand, hurry=False)
    assert gone.why == ""
    assert not exists("pod", name)


@pytest.mark.podman
def test_applying_the_same_again_changes_nothing(real: Podman, hand: StepHand, name: str, tmp_path: Path) -> None:
    (first,) = real.apply([manifest(pod(name, container=SLEEP))], "", hand)
    other = StepHand(tmp_path)
    (again,) = real.apply([manifest(pod(name, container=SLEEP))], "", other)
    assert (again.uid, again.created) == (first.uid, False)
    assert other.records == []


@pytest.mark.podman
def test_a_changed_pod_of_this_run_is_replaced(real: Podman, hand: StepHand, name: str) -> None:
    (first,) = real.apply([manifest(pod(name, container=SLEEP))], "", hand)
    (second,) = real.apply([manifest(pod(name))], "", hand)
    assert second.created
    assert second.uid != first.uid
    assert [record.uid for record in hand.records] == [second.uid]


@pytest.mark.podman
def test_a_changed_pod_of_somebody_else_is_left_alone(real: Podman, hand: StepHand, name: str, tmp_path: Path) -> None:
    (first,) = real.apply([manifest(pod(name, container=SLEEP))], "", hand)
    with pytest.raises(StepFailed, match="was not made from this manifest") as failed:
        real.apply([manifest(pod(name))], "", StepHand(tmp_path))
    assert name in failed.value.hint
    assert shell_podman("pod", "inspect", "--format", "{{.ID}}", name) == first.uid


@pytest.mark.podman
def test_a_failed_play_is_recorded_and_undone(real: Podman, hand: StepHand, name: str) -> None:
    with pytest.raises(StepFailed, match="image not known") as failed:
        real.apply([manifest(pod(name, image="localhost/never-built"))], "", hand)
    assert failed.value.reason == "ErrImageNeverPull"
    assert "build it" in failed.value.hint
    assert exists("pod", name)  # podman leaves it
    (gone,) = real.undo(hand.records, hand, hurry=False)
    assert gone.why == ""
    assert not exists("pod", name)


@pytest.mark.podman
def test_a_command_that_is_not_there(real: Podman, hand: StepHand, name: str) -> None:
    with pytest.raises(StepFailed, match="/nonexistent") as failed:
        real.apply([manifest(pod(name, container={"command": ["/nonexistent"]}))], "", hand)
    assert failed.value.reason == "RunContainerError"
    assert [record.name for record in hand.records] == [name]


@pytest.mark.podman
def test_a_crash_loop_ends_a_wait_and_shows_the_log(real: Podman, hand: StepHand, name: str) -> None:
    real.apply([manifest(pod(name, container=CRASH))], "", hand)
    for objects in real.watch(Selection("pod", (name,)), hand.deadline):
        if objects and judge(objects[0], "ready").hopeless:
            break
    trouble = judge(objects[0], "ready").hopeless
    assert trouble
    assert trouble.reason == "CrashLoopBackOff"
    assert "exit code 3" in trouble.sentence
    told = real.explain(objects, hand.deadline)
    assert "exit code 3" in told
    assert "no database" in told
    (gone,) = real.undo(hand.records, hand, hurry=True)
    assert gone.why == ""


@pytest.mark.podman
def test_a_pod_that_needs_two_attempts_becomes_ready(real: Podman, hand: StepHand, name: str) -> None:
    code = "import os, signal; os.path.exists('/x') or (open('/x', 'w'), exit(1)); signal.pause()"
    real.apply([manifest(pod(name, container={"command": ["python3", "-c", code]}))], "", hand)
    (found,) = wait_for(real, [Selection("pod", (name,))], Goal(), hand)
    assert "running" in found["status"]["containerStatuses"][0]["state"]


@pytest.mark.podman
@pytest.mark.parametrize(("code", "reason"), [(0, None), (3, "PodFailed")])
def test_a_pod_that_is_meant_to_end(real: Podman, hand: StepHand, name: str, code: int, reason: str | None) -> None:
    ends = pod(name, container={"command": ["python3", "-c", f"exit({code})"]}, restartPolicy="Never")
    real.apply([manifest(ends)], "", hand)
    trouble = await_state(real, Selection("pod", (name,)), "complete", hand).hopeless
    assert (trouble.reason if trouble else None) == reason


@pytest.mark.podman
def test_configuration_reaches_the_containers_and_leaves_nothing(real: Podman, hand: StepHand, name: str) -> None:
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-c"}, "data": {"a": "config"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{name}-s"}, "data": {"b": "c2VjcmV0"}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": f"{name}-p"}, "spec": {}},
    ]
    objects[2]["spec"] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    code = "import os; print(open('/c/a').read(), open('/s/b').read(), os.environ['B'], os.environ['b'])"
    code += "; open('/p/x', 'w'); open('/e/x', 'w')"
    mounts = [{"name": each, "mountPath": f"/{each}"} for each in "cspe"]
    container = {
        "command": ["python3", "-c", code],
        "env": [{"name": "B", "valueFrom": {"secretKeyRef": {"name": f"{name}-s", "key": "b"}}}],
        "envFrom": [{"secretRef": {"name": f"{name}-s"}}],
        "volumeMounts": mounts,
    }
    volumes = [
        {"name": "c", "configMap": {"name": f"{name}-c"}},
        {"name": "s", "secret": {"secretName": f"{name}-s"}},
        {"name": "p", "persistentVolumeClaim": {"claimName": f"{name}-p"}},
        {"name": "e", "emptyDir": {}},
    ]
    objects.append(pod(name, container=container, volumes=volumes, restartPolicy="Never"))
    real.apply([manifest(item) for item in objects], "", hand)
    assert await_state(real, Selection("pod", (name,)), "complete", hand).state == "done"
    assert shell_podman("logs", f"{name}-app") == "config secret secret secret"
    assert all(gone.why == "" for gone in real.undo(hand.records, hand, hurry=False))
    assert name not in shell_podman("volume", "ls") + shell_podman("secret", "ls")


@pytest.mark.podman
def test_a_volume_of_somebody_else_is_not_written_to(real: Podman, hand: StepHand, name: str) -> None:
    shell_podman("volume", "create", name)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}}
    app = pod(name, volumes=[{"name": "c", "configMap": {"name": name}}])
    try:
        with pytest.raises(StepFailed, match=f"there is a volume {name} of somebody else"):
            real.apply([manifest(config), manifest(app)], "", hand)
        assert hand.records == []
    finally:
        shell_podman("volume", "rm", name)


@pytest.mark.podman
def test_a_forward_to_a_service_reaches_the_deployment(real: Podman, hand: StepHand, name: str) -> None:
    app = deployment(name, container={"ports": [{"name": "http", "containerPort": 5000}]})
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]}
    front = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    service, applied = real.apply([manifest(front), manifest(app)], "", hand)
    assert (service.created, applied.created) == (False, True)
    assert await_state(real, Selection("deployment", (name,)), "ready", hand).state == "done"
    assert "Hello" in ask(real, Selection("service", (name,)), "80", hand)
    assert "Hello" in ask(real, Selection("deploy", (name,)), "5000", hand)


@pytest.mark.podman
def test_undo_spares_a_pod_that_only_has_the_name(real: Podman, hand: StepHand, name: str) -> None:
    (applied,) = real.apply([manifest(pod(name, container=SLEEP))], "", hand)
    stranger = Undo(id="1", engine="podman", api_version="v1", kind="Pod", name=name, uid="0" * 64)
    (gone,) = real.undo([stranger], hand, hurry=False)
    assert gone.why == ""
    assert shell_podman("pod", "inspect", "--format", "{{.ID}}", name) == applied.uid


@pytest.mark.podman
def test_undo_of_an_intent_goes_by_the_label(real: Podman, hand: StepHand, name: str, tmp_path: Path) -> None:
    real.apply([manifest(pod(name, container=SLEEP))], "", hand)
    intent = Undo(id="1", engine="podman", api_version="v1", kind="Pod", name=name)
    list(real.undo([intent], StepHand(tmp_path), hurry=False))
    assert exists("pod", name)
    assert [gone.why for gone in real.undo([intent], hand, hurry=False)] == [""]
    assert not exists("pod", name)


@pytest.mark.podman
def test_hurry_does_not_wait_for_an_app_that_ignores_sigterm(real: Podman, hand: StepHand, name: str) -> None:
    stubborn = {
        "command": ["python3", "-c", "import signal; signal.signal(15, signal.SIG_IGN)\nwhile 1: signal.pause()"]
    }
    real.apply([manifest(pod(name, container=stubborn))], "", hand)
    with Deadline(8) as deadline:  # podman's own grace is 10 s
        hand.deadline = deadline
        assert [gone.why for gone in real.undo(hand.records, hand, hurry=True)] == [""]


@pytest.mark.podman
def test_delete_returns_when_it_is_gone(real: Podman, hand: StepHand, name: str) -> None:
    real.apply([manifest(pod(name, container=SLEEP))], "", hand)
    selection = Selection("pod", (name,))
    commands = real.dialect.delete((selection,), None)
    refs = real.delete(real.expand(selection, hand.deadline), commands, hand, wait=True, ignore_not_found=True)
    assert [ref.name for ref in refs] == [name]
    assert not exists("pod", name)
    assert hand.records == []
    assert real.delete(refs, commands, hand, wait=True, ignore_not_found=True) == []
    with pytest.raises(StepFailed, match="does not exist"):
        real.delete(refs, commands, hand, wait=True, ignore_not_found=False)


@pytest.mark.podman
def test_a_watch_sees_what_others_do(real: Podman, hand: StepHand, name: str) -> None:
    real.apply([manifest(pod(name, container=SLEEP))], "", hand)
    seen = real.watch(Selection("pod", (name,)), hand.deadline)
    assert len(next(seen)) == 1
    line = " && ".join(map(str, real.dialect.delete((Selection("pod", (name,)),), 0)))
    with subprocess.Popen(["bash", "-c", line], stdout=subprocess.DEVNULL) as remover:
        assert any(objects == [] for objects in seen)
    assert remover.returncode == 0


@pytest.mark.podman
def test_a_watch_of_podman_ends_when_it_is_cancelled(real: Podman) -> None:
    with Deadline(30) as deadline:
        seen = real.watch(Selection("pod", ("never",)), deadline)
        assert next(seen) == []
        threading.Thread(target=deadline.cancel, args=("enough",)).start()
        with pytest.raises(Cancelled, match="enough"):
            next(seen)
        assert deadline.remaining() > 20


@pytest.mark.podman
def test_a_connection_waits_until_the_app_listens(real: Podman, hand: StepHand, name: str) -> None:
    late = "import time, runpy; time.sleep(0.5); runpy.run_path('/app.py', run_name='__main__')"
    real.apply([manifest(pod(name, container={"command": ["python3", "-c", late]}))], "", hand)
    assert "Hello" in ask(real, Selection("pod", (name,)), "5000", hand)


@pytest.mark.podman
def test_load(real: Podman, hand: StepHand, tmp_path: Path) -> None:
    assert "needs no loading" in real.load(IMAGE, None, hand)
    with pytest.raises(StepFailed, match="podman has no image never-built"):
        real.load("never-built", None, hand)
    archive = tmp_path / "app.tar"
    shell_podman("save", "--output", str(archive), IMAGE)
    assert real.load(str(archive), archive, hand) == "loaded by podman load --input=app.tar"


@pytest.mark.podman
def test_made_objects_carry_the_label_of_the_run(real: Podman, hand: StepHand, name: str) -> None:
    real.apply([manifest(pod(name, container=SLEEP))], "", hand)
    assert shell_podman("pod", "ps", "--quiet", f"--filter=label={RUN_LABEL}={hand.run_id}") != ""


@pytest.mark.podman
def test_without_root_a_pod_is_reached_through_a_published_port(real: Podman, hand: StepHand, name: str) -> None:
    real.direct = False  # as a podman without root is treated
    real.apply([manifest(pod(name, container={"ports": [{"containerPort": 5000}]}))], "", hand)
    assert "Hello" in ask(real, Selection("pod", (name,)), "5000", hand)
    assert shell_podman("port", f"{name}-app").startswith("5000/tcp -> 127.0.0.1:")


@pytest.mark.podman
def test_a_podman_behind_a_socket(
    real: Podman, hand: StepHand, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{real._service.path(Deadline(10))}")
    with Deadline(10) as deadline:
        remote = podman.start(tmp_path, deadline)
    try:
        remote.apply([manifest(pod(name, container=SLEEP))], "", hand)
        assert await_state(remote, Selection("pod", (name,)), "ready", hand).state == "done"
        assert [gone.why for gone in remote.undo(hand.records, hand, hurry=False)] == [""]
    finally:
        remote.close()
    assert real.get(Ref("Pod", name), Deadline(5)) is None  # the service of others still answers


@pytest.mark.podman
def test_the_lines_of_waits_and_of_a_delete_by_label_work(real: Podman, hand: StepHand, name: str) -> None:
    dialect, by_label = PodmanDialect(), Selection("pod", selector=f"app={name}")
    real.apply([manifest(pod(name, container=SLEEP))], "", hand)

    def code(selection: Selection, until: str, seconds: int) -> int:
        (line,) = dialect.wait(selection, until, seconds)
        return run(Command(("bash", "-c", line)), hand.deadline).code

    for selection in (Selection("pod", (name,)), by_label):
        assert [code(selection, until, 10) for until in ("create", "ready")] == [0, 0]
        assert code(selection, "delete", 1) == 124  # of timeout: it is there
    for command in dialect.delete((by_label,), 1):
        run(command, hand.deadline)
    assert code(by_label, "delete", 10) == 0
    assert not exists("pod", name)


@pytest.mark.podman
def test_the_line_of_a_forward_works(real: Podman, hand: StepHand, name: str) -> None:
    real.apply([manifest(pod(name))], "", hand)
    assert "Hello" in ask(real, Selection("pod", (name,)), "5000", hand)  # it listens
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    relay = PodmanDialect().forward(Selection("pod", (name,)), [f"{port}:5000"], "127.0.0.1")
    child = subprocess.Popen(relay.argv)
    try:
        assert "Hello" in fetch(port, hand.deadline.pause)
    finally:
        child.kill()
        child.wait()


def fetch(port: int, pause: Callable[[float], None]) -> str:
    """The answer of a server that is just starting."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            pause(0.02)
        finally:
            connection.close()


@pytest.mark.podman
def test_a_namespace_makes_no_difference(real: Podman, hand: StepHand) -> None:
    """There is none, and nothing says otherwise."""
    real.make_namespace("mine", hand)
    real.use_namespace("mine")
    assert real.namespace == "default"
    assert hand.argv == []


@pytest.mark.podman
def test_all_that_is_recorded_can_be_verified(real: Podman, hand: StepHand, name: str) -> None:
    """Whatever kind a record has: the object is found by it while it is there, and not afterwards."""
    mounts = [{"name": key, "mountPath": f"/{key}"} for key in ("claimed", "undeclared", "configured")]
    volumes = [
        {"name": "claimed", "persistentVolumeClaim": {"claimName": f"{name}-claim"}},
        {"name": "undeclared", "persistentVolumeClaim": {"claimName": f"{name}-other"}},
        {"name": "configured", "configMap": {"name": f"{name}-config"}},
    ]
    meta = {"name": f"{name}-claim"}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": {}}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-config"}, "data": {"a": "b"}}
    container = {**SLEEP, "volumeMounts": mounts}
    objects = [claim, config, pod(name, container=container, volumes=volumes), deployment(f"{name}-d", container=SLEEP)]
    real.apply([manifest(item) for item in objects], "", hand)
    shell_podman("network", "create", name)
    network = hand.intend(Ref(NETWORK, name))
    live = real.live(NETWORK, name, hand.deadline)
    assert live
    hand.made(network, live.uid)
    records = list(hand.records)

    assert {record.kind for record in records} == {*POD_KINDS, *VOLUME_KINDS, NETWORK}
    found = [real.get(Ref(record.kind, record.name), hand.deadline) for record in records]
    assert [item and item["metadata"]["uid"] for item in found] == [record.uid for record in records]
    assert [gone.why for gone in real.undo(records, hand, hurry=False)] == [""] * len(records)
    assert not any(real.get(Ref(record.kind, record.name), hand.deadline) for record in records)


@pytest.mark.podman
def test_a_network_that_others_use_stays(real: Podman, hand: StepHand, name: str) -> None:
    """And it is no leftover of the run."""
    shell_podman("network", "create", name)
    shell_podman("pod", "create", f"--network={name}", f"--name={name}")
    record = Undo(id="1", engine="podman", api_version="", kind=NETWORK, name=name)
    try:
        assert [(gone.why, gone.stays) for gone in real.undo([record], hand, hurry=False)] == [("", True)]
        assert exists("network", name)
    finally:
        shell_podman("network", "rm", "--force", name)


@pytest.mark.podman
def test_what_is_ignored_is_said_once(real: Podman, hand: StepHand, name: str) -> None:
    """Before the run of files, else when it is applied: nobody knows sooner what a kustomization renders."""
    probed = {**SLEEP, "readinessProbe": {"exec": {"command": ["true"]}}}
    rendered = manifest(deployment(name, replicas=2, container=probed))
    real.apply([rendered], "", hand)
    place = f"deployment/{name} (app/web.yaml:3)"
    assert hand.warnings == [
        f"{place}: only one Pod runs instead of 2",
        f"{place}: container app: podman ignores readinessProbe: ready means that all containers run",
    ]
    real.apply([rendered], "", hand)
    assert len(hand.warnings) == 2
    service = manifest({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {}})
    assert len(real.check([service, rendered])[0]) == 1
    real.apply([service], "", hand)
    assert len(hand.warnings) == 2


@pytest.mark.podman
def test_what_is_impossible_is_not_applied(real: Podman, hand: StepHand, name: str) -> None:
    stateful = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}}
    with pytest.raises(StepFailed, match="podman cannot run a StatefulSet"):
        real.apply([manifest(pod(name, container=SLEEP)), manifest(stateful)], "", hand)
    assert hand.argv == []
