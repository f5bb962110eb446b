"""How soon a wait that cannot succeed says so, reason by reason, beside `kubectl wait` on the same object.

The cause is the moment at which the API server first shows it (a status, an event, a deletion), seen by a watch of the
benchmark's own; the report is the moment at which the step failed. `runner/measured.json` keeps the figures for the
reference.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from runner.cluster.kubectl import ready_condition
from runner.cluster.reasons import REASONS
from tests.bench import waiting

FILE = Path(__file__).parents[2] / "runner" / "measured.json"
KUBECTL_SECONDS = 120
_NAMESPACE = waiting.NAMESPACE
_WATCHED = (
    *(f"api/v1/namespaces/{_NAMESPACE}/{kind}" for kind in ("pods", "events", "services", "persistentvolumeclaims")),
    f"apis/apps/v1/namespaces/{_NAMESPACE}/deployments",
    f"apis/batch/v1/namespaces/{_NAMESPACE}/jobs",
    f"apis/policy/v1/namespaces/{_NAMESPACE}/poddisruptionbudgets",
    f"apis/autoscaling/v2/namespaces/{_NAMESPACE}/horizontalpodautoscalers",
    "apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "apis/apiregistration.k8s.io/v1/apiservices",
)

_WITHOUT_NAMESPACE = frozenset(
    {"APIService", "CSIDriver", "CustomResourceDefinition", "PersistentVolume", "RuntimeClass", "StorageClass"}
)

Object = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """`sign` is what the API server's words contain from the cause on.

    The last of the `objects` is waited for; the others are there before. `cause` does what makes the trouble, when it
    is not the object itself. `path` is what else must be watched. `also` is the name of the same trouble in turns.
    `until` is what our wait waits for, when it is not readiness, and `condition` what kubectl waits for, when it is not
    what the plan says.
    """

    reason: str
    kind: str
    sign: str
    objects: Sequence[Object]
    cause: Callable[[], None] | None = None
    path: str = ""
    also: str = ""
    condition: str = ""
    until: str = "ready"

    @property
    def name(self) -> str:
        return str(self.objects[-1]["metadata"]["name"])

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.reason, self.also)))


def _pod(name: str, container: Object | None = None, **spec: Any) -> Object:
    app = {"name": "app", "image": "pythonapp", "imagePullPolicy": "Never", **(container or {})}
    spec = {"containers": [app], "terminationGracePeriodSeconds": 1, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def _python(code: str, **more: Any) -> Object:
    """A container that is never ready, so that only what it does counts."""
    return {"command": ["python3", "-c", code], "readinessProbe": {"tcpSocket": {"port": 1}}, **more}


def _deployment(name: str, container: Object, **spec: Any) -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": _pod(name, container)["spec"]}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def _object(api: str, kind: str, name: str, **rest: Any) -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **rest}


def _job(name: str, code: str, **spec: Any) -> Object:
    pod = _pod(name, {"command": ["python3", "-c", code]}, restartPolicy="Never")["spec"]
    spec = {"backoffLimit": 0, "template": {"spec": pod}, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


_CRASH = "raise SystemExit(3)"
_SLEEP = "import time; time.sleep(600)"
_SECRET = {"volumes": [{"name": "v", "secret": {"secretName": "absent"}}]}
_VOLUME = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "capacity": {"storage": "1Mi"}}
_GROUP = "bench.example"


def _claim(name: str, storage: str = "", **spec: Any) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, **spec}
    return _object("v1", "PersistentVolumeClaim", name, spec={"storageClassName": storage, **spec})


def _definition(plural: str) -> Object:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1", "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    names = {"kind": "Gadget", "plural": plural, "singular": plural.removesuffix("s")}
    spec = {"group": _GROUP, "scope": "Namespaced", "names": names, "versions": [version]}
    return _object("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"{plural}.{_GROUP}", spec=spec)


def _autoscaler(name: str, target: str) -> Object:
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", name, spec={"maxReplicas": 2, "scaleTargetRef": scaled})


def _fail(target: str, *types: str) -> None:
    """Write conditions as a controller would."""
    conditions = [{"type": name, "status": "True", "reason": "Evicted", "message": "given up"} for name in types]
    status = {"startTime": "2024-01-01T00:00:00Z", "conditions": conditions}
    _patch(target, {"status": status}, "--subresource=status", "-n", _NAMESPACE)


def _refuse_volume() -> None:
    """Answer as a CSI driver's attacher that cannot attach."""
    _kubectl("wait", "pod/attach", "-n", _NAMESPACE, "--for=condition=PodScheduled", "--timeout=60s")
    node = _kubectl("get", "pod/attach", "-n", _NAMESPACE, "-o", "jsonpath={.spec.nodeName}")
    name = f"volumeattachment/csi-{sha256(f'v{_GROUP}{node}'.encode()).hexdigest()}"
    _kubectl("wait", name, "--for=create", "--timeout=60s")
    error = {"time": "2024-01-01T00:00:00Z", "message": "volume v does not exist"}
    _patch(name, {"status": {"attached": False, "attachError": error}}, "--subresource=status")


