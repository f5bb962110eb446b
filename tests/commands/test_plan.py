"""`plan`: what would run, as a table and as a script that does the same job by itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.commands.scripts import executed

if TYPE_CHECKING:
    from tests.conftest import FakeBin

Runner = Callable[..., subprocess.CompletedProcess[str]]
Kubectl = Callable[..., str]

ROOT = Path(__file__).parents[2]
FLOW = """\
name: flow
inputs:
  who: world
  token: {secret: true, env: TOKEN}
steps:
  - apply: pod.yaml
  - wait: pod/app
  - id: web
    forward: {target: pod/app, ports: ":http"}
  - verify: {url: "${{ steps.web.outputs.url }}/x y", contains: "it's"}
    if: inputs.who == 'world'
  - id: look
    run: kubectl get pod -o name
  - run: 'echo "$POD $WHO $T"'
    env: {POD: "${{ steps.look.outputs.stdout }}", WHO: "${{ inputs.who }}", T: "${{ inputs.token }}"}
    retry: {attempts: 3, interval: 2s}
  - delete: [pod/app, service/web]
finally:
  - run: [echo, "${{ steps.web.outcome }}"]
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app}
spec: {containers: [{name: app, image: app, ports: [{name: http, containerPort: 5000}]}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "flow.yaml").write_text(FLOW)
    (tmp_path / "pod.yaml").write_text(POD)
    return tmp_path


def test_table_shows_the_commands_of_every_step(runner: Runner, folder: Path) -> None:
    """Mutations with their exact argv, observations with what they stand for, conditions, and the cleanup."""
    answer = runner("plan", "--engine", "kubectl", "flow.yaml", cwd=folder)

    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == textwrap.dedent("""\
        flow (flow.yaml): engine kubectl, namespace the context's own
        steps:
          1  apply pod.yaml
               $ kubectl apply --request-timeout=35s --filename=pod.yaml
          2  wait pod/app
               ~ kubectl wait pod/app --for=condition=Ready --timeout=120s
          3  forward pod/app :http
               ~ kubectl port-forward --address=127.0.0.1 pod/app "$web_port:http"
          4  verify ${{ steps.web.outputs.url }}/x y
               ~ curl '${{ steps.web.outputs.url }}/x y'
          5  run kubectl get pod -o name
               $ bash -euo pipefail -c 'kubectl get pod -o name'
          6  run echo "$POD $WHO $T"
               $ bash -euo pipefail -c 'echo "$POD $WHO $T"'
          7  delete pod/app, service/web
               $ kubectl delete --request-timeout=35s pod/app --ignore-not-found --wait=false
               $ kubectl delete --request-timeout=35s service/web --ignore-not-found --wait=false
        finally:
          8  run echo ${{ steps.web.outcome }}
               $ echo '${{ steps.web.outcome }}'
        cleanup: what the run created is deleted at the end, newest first; what existed before is left alone
          $ is executed as it stands (apply from a copy that carries the run's label), ~ is watched through the API
        """)


def test_plan_for_podman_has_no_namespace(runner: Runner, tmp_path: Path) -> None:
    """As in a run: `run.namespace` is `default`, whatever the file asks for."""
    (tmp_path / "flow.yaml").write_text("namespace: {generate: a-}\nsteps: [{run: [echo, '${{ run.namespace }}']}]\n")
    answer = runner("plan", "--engine", "podman", "-n", "other", "flow.yaml", cwd=tmp_path)

    assert answer.stdout.startswith("flow (flow.yaml): engine podman, namespace default\n")
    assert "$ echo default\n" in answer.stdout


def test_plan_starts_nothing(runner: Runner, folder: Path, fake_bin: FakeBin) -> None:
    """No kubectl is called, and nothing is written."""
    for name in ("kubectl", "podman", "docker"):
        fake_bin.put(name, "exit 1")
    before = sorted(folder.iterdir())

    for arguments in ((), ("--format", "sh")):
        assert runner("plan", *arguments, "--engine", "kubectl", "flow.yaml", cwd=folder).returncode == 0
    mutations = [call for call in fake_bin.calls if call[0] == "kubectl"]

    assert mutations == []
    assert sorted(path for path in folder.iterdir() if path.name != ".calls") == before


def test_script_is_clean_and_passes_values_as_variables(runner: Runner, folder: Path) -> None:
    """ShellCheck has nothing to say; what only a run knows is a shell variable, a secret input one that must be set."""
    answer = runner("plan", "--format", "sh", "--engine", "kubectl", "flow.yaml", cwd=folder, env={"TOKEN": "geheim"})
    (folder / "plan.sh").write_text(answer.stdout)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, "plan.sh"], cwd=folder, capture_output=True, text=True, check=False)

    assert checked.stdout == ""
    assert "geheim" not in answer.stdout
    assert "[[ $TOKEN ]] || cannot 'TOKEN is not set: export the value of inputs.token'" in answer.stdout
    lines = answer.stdout.splitlines()
    assert "web_port=$(free_port)" in lines
    assert any(line.startswith("verify 30 0 '2??' it") and '"$web_url"' in line for line in lines)
    assert "look_stdout=$( bash -euo pipefail -c 'kubectl get pod -o name' | tee /dev/stderr)" in lines
    assert any(line.startswith('retry 3 2 env POD="$look_stdout" WHO=world T="$TOKEN" bash -euo') for line in lines)


