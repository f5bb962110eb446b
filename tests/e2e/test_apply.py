"""Applying and deleting on the real cluster: what heals by itself is not a failure, what does not fails at once."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]
Report = dict[str, Any]
Flow = Callable[..., tuple[int, Report]]

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: pythonapp, imagePullPolicy: Never}]
"""


@pytest.fixture
def flow(tmp_path: Path, runner: Callable[..., Any], cluster_env: dict[str, str], namespace: str) -> Flow:
    """Run a workflow in a namespace of the test; answers the exit code and the report's workflow."""

    def run(text: str, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, Report]:
        file = tmp_path / "flow.yaml"
        file.write_text(textwrap.dedent(text))
        answer = runner("run", file, "-o", "json", "-n", namespace, *arguments, env={**cluster_env, **(env or {})})
        report = json.loads(answer.stdout)
        (only,) = report["workflows"] or [{}]
        return answer.returncode, {**report, **only, "log": answer.stderr}

    return run


def retried(report: Report) -> set[str]:
    """The rules by which commands were tried again, as the log says."""
    return {
        word.removeprefix("rule=")
        for line in report["log"].splitlines()
        if "command retried" in line
        for word in line.split()
        if word.startswith("rule=")
    }


def failure(report: Report) -> dict[str, Any]:
    """Why the only step that failed did."""
    (failed,) = [step for step in report["steps"] if step.get("failure")]
    return {"seconds": failed["seconds"], **failed["failure"]}


# -- phases -----------------------------------------------------------------------------------------------------------


def test_kind_namespace_and_pod_of_one_file(flow: Flow, tmp_path: Path, namespace: str, kubectl: Kubectl) -> None:
    """What needs another object of the file stands before it: all come in the order that works, and go in reverse.

    The Pod is made in a namespace that has no service account yet.
    """
    other, group = f"{namespace}-b", f"{namespace}.test"
    (tmp_path / "all.yaml").write_text(f"""\
apiVersion: {group}/v1
kind: Widget
metadata: {{name: one, namespace: {other}, finalizers: []}}
---
{POD.replace("name: app,", f"name: app, namespace: {other},", 1)}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: widgets.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{kind: Widget, plural: widgets, singular: widget}}
  versions:
  - {{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object}}}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {other}}}
""")
    code, report = flow("steps: [{id: all, apply: all.yaml}, {delete: all.yaml}, {delete: all.yaml}]")

    assert code == 0, (report["problems"], report["log"])
    applied, first, second = (step["outputs"]["objects"] for step in report["steps"])
    kinds = ["Widget", "Pod", "CustomResourceDefinition", "Namespace"]
    assert ([item["kind"] for item in applied], {item["created"] for item in applied}) == (kinds, {True})
    assert [item["kind"] for item in first] == ["Widget", "Pod", "CustomResourceDefinition", "Namespace"]
    assert second == []  # also of the kind that the cluster knows no more
    assert report["cleanup"]["deleted"] == 0
    assert kubectl("get", "namespace", other, "--ignore-not-found") == ""


# -- what heals -------------------------------------------------------------------------------------------------------


@pytest.fixture
def webhook(namespace: str, kubectl: Kubectl, tmp_path: Path) -> Iterator[str]:
    """A webhook for the config maps of the test's namespace, whose Service has no endpoints."""
    (tmp_path / "webhook.yaml").write_text(f"""\
apiVersion: v1
kind: Service
metadata: {{name: hook}}
spec: {{ports: [{{port: 443}}], selector: {{app: nobody}}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: {namespace}}}
webhooks:
- name: check.example.test
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 1
  failurePolicy: Fail
  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}
  rules: [{{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}}]
  clientConfig: {{service: {{name: hook, namespace: {namespace}, path: /}}}}
""")
    kubectl("apply", "-n", namespace, "-f", str(tmp_path / "webhook.yaml"))
    yield namespace
    kubectl("delete", "validatingwebhookconfiguration", namespace, "--ignore-not-found")


SLEEP = "[python3, -c, import time; time.sleep(600)]"
MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: late}\n"


