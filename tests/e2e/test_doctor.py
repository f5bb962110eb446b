"""`doctor` on a real cluster: what it says is what a run does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.e2e
def test_doctor_proves_that_the_cluster_is_local(
    runner: Runner, cluster_env: dict[str, str], kubectl: Callable[..., str]
) -> None:
    """The context, the nodes, the proof and the way of the images are named; a run can start."""
    answer = runner("doctor", "-o", "json", env=cluster_env)
    report = json.loads(answer.stdout)
    found = {finding["name"]: finding for finding in report["findings"]}
    (node,) = kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()[:1]

    assert (answer.returncode, report["ready"]) == (0, True)
    assert found["engine"]["text"] == "kubectl, because there is a context"
    assert node in found["cluster"]["text"]
    assert (found["guard"]["state"], found["guard"]["text"].split(":")[0]) == ("ok", "local")
    assert found["images"]["state"] == "ok"


@pytest.mark.podman
def test_doctor_without_a_cluster(runner: Runner, podman_env: dict[str, str]) -> None:
    """Podman is what a run would use, and a container starts."""
    answer = runner("doctor", env=podman_env)

    assert answer.returncode == 0, answer.stdout
    assert "a container starts" in answer.stdout
    assert "podman, because" in answer.stdout
