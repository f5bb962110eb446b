"""Waiting: how soon after a Pod is Ready a wait ends, and what 200 or 1,000 waits at once cost, beside `kubectl wait`.

The Pods are never scheduled; the benchmark writes their status, so that it knows the moment at which they become Ready.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any

NAMESPACE = "bench-waiting"
IDLE_SECONDS = 10.0
READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


class Api:
    """The API server, through a `kubectl proxy` of the benchmark's own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": kind})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {text.decode()}")
        return json.loads(text)

    def make_pod(self, name: str) -> None:
        spec = {"schedulerName": "nobody", "containers": [{"name": "app", "image": "pythonapp"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body)

    def make_ready(self, name: str) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/status"
        self.ask("PATCH", path, {"status": READY}, "application/merge-patch+json")

    def remove_pods(self) -> None:
        options = {"gracePeriodSeconds": 0}
        self.ask("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods", options)


@contextmanager
def api() -> Iterator[Api]:
    """An API in which the benchmark's namespace exists."""
    _kubectl("create", "namespace", NAMESPACE)
    while _kubectl("get", "serviceaccount", "default", "-n", NAMESPACE):
        time.sleep(0.1)
    proxy = subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert proxy.stdout
        yield Api(int(proxy.stdout.readline().rsplit(":", 1)[1]))
    finally:
        proxy.terminate()
        proxy.wait()
        _kubectl("delete", "namespace", NAMESPACE)


def _kubectl(*arguments: str) -> int:
    return subprocess.run(["kubectl", *arguments], capture_output=True, check=False).returncode


def latency(rounds: int, folder: Path) -> list[str]:
    """Milliseconds from Ready to the end of the wait, ours and kubectl's in turn."""
    ours: list[float] = []
    theirs: list[float] = []
    with api() as server:
        for number in range(rounds):
            for times, argv, passed in (
                (ours, _runner([f"pod/p{number}"], folder), '"step passed"'),
                (theirs, _kubectl_wait(f"pod/p{number}"), "condition met"),
            ):
                server.make_pod(f"p{number}")
                with _started(argv, folder) as child:
                    time.sleep(1.5)  # both watch by then
                    began = time.perf_counter()
                    server.make_ready(f"p{number}")
                    _await_line(child.stdout, passed)
                    times.append((time.perf_counter() - began) * 1e3)
                server.remove_pods()
    mine, other = statistics.median(ours), statistics.median(theirs)
    return [
        f"| Pod Ready to the end of the wait | {mine:.0f} ms | kubectl wait {other:.0f} ms | {mine / other:.2f} | 1.5 |"
    ]


@dataclass(frozen=True)
class Crowd:
    """What many waits cost: processes, MB (shared pages counted once), CPU seconds in all, and per idle second."""

    processes: int
    memory: float
    cpu: float
    idle: float

    def __str__(self) -> str:
        return f"{self.processes} processes, {self.memory:.0f} MB, {self.cpu:.1f} s CPU, idle {self.idle * 100:.1f} %"


def crowds(rounds: int, folder: Path) -> list[str]:
    """200 waits as one step and as 200 kubectl, and 1,000 as one step; once, whatever `rounds` says."""
    with api() as server:
        two_hundred = [f"p{number}" for number in range(200)]
        ours = _crowd(server, two_hundred, [_runner([f"pod/{name}" for name in two_hundred], folder)], folder)
        theirs = _crowd(server, two_hundred, [_kubectl_wait(f"pod/{name}") for name in two_hundred], folder)
        thousand = [f"p{number}" for number in range(1000)]
        many = _crowd(server, thousand, [_runner([f"pod/{name}" for name in thousand], folder)], folder)
    return [
        f"| 200 waits at once | {ours} | kubectl wait: {theirs} | {ours.cpu / theirs.cpu:.2f} (CPU) | |",
        f"| 1,000 waits at once | {many} | | | |",
    ]


def _crowd(server: Api, names: Sequence[str], commands: Sequence[Sequence[str]], folder: Path) -> Crowd:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(server.make_pod, names))
        children = [subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL) for argv in commands]
        _settle(children)
        family = [pid for child in children for pid in _family(child.pid)] + _watchdogs(folder)
        memory, before = sum(map(_memory, family)), sum(map(_cpu, family))
        time.sleep(IDLE_SECONDS)
        after = sum(map(_cpu, family))
        list(pool.map(server.make_ready, names))
    total = 0.0
    for child in children:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"a wait failed: {child.args!r}"[:300])
        total += usage.ru_utime + usage.ru_stime
    server.remove_pods()
    return Crowd(len(family), memory, total, (after - before) / IDLE_SECONDS)


def _settle(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Return when they do nothing any more: all of them watch."""
    spent = -1.0
    while True:
        now = sum(_cpu(pid) for child in children for pid in _family(child.pid))
        if now - spent < 0.02 and spent > len(children) * 0.01:
            return
        spent = now
        time.sleep(2)


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
        return []  # it ended, and waits to be looked at
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _family(int(child))
    return found


def _watchdogs(folder: Path) -> list[int]:
    """Those of the runs whose state is in the folder; they are nobody's children."""
    words = [(path.parent.name, path.read_bytes()) for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [int(pid) for pid, argv in words if b"watchdog.py" in argv and str(folder).encode() in argv]


def _memory(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _runner(targets: list[str], folder: Path) -> list[str]:
    (folder / "wait.yaml").write_text(json.dumps({"steps": [{"wait": targets}]}))
    return [sys.executable, "-m", "runner", "wait.yaml", "-n", NAMESPACE, "--events", "/dev/stdout", "-q"]


def _kubectl_wait(target: str) -> list[str]:
    return ["kubectl", "wait", "--for=condition=Ready", target, "-n", NAMESPACE, "--timeout=120s"]


@contextmanager
def _started(argv: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.communicate()


def _await_line(stream: IO[str] | None, text: str) -> None:
    assert stream
    for line in stream:
        if text in line:
            return
    sys.exit(f"it ended without {text}")
