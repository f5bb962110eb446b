"""When an object is ready, complete, or hopeless: the rules, kind by kind."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster.readiness import HOPELESS, judge


def item(kind: str, status: dict[str, Any] | None = None, generation: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": "x", "generation": generation},
        "spec": spec,
        "status": status or {},
    }


def condition(name: str, status: str = "True", **more: str) -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": status, **more}]}


def container(**state: Any) -> dict[str, Any]:
    return {"phase": "Pending", "containerStatuses": [{"name": "app", "image": "i", "ready": False, **state}]}


@pytest.mark.parametrize(
    "ready",
    [
        item("Pod", {"phase": "Running", **condition("Ready")}),
        item(
            "Deployment",
            {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2},
            replicas=2,
        ),
        item("Deployment", {"observedGeneration": 1}, replicas=0),
        item("ReplicaSet", {"availableReplicas": 1}),
        item("StatefulSet", {"readyReplicas": 1, "currentRevision": "a", "updateRevision": "a"}),
        item(
            "DaemonSet",
            {"observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": 1},
        ),
        item("DaemonSet", {"observedGeneration": 1, "desiredNumberScheduled": 0}),
        item("Job", condition("Complete")),
        item("PersistentVolumeClaim", {"phase": "Bound"}),
        item("Namespace", {"phase": "Active"}),
        item("Service", type="ClusterIP"),
        item("Service", {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}, type="LoadBalancer"),
        item("CustomResourceDefinition", condition("Established")),
        item("ConfigMap"),
        item("Widget", {"observedGeneration": 1, **condition("Ready")}),
    ],
    ids=lambda found: found["kind"],
)
def test_ready(ready: dict[str, Any]) -> None:
    """Each kind by what its controller writes; a kind without conditions is ready as soon as it exists."""
    assert judge(ready, "ready").state == "done"


@pytest.mark.parametrize(
    ("pending", "sentence"),
    [
        (item("Pod"), "pod/x: is Pending"),
        (
            item("Pod", container(state={"waiting": {"reason": "ContainerCreating"}})),
            "pod/x: container app is waiting: ContainerCreating",
        ),
        (
            item("Pod", {**container(state={"running": {}}), "phase": "Running"}),
            "pod/x: container app runs, but is not ready",
        ),
        (
            item("Pod", {"phase": "Pending", **condition("PodScheduled", "False", message="0/1 nodes are available")}),
            "pod/x: not scheduled: 0/1 nodes are available",
        ),
        (item("Deployment", {"observedGeneration": 1}, replicas=2), "deployment/x: 0 of 2 replicas updated"),
        (item("Deployment", replicas=0), "deployment/x: not seen by its controller"),
        (
            item(
                "Deployment",
                {"observedGeneration": 1, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2},
                replicas=2,
            ),
            "deployment/x: old replicas are still there",
        ),
        (
            item("Deployment", {"observedGeneration": 1}, generation=2),
            "deployment/x: its controller has not seen the last change yet",
        ),
        (item("StatefulSet", {"readyReplicas": 1}, replicas=3), "statefulset/x: 1 of 3 replicas ready"),
        (item("DaemonSet"), "daemonset/x: not seen by its controller"),
        (item("Job", {"active": 1, "failed": 2}), "job/x: 1 Pods active, 2 failed, not complete"),
        (item("PersistentVolumeClaim"), "persistentvolumeclaim/x is Pending"),
        (item("Service", type="LoadBalancer"), "service/x: the load balancer has no address yet"),
        (item("CustomResourceDefinition"), "customresourcedefinition/x: not established"),
        (item("Widget", condition("Ready", "False", message="no disk")), "widget/x: Ready is False: no disk"),
        (item("Widget", condition("Reconciling", message="busy")), "widget/x is Reconciling: busy"),
    ],
)
def test_not_ready_yet(pending: dict[str, Any], sentence: str) -> None:
    """The sentence says what is missing."""
    verdict = judge(pending, "ready")

    assert (verdict.state, verdict.sentence) == ("pending", sentence)


@pytest.mark.parametrize(
    ("failed", "reason", "words"),
    [
        (item("Pod", {"phase": "Succeeded"}), "PodSucceeded", "pod/x ended, so it will not become ready"),
        (
            item(
                "Pod",
                {
                    "phase": "Failed",
                    "containerStatuses": [{"name": "app", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}],
                },
            ),
            "PodFailed",
            "pod/x failed (container app: exit code 3, Error)",
        ),
        (
            item("Job", condition("Failed", reason="BackoffLimitExceeded", message="too many")),
            "BackoffLimitExceeded",
            "job/x failed",
        ),
        (
            item(
                "Deployment",
                {
                    "observedGeneration": 1,
                    **condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="timed out"),
                },
            ),
            "ProgressDeadlineExceeded",
            "timed out",
        ),
        (item("PersistentVolumeClaim", {"phase": "Lost"}), "Lost", "lost its volume"),
        (item("Widget", condition("Stalled", message="never")), "Stalled", "widget/x is Stalled: never"),
    ],
)
def test_hopeless(failed: dict[str, Any], reason: str, words: str) -> None:
    """What cannot become ready any more ends a wait at once."""
    verdict = judge(failed, "ready")

    assert (verdict.state, verdict.reason) == ("failed", reason)
    assert words in verdict.sentence


@pytest.mark.parametrize("reason", HOPELESS)
@pytest.mark.parametrize("key", ["containerStatuses", "initContainerStatuses"])
def test_containers_that_wait_in_vain(reason: str, key: str) -> None:
    """Each reason has a sentence and a hint, in init containers too."""
    waiting = {
        "name": "app",
        "image": "i",
        "state": {"waiting": {"reason": reason}},
        "lastState": {"terminated": {"exitCode": 7, "reason": "Error"}},
    }
    verdict = judge(item("Pod", {"phase": "Pending", key: [waiting]}), "ready")

    assert (verdict.state, verdict.reason) == ("failed", reason)
    assert verdict.sentence.startswith(f"pod/x: container app: {reason}: ")
    assert verdict.sentence.endswith("(last exit code 7, Error)")
    assert verdict.hint


@pytest.mark.parametrize(
    ("found", "until", "state"),
    [
        (item("ConfigMap"), "exists", "done"),
        (item("ConfigMap"), "deleted", "pending"),
        (item("Pod", {"phase": "Succeeded"}), "complete", "done"),
        (item("Pod", {"phase": "Failed"}), "complete", "failed"),
        (item("Pod", {"phase": "Running"}), "complete", "pending"),
        (item("Job", condition("Complete")), "complete", "done"),
        (item("Job", condition("Failed")), "complete", "failed"),
        (item("Widget", condition("Synced")), "condition=Synced", "done"),
        (item("Widget", condition("Synced", "False")), "condition=synced=false", "done"),
        (item("Widget"), "condition=Synced", "pending"),
    ],
)
def test_until(found: dict[str, Any], until: str, state: str) -> None:
    """Other goals than readiness; conditions are compared as kubectl does, without regard to case."""
    assert judge(found, until).state == state


def test_object_that_is_being_deleted_is_not_ready() -> None:
    """Whatever its conditions say."""
    found = item("Pod", {"phase": "Running", **condition("Ready")})
    found["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"

    assert judge(found, "ready").sentence == "pod/x is being deleted"
