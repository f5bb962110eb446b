"""The words of podman: the kinds that it knows, and the argv of what steps want from it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from runner import shell
from runner.cluster.protocol import Selection
from runner.errors import InvalidWorkflow
from runner.shell import Command

# A volume that podman makes behind a ConfigMap, a Secret or an undeclared claim. No kind of Kubernetes.
VOLUME: Final = "Volume"
# The network that podman makes for the first Pod that it plays on a machine, and gives to all others.
NETWORK: Final = "Network"
DEFAULT_NETWORK: Final = "podman-default-kube-network"
# podman has no namespaces: whatever asks for one gets this name.
NAMESPACE: Final = "default"
POD_KINDS: Final = ("Pod", "Deployment")
VOLUME_KINDS: Final = ("PersistentVolumeClaim", VOLUME)
WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": ("pod", "pods", "po"),
    "Deployment": ("deployment", "deployments", "deploy"),
    "PersistentVolumeClaim": ("persistentvolumeclaim", "persistentvolumeclaims", "pvc"),
    "ConfigMap": ("configmap", "configmaps", "cm"),
    "Secret": ("secret", "secrets"),
    "Service": ("service", "services", "svc"),
    "Namespace": ("namespace", "namespaces", "ns"),
    VOLUME: ("volume",),
}

# What a forward stands for; usage: OPTIONS-OF-POD-PS ADDRESS LOCAL:REMOTE…
_RELAY: Final = """\
import shlex, socket, subprocess, sys, threading
def podman(*words): return subprocess.check_output(["podman", *words], text=True).split()[0]
def pump(source, sink):
    while data := source.recv(65536): sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)
def relay(local, remote):
    with socket.create_server((sys.argv[2], int(local))) as server:
        while True:
            near, far = server.accept()[0], socket.create_connection((host, int(remote)))
            for pair in (near, far), (far, near): threading.Thread(target=pump, args=pair, daemon=True).start()
pod = podman("pod", "ps", "--quiet", *shlex.split(sys.argv[1]))
infra = podman("pod", "inspect", "--format", "{{.InfraContainerID}}", pod)
host = podman("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", infra)
for port in sys.argv[3:]: threading.Thread(target=relay, args=port.split(":")).start()
"""


class PodmanDialect:
    """The argv of podman. Pure, but for the names that `delete_file` reads."""

    engine = "podman"

    def apply(self, files: Sequence[str], namespace: str, *, server_side: bool = False) -> tuple[Command, ...]:
        return tuple(Command(("podman", "kube", "play", file)) for file in files)

    def delete(
        self, selections: Sequence[Selection], grace: int | None, *, ignore_not_found: bool = True
    ) -> tuple[Command, ...]:
        """`ignore_not_found` is looked at before: these commands ignore what is missing."""
        pods: list[str] = []
        others: list[Command] = []
        for selection in selections:
            kind = kind_of(selection.kind)
            if kind in POD_KINDS and selection.names:
                pods += [pod for name in selection.names for pod in _pod_names(kind, name)]
            elif kind in POD_KINDS:
                others.append(_remove_selected(selection, grace))
            elif kind in VOLUME_KINDS and selection.names:
                others.append(Command(("podman", "volume", "rm", *selection.names)))
            elif kind == NETWORK:
                others.append(Command(("podman", "network", "rm", *selection.names)))
        return (*(remove_pods(pods, grace) if pods else ()), *others)

    def delete_file(self, file: str, namespace: str, grace: int | None, *, ignore_not_found: bool = True) -> Command:
        """By name: `podman kube down` stops at the first Pod that is missing, takes no grace period, and fails when
        it is repeated. It remains for files that do not exist yet.
        """
        from runner.document import read_objects

        try:
            pods = [pod for item in read_objects(Path(file), file) for pod in _pods_of(item.data)]
        except InvalidWorkflow:
            pods = []
        if not pods:
            return Command(("podman", "kube", "down", file))
        return Command(("bash", "-c", " && ".join(map(str, remove_pods(pods, grace)))))

    def describe(self, selection: Selection) -> Command:
        names = [pod for name in selection.names for pod in _pod_names(kind_of(selection.kind), name)[:1]]
        if names and kind_of(selection.kind) in POD_KINDS:
            return Command(("podman", "pod", "logs", "--tail=20", *names))
        return Command(("podman", "ps", "--all", "--pod"))

    def wait(self, selection: Selection, until: str, timeout: int) -> tuple[str, ...]:
        seen = f"podman pod ps {_filters(selection)}"
        ready = f"until {seen} --format '{{{{.Status}}}}' | grep -qx Running"
        loop = {
            "ready": ready,
            "condition=ready": ready,
            "condition=available": ready,
            "complete": f"until {seen} --format '{{{{.Status}}}}' | grep -qx Exited",
            "create": f"until {seen} --quiet | grep -q .",
            "delete": f"while {seen} --quiet | grep -q .",
        }.get(until.lower())
        if kind_of(selection.kind) not in POD_KINDS or loop is None:
            return (str(Command((":", f"podman has no equivalent of {until} for {selection}"))),)
        return (str(Command(("timeout", str(timeout), "bash", "-c", f"{loop}; do sleep 0.2; done"))),)

    def forward(self, target: Selection, ports: Sequence[str], address: str) -> Command:
        """A relay to the Pod's own address: podman has no port-forward, and socat is seldom installed."""
        return Command(("python3", "-c", _RELAY, _filters(target), address, *ports))


