"""Forwards through a real API server: late listeners, replaced Pods, many requests, much data, few permissions."""

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
# Says hello, gives back what it is sent, and holds a connection that changes its protocol; on two ports, 50 at once.
APP = """
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Server(ThreadingHTTPServer):
    request_queue_size = 128

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.headers["Upgrade"]:
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "echo")
            self.end_headers()
            self.wfile.flush()
            self.close_connection = True
            while data := self.rfile.read1(65536):
                self.wfile.write(data)
                self.wfile.flush()
            return
        self.send_response(302 if self.path == "/old" else 200)
        self.send_header("Location", "/new")
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"Hello\\n")

    def do_POST(self):
        left = int(self.headers["Content-Length"])
        self.send_response(200)
        self.send_header("Content-Length", str(left))
        self.end_headers()
        while left:
            data = self.rfile.read1(min(left, 65536))
            left -= len(data)
            self.wfile.write(data)

threading.Thread(target=Server(("", 5001), Handler).serve_forever).start()
Server(("", 5000), Handler).serve_forever()
"""
# 100 MB there and back, at the same time.
ECHO = """
import http.client, os, threading

def echo(port, size=100_000_000):
    piece = os.urandom(1_000_000)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    def send():
        for _ in range(size // len(piece)):
            connection.sock.sendall(piece)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    sender = threading.Thread(target=send)
    sender.start()
    answer = connection.getresponse()
    for number in range(size // len(piece)):
        assert answer.read(len(piece)) == piece, number
    sender.join()
    connection.close()
"""
# A client that sees what the runner holds.
CLIENT = """
import http.client, os, pathlib, subprocess, threading, time

runner = os.getppid()
ports = [int(os.environ["PORT"]), int(os.environ["METRICS"])]

def held():
    folder = pathlib.Path(f"/proc/{runner}")
    return len(list((folder / "fd").iterdir())), len(list((folder / "task").iterdir()))

def ask(count, port=ports[0]):
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read() == b"Hello\\n"
        connection.close()

def together(count, each):
    failures = []
    def work():
        try:
            ask(each)
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]

def let_go(before):
    patience = time.monotonic() + 20
    while any(now > then + 3 for now, then in zip(held(), before)):  # it may begin another watch meanwhile
        assert time.monotonic() < patience, (held(), before)
        time.sleep(0.1)
    children = subprocess.run(["ps", "-o", "args=", "--ppid", str(runner)], capture_output=True, text=True).stdout
    assert children.count("port-forward") == int(os.environ.get("TUNNELS", "1")), children
"""
# 10,000 requests, most of them 50 at once, 100 MB there and back; then nothing is left behind.
MANY = """
ask(1)
ask(1, ports[1])
before = held()
ask(2500)
together(50, 150)
echo(ports[0])
let_go(before)
"""
# Through the API server: connections that stay, redirects, other protocols, a large answer.
PROXIED = """
import http.client, os, socket

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["PORT"]), timeout=30)
connection.connect()
kept = connection.sock
for _ in range(200):
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"Hello\\n"
assert connection.sock is kept
connection.request("GET", "/old")
answer = connection.getresponse()
answer.read()
assert (answer.status, answer.getheader("Location")) == (302, "/new"), answer.getheader("Location")
echo(int(os.environ["PORT"]))

with socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), timeout=30) as client:
    client.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: Upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n")
    stream = client.makefile("rb")
    assert b" 101 " in stream.readline()
    while stream.readline() != b"\\r\\n":
        pass
    for word in (b"one", b"two"):
        client.sendall(word)
        assert stream.read(3) == word
"""
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web"},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "app",
                        "image": "pythonapp",
                        "imagePullPolicy": "Never",
                        "command": ["python3", "-c", APP],
                        "ports": [
                            {"name": "http", "containerPort": 5000},
                            {"name": "metrics", "containerPort": 5001},
                        ],
                        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
                    }
                ],
            },
        },
    },
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
}
# What an account of a CI system may have: it looks, and asks through the API server's proxy.
ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "ci"},
    "rules": [
        {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["services/proxy", "pods/proxy"], "verbs": ["get", "create"]},
    ],
}


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
    (tmp_path / "late.json").write_text(json.dumps(pod))
    (tmp_path / "web.json").write_text(json.dumps(DEPLOYMENT))
    (tmp_path / "service.json").write_text(json.dumps(SERVICE))
    (tmp_path / "many.py").write_text(ECHO + CLIENT + MANY)
    (tmp_path / "proxied.py").write_text(ECHO + PROXIED)

    def run(text: str, *options: str, **env: str) -> tuple[int, dict[str, Any]]:
        (tmp_path / "flow.yaml").write_text(textwrap.dedent(text))
        answer = runner(
            "run", tmp_path / "flow.yaml", "-o", "json", "-n", namespace, *options, env={**cluster_env, **env}
        )
        (report,) = json.loads(answer.stdout)["workflows"]
        return answer.returncode, {**report, "stderr": answer.stderr}

    return run


