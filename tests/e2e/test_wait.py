"""Waiting on the real cluster: what is ready, kind by kind; what heals; with few permissions."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.flows import NEVER_READY, Files, autoscaler, await_log, definition, pod, python, report, workload

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]


def test_what_heals_and_what_goes_away(files: Files, namespace: str, kubectl: Kubectl) -> None:
    """A ConfigMap that comes late, a container that crashes once; a Pod that somebody deletes, one of several targets
    that is lost.
    """
    once = "import os, time\nif not os.path.exists('/s/x'): open('/s/x', 'w'); raise SystemExit(1)\ntime.sleep(600)"
    volume = ", volumeMounts: [{name: s, mountPath: /s}]"
    with ExitStack() as runs:

        def start(name: str, target: str, manifest: str, before: str = "") -> subprocess.Popen[str]:
            steps = f"- apply: pod.yaml\n{before}- wait: {target}\n  timeout: 60s\n"
            return runs.enter_context(files.run(name, steps, pod=manifest))

        late = start("late", "pod/late", pod("late", ", envFrom: [{configMapRef: {name: late}}]"))
        await_log(late, 'configmap "late" not found (tolerated for 20 s)')
        kubectl("create", "configmap", "late", "-n", namespace)
        # In its first life the Pod is Ready for a blink, too, and a wait that looks just then is content.
        second_life = "- wait: {target: pod/again, that: 'object.status.containerStatuses[0].restartCount == 1'}\n"
        crashing = pod("again", volume + python(once), volumes="[{name: s, emptyDir: {}}]")
        again = start("again", "pod/again", crashing, second_life)
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
    assert again_flow["steps"][2]["seconds"] > 3  # 5 s from its start, which the cluster tells in whole seconds
    failure = gone_flow["steps"][1]["failure"]
    assert (failure["reason"], failure["message"]) == (
        "Deleted",
        "pod/gone: Deleted: it was deleted meanwhile, and did not come back",
    )
    assert several_flow["steps"][1]["failure"]["message"].startswith("pod/lost: container app: ErrImageNeverPull")


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
    deployment/web, daemonset/each, statefulset/db, rs/set, hpa/idle, pod/db-0, serviceaccount/default]
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
    workloads += workload("StatefulSet", "db", serviceName="db") + workload("ReplicaSet", "set")
    workloads += workload("Deployment", "idle", replicas="0") + autoscaler("idle", "idle")
    steps = STEPS.replace("GROUP", group).replace("PATCH", PATCH)
    kinds = KINDS.replace("VOLUME", group.partition(".")[0]) + workloads
    with files.run("kinds", steps, crd=definition("gadgets", group, "Gadget"), gadget=widget, kinds=kinds) as child:
        workflow, log = report(child)

    assert workflow["status"] == "success", log
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
    found = next(step for step in workflow["steps"] if step["id"] == "all")["outputs"]["objects"]
    assert [item["kind"] for item in found][:3] == ["Service", "Service", "Ingress"]


SLOW = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")


def test_why_it_is_not_ready_yet(files: Files, namespace: str, kubectl: Kubectl) -> None:
    """Workloads speak of their Pods; an autoscaler that nobody has looked at, and a namespace that does not go."""
    going = f"{namespace}-going"
    steps = "- apply: slow.yaml\n- run: kubectl wait pod --all --for=jsonpath={.status.phase}=Running --timeout=60s\n"
    targets = [*(f"{kind.lower()}/{kind.lower()}" for kind in SLOW), "hpa/new", f"namespace/{going}"]
    steps += "- apply: new.yaml\n"
    steps += "".join(f"- {{wait: {target}, timeout: 2s, continue_on_error: true}}\n" for target in reversed(targets))
    more = {"StatefulSet": {"serviceName": "x"}}
    slow = "".join(workload(kind, kind.lower(), NEVER_READY, **more.get(kind, {})) for kind in SLOW)
    kubectl("create", "namespace", going)
    try:
        kubectl("create", "configmap", "held", "-n", going)
        kubectl("patch", "configmap/held", "-n", going, "-p", '{"metadata": {"finalizers": ["example.com/hold"]}}')
        kubectl("delete", "namespace", going, "--wait=false")
        kubectl("wait", f"namespace/{going}", "--for=condition=NamespaceFinalizersRemaining", "--timeout=60s")
        with files.run("slow", steps, slow=slow, new=autoscaler("new", "deployment")) as child:
            workflow, log = report(child)
    finally:
        kubectl("patch", "configmap/held", "-n", going, "-p", '{"metadata": {"finalizers": null}}')

    failures = [step["failure"] for step in workflow["steps"] if step["kind"] == "wait"]
    assert all(failures), log
    said = [failure["message"] for failure in reversed(failures)]
    for kind, message in zip(SLOW, said, strict=False):
        start = f"timed out after 2 s: {kind.lower()}/{kind.lower()}: 0 of 1 "
        assert message.startswith(start), log
        assert f": pod/{kind.lower()}-" in message
        assert "container app runs, but is not ready: Readiness probe failed: " in message
    autoscaler_, namespace_ = said[4:]
    assert autoscaler_ == "timed out after 2 s: horizontalpodautoscaler/new has no condition AbleToScale yet"
    assert namespace_.startswith(f"timed out after 2 s: namespace/{going} is being deleted: ")
    assert "finalizers remaining: example.com/hold in 1 resource instances" in namespace_
    assert "finalizers" in failures[0]["hint"]
    (shown,) = failures[0]["objects"]
    assert {each["type"] for each in shown["conditions"]} == {
        "NamespaceContentRemaining",
        "NamespaceFinalizersRemaining",
    }


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

    blind = ROLE.replace('apiGroups: [""], resources: [pods]', "apiGroups: [apps], resources: [deployments]")
    (tmp_path / "blind.yaml").write_text(f"{blind}---\n{workload('Deployment', 'web', NEVER_READY)}")
    kubectl("apply", "-n", namespace, "-f", str(tmp_path / "blind.yaml"))
    with files.run("blind", "- {wait: deployment/web, timeout: 3s, continue_on_error: true}\n") as child:
        workflow, log = report(child)

    assert [step["failure"]["reason"] for step in workflow["steps"]] == ["timeout"], log
    assert "deployment/web: its Pods cannot be seen, so the wait may take all of its time in vain: pods: pods" in log
    assert f" auth can-i --list --namespace={namespace}" in log


def test_definition_that_goes(files: Files, namespace: str, kubectl: Kubectl, tmp_path: Path) -> None:
    """Its objects go with it: who waits for their end has it, who waits for them to be ready has lost them."""
    group = f"{namespace}.example.test"
    try:
        (tmp_path / "definition.yaml").write_text(definition("gizmos", group, "Gizmo"))
        (tmp_path / "one.yaml").write_text(f"apiVersion: {group}/v1\nkind: Gizmo\nmetadata: {{name: one}}\n")
        kubectl("apply", "-f", str(tmp_path / "definition.yaml"))
        kubectl("wait", f"crd/gizmos.{group}", "--for=condition=Established")
        kubectl("apply", "-n", namespace, "-f", str(tmp_path / "one.yaml"))
        with ExitStack() as runs:
            steps = f"- wait: {{target: gizmos.{group}/one, until: UNTIL}}\n  timeout: 30s\n"
            gone, ready = (
                runs.enter_context(files.run(until, steps.replace("UNTIL", until))) for until in ("deleted", "ready")
            )
            await_log(gone, "gizmo/one still exists")
            await_log(ready, "has no status yet")
            kubectl("delete", "crd", f"gizmos.{group}")
            (gone_flow, _), (ready_flow, _) = map(report, (gone, ready))
    finally:
        kubectl("delete", "crd", f"gizmos.{group}", "--ignore-not-found")

    assert gone_flow["status"] == "success"
    assert ready_flow["steps"][0]["failure"]["reason"] == "Deleted"


def test_namespace_that_is_not_there(files: Files, namespace: str) -> None:
    """Whoever waits or forwards in it is told so at the end."""
    steps = f"""\
- wait: {{target: {{kind: pod, name: web, namespace: {namespace}-none}}}}
  timeout: 1s
  continue_on_error: true
- forward: {{target: {{kind: pod, name: web, namespace: {namespace}-none}}, ports: ":80"}}
  timeout: 1s
"""
    with files.run("none", steps) as run:
        flow, _ = report(run)

    failures = [step["failure"] for step in flow["steps"]]
    assert [failure["message"] for failure in failures] == [
        f"timed out after 1 s: pod/web does not exist yet, nor does the namespace {namespace}-none",
        f"pod/web does not exist, nor does the namespace {namespace}-none, also not within 1 s",
    ]
    assert all(failure["hint"].startswith(f"kubectl create namespace {namespace}-none; or") for failure in failures)
