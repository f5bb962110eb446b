"""From the target of a forward to a Pod and the port in it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from runner.cluster.protocol import Selection
from runner.cluster.targets import resolver
from runner.deadline import Deadline
from runner.errors import StepFailed, TimedOut


class FakeCluster:
    """Objects by `kind/name`, and the states that each watch sees one after the other."""

    def __init__(self, *states: list[dict[str, Any]]) -> None:
        self.states = states
        self.discovery = SimpleNamespace(of_word=lambda word, deadline: SimpleNamespace(kind=word.capitalize()))

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[dict[str, Any]]]:
        labels = dict(pair.split("=") for pair in selection.selector.split(",") if pair)
        for state in self.states:
            yield [
                item
                for item in state
                if item["kind"].lower() == selection.kind
                and (not selection.names or item["metadata"]["name"] in selection.names)
                and labels.items() <= item["metadata"].get("labels", {}).items()
            ]
        raise TimedOut("timed out")


def pod(name: str, *, phase: str = "Running", ready: bool = True, created: str = "1", **meta: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}, "creationTimestamp": created, **meta},
        "spec": {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 5000}]}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


SERVICE = {
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "selector": {"app": "web"},
        "ports": [{"name": "web", "port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081}, {"port": 82}],
    },
}
DEPLOYMENT = {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}}


def resolve(target: str, port: str, *states: list[dict[str, Any]]) -> tuple[str, int]:
    kind, _, name = target.partition("/")
    cluster: Any = FakeCluster(*states)
    return resolver(cluster, Selection(kind, (name,)), port)(Deadline(5))


@pytest.mark.parametrize(
    ("target", "port", "expected"),
    [
        ("pod/a", "80", ("a", 80)),
        ("pod/a", "http", ("a", 5000)),
        ("deployment/web", "http", ("a", 5000)),
        ("service/web", "80", ("a", 5000)),
        ("service/web", "web", ("a", 5000)),
        ("service/web", "81", ("a", 8081)),
        ("service/web", "82", ("a", 82)),
    ],
)
def test_targets(target: str, port: str, expected: tuple[str, int]) -> None:
    """A Service's port is that of the Pods behind it; names are looked up in the containers."""
    assert resolve(target, port, [pod("a"), SERVICE, DEPLOYMENT]) == expected


def test_waits_for_a_pod_that_runs() -> None:
    """Pending Pods, those that are being deleted, and none at all are waited out."""
    dying = pod("old", deletionTimestamp="now")
    pending = pod("new", phase="Pending")

    assert (
        resolve("deployment/web", "80", [DEPLOYMENT], [DEPLOYMENT, dying, pending], [DEPLOYMENT, pod("new")])[0]
        == "new"
    )


def test_newest_ready_pod_is_taken() -> None:
    """A ready one before one that is not; of several the newest."""
    pods = [pod("a", created="1"), pod("b", created="2"), pod("c", created="3", ready=False)]

    assert resolve("deployment/web", "80", [DEPLOYMENT, *pods])[0] == "b"


@pytest.mark.parametrize(
    ("target", "port", "message", "hint"),
    [
        ("service/web", "99", "service/web has no port 99", "its ports: 80 (web), 81, 82"),
        ("pod/a", "grpc", "pod/a has no port named grpc", "its named ports: http"),
        ("service/bare", "80", "service/bare selects no Pods, so there is nothing to forward to", ""),
    ],
)
def test_ports_that_are_not_there(target: str, port: str, message: str, hint: str) -> None:
    """What can never work is said at once, with what there is."""
    bare = {"kind": "Service", "metadata": {"name": "bare"}, "spec": {"ports": [{"port": 80}]}}
    with pytest.raises(StepFailed) as caught:
        resolve(target, port, [pod("a"), SERVICE, bare])

    assert (caught.value.message, caught.value.hint) == (message, hint)