def test_webhook_that_does_not_serve_yet(flow: Flow, webhook: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """The step goes on until the webhook lets it pass; and one that never does is named at the deadline."""
    (tmp_path / "map.yaml").write_text(MAP)
    for _ in range(100):  # until the API server asks the webhook
        if "failed calling webhook" in _stderr(kubectl, "create", "configmap", "probe", "-n", webhook):
            break
        kubectl("delete", "configmap", "probe", "-n", webhook, "--ignore-not-found")

    code, report = flow("steps: [{apply: map.yaml, timeout: 3s}]")
    why = failure(report)
    assert (code, why["reason"]) == (1, "WebhookNotServing")
    assert why["message"] == "timed out after 3 s: the admission webhook check.example.test does not answer"
    assert "kubernetes.io/service-name=hook" in why["hint"]

    timer = threading.Timer(3, kubectl, ("delete", "validatingwebhookconfiguration", webhook))
    timer.start()
    code, report = flow("steps: [{apply: map.yaml}]")
    timer.join()
    assert (code, retried(report)) == (0, {"WebhookNotServing"})


HOOK = """\
import http.server, ssl

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(404 if self.path.startswith("/nothing") else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

server = http.server.ThreadingHTTPServer(("", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/hook.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def test_webhook_that_answers_wrongly(
    flow: Flow, webhook: str, kubectl: Kubectl, tmp_path: Path, app_image: str
) -> None:
    """An untrusted certificate, no answer for this path, one that is none, no Service: each has its own sentence."""
    authority = trustme.CA()
    authority.issue_cert(f"hook.{webhook}.svc").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "hook.pem"))
    kubectl("create", "secret", "generic", "tls", "-n", webhook, f"--from-file={tmp_path}/hook.pem")
    (tmp_path / "hook.yaml").write_text(f"""\
apiVersion: v1
kind: Pod
metadata: {{name: hook, labels: {{app: nobody}}}}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{name: tls, secret: {{secretName: tls}}}}]
  containers:
  - name: app
    image: {app_image}
    imagePullPolicy: Never
    command: [python3, -c, {json.dumps(HOOK)}]
    readinessProbe: {{tcpSocket: {{port: 443}}, periodSeconds: 1}}
    volumeMounts: [{{name: tls, mountPath: /tls}}]
