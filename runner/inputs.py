"""Values from outside: inputs by their declaration, and the names that hold before the first step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from runner import expressions, masking
from runner.errors import UsageError
from runner.expressions import Expression, Template
from runner.workflow import Input, Workflow, fill

CEL_TYPES: Final = {
    "string": "string",
    "integer": "int",
    "number": "double",
    "boolean": "bool",
    "list": "list",
    "map": "map",
}
NAMES: Final = {cel: name for name, cel in CEL_TYPES.items()} | {"dyn": "value"}


def cel_type(value: Any) -> str:
    for python, cel in ((bool, "bool"), (int, "int"), (float, "double"), (list, "list"), (Mapping, "map")):
        if isinstance(value, python):
            return cel
    return "string"


def fits(value: Any, type_: str) -> bool:
    return cel_type(value) == type_ or (type_ == "double" and isinstance(value, int) and not isinstance(value, bool))


def template_type(value: Any) -> str:
    if isinstance(value, Template):
        only = value.parts[0] if len(value.parts) == 1 else ""
        return (
            only.type
            if isinstance(only, Expression) and only.type in NAMES
            else "dyn"
            if isinstance(only, Expression)
            else "string"
        )
    return "dyn" if value is None else cel_type(value)


def with_article(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean …?`, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(words), n=1)
    return f"did you mean `{close[0]}`?" if close else ""


def input_values(
    inputs: Mapping[str, Input],
    settings: Sequence[str],
    files: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """The value of every input: default < environment < `files` < `settings` (`name=value`), typed by its declaration.

    Raises `UsageError` that names every input that is missing, unknown or of the wrong type.
    """
    faults: list[str] = []
    values: dict[str, Any] = {name: input_.default for name, input_ in inputs.items()}
    for name, input_ in inputs.items():
        if input_.env and input_.env in environment:
            values[name] = _typed(input_, environment[input_.env], f"${input_.env}", faults)
    for file in files:
        for name, value in file.items():
            if _known(name, inputs, "--values", faults):
                values[name] = value
                if not fits(value, inputs[name].type):
                    faults.append(f"input `{name}` from --values is not {with_article(NAMES[inputs[name].type])}")
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            faults.append(f"--set {setting}: write --set name=value")
        elif _known(name, inputs, "--set", faults):
            if inputs[name].secret:
                faults.append(f"input `{name}` is secret: {_secret_way(inputs[name])}, not with --set")
            else:
                values[name] = _typed(inputs[name], text, "--set", faults)
    faults += _missing(inputs, values)
    if faults:
        raise UsageError("\n  ".join([f"{len(faults)} problems with the inputs:", *faults] if faults[1:] else faults))
    return values


def _secret_way(input_: Input) -> str:
    return f"give it in the environment as {input_.env}" if input_.env else "give it with --values FILE"


def _known(name: str, inputs: Mapping[str, Input], origin: str, faults: list[str]) -> bool:
    if name in inputs:
        return True
    hint = nearest(name, inputs) or ("inputs: " + ", ".join(inputs) if inputs else "it declares none")
    faults.append(f"the workflow has no input `{name}` ({origin}); {hint}")
    return False


def _typed(input_: Input, text: str, origin: str, faults: list[str]) -> Any:
    """A text from the environment or the command line as the input's type."""
    try:
        if input_.type == "string":
            return text
        value = json.loads(text)
        if fits(value, input_.type):
            return float(value) if input_.type == "double" else value
    except (ValueError, RecursionError):
        pass
    shown = "its value" if input_.secret else repr(text)
    faults.append(f"input `{input_.name}` from {origin} must be {with_article(NAMES[input_.type])}, not {shown}")
    return None


def _missing(inputs: Mapping[str, Input], values: Mapping[str, Any]) -> Iterator[str]:
    for name, input_ in inputs.items():
        value = values[name]
        if value is None and input_.required:
            way = _secret_way(input_) if input_.secret else f"--set {name}=…"
            yield f"input `{name}` is required: {way}"
        if input_.enum and value is not None and value not in input_.enum:
            yield f"input `{name}` must be one of {', '.join(map(str, input_.enum))}"
        if input_.secret and value is not None and len(str(value)) < masking.SHORTEST:
            yield f"input `{name}` is secret and shorter than {masking.SHORTEST} characters, which cannot be masked"


def scope_values(workflow: Workflow, inputs: Mapping[str, Any], run: Mapping[str, str]) -> dict[str, Any]:
    """The names that hold before the first step: inputs, vars, env, run. Raises `UsageError`."""
    values: dict[str, Any] = {f"inputs.{name}": value for name, value in inputs.items()}
    values |= {f"run.{name}": value for name, value in run.items()} | {"env": dict(os.environ)}
    for name, template in workflow.vars.items():
        try:
            values[f"vars.{name}"] = fill(template, values)
        except expressions.EvaluationError as error:
            raise UsageError(f"`vars.{name}` has no value: {error.message}") from None
    return values
