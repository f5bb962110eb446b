"""From the target of a forward to a Pod and the ports in it, and what is in the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from runner.cluster.protocol import Ref, Selection
from runner.cluster.targets import Follower, Look, Sight, pods, service
from runner.deadline import FOREVER, Deadline
from runner.errors import StepFailed, TimedOut

Object = dict[str, Any]


class FakeCluster:
    """The states of a cluster, one after the other: each watch sees the present one, and moves on to the next."""

    namespace = "demo"
    engine = "kubectl"

    def __init__(self, *states: list[Object]) -> None:
        self._states = list(states)
        self.discovery = SimpleNamespace(of_word=lambda word, deadline: SimpleNamespace(kind=word.capitalize()))
        self.selectors: list[str] = []

    def expand(self, selection: Selection, deadline: Deadline) -> list[Ref]:
        kind = selection.kind
        names = [item["metadata"]["name"] for item in self._states[0] if item["kind"].lower() == kind]
        return [Ref(kind, name, selection.namespace) for name in names]

    def get(self, ref: Ref, deadline: Deadline) -> Object | None:
        return {} if ref.name == self.namespace else None

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[Object]]:
        self.selectors.append(selection.selector)
        plain = [pair.split("=") for pair in selection.selector.split(",") if "=" in pair]
        while True:
            yield [
                item
                for item in self._states[0]
                if item["kind"].lower() == selection.kind
                and (not selection.names or item["metadata"]["name"] in selection.names)
                and all(item["metadata"].get("labels", {}).get(key) == value for key, value in plain)
            ]
            if len(self._states) == 1:
                raise TimedOut("timed out")
            del self._states[0]


PORTS = [{"name": "http", "containerPort": 5000}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]


def pod(name: str, *, phase: str = "Running", ready: bool = True, created: str = "1", **meta: Any) -> Object:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "uid": name, "labels": {"app": "web"}, "creationTimestamp": created, **meta},
        "spec": {"containers": [{"name": "app", "ports": PORTS}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def dying(name: str) -> Object:
    return pod(name, deletionTimestamp="now")


def workload(kind: str, name: str = "web", **spec: Any) -> Object:
    return {
        "kind": kind,
        "metadata": {"name": name, "uid": name},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }


SERVICE = {
    "kind": "Service",
    "metadata": {"name": "web", "uid": "web"},
    "spec": {
        "selector": {"app": "web"},
        "ports": [
            {"port": 80, "protocol": "UDP", "targetPort": 9090},
            {"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"},
            {"port": 81, "targetPort": 8081},
            {"port": 82},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
    },
}
DEPLOYMENT = workload("Deployment")


def look(target: str, port: str, *states: list[Object]) -> list[Sight]:
    """Everything that is seen until the states are over."""
    kind, _, name = target.partition("/")
    return seen(Selection(kind, (name,)), port, *states)


def seen(target: Selection, port: str, *states: list[Object]) -> list[Sight]:
    cluster: Any = FakeCluster(*states)
    return until_the_end(pods(cluster, target, [port]))


def until_the_end(look: Look) -> list[Sight]:
    sights: list[Sight] = []
    with pytest.raises(TimedOut):
        sights.extend(look(Deadline(5)))
    return sights


def places(sights: list[Sight]) -> list[str]:
    return [str(sight.place or "") for sight in sights]


@pytest.mark.parametrize(
    ("target", "port", "number"),
    [
        ("pod/a", "80", 80),
        ("pod/a", "http", 5000),
        ("deployment/web", "http", 5000),
        ("service/web", "80", 5000),
        ("service/web", "web", 5000),
        ("service/web", "81", 8081),
        ("service/web", "82", 82),
    ],
)
def test_targets(target: str, port: str, number: int) -> None:
    """A Service's port is that of the Pods behind it; names are looked up in the containers."""
    place = look(target, port, [pod("a"), SERVICE, DEPLOYMENT])[-1].place
    assert place
    assert (str(place), place.ports) == ("pod/a", {port: number})


