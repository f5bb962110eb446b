"""The API server itself goes away and comes back; and a machine on which kubectl proxy cannot start."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import node

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]


@pytest.fixture
def own_cluster() -> Iterator[node.Cluster]:
    """A second cluster, for a test that others would notice. On clusters that are not of `make e2e` there is none."""
    state = Path(os.environ.get("KUBECONFIG", "")).parent
    if not re.fullmatch(r"runner-e2e-w\d{7}", state.name):
        pytest.skip("takes an API server down: only where `make e2e` started the cluster")
    cluster = node.Cluster(state.name.removeprefix("runner-e2e-").replace("w", "f"))
    command = [sys.executable, "-m", "tests.cluster", "--name", cluster.name]
    subprocess.run([*command, "up"], check=True)
    yield cluster
    subprocess.run([*command, "down"], check=True)


class ApiServer:
    """The process of a cluster's API server."""

    def __init__(self, cluster: node.Cluster) -> None:
        self._cluster = cluster
        mark = f"--cert-dir={cluster.state}/pki".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                line = path.read_bytes()
                if b"kube-apiserver\0" in line and mark in line:
                    self._argv = line.decode().split("\0")[:-1]
                    self._pid = int(path.parent.name)

    def kill(self) -> None:
        """Returns when it is dead, and its port free."""
        end = os.pidfd_open(self._pid)
        os.kill(self._pid, signal.SIGKILL)
        select.select([end], [], [], 20)
        os.close(end)

    def start(self) -> None:
        """As it was, in the cluster's namespaces; returns when it is ready."""
        shell = (self._cluster.state / "pid").read_text().split()[0]
        (first,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[:1]
        enter = ["nsenter", f"--target={first}", "--net", "--pid", "--mount", "setsid", "--fork"]
        with (self._cluster.state / "log/apiserver-again.log").open("wb") as log:
            subprocess.run([*enter, *self._argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        end = time.monotonic() + 60
        while self.kubectl("get", "--raw=/readyz", check=False) != "ok":
            assert time.monotonic() < end, "the API server does not come back"
            time.sleep(0.1)

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        argv = ["kubectl", f"--kubeconfig={self._cluster.kubeconfig}", "--request-timeout=10s", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=check).stdout


def test_restart_of_the_api_server(
    runner: Callable[..., Any], cluster_env: dict[str, str], own_cluster: node.Cluster, tmp_path: Path
) -> None:
    """While steps wait: what was deleted, and what was made, meanwhile is seen."""
    server = ApiServer(own_cluster)
    (tmp_path / "flow.yaml").write_text(
        """
        steps:
          - run: touch begun
          - {id: gone, wait: {target: configmap/old, until: deleted}, timeout: 60s}
          - {id: made, wait: {target: configmap/new, that: "object.data.a == 'b'"}, timeout: 60s}
        """
    )
    server.kubectl("create", "configmap", "old")

    def disturb() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.02)
        time.sleep(1)
        server.kill()
        server.start()
        server.kubectl("delete", "configmap", "old")
        server.kubectl("create", "configmap", "new", "--from-literal=a=b")

    thread = threading.Thread(target=disturb)
    thread.start()
    env = {**cluster_env, "KUBECONFIG": str(own_cluster.kubeconfig)}
    answer = runner("run", tmp_path / "flow.yaml", "-o", "json", env=env)
    thread.join()

    assert answer.returncode == 0, answer.stdout + answer.stderr
    rules = set(re.findall(r'rule="?([a-z ]+)', answer.stderr))
    assert {rule.strip() for rule in rules} & {"connection cut", "bad gateway", "unavailable"}, answer.stderr


@pytest.fixture
def no_proxy(cluster_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment with a kubectl that can do everything but `proxy`."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/kubectl"
    program.write_text(
        "#!/bin/bash\n"
        "[[ $1 != proxy ]] || { echo 'error: listen unix: bind: permission denied' >&2; exit 1; }\n"
        f'exec {shutil.which("kubectl")} "$@"\n'
    )
    program.chmod(0o755)
    return {**cluster_env, "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"}


def test_without_a_proxy(
    runner: Callable[..., Any], no_proxy: dict[str, str], namespace: str, app_image: str, tmp_path: Path
) -> None:
    """Everything works through kubectl processes, and the log says so."""
    (tmp_path / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: app}\nspec:\n  terminationGracePeriodSeconds: 1\n"
        "  containers: [{name: app, image: pythonapp, imagePullPolicy: Never}]\n"
    )
    (tmp_path / "flow.yaml").write_text(
        """
        steps:
          - apply: pod.yaml
          - wait: pod/app
          - {id: f, forward: {target: pod/app, ports: ":5000"}}
          - verify: {url: "${{ steps.f.outputs.url }}", contains: Hello}
          - delete: pod/app
          - apply: pod.yaml
        """
    )
    answer = runner("run", tmp_path / "flow.yaml", "-n", namespace, "-o", "json", env=no_proxy)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "kubectl proxy does not start: error: listen unix: bind: permission denied; so every look" in answer.stderr
    (workflow,) = json.loads(answer.stdout)["workflows"]
    assert workflow["cleanup"]["left"] == []


def test_runs_of_other_machines_without_a_proxy(
    runner: Callable[..., Any], no_proxy: dict[str, str], kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    """Whether they can be alive is told by the API server's clock, also to who asks it through kubectl processes."""
    (tmp_path / "map.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs}\n")
    (tmp_path / "flow.yaml").write_text("steps: [{apply: map.yaml}]")
    kubectl("create", "configmap", "theirs", "-n", namespace)
    kubectl("annotate", "configmap", "theirs", "-n", namespace, "runner/expires-after=600s")
    kubectl("label", "configmap", "theirs", "-n", namespace, f"runner/run-id=run-of-{namespace}")
    refused = runner("run", tmp_path / "flow.yaml", "-n", namespace, env=no_proxy)
    kubectl("annotate", "configmap", "theirs", "-n", namespace, "--overwrite", "runner/expires-after=0s")
    taken = runner("run", tmp_path / "flow.yaml", "-n", namespace, env=no_proxy)
    removed = runner("clean", "--cluster", "--run", f"run-of-{namespace}", env=no_proxy)

    owner = f"configmap/theirs belongs to the run run-of-{namespace}, which is still alive (on another machine, until "
    assert (refused.returncode, owner in refused.stdout) == (1, True), refused.stdout + refused.stderr
    dead = f"configmap/theirs was left by the run run-of-{namespace}, which is dead"
    assert (taken.returncode, dead in taken.stderr) == (0, True), taken.stdout + taken.stderr
    assert (removed.returncode, "1 object removed, 0 left" in removed.stdout) == (0, True), removed.stdout
