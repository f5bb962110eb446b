"""Make a port of a Pod (or of a Service's, Deployment's, … Pod) reachable on this machine.

The step ends when the port answers, and the forward lives until the workflow ends. The runner owns the local port and
keeps it while the Pod restarts or is replaced. Ports are written as for `kubectl port-forward`: `"8080:80"`
(local:target), `"8000"` (the same on both sides), `":80"` (a free local port, see the outputs); a target's port may be
a name.

```yaml
- forward: {target: pod/pythonapp, ports: "5000:5000"}
- id: web
  forward: {target: service/web, ports: ":http"}
- verify: "${{ steps.web.outputs.url }}"
- forward: {target: {kind: pod, selector: app=web}, ports: ["8080:80", "9090:metrics"]}
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import Annotated, Any, Final

from msgspec import Meta

from runner.steps import kind
from runner.steps.kind import Context, Fault, Files, Output, Scene

NAME: Final = "forward"
SHORT: Final = ""
TIMEOUT: Final = "30s"
RETRY: Final = "none"
EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {}
OUTPUTS: Final = {
    "url": Output("string", "`http://127.0.0.1:PORT` of the first port."),
    "host": Output("string", "The local address."),
    "port": Output("int", "The local port of the first port."),
    "ports": Output("map", 'Local ports by the target\'s port as written: `ports["80"]`.'),
}

Port = Annotated[
    str,
    Meta(
        pattern=r"^([0-9]{0,5}:)?([0-9]{1,5}|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$",
        description='`"LOCAL:TARGET"`, `"PORT"` (both), or `":TARGET"` (a free local one). Quote it.',
        examples=["8080:80", ":http"],
    ),
]


class Args(kind.Args, frozen=True):
    """What to forward to."""

    target: Annotated[
        kind.Reference | kind.TargetMap,
        Meta(description="One object: a Pod, or what has Pods: a Service, Deployment, StatefulSet, Job, …"),
    ]
    ports: Annotated[
        Port | Annotated[tuple[Port, ...], Meta(min_length=1)], Meta(description="The port, or a list of ports.")
    ]
    address: Annotated[str, Meta(description="The local address to listen on.")] = "127.0.0.1"


needs_cluster = kind.always_cluster
wants_cluster = kind.never_cluster
lasts = kind.no_time
commands = kind.no_commands


def title(data: Mapping[str, Any]) -> str:
    ports = " ".join(map(str, _listed(data.get("ports") or "")))
    return f"{kind.target_title(data.get('target'))} {ports}"


def fixed_ports(data: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    address = data.get("address", "127.0.0.1")
    for port in _listed(data.get("ports")):
        local = _split(port)[0] if isinstance(port, str) else 0
        if local and isinstance(address, str):
            yield address, local


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    yield from kind.target_faults(data.get("target"), ("target",))
    ports = data.get("ports")
    for index, port in enumerate(_listed(ports)):
        place = ("ports", index) if isinstance(ports, list) else ("ports",)
        if isinstance(port, str) and "${{" not in port:
            yield from _port_faults(port, place)


def equivalent(args: Args, scene: Scene) -> tuple[str, ...]:
    """Bash with the function `forward` of a planned script: `forward LOCAL kubectl port-forward …`."""
    (selection,) = kind.selections(args.target, scene.namespace)
    lines: list[str] = []
    for number, port in enumerate(_listed(args.ports)):
        local, target = _split(port)
        name = scene.variable("port" if number == 0 else f"port_{number + 1}")
        written, used = f"{local}:{target}", str(local)
        if not local:
            # A word that the shell's quoting leaves alone stands for the variable until the line is made.
            written, used = f"@{name}@:{target}", f'"${name}"'
            lines.append(f"{name}=$(free_port)")
        elif number == 0:
            lines.append(f"{name}={local}")
        if number == 0:
            lines.append(f'{scene.variable("url")}="http://{_in_url(args.address)}:${name}"')
        line = str(scene.dialect.forward(selection, [written], args.address))
        lines.append(f"forward {used} " + line.replace(f"@{name}@:{target}", f'"${name}:{target}"'))
    return tuple(lines)


def run(args: Args, context: Context) -> dict[str, Any]:
    from runner.cluster.relay import Relay

    (selection,) = kind.selections(args.target, context.namespace)
    context.observed(str(context.scene.dialect.forward(selection, _listed(args.ports), args.address)))
    locals_, targets = zip(*map(_split, _listed(args.ports)), strict=True)
    with ExitStack() as opened:
        relays = [opened.enter_context(closing(Relay(args.address, local))) for local in locals_]
        far = context.cluster.far_end(selection, targets, ", ".join(map(str, relays)), context)
        opened.callback(far.close)
        place = far.await_answer(targets, context)
        context.close_later(opened.pop_all().close)
    for relay, target in zip(relays, targets, strict=True):
        relay.start(partial(far.serve, target))
        context.bind(args.address, relay.port, selection, target)
        pod = place if place != str(selection) else ""
        context.emit("forward ready", local=str(relay), target=f"{selection}:{target}", pod=pod)
    first = relays[0].port
    bound = {target: relay.port for relay, target in zip(relays, targets, strict=True)}
    return {"url": f"http://{_in_url(args.address)}:{first}", "host": args.address, "port": first, "ports": bound}


def _listed(ports: Any) -> tuple[Any, ...]:
    return tuple(ports) if isinstance(ports, list | tuple) else (ports,)


def _split(port: str) -> tuple[int, str]:
    """(local port, 0 for a free one; the target's port as written)."""
    local, colon, target = port.rpartition(":")
    if not colon:
        return (int(port) if port.isdigit() else 0), port
    return (int(local) if local.isdigit() else 0), target


def _port_faults(port: str, place: tuple[str | int, ...]) -> Iterator[Fault]:
    match = re.fullmatch(r"([0-9]{0,5}):?([^:]*)", port)
    numbers = [int(part) for part in (match.groups() if match else ()) if part.isdigit()]
    if any(not 0 < number <= kind.HIGHEST_PORT for number in numbers):
        yield Fault(place, f"{port!r}: a port is a number from 1 to {kind.HIGHEST_PORT}")


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
