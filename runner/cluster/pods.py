"""What a Pod's status, and the events about it, say: whether it is ready, why not yet, and what stands in its way."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from runner.cluster.reasons import REASONS, Trouble, name_of

if TYPE_CHECKING:
    from runner.cluster.protocol import Object

# A container without a readinessProbe counts as ready the moment it runs, in a crash loop again and again. One that was
# started again must have lived so long.
STEADY_SECONDS: Final = 5.0
# Who lived longer than this and crashed is started again at once, and may live as long again.
SHORT_LIFE: Final = 60.0

# What kubelet and the scheduler do with a Pod, one after the other; the newest of these events says where it is.
_STAGES: Final = frozenset(
    {
        *("Scheduled", "SuccessfulAttachVolume", "Pulling", "Pulled", "Created", "Started"),
        *("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"),
    }
)
_START_ERRORS: Final = ("StartError", "ContainerCannotRun")


@dataclass(frozen=True, slots=True)
class Container:
    """One container's status beside its specification."""

    status: Mapping[str, Any]
    spec: Mapping[str, Any]
    init: bool

    @property
    def name(self) -> str:
        return str(self.status.get("name", "?"))

    @property
    def sidecar(self) -> bool:
        """Whether it is an init container that runs beside the others, and is started again whenever it ends."""
        return self.init and self.spec.get("restartPolicy") == "Always"

    @property
    def words(self) -> str:
        return f"{'init container' if self.init else 'container'} {self.name}"

    def state(self, which: str, before: bool = False) -> Mapping[str, Any] | None:
        """The details of the state `waiting`, `running` or `terminated`, when it is in that one (or was, before)."""
        found: Mapping[str, Any] | None = (self.status.get("lastState" if before else "state") or {}).get(which)
        return found

    @property
    def restarts(self) -> int:
        return int(self.status.get("restartCount") or 0)

    @property
    def ended(self) -> Mapping[str, Any]:
        """How it ended last: now, or before it was started again."""
        return self.state("terminated") or self.state("terminated", before=True) or {}


def containers(pod: Object) -> Iterator[Container]:
    """Those of which there is a status, init containers first."""
    for init, key, specs in (
        (True, "initContainerStatuses", "initContainers"),
        (False, "containerStatuses", "containers"),
    ):
        known = {item.get("name"): item for item in (pod.get("spec") or {}).get(specs) or ()}
        for status in (pod.get("status") or {}).get(key) or ():
            yield Container(status, known.get(status.get("name")) or {}, init)


def condition(item: Object, name: str) -> Mapping[str, Any]:
    """A condition by its type, without regard to case; empty when there is none."""
    return next((each for each in conditions(item) if str(each.get("type", "")).lower() == name.lower()), {})


def conditions(item: Object) -> Iterator[Mapping[str, Any]]:
    """Those of its status; custom resources may have anything in that place."""
    status = item.get("status")
    found = status.get("conditions") if isinstance(status, Mapping) else None
    if isinstance(found, list):
        yield from (each for each in found if isinstance(each, Mapping))


def unready_for(pod: Object, now: float | None = None) -> tuple[float, str]:
    """(seconds after which a Pod that says it is ready can be believed, why not before); 0 for now."""
    now = time.time() if now is None else now
    for container in containers(pod):
        running = container.state("running")
        if container.restarts and running is not None and not container.init and "readinessProbe" not in container.spec:
            left = STEADY_SECONDS - max(0.0, now - _moment(running.get("startedAt")))
            if left > 0:
                why = f"was started again{exit_words(container)}, and must stay up for {STEADY_SECONDS:g} s"
                return left, f"{name_of(pod)}: {container.words} {why}"
    return 0.0, ""


