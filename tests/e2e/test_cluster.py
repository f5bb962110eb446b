"""Whole runs on the real cluster: ownership, cleanup, waiting, namespaces, what a failure shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]
Flow = Callable[..., tuple[int, dict[str, Any]]]

ROOT = Path(__file__).parents[2]

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app, labels: {app: web}}
spec:
  containers: [{name: app, image: pythonapp, imagePullPolicy: Never}]
"""
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: app, image: pythonapp, imagePullPolicy: Never, ports: [{name: http, containerPort: 5000}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: web, port: 80, targetPort: http}]}
"""


@pytest.fixture
def flow(
    tmp_path: Path, runner: Callable[..., Any], cluster_env: dict[str, str], namespace: str, app_image: str
) -> Flow:
    """Run a workflow in a namespace of the test; answers the exit code and the report's first workflow."""
    (tmp_path / "pod.yaml").write_text(POD)
    (tmp_path / "web.yaml").write_text(DEPLOYMENT)

    def run(text: str, *arguments: str, namespaced: bool = True) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "flow.yaml"
        file.write_text(textwrap.dedent(text))
        place = ("-n", namespace) if namespaced else ()
        answer = runner("run", file, "-o", "json", *place, *arguments, env=cluster_env)
        report = json.loads(answer.stdout)
        (only,) = report["workflows"] or [{}]  # none when the run did not start
        return answer.returncode, {**report, **only, "stderr": answer.stderr}

    return run


def test_what_the_run_made_is_gone_with_its_dependents(flow: Flow, namespace: str, kubectl: Kubectl) -> None:
    """A Deployment, its ReplicaSet and Pods, and a Service with its EndpointSlice: all gone at the end."""
    code, report = flow("steps: [{apply: web.yaml}, {wait: deployment/web}]")

    assert code == 0
    assert report["cleanup"]["deleted"] == 2
    left = kubectl("get", "deployments,replicasets,pods,services,endpointslices", "-n", namespace, "-o", "name")
    assert left == ""


