"""The workflows that people see first: each is valid, planned, and run on a real cluster; pod.yaml on podman too."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "workflows"
FILES = sorted(FOLDER.glob("*.yaml"))

Runner = Callable[..., subprocess.CompletedProcess[str]]
Kubectl = Callable[..., str]
Example = Callable[[str], Path]

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@each_file
def test_valid(file: Path, runner: Runner) -> None:
    """`validate` has nothing to say."""
    answer = runner("validate", file)

    assert (answer.returncode, answer.stderr) == (0, "")


@each_file
def test_editors_find_the_schema(file: Path) -> None:
    """The first line names the schema for yaml-language-server, and it is there."""
    first = file.read_text().splitlines()[0]
    schema = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)

    assert schema
    assert (file.parent / schema.group(1)).is_file(), "`make schema` writes it"


@each_file
def test_plan_shows_every_step(file: Path, runner: Runner) -> None:
    """The table has the name of each step, without a cluster."""
    answer = runner("plan", file)
    names = re.findall(r"^ *-? *name: (.+)$", file.read_text(), re.MULTILINE)[1:]

    assert answer.returncode == 0, answer.stderr
    assert [name for name in names if name not in answer.stdout] == []


@each_file
def test_plan_as_a_script_is_bash(file: Path, runner: Runner, tmp_path: Path) -> None:
    """`plan --format sh` is a script that bash can read."""
    answer = runner("plan", "--format", "sh", file)
    assert answer.returncode == 0, answer.stderr
    script = tmp_path / "plan.sh"
    script.write_text(answer.stdout)

    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_the_pod_is_that_of_the_tutorial() -> None:
    """The manifest is the tutorial's, byte for byte: nothing in it is for the runner."""
    assert (FOLDER / "pythonapp" / "pod.yaml").read_text() == (
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: pythonapp\nspec:\n  containers:\n"
        "  - name: pythonapp\n    image: pythonapp\n    imagePullPolicy: Never\n"
    )


@pytest.mark.e2e
@pytest.mark.example
@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem != "smoke"])
def test_runs_on_a_cluster(
    name: str, runner: Runner, cluster_env: dict[str, str], namespace: str, kubectl: Kubectl, example: Example
) -> None:
    """It passes, and leaves nothing in the namespace that it was given."""
    answer = runner("run", example(name), "-n", namespace, env=cluster_env)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert kubectl("get", "all", "-n", namespace, "-o", "name") == ""


@pytest.mark.e2e
@pytest.mark.example
def test_smoke_runs_in_its_own_namespace(runner: Runner, cluster_env: dict[str, str], kubectl: Kubectl) -> None:
    """The smoke test passes, and its namespace is gone with it."""
    answer = runner("run", FOLDER / "smoke.yaml", env=cluster_env)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    name = re.search(r"(smoke-\w+), the app's answer - success", answer.stdout + answer.stderr)
    assert name, "the last step says the namespace"
    assert kubectl("get", "namespace", name.group(1), "--ignore-not-found") == ""


@pytest.mark.e2e
@pytest.mark.example
def test_smoke_says_why_it_failed(runner: Runner, cluster_env: dict[str, str], kubectl: Kubectl) -> None:
    """An app that answers something else fails the run; the log has its Pods, events and words; nothing is left."""
    answer = runner("run", FOLDER / "smoke.yaml", "--set", "expect=Goodbye", env=cluster_env)
    seen = answer.stdout + answer.stderr

    assert answer.returncode == 1, seen
    assert "deployment.apps/web" in seen
    assert "SuccessfulCreate" in seen
    assert re.search(r"\[pod/web-\S+/web\] \S", seen), seen  # what the app said, of which only the end is shown
    name = re.search(r"(smoke-\w+), the app's answer - failure", seen)
    assert name, seen
    assert kubectl("get", "namespace", name.group(1), "--ignore-not-found") == ""


@pytest.mark.podman
@pytest.mark.example
def test_pod_runs_on_podman(runner: Runner, podman_env: dict[str, str], example: Example) -> None:
    """The tutorial's Pod runs where there is no cluster, and says that it is podman."""
    answer = runner("run", example("pod"), env=podman_env)
    seen = answer.stdout + answer.stderr

    assert answer.returncode == 0, seen
    assert "podman" in seen
