"""When an object is ready, complete, or in trouble. Pure: an object, and what stands around it, give a verdict.

The rules are those of kstatus (sigs.k8s.io/cli-utils, pkg/kstatus, described in its README and in
https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md): first that nobody deletes the object
and that its controller has seen the newest generation, then the conditions `Reconciling` and `Stalled`, then the
kind's own status, then the usual conditions. They differ where waiting must mean more than "nothing is going on": a
Pod must be Ready, not only over; a Job complete, not only started; a Service have an endpoint; an Ingress an address; a
custom resource must have a status when its definition promises one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from runner.cluster import pods, stuck
from runner.cluster.pods import condition
from runner.cluster.protocol import custom_group
from runner.cluster.reasons import REASONS, Trouble, name_of
from runner.cluster.workloads import newest

if TYPE_CHECKING:
    from runner.cluster.protocol import Object


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an object's state means for a wait: done or not yet, and one sentence on why not yet.

    `troubles` are what stands in its way; whether one is hopeless depends on how long it lasts. `again` is after how
    many seconds the same state must be judged anew, because only time is missing. `known` is False while answers of
    the cluster are awaited.
    """

    state: Literal["done", "pending"]
    sentence: str = ""
    troubles: tuple[Trouble, ...] = ()
    again: float | None = None
    known: bool = True

    @property
    def hopeless(self) -> Trouble | None:
        """The trouble that is tolerated for no time at all, if there is one."""
        active = (trouble for trouble in self.troubles if not trouble.resting)
        return next((trouble for trouble in active if not trouble.tolerated({})), None)


@dataclass(frozen=True, slots=True)
class Around:
    """What the cluster has around an object: the Pods that it selects, the EndpointSlices of a Service, the events of
    all of them. None for what is not known (or may not be looked at): then the object alone decides.

    `complete` is False while the answers are still awaited. `status` says that a controller promises to write one.
    """

    pods: Sequence[Object] | None = None
    slices: Sequence[Object] | None = None
    events: Sequence[Object] = ()
    complete: bool = True
    status: bool = False


DONE: Final = Verdict("done")
_NOTHING: Final = Around()
# Who waits for one of these waits for a failure: what looks like trouble then leads there.
_BAD: Final = frozenset({"failed", "failuretarget", "stalled", "replicafailure", "disruptiontarget", "degraded"})
# A Job counts the failures of its Pods itself, and decides (`backoffLimit`).
_COUNTED_BY_JOBS: Final = frozenset(
    {"CrashLoopBackOff", "OOMKilled", "ContainerFailed", "PodFailed", "RunContainerError"}
)
# What an autoscaler says, in this order, and what is no trouble: who scales to zero does not want it to act.
_SCALING: Final = ("AbleToScale", "ScalingActive")
_SCALED_TO_ZERO: Final = "ScalingDisabled"
_UNABLE: Final = re.compile(r"^the HPA (controller )?was unable to [^:]+: ")
_NO_METRICS_API: Final = re.compile(r"the server could not find the requested resource \(get (\S+)\)")

Rule = Callable[["Object", Around], Verdict]


def judge(item: Object, until: str, around: Around = _NOTHING) -> Verdict:
    """What `until` (`ready`, `complete`, `exists`, `deleted`, `condition=X[=V]`) says about an object that exists."""
    item = _regular(item)
    if until == "exists":
        return DONE
    if until == "deleted":
        return Verdict("pending", f"{name_of(item)} still exists{stuck.why(item['kind'], item)[0]}")
    if until.startswith("condition="):
        name, _, value = until.removeprefix("condition=").partition("=")
        verdict = _by_condition(item, name, value or "True")
        wants_good = (value or "True").lower() == "true" and name.lower() not in _BAD
        if verdict.state == "done" or not wants_good:
            return verdict
        return Verdict("pending", verdict.sentence, tuple(obstacles(item, around)))
    if item["metadata"].get("deletionTimestamp"):
        return Verdict("pending", f"{name_of(item)} is being deleted{stuck.why(item['kind'], item)[0]}")
    rules = _COMPLETE if until == "complete" else _READY
    verdict = _of_any_kind(item) or rules.get(_kind(item), rules[""])(item, around)
    if verdict.state == "done" and not around.complete:
        return Verdict("pending", f"{name_of(item)}: is looked at", known=False)
    if verdict.state == "done" or verdict.troubles:
        return verdict
    return Verdict("pending", verdict.sentence, tuple(obstacles(item, around)), verdict.again)


