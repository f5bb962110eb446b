"""Forwards through a real API server: late listeners, replaced Pods, many requests."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("app_image")]

Kubectl = Callable[..., str]
Flow = Callable[..., tuple[int, dict[str, Any]]]

LATE = "import time; time.sleep(1); import runpy; runpy.run_path('/app.py', run_name='__main__')"
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: app
        image: pythonapp
        imagePullPolicy: Never
        ports: [{name: http, containerPort: 5000}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
"""


@pytest.fixture
def flow(runner: Callable[..., Any], cluster_env: dict[str, str], namespace: str, tmp_path: Path) -> Flow:
    """Run a workflow in a namespace of the test; answers the exit code and the report of the workflow."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "late"},
        "spec": {
            "containers": [
                {
                    "name": "app",
                    "image": "pythonapp",
                    "imagePullPolicy": "Never",
                    "command": ["python3", "-c", LATE],
                    "ports": [{"name": "http", "containerPort": 5000}],
                }
            ]
        },
    }
    (tmp_path / "late.yaml").write_text(json.dumps(pod))
    (tmp_path / "web.yaml").write_text(DEPLOYMENT)

    def run(text: str) -> tuple[int, dict[str, Any]]:
        (tmp_path / "flow.yaml").write_text(textwrap.dedent(text))
        answer = runner("run", tmp_path / "flow.yaml", "-o", "json", "-n", namespace, env=cluster_env)
        (report,) = json.loads(answer.stdout)["workflows"]
        return answer.returncode, {**report, "stderr": answer.stderr}

    return run


def test_ready_before_it_listens(flow: Flow) -> None:
    """A Pod without readinessProbe is Ready a second before it listens: the forward waits, one verify is enough."""
    code, report = flow(
        """
        steps:
          - apply: late.yaml
          - wait: pod/late
          - id: web
            forward: {target: pod/late, ports: ":http"}
          - id: answer
            verify: {url: "${{ steps.web.outputs.url }}", request: {method: POST, body: x}, status: [200, 501]}
        """
    )

    assert code == 0, json.dumps(report, indent=1)
    assert report["steps"][-1]["outputs"]["attempts"] == 1
    assert "forward restarted" not in report["stderr"]
    assert "pod/late to listen on port 5000" in report["stderr"]


def test_forward_survives_a_rollout(flow: Flow) -> None:
    """The local port stays while every Pod behind it is replaced."""
    code, report = flow(
        """
        steps:
          - apply: web.yaml
          - wait: deployment/web
          - id: web
            forward: {target: deployment/web, ports: ":5000"}
          - verify: "${{ steps.web.outputs.url }}"
          - run: |
              kubectl rollout restart deployment/web
              kubectl rollout status deployment/web --timeout=1m
              kubectl wait pod --selector=app=web --for=delete --field-selector=status.phase!=Running --timeout=1m
          - verify: {url: "${{ steps.web.outputs.url }}", contains: Hello}
        """
    )

    assert code == 0, json.dumps(report, indent=1)


def test_many_requests_through_one_forward(flow: Flow, tmp_path: Path) -> None:
    """Three thousand connections in a row: kubectl says a line for each, and its pipes are drained."""
    (tmp_path / "many.py").write_text(
        "import http.client, os\n"
        "for number in range(3000):\n"
        "    connection = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=20)\n"
        "    connection.request('GET', '/')\n"
        "    answer = connection.getresponse()\n"
        "    assert answer.status == 200 and answer.read(), number\n"
        "    connection.close()\n"
    )
    code, report = flow(
        """
        steps:
          - apply: web.yaml
          - wait: deployment/web
          - id: web
            forward: {target: deployment/web, ports: ":http"}
          - run: [python3, many.py]
            env: {PORT: "${{ steps.web.outputs.port }}"}
            timeout: 2m
        """
    )

    assert code == 0, json.dumps(report, indent=1)


@pytest.mark.parametrize(
    ("target", "ports", "message"),
    [
        ("deployment/web", ":nothing", "has no port named nothing"),
        ("deployment/none", ":80", "deployment/none does not exist in namespace "),
        ("deployment/web", ":4", "does not answer: the connection was refused, nothing listens there (yet)"),
    ],
)
def test_forward_that_cannot_work_says_why(flow: Flow, target: str, ports: str, message: str) -> None:
    """A port that does not exist, an object that is not there, a port on which nobody listens."""
    code, report = flow(
        f"""
        steps:
          - apply: web.yaml
          - wait: deployment/web
          - forward: {{target: {target}, ports: "{ports}"}}
            timeout: 5s
        """
    )

    assert code == 1
    assert message in report["steps"][-1]["failure"]["message"]
