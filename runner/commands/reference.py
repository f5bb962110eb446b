"""The reference page of the workflow language, made from the declarations of the kinds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from runner import schema
from runner.cluster.reasons import REASONS
from runner.commands import plan_json
from runner.reports import json_report
from runner.steps import KINDS
from runner.steps.kind import Kind
from runner.workflow import ClusterSpec, FileKeys, InputSpec, NamespaceSpec, RetrySpec, StepKeys

_MEASURED = Path(__file__).parents[1] / "measured.json"

_MEASURING = """\
Measured on a real Kubernetes 1.34 by `python -m tests.bench --only reasons`: the median time from the moment at which
the API server first shows the cause (of a crash loop, the first crash) to the report, the time that is tolerated
included; and what `kubectl wait --timeout=120s` (the default timeout of this step) takes on the same object.
"""
_HEAD = """\
# Reference

Made by `runner schema --reference` from the step kinds themselves; a test keeps it current.
`schemas/workflow.schema.json` says the same to editors: begin a file with
`# yaml-language-server: $schema=` and the path of that file.

- A step is a map with exactly one kind and common keys beside it. Paths are relative to the workflow file.
- Durations are `500ms`, `30s`, `2m`, `1h30m`.
- A target is `kind/name`, a list of them, or `{kind, name | selector, namespace}`. A string that ends in `.yaml`,
  `.yml` or `.json` is a file, anything else a reference.
- A match is `{contains, matches, equals, json}`; `json` compares maps as subsets and lists exactly.
- `${{ … }}` in a string inserts the value of a [CEL](https://cel.dev) expression just before the step; a string that
  is one expression keeps its type. `if`, `that` and `fail_if` hold bare CEL.
- Names in expressions: `inputs.<name>`, `vars.<name>`, `env.<NAME>`, `run.id`, `run.namespace`, `run.engine`,
  `run.context`, `steps.<id>.outputs.<output>`, `steps.<id>.outcome` (`success`, `failure`, `skipped`, `cancelled`).
- `if` knows `success()` (the default), `failure()`, `always()` and `cancelled()`.
"""


def page() -> str:
    """The whole page, as it is committed in `schemas/reference.md`."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "## Top level\n"
    yield from _table(_properties(FileKeys))
    for title, struct in (("inputs", InputSpec), ("namespace", NamespaceSpec), ("cluster", ClusterSpec)):
        yield f"\n### `{title}`\n"
        yield from _table(_properties(struct))
    yield "\n## Keys of every step\n"
    yield from _table(_properties(StepKeys))
    yield "\n### `retry`\n"
    yield from _table(_properties(RetrySpec))
    for kind in KINDS.values():
        yield from _kind(kind)
        if kind.NAME == "wait":
            yield from _reasons()
    yield "\n## The report as JSON\n"
    yield (json_report.__doc__ or "").strip()
    yield "\n## The plan as JSON\n"
    yield (plan_json.__doc__ or "").strip()


def _properties(struct: type[msgspec.Struct]) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    record = schema.record(struct, struct.__name__, definitions)
    required = record.get("required", ())
    return {
        name: {**value, "required": name in required, "shape": schema.shape(value)}
        for name, value in record["properties"].items()
    }


def _kind(kind: Kind) -> Iterator[str]:
    yield f"\n## `{kind.NAME}`\n"
    yield (kind.__doc__ or "").strip() + "\n"
    short = f" Short form: `{kind.NAME}:` followed by `{kind.SHORT}`." if kind.SHORT else ""
    retry = {
        "repeat": "",
        "count": " It tries by itself until then; `retry: N` makes it N times at most, and `retry: 1` once.",
        "none": " It tries by itself until then and takes no `retry`.",
    }[kind.RETRY]
    yield f"Default timeout: {kind.TIMEOUT}.{retry}{short}\n"
    yield from _table(_properties(kind.Args))
    for name, struct in _nested(kind.Args):
        yield f"\n`{name}`:\n"
        yield from _table(_properties(struct))
    yield "\n| output | type | |"
    yield "|---|---|---|"
    for name, output in kind.OUTPUTS.items():
        yield f"| `{name}` | {output.type} | {_cell(output.description)} |"
    for key, names in kind.EXPRESSIONS.items():
        yield f"\n`{key}` sees {', '.join(f'`{name}`' for name in names)}."


def _reasons() -> Iterator[str]:
    """The table of what ends a wait early."""
    yield "\n### Why a wait ends early\n"
    yield _MEASURING
    yield "| reason | seen in | tolerated | measured | kubectl wait | meaning | what to do |"
    yield "|---|---|---|---|---|---|---|"
    measured = json.loads(_MEASURED.read_text())
    for name, row in REASONS.items():
        time = f"{row.tolerated:g} s" if row.tolerated else "not at all"
        if row.permanent:
            time += f"; not at all with the words {', '.join(f'`{words}`' for words in row.permanent)}"
        found = measured.get(name)
        figures = f"{found['report']:.2f} s | {found['kubectl_wait']:.0f} s" if found else " | "
        yield f"| `{name}` | {_cell(row.seen)} | {time} | {figures} | {_cell(row.meaning)} | {_cell(row.hint)} |"


def _nested(struct: type[msgspec.Struct]) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    """Records that belong to one kind only, such as `request` of `verify`."""
    for field in msgspec.structs.fields(struct):
        for candidate in _types(field.type):
            is_record = isinstance(candidate, type) and issubclass(candidate, msgspec.Struct)
            if is_record and candidate.__module__ == struct.__module__:
                yield field.encode_name, candidate
                yield from ((f"{field.encode_name}.{name}", inner) for name, inner in _nested(candidate))


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _types(inner)


def _table(properties: Mapping[str, Any]) -> Iterator[str]:
    yield "| key | value | |"
    yield "|---|---|---|"
    for name, value in properties.items():
        mark = " (required)" if value["required"] else ""
        default = value.get("default", "")
        shown = (
            f" Default: `{str(default).lower() if isinstance(default, bool) else default}`." if default != "" else ""
        )
        yield f"| `{name}`{mark} | {_cell(value['shape'])} | {_cell(value.get('description', ''))}{_cell(shown)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
