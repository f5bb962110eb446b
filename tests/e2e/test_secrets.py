"""On the real cluster: no secret is seen, no other cluster is touched, nothing of the system is changed unasked."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Completed, Runner
from tests.forms import FORMS

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]

SECRETS = {
    "data": "da7a-of-a-Secret/1",
    "string": "str1ng\"data'2<x>",
    "inline": "inl1ne-manifest 3",
    "before": "was-there-bef0re-4",
    "given": "g1ven?from=outside&5",
    "key": "MIIEvQ1BADANBgkq+6\nhkiG9w0BAQEFAASC/6",
}
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  restartPolicy: Never
  containers:
    - name: app
      image: pythonapp
      imagePullPolicy: Never
      command: [python3, -c, "import os, base64 as b; s = os.environ['S']; print(s, b.b64encode(s.encode())); EXIT"]
      env: [{name: S, valueFrom: {secretKeyRef: {name: planted, key: data}}}]
"""
WORKFLOW = """\
inputs: {given: {secret: true, env: GIVEN}}
steps:
  - apply: secret.yaml
  - apply:
      manifest: {apiVersion: v1, kind: Secret, metadata: {name: inline}, stringData: {password: "inl1ne-manifest 3"}}
  - {id: read, wait: secret/planted}
  - {id: before, wait: secret/before}
  - run: |
      kubectl get secret planted inline before -o yaml
      kubectl get secret planted inline before -o json
      kubectl get secret planted -o jsonpath='{.data.data}' | base64 -d
      kubectl get secret planted -o go-template='{{range .data}}{{. | base64decode}} {{end}}'
      kubectl describe secret planted
      echo "$GIVEN, port 5432, user postgres"
    show: true
    env: {GIVEN: "${{ inputs.given }}"}
  - apply: pod.yaml
  - wait: {target: pod/app, until: complete}
    timeout: 60s
"""


def found(text: str) -> list[str]:
    """The forms of secrets that stand in a text."""
    lines = [line for value in SECRETS.values() for line in value.splitlines()]
    return [f"{line} as {form}" for line in lines for form, spell in FORMS.items() if spell(line) in text]


@pytest.mark.parametrize("code", [0, 1])
def test_no_sink_has_a_secret(
    tmp_path: Path,
    runner: Runner,
    kubectl: Kubectl,
    cluster_env: dict[str, str],
    namespace: str,
    app_image: str,
    code: int,
) -> None:
    """Secrets that are applied, were there, are read by steps and by children, and are printed by a Pod that fails."""
    assert app_image
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "planted"},
        "data": {
            "data": base64.b64encode(SECRETS["data"].encode()).decode(),
            "key": base64.b64encode(SECRETS["key"].encode()).decode(),
        },
        "stringData": {"string": SECRETS["string"], "port": "5432", "user": "postgres"},
    }
    (tmp_path / "secret.yaml").write_text(json.dumps(manifest))
    (tmp_path / "pod.yaml").write_text(POD.replace("EXIT", f"raise SystemExit({code})"))
    (tmp_path / "flow.yaml").write_text(WORKFLOW)
    kubectl("create", "secret", "generic", "before", "-n", namespace, f"--from-literal=a={SECRETS['before']}")
    done = runner(
        "run",
        tmp_path / "flow.yaml",
        *("-n", namespace, "-v", "--events", tmp_path / "events.jsonl"),
        *(("-o", "json") if code else ()),
        env={**cluster_env, "GIVEN": SECRETS["given"]},
    )
    kept = {str(path): path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file()}
    events = (tmp_path / "events.jsonl").read_text()

    assert done.returncode == code, done.stdout + done.stderr
    for name, text in {"stdout": done.stdout, "stderr": done.stderr, "events": events, **kept}.items():
        assert found(text) == [], name
    assert "port 5432, user postgres" in done.stderr
    assert not [name for name in kept if "kubeconfig" in name]


@pytest.fixture
def flow(tmp_path: Path, runner: Runner, cluster_env: dict[str, str], namespace: str) -> Callable[..., Completed]:
    def run(text: str, *arguments: object, **env: str) -> Completed:
        (tmp_path / "flow.yaml").write_text(text)
        return runner("run", tmp_path / "flow.yaml", "-n", namespace, *arguments, env={**cluster_env, **env})

    return run


