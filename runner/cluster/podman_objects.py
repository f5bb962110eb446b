"""podman's records as objects in the shape that Kubernetes has. Pure.

What podman does not say about a Pod, such as its phase and whether it is ready, is computed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from runner.cluster.podman_dialect import NETWORK, VOLUME
from runner.cluster.podman_manifests import MANIFEST_LABEL, OWNER_LABEL
from runner.cluster.protocol import Object, Ref
from runner.errors import StepFailed

# A container that was started again at least so often, and lives shorter than so many seconds, is in a crash loop:
# podman starts it again at once, ten times a second, and never backs off.
CRASHES: Final = 2
STABLE_SECONDS: Final = 10.0
# A container that was started again is ready when it has lived so long: every life in a crash loop begins healthy.
SETTLE_SECONDS: Final = 2.0


def ref_of(kind: str, name: str) -> Ref:
    versions = {"Deployment": "apps/v1", VOLUME: ""}
    return Ref(kind, name, "", versions.get(kind, "v1"))


def owner_of(pod: Object) -> str:
    """The name of the Deployment that a Pod stands for: by our label, or by the name that podman gives."""
    labels = pod.get("Labels") or {}
    if MANIFEST_LABEL in labels:
        return str(labels.get(OWNER_LABEL, ""))
    by_name = re.fullmatch(r"(.+)-pod(-0)?", pod["Name"])
    return by_name[1] if by_name else ""


# --- a Pod


def pod_object(
    pod: Object,
    containers: Sequence[Object],
    infra: Object,
    spec: Object,
    exits: Mapping[str, int],
    namespace: str,
) -> Object:
    """A Pod, from podman's list and its inspection of the containers; `exits` has exit codes that this forgets.

    It is ready when all of its containers run: podman ignores readinessProbe, and makes a livenessProbe a health check
    that a timer of systemd must start; without systemd (in containers of CI) it never runs.
    """
    statuses = [_container_status(item, pod["Name"], exits) for item in containers]
    stopped = infra.get("State", {}).get("Status", "running") != "running"
    phase = _phase(statuses, containers, stopped=stopped)
    ready = bool(statuses) and all(status["ready"] for status in statuses)
    condition = {"status": "True"} if ready else {"status": "False", "reason": "ContainersNotReady"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod["Name"],
            "namespace": namespace,
            "uid": pod["Id"],
            "labels": pod.get("Labels") or {},
            "creationTimestamp": _moment(pod["Created"]),
        },
        "spec": spec or {"containers": [{key: status[key] for key in ("name", "image")} for status in statuses]},
        "status": {
            "phase": phase,
            "podIP": _address(infra) if phase == "Running" and not stopped else "",
            "published": _published(infra),
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Initialized", "status": "True"},
                {"type": "ContainersReady", **condition},
                {"type": "Ready", **condition},
            ],
            "containerStatuses": statuses,
        },
    }


def _phase(statuses: Sequence[Object], containers: Sequence[Object], *, stopped: bool) -> str:
    states = [status["state"] for status in statuses]
    if all(state.get("waiting", {}).get("reason") == "ContainerCreating" for state in states):
        return "Pending"
    over = all("terminated" in state for state in states)
    if not over or (any(map(_comes_back, containers)) and not stopped):
        return "Running"
    return "Failed" if any(state["terminated"]["exitCode"] for state in states) else "Succeeded"


def _comes_back(container: Object) -> bool:
    """Whether podman starts a container again that has ended."""
    policy = container["HostConfig"]["RestartPolicy"]["Name"]
    return policy in ("always", "unless-stopped") or (policy == "on-failure" and container["State"]["ExitCode"] != 0)


def _container_status(container: Object, pod: str, exits: Mapping[str, int]) -> Object:
    restarts = container.get("RestartCount") or 0
    state, last = _states(container, restarts, exits)
    running = "running" in state
    return {
        "name": container["Name"].removeprefix(f"{pod}-"),
        "image": container.get("ImageName", ""),
        "imageID": container.get("Image", ""),
        "containerID": f"podman://{container['Id']}",
        "ready": running and (restarts == 0 or _age(container["State"]["StartedAt"]) >= SETTLE_SECONDS),
        "started": running,
        "restartCount": restarts,
        "state": state,
        "lastState": last,
    }


def _states(container: Object, restarts: int, exits: Mapping[str, int]) -> tuple[Object, Object]:
    """The state of a container, and the one before when it tells more."""
    record = container["State"]
    status, error, started = record["Status"], record.get("Error") or "", record["StartedAt"]
    running = status in ("running", "paused", "stopping")
    code = record["ExitCode"] or exits.get(container["Id"], 0)
    ended = {
        "exitCode": code,
        "reason": "OOMKilled" if record.get("OOMKilled") else "Error" if code else "Completed",
        "startedAt": _moment(started),
        "finishedAt": _moment(record["FinishedAt"]),
    }
    young = not running or _age(started) < STABLE_SECONDS
    if restarts >= CRASHES and young and (running or _comes_back(container)):
        waiting = {"reason": "CrashLoopBackOff", "message": f"started again {restarts} times"}
        return {"waiting": waiting}, {"terminated": ended}
    if running:
        return {"running": {"startedAt": ended["startedAt"]}}, {}
    if status in ("created", "configured", "initialized"):
        reason = "RunContainerError" if code or error else "ContainerCreating"
        return {"waiting": {"reason": reason, "message": error}}, {}
    return {"terminated": ended}, {}


def settles(item: Object) -> bool:
    """Whether an object has a container that runs and is not ready, which only time can change."""
    statuses = (item.get("status") or {}).get("containerStatuses") or ()
    return any(status["started"] and not status["ready"] for status in statuses)


def _address(infra: Object) -> str:
    """The address of a Pod, from its infra container."""
    if not infra:
        return ""
    networks = infra["NetworkSettings"].get("Networks") or {}
    # On the host's network there is none. Without root slirp4netns shows none, and nothing could reach it.
    return next((item["IPAddress"] for item in networks.values() if item.get("IPAddress")), "127.0.0.1")


def _published(infra: Object) -> dict[int, int]:
    """Ports of the Pod → ports of this machine."""
    bindings = infra.get("HostConfig", {}).get("PortBindings") or {}
    return {
        int(port.partition("/")[0]): int(places[0]["HostPort"])
        for port, places in bindings.items()
        if port.endswith("tcp") and places and places[0].get("HostPort")
    }


def port_number(item: Object, port: str) -> int:
    """The number of a port that is a number or a name of the Pod's containers."""
    if port.isdigit():
        return int(port)
    spec = item["spec"].get("template", item)["spec"]
    named = {
        each["name"]: int(each["containerPort"])
        for container in spec.get("containers") or ()
        for each in container.get("ports") or ()
        if each.get("name")
    }
    if port not in named:
        hint = f"its named ports: {', '.join(named) or 'none'}"
        name = f"{item['kind'].lower()}/{item['metadata']['name']}"
        raise StepFailed(f"{name} has no port named {port}", hint=hint, reason="NoPort")
    return named[port]