def test_namespace_and_context_stand_in_the_commands(runner: Runner, folder: Path) -> None:
    """Given on the command line they are pinned for the whole script."""
    answer = runner(
        "plan", "--format", "sh", "--engine", "kubectl", "-n", "demo", "--context", "kind", "flow.yaml", cwd=folder
    )

    assert "config view --minify --flatten --raw --context=kind" in answer.stdout
    assert "set-context --current --namespace=demo" in answer.stdout


def test_step_that_is_known_to_be_skipped(runner: Runner, folder: Path) -> None:
    """A condition over inputs is decided in the plan."""
    answer = runner("plan", "--engine", "kubectl", "--set", "who=nobody", "flow.yaml", cwd=folder)

    assert "[skipped: inputs.who == 'world' is false]" in answer.stdout


SOURCES = """\
inputs: {greeting: {secret: true, env: GREETING}}
steps:
  - apply: all.yaml
  - apply: {kustomize: base, images: {app: "localhost:5000/app:2"}, server_side: true}
  - apply: {file: base/map.yaml, wait: true}
  - apply:
      manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: "${{ inputs.greeting }}"}}
  - delete: all.yaml
"""
DEFINITION = """\
apiVersion: {group}/v1
kind: Widget
metadata: {{name: one}}
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
"""


def write_sources(folder: Path, group: str) -> None:
    """A workflow with manifests of every source: a kind and an object of it, a kustomization, an inline map."""
    (folder / "flow.yaml").write_text(SOURCES)
    (folder / "all.yaml").write_text(DEFINITION.format(group=group))
    (folder / "base").mkdir()
    (folder / "base/kustomization.yaml").write_text("resources: [pod.yaml]\nnamePrefix: k-\n")
    (folder / "base/pod.yaml").write_text(POD)
    (folder / "base/map.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n")


def test_script_of_every_source_of_manifests(runner: Runner, tmp_path: Path) -> None:
    """Phase by phase, as a run does; what is in no file is in a variable; ShellCheck has nothing to say."""
    write_sources(tmp_path, "plan.test")
    env = {"GREETING": "hello"}
    table = runner("plan", "--engine", "kubectl", "flow.yaml", cwd=tmp_path, env=env).stdout
    answer = runner("plan", "--format", "sh", "--engine", "kubectl", "flow.yaml", cwd=tmp_path, env=env)
    (tmp_path / "plan.sh").write_text(answer.stdout)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, "plan.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert checked.stdout == ""
    lines = answer.stdout.splitlines()
    established = "kubectl wait --for=condition=Established customresourcedefinition/widgets.plan.test --timeout=60s"
    assert f"{established}  # observe" in lines
    images = '[{"name": "app", "newName": "localhost:5000/app", "newTag": "2"}]'
    assert f"steps_1_manifest=$(with_images base '{images}')" in lines
    assert 'kubectl apply --request-timeout=35s --server-side --filename=- <<<"$steps_1_manifest"' in lines
    assert "kubectl apply --request-timeout=35s --filename=base/map.yaml" in lines
    assert any('"a": "\'"$GREETING"\'"' in line for line in lines)
    assert table.count("$ kubectl apply --request-timeout=35s --filename=-  <<< 1 object") == 3
    assert "$ kubectl kustomize base" in table