def test_existing_secrets_that_a_command_names(
    flow: Callable[..., Completed], kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    """Nothing of the run read or applied them before: neither in the step's namespace nor in another."""
    other = f"{namespace}-other"
    kubectl("create", "namespace", other)
    try:
        kubectl("create", "secret", "generic", "pre", "-n", namespace, "--from-literal=password=was-there-bef0re-4")
        kubectl("create", "secret", "generic", "far", "-n", other, "--from-literal=password=far-away-pa55word")
        template = "-o=go-template={{.data.password | base64decode}}"
        done = flow(
            "steps:\n"
            "  - run: |\n"
            "      kubectl get secret pre -o jsonpath='{.data.password}' | base64 -d; echo\n"
            "    show: true\n"
            f"  - run: [kubectl, get, secret/far, -n, {other}, '{template}']\n"
            "    show: true\n",
            "-v",
            "--events",
            tmp_path / "events.jsonl",
        )
        shown = done.stdout + done.stderr + (tmp_path / "events.jsonl").read_text()

        assert done.returncode == 0, done.stderr
        assert "was-there-bef0re-4" not in shown
        assert "far-away-pa55word" not in shown
        assert "cannot be read" not in shown
        assert "***" in done.stderr
    finally:
        kubectl("delete", "namespace", other, "--wait=false")


def test_secrets_that_may_not_be_listed(
    flow: Callable[..., Completed], kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    """An account that may only get them is told that their data is not masked; the command runs all the same."""
    kubectl("create", "secret", "generic", "pre", "-n", namespace, "--from-literal=password=was-there-bef0re-4")
    kubectl("create", "role", "ci", "-n", namespace, "--verb=get", "--resource=secrets")
    kubectl("create", "serviceaccount", "ci", "-n", namespace)
    kubectl("create", "rolebinding", "ci", "--role=ci", f"--serviceaccount={namespace}:ci", "-n", namespace)
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": kubectl("create", "token", "ci", "-n", namespace).strip()}
    (tmp_path / "ci.json").write_text(json.dumps(config))
    done = flow(
        "steps: [{run: kubectl get secret pre -o name, show: true}]\n",
        *("--context", config["current-context"]),
        KUBECONFIG=str(tmp_path / "ci.json"),
    )

    assert done.returncode == 0, done.stderr
    assert f"the Secrets of the namespace {namespace} cannot be read, so their data is not masked" in done.stderr
    assert "secret/pre" in done.stderr


def test_use_context_elsewhere_changes_nothing(
    flow: Callable[..., Completed], cluster_env: dict[str, str], tmp_path: Path
) -> None:
    """The kubeconfig that the user has is switched while the run goes on: the run stays where it began."""
    config = json.loads(
        subprocess.run(
            ["kubectl", "config", "view", "--raw", "--flatten", "-o", "json"],
            env={**os.environ, **cluster_env},
            capture_output=True,
            check=True,
        ).stdout
    )
    config["clusters"].append({"name": "other", "cluster": {"server": "http://127.0.0.1:1"}})
    config["contexts"].append({"name": "other", "context": {"cluster": "other", "user": ""}})
    own = tmp_path / "own-kubeconfig"
    own.write_text(json.dumps(config))
    (tmp_path / "map.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}")
    done = flow(
        "steps:\n"
        '  - run: kubectl config use-context other --kubeconfig="$OWN"\n'
        '    env: {OWN: "${{ env.OWN }}"}\n'
        "  - apply: map.yaml\n"
        "  - {run: kubectl get configmap a, show: true}\n",
        KUBECONFIG=str(own),
        OWN=str(own),
    )

    assert done.returncode == 0, done.stderr
    assert "current-context: other" in own.read_text()
    assert "cleanup ended" in done.stderr
    assert not list((tmp_path / "state").rglob("*kubeconfig*"))


def test_what_must_be_allowed(flow: Callable[..., Completed], kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    """What validation could not see is refused before the write: nothing is made in kube-system, no namespace goes.

    An object of the whole cluster that the run made itself it may delete.
    """
    (tmp_path / "map.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: planted}}")
    own = f"{namespace}-own"
    (tmp_path / "own.yaml").write_text(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {own}}}}}")
    steps = (
        "inputs: {place: kube-system}\nsteps:\n"
        "  - {apply: map.yaml, namespace: '${{ inputs.place }}', continue_on_error: true}\n"
        f"  - {{apply: own.yaml}}\n"
        f"  - {{delete: {{target: namespace/{own}, wait: false}}}}\n"
        f"  - {{delete: namespace/{namespace}}}\n"
    )
    refused = flow(steps)

    assert refused.returncode == 1, refused.stderr
    assert "configmap/planted belongs to the system (namespace kube-system)" in refused.stderr
    assert "say so in the workflow: `cluster: {allow: [system_namespaces]}`" in refused.stderr
    assert f"namespace/{namespace} belongs to the whole cluster, and this run did not make it" in refused.stderr
    assert f"namespace/{own} belongs" not in refused.stderr
    assert kubectl("get", "configmap", "planted", "-n", "kube-system", "--ignore-not-found") == ""
    assert kubectl("get", "namespace", namespace, "-o", "jsonpath={.status.phase}") == "Active"

    allowed = flow(
        "cluster: {allow: [system_namespaces]}\nsteps: [{apply: map.yaml, namespace: kube-system}]\n",
    )
    assert allowed.returncode == 0, allowed.stderr
    assert kubectl("get", "configmap", "planted", "-n", "kube-system", "--ignore-not-found") == ""


