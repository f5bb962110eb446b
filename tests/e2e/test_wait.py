"""Waiting on the real cluster: what is ready, kind by kind; what ends a wait early, reason by reason; what heals."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]
ROOT = Path(__file__).parents[2]


def pod(name: str, container: str = "", **spec: str) -> str:
    """A manifest; `container` are more keys of its container, `spec` more of the Pod, all in flow style."""
    spec = {"terminationGracePeriodSeconds": "1", **spec}
    more = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    app = f"{{name: app, imagePullPolicy: Never{container}}}"
    app = app.replace("{name: app", "{name: app, image: pythonapp") if "image:" not in container else app
    meta = f"metadata: {{name: {name}, labels: {{app: {name}}}}}"
    return f"apiVersion: v1\nkind: Pod\n{meta}\nspec:\n  containers: [{app}]\n{more}---\n"


def python(code: str) -> str:
    return f", command: [python3, -c, {json.dumps(code)}]"


def workload(kind: str, name: str, container: str = "", **spec: str) -> str:
    """A Deployment, StatefulSet or DaemonSet of one Pod."""
    more = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    app = f"{{name: app, image: pythonapp, imagePullPolicy: Never{container}}}"
    template = f"{{metadata: {{labels: {{app: {name}}}}}, spec: {{containers: [{app}]}}}}"
    selector = f"selector: {{matchLabels: {{app: {name}}}}}"
    head = f"apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}}}"
    return f"{head}\nspec:\n  {selector}\n  template: {template}\n{more}---\n"


def job(name: str, container: str) -> str:
    """A Job that may not fail once."""
    app = f"{{name: app, image: pythonapp, imagePullPolicy: Never{container}}}"
    spec = f"{{backoffLimit: 0, template: {{spec: {{restartPolicy: Never, containers: [{app}]}}}}}}"
    return f"apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


NEVER_READY = ", readinessProbe: {httpGet: {path: /, port: 1}, periodSeconds: 1}"
CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], storageClassName: '', resources: {requests: {storage: 1Mi}}}
---
"""
IN_TROUBLE = "".join(
    (
        pod("never", ", image: no-such-image"),
        pod("badname", ', image: "UPPER CASE"'),
        pod("pull", ', image: "127.0.0.1:1/none:1"').replace("Never,", "Always,"),
        pod("config", ", envFrom: [{configMapRef: {name: absent}}]"),
        pod("crash", NEVER_READY + python("print('hello', flush=True); raise SystemExit('no database')")),
        pod("oom", NEVER_READY + ", resources: {limits: {memory: 24Mi}}" + python("bytearray(10**9)")),
        pod("noexec", ", command: [/no/such/program]"),
        pod("big", ', resources: {requests: {cpu: "1000"}}'),
        pod(
            "init",
            initContainers="[{name: setup, image: pythonapp, imagePullPolicy: Never"
            + python("raise SystemExit('cannot migrate')")
            + "}]",
        ),
        pod("mount", ", volumeMounts: [{name: v, mountPath: /v}]", volumes="[{name: v, secret: {secretName: absent}}]"),
        pod("ends", python("print('done')"), restartPolicy="Never"),
        pod("fails", python("raise SystemExit(3)"), restartPolicy="Never"),
        workload("Deployment", "slow", NEVER_READY, progressDeadlineSeconds="2"),
        job("job", python("raise SystemExit(4)")),
        CLAIM,
        "apiVersion: v1\nkind: Service\nmetadata: {name: typo}\nspec: {selector: {app: tpyo}, ports: [{port: 80}]}\n",
    )
)
QUOTA = "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: '1'}}\n"
# What is waited for, how long the trouble is tolerated ("" for the table's own time), and what the message must say.
REASONS = (
    ("pod/never", "ErrImageNeverPull", "", "image no-such-image"),
    ("pod/badname", "InvalidImageName", "", "image UPPER CASE"),
    ("pod/crash", "CrashLoopBackOff", "", "exit code 1, started again"),
    ("pod/oom", "OOMKilled", "", "exit code 137"),
    ("pod/noexec", "RunContainerError", "", "stat /no/such/program: no such file or directory"),
    ("pod/init", "CrashLoopBackOff", "", "container setup: CrashLoopBackOff"),
    ("pod/ends", "PodSucceeded", "", "the Pod ended, so it will not become ready"),
    ("pod/fails", "PodFailed", "", "the Pod failed: exit code 3"),
    ("job/job", "BackoffLimitExceeded", "", "the Job failed as often as its backoffLimit allows"),
    ("deployment/slow", "ProgressDeadlineExceeded", "", "timed out progressing"),
    ("pod/config", "CreateContainerConfigError", "500ms", 'configmap "absent" not found'),
    ("pod/big", "Unschedulable", "500ms", "1 Insufficient cpu"),
    ("pod/mount", "FailedMount", "500ms", 'secret "absent" not found'),
    ("pvc/claim", "FailedBinding", "500ms", "no storage class is set"),
    ("service/typo", "NoPods", "500ms", "app=tpyo"),
)