""")
    kubectl("apply", "-n", webhook, "-f", str(tmp_path / "hook.yaml"))
    kubectl("wait", "pod/hook", "-n", webhook, "--for=condition=Ready")
    (tmp_path / "map.yaml").write_text(MAP)
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()

    def applied(words: str, **config: Any) -> dict[str, Any]:
        patch = json.dumps({"webhooks": [{"name": "check.example.test", "clientConfig": config}]})
        kubectl("patch", "validatingwebhookconfiguration", webhook, f"--patch={patch}")
        for _ in range(100):  # until the API server asks it in this way
            if words in _stderr(kubectl, "create", "configmap", "probe", "-n", webhook):
                break
        code, report = flow("steps: [{apply: map.yaml, timeout: 2s}]")
        assert code == 1
        return failure(report)

    untrusted = applied("x509")
    nothing = applied("could not find", caBundle=bundle, service={"path": "/nothing"})
    none = applied("response was absent", service={"path": "/none"})
    kubectl("delete", "service", "hook", "-n", webhook)
    missing = applied('"hook" not found')

    whys = (untrusted, nothing, none, missing)
    hook = "the admission webhook check.example.test"
    assert [why["reason"] for why in whys] == [
        "WebhookUntrusted",
        "WebhookFails",
        "WebhookFails",
        "WebhookWithoutService",
    ]
    assert [why["message"].removeprefix("timed out after 2 s: ").partition(" (")[0] for why in whys] == [
        f"the API server does not trust the certificate of {hook}: certificate signed by unknown authority",
        f"{hook} gives no valid answer: the server could not find the requested resource",
        f"{hook} gives no valid answer: received invalid webhook response: webhook response was absent",
        f"{hook} is to be served by service/hook in namespace {webhook}, which does not exist",
    ]


def _stderr(kubectl: Kubectl, *arguments: str) -> str:
    answer = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, check=False)
    return answer.stderr


def test_namespace_that_is_just_going(flow: Flow, namespace: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """Its end is waited for; then it is made again, by the file or by somebody else, and filled."""
    other = f"{namespace}-c"
    inside = MAP.replace("late", f"late, namespace: {other}")
    (tmp_path / "all.yaml").write_text(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {other}}}\n---\n{inside}")
    kubectl("create", "namespace", other)
    kubectl("create", "configmap", "held", "-n", other)
    kubectl("patch", "configmap", "held", "-n", other, "-p", '{"metadata": {"finalizers": ["example.test/held"]}}')
    kubectl("delete", "namespace", other, "--wait=false")
    release = ("patch", "configmap", "held", "-n", other, "-p", '{"metadata": {"finalizers": null}}')
    timer = threading.Timer(2, kubectl, release)
    timer.start()
    code, report = flow("steps: [{apply: all.yaml, timeout: 40s}]")
    timer.join()

    assert code == 0, (report["problems"], report["log"])
    assert [item["created"] for item in report["steps"][0]["outputs"]["objects"]] == [True, True]
    assert report["cleanup"]["deleted"] == 2


def test_quota(flow: Flow, namespace: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """A quota of the same file is counted before the Pod is refused for it; what was just deleted makes room; what
    does not fit fails soon, with the numbers.
    """
    quota = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: few}\nspec: {hard: {pods: '1'}}\n"
    (tmp_path / "all.yaml").write_text(f"{quota}---\n{POD}")
    (tmp_path / "next.yaml").write_text(POD.replace("name: app,", "name: next,", 1))
    (tmp_path / "more.yaml").write_text(POD.replace("name: app,", "name: more,", 1))

    code, report = flow(
        "steps: [{apply: all.yaml}, {delete: pod/app}, {apply: next.yaml}, {apply: more.yaml}]",
    )

    why = failure(report)
    assert (code, why["reason"]) == (1, "QuotaExceeded")
    assert "pods/more does not fit into the quota few: it wants pods=1, and pods=1 of pods=1 are used" in why["message"]
    assert why["seconds"] < 8
    assert [step["status"] for step in report["steps"]] == ["success", "success", "success", "failure"]


# -- what does not ----------------------------------------------------------------------------------------------------


def test_what_cannot_succeed_fails_at_once(flow: Flow, namespace: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """One sentence of ours, then the words of kubectl a single time; within seconds."""
    deployment = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: app, image: none}]}}
"""
    (tmp_path / "web.yaml").write_text(deployment)
    (tmp_path / "other.yaml").write_text(deployment.replace("app: web", "app: other"))
    (tmp_path / "field.yaml").write_text(deployment.replace("replicas", "replikas"))
    (tmp_path / "invalid.yaml").write_text(POD.replace("name: app,", "name: 'A_B',", 1))
    (tmp_path / "nowhere.yaml").write_text(MAP.replace("late", "late, namespace: nowhere-to-be-found"))

    code, report = flow("""
        steps:
          - apply: web.yaml
          - {apply: other.yaml, continue_on_error: true}
          - {apply: field.yaml, continue_on_error: true}
          - {apply: invalid.yaml, continue_on_error: true}
          - {apply: nowhere.yaml, continue_on_error: true}
        """)

    failures = [step["failure"] for step in report["steps"][1:]]
    assert code == 0
    assert [why["reason"] for why in failures] == ["ImmutableField", "UnknownField", "Invalid", "NamespaceNotFound"]
    assert failures[0]["message"] == "deployment/web exists, and its spec.selector cannot be changed"
    assert failures[1]["message"] == "the manifest has a field that does not exist: spec.replikas"
    assert failures[2]["message"].startswith("pod/A_B is not valid: metadata.name: Invalid value")
    assert "kubectl create namespace nowhere-to-be-found" in failures[3]["hint"]
    complaints = [why["output"].count("Error from server") + why["output"].count("is invalid") for why in failures]
    assert complaints == [1, 1, 1, 1]
    assert all(step["seconds"] < 5 for step in report["steps"])
    assert report["cleanup"]["deleted"] == 1


# -- whose it is ------------------------------------------------------------------------------------------------------


BAD = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 99999}]}\n"


