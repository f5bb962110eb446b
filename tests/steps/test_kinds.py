"""What holds for every kind: documented by an example that is valid, described, typed, pure, in the reference."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import yaml

from runner import building, document, steps
from runner.cluster.images import Builder
from runner.cluster.kubectl import KubectlDialect
from runner.commands import reference
from runner.errors import InvalidWorkflow
from runner.steps import KINDS
from runner.steps.kind import Kind, Output, Scene, seconds

EVERY = pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
DURATION = r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+"
TYPES = {"string", "int", "double", "bool", "list", "map", "dyn"}


def example(kind: Kind) -> str:
    blocks = re.findall(r"```yaml\n(.*?)```", kind.__doc__ or "", re.DOTALL)
    assert blocks
    return "".join(blocks)


def arguments(kind: Kind) -> list[Any]:
    """The arguments in the example; expressions are taken for text."""
    values = [step[kind.NAME] for step in yaml.safe_load(example(kind)) if kind.NAME in step]
    return [msgspec.convert(value if isinstance(value, dict) else {kind.SHORT: value}, kind.Args) for value in values]


def scene(folder: Path, namespace: str = "demo") -> Scene:
    return Scene(KubectlDialect(), namespace, folder, builder=lambda preferred: Builder("docker", "27"))


def modules() -> Iterator[ModuleType]:
    for info in pkgutil.iter_modules(steps.__path__):
        yield import_module(f"runner.steps.{info.name}")


def test_table_has_every_kind() -> None:
    """A module with a NAME is a kind, and stands in the table under that name."""
    assert {module.NAME: module for module in modules() if hasattr(module, "NAME")} == dict(KINDS)


@EVERY
def test_module_is_named_like_the_kind(kind: Kind) -> None:
    """Whoever reads a workflow finds the code."""
    assert re.fullmatch(r"[a-z][a-z_]*", kind.NAME)
    assert kind.__name__ == f"runner.steps.{kind.NAME}"  # type: ignore[attr-defined]


@EVERY
def test_documentation_begins_with_one_sentence(kind: Kind) -> None:
    """It is what an editor shows."""
    summary = (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ")

    assert summary.endswith(".")
    assert len(summary) < 200


@EVERY
def test_example_is_a_valid_workflow(kind: Kind, tmp_path: Path) -> None:
    """The whole check, expressions included; only its files need not be there."""
    text = example(kind)
    assert f"- {kind.NAME}: " in text or f"  {kind.NAME}: " in text
    web = (
        "" if "id: web" in text or "steps.web." not in text else "- {id: web, forward: {target: pod/a, ports: '80'}}\n"
    )
    problems = []
    try:
        inputs = "inputs: {token: {secret: true, env: TOKEN}}\n"
        building.build(document.loads(f"{inputs}steps:\n{web}{text}", "doc.yaml", tmp_path / "doc.yaml"), KINDS)
    except InvalidWorkflow as error:
        problems = [f"{problem.line}: {problem.message}" for problem in error.problems]

    assert [
        problem for problem in problems if not re.match(r"\d+: there is no (file|folder|Dockerfile)", problem)
    ] == []


@EVERY
def test_arguments_are_one_frozen_record(kind: Kind) -> None:
    """Nothing changes between the plan and the run; a key that is not known is refused."""
    assert issubclass(kind.Args, msgspec.Struct)
    assert kind.Args.__struct_config__.frozen
    assert kind.Args.__struct_config__.forbid_unknown_fields
    for args in arguments(kind):
        with pytest.raises(AttributeError):
            setattr(args, kind.Args.__struct_fields__[0], "x")


@EVERY
def test_every_key_has_a_description(kind: Kind) -> None:
    """A sentence for editors and the reference, in the kind's record and in those inside it."""
    schema = msgspec.json.schema(kind.Args)
    silent = [
        f"{name}.{key}"
        for name, record in schema["$defs"].items()
        for key, value in record.get("properties", {}).items()
        if not str(value.get("description", "")).endswith((".", ")", "…"))
    ]

    assert silent == []


