"""What a person needs to see when an object is not as it should be: state, the events that matter, last log lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from runner.cluster.deletion import family
from runner.cluster.http import ApiError, Unreachable

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.protocol import Object
    from runner.deadline import Deadline

OBJECTS: Final = 3
LOG_LINES: Final = 20
EVENTS: Final = 8


def explain(cluster: Kubectl, objects: Sequence[Object], deadline: Deadline) -> str:
    """A few blocks of text, one per object; a workload is explained by its Pods."""
    blocks = []
    for object_ in objects[:OBJECTS]:
        pods = [object_] if object_["kind"] == "Pod" else _pods_of(cluster, object_, deadline)
        blocks.append("\n".join(_object(cluster, object_, deadline)))
        blocks += ["\n".join(_object(cluster, pod, deadline)) for pod in pods[:OBJECTS] if pod is not object_]
    return "\n".join(block for block in blocks if block)


def _pods_of(cluster: Kubectl, object_: Object, deadline: Deadline) -> list[Object]:
    resource = cluster.discovery.of_manifest(object_["apiVersion"], object_["kind"], deadline)
    members = family(cluster, resource, object_, deadline)
    found = [cluster.patiently("GET", member.path, deadline) for member in members if member.resource.kind == "Pod"]
    return [{"apiVersion": "v1", "kind": "Pod", **pod} for pod in found]


def _object(cluster: Kubectl, object_: Object, deadline: Deadline) -> Iterator[str]:
    meta = object_["metadata"]
    yield f"{object_['kind'].lower()}/{meta['name']}{_place(meta)}"
    status = object_.get("status") or {}
    if object_["kind"] == "Pod":
        yield f"  phase {status.get('phase', 'Pending')}"
        for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
            yield f"  container {container['name']}: {_state(container)}, image {container.get('image')}"
    for condition in status.get("conditions", ()):
        if condition.get("status") != "True" and condition.get("message"):
            yield f"  {condition['type']}: {condition['message']}"
    yield from _events(cluster, meta, deadline)
    if object_["kind"] == "Pod":
        failed = [item for item in status.get("initContainerStatuses", ()) if not item.get("ready")]
        for container in (*failed, *status.get("containerStatuses", ())):
            yield from _log(cluster, meta, container, deadline)


def _place(meta: dict[str, Any]) -> str:
    return f" in namespace {meta['namespace']}" if meta.get("namespace") else ""


def _state(container: dict[str, Any]) -> str:
    name, detail = next(iter((container.get("state") or {"waiting": {}}).items()))
    words = str(name)
    if detail.get("reason"):
        words += f" ({detail['reason']})"
    if "exitCode" in detail:
        words += f", exit code {detail['exitCode']}"
    if restarts := container.get("restartCount"):
        before = (container.get("lastState") or {}).get("terminated") or {}
        ended = f" (ended with exit code {before['exitCode']})" if "exitCode" in before else ""
        words += f", restarted {'once' if restarts == 1 else f'{restarts} times'}{ended}"
    return words + ("" if container.get("ready") else ", not ready")


def _events(cluster: Kubectl, meta: dict[str, Any], deadline: Deadline) -> Iterator[str]:
    """Its newest warnings, the same message once."""
    query = {"fieldSelector": f"involvedObject.uid={meta['uid']}"}
    path = f"/api/v1/namespaces/{meta.get('namespace') or 'default'}/events"
    try:
        items = cluster.patiently("GET", f"{path}?{urlencode(query)}", deadline)["items"]
    except (ApiError, Unreachable):
        return
    seen: dict[str, int] = {}
    for item in items:
        if item.get("type") != "Normal":
            line = f"{item.get('reason')}: {item.get('message')}"
            seen[line] = seen.get(line, 0) + (item.get("count") or 1)
    for line, count in list(seen.items())[-EVENTS:]:
        yield f"  event {line}" + (f" (x{count})" if count > 1 else "")


def _log(cluster: Kubectl, meta: dict[str, Any], container: dict[str, Any], deadline: Deadline) -> Iterator[str]:
    """The last lines of a container; those of its previous life when it crashed."""
    crashed = bool(container.get("restartCount")) and "running" not in (container.get("state") or {})
    if not crashed and "waiting" in (container.get("state") or {"waiting": 1}):
        return
    query = {"container": container["name"], "tailLines": str(LOG_LINES), **({"previous": "true"} if crashed else {})}
    path = f"/api/v1/namespaces/{meta['namespace']}/pods/{quote(meta['name'])}/log?{urlencode(query)}"
    try:
        text = cluster.api.text(path, deadline)
    except (ApiError, Unreachable):
        return
    if text.strip():
        yield f"  last log lines of container {container['name']}{' before it crashed' if crashed else ''}:"
        yield from (f"    {line}" for line in text.splitlines())
