"""What is wrong with the images of manifests, as far as it can be seen before the run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.document import loads_objects, read_objects
from runner.expressions import has_expression
from runner.steps import kustomize, manifests
from runner.steps.kind import Fault, Files

if TYPE_CHECKING:
    from runner.cluster.protocol import Manifest
    from runner.document import Document


def unused(data: Mapping[str, Any], files: Files) -> Iterator[Fault]:
    """Names in `images` that no container uses."""
    from runner.cluster import references

    images = _images(data)
    for name in images:
        plain, rest = references.split(name)
        if rest:
            yield Fault(("images", name), f"{name} has a tag or digest", f"write the image's name alone: {plain}")
            return
    known = manifests.known(data, files.folder)
    for name in references.unmatched((item.object for item in known), images) if known else ():
        yield Fault(("images", name), *no_such_image(name, known))


def no_such_image(name: str, found: Iterable[Manifest]) -> tuple[str, str]:
    """(the sentence about an image that no container uses, what there is instead)."""
    from runner.cluster import references

    used = ", ".join(references.images_of(item.object for item in found))
    hint = f"write one of those in the manifests: {used}" if used else "the manifests have no containers"
    return f"no container uses the image {name}", hint


def pulled(data: Mapping[str, Any], files: Files) -> Iterator[Fault]:
    """Containers of an image that was built here, and that kubelet will look for in a registry all the same."""
    from runner.cluster import references

    built = {references.qualified(image) for image in files.built if not references.names_registry(image)}
    if not built:
        return
    images = _images(data)
    for found in _found(data, files):
        name, rest = references.split(found.image)
        image = references.replaced(str(images[name]), rest) if name in images else found.image
        why = references.pulls(image, found.policy)
        if why and references.qualified(image) in built:
            message = f"{found.place}{image} is built here, but kubelet asks a registry for it: {why}"
            yield Fault(found.path, message, "write `imagePullPolicy: IfNotPresent` beside it", "warning")


@dataclass(frozen=True, slots=True)
class _Found:
    """A container of a manifest: the way to it in the step, and in the file that the step names (`web.yaml:4: `)."""

    path: tuple[str | int, ...]
    place: str
    image: str
    policy: Any


def _images(data: Mapping[str, Any]) -> Mapping[str, str]:
    images = data.get("images")
    return images if isinstance(images, Mapping) else {}


def _found(data: Mapping[str, Any], files: Files) -> Iterator[_Found]:
    """The containers of all manifests that can be read now."""
    listed = data.get("file")
    for name in listed if isinstance(listed, list) else [listed]:
        if not isinstance(name, str) or has_expression(name) or manifests.is_remote(name) or name in files.made:
            continue
        for path in manifests.paths(name, files.folder):
            shown = os.path.relpath(path, files.folder)
            yield from _of_documents("file", shown, read_objects(path, shown))
    written = data.get("manifest")
    if not isinstance(written, str):
        yield from (
            _Found(("manifest", *way, "image"), "", container["image"], container.get("imagePullPolicy"))
            for way, container in _places(written)
            if not has_expression(container["image"])
        )
    elif not has_expression(written):
        yield from _of_documents("manifest", manifests.INLINE, loads_objects(written, manifests.INLINE))
    folder = data.get("kustomize")
    if isinstance(folder, str) and not has_expression(folder) and folder not in files.made:
        for document in kustomize.plain_objects(files.folder / folder, files.folder):
            yield from _of_documents("kustomize", document.file, [document])


def _of_documents(key: str, file: str, documents: Iterable[Document]) -> Iterator[_Found]:
    for document in documents:
        for way, container in _places(document.data):
            place = f"{file}:{document.positions[(*way, 'image')].line}: "
            yield _Found((key,), place, container["image"], container.get("imagePullPolicy"))


def _places(data: Any) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    from runner.cluster import references

    for index, item in enumerate(data) if isinstance(data, list) else [(-1, data)]:
        if isinstance(item, Mapping):
            yield from (((() if index < 0 else (index,)) + way, found) for way, found in references.places(dict(item)))
