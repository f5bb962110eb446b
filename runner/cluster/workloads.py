"""What else tells about the state of an object: a Deployment whose image is not there never fails by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from runner.cluster.protocol import Selection, selector_of

if TYPE_CHECKING:
    from runner.cluster.protocol import Object

WORKLOADS: Final = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"})
_OVER: Final = ("Succeeded", "Failed")
_GO_ON: Final = '{"spec":{"suspend":false}}'


def pods_of(owner: Object) -> Selection | None:
    """The Pods that an object selects; None when it selects none, or not by equalities."""
    if owner.get("kind") not in WORKLOADS and owner.get("kind") != "Service":
        return None
    selector = (owner.get("spec") or {}).get("selector")
    if not isinstance(selector, Mapping) or "matchExpressions" in selector:
        return None
    labels = {key: value for key, value in selector.get("matchLabels", selector).items() if isinstance(value, str)}
    place = owner["metadata"].get("namespace", "")
    return Selection("pod", selector=selector_of(labels), namespace=place) if labels else None


def slices_of(owner: Object) -> Selection | None:
    """The EndpointSlices of a Service."""
    meta = owner["metadata"]
    if owner.get("kind") != "Service" or (owner.get("spec") or {}).get("type") == "ExternalName":
        return None
    label = f"kubernetes.io/service-name={meta['name']}"
    return Selection("endpointslice", selector=label, namespace=meta.get("namespace", ""))


def resumption(owner: Object) -> str:
    """What to type so that a controller goes on with an object of which it was told to make no more Pods."""
    meta, spec = owner["metadata"], owner.get("spec") or {}
    place = f" --namespace={meta['namespace']}" if meta.get("namespace") else ""
    if owner.get("kind") == "Deployment" and spec.get("paused"):
        return f"kubectl rollout resume deployment/{meta['name']}{place}"
    if owner.get("kind") == "Job" and spec.get("suspend"):
        return f"kubectl patch job/{meta['name']}{place} --type=merge --patch='{_GO_ON}'"
    return ""


def newest(owner: Object, pods: Sequence[Object]) -> list[Object]:
    """The Pods of the workload's newest revision that live: those of an older one are about to be replaced, and those
    that ended have been.
    """
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and _phase(pod) not in _OVER]
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


def _phase(pod: Object) -> Any:
    return (pod.get("status") or {}).get("phase")


def _like_newest(pods: Sequence[Object], label: str) -> list[Object]:
    last = max(pods, key=lambda pod: pod["metadata"].get("creationTimestamp", ""), default=None)
    return [pod for pod in pods if last and _label(pod, label) == _label(last, label)]


def _label(pod: Object, name: str) -> Any:
    return (pod["metadata"].get("labels") or {}).get(name)
