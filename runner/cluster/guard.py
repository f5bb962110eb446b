"""Is this cluster local, and who runs it? A wrong cluster is refused before the first write.

Local needs two things. The server is a loopback or private address: a literal one, or one of a few names that always
mean this machine (`localhost`, `host.docker.internal`, …); other names are not resolved: what DNS says proves nothing.
And there is a proof that the nodes run here: they run on this machine's kernel (`bootID`: a tunnel cannot fake it), or
the provider's own tool knows this cluster, or it is a desktop application's own. Names alone do not suffice.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runner.errors import CannotStart, CommandResult, StepFailed
from runner.shell import Command

if TYPE_CHECKING:
    from runner.cluster.kubeconfig import Selected
    from runner.cluster.protocol import Object

Run = Callable[[Command], CommandResult]

LOCAL_NAMES = frozenset(
    {
        "localhost",
        "kubernetes.docker.internal",
        "host.docker.internal",
        "gateway.docker.internal",
        "host.containers.internal",
        "host.lima.internal",
        "host.rancher-desktop.internal",
        "host.orb.internal",
        "k8s.orb.local",
    }
)
_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/32",  # k3d writes it: any address of this machine
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::/128",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)
_DESKTOPS = re.compile(r"docker-desktop|docker-for-desktop(-cluster)?|rancher-desktop|orbstack|colima(-.+)?")
_DESKTOP_NODES = re.compile(r"docker-desktop|docker-for-desktop|lima-rancher-desktop|orbstack|colima(-.+)?")
_KIND_NODE = re.compile(r"kind://[^/]*/([^/]+)/.*")
_K3D_NODE = re.compile(r"k3d-(.+)-(?:server|agent)-\d+")
_MINIKUBE_LABEL = "minikube.k8s.io/name"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where this program runs: `linux`, `macos`, `windows` or `wsl`, and the kernel's boot id where there is one."""

    system: str
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`proof` says why it is local, or why not. `provider` says how images reach the nodes: `kind`, `k3d`, `minikube`,
    `desktop`, `node` (the nodes are this machine) or `remote`. `provider_name` is the provider's name of the cluster
    (kind, k3d), the profile (minikube), the application (desktop), or for `node` what runs the containers there:
    `containerd`, `k3s`, `rke2`, `k0s`, `microk8s`, `cri-o` or `docker`.
    """

    local: bool
    proof: str
    provider: str
    provider_name: str = ""


def judge(
    selected: Selected, get_nodes: Callable[[], list[Object]], run: Run, machine: Machine | None = None
) -> Verdict:
    """Whether the cluster is local, with the proof. `get_nodes` answers nothing when the nodes may not be read.

    It is called only for an address that can be local, and `run` (a provider's tool) only when the nodes are no proof;
    a tool that is missing or fails proves nothing.
    """
    if selected.in_pod:
        return Verdict(True, "it is the cluster of this Pod, given by its service account", "remote")
    if far := _far_address(selected.server):
        return Verdict(False, far, "remote")
    machine = machine or this_machine()
    nodes = get_nodes()
    provider, name = recognise(selected, nodes)
    here = sum(1 for node in nodes if machine.boot_id and _boot_id(node) == machine.boot_id)
    if here and here < len(nodes):
        return Verdict(False, f"only {here} of its {len(nodes)} nodes run on this machine, by their boot ids", "remote")
    if here:
        proof = "its node runs on this machine" if here == 1 else f"all {here} nodes run on this machine"
        return Verdict(True, f"{proof}: same boot id", provider, name)
    if proof := _vouched(provider, name, selected, run, machine):
        return Verdict(True, proof, provider, name)
    # On Linux a desktop application is not proven, but it shares its images all the same.
    way = (provider, name) if provider == "desktop" else ("remote", "")
    return Verdict(False, _unproven(selected, nodes, provider, name), *way)


def refusal(verdict: Verdict, selected: Selected) -> CannotStart:
    """What to say instead of starting, when the cluster is not local and its context was not named."""
    return CannotStart(
        f"the context {selected.context} is not known to be local: {verdict.proof}",
        hint=f"to use this cluster all the same, name it: --context {selected.context}, or `cluster: {{context: "
        f"{selected.context}}}` in the workflow; to run without a cluster: --engine podman",
    )


def this_machine() -> Machine:
    """The machine that this program runs on. All WSL distributions share one kernel, and so one boot id."""
    boot_id = release = ""
    with suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        release = Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").lower()
    if "microsoft" in release:
        return Machine("wsl", boot_id)
    return Machine({"darwin": "macos", "win32": "windows", "cygwin": "windows"}.get(sys.platform, "linux"), boot_id)


def recognise(selected: Selected, nodes: Sequence[Object]) -> tuple[str, str]:
    """Who runs these nodes, and under which name: by what the nodes say, and where they are silent by the context.

    It is a guess and no proof. `("remote", "")` when they do not look like anything that runs here.
    """
    names = [node["metadata"]["name"] for node in nodes]
    if _DESKTOPS.fullmatch(selected.context) or any(map(_DESKTOP_NODES.fullmatch, names)):
        return "desktop", selected.context
    return _by_node(nodes[0], selected) or _by_machine(nodes) if nodes else _by_name(selected)


def _by_node(node: Object, selected: Selected) -> tuple[str, str] | None:
    """The provider whose marks a node bears."""
    name = node["metadata"]["name"]
    if found := _KIND_NODE.fullmatch(str(node.get("spec", {}).get("providerID", ""))):
        return "kind", found[1]
    if profile := node["metadata"].get("labels", {}).get(_MINIKUBE_LABEL):
        return "minikube", profile
    if found := _K3D_NODE.fullmatch(name):
        return "k3d", found[1]
    guess, cluster = _by_name(selected)
    return (guess, cluster) if guess == "kind" and name.startswith(f"{cluster}-") else None


def _by_machine(nodes: Sequence[Object]) -> tuple[str, str]:
    """Nodes that are this machine itself, and no containers in it, take images from its own container runtime; so do
    those whose containerd the user names.
    """
    near = os.environ.get("CONTAINERD_ADDRESS") or all(map(_is_this_machine, nodes))
    return ("node", _runtime(nodes[0])) if near else ("remote", "")


def _by_name(selected: Selected) -> tuple[str, str]:
    """The provider that the names of context and cluster suggest."""
    for tool in ("kind", "k3d"):
        for name in (selected.cluster, selected.context):
            if name.startswith(f"{tool}-"):
                return tool, name.removeprefix(f"{tool}-")
    if "minikube" in (selected.cluster, selected.context):
        return "minikube", selected.context
    return "remote", ""


def _runtime(node: Object) -> str:
    """What runs the containers of a node."""
    info = node.get("status", {}).get("nodeInfo", {})
    for distribution in ("k3s", "rke2", "k0s"):
        if f"+{distribution}" in info.get("kubeletVersion", ""):
            return distribution
    if "microk8s.io/cluster" in node["metadata"].get("labels", {}):
        return "microk8s"
    return str(info.get("containerRuntimeVersion", "")).partition("://")[0] or "containerd"


def _is_this_machine(node: Object) -> bool:
    """Whether a node's own address is one of this machine's; a container's is not, although it shares the kernel."""
    addresses = node.get("status", {}).get("addresses", [])
    internal = [address["address"] for address in addresses if address.get("type") == "InternalIP"]
    return not internal or any(map(_can_bind, internal))


def _can_bind(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def _far_address(server: str) -> str:
    """Why the address of a server cannot be this machine's, or an empty text."""
    host = _place(server)[0].rstrip(".")
    if host in LOCAL_NAMES or host.endswith(".localhost"):
        return ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return f"its server {server} is a host name; only literal addresses and names like localhost count"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if any(address in network for network in _PRIVATE):
        return ""
    return f"its server {server} is neither a loopback nor a private address"


def _place(server: str) -> tuple[str, int | None]:
    """Host and port of a server's URL, which kubectl accepts without a scheme; empty when it is none."""
    with suppress(ValueError):
        url = urlsplit(server if "://" in server else f"//{server}")
        return url.hostname or "", url.port
    return "", None


def _boot_id(node: Object) -> str:
    return str(node.get("status", {}).get("nodeInfo", {}).get("bootID", ""))


def _unproven(selected: Selected, nodes: Sequence[Object], provider: str, name: str) -> str:
    place = f"its server {selected.server} is a near address, but"
    unlisted = f", and {provider} does not list {name!r} at this address" if provider in _VOUCH else ""
    if not nodes:
        return f"{place} its nodes cannot be read to prove that they run here{unlisted}"
    return f"{place} its nodes have another boot id than this machine{unlisted}"


def _vouched(provider: str, name: str, selected: Selected, run: Run, machine: Machine) -> str:
    """The proof that the provider's own tool gives, or that the context is an application's own; else an empty text.

    Behind a proxy the address of the server is the proxy's view, and nobody here can vouch for it.
    """
    if selected.config["clusters"][0]["cluster"].get("proxy-url"):
        return ""
    if provider in _VOUCH:
        return _VOUCH[provider](name, selected, run)
    own = provider == "desktop" and _DESKTOPS.fullmatch(selected.context) and _DESKTOPS.fullmatch(selected.cluster)
    if machine.system == "linux" or not own:
        return ""
    return f"{selected.context} is the own context of an application on this {machine.system} machine"


def _answer(run: Run, *argv: str) -> str:
    """What a provider's tool prints; nothing when it is missing, fails or takes too long."""
    with suppress(CannotStart, StepFailed):
        result = run(Command(argv))
        return result.stdout if result.code == 0 else ""
    return ""


def _answer_json(run: Run, *argv: str) -> Any:
    with suppress(ValueError):
        return json.loads(_answer(run, *argv))
    return None


def _kind_vouches(name: str, selected: Selected, run: Run) -> str:
    """It lists the cluster, and its API server is published on the port of the context: a tunnel has another."""
    if name not in _answer(run, "kind", "get", "clusters").split():
        return ""
    if not _same_port(_answer(run, "kind", "get", "kubeconfig", "--name", name), selected):
        return ""
    return f"kind lists the cluster {name!r}, at this address"


def _k3d_vouches(name: str, selected: Selected, run: Run) -> str:
    clusters = _answer_json(run, "k3d", "cluster", "list", "-o", "json")
    if not isinstance(clusters, list) or name not in [cluster.get("name") for cluster in clusters]:
        return ""
    if not _same_port(_answer(run, "k3d", "kubeconfig", "get", name), selected):
        return ""
    return f"k3d lists the cluster {name!r}, at this address"


def _minikube_vouches(name: str, selected: Selected, run: Run) -> str:
    """It lists the profile; a virtual machine must have the context's address. A container is on a local port, as the
    end of a tunnel is: there the authority that signed its certificate must be the one of this machine's minikube.
    """
    answer = _answer_json(run, "minikube", "profile", "list", "-o", "json")
    profiles = answer.get("valid") or [] if isinstance(answer, dict) else []
    host, _ = _place(selected.server)
    for profile in profiles:
        addresses = {node.get("IP") for node in profile.get("Config", {}).get("Nodes") or []}
        near = host in {"127.0.0.1", "localhost", "::1"} and _is_signed_by_minikube(selected)
        if profile.get("Name") == name and (host in addresses or near):
            return f"minikube lists the profile {name!r}, at this address"
    return ""


def _is_signed_by_minikube(selected: Selected) -> bool:
    cluster = selected.config["clusters"][0]["cluster"]
    home = os.environ.get("MINIKUBE_HOME", "~/.minikube")
    with suppress(OSError, ValueError, TypeError):
        own = Path(home).expanduser().joinpath("ca.crt").read_bytes()
        if data := cluster.get("certificate-authority-data"):
            return base64.b64decode(data) == own
        return Path(cluster.get("certificate-authority") or "").read_bytes() == own
    return False


def _same_port(kubeconfig: str, selected: Selected) -> bool:
    """Whether a provider's own kubeconfig (YAML text) has its server on the port of the selected one."""
    found = re.search(r"^\s*server:\s*[\"']?(\S+?)[\"']?\s*$", kubeconfig, re.MULTILINE)
    return found is not None and _place(found[1])[1] == _place(selected.server)[1]


_VOUCH: dict[str, Callable[[str, Selected, Run], str]] = {
    "kind": _kind_vouches,
    "k3d": _k3d_vouches,
    "minikube": _minikube_vouches,
}
