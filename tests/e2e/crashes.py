"""Ending a run in every way, at any moment, and looking 20 s later at what is left of it.

The workflow makes namespaced, cluster-scoped and generated-namespace objects; beside them stand a canary of the same
kind, an object of the same name in another namespace, and one of the run's own files that existed before.
"""

from __future__ import annotations

import json
import os
import pty
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SEED = 20261124
LIMIT = 20.0
"""Seconds after the blow at which nothing may be left."""
LONGEST = 5.5
"""Seconds that the workflow takes with its cleanup, about: later it has nothing to lose."""

BOUNDARIES = (
    "run started",
    "workflow started",
    "step started",
    "step passed",
    "object created",
    "cleanup started",
    "cleanup waiting",
    "object deleted",
)
"""The events at which a run is ended by their number."""

Kubectl = Callable[..., str]

FILES = {
    "map.yaml": """\
apiVersion: v1
kind: ConfigMap
metadata: {name: m-TAG}
data: {a: b}
""",
    "generated.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: g-TAG-}\n",
    "before.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: before-TAG, namespace: PLACE}\ndata: {a: b}\n",
    "role.yaml": """\
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: role-TAG}
rules: []
""",
    "web.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-TAG, namespace: PLACE}
spec:
  replicas: 1
  selector: {matchLabels: {app: web-TAG}}
  template:
    metadata: {labels: {app: web-TAG}}
    spec:
      containers: [{name: app, image: pythonapp, imagePullPolicy: Never}]
""",
    "flow.yaml": """\
namespace: {generate: crash-TAG-}
steps:
  - apply: [map.yaml, generated.yaml]
  - apply: role.yaml
  - apply: before.yaml
  - apply: web.yaml
  - {wait: deployment/web-TAG, namespace: PLACE}
  - {forward: {target: deployment/web-TAG, ports: "PORT:5000"}, namespace: PLACE}
  - verify: {url: "http://127.0.0.1:PORT/", contains: Hello}
  - run: |
      kubectl config set-context --current --namespace=PLACE  # where a map of the same name is
      setsid sleep 600 >/dev/null 2>&1 &  # a daemon that leaves the session
      kubectl get configmaps
      sleep 0.5
  - delete: map.yaml
""",
    # What stands beside the run, and must stay as it is.
    "canary.yaml": """\
apiVersion: v1
kind: ConfigMap
metadata: {name: canary-TAG, namespace: PLACE}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: m-TAG, namespace: PLACE}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: canary-TAG}
rules: []
---
apiVersion: v1
kind: ConfigMap
metadata: {name: before-TAG, namespace: PLACE}
data: {a: b}
""",
}


@dataclass(frozen=True)
class Kill:
    """How (`SIGKILL`, `terminal`, …) and when: after so many seconds, or at the n-th of the `BOUNDARIES`."""

    way: str
    after: float = 0.0
    event: int = 0

    def __str__(self) -> str:
        return f"{self.way}-{f'event{self.event}' if self.event else f'{self.after:.2f}s'}"


def random_kills(count: int, seed: int = SEED) -> list[Kill]:
    """Seeded moments, the ways in turn."""
    chance = random.Random(seed)
    ways = list(WAYS)
    return [Kill(ways[number % len(ways)], after=chance.uniform(0.05, LONGEST)) for number in range(count)]


@dataclass
class Site:
    """One run in a folder of its own, which is its home, its state and its temporary folder."""

    folder: Path
    place: str
    env: dict[str, str]
    kubectl: Kubectl
    tag: str = field(default_factory=lambda: secrets.token_hex(3))
    port: int = 0

    def __post_init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        (self.folder / "tmp").mkdir()
        for name, text in FILES.items():
            self.write(name, text)
        self.kubectl("apply", "-f", str(self.folder / "canary.yaml"))
        self.before = self.canaries()

    def write(self, name: str, text: str) -> None:
        """A file of the site, with its own names filled in."""
        filled = text.replace("TAG", self.tag).replace("PLACE", self.place).replace("PORT", str(self.port))
        (self.folder / name).write_text(filled)

    def environment(self) -> dict[str, str]:
        """The environment of the runner; what it starts can be found by it."""
        own = {
            "XDG_STATE_HOME": str(self.folder / "state"),
            "TMPDIR": str(self.folder / "tmp"),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
        }
        return {**self.env, **own}

    def canaries(self) -> str:
        """The versions of what must not be touched."""
        columns = "-o=custom-columns=K:.kind,N:.metadata.name,U:.metadata.uid,V:.metadata.resourceVersion"
        return self.kubectl("get", "-f", str(self.folder / "canary.yaml"), columns, "--no-headers")

    def start(self, *, terminal: bool = False, before: tuple[str, ...] = ()) -> tuple[subprocess.Popen[bytes], int]:
        """The runner, leader of a session; with a terminal, the other end of that."""
        argv = [*before, sys.executable, "-m", "runner", "--events", "events", "flow.yaml"]
        master, output = -1, -1
        if terminal:
            master, output = pty.openpty()
        else:
            output = os.open(self.folder / "output", os.O_WRONLY | os.O_CREAT)
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self.environment(),
            stdin=output if terminal else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_take_terminal if terminal else None,  # noqa: PLW1509 - these tests have one thread
        )
        os.close(output)
        return process, master

    def strike(self, kill: Kill) -> int | None:
        """Start the run, end it, and answer its exit code (None when it had ended before)."""
        before = ("timeout", "--signal=KILL", f"{kill.after:.3f}") if kill.way == "timeout" else ()
        process, master = self.start(terminal=kill.way == "terminal", before=before)
        try:
            self._await(kill, process, master)
            ended = process.poll()
            WAYS[kill.way](process, master)
            code = process.wait(30)
        finally:
            process.kill()
            process.wait()
            if master >= 0:
                with suppress(OSError):
                    os.close(master)
        return None if ended is not None else code

    def _await(self, kill: Kill, process: subprocess.Popen[bytes], master: int) -> None:
        limit = time.monotonic() + (kill.after or 60)
        while time.monotonic() < limit and process.poll() is None:
            if master >= 0:
                _read(master)
            if kill.event and sum(record["event"] in BOUNDARIES for record in self.events()) >= kill.event:
                return
            time.sleep(min(0.01, max(0.0, limit - time.monotonic())))

    def events(self) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError):
            return [
                json.loads(line)
                for line in (self.folder / "events").read_text().splitlines(keepends=True)
                if line.endswith("\n")
            ]
        return []

    def remains(self) -> list[str]:
        """What is left on the machine; when nothing is, what is left in the cluster or was touched there."""
        left = [f"process {line}" for line in self.processes()]
        left += [f"file {path}" for path in (self.folder / "tmp").iterdir()]
        left += [f"file {path}" for path in (self.folder / "state").glob("runner/runs/*/**/kubeconfig*")]
        left += [f"port {self.port}"] if _is_taken(self.port) else []
        return left or [*self.in_cluster()]

    def in_cluster(self) -> Iterator[str]:
        """What the run made and is still there, and what it should not have touched."""
        for namespace in self.kubectl("get", "namespaces", "-o", "name").split():
            if f"crash-{self.tag}" in namespace:
                yield namespace
        there = self.kubectl(
            "get", "clusterroles,configmaps,deployments,replicasets,pods", "-A", "-o",
            "custom-columns=K:.kind,S:.metadata.namespace,N:.metadata.name", "--no-headers",
        )  # fmt: skip
        canaries = [line.split()[:2] for line in self.before.splitlines()]
        for line in there.splitlines():
            kind, place, name = line.split()
            if self.tag in name and not ([kind, name] in canaries and place in (self.place, "<none>")):
                yield line
        if self.canaries() != self.before:
            yield f"touched:\n{self.canaries()}was:\n{self.before}"

    def processes(self) -> list[str]:
        """What runs with this run's state in its environment, the watchdog included."""
        return [_command(Path(f"/proc/{pid}")) for pid in self.pids()]

    def pids(self) -> list[int]:
        mark = f"XDG_STATE_HOME={self.folder / 'state'}".encode()
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _has(path / "environ", mark)]

    def log(self, name: str) -> list[str]:
        """The lines of a file of the only run folder."""
        (path,) = (self.folder / "state/runner/runs").glob(f"*/{name}")
        return path.read_text().splitlines()

    def await_event(self, event: str, step: str = "") -> None:
        end = time.monotonic() + 60
        while not any(record["event"] == event and record.get("step", "") == step for record in self.events()):
            assert time.monotonic() < end, f"no {event} {step}\n{self.story()}"
            time.sleep(0.01)

    def settle(self, limit: float = LIMIT) -> list[str]:
        """What is left when nothing changes any more, or after so many seconds."""
        end = time.monotonic() + limit
        while (left := self.remains()) and time.monotonic() < end:
            time.sleep(0.5)
        return left

    def story(self) -> str:
        """For the message of a test that fails."""
        parts = [self.folder / "output", *(self.folder / "state").glob("runner/runs/*/*.jsonl")]
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in parts if path.exists())

    def forget(self) -> None:
        self.kubectl("delete", "-f", str(self.folder / "canary.yaml"), "--ignore-not-found", "--wait=false")


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read(master: int) -> None:
    import select

    with suppress(OSError):
        while select.select([master], [], [], 0)[0] and os.read(master, 65536):
            pass


