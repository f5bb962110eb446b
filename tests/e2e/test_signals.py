"""SIGINT and SIGTERM during every kind on the real cluster: the run ends in time, and nothing is left."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  containers:
  - name: app
    image: pythonapp
    imagePullPolicy: Never
    readinessProbe: {httpGet: {path: /, port: READY}, periodSeconds: 1}
"""

SLEEP = "print('started', flush=True); import time; time.sleep(300)"

# For each kind: what stands before it, the step that is interrupted, and the event at which the signal is sent.
KINDS = {
    "build": ("", "build: {image: slow-build, context: slow, load: false}", "command output"),
    "load": ("", "load: pythonapp", "command started"),
    "apply": ("", "apply: ready.yaml", "command started"),
    "wait": ("- apply: never-ready.yaml", "wait: pod/app", "step waiting"),
    "forward": (
        "- apply: ready.yaml\n- wait: pod/app",
        'forward: {target: pod/app, ports: "PORT:4"}',
        "step started",
    ),
    "verify": (
        '- apply: ready.yaml\n- wait: pod/app\n- forward: {target: pod/app, ports: "PORT:5000"}',
        'verify: {url: "http://localhost:PORT/", contains: never}',
        "step waiting",
    ),
    "delete": ("- apply: ready.yaml\n- wait: pod/app", "delete: pod/app", "command ended"),
    "run": ("- apply: ready.yaml", "run: sleep 300 & sleep 300", "command started"),
}


WORKLOADS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: app, image: pythonapp, imagePullPolicy: Never, command: [python3, -c, "import time; time.sleep(300)"]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: app, image: pythonapp, imagePullPolicy: Never, command: [python3, -c, "import time; time.sleep(300)"]}
"""

# Moments outside of a step that is interrupted: what stands in the file, and the event at which the signal is sent.
MOMENTS = {
    "just applied": ("steps: [{apply: workloads.yaml}, {run: sleep 300}]", "object created"),
    "rolling out": ("steps: [{apply: workloads.yaml}, {wait: deployment/web}]", "step waiting"),
    "finally": ("steps: [{apply: workloads.yaml}]\nfinally: [{run: sleep 300}]", "command started finally"),
    "cleanup": ("steps: [{apply: workloads.yaml}]", "cleanup waiting"),
}


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_signal_at_any_moment_leaves_no_workload(
    moment: str,
    tmp_path: Path,
    cluster_env: dict[str, str],
    namespace: str,
    app_image: str,
    kubectl: Callable[..., str],
) -> None:
    """Deployments and Jobs whose Pods ignore SIGTERM are gone within 10 s, with all that their controllers made."""
    text, event = MOMENTS[moment]
    (tmp_path / "tmp").mkdir()
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    (tmp_path / "flow.yaml").write_text(text)
    process = _start(tmp_path, cluster_env, namespace)
    try:
        for record in _events(process):
            if event in (record["event"], f"{record['event']} {record.get('step', '').partition('[')[0]}"):
                break
        else:
            pytest.fail(f"the run ended before the event {event!r}")
        sent = time.monotonic()
        process.send_signal(signal.SIGTERM)
        log = [json.dumps(record) for record in _events(process)]
        code = process.wait(30)
    finally:
        process.kill()
        process.communicate()

    assert time.monotonic() - sent < 10, log
    assert code == 128 + signal.SIGTERM, log
    there = kubectl("get", "deployments,replicasets,jobs,pods", "-n", namespace, "-o", "name")
    # A cleanup that had begun before the signal may have given them their own grace, which nobody can shorten: then
    # they are named, and the watchdog stays with them.
    named = moment == "cleanup" and any('"event": "object left"' in line for line in log)
    assert there == "" or (named and set(there.split()) <= set(re.findall(r"pod/\S+", there))), log
    assert named or _processes_of(tmp_path) == []
    assert named or list((tmp_path / "tmp").iterdir()) == []


def test_deletions_begin_soon_after_the_signal(
    tmp_path: Path, cluster_env: dict[str, str], namespace: str, app_image: str, kubectl: Callable[..., str]
) -> None:
    """Neither a step that ignores SIGTERM nor a long `finally` holds them up: CI systems kill soon."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    stubborn = "trap '' TERM; while :; do sleep 0.1; done"
    flow = {"steps": [{"apply": "workloads.yaml"}, {"id": "target", "run": stubborn}], "finally": [{"run": stubborn}]}
    (tmp_path / "flow.yaml").write_text(json.dumps(flow))
    process = _start(tmp_path, cluster_env, namespace)
    try:
        for record in _events(process):
            if record["event"] == "command started" and record.get("step") == "steps.target":
                break
        process.send_signal(signal.SIGTERM)
        times = {record["event"]: datetime.fromisoformat(record["time"]) for record in _first_of_each(process)}
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()

    # 2 s, and the slack of a busy machine: each step had taken that long before it was cut off.
    assert (times["cleanup started"] - times["interrupted"]).total_seconds() < 2.5, times
    assert kubectl("get", "deployments,jobs,pods", "-n", namespace, "-o", "name") == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_signal_ends_the_run_and_leaves_nothing(
    kind: str,
    number: signal.Signals,
    tmp_path: Path,
    cluster_env: dict[str, str],
    namespace: str,
    app_image: str,
    kubectl: Callable[..., str],
) -> None:
    """The run ends within 10 s with 128 + the signal; no object, process, port or temporary file is left."""
    before, step, event = KINDS[kind]
    port = _free_port()
    _write(tmp_path, before, step, port)
    process = _start(tmp_path, cluster_env, namespace)
    try:
        for record in _events(process):
            if record["event"] == event and record.get("step") == "steps.target":
                break
        else:
            pytest.fail(f"the run ended before the event {event!r} of its {kind} step")
        sent = time.monotonic()
        process.send_signal(number)
        log = [json.dumps(record) for record in _events(process)]
        code = process.wait(30)
    finally:
        process.kill()
        process.communicate()

    assert time.monotonic() - sent < 10, log
    assert code == 128 + number, log
    assert kubectl("get", "pods", "-n", namespace, "-o", "name") == ""
    assert _processes_of(tmp_path) == []
    assert list((tmp_path / "tmp").iterdir()) == []
    _is_free(port)