def kind_of(word: str) -> str:
    """The kind that a word means (`po`, `deployments.apps`); a word that podman does not know as it is."""
    plain = word.lower().split(".")[0]
    return next((kind for kind, words in WORDS.items() if plain in words), word)


def removal(kind: str, name: str) -> Command:
    """What a person types to remove something of a run that is left."""
    commands = PodmanDialect().delete((Selection(kind, (name,)),), None)
    return commands[-1] if commands else Command(("podman", "ps", "--all", "--pod"))


def remove_pods(names: Sequence[str], grace: int | None) -> tuple[Command, ...]:
    """Stop first: `podman pod rm --force` alone takes 3 s more, because it waits for the cgroup of what it ends."""
    return (
        Command(("podman", "pod", "stop", *_period(grace), "--ignore", *names)),
        Command(("podman", "pod", "rm", "--force", "--ignore", *names)),
    )


def _remove_selected(selection: Selection, grace: int | None) -> Command:
    """`podman pod stop` prints the ids of what it stopped."""
    stop = shell.quote(("podman", "pod", "stop", *_period(grace)))
    line = f"podman pod ps {_filters(selection)} --quiet | xargs -r {stop} | xargs -r podman pod rm --force"
    return Command(("bash", "-c", line))


def _period(grace: int | None) -> tuple[str, ...]:
    return () if grace is None else (f"--time={grace}",)


def _pods_of(data: Any) -> Iterator[str]:
    """The names of the Pods that a document of a manifest file makes."""
    if not isinstance(data, Mapping):
        return
    for item in data["items"] if isinstance(data.get("items"), list) else (data,):
        name = (item.get("metadata") or {}).get("name")
        if name and item.get("kind") in POD_KINDS:
            yield from _pod_names(item["kind"], name)


def _pod_names(kind: str, name: str) -> tuple[str, ...]:
    """The Pods that podman may have made: since 4.4 a Deployment has one Pod, without a number."""
    return (name,) if kind == "Pod" else (f"{name}-pod-0", f"{name}-pod")


def _filters(selection: Selection) -> str:
    """The options by which `podman pod ps` shows the Pods of a selection, for a shell."""
    if not selection.names:
        return shell.quote(tuple(f"--filter=label={part}" for part in selection.selector.split(",")))
    end = "$" if kind_of(selection.kind) == "Pod" else "-pod(-0)?$"
    names = "|".join(re.escape(name).replace("\\-", "-") for name in selection.names)
    pattern = f"({names})" if len(selection.names) > 1 else names
    return shell.quote((f"--filter=name=^{pattern}{end}",))
