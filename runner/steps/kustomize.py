"""Kustomizations: which folder has one, what is wrong with it, and how it is rendered."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.document import Document, read_objects
from runner.errors import InvalidWorkflow
from runner.expressions import has_expression
from runner.steps import manifests
from runner.steps.bounds import STAY_INSIDE, leaves
from runner.steps.kind import Fault, Files

if TYPE_CHECKING:
    from runner.shell import Command

NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
# Where a kustomization names others, or files of objects.
_SOURCES = ("resources", "bases", "components")
# What kustomize fetches by itself: URLs, and repositories in the ways in which git is told about them.
_REMOTE = re.compile(r"^(?:[a-z+]+::)|://|^[\w.-]+@[\w.-]+:|^(?:[\w-]+\.)+(?:com|org|net|io|dev)[/:]|[?&]ref=")


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
    file = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if file is None:
        hint = f"apply its files: `apply: {shown}`" if any(folder.glob("*.yaml")) else ""
        yield Fault(place, f"the folder {shown} has no kustomization.yaml", hint)
    elif file.resolve() not in seen:
        seen.add(file.resolve())
        yield from _content_faults(file, files, place, remote, seen)


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
        if _REMOTE.search(source) and not path.exists():
            if not remote:
                yield _remote_fault(f"{name}:{line}: {source}", place)
        elif path.is_dir():
            yield from _folder_faults(path, files, place, remote, seen)
        elif outside := leaves(path, files.root):
            yield Fault(place, f"{name}:{line}: {outside}", STAY_INSIDE)
        elif not path.exists():
            yield Fault(place, f"{name}:{line}: there is no file {source}")


def _sources(document: Document) -> Iterator[tuple[str, int]]:
    """(what a kustomization builds on, the line where it says so)."""
    data = document.data if isinstance(document.data, dict) else {}
    for key in _SOURCES:
        entries = data.get(key)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, str):
                yield entry, document.positions[(key, index)].line
