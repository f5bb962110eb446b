"""What ends a wait early, reason by reason, on the real cluster."""

from __future__ import annotations

import secrets

import pytest

from runner.cluster.reasons import REASONS as ROWS
from tests.e2e.flows import NEVER_READY, Files, autoscaler, claim, definition, job, pod, python, report, workload

pytestmark = pytest.mark.e2e

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
        pod("endless"),
        pod("ends", NEVER_READY + python("print('done')"), restartPolicy="Never"),
        pod("fails", NEVER_READY + python("raise SystemExit(3)"), restartPolicy="Never"),
        workload("Deployment", "slow", NEVER_READY, progressDeadlineSeconds="2"),
        job("job", python("raise SystemExit(4)")),
        claim("claim", "''"),
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
    ("pod/endless, until: complete", "NeverCompletes", "", "restartPolicy is Always"),
    ("pod/fails", "PodFailed", "", "the Pod failed: exit code 3"),
    ("job/job", "BackoffLimitExceeded", "", "the Job failed as often as its backoffLimit allows"),
    ("deployment/slow", "ProgressDeadlineExceeded", "", "timed out progressing"),
    ("pod/config", "CreateContainerConfigError", "500ms", 'configmap "absent" not found'),
    ("pod/big", "Unschedulable", "500ms", "1 Insufficient cpu"),
    ("pod/mount", "FailedMount", "500ms", 'secret "absent" not found'),
    ("pvc/claim", "FailedBinding", "500ms", "no storage class is set"),
    ("service/typo", "NoPods", "500ms", "app=tpyo"),
)


UID = "00000000-0000-4000-8000-000000000000"
ANSWERS_3 = python("raise SystemExit(3)")
INDEXED = "backoffLimit: 9, completionMode: Indexed, completions: 2, backoffLimitPerIndex: 0"
BEYOND_PODS = "".join(
    (
        pod("profile", ", securityContext: {seccompProfile: {type: Localhost, localhostProfile: absent.json}}"),
        pod("root", ", securityContext: {runAsNonRoot: true}"),
        pod("half", NEVER_READY + ANSWERS_3, restartPolicy="Never").replace(  # nor in the moment in which both run
            "containers: [", "containers: [{name: other, image: pythonapp, imagePullPolicy: Never}, "
        ),
        pod("sandbox", runtimeClassName="NAME"),
        pod(
            "attach",
            ", volumeMounts: [{name: v, mountPath: /v}]",
            volumes="[{name: v, persistentVolumeClaim: {claimName: disk}}]",
        ),
        job("late", python("import time; time.sleep(99)")).replace("{backoff", "{activeDeadlineSeconds: 1, backoff"),
        job("policy", ANSWERS_3).replace("backoffLimit: 0", "backoffLimit: 5, podFailurePolicy: {rules: [RULE]}"),
        job("indexes", ANSWERS_3).replace("backoffLimit: 0", INDEXED),
        job("most", ANSWERS_3).replace("backoffLimit: 0", f"{INDEXED}, maxFailedIndexes: 0"),
        job("managed", ANSWERS_3).replace("{backoff", "{managedBy: example.com/queue, backoff"),
        claim("noclass", "no-such-class"),
        claim("ghost", "NAME"),
        claim("unused", "NAME-late"),
        claim("disk", "''", ", volumeName: NAME"),
        claim("restored", "''", ", volumeName: no-such-volume").replace(
            "{name: restored}", "{name: restored, annotations: {pv.kubernetes.io/bind-completed: 'yes'}}"
        ),
        workload("Deployment", "web"),
        workload("Deployment", "two"),
        # Of a kind that does not exist, so that nobody can ask how many there must be.
        pod("owned").replace("{name: owned, ", "{name: owned, ownerReferences: [OWNER], "),
        (
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: uncounted}\n"
            "spec: {maxUnavailable: 1, selector: {matchLabels: {app: owned}}}\n---\n"
        ),
        autoscaler("targetless", "absent"),
        autoscaler("blind", "web"),
        autoscaler("first", "two"),
        autoscaler("second", "two"),
    )
)
# What has no namespace, all with a name of the test's own.
WIDE = """\
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: NAME}
handler: NAME
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: NAME}
provisioner: NAME.example
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: NAME-late}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: NAME.example}
spec: {attachRequired: true}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: NAME}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  capacity: {storage: 1Mi}
  csi: {driver: NAME.example, volumeHandle: v}
---
"""
API_SERVICE = """\
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.NAME.example}
spec:
  {group: NAME.example, version: v1, groupPriorityMinimum: 9, versionPriority: 9,
   service: {namespace: default, name: NAME}}
"""
# What a CSI driver, a queue and a controller would write.
WRITTEN = """\
- run: |
    kubectl wait pod/attach --for=condition=PodScheduled --timeout=30s
    node=$(kubectl get pod/attach -o jsonpath='{.spec.nodeName}')
    name=csi-$(printf %s "vNAME.example$node" | sha256sum | cut -d' ' -f1)
    kubectl wait "volumeattachment/$name" --for=create --timeout=30s
    kubectl patch "volumeattachment/$name" --subresource=status --type=merge -p '{"status": {
      "attached": false, "attachError": {"time": "2024-01-01T00:00:00Z", "message": "volume v does not exist"}}}'
    kubectl patch job/managed --subresource=status --type=merge -p '{"status": {
      "startTime": "2024-01-01T00:00:00Z", "conditions": [
        {"type": "FailureTarget", "status": "True", "reason": "Evicted", "message": "the queue is full"}]}}'
    kubectl patch trinket.NAME.example/stuck --subresource=status --type=merge -p '{"status": {"conditions": [
      {"type": "Stalled", "status": "True", "message": "the licence has expired"}]}}'
"""
REASONS_BEYOND_PODS = (
    ("pod/profile", "CreateContainerError", "500ms", "absent.json: no such file or directory"),
    ("pod/root", "CreateContainerConfigError", "", "container has runAsNonRoot and image will run as root"),
    ("pod/half", "ContainerFailed", "", "the container failed, and restartPolicy is Never: exit code 3"),
    ("pod/sandbox", "FailedCreatePodSandBox", "500ms", 'no runtime for "NAME" is configured'),
    ("pod/attach", "FailedAttachVolume", "500ms", "volume v does not exist"),
    ("job/late", "DeadlineExceeded", "", "longer than its activeDeadlineSeconds"),
    ("job/policy", "PodFailurePolicy", "", "failed with exit code 3 matching FailJob rule at index 0"),
    ("job/indexes", "FailedIndexes", "", "as often as backoffLimitPerIndex allows"),
    ("job/most", "MaxFailedIndexesExceeded", "", "more indexes of the Job failed than its maxFailedIndexes allows"),
    ("job/managed", "JobFailed", "", "Evicted: the queue is full"),
    ("pvc/noclass", "ProvisioningFailed", "500ms", '"no-such-class" not found'),
    ("pvc/ghost", "ExternalProvisioning", "500ms", "no provisioner has taken the claim"),
    ("pvc/unused", "WaitForFirstConsumer", "500ms", "the claim is bound only when a Pod uses it"),
    ("pvc/restored", "Lost", "", "the claim lost its volume"),
    ("crd/gizmos.NAME.example", "NamesNotAccepted", "", "is already in use"),
    ("trinket.NAME.example/stuck", "Stalled", "", "the licence has expired"),
    ("pdb/uncounted", "SyncFailed", "500ms", 'cannot be counted: no matches for kind "Nothing"'),
    ("hpa/targetless", "FailedGetScale", "500ms", 'cannot be scaled: deployments.apps "absent" not found'),
    ("hpa/blind", "NoMetricsApi", "500ms", "the metrics that it scales by: pods.metrics.k8s.io"),
    (
        "hpa/second",
        "ScalingInactive",
        "500ms",
        "AmbiguousSelector: pods by selector app=two are controlled by multiple HPAs",
    ),
)