def test_selectors_of_every_form() -> None:
    """Equalities and expressions, as kubectl writes them."""
    rules = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "old", "operator": "NotIn", "values": ["yes"]},
        {"key": "live", "operator": "Exists"},
        {"key": "dead", "operator": "DoesNotExist"},
    ]
    owner = workload("StatefulSet", selector={"matchLabels": {"app": "web"}, "matchExpressions": rules})
    cluster: Any = FakeCluster([owner])
    with pytest.raises(TimedOut):
        list(pods(cluster, Selection("statefulset", ("web",)), ["80"])(Deadline(5)))
    assert cluster.selectors == ["", "app=web,tier in (a,b),old notin (yes),live,!dead"]


def test_waits_for_a_pod_that_runs() -> None:
    """Pending Pods, those that are being deleted, and none at all are waited out."""
    states = [[DEPLOYMENT], [DEPLOYMENT, dying("old"), pod("new", phase="Pending")], [DEPLOYMENT, pod("new")]]
    assert places(look("deployment/web", "80", *states)) == ["", "", "pod/new"]


def test_newest_ready_pod_is_taken_and_kept() -> None:
    """A ready one before one that is not, of several the newest; a newer one does not draw a forward away."""
    found = [pod("a", created="1"), pod("b", created="2"), pod("c", created="3", ready=False)]
    sights = look("deployment/web", "80", [DEPLOYMENT, *found], [DEPLOYMENT, *found, pod("d", created="4")])
    assert places(sights) == ["pod/b", "pod/b"]


def test_a_rollout_is_followed() -> None:
    """A Pod that is being deleted, or not ready while another one is, is left; the reason is known."""
    new = pod("new", created="2")
    states = [[DEPLOYMENT, pod("old")], [DEPLOYMENT, dying("old"), new], [DEPLOYMENT, new]]
    first, second, last = look("deployment/web", "80", *states)

    assert places([first, second, last]) == ["pod/old", "pod/new", "pod/new"]
    assert second.unfit == {"old": "pod/old is being deleted", "new": ""}
    assert last.unfit == {"new": ""}
    sick = look("deployment/web", "80", [DEPLOYMENT, pod("old", ready=False), new])[0]
    assert sick.unfit == {"old": "pod/new is ready, and pod/old is not", "new": ""}


def test_an_object_that_was_replaced() -> None:
    """When the last Pod is lost the object is looked at again: the new one may have other Pods."""
    other = {**SERVICE, "spec": {**SERVICE["spec"], "selector": {"app": "other"}}}  # type: ignore[dict-item]
    new = pod("new", labels={"app": "other"})
    assert places(look("service/web", "80", [SERVICE, pod("old")], [other, new])) == ["pod/old", "", "pod/new"]


@pytest.mark.parametrize(
    ("target", "state", "message", "patience"),
    [
        ("service/none", [], "service/none does not exist in namespace demo", FOREVER),
        ("pod/none", [], "pod/none does not exist in namespace demo", FOREVER),
        ("pod/a", [pod("a", phase="Pending")], "pod/a: waits for a node", FOREVER),
        ("pod/a", [pod("a", phase="Succeeded")], "pod/a has ended (Succeeded), so nothing listens", 0),
        ("service/web", [SERVICE], "service/web has no Pods: none has the labels app=web", 10),
        ("service/web", [SERVICE, dying("a")], "pod/a is being deleted, and no other Pod takes its place", 10),
        ("deployment/web", [workload("Deployment", replicas=0)], "deployment/web is scaled to 0, so it has no Pods", 0),
        (
            "job/web",
            [{**workload("Job"), "status": {"conditions": [{"type": "Complete", "status": "True"}]}}],
            "job/web has ended (Complete), so nothing listens",
            0,
        ),
        ("job/web", [workload("Job", suspend=True)], "job/web is suspended, so it has no Pods", 10),
        ("job/web", [workload("Job"), pod("a", phase="Failed")], "pod/a has ended (Failed), so nothing listens", 5),
        (
            "service/far",
            [workload("Service", "far", selector=None, type="ExternalName", externalName="example.org")],
            "service/far is but another name of example.org, outside of the cluster",
            0,
        ),
        ("service/bare", [workload("Service", "bare", selector=None)], "service/bare selects no Pods", 0),
        ("cronjob/web", [workload("CronJob", selector=None)], "cronjob/web selects no Pods", 0),
        ("service/web", [{**SERVICE, "spec": {"selector": {"app": "web"}}}], "service/web has no port 80", 0),
    ],
)
def test_what_is_in_the_way(target: str, state: list[Object], message: str, patience: float) -> None:
    """What may still come is waited for, what hardly comes for some seconds, what never comes not at all."""
    sight = look(target, "80", state)[-1]
    assert sight.problem
    assert sight.problem.message.startswith(message)
    assert sight.patience == patience