def obstacles(item: Object, around: Around = _NOTHING) -> Iterator[Trouble]:
    """What stands in the way of an object, whatever is waited for. What is said of it from before its last change does
    not count any more.
    """
    item = _regular(item)
    if not item["metadata"].get("deletionTimestamp") and (item.get("kind") == "Pod" or not _is_behind(item)):
        yield from _OBSTACLES.get(_kind(item), _of_any_other)(item, around)


def _kind(item: Object) -> str:
    """The kind, where it is the one of Kubernetes; a Service of Knative is another thing."""
    return "" if custom_group(item) else str(item.get("kind", ""))


def _regular(item: Object) -> Object:
    """An object whose status can be read as is usual: custom resources may have anything in its place."""
    status = item.get("status")
    if status is None:
        return item
    if not isinstance(status, Mapping):
        return {**item, "status": {}}
    observed = status.get("observedGeneration", 0)
    if isinstance(observed, int):
        return item
    known = {"observedGeneration": int(observed)} if isinstance(observed, str) and observed.isdigit() else {}
    return {**item, "status": {**{key: value for key, value in status.items() if key != "observedGeneration"}, **known}}


def _is_behind(item: Object) -> bool:
    """Whether its controller has not seen the last change yet."""
    observed = (item.get("status") or {}).get("observedGeneration")
    return observed is not None and observed < (item["metadata"].get("generation") or 0)