def _delete() -> None:
    _kubectl("wait", "pod/gone", "-n", _NAMESPACE, "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
    _kubectl("delete", "pod/gone", "-n", _NAMESPACE, "--wait=false")


def _patch(target: str, patch: Object, *flags: str) -> None:
    _kubectl("patch", target, "--type=merge", "-p", json.dumps(patch), *flags)


_ON_CODE_3 = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}
_INDEXED = {"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 0, "backoffLimit": 9}
_AT_FIRST_USE = {"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}
_STORAGE = "storage.k8s.io/v1"
# Of a kind that does not exist, so that nobody can ask how many there must be.
_OWNED = _pod("owned")
_OWNER = {"apiVersion": f"{_GROUP}/v1", "kind": "Nothing", "name": "x", "uid": "00000000-0000-4000-8000-000000000000"}
_OWNED["metadata"] |= {"labels": {"app": "owned"}, "ownerReferences": [{**_OWNER, "controller": True}]}
_PROTECTED = {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "owned"}}}
# As a backup brings it back, without its volume.
_RESTORED = _claim("lost", volumeName="bench-lost")
_RESTORED["metadata"]["annotations"] = {"pv.kubernetes.io/bind-completed": "yes"}
CASES = (
    Case("ErrImageNeverPull", "pod", '"ErrImageNeverPull"', [_pod("never", {"image": "no-such-image"})]),
    Case("InvalidImageName", "pod", '"InvalidImageName"', [_pod("badname", {"image": "UPPER CASE"})]),
    Case(
        "ErrImagePull",
        "pod",
        '"ErrImagePull"',
        [_pod("pull", {"image": "127.0.0.1:1/none:1", "imagePullPolicy": "Always"})],
        also="ImagePullBackOff",
    ),
    Case(
        "CreateContainerConfigError",
        "pod",
        '"CreateContainerConfigError"',
        [_pod("config", {"envFrom": [{"configMapRef": {"name": "absent"}}]})],
    ),
    Case(
        "CreateContainerError",
        "pod",
        '"CreateContainerError"',
        [
            _pod(
                "profile",
                {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "absent.json"}}},
            )
        ],
    ),
    Case("RunContainerError", "pod", '"RunContainerError"', [_pod("noexec", {"command": ["/no/such/program"]})]),
    Case("CrashLoopBackOff", "pod", '"exitCode":3', [_pod("crash", _python(_CRASH))]),
    Case(
        "OOMKilled",
        "pod",
        '"OOMKilled"',
        [_pod("oom", _python("bytearray(10**9)", resources={"limits": {"memory": "24Mi"}}))],
    ),
    Case(
        "ContainerFailed",
        "pod",
        '"exitCode":3',
        [
            _pod(
                "half",
                containers=[
                    {"name": name, "image": "pythonapp", "imagePullPolicy": "Never", **_python(code)}
                    for name, code in (("app", _CRASH), ("other", _SLEEP))
                ],
                restartPolicy="Never",
            )
        ],
    ),
    Case("PodFailed", "pod", '"exitCode":3', [_pod("fails", _python(_CRASH), restartPolicy="Never")]),
    Case("PodSucceeded", "pod", '"phase":"Succeeded"', [_pod("ends", _python("pass"), restartPolicy="Never")]),
    Case(
        "NeverCompletes",
        "pod",
        '"type":"ADDED"',
        [_pod("endless", _python(_SLEEP))],
        until="complete",
        condition="jsonpath={.status.phase}=Succeeded",
    ),
    Case("Unschedulable", "pod", '"Unschedulable"', [_pod("big", {"resources": {"requests": {"cpu": "1000"}}})]),
    Case(
        "FailedMount",
        "pod",
        '"FailedMount"',
        [_pod("mount", {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, **_SECRET)],
    ),
    Case(
        "FailedCreate",
        "deployment",
        '"FailedCreate"',
        [
            _deployment(
                "account",
                {},
                template={
                    "metadata": {"labels": {"app": "account"}},
                    "spec": {**_pod("x")["spec"], "serviceAccountName": "absent"},
                },
            )
        ],
    ),
    Case(
        "ProgressDeadlineExceeded",
        "deployment",
        '"ProgressDeadlineExceeded"',
        [_deployment("slow", _python(_SLEEP), progressDeadlineSeconds=2)],
    ),
    Case("BackoffLimitExceeded", "job", '"type":"FailureTarget"', [_job("crashes", _CRASH)]),
    Case("DeadlineExceeded", "job", '"type":"FailureTarget"', [_job("late", _SLEEP, activeDeadlineSeconds=2)]),
    Case(
        "PodFailurePolicy",
        "job",
        '"type":"FailureTarget"',
        [_job("policy", _CRASH, backoffLimit=5, podFailurePolicy={"rules": [_ON_CODE_3]})],
    ),
    Case("FailedIndexes", "job", '"type":"FailureTarget"', [_job("indexes", _CRASH, **_INDEXED)]),
    Case(
        "MaxFailedIndexesExceeded",
        "job",
        '"type":"FailureTarget"',
        [_job("most", _CRASH, **_INDEXED, maxFailedIndexes=1)],
    ),
    Case(
        "JobFailed",
        "job",
        '"type":"FailureTarget"',
        [_job("managed", _CRASH, managedBy=f"{_GROUP}/queue")],
        cause=lambda: _fail("job/managed", "FailureTarget", "Failed"),
    ),
    Case("FailedBinding", "pvc", '"FailedBinding"', [_claim("claim")]),
    Case("ProvisioningFailed", "pvc", '"ProvisioningFailed"', [_claim("noclass", "bench-absent")]),
    Case(
        "ExternalProvisioning",
        "pvc",
        '"ExternalProvisioning"',
        [_object(_STORAGE, "StorageClass", "bench-ghost", provisioner=_GROUP), _claim("ghost", "bench-ghost")],
    ),
    Case(
        "WaitForFirstConsumer",
        "pvc",
        '"WaitForFirstConsumer"',
        [_object(_STORAGE, "StorageClass", "bench-late", **_AT_FIRST_USE), _claim("unused", "bench-late")],
    ),
    Case("Lost", "pvc", '"phase":"Lost"', [_RESTORED]),
    Case(
        "FailedAttachVolume",
        "pod",
        '"FailedAttachVolume"',
        [
            _object(_STORAGE, "CSIDriver", _GROUP, spec={"attachRequired": True}),
            _object(
                "v1",
                "PersistentVolume",
                "bench-attach",
                spec={**_VOLUME, "csi": {"driver": _GROUP, "volumeHandle": "v"}},
            ),
            _claim("disk", volumeName="bench-attach"),
            _pod(
                "attach",
                {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}],
            ),
        ],
        cause=_refuse_volume,
    ),
    Case(
        "FailedCreatePodSandBox",
        "pod",
        '"FailedCreatePodSandBox"',
        [
            _object("node.k8s.io/v1", "RuntimeClass", "bench-runtime", handler="bench-runtime"),
            _pod("sandbox", runtimeClassName="bench-runtime"),
        ],
    ),
    Case(
        "NoPods",
        "service",
        '"kind":"Service"',
        [_object("v1", "Service", "typo", spec={"selector": {"app": "tpyo"}, "ports": [{"port": 80}]})],
    ),
    Case("NamesNotAccepted", "crd", '"ListKindConflict"', [_definition("gadgets"), _definition("gizmos")]),
    Case(
        "ServiceNotFound",
        "apiservice",
        '"ServiceNotFound"',
        [
            _object(
                "apiregistration.k8s.io/v1",
                "APIService",
                f"v1.served.{_GROUP}",
                spec={
                    "group": f"served.{_GROUP}",
                    "version": "v1",
                    "groupPriorityMinimum": 100,
                    "versionPriority": 10,
                    "service": {"namespace": _NAMESPACE, "name": "absent"},
                },
            )
        ],
    ),
    Case(
        "SyncFailed",
        "pdb",
        '"SyncFailed"',
        [_OWNED, _object("policy/v1", "PodDisruptionBudget", "uncounted", spec=_PROTECTED)],
        condition="condition=DisruptionAllowed",
    ),
    Case("FailedGetScale", "hpa", '"FailedGetScale"', [_autoscaler("targetless", "absent")]),
    Case(
        "NoMetricsApi",
        "hpa",
        '"FailedGetResourceMetric"',
        [_deployment("unmeasured", _python(_SLEEP)), _autoscaler("blind", "unmeasured")],
    ),
    Case(
        "ScalingInactive",
        "hpa",
        '"AmbiguousSelector"',
        [_deployment("two", _python(_SLEEP)), _autoscaler("first", "two"), _autoscaler("second", "two")],
    ),
    Case(
        "Stalled",
        f"gadget.{_GROUP}",
        '"type":"Stalled"',
        [_definition("gadgets"), _object(f"{_GROUP}/v1", "Gadget", "stuck")],
        cause=lambda: _fail(f"gadget.{_GROUP}/stuck", "Stalled"),
        path=f"apis/{_GROUP}/v1/namespaces/{_NAMESPACE}/gadgets",
    ),
    Case("Deleted", "pod", '"type":"DELETED"', [_pod("gone", _python(_SLEEP))], cause=_delete),
)


