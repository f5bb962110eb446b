"""The mistakes that people make with their first workflows: each fails fast, and says what is wrong and what to do.

A folder in `tests/mistakes/` holds a workflow with one mistake and the message that it gives. `UPDATE_GOLDEN=1` writes
the messages anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("app_image")]

FOLDER = Path(__file__).parents[1] / "mistakes"
NO_CLUSTER = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "stopped",
    "contexts": [{"name": "stopped", "context": {"cluster": "stopped", "user": "stopped"}}],
    "clusters": [{"name": "stopped", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "stopped", "user": {}}],
}

Runner = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A local port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("name", sorted(folder.name for folder in FOLDER.iterdir()))
def test_message(
    name: str, runner: Runner, cluster_env: dict[str, str], namespace: str, taken_port: int, tmp_path: Path
) -> None:
    """What the report says of the step that failed, or why the run did not start."""
    folder = shutil.copytree(FOLDER / name, tmp_path / name)
    flow = folder / "flow.yaml"
    flow.write_text(flow.read_text().replace("PORT", str(taken_port)))
    (tmp_path / "stopped").write_text(json.dumps(NO_CLUSTER))
    env = {**cluster_env, "KUBECONFIG": str(tmp_path / "stopped")} if name == "cluster_not_running" else cluster_env

    answer = runner("run", "flow.yaml", "-n", namespace, "-o", "json", env=env, cwd=folder)
    said = _said(answer).replace(namespace, "NAMESPACE").replace(f":{taken_port} ", ":PORT ")
    said = re.sub(r"in use by \S+ \(pid \d+\)", "in use by PROGRAM (pid PID)", said)
    said = re.sub(r"dial tcp 10\.[\d.]+:", "dial tcp POD_IP:", said)

    golden = FOLDER / name / "message.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(said)
    assert said == golden.read_text()


def _said(answer: subprocess.CompletedProcess[str]) -> str:
    """The exit code, and the words of the failure."""
    lines = [f"exit code {answer.returncode}"]
    report = json.loads(answer.stdout)
    steps = [step for workflow in report["workflows"] for step in workflow["steps"]]
    for failure in [step["failure"] for step in steps if step["failure"]]:
        lines += [f"{failure['place']}: {failure['message']}", f"try: {failure['hint']}"]
    if report["error"]:
        lines += [report["error"], f"try: {report['hint']}"]
    return "\n".join(lines) + "\n"