def test_a_target_that_is_not_there() -> None:
    """The name may be misspelt, or the namespace may be missing."""
    (sight,) = look("pod/wbe", "80", [pod("web")])
    assert sight.problem
    assert sight.problem.hint == "did you mean pod/web?"

    (sight,) = seen(Selection("pod", ("web",), namespace="shop"), "80", [])
    assert sight.problem
    assert sight.problem.message == "pod/web does not exist, nor does the namespace shop"
    assert sight.problem.hint.startswith("kubectl create namespace shop; or ")


def test_no_pod_with_these_labels() -> None:
    """A selector that nothing matches is a mistake in it, mostly."""
    (sight,) = seen(Selection("pod", selector="app=none"), "80", [pod("a")])
    assert sight.problem
    assert sight.problem.message == "no Pod has the labels app=none"
    assert sight.problem.hint == "kubectl get pods --show-labels --namespace=demo"


def test_a_pod_that_never_becomes_ready() -> None:
    """It may run all the same: then it is a place, with a problem that explains a refusal."""
    waiting = {"name": "app", "image": "x", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    crashing = pod("a", ready=False)
    crashing["status"]["containerStatuses"] = [waiting]
    (sight,) = look("pod/a", "80", [crashing])
    assert sight.place
    assert sight.problem
    assert "CrashLoopBackOff" in sight.problem.message

    crashing["status"]["phase"] = "Pending"
    (sight,) = look("pod/a", "80", [crashing])
    assert (sight.place, sight.patience) == (None, 0)


def test_a_port_that_is_not_there() -> None:
    """What can never work is said at once."""
    for target in ("service/web", "pod/a"):
        sight = look(target, "grpc", [pod("a"), SERVICE])[-1]
        assert sight.problem
        assert (sight.problem.reason, sight.patience) == ("NoPort", 0)


def test_a_service_as_a_place_itself() -> None:
    """Its ports by their numbers; it needs no selector."""
    cluster: Any = FakeCluster([], [SERVICE])
    sights = until_the_end(service(cluster, Selection("service", ("web",)), ["web", "81"]))
    assert places(sights) == ["", "service/web"]
    assert sights[1].place
    assert sights[1].place.ports == {"web": 80, "81": 81}

    far = workload("Service", "web", type="ExternalName", externalName="example.org")
    cluster = FakeCluster([far])
    (sight,) = until_the_end(service(cluster, Selection("service", ("web",)), ["80"]))
    assert "another name of example.org" in str(sight.problem)


def test_a_follower_is_patient_and_looks_again() -> None:
    """A problem is raised when its time is over, and is forgotten when it is gone; errors are problems, too."""
    go = threading.Semaphore(0)
    script: list[Sight | StepFailed] = [
        Sight(problem=StepFailed("not yet")),
        Sight(problem=StepFailed("never"), patience=0),
        StepFailed("the API server is away"),
        Sight(),
    ]

    def scripted(life: Deadline) -> Iterator[Sight]:
        while script:
            go.acquire()
            item = script.pop(0)
            if isinstance(item, StepFailed):
                raise item
            yield item
        life.pause(600)

    def verdict(follower: Follower) -> str:
        with follower.changed:
            go.release()
            follower.wait(Deadline(20))
            try:
                follower.check()
            except StepFailed as problem:
                return problem.message
        return ""

    with closing(Follower(scripted)) as follower:
        verdicts = [verdict(follower) for _ in range(4)]
    assert verdicts == ["", "never", "the API server is away", ""]