def hopeless(target: str, reason: str, time: str, _: str) -> str:
    """A step that waits in vain."""
    tolerate = f", tolerate: {{{reason}: {time}}}" if time else ""
    return f"- wait: {{target: {target}{tolerate}}}\n  timeout: 40s\n  continue_on_error: true\n"


def test_each_reason_ends_its_wait(files: Files) -> None:
    """With the reason, the cause and the line to type; and everything that a reader needs, as data too."""
    waits = "".join(hopeless(*row) for row in REASONS)
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


def test_each_reason_beyond_pods(files: Files) -> None:
    """Jobs, claims, definitions, autoscalers, and what a driver or a controller of somebody else's writes."""
    name = f"test-{secrets.token_hex(3)}"
    steps = "- apply: definition.yaml\n- {apply: same.yaml, continue_on_error: true}\n- apply: trouble.yaml\n" + WRITTEN
    steps += "".join(hopeless(*row) for row in REASONS_BEYOND_PODS)
    rule = "{action: FailJob, onExitCodes: {operator: In, values: [3]}}"
    group = f"{name}.example"
    trinket = f"apiVersion: {group}/v1\nkind: Trinket\nmetadata: {{name: stuck}}\n---\n"
    owner = f"{{apiVersion: {group}/v1, kind: Nothing, name: x, uid: {UID}, controller: true}}"
    trouble = (WIDE + BEYOND_PODS + trinket).replace("RULE", rule).replace("OWNER", owner).replace("NAME", name)
    crds = {"definition": definition("trinkets", group, "Trinket"), "same": definition("gizmos", group, "Trinket")}
    with files.run("beyond", steps.replace("NAME", name), trouble=trouble, **crds) as child:
        workflow, log = report(child)

    found = [step["failure"] or {} for step in workflow["steps"] if step["kind"] == "wait"]
    assert [failure.get("reason") for failure in found] == [reason for _, reason, _, _ in REASONS_BEYOND_PODS], log
    expected = [words.replace("NAME", name) for _, _, _, words in REASONS_BEYOND_PODS]
    assert [
        failure["message"] for failure, words in zip(found, expected, strict=True) if words not in failure["message"]
    ] == []
    assert [failure["hint"] for failure in found if "kubectl " not in failure["hint"]] == []


def test_api_service_without_its_service(files: Files) -> None:
    """Apart from the others: as long as it is there, no namespace of the cluster can go."""
    name = f"test-{secrets.token_hex(3)}"
    steps = f"- apply: api.yaml\n{hopeless(f'apiservice/v1.{name}.example', 'ServiceNotFound', '500ms', '')}"
    with files.run("api", steps, api=API_SERVICE.replace("NAME", name)) as child:
        workflow, log = report(child)

    failure = workflow["steps"][1]["failure"]
    assert failure["reason"] == "ServiceNotFound", log
    assert failure["message"] == (
        f"apiservice/v1.{name}.example: ServiceNotFound: the Service behind it does not exist: "
        f'service/{name} in "default" is not present'
    )


def test_every_row_of_the_table_is_met_here() -> None:
    """A reason that nobody has seen on a real cluster is a guess."""
    tables = {reason for _, reason, _, _ in (*REASONS, *REASONS_BEYOND_PODS)}

    assert tables | {"ErrImagePull", "ImagePullBackOff", "FailedCreate", "Deleted", "ServiceNotFound"} == set(ROWS)
