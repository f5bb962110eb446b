"""The object of `runner plan --output json`: what a run would do, for programs.

Keys, always all of them and in this order (`schema` changes when one of them changes its meaning or goes away). A value
that only a run knows stands as `${{ expression }}` in every text.

- `schema`: 1.
- `workflows`: one for each file:
  - `name`, `file`, `description`; `engine`: `kubectl` or `podman`.
  - `namespace`: empty for the context's own; `${{ run.namespace }}` for one that the run generates; on podman,
    which has none, `default`.
  - `keep`: what stays at the end of what the run made: nothing (`never`), all of a run that fails (`on_failure`), all
    (`always`). What existed before is never touched.
  - `steps`: in the order of the file:
    - `path`: its stable address (`steps.web`, `steps[2]`); `id` (may be empty); `name`; `kind`.
    - `section`: `steps`, `on_failure` or `finally`; `line` in the file.
    - `if`: the condition, empty for none; `skipped`: it is known already that it does not hold.
    - `commands`: what is executed, exactly: `argv`, a list; `line`, the same for a shell; `objects`: how many manifests
      go to its standard input, null where only a run knows (a kustomization).
    - `equivalents`: what its observations stand for: `line`, and `argv` where that is one plain command, else null.
    - `keep`: what this step makes stays.
    - `problem`: why its commands are not known before the run (the exit code is then 1); empty when they are.
    - `steps`: those inside it, in the same form.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, Final

from runner.commands.sketch import Planned, objects_given, observed, spell
from runner.shell import Command, quote
from runner.workflow import Workflow

SCHEMA: Final = 1


def document(workflows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The object as data."""
    return {"schema": SCHEMA, "workflows": list(workflows)}


def workflow(flow: Workflow, planned: Sequence[Planned], engine: str, namespace: str) -> dict[str, Any]:
    return {
        "name": flow.name,
        "file": flow.file,
        "description": flow.description,
        "engine": engine,
        "namespace": spell(namespace),
        "keep": flow.keep,
        "steps": [_step(item) for item in planned],
    }


def _step(item: Planned) -> dict[str, Any]:
    step = item.step
    return {
        "path": step.path,
        "id": step.id,
        "name": spell(item.name),
        "kind": step.kind.NAME,
        "section": step.section,
        "line": step.line,
        "if": step.condition.source if step.condition else "",
        "skipped": item.skipped,
        "commands": [_command(command) for command in item.commands],
        "equivalents": [_equivalent(line) for line in map(observed, item.equivalent) if line],
        "keep": step.keep,
        "problem": spell(item.problem),
        "steps": [_step(inner) for inner in item.nested],
    }


def _command(command: Command) -> dict[str, Any]:
    return {
        "argv": [spell(word) for word in command.argv],
        "line": spell(quote(command.argv)),
        "objects": objects_given(command),
    }


def _equivalent(line: str) -> dict[str, Any]:
    try:
        argv = shlex.split(line)
    except ValueError:
        argv = []
    plain = argv and quote(argv) == line
    return {"line": spell(line), "argv": [spell(word) for word in argv] if plain else None}