def troubles(pod: Object, events: Sequence[Object] = ()) -> Iterator[Trouble]:
    """What keeps a Pod from running, worst first as far as there is an order."""
    if pod["metadata"].get("deletionTimestamp"):
        return
    found = [trouble for container in containers(pod) for trouble in _of_container(pod, container)]
    yield from found
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        yield Trouble("Unschedulable", pod, words=_scheduling_words(scheduled.get("message") or ""))
    stage = newest_stage(pod, events)
    if stage and stage["reason"] in REASONS and not any(map(_was_started, containers(pod))):
        yield Trouble(stage["reason"], pod, words=stage.get("message") or "")


def _of_container(pod: Object, container: Container) -> Iterator[Trouble]:
    if container.sidecar and _is_done(pod):
        return  # kubelet ends it when the others have ended
    if (waiting := container.state("waiting")) is not None:
        reason = waiting.get("reason", "")
        if reason == "CrashLoopBackOff":
            yield Trouble(_crash_reason(container.ended), pod, container.name, _crash_words(container))
        elif reason in REASONS:
            yield Trouble(reason, pod, container.name, _said(reason, waiting, container))
    elif (ended := container.state("terminated")) is not None:
        if ended.get("reason") == "OOMKilled":
            yield Trouble("OOMKilled", pod, container.name, _crash_words(container))
        elif ended.get("reason") in _START_ERRORS:
            yield Trouble("RunContainerError", pod, container.name, _last_words(ended.get("message") or ""))
        elif ended.get("exitCode"):
            comes_back = container.sidecar or (pod.get("spec") or {}).get("restartPolicy", "Always") != "Never"
            reason = (
                "CrashLoopBackOff" if comes_back else "PodFailed" if _is_over(pod, container) else "ContainerFailed"
            )
            # kubelet calls it so only seconds after the second crash, when it has come to the end of its pause.
            first = not container.restarts or _lived(ended) > SHORT_LIFE
            yield Trouble(reason, pod, container.name, _crash_words(container), resting=comes_back and first)
    elif container.restarts and container.ended.get("exitCode") and unready_for(pod)[0]:
        yield Trouble("CrashLoopBackOff", pod, container.name, _crash_words(container), resting=True)


def _is_over(pod: Object, failed: Container) -> bool:
    """Whether nothing of a Pod runs any more whose container failed for good: the next moment it says so itself."""
    return failed.init or _is_done(pod)


def _is_done(pod: Object) -> bool:
    """Whether all containers ended that a Pod is there for."""
    main = [each for each in containers(pod) if not each.init]
    return bool(main) and all(each.state("terminated") is not None for each in main)


def _lived(ended: Mapping[str, Any]) -> float:
    return _moment(ended.get("finishedAt")) - _moment(ended.get("startedAt"))


def _crash_reason(ended: Mapping[str, Any]) -> str:
    if ended.get("reason") == "OOMKilled":
        return "OOMKilled"
    return "RunContainerError" if ended.get("reason") in _START_ERRORS else "CrashLoopBackOff"


def _crash_words(container: Container) -> str:
    ended = container.ended
    if ended.get("reason") in _START_ERRORS:
        return _last_words(ended.get("message") or "")
    if "exitCode" not in ended:
        return ""
    times = f", started again {times_words(container.restarts)}" if container.restarts else ""
    return f"exit code {ended['exitCode']}{times}"


