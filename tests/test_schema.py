"""The schema: valid, current, and with error messages that name the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry

from runner.commands import reference, schema
from runner.steps import KINDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(schema.text())
    return loaded


def test_schema_is_valid_draft_2020_12(composed: dict[str, Any]) -> None:
    """The composed schema is itself valid."""
    Draft202012Validator.check_schema(composed)


def test_committed_schema_is_current() -> None:
    """schemas/workflow.schema.json is what `runner schema` prints; `make schema` writes it."""
    assert (ROOT / "schemas/workflow.schema.json").read_text() == schema.text()


def test_committed_reference_is_current() -> None:
    """schemas/reference.md is what `runner schema --reference` prints; `make schema` writes it."""
    assert (ROOT / "schemas/reference.md").read_text() == reference.page()


def test_nothing_is_fetched(composed: dict[str, Any]) -> None:
    """Every `$ref` points into the schema itself, so that neither an editor nor `validate` needs a network."""
    references = [node["$ref"] for node in _nodes(composed) if "$ref" in node]

    assert references
    assert all(reference.startswith("#/$defs/") for reference in references)


def test_every_key_is_described(composed: dict[str, Any]) -> None:
    """An editor shows a description for every key of every record."""
    silent = [
        name
        for node in _nodes(composed)
        if isinstance(node.get("properties"), dict)
        for name, value in node["properties"].items()
        if not value.get("description") and "$ref" not in value
    ]

    assert silent == []


def test_no_internal_marks_are_published(composed: dict[str, Any]) -> None:
    """Marks for the composer itself do not reach the published schema."""
    assert not any("x-static" in node for node in _nodes(composed))


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_in_schema_and_reference(kind: str, composed: dict[str, Any]) -> None:
    """One declaration makes the kind's schema and its section of the reference."""
    assert kind in composed["$defs"]["Step"]["properties"]
    assert {"required": [kind]} in composed["$defs"]["Step"]["oneOf"]
    assert f"\n## `{kind}`\n" in reference.page()


@pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
def test_examples_of_a_kind_are_valid(kind: Any, composed: dict[str, Any]) -> None:
    """The YAML in a kind's documentation fits the schema."""
    import yaml

    block = kind.__doc__.split("```yaml\n")[1].split("```")[0]
    steps = yaml.safe_load(block)

    errors = list(Draft202012Validator(composed, registry=Registry()).iter_errors({"steps": steps}))
    assert [error.message for error in errors] == []


def _nodes(node: Any) -> Any:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)
