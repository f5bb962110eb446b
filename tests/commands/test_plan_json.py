"""`plan --output json`: the table as data."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.commands import plan_json

Runner = Callable[..., subprocess.CompletedProcess[str]]

FLOW = """\
name: flow
namespace: {generate: demo-}
inputs: {who: world, token: {secret: true, env: TOKEN}}
steps:
  - apply: {manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}}
    keep: true
    namespace: other
  - id: web
    forward: {target: pod/app, ports: ":80"}
  - verify: {url: "${{ steps.web.outputs.url }}/", throughout: [{run: "echo 'it''s'"}], max_failures: 2}
  - {run: "true", if: inputs.who == 'me'}
  - {wait: pod/app, if: steps.web.outcome == 'success'}
finally:
  - delete: pod/app
"""


@pytest.fixture
def plan(runner: Runner, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "flow.yaml").write_text(FLOW)
    answer = runner(
        "plan", "flow.yaml", "-o", "json", "--engine", "kubectl", cwd=tmp_path, env={"TOKEN": "s3cret-value"}
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "s3cret-value" not in answer.stdout
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def every(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield step
        yield from every(step["steps"])


def keys(data: Any) -> set[str]:
    """All keys, of all levels."""
    if isinstance(data, list):
        return {key for item in data for key in keys(item)}
    return {*data, *(key for item in data.values() for key in keys(item))} if isinstance(data, dict) else set()


def test_every_key_is_documented(plan: dict[str, Any]) -> None:
    """The module's docstring is the reference."""
    assert keys(plan) <= set(re.findall(r"`([a-z_]+)`", plan_json.__doc__ or ""))


def test_steps_in_order_with_those_inside(plan: dict[str, Any]) -> None:
    (flow,) = plan["workflows"]
    assert (flow["name"], flow["engine"], flow["namespace"], flow["keep"]) == (
        "flow",
        "kubectl",
        "${{ run.namespace }}",
        "never",
    )
    found = [(step["path"], step["kind"], step["section"]) for step in every(flow["steps"])]
    assert found == [
        ("steps[0]", "apply", "steps"),
        ("steps.web", "forward", "steps"),
        ("steps[2]", "verify", "steps"),
        ("steps[2].throughout[0]", "run", "steps"),
        ("steps[3]", "run", "steps"),
        ("steps[4]", "wait", "steps"),
        ("finally[0]", "delete", "finally"),
    ]
    conditions = [(step["if"], step["skipped"]) for step in flow["steps"][3:5]]
    assert conditions == [("inputs.who == 'me'", True), ("steps.web.outcome == 'success'", False)]


def test_commands_as_words_and_as_lines(plan: dict[str, Any]) -> None:
    """The same; an observation that is no plain command has no words. What only a run knows is an expression."""
    (flow,) = plan["workflows"]
    steps = {step["path"]: step for step in every(flow["steps"])}
    (apply,) = steps["steps[0]"]["commands"]
    assert apply == {
        "argv": ["kubectl", "apply", "--request-timeout=35s", "--namespace=other", "--filename=-"],
        "line": "kubectl apply --request-timeout=35s --namespace=other --filename=-",
        "objects": 1,
    }
    assert steps["steps[0]"]["keep"] is True
    for step in steps.values():
        for line in (*step["commands"], *step["equivalents"]):
            assert line["argv"] is None or shlex.join(line["argv"]) == line["line"] or "${{" in line["line"]
    (wait,) = steps["steps[4]"]["equivalents"]
    assert wait["argv"][:3] == ["kubectl", "wait", "pod/app"]
    assert steps["steps[2].throughout[0]"]["commands"][0]["argv"][-1] == "echo 'it''s'"
    assert any("${{ steps.web.outputs.url }}/" in line["line"] for line in steps["steps[2]"]["equivalents"])


def test_a_script_is_no_object(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    answer = runner("plan", "flow.yaml", "-o", "json", "--format", "sh", cwd=tmp_path)
    assert answer.returncode == 2
    assert json.loads(answer.stdout)["error"] == "--format sh makes a script, and --output json an object"


def test_problems_as_json(runner: Runner, tmp_path: Path) -> None:
    """As `validate` tells them."""
    (tmp_path / "bad.yaml").write_text("steps: [{aply: a}]")
    answer = runner("plan", "bad.yaml", "-o", "json", cwd=tmp_path)
    assert answer.returncode == 2
    assert json.loads(answer.stdout)["status"] == "invalid"
