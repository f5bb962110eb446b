"""Which port a forward means: by its number or its name, of a Service or of a Pod. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from runner.cluster.reasons import name_of
from runner.errors import StepFailed

if TYPE_CHECKING:
    from runner.cluster.protocol import Object

_TCP: Final = "TCP"


def target_port(owner: Object, port: str) -> str:
    """The port in the Pods, a number or the name of a container's port."""
    if owner["kind"] != "Service":
        return port
    item = service_port(owner, port)
    return str(item.get("targetPort", item["port"]))


def service_port(service: Object, port: str) -> Mapping[str, Any]:
    """The port of a Service with this number or name; one number may be there twice, for TCP and for UDP. Raises
    `StepFailed`.
    """
    ports: list[Mapping[str, Any]] = (service.get("spec") or {}).get("ports") or []
    meant = [item for item in ports if port in (str(item["port"]), item.get("name"))]
    for item in meant:
        if _protocol(item) == _TCP:
            return item
    name = name_of(service)
    if meant:
        raise _not_forwarded(name, port, meant[0])
    known = _list(_with_name(item["port"], item) for item in ports)
    raise StepFailed(f"{name} has no port {port}", hint=f"its ports: {known or 'none'}", reason="NoPort")


def number(pod: Object, port: str) -> int:
    """The number of a Pod's port. Raises `StepFailed`."""
    if port.isdigit():
        return int(port)
    named = [item for item in _container_ports(pod) if item.get("name")]
    meant = next((item for item in named if item["name"] == port), None)
    if meant is None:
        known = _list(item["name"] for item in named)
        raise StepFailed(
            f"{name_of(pod)} has no port named {port}", hint=f"its named ports: {known or 'none'}", reason="NoPort"
        )
    if _protocol(meant) != _TCP:
        raise _not_forwarded(name_of(pod), port, meant)
    return int(meant["containerPort"])


def _protocol(port: Mapping[str, Any]) -> str:
    return str(port.get("protocol") or _TCP)


def _not_forwarded(name: str, port: str, item: Mapping[str, Any]) -> StepFailed:
    protocol = _protocol(item)
    return StepFailed(
        f"the port {port} of {name} is {protocol}, which cannot be forwarded: only {_TCP} can",
        hint=f"ask it from inside of the cluster, or name a {_TCP} port",
        reason="NoPort",
    )


def declared(pod: Object) -> str:
    """The ports that a Pod declares, for a hint."""
    return _list(_with_name(item["containerPort"], item) for item in _container_ports(pod))


def _with_name(number: int, port: Mapping[str, Any]) -> str:
    words = [word for word in (port.get("name"), _protocol(port).replace(_TCP, "")) if word]
    return f"{number} ({', '.join(words)})" if words else str(number)


def _container_ports(pod: Object) -> Iterator[Mapping[str, Any]]:
    spec = pod["spec"]
    # Init containers with `restartPolicy: Always` are sidecars: they run beside the others.
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        yield from container.get("ports", ())


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
