"""Make ports of a Pod, or of what has Pods (a Service, Deployment, StatefulSet, Job, …), reachable on this machine.

Ports are written as for `kubectl port-forward`: `"8080:80"` (local:target), `"8000"` (the same on both sides), `":80"`
(a free local port; the steps after it take it from the outputs). The target's port may have a name: that of a Service's
port, or of a container's. A fixed local port that is taken is an error before anything is created.

```yaml
- forward: {target: pod/pythonapp, ports: "5000:5000"}
- id: web
  forward: {target: service/web, ports: ":http"}
- verify: "${{ steps.web.outputs.url }}"
- forward: {target: {kind: pod, selector: app=web}, ports: ["8080:80", "9090:metrics"]}
```

The step ends when the ports answer. A target that does not exist yet, or has no Pod that runs, is waited for; what can
never answer ends the step at once: a port that the target does not have, a workload that is scaled to 0, a Job that has
ended, an image that cannot be pulled, a container that crashes.

The forward lives until the workflow ends (inside of a `verify` with `throughout`: until that ends), and keeps its local
ports all that time. It leads to the newest ready Pod and watches it: when that is deleted, replaced by a rollout or
lost, or when the connection drops, the next one is taken, and the event `forward restarted` says why, where to, and how
long it took; it is a warning once something was answered through the forward. Connections to a Pod that is being
deleted may come to their end. Connections that are made meanwhile are delayed until there is a Pod again, for up to
60 s. What a client said is said again only when the Pod surely did not hear it.

All ports of a step share one kubectl. When a Pod refuses a connection on one port, kubectl ends, and with it the
connections of the other ports; write a step for each port where that matters.

`via: proxy` goes through the API server instead of kubectl port-forward, for HTTP (and WebSocket) only. It needs the
permission `get services/proxy` (of a Service) or `get pods/proxy` in place of `create pods/portforward`, and spreads
the requests to a Service over its endpoints, where a port-forward stays with one Pod. The API server takes the header
`Authorization` for its own, so requests with one are answered with 400; it also rewrites links in HTML pages, which
lead back through the forward.

```yaml
- forward: {target: service/web, ports: ":http", via: proxy}
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta

from runner.steps import kind
from runner.steps.kind import Context, Fault, Files, Output, Scene

if TYPE_CHECKING:
    from runner.cluster.protocol import Selection

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
    via: Annotated[
        Literal["port_forward", "proxy"],
        Meta(description="How: `kubectl port-forward`, or (HTTP only) the API server's proxy of Services and Pods."),
    ] = "port_forward"


needs_cluster = kind.always_cluster
wants_cluster = kind.never_cluster
lasts = kind.no_time
homeless = kind.no_objects
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
        through = args.via == "proxy"
        if number == 0:
            path = _proxied(selection, target) if through else ""
            lines.append(f"{scene.variable('host')}={args.address}")
            lines.append(f'{scene.variable("url")}="http://{_in_url(args.address)}:${name}{path}"')
        lines.append(f"{scene.variable('ports_' + re.sub('[^a-z0-9]', '_', target))}={used}")
        if through:
            lines.append(f"forward {used} kubectl proxy --address={args.address} --port={used}")
            continue
        line = str(scene.dialect.forward(selection, [written], args.address))
        lines.append(f"forward {used} " + line.replace(f"@{name}@:{target}", f'"${name}:{target}"'))
    return tuple(lines)


def run(args: Args, context: Context) -> dict[str, Any]:
    from runner.cluster.relay import Relay

    (selection,) = kind.selections(args.target, context.namespace)
    locals_, targets = zip(*map(_split, _listed(args.ports)), strict=True)
    if args.via == "proxy":
        for target in targets:
            context.observed(f"kubectl get --raw {_proxied(selection, target)}/")
    else:
        context.observed(str(context.scene.dialect.forward(selection, _listed(args.ports), args.address)))
    with ExitStack() as opened:
        relays = [opened.enter_context(closing(Relay(args.address, local))) for local in locals_]
        far = context.cluster.far_end(selection, targets, args.via, ", ".join(map(str, relays)), context)
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


def _proxied(selection: Selection, port: str) -> str:
    """The path of a target in the API server; in place of a workload stands one of its Pods."""
    kind_, _, name = str(selection).partition("/")
    plural = "services" if kind_.lower() in ("service", "services", "svc") else "pods"
    name = name if plural == "services" or kind_.lower() in ("pod", "pods", "po") else "POD"
    return f"/api/v1/namespaces/{selection.namespace or 'default'}/{plural}/{name}:{port}/proxy"


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
