"""The JSON Schema of workflow files, composed from the kinds, and the check of a document against it.

The shape is flat on purpose: a step's keys are siblings, so that a misspelt key is named instead of "not valid under
any of the given schemas". The only door to jsonschema; no `$ref` is ever fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runner.expressions import has_expression

if TYPE_CHECKING:
    import msgspec

    from runner.document import Document
    from runner.document import Path as Place
    from runner.errors import Problem
    from runner.steps.kind import Kind

URL: Final = "https://json-schema.org/draft/2020-12/schema"
# The keys that hold steps.
STEP_LISTS: Final = ("steps", "on_failure", "finally", "throughout")
EXPRESSION: Final = {"type": "string", "pattern": r"^\$\{\{[\s\S]*\}\}$", "description": "An expression: `${{ … }}`."}

# What people write who come from elsewhere, and what it is called here.
HABITS: Final[Mapping[str, str]] = {
    "on": "a workflow here has no triggers; CI decides when it runs",
    "jobs": "a workflow here is one list of `steps`",
    "runs-on": "a workflow runs where `runner` is called",
    "uses": "there are no actions; a step has one kind, such as `apply` or `run`",
    "with": "arguments stand under the kind: `build: {image: app}`",
    "continue-on-error": "write continue_on_error",
    "timeout-minutes": "write timeout: 10m",
    "timeoutSeconds": "write timeout: 30s",
    "working-directory": "write `run: {command: …, dir: …}`",
    "shell": "a string is a script for bash; for another shell write a list: run: [sh, -c, …]",
    "spec": "a workflow has no `spec`: `steps` stands at the top",
    "metadata": "a workflow has no `metadata`: `name` stands at the top",
    "apiVersion": "a workflow has no apiVersion; a manifest is used by an `apply` step",
    "kind": "a step's kind is its key: `apply: pod.yaml`",
    "try": "write the steps in `steps`; use `on_failure` and `finally` for the rest",
    "catch": "write `on_failure`",
    "cleanup": "what a run makes is deleted at its end; use `finally` for more",
    "script": "write `run: |` with the script",
    "command": "write `run: [program, argument]`",
    "shell_command": "write `run: |` with the script",
    "hosts": "a workflow runs on this machine, against one cluster",
    "tasks": "write `steps`",
    "stages": "write `steps`",
    "when": "write `if`",
    "until": "write `wait: {target: …, until: …}`, or `retry`",
    "retries": "write `retry: 3`",
    "delay": "write `retry: {attempts: 3, interval: 2s}`",
    "register": "give the step an `id`; its results are steps.<id>.outputs",
    "ignore_errors": "write continue_on_error: true",
    "vars_files": "use --values FILE",
    "bindings": "write `vars` or `inputs`",
    "outputs": "a step's outputs are fixed by its kind, and need only an `id`",
    "assert": "assert is not in this version; use `wait: {target: …, that: …}`",
    "error": "use `wait: {target: …, until: deleted}`",
    "sleep": "sleep is not in this version; use `wait` for what you wait for",
    "foreach": "foreach is not in this version",
    "matrix": "matrix is not in this version",
    "exec": "exec is not in this version; write `run: kubectl exec pod/name -- …`",
    "logs": "logs is not in this version; write `run: kubectl logs pod/name` with `show: true`",
    "job": "job is not in this version; `apply` it, then `wait: {target: job/name, until: complete}`",
    "patch": "patch is not in this version; write `run: kubectl patch …`",
    "scale": "scale is not in this version; write `run: kubectl scale …`, then `wait`",
    "restart": "restart is not in this version; write `run: kubectl rollout restart …`, then `wait`",
    "helm": "helm is not in this version; write `run: helm …`",
    "group": "group is not in this version",
    "use": "use is not in this version: `runner a.yaml b.yaml` runs several workflows",
    "say": "say is not in this version; write `run: echo …` with `show: true`",
    "pause": "pause is not in this version",
    "cacert": "write `ca`: the file of the certificate authority",
    "kubectl": "write the kind (`apply`, `wait`, `delete`, …), or `run: kubectl …`",
    "create": "write `apply`",
    "get": "write `run: kubectl get …` with `show: true`",
    "port-forward": 'write `forward: {target: pod/name, ports: "8080:80"}`',
    "port_forward": 'write `forward: {target: pod/name, ports: "8080:80"}`',
    "for": "write `until: ready`, `until: complete` or `until: condition=NAME`",
    "podLogs": "write `run: kubectl logs …`",
    "describe": "a failed step explains itself; or write `run: kubectl describe …`",
    "test": "write `verify` or `run`",
    "http": "write `verify: {url: …}`",
    "parallel": "steps run one after the other in this version",
    "environment": "write `env`",
    "variables": "write `vars` or `inputs`",
    "defer": "write `finally`",
    "after": "write `finally`",
    "before": "write the steps first in `steps`",
}


@cache
def stored() -> dict[str, Any]:
    """The composed schema as it is committed: reading it costs a tenth of composing it. A test keeps it current."""
    text = Path(__file__).with_name("workflow.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def compose(top: type[msgspec.Struct], step: type[msgspec.Struct], kinds: Sequence[Kind]) -> dict[str, Any]:
    """The whole schema. `top` and `step` declare the keys around the kinds; key order follows the declarations."""
    definitions: dict[str, Any] = {}
    document = record(top, "Workflow", definitions)
    definitions["Step"] = _step(step, kinds, definitions)
    definitions.pop("Workflow", None)
    return {
        "$schema": URL,
        "title": "A workflow of runner",
        **_templated(document, definitions),
        "patternProperties": {"^x-": {"description": "Yours; ignored. For YAML anchors."}},
        "$defs": {
            name: definition if name == "Step" else _templated(definition, definitions)
            for name, definition in sorted(definitions.items())
        },
    }


def _step(step: type[msgspec.Struct], kinds: Sequence[Kind], definitions: dict[str, Any]) -> dict[str, Any]:
    common = record(step, "StepKeys", definitions)
    definitions.pop("StepKeys", None)
    properties = dict(common["properties"])
    for kind in kinds:
        arguments = record(kind.Args, kind.NAME, definitions)
        summary = (kind.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        properties[kind.NAME] = _with_short_form(kind, arguments, summary)
        definitions.pop(kind.NAME, None)
    return {
        "type": "object",
        "description": "One step: exactly one kind, and common keys beside it.",
        "properties": {name: _templated(value, definitions) for name, value in properties.items()},
        "oneOf": [{"required": [kind.NAME]} for kind in kinds],
        "additionalProperties": False,
    }


def _with_short_form(kind: Kind, arguments: dict[str, Any], summary: str) -> dict[str, Any]:
    """The kind's value: its record, or what its short key takes when that is not a record."""
    full = {key: value for key, value in arguments.items() if key != "description"}
    if not kind.SHORT:
        return {"description": summary, **full}
    short = full["properties"][kind.SHORT]
    branches = [
        branch for branch in short.get("anyOf", [short]) if branch.get("type") != "object" and "$ref" not in branch
    ]
    return {"description": summary, "anyOf": [*branches, full]}


