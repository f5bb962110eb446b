"""What the Pods of a workload say about it: a Deployment whose image is not there never fails by itself."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from runner.cluster.protocol import Selection, selector_of
from runner.cluster.readiness import Verdict, hopeless
from runner.deadline import Deadline
from runner.errors import RunnerError

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster, Object

# A Job counts the crashes of its Pods itself, and decides (`backoffLimit`).
_JOB_TOLERATES: Final = frozenset({"CrashLoopBackOff"})
_KINDS: Final = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"})


class PodsOf:
    """Watches the Pods of workloads while a wait watches these; ends the wait's deadline when one is hopeless."""

    def __init__(self, cluster: Cluster, deadline: Deadline) -> None:
        self.verdict: Verdict | None = None
        self._cluster = cluster
        self._deadline = deadline
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._owners: dict[str, Object] = {}
        self._pods: dict[str, Sequence[Object]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._deadline.cancel("the wait ended")
        for thread in self._threads:
            thread.join()

    def follow(self, objects: Sequence[Object]) -> None:
        """The newest state of what is waited for; the Pods of each are watched from now on."""
        for owner in objects:
            selector = _selector(owner)
            if owner.get("kind") not in _KINDS or not selector:
                continue
            uid = owner["metadata"].get("uid", "")
            new = uid not in self._owners
            self._owners[uid] = owner
            if new:
                place = owner["metadata"].get("namespace", "")
                pods = Selection("pod", selector=selector, namespace=place)
                thread = threading.Thread(target=self._watch, args=(uid, pods), name="pods of a workload", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._judge(uid)

    def _watch(self, uid: str, pods: Selection) -> None:
        with suppress(RunnerError):  # the wait ended, or may not list Pods: then its own object must do
            for found in self._cluster.watch(pods, self._deadline):
                self._pods[uid] = found
                self._judge(uid)

    def _judge(self, uid: str) -> None:
        with self._lock:
            owner = self._owners[uid]
            for pod in newest(owner, self._pods.get(uid, ())):
                verdict = hopeless(pod)
                if verdict and not (owner["kind"] == "Job" and verdict.reason in _JOB_TOLERATES):
                    self.verdict = self.verdict or verdict
        if self.verdict:
            self._deadline.cancel(self.verdict.reason)


def newest(owner: Object, pods: Sequence[Object]) -> list[Object]:
    """The Pods of the workload's newest revision: those of an older one are about to be replaced."""
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    status = owner.get("status") or {}
    match owner["kind"]:
        case "Deployment":
            seen = status.get("observedGeneration", 0) >= owner["metadata"].get("generation", 0)
            return _like_newest(alive, "pod-template-hash") if seen and status.get("updatedReplicas") else []
        case "StatefulSet":
            revision = status.get("updateRevision")
            return [pod for pod in alive if _label(pod, "controller-revision-hash") == revision]
        case "DaemonSet":
            return _like_newest(alive, "controller-revision-hash")
    return alive


def _like_newest(pods: Sequence[Object], label: str) -> list[Object]:
    last = max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", ""), default=None)
    return [pod for pod in pods if last and _label(pod, label) == _label(last, label)]


def _label(pod: Object, name: str) -> Any:
    return (pod["metadata"].get("labels") or {}).get(name)


def _selector(owner: Object) -> str:
    """As a label selector; empty when it cannot be written as one of equalities."""
    selector = (owner.get("spec") or {}).get("selector")
    if not isinstance(selector, Mapping) or "matchExpressions" in selector:
        return ""
    labels = selector.get("matchLabels", selector)
    return selector_of({key: value for key, value in labels.items() if isinstance(value, str)})