class _Watcher:
    """Remembers every line of the API server's watches, with the moment at which it came."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lines: list[tuple[float, str]] = []
        for path in _WATCHED:
            self.follow(path)

    def follow(self, path: str) -> None:
        threading.Thread(target=self._watch, args=(path,), daemon=True).start()

    def _watch(self, path: str) -> None:
        connection = HTTPConnection("127.0.0.1", self._port)
        connection.request("GET", f"/{path}?watch=1")
        for line in connection.getresponse():
            self._lines.append((time.time(), line.decode()))

    def first(self, case: Case) -> float:
        """When the cause came to light."""
        names = tuple(f'"name":"{case.name}{end}' for end in ('"', "-"))
        found = [moment for moment, line in self._lines if case.sign in line and any(name in line for name in names)]
        if not found:
            sys.exit(f"{case.reason}: the API server never said {case.sign}")
        return min(found)


class _Beside:
    """A `kubectl wait`, and how long it took to give up."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self._began = time.monotonic()
        self._ended = 0.0
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self._child.wait()
        self._ended = time.monotonic()

    def seconds(self) -> float:
        self._thread.join()
        if self._child.returncode == 0:
            sys.exit(f"{self._child.args!r} succeeded")
        return round(self._ended - self._began, 1)


class _Trial:
    """A case while it runs."""

    def __init__(self, case: Case, runner: subprocess.Popen[str]) -> None:
        self.case = case
        self.waits = threading.Event()
        self.kubectl: _Beside | None = None
        self._runner = runner
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._runner.stdout
        for line in self._runner.stdout:
            self._lines.append(line)
            if '"step waiting"' in line:
                self.waits.set()

    def reported(self) -> float:
        """Wait for the end of our wait; when it failed."""
        self._reader.join()
        events = [json.loads(line) for line in self._lines if line.startswith("{")]
        failed = next((event for event in events if event["event"] == "step failed"), None)
        if not failed or failed["reason"] not in self.case.reasons:
            sys.exit(f"{self.case.reason}: it was not reported:\n{''.join(self._lines)}")
        return datetime.fromisoformat(failed["time"]).timestamp()