WAITS = """\
name: waits
steps:
  - wait: deployment/web
    timeout: 30s
  - wait: {target: {kind: pod, selector: app=web}}
    timeout: 30s
  - wait: {target: {kind: daemonset, selector: app=each}}
    timeout: 30s
    continue_on_error: true
  - wait: rs/old
  - wait: {target: configmap/late, until: exists}
  - wait: {target: {kind: secret, selector: app=web}, until: exists}
  - wait: {target: pod/old, until: deleted}
"""
REPLICAS = "$(kubectl get rs/old '--output=jsonpath={.spec.replicas}')"
SAME = [
    "kubectl rollout status deployment/web --timeout=30s",
    "kubectl wait pod --selector=app=web --for=condition=Ready --timeout=30s",
    "kubectl get daemonset --selector=app=each --output=name | xargs -n1 kubectl rollout status --timeout=30s",
    f'kubectl wait rs/old "--for=jsonpath={{.status.availableReplicas}}={REPLICAS}" --timeout=120s',
    "kubectl wait pod/old --for=delete --timeout=120s",
]


def test_script_waits_on_every_kubectl(runner: Runner, tmp_path: Path) -> None:
    """First until there is something to wait for, which no kubectl before 1.33 can do for all; then by the lines of the
    table.
    """
    (tmp_path / "flow.yaml").write_text(WAITS)
    table = runner("plan", "--engine", "kubectl", "flow.yaml", cwd=tmp_path).stdout
    script = runner("plan", "--format", "sh", "--engine", "kubectl", "flow.yaml", cwd=tmp_path).stdout
    (tmp_path / "plan.sh").write_text(script)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([shellcheck, "plan.sh"], cwd=tmp_path, capture_output=True, text=True, check=False)
    observed = [line.removesuffix("  # observe") for line in script.splitlines() if line.endswith("  # observe")]

    assert checked.stdout == ""
    shown = [line.strip().removeprefix("~ ") for line in table.splitlines() if line.strip().startswith("~ ")]
    assert [line for line in shown if "--for=create" not in line] == SAME
    assert observed == [
        "appear 30 deployment/web",
        SAME[0],
        "appear 30 pod --selector=app=web",
        SAME[1],
        "appear 30 daemonset --selector=app=each || true",
        f"{SAME[2]} || true",
        "appear 120 rs/old",
        SAME[3],
        "appear 120 configmap/late",
        "appear 120 secret --selector=app=web",
        SAME[4],
    ]
    assert "--for=create" not in script


WORKLOAD = """\
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}, annotations: {{version: "{version}"}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: pythonapp
        imagePullPolicy: Never
        readinessProbe: {{httpGet: {{path: /, port: 5000}}, periodSeconds: 1}}
---
"""
SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: late}\nspec: {selector: {app: late}, ports: [{port: 5000}]}\n"
)
ROLLING = """\
name: rolling
steps:
  - apply: second.yaml
  - wait: deployment/web
  - run: test "$(kubectl get deployment/web -o jsonpath='{.status.updatedReplicas}{.status.replicas}')" = 22
  - wait: [rs/late, service/late]
"""


