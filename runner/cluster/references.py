"""Image references: the name that kubelet looks for, which a manifest has, and setting them without templates. Pure.

The rule is kustomize's: an image is known by its name, without tag and digest. A new reference that has neither keeps
those that the manifest has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from runner.cluster.protocol import Object

_LISTS: Final = ("containers", "initContainers", "ephemeralContainers")


def split(image: str) -> tuple[str, str]:
    """(name, what follows it): `registry:5000/web:1@sha256:…` → (`registry:5000/web`, `:1@sha256:…`)."""
    name, at, digest = image.partition("@")
    folder, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    return f"{folder}{slash}{last}", f"{colon}{tag}{at}{digest}"


def qualified(image: str) -> str:
    """The name under which kubelet looks for an image: `pythonapp` → `docker.io/library/pythonapp:latest`."""
    registry, slash, rest = image.partition("/")
    if not slash or not (registry == "localhost" or re.search(r"[.:A-Z]", registry)):
        registry, rest = "docker.io", image
    if registry in ("docker.io", "index.docker.io"):
        registry, rest = "docker.io", rest if "/" in rest else f"library/{rest}"
    tagged = "@" in rest or ":" in rest.rpartition("/")[2]
    return f"{registry}/{rest}" if tagged else f"{registry}/{rest}:latest"


def names_registry(image: str) -> bool:
    """Whether a name says which registry has the image."""
    registry, slash, _ = image.partition("/")
    return bool(slash) and registry != "localhost" and bool(re.search(r"[.:]", registry))


def containers(object_: Object) -> Iterator[dict[str, Any]]:
    """Every container of an object: of a Pod, of a Pod template however deep (a CronJob's), of a custom resource."""
    yield from (container for _, container in places(object_))


def by_container(object_: Object) -> dict[str, str]:
    """The image that each container names."""
    return {container["name"]: container["image"] for container in containers(object_)}


def places(object_: Object) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """The containers of an object with the way to each."""
    if object_.get("kind") != "CustomResourceDefinition":  # its schema describes such lists
        yield from _below(object_, ())


def _below(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in _LISTS and isinstance(item, list):
                for index, container in enumerate(item):
                    if isinstance(container, dict) and isinstance(container.get("image"), str):
                        yield (*path, key, index), container
            else:
                yield from _below(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _below(item, (*path, index))


def pulls(image: str, policy: Any) -> str:
    """Why kubelet asks a registry for an image each time; empty when it takes what the node has."""
    if policy == "Always":
        return "its pull policy is Always"
    if policy is not None:
        return ""
    rest = split(image)[1]
    if rest not in ("", ":latest"):
        return ""
    return f"{'the tag latest' if rest else 'no tag'} without a policy means Always"


def images_of(objects: Iterable[Object]) -> list[str]:
    """The images that containers name, each once, in order."""
    return list(dict.fromkeys(container["image"] for object_ in objects for container in containers(object_)))


def unmatched(objects: Iterable[Object], images: Mapping[str, str]) -> list[str]:
    """The names that no container uses."""
    used = {split(image)[0] for image in images_of(objects)}
    return [name for name in images if name not in used]


def with_images(object_: Object, images: Mapping[str, str]) -> Object:
    """A copy with other images."""
    copy: Object = json.loads(json.dumps(object_))
    for container in containers(copy):
        name, rest = split(container["image"])
        if name in images:
            container["image"] = replaced(images[name], rest)
    return copy


def replaced(reference: str, rest: str) -> str:
    """A new reference; with the tag and digest of before when it has none."""
    return reference if split(reference)[1] else reference + rest


def kustomized(images: Mapping[str, str]) -> str:
    """The field `images` of a kustomization that does the same, as JSON."""
    return json.dumps([_kustomized(name, reference) for name, reference in images.items()])


def _kustomized(name: str, reference: str) -> dict[str, str]:
    new, rest = split(reference)
    tag, _, digest = rest.partition("@")
    found = {"name": name, "newName": new, "newTag": tag.removeprefix(":"), "digest": digest}
    return {key: value for key, value in found.items() if value}
