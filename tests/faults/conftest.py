"""What the fault tests share: a kubectl proxy to the real cluster, fault servers before it, runs through these."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.server import CONTROL, FaultServer, Plan

Runner = Callable[..., subprocess.CompletedProcess[str]]

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: pythonapp, imagePullPolicy: Never}]
"""
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: b}}\n"


@dataclass(frozen=True)
class Outcome:
    """What a run through a fault server did."""

    server: FaultServer
    code: int
    report: dict[str, Any]
    events: list[dict[str, Any]]
    log: str

    def __str__(self) -> str:
        hits = "\n".join(f"  {hit.armed}: {hit.line}" for hit in self.server.hits[:30])
        return f"exit code {self.code}\n{self.log}\nmade to fail:\n{hits}"

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        (workflow,) = self.report["workflows"]
        return {step["id"] or step["name"]: step for step in workflow["steps"]}

    @property
    def cleanup(self) -> dict[str, Any]:
        (workflow,) = self.report["workflows"]
        return dict(workflow["cleanup"])

    def hit(self, armed: str) -> int:
        """How many requests were made to fail since this arming."""
        return sum(hit.armed == armed for hit in self.server.hits)

    def told(self, *phrases: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in phrases]


Through = Callable[..., Outcome]


@pytest.fixture(scope="session")
def upstream(cluster_env: dict[str, str]) -> Iterator[int]:
    """The port of a `kubectl proxy` to the real cluster."""
    argv = ["kubectl", "proxy", "--port=0"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        line = child.stdout.readline()
        assert "Starting to serve on 127.0.0.1:" in line
        yield int(line.rsplit(":", 1)[1])
        child.terminate()


@pytest.fixture
def through(
    upstream: int, runner: Runner, cluster_env: dict[str, str], namespace: str, app_image: str, tmp_path: Path
) -> Iterator[Through]:
    """`through(Plan(…), "steps: …")`: run a workflow whose way to the cluster fails as the plan says.

    The folder has `pod.yaml`; `${arm} NAME` in a script arms the server; `${map}` is a ConfigMap of this run alone.
    Several may run at once.
    """
    servers: list[FaultServer] = []
    (tmp_path / "pod.yaml").write_text(POD)

    def run(plan: Plan, text: str, *arguments: str, timeout: float = 120) -> Outcome:
        server = FaultServer(upstream, plan)
        servers.append(server)
        name = f"flow{len(servers)}-{server.port}"
        arm = tmp_path / f"arm-{server.port}"
        arm.write_text(
            f"exec 3<>/dev/tcp/127.0.0.1/{server.port}\n"
            f"printf 'POST {CONTROL}%s HTTP/1.1\\r\\n\\r\\n' \"$1\" >&3\nread -r answer <&3\n"
        )
        kubeconfig = tmp_path / f"{name}.config"
        kubeconfig.write_text(server.kubeconfig)
        file = tmp_path / f"{name}.yaml"
        (tmp_path / f"m{server.port}.yaml").write_text(MAP.format(name=f"m{server.port}"))
        file.write_text(text.replace("${arm}", f"bash {arm}").replace("${map}", f"m{server.port}"))
        told = tmp_path / f"{name}.events"
        env = {**cluster_env, "KUBECONFIG": str(kubeconfig)}
        answer = runner(
            "run", file, "-n", namespace, "-o", "json", "--events", told, *arguments, env=env, timeout=timeout
        )
        events = [json.loads(line) for line in told.read_text().splitlines()]
        report = json.loads(answer.stdout) if answer.stdout else {"workflows": [{"steps": []}]}
        return Outcome(server, answer.returncode, report, events, answer.stderr)

    yield run
    for server in servers:
        server.close()