def _age(moment: str) -> float:
    """Seconds since a moment as podman writes it."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _moment(moment: str) -> str:
    """A moment as Kubernetes writes it, in UTC and whole seconds; empty for never."""
    never = moment.startswith("0001-")
    return "" if never else datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- other kinds


def deployment_object(name: str, pod: Object) -> Object:
    """A Deployment, from its one Pod."""
    meta = pod["metadata"]
    ready = int(any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"]["conditions"]))
    labels = {key: value for key, value in meta["labels"].items() if not key.startswith("runner/")}
    available = {
        "type": "Available",
        "status": "True" if ready else "False",
        "reason": "MinimumReplicasAvailable" if ready else "MinimumReplicasUnavailable",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**meta, "name": name, "generation": 1, "annotations": {"runner/pod": meta["name"]}},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {"spec": pod["spec"]}},
        "status": {
            **{key: pod["status"][key] for key in ("podIP", "published", "containerStatuses")},
            "observedGeneration": 1,
            "replicas": 1,
            "updatedReplicas": 1,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": 1 - ready,
            "conditions": [available],
        },
    }


def volume_object(kind: str, item: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": item["Name"], "uid": item["CreatedAt"], "labels": item.get("Labels") or {}},
        "status": {"phase": "Bound"},
    }


def network_object(item: Object) -> Object:
    return {"kind": NETWORK, "metadata": {"name": item["name"], "uid": item["created"]}, "status": {}}


def namespace_object(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "status": {"phase": "Active"}}