@pytest.fixture
def faster(tmp_path: Path, kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """The environment of a run in which somebody makes the ConfigMap `late` just before kubectl applies."""
    (tmp_path / "map.yaml").write_text(f"{MAP}data: {{a: new}}\n")
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "bin").mkdir()
    real = subprocess.check_output(["bash", "-c", "command -v kubectl"], text=True).strip()
    other = tmp_path / "bin/kubectl"
    other.write_text(
        f"#!/bin/bash\n[[ $1 != apply ]] || KUBECONFIG={tmp_path}/theirs {real} create configmap late -n {namespace} "
        f'>/dev/null 2>&1\nexec {real} "$@"\n'
    )
    other.chmod(0o755)
    (tmp_path / "theirs").write_text(kubectl("config", "view", "--raw", "--flatten"))
    return {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


@pytest.mark.parametrize("files", ["map.yaml", "[map.yaml, bad.yaml]"])
@pytest.mark.parametrize("server_side", ["false", "true"])
def test_somebody_is_faster(
    server_side: str, files: str, flow: Flow, namespace: str, kubectl: Kubectl, faster: dict[str, str]
) -> None:
    """What another makes between our look and kubectl's, in the same second, is updated, does not keep our label, and
    is not deleted; also when kubectl then fails on something else.
    """
    code, report = flow(f"steps: [{{apply: {{file: {files}, server_side: {server_side}}}}}]", env=faster)

    live = json.loads(kubectl("get", "configmap", "late", "-n", namespace, "-o", "json"))
    assert code == ("bad" in files), (report["problems"], report["log"])
    assert (live["data"], live["metadata"].get("labels")) == ({"a": "new"}, None)
    assert "configmap/late: made by somebody else in the meantime" in report["log"]
    assert report["cleanup"] == {**report["cleanup"], "deleted": 0, "left": []}
    if not code:
        assert report["steps"][0]["outputs"]["objects"][0]["created"] is False


# -- where manifests come from ----------------------------------------------------------------------------------------


def test_every_source(flow: Flow, tmp_path: Path, kubectl: Kubectl, namespace: str, app_image: str) -> None:
    """A kustomization, objects in the workflow itself, a URL; other images without templates; ready in the end."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base/kustomization.yaml").write_text("resources: [pod.yaml]\nnamePrefix: my-\n")
    (tmp_path / "base/pod.yaml").write_text(POD.replace("image: pythonapp", "image: example.test/app:1"))
    (tmp_path / "served").mkdir()
    (tmp_path / "served/map.yaml").write_text(MAP)
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code, report = flow(f"""
            inputs: {{greeting: "it's me"}}
            steps:
              - apply: {{kustomize: base, images: {{example.test/app: "{app_image}:latest"}}, wait: true}}
              - run: test "$(kubectl get pod my-app -o jsonpath='{{.status.phase}}')" = Running
              - apply:
                  manifest:
                    apiVersion: v1
                    kind: ConfigMap
                    metadata: {{name: inline}}
                    data: {{greeting: "${{{{ inputs.greeting }}}}"}}
              - run: test "$(kubectl get configmap inline -o jsonpath='{{.data.greeting}}')" = "it's me"
              - apply:
                  manifest: |
                    apiVersion: v1
                    kind: ConfigMap
                    metadata: {{generateName: text-}}
                    ---
                    {{apiVersion: v1, kind: ConfigMap, metadata: {{name: second}}}}
                  server_side: true
              - apply: {{file: "http://127.0.0.1:{server.server_port}/map.yaml", allow_remote: true}}
              - apply: {{file: "http://127.0.0.1:{server.server_port}/missing.yaml", allow_remote: true}}
                continue_on_error: true
            """)
        server.shutdown()

    assert code == 0, (report["problems"], report["log"])
    names = [[item["name"] for item in step["outputs"].get("objects", ())] for step in report["steps"]]
    assert (names[0], names[2], names[4][1], names[5]) == (["my-app"], ["inline"], "second", ["late"])
    assert names[4][0].startswith("text-")
    assert "missing.yaml" in failure(report)["message"]
    assert report["cleanup"]["deleted"] == 5


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


def test_wait_fails_as_early_as_a_wait_step(flow: Flow, tmp_path: Path) -> None:
    """Of several objects the one that cannot become ready ends the step, with its reason."""
    (tmp_path / "all.yaml").write_text(f"{MAP}---\n{POD.replace('image: pythonapp', 'image: no-such-image')}")

    code, report = flow("steps: [{apply: {file: all.yaml, wait: true}}]")

    assert (code, failure(report)["reason"]) == (1, "ErrImageNeverPull")
    assert failure(report)["seconds"] < 20
    assert report["cleanup"]["deleted"] == 2


def test_permission_that_is_missing(flow: Flow, namespace: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """Who may not do what, and how to ask; at once."""
    (tmp_path / "roles.yaml").write_text("""\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [configmaps, namespaces], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: default}]
