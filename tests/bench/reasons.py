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
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Selection
from runner.cluster.reasons import REASONS
from tests.bench import waiting

FILE = Path(__file__).parents[2] / "runner" / "measured.json"
KUBECTL_SECONDS = 60
_NAMESPACE = waiting.NAMESPACE
_WATCHED = ("api/v1", "pods"), ("api/v1", "events"), ("apis/apps/v1", "deployments"), ("apis/batch/v1", "jobs")

# What kubelet says in turns.
_IN_TURNS = {"ImagePullBackOff": "ErrImagePull"}

Object = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """`sign` is what the API server's words contain from the cause on; `delete` makes the cause by deleting it."""

    reason: str
    kind: str
    sign: str
    objects: Sequence[Object]
    delete: bool = False

    @property
    def name(self) -> str:
        return str(self.objects[-1]["metadata"]["name"])


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


def _job(name: str, code: str, **spec: Any) -> Object:
    pod = _pod(name, {"command": ["python3", "-c", code]}, restartPolicy="Never")["spec"]
    spec = {"backoffLimit": 0, "template": {"spec": pod}, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


_CRASH = "raise SystemExit(3)"
_SLEEP = "import time; time.sleep(600)"
_SECRET = {"volumes": [{"name": "v", "secret": {"secretName": "absent"}}]}
_CLAIM = {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Mi"}}}
CASES = (
    Case("ErrImageNeverPull", "pod", '"ErrImageNeverPull"', [_pod("never", {"image": "no-such-image"})]),
    Case("InvalidImageName", "pod", '"InvalidImageName"', [_pod("badname", {"image": "UPPER CASE"})]),
    Case(
        "ErrImagePull",
        "pod",
        '"ErrImagePull"',
        [_pod("pull", {"image": "127.0.0.1:1/none:1", "imagePullPolicy": "Always"})],
    ),
    Case(
        "CreateContainerConfigError",
        "pod",
        '"CreateContainerConfigError"',
        [_pod("config", {"envFrom": [{"configMapRef": {"name": "absent"}}]})],
    ),
    Case("RunContainerError", "pod", '"RunContainerError"', [_pod("noexec", {"command": ["/no/such/program"]})]),
    Case("CrashLoopBackOff", "pod", '"exitCode":3', [_pod("crash", _python(_CRASH))]),
    Case(
        "OOMKilled",
        "pod",
        '"OOMKilled"',
        [_pod("oom", _python("bytearray(10**9)", resources={"limits": {"memory": "24Mi"}}))],
    ),
    Case("PodFailed", "pod", '"exitCode":3', [_pod("fails", _python(_CRASH), restartPolicy="Never")]),
    Case("PodSucceeded", "pod", '"phase":"Succeeded"', [_pod("ends", _python("pass"), restartPolicy="Never")]),
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
    Case("BackoffLimitExceeded", "job", '"type":"Failed"', [_job("fails", _CRASH)]),
    Case("DeadlineExceeded", "job", '"type":"Failed"', [_job("late", _SLEEP, activeDeadlineSeconds=2)]),
    Case(
        "FailedBinding",
        "pvc",
        '"FailedBinding"',
        [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "claim"}, "spec": _CLAIM}],
    ),
    Case("Deleted", "pod", '"type":"DELETED"', [_pod("gone", _python(_SLEEP))], delete=True),
)


class _Watcher:
    """Remembers every line of the API server's watches, with the moment at which it came."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._lines: list[tuple[float, str]] = []
        for root, resource in _WATCHED:
            path = f"/{root}/namespaces/{_NAMESPACE}/{resource}?watch=1"
            threading.Thread(target=self._watch, args=(path,), daemon=True).start()

    def _watch(self, path: str) -> None:
        connection = HTTPConnection("127.0.0.1", self._port)
        connection.request("GET", path)
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


@dataclass
class _Trial:
    """A case while it runs."""

    case: Case
    runner: subprocess.Popen[str]
    kubectl: _Beside | None = None
    lines: list[str] = field(default_factory=list)
    waits: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        assert self.runner.stdout
        for line in self.runner.stdout:
            self.lines.append(line)
            if '"step waiting"' in line:
                self.waits.set()

    def reported(self) -> float:
        failed = next(json.loads(line) for line in self.lines if '"event":"step failed"' in line.replace('": "', '":"'))
        if failed["reason"] != self.case.reason and self.case.reason != _IN_TURNS.get(failed["reason"]):
            sys.exit(f"{self.case.reason}: reported as {failed['reason']}: {failed['message']}")
        return datetime.fromisoformat(failed["time"]).timestamp()


def reasons(rounds: int, folder: Path) -> list[str]:
    """Seconds from cause to report (median), and how `kubectl wait` ended; written to the data file, too."""
    figures: dict[str, list[float]] = {case.reason: [] for case in CASES}
    kubectl: dict[str, float] = {}
    for number in range(rounds):
        with waiting.api() as server, ExitStack() as children:
            watcher = _Watcher(server.port)
            trials = [_begin(case, server, folder, children, beside=number == 0) for case in CASES]
            for trial in trials:
                trial.runner.wait()
            for trial in trials:
                figures[trial.case.reason].append(trial.reported() - watcher.first(trial.case))
                if trial.kubectl:
                    kubectl[trial.case.reason] = trial.kubectl.seconds()
        sys.stderr.write(f"\r{number + 1} of {rounds} ")
    measured = {
        reason: {"report": round(statistics.median(times), 2), "kubectl_wait": kubectl[reason]}
        for reason, times in figures.items()
    }
    FILE.write_text(json.dumps(measured, indent=1) + "\n")
    return [_row(reason, row["report"], row["kubectl_wait"]) for reason, row in measured.items()]


def _row(reason: str, ours: float, theirs: float) -> str:
    tolerated = f"{ours:.2f} s (tolerated {REASONS[reason].tolerated:g} s)"
    return f"| {reason}, cause to report | {tolerated} | kubectl wait {theirs:.0f} s | {ours / theirs:.2f} | |"


def _begin(case: Case, server: waiting.Api, folder: Path, children: ExitStack, *, beside: bool) -> _Trial:
    """Start our wait, and when it waits, make the objects, and start kubectl's."""
    place = folder / f"{case.kind}-{case.name}"
    place.mkdir(exist_ok=True)
    (place / "wait.yaml").write_text(json.dumps({"steps": [{"wait": f"{case.kind}/{case.name}"}]}))
    argv = [sys.executable, "-m", "runner", "wait.yaml", "-n", _NAMESPACE, "--events", "/dev/stdout", "-q"]
    trial = _Trial(case, children.enter_context(_child(argv, place)))
    threading.Thread(target=trial.read, daemon=True).start()
    trial.waits.wait(30)
    for item in case.objects:
        _kubectl("apply", "-n", _NAMESPACE, "-f", "-", stdin=json.dumps(item))
    if beside:
        selection = Selection(case.kind, (case.name,), namespace=_NAMESPACE)
        line = KubectlDialect().wait(selection, "ready", KUBECTL_SECONDS)
        trial.kubectl = _Beside(children.enter_context(_child(line.argv, place)))
    if case.delete:
        time.sleep(3)
        _kubectl("delete", "-n", _NAMESPACE, f"{case.kind}/{case.name}", "--wait=false")
    return trial


@contextmanager
def _child(argv: Sequence[str], folder: Path) -> Any:
    child = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def _kubectl(*arguments: str, stdin: str | None = None) -> None:
    subprocess.run(["kubectl", *arguments], input=stdin, text=True, capture_output=True, check=True)
