"""What a person needs to see when an object is not as it should be: state, the events that matter, last log lines.

As data first (plain values, for the report in JSON): one map per object with `object`, `namespace`, `state`,
`conditions`, `events`, `containers`, `alike`; then as text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from runner.cluster.dependents import family
from runner.cluster.http import ApiError, Unreachable
from runner.cluster.pods import Container, condition, conditions, containers, event_order, times_words, troubles
from runner.cluster.reasons import REASONS, name_of
from runner.errors import Expired

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.protocol import Object
    from runner.cluster.reasons import Trouble
    from runner.deadline import Deadline

OBJECTS: Final = 3
LOG_LINES: Final = 20
EVENTS: Final = 8
# Conditions that only count what is said about each container; warnings about the machine, not about the object.
_COUNTED: Final = frozenset({"ContainersNotReady", "ContainersNotInitialized", "MinimumReplicasUnavailable"})
# Conditions that are good news when they are false.
_OF_TROUBLE: Final = frozenset(
    {
        *("Failed", "FailureTarget", "Stalled", "ReplicaFailure", "DisruptionTarget"),
        *("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"),
        *("NamespaceDeletionDiscoveryFailure", "NamespaceDeletionGroupVersionParsingFailure"),
        *("NamespaceDeletionContentFailure", "NamespaceContentRemaining", "NamespaceFinalizersRemaining"),
    }
)
_NOISE: Final = frozenset({"MissingClusterDNS", "DNSConfigForming", "CheckLimitsForResolvConf"})

# What kubelet answers instead of a log that it has removed.
_NO_LOG: Final = ("failed to try resolving symlinks", "unable to retrieve container logs")
# For so long it is asked again; kubelet looks at its containers every second.
_LOG_SECONDS: Final = 2.0
_LOG_PAUSE: Final = 0.1

Facts = dict[str, Any]


def diagnose(
    cluster: Kubectl, objects: Sequence[Object], deadline: Deadline, blame: tuple[str, str] = ("", "")
) -> Iterator[Facts]:
    """Facts about each object; a workload is followed by those of its Pods. `blame` is the Pod (`pod/web`) and the
    container that is at fault, when that is known: the first Pod then, and the only container whose log is read.
    """
    for item in objects[:OBJECTS]:
        yield _facts(cluster, item, deadline, blame)
        if item["kind"] != "Pod":
            pods = sorted(_pods_of(cluster, item, deadline), key=lambda pod: (name_of(pod) != blame[0], _is_fine(pod)))
            for pod, *others in _alike(pods)[:OBJECTS]:
                yield {**_facts(cluster, pod, deadline, blame), "alike": len(others)}


def _pods_of(cluster: Kubectl, item: Object, deadline: Deadline) -> list[Object]:
    resource = cluster.discovery.of_manifest(item["apiVersion"], item["kind"], deadline)
    members = family(cluster, resource, item, deadline) if "uid" in item["metadata"] else ()
    found = [cluster.patiently("GET", member.path, deadline) for member in members if member.resource.kind == "Pod"]
    return [{"apiVersion": "v1", "kind": "Pod", **pod} for pod in found]


def _alike(pods: Iterable[Object]) -> list[list[Object]]:
    """Pods in groups of the same trouble, or in the same state when they have none."""
    groups: dict[Hashable, list[Object]] = {}
    for pod in pods:
        key = {trouble.key[1:] for trouble in troubles(pod)} or {
            (each.name, bool(each.status.get("ready")), *(each.status.get("state") or {})) for each in containers(pod)
        }
        groups.setdefault(frozenset(key), []).append(pod)
    return list(groups.values())


def _is_fine(pod: Object) -> bool:
    return condition(pod, "Ready").get("status") == "True" and not any(troubles(pod))


def _facts(cluster: Kubectl, item: Object, deadline: Deadline, blame: tuple[str, str]) -> Facts:
    status = found if isinstance(found := item.get("status"), Mapping) else {}
    is_pod = item["kind"] == "Pod"
    return {
        "object": name_of(item),
        "namespace": item["metadata"].get("namespace") or "",
        "state": str(status.get("phase") or ("Pending" if is_pod else "")),
        "conditions": [
            {key: str(each.get(key) or "") for key in ("type", "status", "reason", "message")}
            for each in conditions(item)
            if each.get("message") and each.get("reason") not in _COUNTED
            if (each.get("status") == "True") == (each.get("type") in _OF_TROUBLE)
        ],
        "events": _events(cluster, item, deadline),
        "containers": [
            {**container_facts(each), **_log(cluster, item, each, deadline, blame)} for each in containers(item)
        ]
        if is_pod
        else [],
        "alike": 0,
    }


def container_facts(container: Container) -> Facts:
    """The state of a container; `exit_code` is None when it has not ended."""
    state, detail = next(iter((container.status.get("state") or {"waiting": {}}).items()))
    ended = container.ended
    return {
        "name": container.name,
        "init": container.init,
        "image": str(container.status.get("image") or ""),
        "state": str(state),
        "reason": str(detail.get("reason") or ""),
        "message": str(detail.get("message") or ""),
        "ready": bool(container.status.get("ready")),
        "restarts": container.restarts,
        "exit_code": ended.get("exitCode"),
        "exit_reason": str(ended.get("reason") or ""),
        "log": [],
        "log_of_previous": False,
    }


def _events(cluster: Kubectl, item: Object, deadline: Deadline) -> list[Facts]:
    """Its warnings, the newest last; of the same message one, with how often it came."""
    meta = item["metadata"]
    query = {"fieldSelector": f"involvedObject.uid={meta.get('uid', '')}"}
    path = f"/api/v1/namespaces/{meta.get('namespace') or 'default'}/events"
    try:
        items = cluster.patiently("GET", f"{path}?{urlencode(query)}", deadline)["items"]
    except (ApiError, Unreachable):
        return []
    return events_that_matter(items)


def events_that_matter(items: Iterable[Object]) -> list[Facts]:
    """Warnings without noise; those that differ only in numbers or in a generated name are one: the newest."""
    found: dict[tuple[str, str], Facts] = {}
    for item in sorted(items, key=event_order):
        reason, message = str(item.get("reason") or ""), " ".join((item.get("message") or "").split())
        if item.get("type") == "Normal" or reason in _NOISE or message.removeprefix("Error: ") in REASONS:
            continue
        message = message.removeprefix("(combined from similar events): ")
        key = reason, re.sub(r'pods "[^"]+"|\d+', "", message)
        count = item.get("count") or (item.get("series") or {}).get("count") or 1
        before = found.pop(key, {"count": 0})["count"]
        last = event_order(item)[0]
        found[key] = {"reason": reason, "message": message, "count": before + count, "last": f"{last}Z" if last else ""}
    return list(found.values())[-EVENTS:]


def _log(cluster: Kubectl, pod: Object, container: Container, deadline: Deadline, blame: tuple[str, str]) -> Facts:
    """The last lines of a container that is at fault; those of its previous life when it crashed."""
    at_fault = (name_of(pod), container.name) == blame if blame[1] else not container.status.get("ready")
    crashed = bool(container.restarts) and container.state("running") is None
    if not at_fault or (not crashed and container.state("running") is None and not container.ended):
        return {}
    # Of which life it is the API server's state and kubelet's may differ for a moment; between two lives kubelet has
    # neither log for a moment.
    last = crashed and container.state("terminated") is None
    lives = (last, not last) if container.ended else (False,)
    with suppress(Expired), deadline.child(_LOG_SECONDS) as short:
        while True:
            said = [_lines_of(cluster, pod, container, previous, short) for previous in lives]
            if found := next(filter(None, said), None):
                return {"log": found, "log_of_previous": crashed}
            if [] in said:
                break  # it wrote nothing
            short.pause(_LOG_PAUSE)
    return {}


def _lines_of(
    cluster: Kubectl, pod: Object, container: Container, previous: bool, deadline: Deadline
) -> list[str] | None:
    """The last log lines of one life of a container; None when there is no log of it, or not now."""
    meta = pod["metadata"]
    query = {"container": container.name, "tailLines": str(LOG_LINES)} | ({"previous": "true"} if previous else {})
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{quote(meta['name'])}/log?{urlencode(query)}"
    try:
        said = cluster.api.text(path, deadline)
    except (ApiError, Unreachable):
        return None
    return None if said.startswith(_NO_LOG) else said.splitlines()[-LOG_LINES:]


def advice(trouble: Trouble, facts: Sequence[Mapping[str, Any]]) -> str:
    """What to do about a trouble; it points at nothing below that these facts do not show."""
    hint = REASONS[trouble.reason].hint
    shown = {
        "log lines below": any(each["log"] for fact in facts for each in fact["containers"]),
        "events below": any(fact["events"] for fact in facts),
    }
    return "" if any(words in hint and not there for words, there in shown.items()) else hint


# --- as text


def text(facts: Iterable[Facts]) -> str:
    """A block of lines for each object."""
    return "\n".join(line for each in facts for line in _lines(each))


def _lines(facts: Facts) -> Iterator[str]:
    yield facts["object"] + (f" in namespace {facts['namespace']}" if facts["namespace"] else "")
    if facts["alike"]:
        yield f"  and {facts['alike']} more {'Pod' if facts['alike'] == 1 else 'Pods'} like it"
    if facts["state"]:
        yield f"  phase {facts['state']}"
    for container in facts["containers"]:
        init = "init container" if container["init"] else "container"
        image = f", image {container['image']}" if container["image"] else ""
        yield f"  {init} {container['name']}: {_state(container)}{image}"
    for each in facts["conditions"]:
        yield f"  {each['type']}: {each['message']}"
    for event in facts["events"]:
        yield f"  event {event['reason']}: {event['message']}" + (f" (x{event['count']})" if event["count"] > 1 else "")
    for container in facts["containers"]:
        if container["log"]:
            crashed = " before it crashed" if container["log_of_previous"] else ""
            yield f"  last log lines of container {container['name']}{crashed}:"
            yield from (f"    {line}" for line in container["log"])


def _state(container: Facts) -> str:
    words = str(container["state"])
    if container["reason"]:
        words += f" ({container['reason']})"
    ended = "" if container["exit_code"] is None else f"exit code {container['exit_code']}"
    if ended and container["state"] == "terminated":
        words += f", {ended}"
    if container["restarts"]:
        before = f" (ended with {ended})" if ended and container["state"] != "terminated" else ""
        words += f", restarted {times_words(container['restarts'])}{before}"
    return words + ("" if container["ready"] else ", not ready")
