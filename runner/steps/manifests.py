"""Manifest files of a step: which files a key means, and the objects in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import confidential, masking
from runner.document import Document, read_objects
from runner.errors import InvalidWorkflow, StepFailed
from runner.expressions import has_expression
from runner.steps.kind import Fault, Files

if TYPE_CHECKING:
    from runner.cluster.protocol import Manifest

_LONGEST_NAME = 255
"""Bytes; of every usual file system."""
SUFFIXES = (".yaml", ".yml", ".json")


def paths(names: str | Sequence[str], folder: Path) -> list[Path]:
    """The files that names mean: a file, a folder (its manifests, sorted), or a glob. Missing ones are kept."""
    from glob import glob

    found: list[Path] = []
    for name in (names,) if isinstance(names, str) else names:
        path = folder / name
        if any(sign in name for sign in "*?["):
            names_ = glob(name, root_dir=folder, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            matches = (folder / match for match in names_)
            found += sorted(match for match in matches if match.suffix in SUFFIXES) or [path]
        elif path.is_dir():
            found += sorted(match for match in path.iterdir() if match.suffix in SUFFIXES) or [path]
        else:
            found.append(path)
    return found


def faults(value: Any, files: Files, key: str) -> Iterator[Fault]:
    """What is wrong with the files that a key names: missing, outside of the repository, not Kubernetes objects."""
    names = value if isinstance(value, list) else [value]
    for index, name in enumerate(names):
        place = (key, index) if isinstance(value, list) else (key,)
        if isinstance(name, str) and not has_expression(name) and name not in files.made:
            yield from _file_faults(name, files, place)


def _file_faults(name: str, files: Files, place: tuple[str | int, ...]) -> Iterator[Fault]:
    if name.startswith(("http://", "https://")):
        yield Fault(place, f"{name} is a URL; manifests are read from files", "download it into the repository")
        return
    if impossible := _impossible(files.folder / name):
        yield Fault(place, impossible)
        return
    for path in paths(name, files.folder):
        if outside := leaves(path, files.root):
            yield Fault(place, outside, "move it into the repository")
        elif not path.exists():
            hint = "a `run` step before that makes it says so with `generates: [" + name + "]`"
            yield Fault(place, f"there is no file {name}", _similar(path, name) or hint)
        elif path.is_dir():
            yield Fault(place, f"the folder {name} has no manifests (*.yaml, *.yml, *.json)")
        else:
            yield from _content_faults(path, name, place)


def leaves(path: Path, root: Path) -> str:
    """A sentence when a path cannot exist or, its symlinks followed, leads out of the workflow's repository."""
    if impossible := _impossible(path):
        return impossible
    if path.resolve().is_relative_to(root.resolve()):
        return ""
    return f"{path.name} is outside of the repository of the workflow"


def _impossible(path: Path) -> str:
    if "\0" in str(path):
        return "a path cannot have a NUL character in it"
    longest = max(path.parts, key=len, default="")
    return f"the name {longest[:30]}… is too long" if len(os.fsencode(longest)) > _LONGEST_NAME else ""


def _similar(path: Path, name: str) -> str:
    from difflib import get_close_matches

    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    close = get_close_matches(path.name, siblings, n=1, cutoff=0.75)
    return f"did you mean {Path(name).parent / close[0]}?" if close else ""


def _content_faults(path: Path, name: str, place: tuple[str | int, ...]) -> Iterator[Fault]:
    try:
        documents = read_objects(path, name)
    except InvalidWorkflow as error:
        for problem in error.problems:
            yield Fault(place, f"{problem.place}: {problem.message}", problem.hint)
        return
    if not documents:
        yield Fault(place, f"{name} is empty")
    for document in documents:
        for sentence, line in _flaws(document):
            yield Fault(place, f"{name}:{line}: {sentence}", "a manifest has apiVersion, kind and metadata.name")


def _flaws(document: Document) -> Iterator[tuple[str, int]]:
    """(why something is not a Kubernetes object, its line), of the document or the items of its list."""
    if sentence := not_an_object(document.data):
        yield sentence, document.positions[()].line
        return
    for item, line in _unfolded(document):
        if sentence := not_an_object(item):
            yield sentence, line


def not_an_object(data: Any) -> str:
    """A sentence when a document is not a Kubernetes object, or an empty string."""
    if not isinstance(data, Mapping):
        return f"this is {'a list' if isinstance(data, list) else 'a single value'}, not a Kubernetes object"
    missing = [key for key in ("apiVersion", "kind") if not isinstance(data.get(key), str) or not data[key]]
    if missing:
        return f"`{'` and `'.join(missing)}` {'is' if len(missing) == 1 else 'are'} missing: not a Kubernetes object"
    if data["kind"] == "List" or data["kind"].endswith("List"):
        return "" if isinstance(data.get("items"), list) else f"{data['kind']} has no items"
    meta = data.get("metadata")
    if not isinstance(meta, Mapping) or not (meta.get("name") or meta.get("generateName")):
        return f"this {data['kind']} has no metadata.name"
    return ""


def read(files: Iterable[Path]) -> list[Manifest]:
    """The objects in these files, lists unfolded, in order. Raises `StepFailed` for what validation could not see."""
    from runner.cluster.protocol import Manifest

    manifests = []
    for path in files:
        try:
            documents = read_objects(path, str(path))
        except InvalidWorkflow as error:
            problem = error.problems[0]
            raise StepFailed(f"{problem.place}: {problem.message}", hint=problem.hint, reason="manifest") from None
        for document in documents:
            masking.hide(confidential.of_object(document.data))
            manifests += [Manifest(item, str(path), line) for item, line in _objects(document)]
    return manifests


def _objects(document: Document) -> Iterator[tuple[dict[str, Any], int]]:
    for sentence, line in _flaws(document):
        raise StepFailed(f"{document.file}:{line}: {sentence}", reason="manifest")
    return _unfolded(document)


def _unfolded(document: Document) -> Iterator[tuple[dict[str, Any], int]]:
    if document.data["kind"].endswith("List") and "items" in document.data:
        for index, item in enumerate(document.data["items"]):
            yield item, document.positions[("items", index)].line
    else:
        yield document.data, document.positions[()].line
