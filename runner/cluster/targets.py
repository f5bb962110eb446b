"""From the target of a forward to the Pod that answers, and the port in it: asked again whenever the Pod is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from runner.cluster.protocol import Selection, selector_of
from runner.deadline import Deadline
from runner.errors import StepFailed

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.protocol import Object

Resolve = Callable[[Deadline], tuple[str, int]]


def resolver(cluster: Kubectl, target: Selection, port: str) -> Resolve:
    """A function that waits until a Pod of the target runs, and answers its name and the port's number in it."""

    def resolve(deadline: Deadline) -> tuple[str, int]:
        resource = cluster.discovery.of_word(target.kind, deadline)
        if resource.kind == "Pod":
            return _first_running(cluster, target, port, deadline)
        owner = _await_object(cluster, target, deadline)
        if resource.kind == "Service":
            selector = (owner.get("spec") or {}).get("selector")
            wanted = _service_port(owner, port)
        else:
            selector = ((owner.get("spec") or {}).get("selector") or {}).get("matchLabels")
            wanted = port
        if not selector:
            raise StepFailed(f"{target} selects no Pods, so there is nothing to forward to", reason="NoSelector")
        pods = Selection("pod", selector=selector_of(selector), namespace=target.namespace)
        return _first_running(cluster, pods, wanted, deadline)

    return resolve


def _await_object(cluster: Kubectl, target: Selection, deadline: Deadline) -> Object:
    for objects in cluster.watch(target, deadline):
        if objects:
            return objects[0]
    raise AssertionError  # a watch ends only by an exception


def _first_running(cluster: Kubectl, pods: Selection, port: str, deadline: Deadline) -> tuple[str, int]:
    """The newest Pod that runs, ready ones first."""
    for objects in cluster.watch(pods, deadline):
        running = [pod for pod in objects if _runs(pod)]
        if running:
            best = max(running, key=lambda pod: (_is_ready(pod), pod["metadata"]["creationTimestamp"]))
            return best["metadata"]["name"], _port_number(best, port)
    raise AssertionError


def _runs(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _service_port(service: Object, port: str) -> str:
    """The target port behind a Service's port, a number or the name of a container's port."""
    ports: list[Mapping[str, Any]] = (service.get("spec") or {}).get("ports") or []
    for item in ports:
        if port in (str(item["port"]), item.get("name")):
            return str(item.get("targetPort", item["port"]))
    known = _list(f"{item['port']}" + (f" ({item['name']})" if item.get("name") else "") for item in ports)
    raise StepFailed(
        f"service/{service['metadata']['name']} has no port {port}", hint=f"its ports: {known}", reason="NoPort"
    )


def _port_number(pod: Object, port: str) -> int:
    if port.isdigit():
        return int(port)
    named = {
        item["name"]: item["containerPort"]
        for container in pod["spec"]["containers"]
        for item in container.get("ports", ())
        if item.get("name")
    }
    if port in named:
        return int(named[port])
    raise StepFailed(
        f"pod/{pod['metadata']['name']} has no port named {port}",
        hint=f"its named ports: {_list(named) or 'none'}",
        reason="NoPort",
    )


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
