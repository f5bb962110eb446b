"""`verify` with podman: it says of a crashing Pod what it says of one in a cluster."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.podman

ROOT = Path(__file__).parents[2]
CRASHING = """\
import http.server, os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Broken(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(500)
        print("the config has no key `database`", flush=True)
        os._exit(3)
http.server.HTTPServer(("", 5000), Broken).serve_forever()
"""


def test_crashing_pod_behind_the_port(
    runner: Callable[..., subprocess.CompletedProcess[str]], podman_env: dict[str, str], tmp_path: Path
) -> None:
    """Its state, its last words and the command to look, in podman's words."""
    name = f"crasher-{secrets.token_hex(3)}"
    container = {"name": "app", "image": "localhost/pythonapp:latest", "command": ["python3", "-c", CRASHING]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}
    (tmp_path / "pod.yaml").write_text(json.dumps(pod))
    shutil.copytree(ROOT / "workflows" / "pythonapp", tmp_path / "pythonapp")
    (tmp_path / "flow.yaml").write_text(f"""
inputs: {{base: {{env: BASE_IMAGE, default: docker.io/library/python:3-alpine}}}}
cluster: {{engine: podman}}
steps:
  - build: {{image: pythonapp, context: pythonapp, args: {{BASE: "${{{{ inputs.base }}}}"}}}}
  - apply: pod.yaml
  - wait: pod/{name}
  - id: web
    forward: {{target: pod/{name}, ports: ":5000"}}
  - verify: {{url: "${{{{ steps.web.outputs.url }}}}", request: {{timeout: 1s}}}}
    timeout: 3s
""")
    answer = runner("run", tmp_path / "flow.yaml", "-o", "json", env=podman_env)
    (report,) = json.loads(answer.stdout)["workflows"]
    failure = report["steps"][-1]["failure"]

    assert answer.returncode == 1, answer.stderr
    assert f"pod/{name}: container app" in failure["hint"], json.dumps(report, indent=1)
    assert f"the other end: pod/{name}, port 5000, by a forward of this run" in failure["details"]
    assert "the config has no key `database`" in failure["details"]
