"""When an object is ready, complete, or can no longer become so.

The rules follow kstatus (sigs.k8s.io/cli-utils, pkg/kstatus): first that the controller has seen the newest
generation, then the kind's own status, then the conditions Ready, Available and Established.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from runner.cluster.protocol import Object


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an object's state means for a wait: done, still possible, or hopeless, and one sentence on why."""

    state: Literal["done", "pending", "failed"]
    sentence: str = ""
    reason: str = ""
    hint: str = ""


DONE: Final = Verdict("done")

# Reasons for which a container waits that do not heal by themselves: (what it means, what to do).
HOPELESS: Final[Mapping[str, tuple[str, str]]] = {
    "ErrImageNeverPull": (
        "the image is not on the node, and imagePullPolicy is Never",
        "build it in a step before (`build: {image: …}`), which also loads it into the cluster",
    ),
    "InvalidImageName": ("the image's name is not valid", "correct `image` in the manifest"),
    "ImagePullBackOff": ("the image cannot be pulled", "check the image's name, the registry and its credentials"),
    "CreateContainerConfigError": (
        "the container's configuration is not complete",
        "check the ConfigMaps and Secrets that it refers to",
    ),
    "CreateContainerError": ("the container cannot be created", "see the events below"),
    "RunContainerError": ("the container cannot be started", "check its command"),
    "CrashLoopBackOff": ("the container starts and ends, again and again", "read its last log lines below"),
}


def judge(object_: Object, until: str) -> Verdict:
    """What `until` (`ready`, `complete`, `exists`, `deleted`, `condition=X[=V]`) says about an object that exists."""
    if until == "exists":
        return DONE
    if until == "deleted":
        return Verdict("pending", f"{_name(object_)} still exists")
    if until.startswith("condition="):
        name, _, value = until.removeprefix("condition=").partition("=")
        return _condition(object_, name, value or "True")
    if _get(object_, "metadata", "deletionTimestamp"):
        return Verdict("pending", f"{_name(object_)} is being deleted")
    if until == "complete":
        return _complete(object_)
    observed = _get(object_, "status", "observedGeneration")
    if observed is not None and observed < _get(object_, "metadata", "generation", default=0):
        return Verdict("pending", f"{_name(object_)}: its controller has not seen the last change yet")
    return _READY.get(object_.get("kind", ""), _by_conditions)(object_)


def _complete(object_: Object) -> Verdict:
    kind = object_.get("kind")
    if kind == "Job":
        return _job(object_)
    if kind == "Pod":
        phase = _get(object_, "status", "phase", default="Pending")
        if phase == "Succeeded":
            return DONE
        if phase == "Failed":
            return Verdict("failed", f"{_name(object_)} failed{_exit_words(object_)}", "PodFailed")
        return hopeless(object_) or Verdict("pending", f"{_name(object_)} is {phase}")
    return _condition(object_, "Complete", "True")


def _pod(pod: Object) -> Verdict:
    phase = _get(pod, "status", "phase", default="Pending")
    if phase in ("Succeeded", "Failed"):
        ended = "ended" if phase == "Succeeded" else "failed"
        hint = "wait with `until: complete` for a Pod that is meant to end" if phase == "Succeeded" else ""
        sentence = f"{_name(pod)} {ended}{_exit_words(pod)}, so it will not become ready"
        return Verdict("failed", sentence, f"Pod{phase}", hint)
    ready = _condition(pod, "Ready", "True")
    if ready.state == "done":
        return DONE
    return hopeless(pod) or Verdict("pending", f"{_name(pod)}: {_why_not_ready(pod, phase)}")


def hopeless(pod: Object) -> Verdict | None:
    """Why a container of a Pod will never run, or None."""
    for key in ("initContainerStatuses", "containerStatuses"):
        for status in _get(pod, "status", key, default=()):
            waiting = _get(status, "state", "waiting", default={})
            reason = waiting.get("reason", "")
            if reason in HOPELESS:
                meaning, hint = HOPELESS[reason]
                sentence = f"{_name(pod)}: container {status.get('name')}: {reason}: {meaning}"
                if reason in ("ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName"):
                    sentence += f" (image {status.get('image')})"
                return Verdict("failed", sentence + _last_exit(status), reason, hint)
    return None


def _last_exit(status: Mapping[str, Any]) -> str:
    last = _get(status, "lastState", "terminated", default={})
    return f" (last exit code {last['exitCode']}, {last.get('reason', '')})" if "exitCode" in last else ""


def _exit_words(pod: Object) -> str:
    for status in _get(pod, "status", "containerStatuses", default=()):
        ended = _get(status, "state", "terminated", default={})
        if ended.get("exitCode"):
            return f" (container {status.get('name')}: exit code {ended['exitCode']}, {ended.get('reason', '')})"
    message = _get(pod, "status", "message", default="")
    return f" ({message})" if message else ""


def _why_not_ready(pod: Object, phase: str) -> str:
    for key in ("initContainerStatuses", "containerStatuses"):
        for status in _get(pod, "status", key, default=()):
            waiting = _get(status, "state", "waiting", default={})
            if waiting:
                return f"container {status.get('name')} is waiting: {waiting.get('reason', 'no reason given')}"
            if not status.get("ready") and "running" in (status.get("state") or {}) and key == "containerStatuses":
                return f"container {status.get('name')} runs, but is not ready"
    scheduled = _find_condition(pod, "PodScheduled")
    if scheduled and scheduled.get("status") == "False":
        return f"not scheduled: {scheduled.get('message') or scheduled.get('reason')}"
    return f"is {phase}"


