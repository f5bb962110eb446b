"""Image references in manifests: found in every container list, and set by kustomize's rule."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.cluster import references


def pod(*images: str) -> dict[str, Any]:
    containers = [{"name": f"c{index}", "image": image} for index, image in enumerate(images)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": containers}}


@pytest.mark.parametrize(
    ("image", "name", "rest"),
    [
        ("app", "app", ""),
        ("app:1", "app", ":1"),
        ("localhost:5000/me/app", "localhost:5000/me/app", ""),
        ("localhost:5000/me/app:1", "localhost:5000/me/app", ":1"),
        ("app@sha256:ab", "app", "@sha256:ab"),
        ("ghcr.io/me/app:1@sha256:ab", "ghcr.io/me/app", ":1@sha256:ab"),
    ],
)
def test_split(image: str, name: str, rest: str) -> None:
    """A port is no tag."""
    assert references.split(image) == (name, rest)


def test_all_container_lists() -> None:
    """Init and ephemeral containers, templates however deep, custom resources; not the schema of a definition."""
    spec = pod("a", "b")["spec"] | {"initContainers": [{"image": "i"}], "ephemeralContainers": [{"image": "e"}]}
    cron = {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}
    listed = {"kind": "List", "items": [pod("x")]}
    definition = {**cron, "kind": "CustomResourceDefinition"}
    odd = {"kind": "Odd", "containers": "none", "initContainers": [1, {"image": 2}, {"name": "without"}]}

    assert references.images_of([cron, listed, definition, odd]) == ["a", "b", "i", "e", "x"]


@pytest.mark.parametrize(
    ("before", "reference", "after"),
    [
        ("app:1", "me/app:2", "me/app:2"),
        ("app:1", "me/app", "me/app:1"),
        ("app@sha256:ab", "me/app", "me/app@sha256:ab"),
        ("app", "localhost:5000/app", "localhost:5000/app"),
        ("app:1", "app@sha256:cd", "app@sha256:cd"),
        ("apple:1", "me/app:2", "apple:1"),
    ],
)
def test_setting(before: str, reference: str, after: str) -> None:
    """By the name alone; a reference without tag and digest keeps those of the manifest. The original stays."""
    original = pod(before)
    (container,) = references.containers(references.with_images(original, {"app": reference}))

    assert container["image"] == after
    assert original == pod(before)


def test_unmatched() -> None:
    """What no container uses, in order."""
    assert references.unmatched([pod("a:1"), pod("b")], {"x": "1", "a": "2", "b:1": "3"}) == ["x", "b:1"]


def test_as_a_kustomization_has_them() -> None:
    """For the planned script."""
    told = json.loads(references.kustomized({"a": "r:5000/b:1", "c": "d@sha256:e", "f": "g"}))

    assert told == [
        {"name": "a", "newName": "r:5000/b", "newTag": "1"},
        {"name": "c", "newName": "d", "digest": "sha256:e"},
        {"name": "f", "newName": "g"},
    ]


@pytest.mark.parametrize(
    ("image", "policy", "pulls"),
    [
        ("app", None, True),
        ("app:latest", None, True),
        ("app:1", None, False),
        ("app@sha256:a", None, False),
        ("app", "Never", False),
        ("app", "IfNotPresent", False),
        ("app:1", "Always", True),
    ],
)
def test_pulls(image: str, policy: str | None, pulls: bool) -> None:
    """Kubelet's defaults."""
    assert bool(references.pulls(image, policy)) is pulls


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("pythonapp", "docker.io/library/pythonapp:latest"),
        ("pythonapp:1.2", "docker.io/library/pythonapp:1.2"),
        ("me/app", "docker.io/me/app:latest"),
        ("docker.io/app", "docker.io/library/app:latest"),
        ("index.docker.io/app", "docker.io/library/app:latest"),
        ("docker.io/me/app:2", "docker.io/me/app:2"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest"),
        ("ghcr.io/me/app", "ghcr.io/me/app:latest"),
        ("registry:5000/team/app:v1", "registry:5000/team/app:v1"),
        ("app@sha256:" + "0" * 64, "docker.io/library/app@sha256:" + "0" * 64),
    ],
)
def test_qualified(image: str, name: str) -> None:
    """A name becomes the one that kubelet looks for; one that is complete stays."""
    assert references.qualified(image) == name
    assert references.qualified(name) == name


def test_names_registry() -> None:
    """Only a name with a host in front says where to pull from; localhost is nobody's registry."""
    assert references.names_registry("ghcr.io/me/app")
    assert references.names_registry("localhost:5000/app")
    assert not references.names_registry("me/app")
    assert not references.names_registry("localhost/app")
    assert not references.names_registry("app:1.2")