def test_what_existed_before_is_updated_and_left(flow: Flow, namespace: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """An object of before the run is neither deleted nor labelled; that it is changed for good is said once."""
    (tmp_path / "map.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: new}\n")
    kubectl("create", "configmap", "m", "--from-literal=a=old", "-n", namespace)

    code, report = flow("steps: [{id: a, apply: map.yaml}, {apply: map.yaml}]")

    assert report["stderr"].count("configmap/m existed before this run: it is changed, and stays so") == 1
    live = json.loads(kubectl("get", "configmap", "m", "-n", namespace, "-o", "json"))
    assert (code, live["data"]["a"], live["metadata"].get("labels")) == (0, "new", None)
    assert report["cleanup"]["deleted"] == 0


def test_failed_run_cleans_up_too(flow: Flow, namespace: str, kubectl: Kubectl) -> None:
    """After a failure everything is deleted all the same."""
    code, _ = flow("steps: [{apply: pod.yaml}, {run: exit 1}]")

    assert code == 1
    assert kubectl("get", "pods", "-n", namespace, "-o", "name") == ""


@pytest.mark.parametrize(
    ("arguments", "steps", "kept"),
    [
        (("--keep",), "[{apply: pod.yaml}]", True),
        (("--keep-on-failure",), "[{apply: pod.yaml}, {run: exit 1}]", True),
        (("--keep-on-failure",), "[{apply: pod.yaml}]", False),
        ((), "[{apply: pod.yaml, keep: true}]", True),
    ],
)
def test_keep(flow: Flow, namespace: str, kubectl: Kubectl, arguments: tuple[str, ...], steps: str, kept: bool) -> None:
    """What is to be kept stays, and the report names it."""
    _, report = flow(f"steps: {steps}", *arguments)

    assert (kubectl("get", "pods", "-n", namespace, "-o", "name") == "pod/app\n") is kept
    assert bool(report["cleanup"]["kept"]) is kept


def test_generated_namespace_lives_as_long_as_the_run(flow: Flow, kubectl: Kubectl) -> None:
    """`generate` makes a namespace, commands of the workflow use it by default, and it is gone at the end."""
    code, report = flow(
        """
        namespace: {generate: made-}
        steps:
          - apply: pod.yaml
          - wait: pod/app
          - id: look
            run: kubectl get pod -o name
          - run: 'test "$POD" = pod/app'
            env: {POD: "${{ steps.look.outputs.stdout }}"}
        """,
        namespaced=False,
    )

    assert code == 0
    assert report["namespace"].startswith("made-")
    assert kubectl("get", "namespace", report["namespace"], "--ignore-not-found") == ""


def test_next_workflow_begins_in_the_contexts_namespace(
    runner: Callable[..., Any], cluster_env: dict[str, str], tmp_path: Path
) -> None:
    """A namespace that one workflow made for itself is not that of the next one."""
    (tmp_path / "a.yaml").write_text("namespace: {generate: first-}\nsteps: [{run: kubectl get pods}]")
    (tmp_path / "b.yaml").write_text("steps: [{run: kubectl config view --minify}]")

    answer = runner("run", tmp_path / "a.yaml", tmp_path / "b.yaml", "-o", "json", env=cluster_env)
    first, second = json.loads(answer.stdout)["workflows"]

    assert answer.returncode == 0
    assert (first["namespace"][:6], second["namespace"]) == ("first-", "default")
    assert "namespace: default" in second["steps"][0]["outputs"]["stdout"]


def test_created_namespace_only_when_absent(flow: Flow, namespace: str, kubectl: Kubectl) -> None:
    """`create: true` uses a namespace that exists, and leaves it."""
    code, _ = flow(f"namespace: {{name: {namespace}, create: true}}\nsteps: [{{apply: pod.yaml}}]", namespaced=False)

    assert code == 0
    assert kubectl("get", "namespace", namespace, "-o", "jsonpath={.status.phase}") == "Active"


@pytest.mark.parametrize(
    ("head", "arguments", "hint"),
    [
        ("namespace: nowhere-to-be-found", (), "or let the run do it: {name: nowhere-to-be-found, create: true}"),
        ("inputs: {place: nowhere-to-be-found}\nnamespace: ${{ inputs.place }}", (), "create: true"),
        ("namespace: default", ("-n", "nowhere-to-be-found"), "kubectl create namespace nowhere-to-be-found"),
    ],
)
def test_missing_namespace_cannot_start(flow: Flow, head: str, arguments: tuple[str, ...], hint: str) -> None:
    """Nothing is made and nothing runs, and it says how to have the namespace made."""
    code, report = flow(
        f"{head}\nsteps: [{{apply: pod.yaml}}]\nfinally: [{{run: 'true'}}]", *arguments, namespaced=False
    )

    assert (code, report["status"]) == (3, "error")
    assert report["error"] == "the namespace nowhere-to-be-found does not exist"
    assert hint in report["hint"]


def test_image_that_is_not_there_fails_at_once(flow: Flow, tmp_path: Path) -> None:
    """ErrImageNeverPull ends the wait within seconds, names the image, and says what to do."""
    (tmp_path / "bad.yaml").write_text(POD.replace("image: pythonapp", "image: no-such-image"))

    code, report = flow("steps: [{apply: bad.yaml}, {wait: pod/app}]")

    step = report["steps"][1]
    assert (code, step["failure"]["reason"]) == (1, "ErrImageNeverPull")
    assert "no-such-image" in step["failure"]["message"]
    assert "build" in step["failure"]["hint"]
    assert step["seconds"] < 20


CRD = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.test}
spec:
  group: example.test
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
WIDGET = """\
apiVersion: example.test/v1
kind: Widget
metadata: {name: one}
status: {conditions: [{type: Ready, status: "True"}]}
"""


def test_custom_resource_and_its_definition(flow: Flow, tmp_path: Path, kubectl: Kubectl) -> None:
    """A kind that the run itself brings can be applied, waited for and deleted, before its definition goes."""
    (tmp_path / "crd.yaml").write_text(CRD)
    (tmp_path / "widget.yaml").write_text(WIDGET)
    code, report = flow(
        """
        steps:
          - apply: crd.yaml
          - wait: crd/widgets.example.test
          - apply: widget.yaml
          - wait: widget/one
          - wait: {target: widget/one, that: object.kind == 'Widget'}
        """
    )

    assert code == 0, report
    assert report["cleanup"]["deleted"] == 2
    assert kubectl("get", "crd", "--ignore-not-found", "widgets.example.test") == ""


