"""`verify` on a real cluster: rollouts with and without downtime, and what it says of Pods that do not answer."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("app_image")]

Flow = Callable[[str], tuple[int, dict[str, Any]]]

# Told to end, it serves for three more seconds: a program that shuts down gracefully.
GRACEFUL = """
import http.server, os, signal
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"Hello\\n")
signal.signal(signal.SIGTERM, lambda *_: signal.alarm(3))
signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
http.server.HTTPServer(("", 5000), Hello).serve_forever()
"""
# It says 500 and what is wrong, and ends.
CRASHING = """
import http.server, os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Broken(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
        print("the config has no key `database`", flush=True)
        os._exit(3)
http.server.HTTPServer(("", 5000), Broken).serve_forever()
"""


def pod(program: str) -> dict[str, Any]:
    container = {
        "name": "app",
        "image": "pythonapp",
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", program],
        "ports": [{"name": "http", "containerPort": 5000}],
    }
    return {"containers": [container], "terminationGracePeriodSeconds": 10}


@pytest.fixture
def flow(runner: Callable[..., Any], cluster_env: dict[str, str], namespace: str, tmp_path: Path) -> Flow:
    """Run a workflow in a namespace of the test; answers the exit code and the report of the workflow."""
    graceful = pod(GRACEFUL)
    graceful["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1}
    labels = {"app": "web"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": graceful}},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": "http"}]},
    }
    crasher = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "crasher"}, "spec": pod(CRASHING)}
    (tmp_path / "web.yaml").write_text(f"{json.dumps(deployment)}\n---\n{json.dumps(service)}\n")
    (tmp_path / "crasher.yaml").write_text(json.dumps(crasher))

    def run(text: str) -> tuple[int, dict[str, Any]]:
        (tmp_path / "flow.yaml").write_text(textwrap.dedent(text))
        answer = runner("run", tmp_path / "flow.yaml", "-o", "json", "-n", namespace, env=cluster_env)
        (report,) = json.loads(answer.stdout)["workflows"]
        return answer.returncode, {**report, "stderr": answer.stderr}

    return run


def test_rollouts_and_the_service_behind(flow: Flow) -> None:
    """A rolling update loses no request; one that recreates its Pods does, which is reported with its gap; and when
    nothing is left behind the Service, the failure says so.
    """
    code, report = flow(
        """
        steps:
          - apply: web.yaml
          - wait: deployment/web
            timeout: 30s
          - id: web
            forward: {target: service/web, ports: ":80"}
          - id: rolling
            verify:
              url: "${{ steps.web.outputs.url }}"
              contains: Hello
              throughout:
                - run: kubectl rollout restart deployment/web
                - run: kubectl rollout status deployment/web --timeout=1m
                - verify: {url: "${{ steps.web.outputs.url }}", consecutive: 3}
                - name: The old Pod is gone
                  run: until [ "$(kubectl get pod --selector=app=web --output=name | wc -l)" = 1 ]; do sleep 0.2; done
          - run: kubectl patch deployment/web --patch '{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}'
          - id: recreate
            continue_on_error: true
            verify:
              url: "${{ steps.web.outputs.url }}"
              request: {timeout: 500ms}
              throughout:
                - run: kubectl rollout restart deployment/web
                - run: kubectl rollout status deployment/web --timeout=1m
                - verify: {url: "${{ steps.web.outputs.url }}", consecutive: 3}
          - run: |
              kubectl scale deployment/web --replicas=0
              kubectl wait pod --selector=app=web --for=delete --timeout=1m
          - id: nothing
            verify: {url: "${{ steps.web.outputs.url }}", request: {timeout: 500ms}}
            timeout: 1500ms
        """
    )

    steps = {step["id"]: step for step in report["steps"] if step["id"]}
    assert code == 1, json.dumps(report, indent=1)
    rolling, recreate, nothing = steps["rolling"], steps["recreate"]["failure"], steps["nothing"]["failure"]

    assert rolling["status"] == "success", json.dumps(report, indent=1)
    assert "all as expected" in rolling["shown"]
    assert rolling["outputs"]["attempts"] > 10
    assert "forward restarted" in report["stderr"]

    assert "of them failed" in recreate["message"]
    assert "without a good answer at the longest, from " in recreate["message"]
    assert " × " in recreate["details"].splitlines()[0]
    assert "the other end: service/web, port 80, by a forward of this run" in recreate["details"]

    assert nothing["hint"] == "service/web has no Pods: none has the labels app=web"


def test_crashing_pod_behind_the_port(flow: Flow) -> None:
    """The Pod's state, its restarts and its last words stand in the failure of `verify`."""
    code, report = flow(
        """
        steps:
          - apply: crasher.yaml
          - wait: pod/crasher
          - id: web
            forward: {target: pod/crasher, ports: ":http"}
          - verify: {url: "${{ steps.web.outputs.url }}", request: {timeout: 2s}}
            timeout: 6s
        """
    )

    failure = report["steps"][-1]["failure"]
    assert code == 1
    assert "pod/crasher: container app: CrashLoopBackOff: " in failure["hint"], json.dumps(failure, indent=1)
    assert "exit code 3, started again " in failure["hint"]
    assert "; kubectl logs pod/crasher " in failure["hint"]
    assert "the config has no key `database`" in failure["details"], failure["details"]
