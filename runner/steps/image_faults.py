"""What is wrong with the images of manifests, as far as it can be seen before the run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.document import loads_objects, read_objects
from runner.expressions import has_expression
from runner.steps import manifests
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
    for key, file, document in _documents(data, files):
        for way, container in references.places(document.data):
            name, rest = references.split(container["image"])
            image = references.replaced(str(images[name]), rest) if name in images else container["image"]
            why = references.pulls(image, container.get("imagePullPolicy"))
            if why and references.qualified(image) in built:
                line = document.positions[(*way, "image")].line
                message = f"{file}:{line}: {image} is built here, but kubelet asks a registry for it: {why}"
                yield Fault((key,), message, "write `imagePullPolicy: IfNotPresent` beside it", "warning")


def _images(data: Mapping[str, Any]) -> Mapping[str, str]:
    images = data.get("images")
    return images if isinstance(images, Mapping) else {}


def _documents(data: Mapping[str, Any], files: Files) -> Iterator[tuple[str, str, Document]]:
    """(the key, the file, the document) of all manifests that can be read now."""
    listed = data.get("file")
    for name in listed if isinstance(listed, list) else [listed]:
        if not isinstance(name, str) or has_expression(name) or manifests.is_remote(name) or name in files.made:
            continue
        for path in manifests.paths(name, files.folder):
            shown = os.path.relpath(path, files.folder)
            yield from (("file", shown, document) for document in read_objects(path, shown))
    text = data.get("manifest")
    if isinstance(text, str) and not has_expression(text):
        yield from (("manifest", manifests.INLINE, document) for document in loads_objects(text, manifests.INLINE))
