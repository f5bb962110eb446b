"""Manifests: what podman ignores or cannot do in them, and what it is given instead of them.

No podman is asked here.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from runner.cluster.podman_dialect import POD_KINDS, WORDS
from runner.cluster.protocol import RUN_LABEL, Manifest, Object, name_suffix

# Labels of a Pod: which manifest it was made from (a hash), and the Deployment that it stands for.
MANIFEST_LABEL: Final = "runner/manifest"
OWNER_LABEL: Final = "runner/deployment"

# Kinds that podman skips without a word, and for which a run on one machine loses nothing that would make it fail.
IGNORED: Final[Mapping[str, str]] = {
    "Service": "a forward to it goes to one of its Pods, but its name does not resolve inside of Pods",
    "Ingress": "nothing routes to the Pods; forward to them",
    "NetworkPolicy": "all Pods reach each other",
    "Namespace": "it has no namespaces",
    "ServiceAccount": "there is no API server to ask",
    "Role": "there is no API server to ask",
    "RoleBinding": "there is no API server to ask",
    "ClusterRole": "there is no API server to ask",
    "ClusterRoleBinding": "there is no API server to ask",
    "HorizontalPodAutoscaler": "only one Pod runs",
    "PodDisruptionBudget": "only one Pod runs",
    "PriorityClass": "nothing schedules Pods",
    "LimitRange": "it has no namespaces",
    "ResourceQuota": "it has no namespaces",
    "StorageClass": "claims are local volumes",
    "PersistentVolume": "claims are local volumes",
}
# Kinds without which a run cannot do what it is meant to do.
_IMPOSSIBLE: Final[Mapping[str, str]] = {
    "StatefulSet": "it has no controllers: write a Pod or a Deployment",
    "DaemonSet": "it has no nodes: write a Pod or a Deployment",
    "ReplicaSet": "it has no controllers: write a Deployment",
    "ReplicationController": "it has no controllers: write a Deployment",
    "Job": "it has no controllers: write a Pod with `restartPolicy: Never`",
    "CronJob": "it has no controllers: write a Pod with `restartPolicy: Never`",
    "CustomResourceDefinition": "it has no API server",
}
# What podman does not do in a container: (severity, path, words).
_CONTAINER_RULES: Final[Sequence[tuple[str, tuple[str, ...], str]]] = (
    ("warning", ("readinessProbe",), "podman ignores readinessProbe: ready means that all containers run"),
    ("warning", ("startupProbe",), "podman ignores startupProbe: ready means that all containers run"),
    ("warning", ("livenessProbe", "httpGet"), "podman runs the livenessProbe as `curl` inside the container"),
    ("warning", ("livenessProbe", "tcpSocket"), "podman runs the livenessProbe as `nc` inside the container"),
    ("warning", ("lifecycle",), "podman ignores lifecycle hooks"),
)
_POD_RULES: Final[Sequence[tuple[str, tuple[str, ...], str]]] = (
    ("warning", ("securityContext", "fsGroup"), "podman ignores fsGroup"),
    ("warning", ("securityContext", "runAsNonRoot"), "podman ignores runAsNonRoot"),
    ("warning", ("imagePullSecrets",), "podman ignores imagePullSecrets: use `podman login`"),
    ("error", ("ephemeralContainers",), "podman has no ephemeral containers"),
)
_VOLUME_SOURCES: Final = ("hostPath", "persistentVolumeClaim", "configMap", "secret", "emptyDir")

# --- what podman ignores or cannot do


def check(manifests: Iterable[Manifest]) -> tuple[list[str], list[str]]:
    """(what podman ignores: warnings, what it cannot do at all: errors)."""
    found: dict[str, list[str]] = {"warning": [], "error": []}
    for manifest in manifests:
        for severity, words in _remarks(manifest.object):
            found[severity].append(f"{manifest.ref} ({_near(manifest.file)}:{manifest.line}): {words}")
    return found["warning"], found["error"]


def _remarks(object_: Object) -> Iterator[tuple[str, str]]:
    """(severity, words) about what podman ignores or cannot do in a manifest."""
    kind = object_["kind"]
    if kind in IGNORED:
        yield "warning", f"podman ignores it: {IGNORED[kind]}"
    elif kind in POD_KINDS:
        yield from _pod_remarks(object_)
    elif kind not in WORDS:
        why = _IMPOSSIBLE.get(kind, "it runs Pods and Deployments, with ConfigMaps, Secrets and claims")
        yield "error", f"podman cannot run a {kind}: {why}"


def _pod_remarks(object_: Object) -> Iterator[tuple[str, str]]:
    replicas = (object_.get("spec") or {}).get("replicas", 1) if object_["kind"] == "Deployment" else 1
    if replicas == 0:
        yield "error", "podman runs one Pod of a Deployment, never 0"
    elif replicas != 1:
        yield "warning", f"only one Pod runs instead of {replicas}"
    spec = pod_template(object_).get("spec") or {}
    for severity, path, words in _POD_RULES:
        if _at(spec, path) not in (None, False, []):
            yield severity, words
    for container in spec.get("containers") or ():
        for severity, path, words in _CONTAINER_RULES:
            if _at(container, path) is not None:
                yield severity, f"container {container.get('name')}: {words}"
        if any(source.get("prefix") for source in container.get("envFrom") or ()):
            yield "error", f"container {container.get('name')}: podman ignores the prefix of envFrom"
    for volume in spec.get("volumes") or ():
        source = next((key for key in volume if key != "name"), "emptyDir")
        if source not in _VOLUME_SOURCES:
            yield "error", f"volume {volume.get('name')}: podman has no {source}"


def _near(file: str) -> str:
    """A path as a person in the working directory writes it."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