@EVERY
def test_short_form_is_a_key(kind: Kind) -> None:
    """And when it is given, nothing else is needed."""
    assert kind.SHORT in (*kind.Args.__struct_fields__, "")
    if kind.SHORT:
        required = {field.name for field in msgspec.structs.fields(kind.Args) if field.required}
        assert required <= {kind.SHORT}


@EVERY
def test_timeout_is_a_length_of_time(kind: Kind) -> None:
    """Every kind ends: nothing waits in vain."""
    assert re.fullmatch(DURATION, kind.TIMEOUT)
    assert 1 <= seconds(kind.TIMEOUT) <= 3600


@EVERY
def test_outputs_are_typed_and_described(kind: Kind) -> None:
    """With a type of CEL, and a name that an expression can hold."""
    assert kind.OUTPUTS
    for name, output in kind.OUTPUTS.items():
        assert isinstance(output, Output)
        assert re.fullmatch(r"[a-z_][a-z0-9_]*", name)
        assert output.type in TYPES
        assert output.description.endswith(".")


@EVERY
def test_expressions_are_keys_that_hold_cel(kind: Kind) -> None:
    """Exactly the keys that the schema marks as bare CEL."""
    properties = msgspec.json.schema(kind.Args)["$defs"]["Args"]["properties"]

    assert {key for key, value in properties.items() if value.get("x-cel")} == set(kind.EXPRESSIONS)
    assert all(names for names in kind.EXPRESSIONS.values())


@EVERY
def test_plan_is_pure(kind: Kind, tmp_path: Path) -> None:
    """The same arguments are the same commands, twice; nothing is written, and nothing need be there."""
    assert arguments(kind)
    for args in arguments(kind):
        first = (kind.commands(args, scene(tmp_path)), kind.equivalent(args, scene(tmp_path)))
        assert first == (kind.commands(args, scene(tmp_path)), kind.equivalent(args, scene(tmp_path)))
        assert all(isinstance(line, str) and line for line in first[1])
        assert all(isinstance(word, str) for command in first[0] for word in command.argv)
    assert list(tmp_path.iterdir()) == []


@EVERY
def test_every_step_shows_something(kind: Kind, tmp_path: Path) -> None:
    """Nothing is hidden: a plan has a command or a line that the step stands for."""
    for args in arguments(kind):
        assert kind.commands(args, scene(tmp_path)) or kind.equivalent(args, scene(tmp_path))


@EVERY
def test_title_and_needs_are_known_before_the_run(kind: Kind, tmp_path: Path) -> None:
    """From the data as written, also from none."""
    for data in [{}, *(msgspec.to_builtins(args) for args in arguments(kind))]:
        assert isinstance(kind.title(data), str)
        assert isinstance(kind.needs_cluster(data), bool)
        for address, port in kind.fixed_ports(data):
            assert isinstance(address, str)
            assert isinstance(port, int)
        assert kind.lasts(data) >= 0
        assert all(isinstance(name, str) for name in kind.homeless(data, tmp_path))
    assert all(kind.title(msgspec.to_builtins(args)) for args in arguments(kind))


@EVERY
def test_kind_that_polls_takes_no_retry(kind: Kind) -> None:
    """The ones that wait by themselves."""
    assert {"wait": "none", "forward": "none", "verify": "count"}.get(kind.NAME, "repeat") == kind.RETRY


@EVERY
def test_kind_is_in_the_reference(kind: Kind) -> None:
    """Its documentation as it stands in the module."""
    section = reference.page().split(f"\n## `{kind.NAME}`\n")[1].split("\n## ")[0]

    assert all(block in section for block in re.findall(r"```yaml\n.*?```", kind.__doc__ or "", re.DOTALL))
    assert (kind.__doc__ or "").split("\n\n")[0].replace("\n", " ") in section.replace("\n", " ")
