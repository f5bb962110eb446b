"""Which Pods speak for a workload, and where they are found."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster.protocol import Selection
from runner.cluster.workloads import newest, pods_of, slices_of


def pod(name: str, created: str = "1", hash_: str = "a", reason: str = "") -> dict[str, Any]:
    waiting = {"name": "app", "image": "i", "state": {"waiting": {"reason": reason}} if reason else {"running": {}}}
    labels = {"pod-template-hash": hash_, "controller-revision-hash": hash_}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "creationTimestamp": created, "labels": labels},
        "status": {"containerStatuses": [waiting]},
    }


def owner(kind: str, generation: int = 1, **status: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "metadata": {"name": "web", "uid": "u", "generation": generation, "namespace": "demo"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": {"observedGeneration": 1, "updatedReplicas": 1, **status},
    }


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (owner("Deployment"), ["new", "newer"]),
        (owner("Deployment", updatedReplicas=0), []),
        (owner("Deployment", generation=2), []),
        (owner("StatefulSet", updateRevision="old"), ["crashing"]),
        (owner("DaemonSet"), ["new", "newer"]),
        (owner("ReplicaSet"), ["crashing", "new", "newer"]),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_pods_of_the_newest_revision(workload: dict[str, Any], expected: list[str]) -> None:
    """A rollout that repairs a crashing revision is not ended by the Pods that it is about to replace."""
    gone = pod("gone", "9")
    gone["metadata"]["deletionTimestamp"] = "now"
    pods = [pod("crashing", "1", "old", "CrashLoopBackOff"), pod("new", "2"), pod("newer", "3"), gone]

    assert [found["metadata"]["name"] for found in newest(workload, pods)] == expected


def test_pods_that_ended_have_been_replaced() -> None:
    """An evicted Pod stays, and says nothing about the workload."""
    evicted = pod("evicted")
    evicted["status"]["phase"] = "Failed"

    assert newest(owner("ReplicaSet"), [evicted]) == []


@pytest.mark.parametrize(
    ("kind", "selector", "expected"),
    [
        ("Deployment", {"matchLabels": {"app": "web", "tier": "db"}}, "app=web,tier=db"),
        ("Service", {"app": "web"}, "app=web"),
        ("Service", None, None),
        ("Deployment", {"matchExpressions": [{"key": "a", "operator": "Exists"}]}, None),
        ("ConfigMap", {"app": "web"}, None),
    ],
)
def test_pods_of(kind: str, selector: Any, expected: str | None) -> None:
    """By the labels that a workload or a Service selects."""
    found = pods_of({**owner(kind), "spec": {"selector": selector}})

    assert found == (Selection("pod", selector=expected, namespace="demo") if expected else None)


def test_slices_of_a_service() -> None:
    """Those that carry its name; one that leads out of the cluster has none."""
    service = owner("Service")

    assert str(slices_of(service)) == "endpointslice -l kubernetes.io/service-name=web"
    assert slices_of({**service, "spec": {"type": "ExternalName"}}) is None
    assert slices_of(owner("Deployment")) is None
