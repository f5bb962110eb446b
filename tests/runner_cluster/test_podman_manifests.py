"""What podman ignores and cannot do in manifests, and what it is given instead of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from runner.cluster.podman_manifests import MANIFEST_LABEL, OWNER_LABEL, adapted, check, config_of, named
from runner.cluster.protocol import RUN_LABEL, Manifest, Object


def manifest(object_: Object) -> Manifest:
    return Manifest(object_, "app/web.yaml", 3)


def pod(name: str, image: str = "app", **more: Any) -> Object:
    container = {"name": "app", "image": image, "imagePullPolicy": "Never", **more.pop("container", {})}
    meta = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container], **more}}


def deployment(name: str, replicas: int = 1, **more: Any) -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod(name, **more)["spec"]}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def of_container(**more: Any) -> Object:
    return pod("web", container=more)


def of_kind(kind: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "web"}}


@pytest.mark.parametrize(
    ("object_", "words"),
    [
        (of_kind("Service"), "service/web (app/web.yaml:3): podman ignores it"),
        (of_kind("Ingress"), "ingress/web (app/web.yaml:3): podman ignores it"),
        (of_container(readinessProbe={"httpGet": {}}), "container app: podman ignores readinessProbe"),
        (of_container(livenessProbe={"httpGet": {}}), "runs the livenessProbe as `curl` inside the container"),
        (deployment("web", replicas=2), "only one Pod runs instead of 2"),
        (pod("web", securityContext={"fsGroup": 5}), "podman ignores fsGroup"),
    ],
)
def test_what_podman_ignores_is_said(object_: Object, words: str) -> None:
    warnings, errors = check([manifest(object_)])
    assert errors == []
    assert words in "\n".join(warnings)


@pytest.mark.parametrize(
    ("object_", "words"),
    [
        (of_kind("StatefulSet"), "statefulset/web (app/web.yaml:3): podman cannot run a StatefulSet"),
        (of_kind("Job"), "write a Pod with `restartPolicy: Never`"),
        (of_kind("Certificate"), "podman cannot run a Certificate"),
        (pod("web", volumes=[{"name": "v", "nfs": {}}]), "volume v: podman has no nfs"),
        (deployment("web", replicas=0), "never 0"),
    ],
)
def test_what_podman_cannot_do_is_refused(object_: Object, words: str) -> None:
    _, errors = check([manifest(object_)])
    assert words in "\n".join(errors)


def test_a_plain_pod_needs_no_remark() -> None:
    assert check([manifest(pod("web")), manifest(deployment("web"))]) == ([], [])


def test_a_file_is_named_as_in_the_working_directory(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (warning,), _ = check([Manifest(of_kind("Service"), str(tmp_path / "app" / "web.yaml"), 3)])
    assert warning.startswith("service/web (app/web.yaml:3)")


# --- what podman is given


def given(object_: Object, *known: Object, direct: bool = True) -> Object:
    before = copy.deepcopy(object_)
    made = adapted(object_, "r1", {(item["kind"], item["metadata"]["name"]): item for item in known}, direct=direct)
    assert object_ == before
    return made


def test_a_pod_is_labelled() -> None:
    labels = given(pod("web"))["metadata"]["labels"]
    assert labels.keys() == {"app", RUN_LABEL, MANIFEST_LABEL}
    assert labels[RUN_LABEL] == "r1"


def test_a_deployment_is_one_labelled_pod() -> None:
    spec = given(deployment("web", replicas=3))["spec"]
    assert spec["replicas"] == 1
    assert spec["template"]["metadata"]["labels"][OWNER_LABEL] == "web"


PORT = {"containerPort": 80}
TAKEN = {"containerPort": 81, "hostPort": 8081}


@pytest.mark.parametrize(
    ("more", "direct", "ports"),
    [({}, True, [(81, 8081)]), ({"hostNetwork": True}, True, []), ({"hostNetwork": True}, False, [])],
)
def test_container_ports_take_no_port_of_this_machine(
    more: dict[str, Any], ports: list[tuple[int, int]], *, direct: bool
) -> None:
    (container,) = given(pod("web", container={"ports": [PORT, TAKEN]}, **more), direct=direct)["spec"]["containers"]
    assert [(port["containerPort"], port["hostPort"]) for port in container["ports"]] == ports


def test_without_root_container_ports_are_published_on_localhost() -> None:
    (container,) = given(pod("web", container={"ports": [PORT, TAKEN]}), direct=False)["spec"]["containers"]
    free, taken = container["ports"]
    assert (free["containerPort"], free["hostIP"]) == (80, "127.0.0.1")
    assert free["hostPort"] > 0
    assert taken == TAKEN


SECRET = {**of_kind("Secret"), "data": {"a": "c2VjcmV0", "b": "/w=="}, "stringData": {"c": "text"}}


def test_a_secret_becomes_a_config_map() -> None:
    config = config_of(SECRET)
    assert (config["kind"], config["metadata"]["name"]) == ("ConfigMap", "web-secret")
    assert config["data"] == {"a": "secret", "c": "text"}
    assert config["binaryData"] == {"b": "/w=="}


def test_values_of_secrets_are_written_out() -> None:
    env = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "web", "key": "a"}}},
        {"name": "X", "valueFrom": {"secretKeyRef": {"name": "other", "key": "a"}}},
    ]
    sources = [{"secretRef": {"name": "web"}}, {"configMapRef": {"name": "web"}}]
    (container,) = given(of_container(env=env, envFrom=sources), SECRET)["spec"]["containers"]
    written = [{"name": "a", "value": "secret"}, {"name": "c", "value": "text"}, {"name": "A", "value": "secret"}]
    assert container["env"] == [*written, env[1]]
    assert container["envFrom"] == sources[1:]


def test_volumes() -> None:
    volumes = [
        {"name": "s", "secret": {"secretName": "web", "items": []}},
        {"name": "x", "secret": {"secretName": "other"}},
        {"name": "e", "emptyDir": {}},
    ]
    mounts = [{"name": volume["name"], "mountPath": "/x"} for volume in volumes]
    spec = given(pod("web", container={"volumeMounts": mounts}, volumes=volumes), SECRET)["spec"]
    assert spec["volumes"] == [
        {"name": "s", "configMap": {"name": "web-secret", "items": [], "optional": False}},
        {"name": "x", "secret": {"secretName": "other", "optional": False}},
        {"name": "web-e", "emptyDir": {}},
    ]
    assert [mount["name"] for mount in spec["containers"][0]["volumeMounts"]] == ["s", "x", "web-e"]


def test_a_generated_name() -> None:
    meta = named({**of_kind("Pod"), "metadata": {"generateName": "job-"}})["metadata"]
    assert meta.keys() == {"name"}
    assert len(meta["name"]) == len("job-") + 5