def test_workload_fails_with_its_pods(flow: Flow, tmp_path: Path) -> None:
    """A Deployment whose image is not there would wait for ever: its Pods say so at once."""
    (tmp_path / "bad.yaml").write_text(DEPLOYMENT.replace("image: pythonapp", "image: no-such-image"))

    code, report = flow("steps: [{apply: bad.yaml}, {wait: deployment/web}]")

    failure = report["steps"][1]["failure"]
    assert (code, failure["reason"]) == (1, "ErrImageNeverPull")
    assert failure["message"].startswith("deployment/web: pod/web-")
    assert report["steps"][1]["seconds"] < 30


def test_crashing_container_shows_its_log(flow: Flow, tmp_path: Path) -> None:
    """A container that crashes is reported with its exit code and its last words."""
    script = "command: [python3, -c, \"print(1+1); raise SystemExit('no database')\"]"
    # Without a probe the Pod is Ready for the moment that the container lives.
    script += ", readinessProbe: {httpGet: {path: /, port: 5000}, periodSeconds: 1}"
    (tmp_path / "bad.yaml").write_text(POD.replace("name: app, image", f"name: app, {script}, image"))

    code, report = flow("steps: [{apply: bad.yaml}, {wait: pod/app}]")

    failure = report["steps"][1]["failure"]
    assert (code, failure["reason"]) == (1, "CrashLoopBackOff")
    assert "exit code 1" in failure["details"]
    assert "no database" in failure["details"]