def times_words(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def exit_words(container: Container) -> str:
    """` after exit code 1`, as far as it is known."""
    ended = container.ended
    return f" after exit code {ended['exitCode']}" if "exitCode" in ended else ""


def _said(reason: str, waiting: Mapping[str, Any], container: Container) -> str:
    """The cluster's own words about a container that waits, with the image where that is to blame."""
    message = waiting.get("message") or ""
    image = container.status.get("image") or container.spec.get("image")
    if "Image" in reason:
        words = _last_words(message) if reason in ("ErrImagePull", "ImagePullBackOff") else ""
        return f"image {image}" + (f": {words}" if words and words != image else "")
    return _last_words(message)


def _last_words(message: str) -> str:
    """The end of a chain of errors, where the cause stands."""
    message = message.removesuffix(": unknown")
    for sign in ("unable to start container process: ", '": '):
        message = message.rpartition(sign)[2]
    return " ".join(message.split())


def _scheduling_words(message: str) -> str:
    """Without what the scheduler says about preemption."""
    return re.split(r"\.? (?:no new claims|preemption:)", message)[0].rstrip(".")


def _was_started(container: Container) -> bool:
    return bool(container.restarts or container.state("running") is not None or container.ended)


def newest_stage(pod: Object, events: Sequence[Object]) -> Object | None:
    """The newest event that says how far a Pod came."""
    uid = pod["metadata"].get("uid")
    mine = (item for item in events if item["involvedObject"].get("uid") == uid and item.get("reason") in _STAGES)
    return max(mine, key=event_order, default=None)


def event_order(event: Object) -> tuple[str, int]:
    """Sorts events by the second of their last occurrence, within that by when it was written."""
    series = event.get("series") or {}
    meta = event.get("metadata") or {}
    last = event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime")
    version = str(meta.get("resourceVersion") or "")
    return str(last or meta.get("creationTimestamp") or "")[:19], int(version) if version.isdigit() else 0


def why_not_ready(pod: Object, events: Sequence[Object] = ()) -> str:
    """One line: on what a Pod waits."""
    name = name_of(pod)
    if trouble := next(troubles(pod, events), None):
        return trouble.sentence
    if words := _container_words(pod, events):
        return f"{name}: {words}"
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{name}: not scheduled: {scheduled.get('message') or scheduled.get('reason')}"
    for gate in (pod.get("spec") or {}).get("readinessGates") or ():
        if condition(pod, gate["conditionType"]).get("status") != "True":
            return f"{name}: its readiness gate {gate['conditionType']} is not open"
    phase = (pod.get("status") or {}).get("phase") or "Pending"
    return f"{name}: is {phase}" if phase != "Pending" else f"{name}: waits for a node"


def _container_words(pod: Object, events: Sequence[Object]) -> str:
    stage = newest_stage(pod, events)
    for container in containers(pod):
        waiting, running = container.state("waiting"), container.state("running")
        if waiting is not None:
            return _waiting_words(container, waiting.get("reason") or "", stage)
        if running is not None and container.init and not container.status.get("started"):
            return f"{container.words} is running"
        beside = container.sidecar or not container.init
        if running is not None and beside and not container.status.get("ready"):
            return f"{container.words} runs, but is not ready{_probe_words(pod, container, events)}"
        ended = container.state("terminated")
        if ended is not None and not container.init:
            return f"{container.words} ended with exit code {ended.get('exitCode')}"
    return ""


def _waiting_words(container: Container, reason: str, stage: Object | None) -> str:
    path = ((stage or {}).get("involvedObject") or {}).get("fieldPath") or ""
    if stage and stage["reason"] == "Pulling" and f"{{{container.name}}}" in path:
        image = container.spec.get("image") or container.status.get("image")
        return f"{container.words} is pulling image {image}"
    if reason in ("ContainerCreating", "PodInitializing", ""):
        return f"{container.words} is being created"
    return f"{container.words} is waiting: {reason}"


def _probe_words(pod: Object, container: Container, events: Sequence[Object]) -> str:
    """What its probe said last."""
    uid, field = pod["metadata"].get("uid"), f"{{{container.name}}}"
    failed = [
        item
        for item in events
        if item.get("reason") == "Unhealthy"
        and item["involvedObject"].get("uid") == uid
        and field in (item["involvedObject"].get("fieldPath") or "")
    ]
    last = max(failed, key=event_order, default=None)
    return f": {' '.join((last.get('message') or '').split())}" if last else ""


def _moment(stamp: Any) -> float:
    """An RFC 3339 time as seconds since the epoch; long ago when it is missing."""
    return datetime.fromisoformat(stamp).timestamp() if isinstance(stamp, str) and stamp else 0.0
