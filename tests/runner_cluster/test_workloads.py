"""Which Pods speak for a workload, and when they end a wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from runner.cluster.protocol import Selection
from runner.cluster.workloads import PodsOf, newest
from runner.deadline import Deadline


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


class FakeCluster:
    """One watch of Pods: these, and then silence until the deadline."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.pods = list(pods)
        self.watched: list[str] = []

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[dict[str, Any]]]:
        self.watched.append(f"{selection.namespace}: {selection}")
        yield self.pods
        ended = threading.Event()
        with deadline.closing(ended.set):
            ended.wait(20)
        deadline.check()


@pytest.mark.parametrize(
    ("workload", "reason", "expected"),
    [
        (owner("Deployment"), "ErrImageNeverPull", "ErrImageNeverPull"),
        (owner("Deployment"), "CrashLoopBackOff", "CrashLoopBackOff"),
        (owner("Job"), "ErrImageNeverPull", "ErrImageNeverPull"),
        (owner("Job"), "CrashLoopBackOff", None),
        (owner("Deployment"), "", None),
        (owner("ConfigMap"), "ErrImageNeverPull", None),
    ],
)
def test_hopeless_pods_end_the_wait(workload: dict[str, Any], reason: str, expected: str | None) -> None:
    """A Job counts crashes itself."""
    cluster: Any = FakeCluster(pod("p", reason=reason))
    deadline = Deadline(20 if expected else 0.2)
    with PodsOf(cluster, deadline) as pods:
        pods.follow([workload])
        ended = threading.Event()
        with deadline.closing(ended.set):
            ended.wait(deadline.remaining())

    assert (pods.verdict.reason if pods.verdict else None) == expected
    assert cluster.watched == ([] if workload["kind"] == "ConfigMap" else ["demo: pod -l app=web"])


def test_pods_are_watched_once() -> None:
    """However often the workload changes."""
    cluster: Any = FakeCluster()
    with PodsOf(cluster, Deadline(20)) as pods:
        for _ in range(3):
            pods.follow([owner("Deployment")])

    assert len(cluster.watched) == 1