def test_ready_before_it_listens(flow: Flow) -> None:
    """A Pod without readinessProbe is Ready a second before it listens: the forward waits, one verify is enough."""
    code, report = flow(
        """
        steps:
          - apply: late.json
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
    """The local port stays while every Pod behind it is replaced, and the new one is taken before anybody asks."""
    code, report = flow(
        """
        steps:
          - apply: [web.json, service.json]
          - wait: deployment/web
          - id: web
            forward: {target: service/web, ports: ":http"}
          - verify: "${{ steps.web.outputs.url }}"
          - run: |
              old=$(kubectl get pod --selector=app=web --output=name)
              kubectl rollout restart deployment/web
              kubectl rollout status deployment/web --timeout=1m
              kubectl wait "$old" --for=delete --timeout=1m
          - verify: {url: "${{ steps.web.outputs.url }}", contains: Hello, request: {method: POST, body: Hello}}
            retry: 1
        """
    )

    assert code == 0, json.dumps(report, indent=1)
    (line,) = [line for line in report["stderr"].splitlines() if " forward restarted " in line]
    assert "is being deleted" in line


def test_many_requests_and_much_data_through_one_forward(flow: Flow) -> None:
    """Nothing stalls (kubectl says a line for each connection), and nothing is left of them. Two ports, one kubectl."""
    code, report = flow(
        """
        steps:
          - apply: web.json
          - wait: deployment/web
          - id: web
            forward: {target: deployment/web, ports: [":http", ":metrics"]}
          - run: [python3, many.py]
            env: {PORT: "${{ steps.web.outputs.ports.http }}", METRICS: "${{ steps.web.outputs.ports.metrics }}"}
            timeout: 2m
        """
    )

    assert code == 0, json.dumps(report, indent=1)


def test_forwards_that_cannot_work_say_why(flow: Flow) -> None:
    """A port that does not exist, an object that is not there, a port on which nobody listens, nothing behind it."""
    code, report = flow(
        """
        steps:
          - apply: [web.json, service.json]
          - wait: deployment/web
          - {forward: {target: deployment/web, ports: ":nothing"}, continue_on_error: true}
          - {forward: {target: deployment/none, ports: ":80"}, timeout: 1s, continue_on_error: true}
          - {forward: {target: deployment/web, ports: ":4"}, timeout: 5s, continue_on_error: true}
          - run: kubectl scale deployment/web --replicas=0; kubectl wait pod --all --for=delete
          - {forward: {target: deployment/web, ports: ":http"}, continue_on_error: true}
          - {forward: {target: service/web, ports: ":99"}, continue_on_error: true}
        """
    )

    assert code == 0, json.dumps(report, indent=1)
    failures = [step["failure"] for step in report["steps"] if step["failure"]]
    expected = [
        ("has no port named nothing", "its named ports: http, metrics"),
        ("deployment/none does not exist in namespace ", "there is: web"),
        (
            "does not answer: the connection was refused, nothing listens there (yet)",
            "declares 5000 (http), 5001 (metri",
        ),
        ("deployment/web is scaled to 0, so it has no Pods", "kubectl scale deployment/web --replicas=1"),
        ("service/web has no port 99", "its ports: 80 (http)"),
    ]
    for failure, (message, hint) in zip(failures, expected, strict=True):
        assert message in failure["message"]
        assert hint in failure["hint"]


def test_with_few_permissions(flow: Flow, kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    """An account that may not port-forward is told of `via: proxy`, and with it reaches a Service and a workload."""
    for file in ("web.json", "service.json"):
        kubectl("apply", "-n", namespace, "-f", str(tmp_path / file))
    account = _account(kubectl, namespace, tmp_path, ROLE)
    kubectl("rollout", "status", "deployment/web", "-n", namespace, "--timeout=1m")

    code, report = flow(
        """
        steps:
          - forward: {target: service/web, ports: ":http"}
        """,
        *account[0],
        **account[1],
    )
    assert code == 1
    failure = report["steps"][-1]["failure"]
    assert "kubectl port-forward is not allowed: " in failure["message"]
    assert "`via: proxy`" in failure["hint"]

    code, report = flow(
        """
        steps:
          - id: web
            forward: {target: service/web, ports: ":http", via: proxy}
          - id: pod
            forward: {target: deployment/web, ports: ":metrics", via: proxy}
          - verify: {url: "${{ steps.pod.outputs.url }}", contains: Hello}
          - run: [python3, proxied.py]
            env: {PORT: "${{ steps.web.outputs.port }}"}
        """,
        *account[0],
        **account[1],
    )
    assert code == 0, json.dumps(report, indent=1)


def test_who_may_only_get_a_pod(flow: Flow, kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    """What suffices for `kubectl port-forward pod/late` suffices here, for waiting too; and it says what is missing."""
    kubectl("apply", "-n", namespace, "-f", str(tmp_path / "late.json"))
    role = {**ROLE, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "resourceNames": ["late"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods/portforward"], "resourceNames": ["late"], "verbs": ["create"]},
    ]}  # fmt: skip
    options, env = _account(kubectl, namespace, tmp_path, role)

    code, report = flow(
        """
        steps:
          - wait: pod/late
          - id: web
            forward: {target: pod/late, ports: ":http"}
          - verify: {url: "${{ steps.web.outputs.url }}", contains: Hello}
          - wait: {target: {kind: pod, selector: app=late}}
            continue_on_error: true
        """,
        *options,
        **env,
    )

    assert code == 0, json.dumps(report, indent=1)
    assert report["stderr"].count("this account may get pods, but not list and watch them") == 1
    failure = report["steps"][-1]["failure"]
    assert 'cannot list resource "pods"' in failure["message"]
    assert failure["hint"].startswith("ask for `get`, `list` and `watch` of pods (")
    assert failure["hint"].endswith(f" auth can-i --list --namespace={namespace}")


def _account(kubectl: Kubectl, namespace: str, folder: Path, role: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The options and the environment of a run as an account that has this role and no other."""
    (folder / "role.json").write_text(json.dumps(role))
    kubectl("create", "serviceaccount", "ci", "-n", namespace)
    kubectl("apply", "-n", namespace, "-f", str(folder / "role.json"))
    kubectl("create", "rolebinding", "ci", "--role=ci", f"--serviceaccount={namespace}:ci", "-n", namespace)
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": kubectl("create", "token", "ci", "-n", namespace).strip()}
    (folder / "ci.json").write_text(json.dumps(config))
    return ["--context", config["current-context"]], {"KUBECONFIG": str(folder / "ci.json")}