def _of_pod(item: Object, around: Around) -> Iterator[Trouble]:
    phase = (item.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        yield _over(item, f"Pod{phase}")
    else:
        yield from pods.troubles(item, around.events)


def _of_definition(item: Object, _: Around) -> Iterator[Trouble]:
    refused = condition(item, "NamesAccepted")
    if refused.get("status") == "False":
        yield Trouble("NamesNotAccepted", item, words=refused.get("message") or "")


def _of_api_service(item: Object, _: Around) -> Iterator[Trouble]:
    available = condition(item, "Available")
    if available.get("reason") == "ServiceNotFound":
        yield Trouble("ServiceNotFound", item, words=available.get("message") or "")


def _of_budget(item: Object, _: Around) -> Iterator[Trouble]:
    allowed = condition(item, "DisruptionAllowed")
    if allowed.get("reason") == "SyncFailed":
        yield Trouble("SyncFailed", item, words=allowed.get("message") or "")


def _of_autoscaler(item: Object, _: Around) -> Iterator[Trouble]:
    """Its controller looks again every 15 s, and writes down what it met."""
    said = (condition(item, name) for name in _SCALING)
    found = next((each for each in said if each.get("status") == "False"), {})
    reason, message = found.get("reason") or "", " ".join((found.get("message") or "").split())
    if not found or reason == _SCALED_TO_ZERO:
        return
    cause = _UNABLE.sub("", message)
    if missing := _NO_METRICS_API.search(message):
        yield Trouble("NoMetricsApi", item, words=missing[1])
    elif reason in REASONS:
        yield Trouble(reason, item, words=cause)
    else:
        yield Trouble("ScalingInactive", item, words=f"{reason}: {cause}")


def _of_any_other(item: Object, around: Around) -> Iterator[Trouble]:
    yield from _of_workload(item, around)
    stalled = condition(item, "Stalled")
    if stalled.get("status") == "True":
        yield Trouble("Stalled", item, words=stalled.get("message") or stalled.get("reason") or "")


def _of_workload(item: Object, around: Around) -> Iterator[Trouble]:
    """Its Pods speak first: they know the cause of what the controller only counts."""
    for pod in newest(item, around.pods or ()):
        for trouble in pods.troubles(pod, around.events):
            if item["kind"] != "Job" or trouble.reason not in _COUNTED_BY_JOBS:
                yield trouble
    if failed := _failure(item):
        reason = failed.get("reason") or ""
        fallback = "JobFailed" if item.get("kind") == "Job" else "Stalled"
        words = ": ".join(filter(None, ("" if reason in REASONS else reason, failed.get("message"))))
        yield Trouble(reason if reason in REASONS else fallback, item, words=words)
    progress = condition(item, "Progressing")
    if progress.get("reason") == "ProgressDeadlineExceeded":
        yield Trouble("ProgressDeadlineExceeded", item, words=progress.get("message") or "")
    creation = condition(item, "ReplicaFailure")
    if creation.get("status") == "True":
        yield Trouble("FailedCreate", item, words=_refusal(creation.get("message") or ""))
    elif event := _failed_create(item, around.events):
        yield Trouble("FailedCreate", item, words=_refusal(event.get("message") or ""))


def _failure(item: Object) -> Mapping[str, Any]:
    """The condition that says that all is lost. A Job says `FailureTarget` as soon as it ends its last Pods."""
    found = (condition(item, name) for name in ("Failed", "FailureTarget"))
    return next((each for each in found if each.get("status") == "True"), {})


def _failed_create(item: Object, events: Sequence[Object]) -> Object | None:
    """The event that says that its controller could not make a Pod, when nothing newer says that it could."""
    uid = item["metadata"].get("uid")
    mine = [
        event
        for event in events
        if event["involvedObject"].get("uid") == uid and event.get("reason") in ("FailedCreate", "SuccessfulCreate")
    ]
    last = max(mine, key=pods.event_order, default=None)
    return last if last and last["reason"] == "FailedCreate" else None


def _refusal(message: str) -> str:
    """Why the API server refused a Pod, without the Pod's name, which is another one each time."""
    return message.partition(" is forbidden: ")[2] or message.rpartition("failed error: ")[2].removeprefix(
        "Error creating: "
    )


def _over(pod: Object, reason: str) -> Trouble:
    """A Pod that ended: by whom, or why (an eviction has no container to blame)."""
    status = pod.get("status") or {}
    guilty = next((each for each in pods.containers(pod) if each.ended.get("exitCode")), None)
    if reason == "PodSucceeded" or not guilty:
        return Trouble(reason, pod, words=": ".join(filter(None, (status.get("reason"), status.get("message")))))
    ended = f"exit code {guilty.ended['exitCode']}, {guilty.ended.get('reason', '')}".rstrip(", ")
    return Trouble(reason, pod, guilty.name, status.get("message") or ended)


def _of_service(item: Object, around: Around) -> Iterator[Trouble]:
    """Of one endpoint, one good Pod is enough."""
    if around.pods is None or not _selector(item):
        return
    # Pods that have ended, such as those of Jobs, may have the same labels; others come.
    alive = [
        pod
        for pod in around.pods
        if not pod["metadata"].get("deletionTimestamp")
        and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]
    if not alive:
        yield Trouble("NoPods", item, words=", ".join(f"{key}={value}" for key, value in _selector(item).items()))
        return
    found = [next(obstacles(pod, around), None) for pod in alive]
    if all(found):
        yield from (trouble for trouble in found[:1] if trouble)


def _of_claim(item: Object, around: Around) -> Iterator[Trouble]:
    phase = (item.get("status") or {}).get("phase")
    if phase == "Lost":
        yield Trouble("Lost", item)
    if phase in ("Lost", "Bound"):
        return
    uid = item["metadata"].get("uid")
    mine = sorted((each for each in around.events if each["involvedObject"].get("uid") == uid), key=pods.event_order)
    by_reason = {event.get("reason"): event for event in mine}
    if (
        "Provisioning" in by_reason
    ):  # its provisioner is there; the controller says again and again that it waits for it
        by_reason.pop("ExternalProvisioning", None)
    last = str(max(by_reason.values(), key=pods.event_order, default={}).get("reason"))
    again = last == "Provisioning" and "ProvisioningFailed" in by_reason
    reason = "ProvisioningFailed" if again else last
    if reason in REASONS:
        yield Trouble(reason, item, words=by_reason[reason].get("message") or "", resting=again)


# --- rules, kind by kind


def _of_any_kind(item: Object) -> Verdict | None:
    if _is_behind(item):
        return Verdict("pending", f"{name_of(item)}: its controller has not seen the last change yet")
    reconciling = condition(item, "Reconciling")
    if reconciling.get("status") == "True":
        return Verdict("pending", f"{name_of(item)} is Reconciling{_why(reconciling)}")
    stalled = condition(item, "Stalled")
    if stalled.get("status") == "True":
        return _pending(item, f"is Stalled{_why(stalled)}")
    return None


def _pending(item: Object, words: str) -> Verdict:
    return Verdict("pending", f"{name_of(item)} {words}")


def _pod(pod: Object, around: Around) -> Verdict:
    phase = (pod.get("status") or {}).get("phase")
    if phase in ("Succeeded", "Failed"):
        trouble = _over(pod, f"Pod{phase}")
        return Verdict("pending", trouble.sentence, (trouble,))
    if condition(pod, "Ready").get("status") == "True":
        left, why = pods.unready_for(pod)
        return Verdict("pending", why, tuple(pods.troubles(pod)), left) if left else DONE
    return Verdict("pending", pods.why_not_ready(pod, around.events))


def _complete_pod(pod: Object, around: Around) -> Verdict:
    phase = (pod.get("status") or {}).get("phase")
    if phase == "Succeeded":
        return DONE
    if (pod.get("spec") or {}).get("restartPolicy") == "Always" and phase != "Failed":
        trouble = Trouble("NeverCompletes", pod)
        return Verdict("pending", trouble.sentence, (trouble,))
    if phase == "Running":
        return _pending(pod, "is Running")
    return _pod(pod, around)


def _workload(count: Callable[[Object], tuple[str, bool]]) -> Rule:
    """A rule from a function that says (what is missing, whether its Pods are): they tell the rest."""

    def rule(item: Object, around: Around) -> Verdict:
        missing, asks_pods = count(item)
        alive = newest(item, around.pods or ())
        if not missing:
            waits = [pods.unready_for(pod) for pod in alive]
            left, why = max(waits, default=(0.0, ""))
            return Verdict("pending", why, again=left) if left else DONE
        sentence = f"{name_of(item)}: {missing}"
        unready = [pod for pod in alive if condition(pod, "Ready").get("status") != "True"] if asks_pods else []
        troubled = next((pod for pod in unready if any(pods.troubles(pod, around.events))), None)
        if pod := troubled or next(iter(unready), None):
            sentence += f": {pods.why_not_ready(pod, around.events)}"
        elif trouble := next(obstacles(item, around), None):
            sentence += f": {trouble.reason}: {trouble.words}"
        return Verdict("pending", sentence)

    return rule


def _numbers(item: Object, wanted: int, *keys: tuple[str, str]) -> tuple[str, bool]:
    """The first count of a status that is below what is wanted."""
    status = item.get("status") or {}
    for key, words in keys:
        if status.get(key, 0) < wanted:
            return f"{status.get(key, 0)} of {wanted} {words}", True
    return "", False


def _replicas(item: Object) -> int:
    wanted = (item.get("spec") or {}).get("replicas")
    return 1 if wanted is None else int(wanted)


def _deployment(item: Object) -> tuple[str, bool]:
    status = item.get("status") or {}
    missing = _numbers(
        item, _replicas(item), ("updatedReplicas", "replicas updated"), ("availableReplicas", "replicas ready")
    )
    if missing[0]:
        paused = ", and the rollout is paused" if (item.get("spec") or {}).get("paused") else ""
        return missing[0] + paused, True
    if status.get("replicas", 0) > status.get("updatedReplicas", 0):
        return "old replicas are still there", False
    return ("" if "observedGeneration" in status else "not seen by its controller"), False


def _replica_set(item: Object) -> tuple[str, bool]:
    missing = _numbers(item, _replicas(item), ("availableReplicas", "replicas ready"))
    surplus = (item.get("status") or {}).get("replicas", 0) - _replicas(item)
    return ("surplus replicas are still there", False) if not missing[0] and surplus > 0 else missing


def _stateful_set(item: Object) -> tuple[str, bool]:
    status = item.get("status") or {}
    wanted = _replicas(item)
    missing = _numbers(item, wanted, ("readyReplicas", "replicas ready"))
    strategy = (item.get("spec") or {}).get("updateStrategy") or {}
    if missing[0] or strategy.get("type") == "OnDelete":
        return missing
    partition = (strategy.get("rollingUpdate") or {}).get("partition") or 0
    if status.get("currentRevision") != status.get("updateRevision") or partition:
        missing = _numbers(item, max(0, wanted - partition), ("updatedReplicas", "replicas updated"))
    surplus = status.get("replicas", 0) > wanted
    return ("surplus replicas are still there", False) if not missing[0] and surplus else missing


def _daemon_set(item: Object) -> tuple[str, bool]:
    status = item.get("status") or {}
    wanted = status.get("desiredNumberScheduled")
    if wanted is None or "observedGeneration" not in status:
        return "not seen by its controller", False
    on_delete = ((item.get("spec") or {}).get("updateStrategy") or {}).get("type") == "OnDelete"
    updated = () if on_delete else (("updatedNumberScheduled", "Pods updated"),)
    return _numbers(item, wanted, *updated, ("numberReady", "Pods ready"), ("numberAvailable", "Pods available"))


def _job(item: Object, around: Around) -> Verdict:
    if condition(item, "Complete").get("status") == "True":
        return DONE
    if _failure(item):
        trouble = next(trouble for trouble in _of_workload(item, Around()) if trouble.object is item)
        return Verdict("pending", trouble.sentence, (trouble,))
    if condition(item, "Suspended").get("status") == "True":
        return _pending(item, "is suspended")
    status = item.get("status") or {}
    wanted = (item.get("spec") or {}).get("completions") or 1
    failed = f", {status['failed']} failed" if status.get("failed") else ""
    count = f"{status.get('succeeded', 0)} of {wanted} Pods succeeded{failed}"
    return _workload(lambda _: (count, True))(item, around)


def _claim(item: Object, around: Around) -> Verdict:
    phase = (item.get("status") or {}).get("phase") or "Pending"
    if phase == "Bound":
        return DONE
    trouble = next(_of_claim(item, around), None)
    return Verdict("pending", trouble.sentence if trouble else f"{name_of(item)} is {phase}")


def _by_phase(*good: str) -> Rule:
    def rule(item: Object, _: Around) -> Verdict:
        phase = (item.get("status") or {}).get("phase") or "new"
        return DONE if phase in good else _pending(item, f"is {phase}")

    return rule


def _selector(item: Object) -> Mapping[str, str]:
    return (item.get("spec") or {}).get("selector") or {}


def _service(item: Object, around: Around) -> Verdict:
    """Somebody must answer behind it. ExternalName leads elsewhere; one without a selector is filled by hand."""
    spec = item.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return DONE
    if spec.get("type") == "LoadBalancer" and not _addresses(item):
        return _pending(item, "has no address of a load balancer yet")
    if around.slices is None or not (spec.get("selector") or around.slices):
        return DONE
    points = [point for each in around.slices for point in each.get("endpoints") or ()]
    if any((point.get("conditions") or {}).get("ready") is not False for point in points):
        return DONE
    trouble = next(_of_service(item, around), None)
    if trouble and trouble.object is item:
        return Verdict("pending", trouble.sentence)
    sentence = f"{name_of(item)} has no ready endpoint"
    if pod := next((pod for pod in around.pods or () if not pod["metadata"].get("deletionTimestamp")), None):
        sentence += f": {pods.why_not_ready(pod, around.events)}"
    return Verdict("pending", sentence)


def _ingress(item: Object, _: Around) -> Verdict:
    return DONE if _addresses(item) else _pending(item, "has no address: no ingress controller has taken it yet")


def _addresses(item: Object) -> Sequence[Any]:
    return ((item.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()


def _definition(item: Object, _: Around) -> Verdict:
    verdict = _by_condition(item, "Established", "True")
    return verdict if condition(item, "Established") else _pending(item, "is not established yet")


def _autoscaler(item: Object, around: Around) -> Verdict:
    if trouble := next(_of_autoscaler(item, around), None):
        return Verdict("pending", trouble.sentence, (trouble,))
    for name in _SCALING:
        verdict = _by_condition(item, name, "True")
        if verdict.state != "done" and condition(item, name).get("reason") != _SCALED_TO_ZERO:
            return verdict
    return DONE


def _budget(item: Object, around: Around) -> Verdict:
    if trouble := next(_of_budget(item, around), None):
        return Verdict("pending", trouble.sentence, (trouble,))
    seen = "observedGeneration" in (item.get("status") or {})
    return DONE if seen else _pending(item, "is not seen by its controller")


def _by_usual_conditions(*names: str) -> Rule:
    """Custom resources, APIServices, nodes, …: the first of the usual conditions that is there."""

    def rule(item: Object, around: Around) -> Verdict:
        for name in names:
            if condition(item, name):
                return _by_condition(item, name, "True")
        failed = condition(item, "Failed")
        if failed.get("status") == "True":
            return _pending(item, f"failed{_why(failed)}")
        if not item.get("status") and around.status:
            return _pending(item, "has no status yet: its controller has not seen it")
        return DONE

    return rule


def _complete_of_others(item: Object, _: Around) -> Verdict:
    name = "Succeeded" if condition(item, "Succeeded") else "Complete"
    return _by_condition(item, name, "True")


_READY: Final[Mapping[str, Rule]] = {
    "Pod": _pod,
    "Deployment": _workload(_deployment),
    "ReplicaSet": _workload(_replica_set),
    "ReplicationController": _workload(_replica_set),
    "StatefulSet": _workload(_stateful_set),
    "DaemonSet": _workload(_daemon_set),
    "Job": _job,
    "PersistentVolumeClaim": _claim,
    "PersistentVolume": _by_phase("Available", "Bound"),
    "Namespace": _by_phase("Active"),
    "Service": _service,
    "Ingress": _ingress,
    "CustomResourceDefinition": _definition,
    "APIService": lambda item, _: _by_condition(item, "Available", "True"),
    "HorizontalPodAutoscaler": _autoscaler,
    "PodDisruptionBudget": _budget,
    "": _by_usual_conditions("Ready", "Available", "Established", "Programmed", "Complete", "Succeeded"),
}
_COMPLETE: Final[Mapping[str, Rule]] = {"Pod": _complete_pod, "Job": _job, "": _complete_of_others}
_OBSTACLES: Final[Mapping[str, Callable[[Object, Around], Iterator[Trouble]]]] = {
    "Pod": _of_pod,
    "Service": _of_service,
    "PersistentVolumeClaim": _of_claim,
    "CustomResourceDefinition": _of_definition,
    "APIService": _of_api_service,
    "HorizontalPodAutoscaler": _of_autoscaler,
    "PodDisruptionBudget": _of_budget,
}


def _by_condition(item: Object, name: str, value: str) -> Verdict:
    found = condition(item, name)
    if not found:
        return _pending(item, f"has no condition {name} yet")
    of_item = (item.get("status") or {}).get("observedGeneration")
    observed = found.get("observedGeneration") or of_item  # as `kubectl wait` does
    if isinstance(observed, int) and observed < (item["metadata"].get("generation") or 0):
        return Verdict("pending", f"{name_of(item)}: its condition {name} is from before the last change")
    if str(found.get("status", "")).lower() == value.lower():
        return DONE
    return Verdict("pending", f"{name_of(item)}: {name} is {found.get('status')}{_why(found)}")


def _why(found: Mapping[str, Any]) -> str:
    why = found.get("message") or found.get("reason") or ""
    return f": {' '.join(str(why).split())}" if why else ""