def reasons(rounds: int, folder: Path, chosen: Sequence[str] = ()) -> list[str]:
    """Seconds from cause to report (median), and how `kubectl wait` ended; written to the data file, too. `chosen` are
    the reasons to measure; the others keep their figures.
    """
    cases = [case for case in CASES if not chosen or set(chosen) & set(case.reasons)]
    figures: dict[str, list[float]] = {case.reason: [] for case in cases}
    kubectl: dict[str, float] = {}
    for number in range(rounds):
        with waiting.api() as server, _nothing_left(cases), ExitStack() as children:
            watcher = _Watcher(server.port)
            trials = [_begin(case, watcher, folder, children, beside=number == 0) for case in cases]
            for trial in trials:
                figures[trial.case.reason].append(trial.reported() - watcher.first(trial.case))
                if trial.kubectl:
                    kubectl[trial.case.reason] = trial.kubectl.seconds()
        sys.stderr.write(f"\r{number + 1} of {rounds} ")
    measured = {
        reason: {"report": round(statistics.median(figures[case.reason]), 2), "kubectl_wait": kubectl[case.reason]}
        for case in cases
        for reason in case.reasons
    }
    known = json.loads(FILE.read_text()) | measured
    FILE.write_text(json.dumps({reason: known[reason] for reason in REASONS if reason in known}, indent=1) + "\n")
    return [_row(reason, row["report"], row["kubectl_wait"]) for reason, row in measured.items()]