def _at(data: Any, path: Iterable[str]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def pod_template(object_: Object) -> Object:
    """The part of a manifest that is a Pod."""
    if object_["kind"] != "Deployment":
        return object_
    template: Object = object_.setdefault("spec", {}).setdefault("template", {})
    return template


# --- what podman is given


def named(original: Object) -> Object:
    """A copy that has a name: podman knows no generateName, and a name is journalled before its object exists."""
    object_ = copy.deepcopy(original)
    meta = object_["metadata"]
    if not meta.get("name"):
        meta["name"] = meta.pop("generateName") + name_suffix()
    return object_


def manifest_hash(object_: Object) -> str:
    """What tells whether a Pod was made from this very manifest; short enough for a label."""
    return hashlib.sha256(json.dumps(object_, sort_keys=True, default=str).encode()).hexdigest()[:32]


def adapted(original: Object, run_id: str, known: Mapping[tuple[str, str], Object], *, direct: bool) -> Object:
    """A copy of a manifest that podman makes what Kubernetes would make of the original."""
    object_ = copy.deepcopy(original)
    template = pod_template(object_)
    meta = template.setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), RUN_LABEL: run_id}
    if object_["kind"] == "PersistentVolumeClaim":
        return object_
    meta["labels"][MANIFEST_LABEL] = manifest_hash(original)
    if object_["kind"] == "Deployment":
        object_["spec"]["replicas"] = 1
        meta["labels"][OWNER_LABEL] = object_["metadata"]["name"]
    spec = template.setdefault("spec", {})
    _adapt_ports(spec, direct=direct)
    values = {name: _secret_texts(item)[0] for (kind, name), item in known.items() if kind == "Secret"}
    _adapt_volumes(spec, object_["metadata"]["name"], values.keys())
    for container in _containers(spec):
        _adapt_env(container, values)
    return object_


def config_of(object_: Object) -> Object:
    """A ConfigMap as it is; a Secret as a ConfigMap in the file of the run, which nobody else can read: 4.3 mounts
    Secrets still in base64 and cannot read its own ones for the environment.
    """
    if object_["kind"] == "ConfigMap":
        return object_
    texts, rest = _secret_texts(object_)
    name = _config_name(object_["metadata"]["name"])
    config: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": texts}
    return {**config, "binaryData": rest} if rest else config


def _config_name(secret: str) -> str:
    return f"{secret}-secret"


def _secret_texts(secret: Object) -> tuple[dict[str, str], Object]:
    """The values of a Secret as text, and those that are no text as they were."""
    texts: dict[str, str] = {}
    rest: Object = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            texts[key] = base64.b64decode(value).decode()
        except ValueError:
            rest[key] = value
    return {**texts, **(secret.get("stringData") or {})}, rest


def _adapt_env(container: Object, known: Mapping[str, Mapping[str, str]]) -> None:
    """Write the values of Secrets out: the file is private to the run, and podman shows a container's environment."""
    env: list[Object] = []
    sources = []
    for source in container.get("envFrom") or ():
        name = _at(source, ("secretRef", "name"))
        if name in known:
            env += [{"name": key, "value": value} for key, value in known[name].items()]
        else:
            sources.append(source)
    for variable in container.get("env") or ():
        name, key = (_at(variable, ("valueFrom", "secretKeyRef", part)) for part in ("name", "key"))
        found = key in known.get(name, {})
        env.append({"name": variable["name"], "value": known[name][key]} if found else variable)
    container.update({"env": env, "envFrom": sources})


def _adapt_ports(spec: Object, *, direct: bool) -> None:
    """A containerPort is not the host's: podman before 4.8 publishes it there, which takes the very port that a
    forward is to listen on, and with hostNetwork it fails. Without root it is published, on a free port of localhost:
    there is no other way into the Pod.
    """
    for container in spec.get("containers") or ():
        ports = [] if spec.get("hostNetwork") else container.get("ports") or []
        container["ports"] = [
            port if port.get("hostPort") else {**port, **_free_port()}
            for port in ports
            if port.get("hostPort") or not direct
        ]


def _free_port() -> Object:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return {"hostIP": "127.0.0.1", "hostPort": server.getsockname()[1]}


def _adapt_volumes(spec: Object, owner: str, known: Iterable[str]) -> None:
    """In 4.3, podman crashes on a Secret's volume that does not say `optional`, and makes an emptyDir a volume under
    its bare name, which all Pods share. `known` are the Secrets that become ConfigMaps.
    """
    renamed = {}
    for volume in spec.get("volumes") or ():
        if _at(volume, ("secret", "secretName")) in known:
            config = volume["configMap"] = volume.pop("secret")
            config["name"] = _config_name(config.pop("secretName"))
        for source in ("configMap", "secret"):
            if volume.get(source):
                volume[source].setdefault("optional", False)
        if "emptyDir" in volume or set(volume) == {"name"}:
            old = volume["name"]
            renamed[old] = volume["name"] = f"{owner}-{old}"
    for container in _containers(spec):
        for mount in container.get("volumeMounts") or ():
            mount["name"] = renamed.get(mount["name"], mount["name"])


def _containers(spec: Object) -> Iterator[Object]:
    yield from spec.get("containers") or ()
    yield from spec.get("initContainers") or ()


def needed_volumes(object_: Object) -> Iterator[tuple[str, bool]]:
    """The volumes that podman makes for a Pod and leaves behind: (name, whether it is a claim)."""
    if object_["kind"] not in POD_KINDS:
        return
    for volume in (pod_template(object_).get("spec") or {}).get("volumes") or ():
        for source, key in (("configMap", "name"), ("secret", "secretName"), ("persistentVolumeClaim", "claimName")):
            if name := _at(volume, (source, key)):
                yield str(name), source == "persistentVolumeClaim"