@pytest.mark.e2e
def test_script_waits_for_the_end_of_a_rollout(
    runner: Runner, cluster_env: dict[str, str], namespace: str, kubectl: Kubectl, tmp_path: Path, app_image: str
) -> None:
    """On a real cluster: a Deployment that is available all the time, then objects that come only after that."""
    for file, name, kind, version in (
        ("first", "web", "Deployment", "1"),
        ("second", "web", "Deployment", "2"),
        ("late", "late", "ReplicaSet", "1"),
    ):
        (tmp_path / f"{file}.yaml").write_text(WORKLOAD.format(kind=kind, name=name, version=version))
    (tmp_path / "service.yaml").write_text(SERVICE)
    (tmp_path / "flow.yaml").write_text(ROLLING)
    kubectl("apply", "-n", namespace, "-f", str(tmp_path / "first.yaml"))
    kubectl("wait", "-n", namespace, "deployment/web", "--for=condition=Available", "--timeout=60s")
    plan = runner("plan", "--format", "sh", "-n", namespace, "flow.yaml", cwd=tmp_path, env=cluster_env)
    (tmp_path / "plan.sh").write_text(plan.stdout)

    said = ""
    with subprocess.Popen(
        ["timeout", "120", "bash", "plan.sh"],
        cwd=tmp_path,
        env={**os.environ, **cluster_env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as script:
        assert script.stdout
        for line in script.stdout:
            said += line
            if "successfully rolled out" in line:
                for file in ("late", "service"):
                    kubectl("apply", "-n", namespace, "-f", str(tmp_path / f"{file}.yaml"))

    assert script.returncode == 0, said
    assert said.count("condition met") == 2, said
    ready = kubectl("get", "rs/late", "-n", namespace, "-o", "jsonpath={.status.availableReplicas}")
    assert ready == "2"


@pytest.mark.e2e
def test_script_of_every_source_works(
    runner: Runner, cluster_env: dict[str, str], namespace: str, kubectl: Kubectl, tmp_path: Path
) -> None:
    """On a real cluster it passes by itself, and leaves nothing."""
    write_sources(tmp_path, f"{namespace}.test")
    env = {**cluster_env, "GREETING": "hello"}
    plan = runner("plan", "--format", "sh", "-n", namespace, "flow.yaml", cwd=tmp_path, env=env)
    (tmp_path / "plan.sh").write_text(plan.stdout)

    script = executed(tmp_path, env)

    assert script.returncode == 0, script.stdout + script.stderr
    assert "created (server side)" in script.stdout or "serverside-applied" in script.stdout
    left = kubectl("get", "pods,configmaps", "-n", namespace, "-o", "name")
    assert left == "configmap/kube-root-ca.crt\n"
    assert kubectl("get", "customresourcedefinition", f"widgets.{namespace}.test", "--ignore-not-found") == ""


@pytest.mark.podman
def test_script_on_podman_works(runner: Runner, tmp_path: Path, podman_env: dict[str, str]) -> None:
    """What it plays from standard input is there, and goes at the end in the same way."""
    pods = {name: {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}} for name in ("script-a", "script-b")}
    image = {"name": "app", "image": "localhost/runner-test-app:1", "imagePullPolicy": "Never"}
    for item in pods.values():
        item["spec"] = {"containers": [image]}
    (tmp_path / "over").mkdir()
    (tmp_path / "over/kustomization.yaml").write_text("resources: [pod.json]\n")
    (tmp_path / "over/pod.json").write_text(json.dumps(pods["script-a"]))
    steps = [{"apply": {"kustomize": "over"}}, {"apply": {"manifest": pods["script-b"]}}]
    steps.append({"run": "podman pod exists script-a && podman pod exists script-b && echo both", "show": True})
    (tmp_path / "flow.yaml").write_text(json.dumps({"steps": steps}))
    options = ["--quiet", "--label=of=tests", "--tag=localhost/runner-test-app:1"]
    build = ["podman", "build", *options, str(ROOT / "workflows/pythonapp")]
    base = f"--build-arg=BASE={os.environ.get('BASE_IMAGE', 'docker.io/library/python:3-alpine')}"
    env = {**os.environ, **podman_env}
    subprocess.run([*build, base], env=env, check=True, stdout=subprocess.DEVNULL)
    script = runner("plan", "--engine", "podman", "--format", "sh", "flow.yaml", cwd=tmp_path)

    done = subprocess.run(
        ["bash", "-c", script.stdout], cwd=tmp_path, env=env, check=False, capture_output=True, text=True
    )
    assert (script.returncode, done.returncode) == (0, 0), script.stderr + done.stderr
    assert "both" in done.stdout.splitlines()
    for name in pods:
        assert subprocess.run(["podman", "pod", "exists", name], env=env, check=False).returncode == 1


@pytest.mark.e2e
@pytest.mark.example
@pytest.mark.parametrize("name", ["pod", "deployment", "smoke"])
def test_script_does_the_same_job(
    name: str,
    runner: Runner,
    cluster_env: dict[str, str],
    namespace: str,
    kubectl: Kubectl,
    example: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """On a real cluster the planned script passes by itself, and leaves nothing."""
    place = () if name == "smoke" else ("-n", namespace)
    plan = runner("plan", "--format", "sh", *place, example(name), cwd=tmp_path, env=cluster_env)
    (tmp_path / "plan.sh").write_text(plan.stdout)

    script = executed(tmp_path, cluster_env)

    assert script.returncode == 0, script.stdout + script.stderr
    assert kubectl("get", "all", "-n", namespace, "-o", "name") == ""
    for made in re.findall(r"^namespace/(\S+) created", script.stdout, re.MULTILINE):
        assert kubectl("get", "namespace", made, "--ignore-not-found") == ""
