"""The table of reasons: every row is complete, and what a trouble makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import runner
from runner.cluster.reasons import REASONS, Trouble
from runner.commands import reference
from tests.bench.reasons import CASES

POD: dict[str, Any] = {"kind": "Pod", "metadata": {"name": "web", "namespace": "demo", "uid": "u"}}


@pytest.mark.parametrize("name", REASONS)
def test_rows(name: str) -> None:
    """A meaning that fits into a sentence, a line to type, a bounded time, and a hint unless the object says it all."""
    row = REASONS[name]

    assert name[0].isupper()
    assert name.isalnum()
    assert 0 <= row.tolerated <= 60
    assert row.meaning[0].islower() or row.meaning.startswith("the ")
    assert not row.meaning.endswith(".")
    assert Trouble(name, POD, "app").look.startswith("kubectl ")
    assert "{" not in Trouble(name, POD, "app").look


def test_figures_are_about_rows() -> None:
    """Each row is measured, and the figures stand beside it in the reference."""
    measured = json.loads((Path(runner.__file__).parent / "measured.json").read_text())

    assert {reason for case in CASES for reason in case.reasons} == set(measured) == set(REASONS)
    assert all(row["report"] < REASONS[name].tolerated + 5 < row["kubectl_wait"] for name, row in measured.items())
    assert f"| {measured['ErrImageNeverPull']['report']:.2f} s |" in reference.page()


def test_sentence_and_line_to_type() -> None:
    """Which object, which container, which reason, what it means, and the cluster's words."""
    trouble = Trouble("CrashLoopBackOff", POD, "app", "exit code 1")

    assert trouble.sentence == (
        "pod/web: container app: CrashLoopBackOff: the container starts and ends, again and again: exit code 1"
    )
    assert trouble.look == "kubectl logs pod/web --container=app --namespace=demo --previous"


@pytest.mark.parametrize(
    ("reason", "words", "overrides", "seconds"),
    [
        ("Unschedulable", "", {}, 30),
        ("Unschedulable", "", {"Unschedulable": 300.0}, 300),
        ("ErrImagePull", "connection refused", {}, 40),
        ("CreateContainerConfigError", "container has runAsNonRoot and image will run as root", {}, 0),
        ("ErrImagePull", "docker.io/library/x:1: not found", {}, 0),
        ("ErrImagePull", "docker.io/library/x:1: not found", {"ErrImagePull": 60.0}, 60),
    ],
)
def test_time(reason: str, words: str, overrides: dict[str, float], seconds: float) -> None:
    """The table's, the user's, or none when the registry's own words leave no hope."""
    assert Trouble(reason, POD, "app", words).tolerated(overrides) == seconds


def test_one_trouble_under_two_names() -> None:
    """A pull fails and backs off in turns; a container that is killed for its memory is in a crash loop."""
    keys = {Trouble(reason, POD, "app").key for reason in ("ErrImagePull", "ImagePullBackOff")}

    assert len(keys) == 1
    assert Trouble("OOMKilled", POD, "app").key == Trouble("CrashLoopBackOff", POD, "app").key
    assert Trouble("OOMKilled", POD, "app").key != Trouble("OOMKilled", POD, "other").key