""")
    (tmp_path / "map.yaml").write_text(MAP)
    kubectl("apply", "-n", namespace, "-f", str(tmp_path / "roles.yaml"))
    config = json.loads(kubectl("config", "view", "--raw", "--flatten", "--minify", "-o", "json"))
    token = kubectl("create", "token", "default", "-n", namespace).strip()
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    (tmp_path / "reader").write_text(json.dumps(config))

    context = config["current-context"]
    code, report = flow(
        "steps: [{apply: map.yaml}]", "--context", context, env={"KUBECONFIG": str(tmp_path / "reader")}
    )

    why = failure(report)
    assert (code, why["reason"]) == (1, "Forbidden"), report
    assert why["message"] == f"system:serviceaccount:{namespace}:default may not create configmaps"
    assert f" auth can-i create configmaps --namespace={namespace}" in why["hint"]
    assert why["seconds"] < 5
    assert report["cleanup"]["deleted"] == 0


# -- images -----------------------------------------------------------------------------------------------------------


def test_changed_image_under_the_same_name(
    flow: Flow, tmp_path: Path, namespace: str, kubectl: Kubectl, app_image: str
) -> None:
    """It reaches the node; what still runs the older one is named, with what to type, also when the apply changed
    something else, and in a sidecar alone. An unchanged one is not sent.
    """
    image = f"{app_image}-{namespace}"
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM $BASE\nCOPY note /note\n")
    (tmp_path / "note").write_text("one")
    (tmp_path / "web.yaml").write_text(f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: app, image: {image}, imagePullPolicy: Never, command: [python3, -m, http.server]}}]
""")
    plain = (tmp_path / "web.yaml").read_text()
    (tmp_path / "scaled.yaml").write_text(plain.replace("spec:\n", "spec:\n  replicas: 2\n", 1))
    (tmp_path / "pod.yaml").write_text(f"""\
apiVersion: v1
kind: Pod
metadata: {{name: side}}
spec:
  terminationGracePeriodSeconds: 0
  initContainers: [{{name: log, image: {image}, imagePullPolicy: Never, restartPolicy: Always, command: {SLEEP}}}]
  containers: [{{name: app, image: {app_image}, imagePullPolicy: Never, command: {SLEEP}}}]
""")
    steps = f"""
        inputs: {{base: {{env: BASE_IMAGE, default: docker.io/library/python:3-alpine}}}}
        steps:
          - build: {{image: {image}, args: {{BASE: "${{{{ inputs.base }}}}"}}}}
          - apply: {{file: [web.yaml, pod.yaml], wait: true}}
          - run: printf two >note
          - build: {{image: {image}, args: {{BASE: "${{{{ inputs.base }}}}"}}}}
          - build: {{image: {image}, args: {{BASE: "${{{{ inputs.base }}}}"}}}}
          - apply: {{file: [web.yaml, pod.yaml]}}
          - apply: scaled.yaml
        """
    code, report = flow(steps)

    assert code == 0, (report["problems"], report["log"])
    notes = [line for line in report["log"].splitlines() if " note " in line]
    assert ["loaded by" in note for note in notes] == [True, True, False]
    warnings = [line for line in report["log"].splitlines() if " warning " in line]
    old = f"still runs the {image} of before: "
    for warning, what in zip(
        warnings, ("the Pod template of deployment/web", "pod/side", "the Pod template of deployment/web"), strict=True
    ):
        assert f"{old}{what} did not change" in warning
    assert warnings[0].count("pod/web-") == warnings[2].count("pod/web-") == 1
    assert "kubectl rollout restart deployment/web" in report["log"]


def test_hints_name_the_cluster_that_was_named(flow: Flow, kubectl: Kubectl, tmp_path: Path) -> None:
    """Whoever types them may have another current context by then."""
    (tmp_path / "map.yaml").write_text(MAP)
    context = kubectl("config", "current-context").strip()
    wait = "{wait: {target: configmap/late, that: object.data.x == 'y'}, timeout: 500ms}"
    code, report = flow(f"steps: [{{apply: map.yaml}}, {wait}]", "--context", context)

    assert code == 1
    assert failure(report)["hint"].startswith(f"kubectl --context={context} describe configmap/late --namespace=")