def record(struct: type[msgspec.Struct], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The object schema of a struct; records that it refers to go to `definitions`."""
    import msgspec

    schema = msgspec.json.schema(struct)
    own = schema["$ref"].rsplit("/", 1)[1]
    for other, definition in schema["$defs"].items():
        definitions[name if other == own else other] = _tidy(definition)
    return definitions[name]  # type: ignore[no-any-return]


def _tidy(node: Any) -> Any:
    """Msgspec's schema without null branches (a key that is not needed is left out, not null) and titles."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    named = ("properties", "$defs")  # maps by name, whose keys are no keywords
    node = {
        key: {name: _tidy(item) for name, item in value.items()} if key in named else _tidy(value)
        for key, value in node.items()
        if key != "title"
    }
    if isinstance(node.get("default"), dict) or node.get("default", ...) in ("", None, [], ()):
        del node["default"]
    branches = [branch for branch in node.get("anyOf", ()) if branch != {"type": "null"}]
    if "anyOf" in node and len(branches) != len(node["anyOf"]):
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        node = {**branches[0], **rest} if len(branches) == 1 else {**rest, "anyOf": branches}
    if isinstance(node.get("required"), list) and not node["required"]:
        del node["required"]
    return node


def _templated(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Accept `${{ }}` wherever the value is not free text anyway, except where `x-static` or bare CEL stands."""
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if "propertyNames" in node:
        node["propertyNames"] = {key: value for key, value in node["propertyNames"].items() if key != "x-static"}
    static = node.pop("x-static", False) or node.get("x-cel", False)
    for key in ("properties", "$defs"):
        if key in node:
            node[key] = {name: _templated(value, definitions) for name, value in node[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _templated(node[key], definitions)
    if "prefixItems" in node:
        node["prefixItems"] = [_templated(item, definitions) for item in node["prefixItems"]]
    if "anyOf" in node:
        node["anyOf"] = [branch if _is_leaf(branch) else _templated(branch, definitions) for branch in node["anyOf"]]
    if static or "$ref" in node or node.get("type") in ("object", "array") or _takes_any_text(node):
        return node
    described = {key: node.pop(key) for key in ("description", "default", "examples") if key in node}
    branches = node.pop("anyOf", None)
    return {**described, "anyOf": [*branches, EXPRESSION] if branches else [node, EXPRESSION]}


def _is_leaf(node: Mapping[str, Any]) -> bool:
    return node.get("type") not in ("object", "array") and "anyOf" not in node


def _takes_any_text(node: Mapping[str, Any]) -> bool:
    free = node.get("type") == "string" and not ({"pattern", "enum", "const"} & node.keys())
    unrestricted = not ({"type", "anyOf", "enum", "const", "pattern"} & node.keys())
    return free or unrestricted or any(_is_leaf(b) and _takes_any_text(b) for b in node.get("anyOf", ()))


def check(document: Document, schema: Mapping[str, Any], kinds: Sequence[str]) -> list[Problem]:
    """Every place where a document does not fit the schema."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # An explicit empty registry: without one, jsonschema fetches an http `$ref`.
    validator = Draft202012Validator(schema, registry=Registry())
    reporter = _Reporter(document, tuple(kinds), frozenset(schema["$defs"]["Step"]["properties"]) - {*kinds})
    for error in validator.iter_errors(document.data):
        reporter.report(error)
    return reporter.problems


# How the maps look for which people write something shorter.
_MAPS: Final = {
    "forward": 'write `forward: {target: pod/name, ports: "8080:80"}`',
    "build": "write `build: {image: name, context: folder}`",
    "env": "write `env: {NAME: value}`",
    "cluster": "write `cluster: {context: name}`",
    "inputs": "write `inputs: {name: default}`",
}


class _Reporter:
    """Turns jsonschema's errors into problems with places and hints."""

    def __init__(self, document: Document, kinds: tuple[str, ...], step_keys: frozenset[str]) -> None:
        self.document = document
        self.kinds = kinds
        self.step_keys = step_keys
        self.problems: list[Problem] = []

    def add(self, path: Place, message: str, hint: str = "", *, at_key: bool = False) -> None:
        problem = self.document.problem(path, message, hint=hint, at_key=at_key)
        if problem not in self.problems:
            self.problems.append(problem)

    def report(self, error: Any) -> None:
        path: Place = tuple(error.absolute_path)
        handler = getattr(self, f"_on_{error.validator}", None)
        if handler:
            handler(error, path)
        else:
            self.add(path, error.message)

    def _on_anyOf(self, error: Any, path: Place) -> None:  # noqa: N802 - the keyword's own spelling
        """Report the errors of the branch that the writer meant: the one whose type fits."""
        branches: dict[int, list[Any]] = {}
        for child in error.context:
            branches.setdefault(child.schema_path[0], []).append(child)
        fitting = {
            index: children
            for index, children in branches.items()
            if not any(child.validator == "type" and not child.path for child in children)
            and not any(child.schema.get("description") == EXPRESSION["description"] for child in children)
        }
        if fitting:
            for child in min(fitting.values(), key=len):
                self.report(child)
        else:
            expected = [_shape(branch) for branch in error.validator_value if branch != EXPRESSION]
            hint = _type_hint(error.instance, error.validator_value)
            self.add(path, f"{self._subject(path)} must be {_either(expected)}, not {_spell(error.instance)}", hint)

    def _on_type(self, error: Any, path: Place) -> None:
        hint = _type_hint(error.instance, [error.schema]) or _MAPS.get(str(path[-1]) if path else "", "")
        expected = _shape(error.schema)
        self.add(path, f"{self._subject(path)} must be {expected}, not {_spell(error.instance)}", hint)

    def _on_enum(self, error: Any, path: Place) -> None:
        allowed = [str(value) for value in error.validator_value]
        message = f"{self._subject(path)} must be {_either([f'`{value}`' for value in allowed])}"
        self.add(path, f"{message}, not {_spell(error.instance)}", _did_you_mean(str(error.instance), allowed))

    def _on_pattern(self, error: Any, path: Place) -> None:
        if _is_duration(error.schema):
            message = f"{self._subject(path)} is {_spell(error.instance)}, which is no length of time"
            self.add(path, message, "write it as 500ms, 30s, 2m or 1h30m")
            return
        if "propertyNames" in error.absolute_schema_path:
            letters = "letters" if "A-Z" in error.validator_value else "a-z"
            hint = f"use {letters}, 0-9 and _, beginning with a letter"
            self.add((*path, error.instance), f"`{error.instance}` cannot be a name here", hint, at_key=True)
            return
        outer = error.parent.schema if error.parent else {}  # the description of a key stands outside of its `anyOf`
        about = error.schema.get("description") or outer.get("description") or f"of the form {error.validator_value}"
        self.add(path, f"{self._subject(path)} is {_spell(error.instance)}, which does not fit", about.rstrip("."))

    def _on_required(self, error: Any, path: Place) -> None:
        key = re.search(r"'(.*)' is a required property", error.message)
        name = key.group(1) if key else "?"
        hint = error.schema.get("properties", {}).get(name, {}).get("description", "")
        self.add(path, f"{self._subject(path)} needs `{name}`", hint.rstrip("."), at_key=bool(path))

    def _on_additionalProperties(self, error: Any, path: Place) -> None:  # noqa: N802
        patterns = error.schema.get("patternProperties", {})
        allowed = list(error.schema.get("properties", {}))
        for key in error.instance:
            if key not in allowed and not any(re.search(pattern, key) for pattern in patterns):
                self.add((*path, key), *self._unknown_key(path, key, allowed), at_key=True)

    def _unknown_key(self, path: Place, key: str, allowed: list[str]) -> tuple[str, str]:
        message = f"`{key}` is not a key of {self._subject(path)}"
        hint = _did_you_mean(key, allowed)
        if path == ("vars",):
            return message, hint
        if not hint and not path and key in self.kinds:
            hint = "a kind stands in a step: put it under `steps` as `- " + key + ": …`"
        if path and path[-1] in self.kinds and key in self.step_keys:
            if key == "name" and "target" in allowed:
                return message, "put it under `target: {kind: …, name: …}`; or beside the kind, as the step's name"
            return message, f"put `{key}` beside `{path[-1]}`, not inside it"
        if key in ("kind", "selector") and "target" in allowed:
            return message, f"put it under `target`: `target: {{kind: …, {'name' if key == 'kind' else key}: …}}`"
        if not hint or key in HABITS:
            hint = HABITS.get(key, hint)
        return message, hint or "it takes " + ", ".join(f"`{name}`" for name in allowed)

    def _on_oneOf(self, error: Any, path: Place) -> None:  # noqa: N802
        """Only steps have `oneOf`: exactly one kind."""
        if not isinstance(error.instance, Mapping):
            return  # its type error says it
        present = [key for key in error.instance if key in self.kinds]
        if len(present) > 1:
            names = " and ".join(f"`{key}`" for key in present)
            self.add((*path, present[1]), f"a step has one kind, this one has {names}", "write two steps", at_key=True)
        elif not self._has_unknown_key(error):
            kinds = ", ".join(f"`{kind}`" for kind in self.kinds)
            self.add(path, "this step has no kind, so it does nothing", f"give it one of {kinds}")

    @staticmethod
    def _has_unknown_key(error: Any) -> bool:
        """A misspelt kind is reported once, as the unknown key that it is."""
        return any(key not in error.schema["properties"] for key in error.instance)

    def _on_minItems(self, error: Any, path: Place) -> None:  # noqa: N802
        self.add(path, f"{self._subject(path)} is empty")

    def _on_minimum(self, error: Any, path: Place) -> None:
        self.add(path, f"{self._subject(path)} must be at least {error.validator_value}, not {_spell(error.instance)}")

    def _on_maximum(self, error: Any, path: Place) -> None:
        self.add(path, f"{self._subject(path)} must be at most {error.validator_value}, not {_spell(error.instance)}")

    def _subject(self, path: Place) -> str:
        """What a path is called in a sentence."""
        if not path:
            return "a workflow"
        last = path[-1]
        if isinstance(last, int):
            return "a step" if path[-2] in STEP_LISTS else f"item {last + 1} of `{path[-2]}`"
        return f"`{last}`"


_SHORT: Final = 3


def _did_you_mean(word: str, allowed: Iterable[str]) -> str:
    from difflib import get_close_matches

    names = list(allowed)
    lowered = {name.lower(): name for name in names}
    snake = re.sub(r"(?<=[a-z])([A-Z])", r"_\1", word).replace("-", "_").lower()
    cutoff = 0.7 if len(word) > _SHORT else 0.65  # `rum` has two of the three letters of `run`
    close = [snake] if snake in names else get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    return f"did you mean `{lowered.get(close[0], close[0])}`?" if close else ""


_SHAPES: Final = {
    "object": "a map",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "empty",
}


def shape(schema: Mapping[str, Any]) -> str:
    """What a value looks like, in a few words for the reference page."""
    return _shape(schema)


def _shape(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return _either([f"`{value}`" for value in schema["enum"]])
    if "$ref" in schema:
        return "a map"
    if "anyOf" in schema:
        return _either([_shape(branch) for branch in schema["anyOf"] if branch != EXPRESSION])
    return _SHAPES.get(schema.get("type", ""), "a value")


def _either(words: Iterable[str]) -> str:
    unique = list(dict.fromkeys(words))
    return unique[0] if len(unique) == 1 else ", ".join(unique[:-1]) + " or " + unique[-1] if unique else "a value"


def _spell(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "…")  # noqa: PLR2004
    return "a map" if isinstance(value, Mapping) else "a list"


def _type_hint(value: Any, schemas: Iterable[Mapping[str, Any]]) -> str:
    texts = [schema for schema in schemas if schema.get("type") == "string" and schema != EXPRESSION]
    if isinstance(value, bool | int | float) and texts:
        if any(map(_is_duration, texts)):
            return f"a length of time has a unit: {value}s, 2m, 1h30m"
        return f'put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    if isinstance(value, str) and any(schema.get("type") == "boolean" for schema in schemas):
        truth = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
        return f"write {truth[value.lower()]}, without quotes" if value.lower() in truth else ""
    if has_expression(value):
        return "a value that is one `${{ … }}` keeps its type; text around it makes it a string"
    if isinstance(value, Mapping) and not any(_takes(schema, "object") for schema in schemas):
        return "a `key: value` here was not expected; is the indentation right?"
    return ""


def _is_duration(schema: Mapping[str, Any]) -> bool:
    return "ms|s|m|h" in schema.get("pattern", "")


def _takes(schema: Mapping[str, Any], type_: str) -> bool:
    return schema.get("type") == type_ or "$ref" in schema or any(_takes(b, type_) for b in schema.get("anyOf", ()))


def place_of(message: str) -> Iterator[str | int]:
    """The path in a message of msgspec: `… - at `$.request.headers[...]``, as keys and indexes."""
    match = re.search(r"at `\$(.*)`$", message)
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", match.group(1) if match else ""):
        if key:
            yield key
        elif index.isdigit():
            yield int(index)