class FarCluster(http.server.BaseHTTPRequestHandler):
    """The cluster of the tests as it would look through a tunnel from far away: its nodes have another boot id."""

    protocol_version = "HTTP/1.1"
    behind = 0
    writes: list[str] = []

    def _pass_on(self) -> None:
        if self.command != "GET":
            self.writes.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with closing(http.client.HTTPConnection("127.0.0.1", self.behind, timeout=20)) as connection:
            connection.request(self.command, self.path, body, {"Accept": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        if self.path.startswith("/api/v1/nodes"):
            data = json.loads(content)
            for node in data["items"]:
                node["status"]["nodeInfo"]["bootID"] = "00000000-1111-2222-3333-444444444444"
            content = json.dumps(data).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on  # noqa: N815 - names that the library calls

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def tunnel(cluster_env: dict[str, str]) -> Iterator[int]:
    """The port on this machine's loopback behind which a far cluster answers."""
    proxy = subprocess.Popen(
        ["kubectl", "proxy", "--port=0"], env={**os.environ, **cluster_env}, stdout=subprocess.PIPE, text=True
    )
    assert proxy.stdout
    FarCluster.behind = int(proxy.stdout.readline().rpartition(":")[2])
    FarCluster.writes = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FarCluster) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
    proxy.terminate()
    proxy.wait()
    proxy.stdout.close()


def test_tunnel_to_a_far_cluster_is_refused(tmp_path: Path, runner: Runner, tunnel: int) -> None:
    """A loopback address proves nothing, whatever the context is called; the message says what to type."""
    server = f"http://127.0.0.1:{tunnel}"
    config = {
        "clusters": [{"name": "kind-dev", "cluster": {"server": server}}],
        "contexts": [{"name": "kind-dev", "context": {"cluster": "kind-dev", "user": ""}}],
        "current-context": "kind-dev",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    (tmp_path / "map.yaml").write_text("{apiVersion: v1, kind: ConfigMap, metadata: {name: planted}}")
    (tmp_path / "flow.yaml").write_text("steps: [{apply: map.yaml}]")
    done = runner("run", tmp_path / "flow.yaml", env={"KUBECONFIG": str(tmp_path / "kubeconfig")})

    assert done.returncode == 3
    message, hint = done.stderr.splitlines()[-2:]
    assert message == (
        f"runner: the context kind-dev is not known to be local: its server {server} is a near address, "
        "but its nodes have another boot id than this machine"
    )
    assert hint == (
        "  try: to use this cluster all the same, name it: --context kind-dev, "
        "or `cluster: {context: kind-dev}` in the workflow; to run without a cluster: --engine podman"
    )
    assert FarCluster.writes == []
    assert not list((tmp_path / "state").rglob("*kubeconfig*"))