def _deployment(item: Object) -> Verdict:
    progress = _find_condition(item, "Progressing")
    if progress and progress.get("reason") == "ProgressDeadlineExceeded":
        return Verdict("failed", f"{_name(item)}: {progress.get('message')}", "ProgressDeadlineExceeded")
    wanted = _get(item, "spec", "replicas", default=1)
    status = item.get("status") or {}
    for key, words in (("updatedReplicas", "updated"), ("availableReplicas", "available")):
        if status.get(key, 0) < wanted:
            return Verdict("pending", f"{_name(item)}: {status.get(key, 0)} of {wanted} replicas {words}")
    if status.get("replicas", 0) > status.get("updatedReplicas", 0):
        return Verdict("pending", f"{_name(item)}: old replicas are still there")
    return DONE if "observedGeneration" in status else Verdict("pending", f"{_name(item)}: not seen by its controller")


def _replicated(key: str) -> Callable[[Object], Verdict]:
    def rule(item: Object) -> Verdict:
        wanted = _get(item, "spec", "replicas", default=1)
        ready = _get(item, "status", key, default=0)
        if ready < wanted:
            return Verdict("pending", f"{_name(item)}: {ready} of {wanted} replicas ready")
        return DONE

    return rule


def _stateful_set(item: Object) -> Verdict:
    status = item.get("status") or {}
    wanted = _get(item, "spec", "replicas", default=1)
    if status.get("readyReplicas", 0) < wanted:
        return Verdict("pending", f"{_name(item)}: {status.get('readyReplicas', 0)} of {wanted} replicas ready")
    if status.get("currentRevision") != status.get("updateRevision") and status.get("updatedReplicas", 0) < wanted:
        return Verdict("pending", f"{_name(item)}: {status.get('updatedReplicas', 0)} of {wanted} replicas updated")
    return DONE


def _daemon_set(item: Object) -> Verdict:
    status = item.get("status") or {}
    wanted = status.get("desiredNumberScheduled")
    if wanted is None or "observedGeneration" not in status:
        return Verdict("pending", f"{_name(item)}: not seen by its controller")
    for key, words in (("updatedNumberScheduled", "updated"), ("numberReady", "ready")):
        if status.get(key, 0) < wanted:
            return Verdict("pending", f"{_name(item)}: {status.get(key, 0)} of {wanted} Pods {words}")
    return DONE


def _job(item: Object) -> Verdict:
    failed = _find_condition(item, "Failed")
    if failed and failed.get("status") == "True":
        sentence = f"{_name(item)} failed: {failed.get('reason', '')} {failed.get('message', '')}".strip()
        return Verdict("failed", sentence, failed.get("reason") or "JobFailed")
    complete = _condition(item, "Complete", "True")
    if complete.state == "done":
        return DONE
    status = item.get("status") or {}
    active, failures = status.get("active", 0), status.get("failed", 0)
    return Verdict("pending", f"{_name(item)}: {active} Pods active, {failures} failed, not complete")


def _claim(item: Object) -> Verdict:
    phase = _get(item, "status", "phase", default="Pending")
    if phase == "Lost":
        return Verdict("failed", f"{_name(item)} lost its volume", "Lost")
    return DONE if phase == "Bound" else Verdict("pending", f"{_name(item)} is {phase}")


def _namespace(item: Object) -> Verdict:
    phase = _get(item, "status", "phase", default="")
    return DONE if phase == "Active" else Verdict("pending", f"{_name(item)} is {phase or 'new'}")


def _service(item: Object) -> Verdict:
    wants_balancer = _get(item, "spec", "type") == "LoadBalancer"
    if wants_balancer and not _get(item, "status", "loadBalancer", "ingress"):
        return Verdict("pending", f"{_name(item)}: the load balancer has no address yet")
    return DONE


def _by_conditions(item: Object) -> Verdict:
    """Custom resources, CRDs, APIServices: the first of the usual conditions that is there; none at all is ready."""
    for name in ("Ready", "Available", "Established", "Complete"):
        if _find_condition(item, name):
            return _condition(item, name, "True")
    for name in ("Stalled", "Reconciling"):
        condition = _find_condition(item, name)
        if condition and condition.get("status") == "True":
            state: Literal["failed", "pending"] = "failed" if name == "Stalled" else "pending"
            return Verdict(state, f"{_name(item)} is {name}: {condition.get('message', '')}", name)
    if item.get("kind") == "CustomResourceDefinition":
        return Verdict("pending", f"{_name(item)}: not established")
    return DONE


_READY: Final[Mapping[str, Callable[[Object], Verdict]]] = {
    "Pod": _pod,
    "Deployment": _deployment,
    "ReplicaSet": _replicated("availableReplicas"),
    "ReplicationController": _replicated("availableReplicas"),
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "PersistentVolumeClaim": _claim,
    "Namespace": _namespace,
    "Service": _service,
}


def _condition(item: Object, name: str, value: str) -> Verdict:
    condition = _find_condition(item, name)
    if condition is None:
        return Verdict("pending", f"{_name(item)} has no condition {name} yet")
    if str(condition.get("status", "")).lower() == value.lower():
        return DONE
    why = condition.get("message") or condition.get("reason") or ""
    return Verdict("pending", f"{_name(item)}: {name} is {condition.get('status')}{': ' + why if why else ''}")


def _find_condition(item: Object, name: str) -> dict[str, Any] | None:
    conditions = _get(item, "status", "conditions", default=())
    return next((c for c in conditions if str(c.get("type", "")).lower() == name.lower()), None)


def _get(item: Any, *keys: str, default: Any = None) -> Any:
    for key in keys:
        if not isinstance(item, Mapping):
            return default
        item = item.get(key)
    return default if item is None else item


def _name(item: Object) -> str:
    return f"{item.get('kind', '').lower()}/{_get(item, 'metadata', 'name', default='?')}"
