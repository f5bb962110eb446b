"""Why something cannot become ready: one table of reasons, how long each is tolerated, what it means, what to do.

Some heal by themselves (a ConfigMap that comes a moment later, a node that frees up), and get the time that this takes:
kubelet looks again at a container that it could not create after 10 to 15 s, at an image that it could not pull after
30 s. The others end a wait at once. `schemas/reference.md` shows the table to users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from runner.cluster.protocol import Object


@dataclass(frozen=True, slots=True)
class Reason:
    """One row: where the cluster says it, for how many seconds it may heal, its meaning, what to do, what to type.

    `look` is a kubectl line, in which {object} is `pod/web`, {pod}, {container} and {place} (the namespace's flag) are
    filled in. `permanent` are words of the cluster with which it never heals, so that the time is not waited for.
    """

    seen: str
    tolerated: float
    meaning: str
    hint: str
    look: str = "kubectl describe {object}{place}"
    permanent: tuple[str, ...] = ()


_CONTAINER: Final = "a container waits"
_ENDED: Final = "a container ended"
_EVENT: Final = "an event of the Pod"
_LOGS: Final = "kubectl logs {object} --container={container}{place}"
_OF_A_JOB: Final = "the Job's condition Failed or FailureTarget"
_JOB_LOGS: Final = "kubectl logs {object}{place}"
_PREVIOUS: Final = f"{_LOGS} --previous"
_EVENTS: Final = "kubectl events --for={object}{place}"
_REGISTRY: Final = ("not found", "denied", "unauthorized", "unknown", "forbidden", "no match for platform")
# kubelet's second attempts come so much later, and then some.
_SECOND_CREATE: Final = 20.0
_SECOND_PULL: Final = 40.0
# Room comes when Pods of before are gone, which may take their usual grace period.
_ROOM: Final = 30.0
# The controller of autoscalers looks every 15 s.
_SECOND_LOOK: Final = 30.0

REASONS: Final[Mapping[str, Reason]] = {
    "ErrImageNeverPull": Reason(
        _CONTAINER,
        0,
        "the image is not on the node, and imagePullPolicy is Never",
        "build it in a step before (`build: {image: …}`), which also loads it into the cluster",
    ),
    "InvalidImageName": Reason(_CONTAINER, 0, "the image's name is not valid", "correct `image` in the manifest"),
    "ErrImagePull": Reason(
        _CONTAINER,
        _SECOND_PULL,
        "the image cannot be pulled",
        "check the image's name, the registry and its credentials",
        permanent=_REGISTRY,
    ),
    "ImagePullBackOff": Reason(
        "a container waits, in turns with ErrImagePull",
        _SECOND_PULL,
        "the image cannot be pulled",
        "check the image's name, the registry and its credentials",
        permanent=_REGISTRY,
    ),
    "CreateContainerConfigError": Reason(
        _CONTAINER,
        _SECOND_CREATE,
        "the container cannot be configured",
        "apply the ConfigMaps and Secrets that it refers to before it, and check their names and keys; with "
        "`runAsNonRoot`, name a `runAsUser`",
        permanent=("runAsNonRoot",),
    ),
    "CreateContainerError": Reason(
        _CONTAINER, _SECOND_CREATE, "the container cannot be created", "see the events below"
    ),
    "RunContainerError": Reason(
        _CONTAINER, 0, "the container cannot be started", "check `command` in the manifest, and the image"
    ),
    "CrashLoopBackOff": Reason(
        "a container waits, or ended twice in a row",
        0,
        "the container starts and ends, again and again",
        "read its last log lines below",
        _PREVIOUS,
    ),
    "OOMKilled": Reason(
        _ENDED,
        0,
        "the container was killed because it used more memory than its limit",
        "raise `resources.limits.memory`, or use less",
        _PREVIOUS,
    ),
    "ContainerFailed": Reason(
        _ENDED, 0, "the container failed, and restartPolicy is Never", "read its last log lines below", _LOGS
    ),
    "PodFailed": Reason("the Pod's phase", 0, "the Pod failed", "read its last log lines below", _LOGS),
    "PodSucceeded": Reason(
        "the Pod's phase",
        0,
        "the Pod ended, so it will not become ready",
        "wait with `until: complete` for a Pod that is meant to end",
        _LOGS,
    ),
    "NeverCompletes": Reason(
        "the Pod's restartPolicy, with `until: complete`",
        0,
        "its containers are started again whenever they end (restartPolicy is Always), so it will not complete",
        "give the Pod `restartPolicy: Never` or `OnFailure`, or make it a Job",
        _LOGS,
    ),
    "Unschedulable": Reason(
        "the Pod's condition PodScheduled",
        _ROOM,
        "no node can take the Pod",
        "ask for less in `resources.requests`, or make room on the node",
        "kubectl describe nodes",
    ),
    "FailedMount": Reason(
        _EVENT, _SECOND_CREATE, "a volume cannot be mounted", "apply what the volume refers to before the Pod", _EVENTS
    ),
    "FailedAttachVolume": Reason(
        _EVENT, 60, "a volume cannot be attached to the node", "see which other Pod uses the volume", _EVENTS
    ),
    "FailedCreatePodSandBox": Reason(
        _EVENT,
        30,
        "the Pod's network or sandbox cannot be made",
        "look at the network plugin of the node, and whether it has the runtime of `runtimeClassName`",
        _EVENTS,
    ),
    "FailedCreate": Reason(
        "an event or the condition ReplicaFailure of the workload",
        _ROOM,
        "its Pods cannot be created",
        "make room in the quota, or correct what the API server refuses",
    ),
    "ProgressDeadlineExceeded": Reason(
        "the Deployment's condition Progressing",
        0,
        "the rollout made no progress",
        "see the state of its Pods below; `progressDeadlineSeconds` says how long it may take",
        "kubectl rollout status {object}{place}",
    ),
    "BackoffLimitExceeded": Reason(
        _OF_A_JOB, 0, "the Job failed as often as its backoffLimit allows", "", _JOB_LOGS
    ),
    "DeadlineExceeded": Reason(
        _OF_A_JOB, 0, "the Job took longer than its activeDeadlineSeconds", "", _JOB_LOGS
    ),
    "PodFailurePolicy": Reason(
        _OF_A_JOB,
        0,
        "a Pod of the Job ended in a way with which its podFailurePolicy fails the Job",
        "",
        _JOB_LOGS,
    ),
    "FailedIndexes": Reason(
        _OF_A_JOB, 0, "indexes of the Job failed as often as backoffLimitPerIndex allows", "", _JOB_LOGS
    ),
    "MaxFailedIndexesExceeded": Reason(
        _OF_A_JOB, 0, "more indexes of the Job failed than its maxFailedIndexes allows", "", _JOB_LOGS
    ),
    "JobFailed": Reason(
        _OF_A_JOB, 0, "the Job failed for a reason of its own controller (`managedBy`)", "", _JOB_LOGS
    ),
    "FailedBinding": Reason(
        "an event of the claim",
        15,
        "no volume fits the claim, and no storage class makes one",
        "name a `storageClassName` that the cluster has",
        "kubectl get storageclass",
    ),
    "ProvisioningFailed": Reason(
        "an event of the claim", 30, "the storage class cannot make the volume", "look at its provisioner", _EVENTS
    ),
    "ExternalProvisioning": Reason(
        "an event of the claim, and none of a provisioner",
        60,
        "no provisioner has taken the claim",
        "install the CSI driver of the storage class, or name another `storageClassName`",
        "kubectl get storageclass",
    ),
    "WaitForFirstConsumer": Reason(
        "an event of the claim",
        30,
        "the claim is bound only when a Pod uses it",
        "apply the Pod that uses it before, and wait for that Pod",
    ),
    "Lost": Reason("the claim's phase", 0, "the claim lost its volume", "delete the claim, and make it again"),
    "NoPods": Reason(
        "the Service's selector and the Pods",
        30,
        "no Pod has the labels that the Service selects",
        "compare `spec.selector` of the Service with the labels of the Pods",
        "kubectl get pods --show-labels{place}",
    ),
    "NamesNotAccepted": Reason(
        "the definition's conditions", 0, "another definition has these names", "choose other `spec.names`"
    ),
    "ServiceNotFound": Reason(
        "the APIService's condition Available",
        30,
        "the Service behind it does not exist",
        "apply that Service, and check its name and namespace in `spec.service`",
    ),
    "SyncFailed": Reason(
        "the condition DisruptionAllowed of a PodDisruptionBudget",
        30,
        "the Pods that it protects cannot be counted",
        "select Pods of workloads that can be scaled, or give `minAvailable` as a number",
    ),
    "FailedGetScale": Reason(
        "the autoscaler's condition AbleToScale",
        _SECOND_LOOK,
        "what it scales does not exist, or cannot be scaled",
        "check `spec.scaleTargetRef`, and apply what it names",
    ),
    "NoMetricsApi": Reason(
        "the autoscaler's condition ScalingActive",
        _SECOND_LOOK,
        "the cluster does not serve the metrics that it scales by",
        "install metrics-server, or the adapter of these metrics",
        "kubectl get apiservices",
    ),
    "ScalingInactive": Reason(
        "the autoscaler's conditions AbleToScale and ScalingActive",
        60,
        "it cannot tell how many replicas there must be",
        "see its conditions below; by CPU and memory it scales only Pods that have `resources.requests`",
    ),
    "Stalled": Reason("the object's conditions Stalled or Failed", 0, "its controller has given up", ""),
    "Deleted": Reason(
        "the object is gone",
        5,
        "it was deleted meanwhile, and did not come back",
        "see who deletes it: a step before, another run, or its controller",
        _EVENTS,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trouble:
    """A reason that holds for an object now. `words` are the cluster's own; `container` is the one to blame.

    `resting` is a trouble between two of its outbreaks, such as a crash loop while the container runs again: it ends
    no wait, but its time runs on.
    """

    reason: str
    object: Object
    container: str = ""
    words: str = ""
    resting: bool = False

    @property
    def name(self) -> str:
        return name_of(self.object)

    @property
    def key(self) -> tuple[str, str, str]:
        """Of the same key, it is the same trouble as before: a pull fails and backs off in turns."""
        group = {"ErrImagePull": "ImagePullBackOff", "OOMKilled": "CrashLoopBackOff"}.get(self.reason, self.reason)
        return self.object["metadata"].get("uid") or self.name, self.container, group

    @property
    def sentence(self) -> str:
        where = f"container {self.container}: " if self.container else ""
        words = f": {self.words}" if self.words else ""
        return f"{self.name}: {where}{self.reason}: {REASONS[self.reason].meaning}{words}"

    @property
    def look(self) -> str:
        """The kubectl line that shows more."""
        namespace = self.object["metadata"].get("namespace")
        place = f" --namespace={namespace}" if namespace else ""
        return REASONS[self.reason].look.format(object=self.name, container=self.container, place=place)

    def tolerated(self, overrides: Mapping[str, float]) -> float:
        """For how many seconds it may last."""
        row = REASONS[self.reason]
        if self.reason in overrides:
            return overrides[self.reason]
        return 0.0 if any(word in self.words for word in row.permanent) else row.tolerated


def name_of(item: Object) -> str:
    """`pod/web`."""
    return f"{item.get('kind', '').lower()}/{(item.get('metadata') or {}).get('name', '?')}"