def _write(folder: Path, before: str, step: str, port: int) -> None:
    (folder / "ready.yaml").write_text(POD.replace("READY", "5000"))
    (folder / "never-ready.yaml").write_text(POD.replace("READY", "4"))
    (folder / "tmp").mkdir()
    shutil.copytree(ROOT / "workflows/pythonapp", folder / "slow")
    base = os.environ.get("BASE_IMAGE", "docker.io/library/python:3-alpine")
    (folder / "slow/Dockerfile").write_text(f"FROM {base}\nRUN {json.dumps(['python3', '-c', SLEEP])}\n")
    steps = [*before.splitlines(), "- id: target", f"  {step}"]
    text = "steps:\n" + "".join(f"  {line}\n" for line in steps)
    (folder / "flow.yaml").write_text(text.replace("PORT", str(port)))


def _start(folder: Path, cluster_env: dict[str, str], namespace: str) -> subprocess.Popen[str]:
    """The run, with a log of all events; its environment marks every process that it starts."""
    own = {"XDG_STATE_HOME": str(folder / "state"), "TMPDIR": str(folder / "tmp"), "PATH": os.environ["PATH"]}
    return subprocess.Popen(
        [sys.executable, "-m", "runner", "-v", "--log-format", "json", "-n", namespace, str(folder / "flow.yaml")],
        cwd=ROOT,
        env={**cluster_env, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _events(process: subprocess.Popen[str]) -> Iterator[dict[str, str]]:
    assert process.stderr
    for line in process.stderr:
        yield json.loads(line)


def _first_of_each(process: subprocess.Popen[str]) -> Iterator[dict[str, str]]:
    seen = set()
    for record in _events(process):
        if record["event"] not in seen:
            seen.add(record["event"])
            yield record


def _processes_of(folder: Path) -> list[str]:
    """Processes that inherited this run's environment; the kernel may need a moment to bury the last one."""
    mark = f"XDG_STATE_HOME={folder / 'state'}".encode()
    end = time.monotonic() + 10
    while True:
        found = [str(path) for path in Path("/proc").glob("[0-9]*") if _has(path / "environ", mark)]
        if not found or time.monotonic() > end:
            return [f"{path}: {_command(path)}" for path in found]
        time.sleep(0.05)


def _has(path: Path, mark: bytes) -> bool:
    try:
        return mark in path.read_bytes().split(b"\0")
    except OSError:
        return False


def _command(path: str) -> str:
    try:
        return Path(path, "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return "(gone)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