def _signal(number: signal.Signals) -> Callable[[subprocess.Popen[bytes], int], None]:
    def strike(process: subprocess.Popen[bytes], _: int) -> None:
        if process.poll() is None:
            process.send_signal(number)

    return strike


def _together(process: subprocess.Popen[bytes], _: int) -> None:
    """The runner's group, and those of all its children: everything but the watchdog, which is nobody's child."""
    groups = [process.pid, *_descendants(process.pid)]
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                child = int(path.parent.name)
                found += [child, *_descendants(child)]
    return found


def _hang_up(_: subprocess.Popen[bytes], master: int) -> None:
    os.close(master)


WAYS: dict[str, Callable[[subprocess.Popen[bytes], int], None]] = {
    "SIGKILL": _signal(signal.SIGKILL),
    "together": _together,
    "SIGTERM": _signal(signal.SIGTERM),
    "terminal": _hang_up,
    "SIGINT": _signal(signal.SIGINT),
    "timeout": lambda *_: None,
    "SIGHUP": _signal(signal.SIGHUP),
}


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _has(path: Path, mark: bytes) -> bool:
    try:
        return mark in path.read_bytes().split(b"\0")
    except OSError:
        return False


def _command(path: Path) -> str:
    try:
        return f"{path.name} {(path / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}"
    except OSError:
        return f"{path.name} (gone)"