@dataclass
class Files:
    """A folder with a workflow, and how to run it in the namespace of the test."""

    folder: Path
    namespace: str
    env: dict[str, str]
    more: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-m", "runner", "run", "flow.yaml", "-n", self.namespace, "-o", "json", *self.more]

    def start(self, name: str, steps: str, **manifests: str) -> subprocess.Popen[str]:
        """Start a run; its log is stderr."""
        folder = self.folder / name
        folder.mkdir()
        for manifest, text in manifests.items():
            (folder / f"{manifest}.yaml").write_text(text)
        (folder / "flow.yaml").write_text(f"name: {name}\nsteps:\n{steps}")
        env = {**os.environ, **self.env, "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        return subprocess.Popen(self.argv, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)

    @contextmanager
    def run(self, name: str, steps: str, **manifests: str) -> Iterator[subprocess.Popen[str]]:
        """A run that is ended, whatever happens to the test."""
        with self.start(name, steps, **manifests) as child:
            try:
                yield child
            finally:
                child.terminate()


@pytest.fixture
def files(tmp_path: Path, namespace: str, cluster_env: dict[str, str], app_image: str) -> Files:
    return Files(tmp_path, namespace, dict(cluster_env))


def report(child: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """What a run came to, and the rest of its log."""
    out, log = child.communicate(timeout=120)
    (workflow,) = json.loads(out)["workflows"]
    return workflow, log


def await_log(child: subprocess.Popen[str], words: str) -> None:
    """Read the log until it says this."""
    assert child.stderr
    said = ""
    for line in child.stderr:
        said += line
        if words in line:
            return
    raise AssertionError(f"never said {words!r}:\n{said}")


def test_each_reason_ends_its_wait(files: Files) -> None:
    """With the reason, the cause and the line to type; and everything that a reader needs, as data too."""
    waits = "".join(
        f"- wait: {{target: {target}{f', tolerate: {{{reason}: {time}}}' if time else ''}}}\n"
        "  timeout: 40s\n  continue_on_error: true\n"
        for target, reason, time, _ in REASONS
    )
    # Which of the two it is depends on the moment.
    pull = "- wait: {target: pod/pull, tolerate: {ErrImagePull: 500ms, ImagePullBackOff: 500ms}}\n"
    waits += f"{pull}  continue_on_error: true\n"
    steps = f"- apply: trouble.yaml\n{waits}- apply: quota.yaml\n"
    for kind in ("Deployment", "DaemonSet"):
        steps += f"- apply: {kind}.yaml\n- wait: {{target: {kind}/full, tolerate: {{FailedCreate: 500ms}}}}\n"
        steps += "  timeout: 30s\n  continue_on_error: true\n"
    full = {kind: workload(kind, "full") for kind in ("Deployment", "DaemonSet")}
    with files.run("trouble", steps, trouble=IN_TROUBLE, quota=QUOTA, **full) as child:
        workflow, log = report(child)

    found = [step["failure"] for step in workflow["steps"] if step["kind"] == "wait"]
    pulled = found.pop(len(REASONS))
    assert (pulled["reason"] in ("ErrImagePull", "ImagePullBackOff"), "connection refused" in pulled["message"]) == (
        True,
        True,
    )
    expected = [(reason, words) for _, reason, _, words in REASONS] + [("FailedCreate", "exceeded quota: none")] * 2
    assert [failure["reason"] for failure in found] == [reason for reason, _ in expected], log
    assert [
        failure["message"]
        for failure, (_, words) in zip(found, expected, strict=True)
        if words not in failure["message"]
    ] == []
    assert [failure["hint"] for failure in found if "kubectl " not in failure["hint"]] == []

    crash = next(failure for failure in found if failure["message"].startswith("pod/crash"))
    (shown,) = crash["objects"]
    (container,) = shown["containers"]
    assert (shown["object"], container["exit_code"]) == ("pod/crash", 1)
    assert sorted(container["log"]) == ["hello", "no database"]  # two streams: their order is nobody's promise
    assert "no database" in crash["details"]
    init = next(failure for failure in found if failure["message"].startswith("pod/init"))
    assert [each["log"] for each in init["objects"][0]["containers"]] == [["cannot migrate"], []]
    mount = next(failure for failure in found if failure["reason"] == "FailedMount")
    assert [event["reason"] for event in mount["objects"][0]["events"]] == ["FailedMount"]


def test_what_heals_and_what_goes_away(files: Files, namespace: str, kubectl: Kubectl) -> None:
    """A ConfigMap that comes late, a container that crashes once; a Pod that somebody deletes, one of several targets
    that is lost.
    """
    once = "import os, time\nif not os.path.exists('/s/x'): open('/s/x', 'w'); raise SystemExit(1)\ntime.sleep(600)"
    volume = ", volumeMounts: [{name: s, mountPath: /s}]"
    with ExitStack() as runs:

        def start(name: str, target: str, manifest: str) -> subprocess.Popen[str]:
            steps = f"- apply: pod.yaml\n- wait: {target}\n  timeout: 60s\n"
            return runs.enter_context(files.run(name, steps, pod=manifest))

        late = start("late", "pod/late", pod("late", ", envFrom: [{configMapRef: {name: late}}]"))
        await_log(late, 'configmap "late" not found (tolerated for 20 s)')
        kubectl("create", "configmap", "late", "-n", namespace)
        again = start("again", "pod/again", pod("again", volume + python(once), volumes="[{name: s, emptyDir: {}}]"))
        gone = start("gone", "pod/gone", pod("gone", NEVER_READY))
        several = start(
            "several", "[pod/slow, pod/lost]", pod("slow", NEVER_READY) + pod("lost", ", image: no-such-image")
        )
        await_log(gone, "Readiness probe failed")
        kubectl("delete", "pod", "gone", "-n", namespace, "--wait=false")
        (late_flow, _), (again_flow, again_log), (gone_flow, _), (several_flow, _) = map(
            report, (late, again, gone, several)
        )

    assert [flow["status"] for flow in (late_flow, again_flow)] == ["success", "success"]
    assert "must stay up for 5 s" in again_log
    assert again_flow["steps"][1]["seconds"] > 3  # 5 s from its start, which the cluster tells in whole seconds
    failure = gone_flow["steps"][1]["failure"]
    assert (failure["reason"], failure["message"]) == (
        "Deleted",
        "pod/gone: Deleted: it was deleted meanwhile, and did not come back",
    )
    assert several_flow["steps"][1]["failure"]["message"].startswith("pod/lost: container app: ErrImageNeverPull")


def custom(group: str) -> str:
    """A definition whose objects have a status."""
    return f"""\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: gadgets.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{kind: Gadget, plural: gadgets, singular: gadget}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {{status: {{}}}}
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
"""


KINDS = """\
apiVersion: v1
kind: PersistentVolume
metadata: {name: VOLUME}
spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Mi}, hostPath: {path: /tmp}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], storageClassName: '', volumeName: VOLUME, resources: {requests: {storage: 1Mi}}}
---
"""
PATCH = "[kubectl, patch, --subresource=status, --type=merge"
STEPS = """\
- apply: crd.yaml
- wait: crd/gadgets.GROUP
- apply: gadget.yaml
- {id: unseen, wait: gadget/one, timeout: 2s, continue_on_error: true}
- run: PATCH, gadget, one, -p,
    '{"status": {"observedGeneration": 0, "conditions": [{"type": "Ready", "status": "True"}]}}']
- {id: unsettled, wait: gadget/one, timeout: 2s, continue_on_error: true}
- run: PATCH, gadget, one, -p, '{"status": {"observedGeneration": 1, "phase": 3}}']
- wait: gadget/one
- wait: {target: gadget/one, until: condition=Ready}
- wait: {target: gadget/one, that: "object.status.phase + 'x' == '3x'"}
  id: mistyped
  timeout: 2s
  continue_on_error: true
- {id: missing, wait: {target: gadget/one, that: object.status.nothing == 1}, timeout: 2s, continue_on_error: true}
- {id: typo, wait: gadget/oen, timeout: 2s, continue_on_error: true}
- apply: kinds.yaml
- {id: ingress, wait: ingress/web, timeout: 2s, continue_on_error: true}
- run: PATCH, ingress, web, -p, '{"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}']
- id: all
  wait: [service/web, service/outside, ingress/web, pdb/web, pvc/claim, namespace/default, apiservice/v1.apps,
    deployment/web, daemonset/each, statefulset/db, pod/db-0, serviceaccount/default]
- wait: {target: {kind: pod, selector: "app in (web, db)"}, count: 2}
- delete: {target: pod/db-0, wait: false}
- wait: {target: pod/db-0, until: deleted}
- wait: pod/db-0
"""


def test_ready_kind_by_kind(files: Files) -> None:
    """Custom resources by generation, status and conditions; Services by endpoints; all kinds in one step."""
    group = f"test-{secrets.token_hex(3)}.example"
    widget = f"apiVersion: {group}/v1\nkind: Gadget\nmetadata: {{name: one}}\n"
    workloads = workload("Deployment", "web") + workload("DaemonSet", "each")
    workloads += workload("StatefulSet", "db", serviceName="db")
    steps = STEPS.replace("GROUP", group).replace("PATCH", PATCH)
    kinds = KINDS.replace("VOLUME", group.partition(".")[0]) + workloads
    with files.run("kinds", steps, crd=custom(group), gadget=widget, kinds=kinds) as child:
        workflow, log = report(child)

    failures = {step["id"]: step["failure"]["message"] for step in workflow["steps"] if step["failure"]}
    assert failures == {
        "unseen": "timed out after 2 s: gadget/one has no status yet: its controller has not seen it",
        "unsettled": "timed out after 2 s: gadget/one: its controller has not seen the last change yet",
        "mistyped": failures["mistyped"],
        "missing": failures["missing"],
        "typo": "timed out after 2 s: gadget/oen does not exist yet",
        "ingress": "timed out after 2 s: ingress/web has no address: no ingress controller has taken it yet",
    }, log
    assert failures["mistyped"].startswith(
        "timed out after 2 s: gadget/one: not yet object.status.phase + 'x' == '3x': "
    )
    assert "nothing" in failures["missing"].rpartition(": ")[2]
    typo = next(step for step in workflow["steps"] if step["id"] == "typo")
    assert typo["failure"]["hint"] == "did you mean gadget/one?"
    assert workflow["status"] == "success"
    found = next(step for step in workflow["steps"] if step["id"] == "all")["outputs"]["objects"]
    assert [item["kind"] for item in found][:3] == ["Service", "Service", "Ingress"]


ROLE = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: ci}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}]
"""
FEW = ("pod/ready", "pod/never", "deployment/web")


def test_with_few_permissions(files: Files, namespace: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """An account that may see Pods, but neither events nor logs, waits for Pods; of what it may not see it is told."""
    (tmp_path / "made.yaml").write_text(f"{ROLE}---\n{pod('ready')}{pod('never', ', image: no-such-image')}")
    kubectl("apply", "-n", namespace, "-f", str(tmp_path / "made.yaml"))
    kubectl("create", "serviceaccount", "ci", "-n", namespace)
    kubectl("create", "rolebinding", "ci", "--role=ci", f"--serviceaccount={namespace}:ci", "-n", namespace)
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": kubectl("create", "token", "ci", "-n", namespace).strip()}
    (tmp_path / "ci.json").write_text(json.dumps(config))
    files.env["KUBECONFIG"] = str(tmp_path / "ci.json")
    files.more = ("--context", config["current-context"])
    waits = "".join(f"- {{wait: {target}, timeout: 20s, continue_on_error: true}}\n" for target in FEW)
    with files.run("few", waits) as child:
        workflow, log = report(child)

    failures = [step["failure"] and step["failure"]["reason"] for step in workflow["steps"]]
    assert failures == [None, "ErrImageNeverPull", "Forbidden"], log
