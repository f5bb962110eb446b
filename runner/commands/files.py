"""From the arguments of a command line to workflows: folders unfolded, all problems of all files at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import confidential, document, masking
from runner.building import build, is_manifest, not_a_workflow
from runner.document import Document
from runner.errors import InvalidWorkflow, Problem, UsageError
from runner.inputs import input_values
from runner.steps import KINDS
from runner.workflow import Workflow

SUFFIXES = (".yaml", ".yml")


def read(names: Sequence[str], *, outside: bool = False) -> list[Workflow]:
    """The workflows in these files and folders; their paths may leave their repositories if `outside`.

    Raises `InvalidWorkflow` or `UsageError`.
    """
    workflows: list[Workflow] = []
    problems: list[Problem] = []
    for path, name, in_folder in _unfold(names):
        try:
            loaded = document.load(path, name)
            masking.hide(confidential.of_workflow(loaded.data))
            if not (in_folder and _is_other(path, loaded.data)):
                workflows.append(build(loaded, KINDS, outside=outside))
        except InvalidWorkflow as error:
            if manifests := _manifests(path, name):
                problems += () if in_folder else not_a_workflow(manifests[0])
            else:
                problems += error.problems
    if problems:
        raise InvalidWorkflow(tuple(problems))
    if not workflows:
        raise UsageError(f"there is no workflow in {', '.join(names)}", hint="a workflow is a YAML file with `steps`")
    return workflows


def _unfold(names: Sequence[str]) -> Iterator[tuple[Path, str, bool]]:
    """(path, its name in messages, whether it comes from a folder)."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(item for item in path.iterdir() if item.suffix in SUFFIXES and item.is_file())
            for item in found:
                yield item, str(item), True
            if not found:
                raise UsageError(f"the folder {name} has no workflow files (*.yaml, *.yml)")
        elif not path.exists():
            raise UsageError(f"there is no file {name}", hint=_similar(path))
        else:
            yield path, name, False


def _similar(path: Path) -> str:
    from difflib import get_close_matches

    from runner.cli import COMMANDS

    if str(path) in ("help", "version"):
        return f"did you mean `runner --{path}`?"
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    siblings = {str(path.parent / item.name): item for item in there if item.exists()}
    if close := get_close_matches(str(path), [*COMMANDS, *siblings], n=1):
        return f"did you mean {close[0]}?"
    return ""


def _is_other(path: Path, data: Any) -> bool:
    """A manifest or a kustomization that shares a folder with workflows."""
    return is_manifest(data) or path.stem == "kustomization"


def _manifests(path: Path, name: str) -> tuple[Document, ...]:
    """The objects of a file that is no workflow, when it has nothing else."""
    try:
        objects = document.read_objects(path, name)
    except InvalidWorkflow:
        return ()
    return objects if all(is_manifest(item.data) for item in objects) else ()


def values(workflow: Workflow, settings: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """The inputs of a workflow from the command line and the environment. Raises `UsageError`.

    From now on no output shows those that are secret.
    """
    given = input_values(workflow.inputs, settings, [_values_file(name) for name in files])
    for name, value in given.items():
        if workflow.inputs[name].secret:
            masking.hide(confidential.declared(value))
    return given


def _values_file(name: str) -> Mapping[str, Any]:
    if not Path(name).is_file():
        raise UsageError(f"there is no file {name} (--values)", hint=_similar(Path(name)))
    data = document.load(Path(name), name).checked().data
    if not isinstance(data, Mapping):
        raise UsageError(f"{name} must be a map of inputs: `name: value`")
    return data