def test_wait_covers_what_does_not_exist_yet(
    tmp_path: Path, namespace: str, kubectl: Kubectl, cluster_env: dict[str, str]
) -> None:
    """One deadline covers absence and unreadiness: the object may come after the wait began."""
    (tmp_path / "flow.yaml").write_text("steps: [{wait: {target: configmap/late, until: exists}}]")
    argv = [sys.executable, "-m", "runner", "flow.yaml", "-n", namespace]
    env = {**os.environ, **cluster_env, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}

    with subprocess.Popen(argv, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr
        assert any("configmap/late does not exist yet" in line for line in run.stderr)
        kubectl("create", "configmap", "late", "-n", namespace)
        rest = run.stderr.read()

    assert (run.returncode, rest.count("step passed")) == (0, 1)


def test_wait_times_out_with_the_last_state(flow: Flow) -> None:
    """A timeout says what was still missing."""
    code, report = flow("steps: [{wait: pod/never, timeout: 1s}]")

    failure = report["steps"][0]["failure"]
    assert (code, failure["reason"]) == (1, "timeout")
    assert failure["message"] == "timed out after 1 s: pod/never does not exist yet"


def test_unknown_kind_has_a_suggestion(flow: Flow) -> None:
    """A misspelt kind is told from a missing object; what validation only suspects is said before anything runs."""
    code, report = flow("steps: [{wait: deploymet/web}]")

    assert code == 1
    assert report["stderr"].index("'deploymet' is no kind of Kubernetes") < report["stderr"].index("step started")
    assert report["steps"][0]["failure"]["hint"].lower().startswith("did you mean deployment")


def test_rejected_manifest_shows_kubectl(flow: Flow, tmp_path: Path) -> None:
    """What the API server refuses is shown with kubectl's command, code and output."""
    (tmp_path / "bad.yaml").write_text(POD.replace("name: app,", "name: 'A_B',", 1))

    code, report = flow("steps: [{apply: bad.yaml}]")

    failure = report["steps"][0]["failure"]
    assert (code, failure["code"]) == (1, 1)
    assert failure["command"].startswith("kubectl apply ")
    assert "Invalid value" in failure["output"]


def test_forward_feeds_verify_through_a_service(flow: Flow) -> None:
    """A free local port of a forward to a Service is the URL of a verify; named ports are resolved."""
    code, report = flow("""
        steps:
          - apply: web.yaml
          - wait: deployment/web
          - id: web
            forward: {target: service/web, ports: ":80"}
          - id: answer
            verify: {url: "${{ steps.web.outputs.url }}", contains: Hello}
          - run: 'test "$S" = 200'
            env: {S: "${{ steps.answer.outputs.status }}"}
        """)

    assert code == 0, report


def test_busy_port_is_found_before_anything_is_created(flow: Flow, namespace: str, kubectl: Kubectl) -> None:
    """A local port that another program holds ends the run before its first step, naming the program."""
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        file = f'steps: [{{apply: pod.yaml}}, {{forward: {{target: pod/app, ports: "{port}:5000"}}}}]'
        code, report = flow(file)

    assert code == 3
    assert report["error"].startswith(f"the local port 127.0.0.1:{port} is in use by python")
    assert kubectl("get", "pods", "-n", namespace, "-o", "name") == ""


def test_commands_alone_run_in_the_namespace_that_was_named(flow: Flow, namespace: str, kubectl: Kubectl) -> None:
    """A workflow of nothing but commands uses the run's cluster and namespace, not the user's own defaults."""
    code, _ = flow("steps: [{run: kubectl create configmap here}]")

    assert code == 0
    assert kubectl("get", "configmap", "here", "-n", namespace, "-o", "name") == "configmap/here\n"


def test_what_commands_change_in_their_kubeconfig(flow: Flow, namespace: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """It holds for the commands after them, and neither for other steps nor for the cleanup."""
    (tmp_path / "map.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\n")
    code, report = flow(
        """
        steps:
          - run: |
              kubectl config set-cluster far --server=https://127.0.0.1:1
              kubectl config set-context far --cluster=far --namespace=elsewhere
              kubectl config use-context far
          - apply: map.yaml
          - run: {command: kubectl config current-context}
            id: current
        """
    )

    assert code == 0, report["problems"]
    assert report["steps"][2]["outputs"]["stdout"] == "far"
    assert report["cleanup"]["deleted"] == 1
    assert kubectl("get", "configmap", "made", "-n", namespace, "--ignore-not-found") == ""


def test_files_that_an_expression_names(flow: Flow, tmp_path: Path) -> None:
    """Wherever a step takes files, alone and in a list."""
    (tmp_path / "map.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\n")
    code, report = flow(
        """
        inputs: {file: {default: map.yaml}, target: {default: configmap/made}}
        steps:
          - apply: ${{ inputs.file }}
          - wait: ${{ inputs.target }}
          - delete: ${{ inputs.target }}
          - apply: ["${{ inputs.file }}"]
          - delete: {file: "${{ inputs.file }}"}
          - apply: {file: "${{ inputs.file }}"}
          - run: ["true"]
        """
    )

    assert code == 0, report["problems"]
    assert report["cleanup"]["deleted"] == 1


def test_two_namespaces_with_the_same_name_of_object(flow: Flow, namespace: str, kubectl: Kubectl) -> None:
    """Cleanup touches only the namespace that the run worked in."""
    kubectl("create", "configmap", "same", "-n", "default")
    try:
        code, _ = flow("steps: [{run: kubectl create configmap same}, {delete: configmap/same}]")
        assert code == 0
        assert kubectl("get", "configmap", "same", "-n", "default", "-o", "name") == "configmap/same\n"
    finally:
        kubectl("delete", "configmap", "same", "-n", "default")


def test_context_that_is_not_local_is_refused(
    runner: Callable[..., Any], cluster_env: dict[str, str], tmp_path: Path
) -> None:
    """A public address is refused before the first write, with the ways out."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "prod",
        "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "prod"}}],
        "clusters": [{"name": "prod", "cluster": {"server": "https://192.0.2.1:6443"}}],
        "users": [{"name": "prod", "user": {"token": "x"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    (tmp_path / "pod.yaml").write_text(POD)
    (tmp_path / "flow.yaml").write_text("steps: [{apply: pod.yaml}]\n")

    answer = runner("run", tmp_path / "flow.yaml", env={**cluster_env, "KUBECONFIG": str(tmp_path / "config")})

    assert answer.returncode == 3
    assert "--context prod" in answer.stderr
    assert "--engine podman" in answer.stderr
