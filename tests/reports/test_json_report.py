"""The object of `--output json`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from runner.errors import Problem
from runner.reports import json_report
from runner.result import RunResult, Status, WorkflowResult

if TYPE_CHECKING:
    from tests.reports.conftest import Golden


def keys(data: Any) -> set[str]:
    """All keys, outputs aside: those are the workflow's."""
    if isinstance(data, list):
        return {key for item in data for key in keys(item)}
    if isinstance(data, dict):
        return {*data, *(key for name, item in data.items() if name != "outputs" for key in keys(item))}
    return set()


def test_the_object(passed: WorkflowResult, failed: WorkflowResult, golden: Golden) -> None:
    """Every key in its order, durations in milliseconds' precision."""
    result = RunResult(
        "r1", (passed, failed), 134.45678, "kubectl", "kind-kind", "/runs/r1", clean="runner clean --run r1"
    )
    golden("report.json", json_report.render(result))


def test_every_key_is_documented(run_failed: RunResult, problems: tuple[Problem, ...]) -> None:
    """The module's docstring is the reference."""
    documented = set(re.findall(r"`([a-z_]+)`", json_report.__doc__ or ""))
    assert keys(json_report.document(replace(run_failed, problems=problems))) <= documented


def test_problems_alone(problems: tuple[Problem, ...]) -> None:
    """`validate --output json` answers the same object."""
    report = json.loads(json_report.render_problems(problems))
    assert (report["status"], report["exit_code"], report["workflows"]) == ("invalid", 2, [])
    assert report["problems"][0]["message"] == 'unknown key "imgae"'
    assert report["problems"][0]["column"] == 13


def test_no_problems() -> None:
    """A valid file."""
    report = json.loads(json_report.render_problems(()))
    assert (report["status"], report["exit_code"], report["problems"]) == ("success", 0, [])


def test_warnings_are_no_errors() -> None:
    """A warning does not make a file invalid."""
    report = json_report.document(RunResult("", (), 0, problems=(Problem("a", 1, 1, "m", severity="warning"),)))
    assert (report["status"], report["exit_code"]) == ("success", 0)


@pytest.mark.parametrize(
    ("change", "code", "expected"),
    [
        ({}, None, ("success", 0)),
        ({"signal": 15}, None, ("cancelled", 143)),
        ({"deadline_exceeded": True}, None, ("cancelled", 4)),
        ({"error": "no cluster"}, 3, ("error", 3)),
        ({"error": "bug"}, 70, ("error", 70)),
    ],
)
def test_status(run_passed: RunResult, change: dict[str, Any], code: int | None, expected: tuple[str, int]) -> None:
    """One word for what became of the run, and the process's own exit code."""
    report = json_report.document(replace(run_passed, **change), code)
    assert (report["status"], report["exit_code"]) == expected


def test_failure(run_failed: RunResult, passed: WorkflowResult) -> None:
    """A failed workflow makes a failed run."""
    assert json_report.document(run_failed)["status"] == "failure"
    skipped = replace(passed, status=Status.CANCELLED)
    assert json_report.document(RunResult("r", (skipped,), 1))["status"] == "failure"


def test_outputs_of_any_kind(passed: WorkflowResult) -> None:
    """A response with NaN in it is still a report."""
    step = replace(passed.steps[0], outputs={"json": {"x": float("nan"), "y": [1, "é"]}})
    report = json.loads(json_report.render(RunResult("r", (replace(passed, steps=(step,)),), 1)))
    assert report["workflows"][0]["steps"][0]["outputs"] == {"json": {"x": None, "y": [1, "é"]}}