def _row(reason: str, ours: float, theirs: float) -> str:
    tolerated = f"{ours:.2f} s (tolerated {REASONS[reason].tolerated:g} s)"
    return f"| {reason}, cause to report | {tolerated} | kubectl wait {theirs:.0f} s | {ours / theirs:.2f} | |"


@contextmanager
def _nothing_left(cases: Sequence[Case]) -> Iterator[None]:
    """Delete what has no namespace; the benchmark's namespace takes the rest along."""
    try:
        yield
    finally:
        items = [item for case in cases for item in case.objects if item["kind"] in _WITHOUT_NAMESPACE]
        if items:
            _apply_or_delete("delete", items, "--ignore-not-found", "--wait=false")


def _begin(case: Case, watcher: _Watcher, folder: Path, children: ExitStack, *, beside: bool) -> _Trial:
    """Start our wait, and when it waits, make the object, start kubectl's, and see to the cause."""
    place = folder / f"{case.kind}-{case.name}"
    place.mkdir(exist_ok=True)
    wait = {"target": f"{case.kind}/{case.name}", "until": case.until}
    (place / "wait.yaml").write_text(json.dumps({"steps": [{"wait": wait}]}))
    for item in case.objects[:-1]:
        _apply_or_delete("apply", [item])
        if item["kind"] == "CustomResourceDefinition":
            _kubectl("wait", f"crd/{item['metadata']['name']}", "--for=condition=Established", "--timeout=60s")
    if case.path:
        watcher.follow(case.path)
    argv = [sys.executable, "-m", "runner", "wait.yaml", "-n", _NAMESPACE, "--events", "/dev/stdout", "-q"]
    trial = _Trial(case, children.enter_context(_child(argv, place)))
    trial.waits.wait(30)
    _apply_or_delete("apply", case.objects[-1:])
    if beside:
        trial.kubectl = _Beside(children.enter_context(_child(_kubectl_wait(case), place)))
    if case.cause:
        case.cause()
    return trial


def _kubectl_wait(case: Case) -> list[str]:
    """`kubectl wait` for the same; for a Service, its endpoints."""
    wait = ["kubectl", "wait", "-n", _NAMESPACE, f"--timeout={KUBECTL_SECONDS}s"]
    if case.kind == "service":
        slices = ("endpointslice", f"--selector=kubernetes.io/service-name={case.name}")
        _kubectl("wait", *slices, "-n", _NAMESPACE, "--for=create", "--timeout=60s")
        return [*wait, *slices, "--for=jsonpath={.endpoints[0].conditions.ready}=true"]
    return [*wait, f"{case.kind}/{case.name}", f"--for={case.condition or ready_condition(case.kind)}"]


@contextmanager
def _child(argv: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def _apply_or_delete(verb: str, items: Sequence[Object], *flags: str) -> None:
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    _kubectl(verb, "-n", _NAMESPACE, "-f", "-", *flags, stdin=everything)


def _kubectl(*arguments: str, stdin: str | None = None) -> str:
    answer = subprocess.run(["kubectl", *arguments], input=stdin, text=True, capture_output=True, check=False)
    if answer.returncode:
        sys.exit(f"kubectl {' '.join(arguments)}: {answer.stderr}")
    return answer.stdout
