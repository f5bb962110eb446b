"""`runner schema`: what is committed in schemas/, and what an installed package carries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner import schema as composing
from runner.cli import main
from runner.steps import KINDS

ROOT = Path(__file__).parents[2]
Captured = pytest.CaptureFixture[str]


def test_schema_is_the_committed_file(capsys: Captured) -> None:
    """Byte for byte; `make schema` writes it."""
    assert main(["schema"]) == 0
    assert capsys.readouterr() == ((ROOT / "schemas/workflow.schema.json").read_text(), "")


def test_reference_is_the_committed_file(capsys: Captured) -> None:
    """Byte for byte; `make schema` writes it."""
    assert main(["schema", "--reference"]) == 0
    assert capsys.readouterr() == ((ROOT / "schemas/reference.md").read_text(), "")


def test_package_checks_against_the_same_schema() -> None:
    """The copy in the package, which `validate` reads, is the published one."""
    assert composing.stored() == json.loads((ROOT / "schemas/workflow.schema.json").read_text())


def test_schema_is_json_for_editors(capsys: Captured) -> None:
    """With its dialect and a title, readable, and with a newline at the end."""
    main(["schema"])
    out = capsys.readouterr().out
    schema = json.loads(out)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "A workflow of runner"
    assert schema["required"] == ["steps"]
    assert set(KINDS) <= schema["$defs"]["Step"]["properties"].keys()
    assert out.endswith("\n}\n")
    assert "\\u" not in out


@pytest.mark.parametrize("kind", list(KINDS))
def test_reference_explains_every_kind(kind: str, capsys: Captured) -> None:
    """A section with its example, all keys, the timeout and the outputs."""
    main(["schema", "--reference"])
    section = capsys.readouterr().out.split(f"\n## `{kind}`\n")[1].split("\n## ")[0]

    assert "```yaml\n" in section
    assert all(f"`{name}`" in section for name in KINDS[kind].Args.__struct_fields__)
    assert KINDS[kind].TIMEOUT in section
    assert all(f"`{name}`" in section for name in KINDS[kind].OUTPUTS)


def test_schema_takes_no_file(capsys: Captured) -> None:
    """There is one schema."""
    with pytest.raises(SystemExit) as left:
        main(["schema", "a.yaml"])
    assert left.value.code == 2
    assert "unrecognized arguments: a.yaml" in capsys.readouterr().err
