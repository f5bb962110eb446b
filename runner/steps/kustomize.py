"""Kustomizations: which folder has one, what is wrong with it, and how it is rendered."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.document import Document, loads_objects, read_objects
from runner.errors import InvalidWorkflow
from runner.expressions import has_expression
from runner.steps import manifests
from runner.steps.bounds import STAY_INSIDE, leaves
from runner.steps.kind import Fault, Files

if TYPE_CHECKING:
    from runner.shell import Command

NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
# Where a kustomization, or a generator or transformer that it names, names folders and files, or URLs.
_SOURCES = frozenset(
    {
        *("resources", "bases", "components", "generators", "transformers", "validators", "configurations", "crds"),
        *("patches", "patchesStrategicMerge", "path", "paths", "files", "env", "envs"),
    }
)
# What stands below these is written into objects, or names fields of them.
_CONTENT = frozenset(
    {
        *("annotations", "commonAnnotations", "labels", "commonLabels", "options", "generatorOptions"),
        *("fieldSpecs", "valuesInline"),
    }
)
# With these alone, containers stay as the resources have them.
_PLAIN = frozenset(
    {
        *("apiVersion", "kind", "metadata", "resources", "namespace", "namePrefix", "nameSuffix", "labels"),
        *("commonLabels", "commonAnnotations", "configMapGenerator", "secretGenerator", "generatorOptions"),
    }
)
# What kustomize fetches by itself: URLs, and repositories in the ways in which git is told about them.
_REMOTE = re.compile(r"^(?:[a-z+]+::)|://|^[\w.-]+@[\w.-]+:|^(?:[\w-]+\.)+(?:com|org|net|io|dev)[/:]|[?&]ref=")
# A path that may be that of a folder, as kustomize sees it.
_FOLDER = re.compile(r"(?!github\.com/)[^:@?]*")


def command(folder: str) -> Command:
    """Print the objects of a kustomization."""
    from runner.shell import Command

    return Command(("kubectl", "kustomize", folder))


def faults(value: Any, files: Files, key: str, *, remote: bool) -> Iterator[Fault]:
    """What is wrong with a kustomization and those that it builds on; `remote` ones only where they are allowed."""
    if not isinstance(value, str) or has_expression(value) or value in files.made:
        return
    if manifests.is_remote(value) or _REMOTE.search(value):
        if not remote:
            yield _remote_fault(f"the kustomization {value}", (key,))
        return
    yield from _folder_faults(files.folder / value, files, (key,), remote, set())


def _remote_fault(what: str, place: tuple[str | int, ...]) -> Fault:
    return Fault(
        place,
        f"{what} comes from the network: what it holds may change, and nobody has looked at it",
        "download it into the repository, or allow it: `allow_remote: true`",
    )


def _folder_faults(
    folder: Path, files: Files, place: tuple[str | int, ...], remote: bool, seen: set[Path]
) -> Iterator[Fault]:
    shown = os.path.relpath(folder, files.folder)
    if outside := leaves(folder, files.root):
        yield Fault(place, outside, STAY_INSIDE)
        return
    if not folder.is_dir():
        yield Fault(place, f"there is no folder {shown}")
        return
    file = _file_of(folder)
    if file is None:
        hint = f"apply its files: `apply: {shown}`" if any(folder.glob("*.yaml")) else ""
        yield Fault(place, f"the folder {shown} has no kustomization.yaml", hint)
    elif file.resolve() not in seen:
        seen.add(file.resolve())
        yield from _content_faults(file, files, place, remote, seen)


def _file_of(folder: Path) -> Path | None:
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def _content_faults(
    file: Path, files: Files, place: tuple[str | int, ...], remote: bool, seen: set[Path]
) -> Iterator[Fault]:
    name = os.path.relpath(file, files.folder)
    try:
        documents = read_objects(file, name)
    except InvalidWorkflow as error:
        yield from (Fault(place, f"{problem.place}: {problem.message}", problem.hint) for problem in error.problems)
        return
    for source, line in (entry for document in documents for entry in _sources(document)):
        path = file.parent / source
        if _is_remote(source, path):
            if not remote:
                yield _remote_fault(f"{name}:{line}: {source}", place)
        elif path.is_dir():
            yield from _folder_faults(path, files, place, remote, seen)
        elif outside := leaves(path, files.root):
            yield Fault(place, f"{name}:{line}: {outside}", STAY_INSIDE)
        elif path.exists():
            yield from () if remote else _plugin_faults(path, files, place)
        elif os.path.relpath(path, files.folder) not in files.made:
            yield Fault(place, f"{name}:{line}: there is no file {source}")


def plain_objects(folder: Path, base: Path) -> Iterator[Document]:
    """The documents that a kustomization has as resources; none when it would change their containers, which only
    kustomize itself can do. Paths are shown as seen from `base`.
    """
    try:
        yield from _plain_objects(folder, base, set())
    except (_Changed, InvalidWorkflow, OSError):
        return


class _Changed(Exception):
    """A kustomization does more than to collect, to name and to label."""


def _plain_objects(folder: Path, base: Path, seen: set[Path]) -> list[Document]:
    file = _file_of(folder)
    if file is None or file.resolve() in seen:
        raise _Changed
    seen.add(file.resolve())
    found: list[Document] = []
    for document in read_objects(file, str(file)):
        if not isinstance(document.data, dict) or not _PLAIN.issuperset(document.data):
            raise _Changed
        for name in document.data.get("resources") or ():
            path = folder / str(name)
            shown = os.path.relpath(path, base)
            found += _plain_objects(path, base, seen) if path.is_dir() else read_objects(path, shown)
    return found


def _is_remote(source: str, path: Path) -> bool:
    """Whether kustomize would fetch it: it prefers a repository to a folder of that name, not to a file."""
    if manifests.is_remote(source):
        return True
    here = path.is_file() or (path.is_dir() and _FOLDER.fullmatch(source))
    return bool(_REMOTE.search(source)) and not here


def _plugin_faults(file: Path, files: Files, place: tuple[str | int, ...]) -> Iterator[Fault]:
    """What a file that configures a generator or transformer of kustomize has from the network."""
    if b"builtin" not in file.read_bytes():
        return
    name = os.path.relpath(file, files.folder)
    try:
        documents = read_objects(file, name)
    except InvalidWorkflow:
        return  # a file of a ConfigMap need not be YAML
    for document in documents:
        if isinstance(document.data, dict) and document.data.get("apiVersion") == "builtin":
            for source, line in _sources(document):
                if _is_remote(source, file.parent / source):
                    yield _remote_fault(f"{name}:{line}: {source}", place)


def _sources(document: Document) -> Iterator[tuple[str, int]]:
    """(what a kustomization builds on, the line where it says so)."""
    for way, text in _strings(document.data, ()):
        keys = [key for key in way if isinstance(key, str)]
        if not keys or keys[-1] not in _SOURCES or not _CONTENT.isdisjoint(keys[:-1]):
            continue
        line = document.positions[way].line
        if "\n" in text or text.startswith("{"):  # not the name of a file, but what could stand in one
            yield from ((source, line) for source in _inline_sources(text, document.file))
        else:
            yield (text.partition("=")[2] or text) if keys[-1] == "files" else text, line


def _inline_sources(text: str, name: str) -> Iterator[str]:
    try:
        documents = loads_objects(text, name)
    except InvalidWorkflow:
        return  # kustomize will say it
    for document in documents:
        if isinstance(document.data, dict) and document.data.get("apiVersion") == "builtin":
            yield from (source for source, _ in _sources(document))


def _strings(value: Any, way: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every string in it, and the way to it."""
    if isinstance(value, str):
        yield way, value
    elif isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _strings(item, (*way, key))
