"""One cluster: its namespaces, its addresses, its state, and how all of that comes and goes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.cluster import supervisor
from tests.cluster.machine import CATATONIT, Problem, run, say, timed

START_SECONDS = 90
CGROUPS = Path("/sys/fs/cgroup")


class Cluster:
    """A one-node Kubernetes with a name. Everything that it makes carries `runner-e2e-NAME` in its own name."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9]{1,8}", name):
            raise Problem(f"{name!r} cannot be a cluster's name: up to 8 letters a-z and digits")
        self.name = name
        self.label = f"runner-e2e-{name}"
        self.state = Path(os.environ.get("RUNNER_E2E_STATE") or "/run") / self.label
        self.kubeconfig = self.state / "kubeconfig"
        self.socket = self.state / "containerd.sock"

    # -- up -----------------------------------------------------------------------------------------------------

    def up(self, binaries: Path) -> None:
        """Start it and return when a Pod can run; at once when it is up and healthy."""
        if os.geteuid() != 0:
            raise Problem("starting a cluster needs root: run it with sudo")
        if self._is_healthy(binaries):
            say(f"{self.name} is up")
            return
        self.down()
        with timed(f"starting the cluster {self.name}"):
            try:
                self._start(binaries)
            except BaseException:
                self._keep_logs()
                self.down()
                raise

    def _start(self, binaries: Path) -> None:
        for folder in ("log", "pki", "cni", "etcd", "kubelet", "containerd"):
            (self.state / folder).mkdir(parents=True)
        run(["openssl", "genrsa", "-out", f"{self.state}/pki/sa.key", "2048"])
        (self.state / "pki/tokens.csv").write_text("admintoken,admin,1,system:masters\n")
        octet = self._make_network()
        self._make_cgroups()
        address = f"10.{octet}.0.2"
        self._write_kubeconfig(address, binaries)
        self._start_supervisor(binaries, address, f"10.{octet}.128.0/17")
        self._load_pause()
        self._await_node(binaries)

    def _make_network(self) -> int:
        """A network namespace that the host reaches by a pair of interfaces; answers the second octet of its 10.x."""
        taken = set(re.findall(r"\b10\.(\d+)\.", run(["ip", "route", "show", "table", "all"]) + run(["ip", "addr"])))
        octet = next(number for number in range(201, 255) if str(number) not in taken)
        run(["ip", "netns", "add", self.label])
        inside = ["ip", "-n", self.label]
        run(["ip", "link", "add", self._link, "type", "veth", "peer", "name", "host", "netns", self.label])
        run(["ip", "addr", "add", f"10.{octet}.0.1/30", "dev", self._link])
        run(["ip", "link", "set", self._link, "up"])
        run([*inside, "addr", "add", f"10.{octet}.0.2/30", "dev", "host"])
        run([*inside, "link", "set", "host", "up"])
        run([*inside, "link", "set", "lo", "up"])
        # kube-proxy and kubelet want a default route; nothing is behind it.
        run([*inside, "route", "add", "default", "via", f"10.{octet}.0.1"])
        run(["ip", "netns", "exec", self.label, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
        return octet

    @property
    def _link(self) -> str:
        return f"re2e-{self.name}"

    def _cgroups(self) -> list[Path]:
        """Its folder in every hierarchy."""
        if (CGROUPS / "cgroup.controllers").exists():
            return [CGROUPS / self.label]
        return [path / self.label for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]

    def _make_cgroups(self) -> None:
        """Kubelet wants its root cgroup to exist, and an own one keeps two kubelets apart."""
        if (CGROUPS / "cgroup.controllers").exists():
            controllers = " ".join(f"+{name}" for name in (CGROUPS / "cgroup.controllers").read_text().split())
            (CGROUPS / "cgroup.subtree_control").write_text(controllers)
        for folder in self._cgroups():
            folder.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (folder / file).exists() and not (folder / file).read_text().strip():
                    (folder / file).write_text((folder.parent / file).read_text())

    def _write_kubeconfig(self, address: str, binaries: Path) -> None:
        server = {"server": f"https://{address}:{supervisor.PORT}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.name, "cluster": server}],
            "users": [{"name": self.name, "user": {"token": "admintoken"}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": self.name}}],
            "current-context": self.name,
        }
        self.kubeconfig.write_text(json.dumps(config))
        self.kubeconfig.chmod(0o600)
        (self.state / "binaries").write_text(str(binaries))

    def _start_supervisor(self, binaries: Path, address: str, subnet: str) -> None:
        """Enter the network namespace, and make the others. (`ip netns exec` would hide the cgroups.)"""
        own = [sys.executable, supervisor.__file__, str(self.state), str(binaries), address, subnet]
        child = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{self.label}"),
                *("unshare", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc", "--"),
                *own,
            ],
            stdin=subprocess.DEVNULL,
            stdout=(self.state / "log/supervisor.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
        (self.state / "pid").write_text(f"{child.pid} {_start_time(child.pid)}\n")

    def _load_pause(self) -> None:
        """The sandbox image: a program that sleeps and reaps, from a Debian package."""
        catatonit = next((path for path in CATATONIT if path.exists()), None)
        if catatonit is None:
            raise Problem("catatonit is missing: install the Debian package catatonit")
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(catatonit, f"{folder}/pause")
            Path(folder, "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause", "-P"]\n')
            run(["podman", "build", "--quiet", "--tag", "localhost/pause:e2e", folder])
        self._until("containerd", lambda: self.socket.exists() and bool(self._ctr("version")))
        self.load("localhost/pause:e2e", "localhost/pause:e2e")

    def _ctr(self, *arguments: str) -> str:
        return run(["ctr", "--connect-timeout=2s", "--address", str(self.socket), *arguments], check=False)

    def load(self, image: str, name_in_cluster: str = "") -> None:
        """Import an image of podman, by default under the name that kubelet looks for."""
        name = name_in_cluster or f"docker.io/library/{image.removeprefix('localhost/')}"
        if ":" not in name.rpartition("/")[2]:
            name += ":latest"
        with tempfile.TemporaryDirectory() as folder:
            run(["podman", "push", "--quiet", image, f"docker-archive:{folder}/image.tar:{name}"])
            run(["ctr", "--address", str(self.socket), "-n", "k8s.io", "images", "import", f"{folder}/image.tar"])

    def _await_node(self, binaries: Path) -> None:
        kubectl = [f"{binaries}/kubectl", f"--kubeconfig={self.kubeconfig}"]
        self._until("kubelet", (self.state / "started").exists)
        for waited in (
            ["--for=create", "node/e2e-node"],
            ["--for=condition=Ready", "node/e2e-node"],
            ["--for=create", "serviceaccount/default"],
        ):
            try:
                run([*kubectl, "wait", *waited, f"--timeout={START_SECONDS}s"])
            except Problem as problem:
                raise self._failure(str(problem)) from None

    def _until(self, what: str, condition: object) -> None:
        end = time.monotonic() + START_SECONDS
        while not condition():  # type: ignore[operator]
            if (self.state / "ended").exists():
                raise self._failure(f"a component ended while waiting for {what}")
            if time.monotonic() > end:
                raise self._failure(f"{what} does not start")
            time.sleep(0.05)

    def _failure(self, sentence: str) -> Problem:
        """A problem with the last words of the component that ended, or of all."""
        ended = (self.state / "ended").read_text().split() if (self.state / "ended").exists() else []
        names = ended[::2] or [path.stem for path in (self.state / "log").iterdir()]
        words = [f"--- {name}\n{_tail(self.state / 'log' / f'{name}.log')}" for name in names]
        return Problem("\n".join([sentence, *words]))

    def _keep_logs(self) -> None:
        """The logs of a failed start outlive its state."""
        if (self.state / "log").exists():
            kept = Path(tempfile.gettempdir(), f"{self.label}-logs")
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(self.state / "log", kept)
            say(f"logs are in {kept}")

    def _is_healthy(self, binaries: Path) -> bool:
        if self._supervisor() is None or not self.kubeconfig.exists():
            return False
        kubectl = [f"{binaries}/kubectl", f"--kubeconfig={self.kubeconfig}", "--request-timeout=3s"]
        return run([*kubectl, "get", "--raw", "/readyz"], check=False) == "ok"

    # -- down ---------------------------------------------------------------------------------------------------

    def down(self) -> None:
        """End it: its first process takes all others along, its namespaces take links, mounts and rules along."""
        if not any(self.traces()):
            return
        with timed(f"ending the cluster {self.name}"):
            if pid := self._supervisor():
                os.kill(pid, signal.SIGKILL)
                _await_end(pid)
            if Path(f"/run/netns/{self.label}").exists():
                run(["ip", "netns", "delete", self.label])
            run(["ip", "link", "delete", self._link], check=False)
            self._unmount()
            for folder in self._cgroups():
                _remove_cgroup(folder)
            shutil.rmtree(self.state, ignore_errors=True)
        if left := list(self.traces()):
            raise Problem(f"of the cluster {self.name} there is still: {', '.join(left)}")

    def _supervisor(self) -> int | None:
        """The process that holds the namespaces, if it is the one that was started (and not a reused number)."""
        try:
            pid, start = (self.state / "pid").read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if _start_time(int(pid)) == start else None

    def _unmount(self) -> None:
        """Mounts of a run before its mount namespace was private."""
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(f"{self.state}/")]):
            run(["umount", "--lazy", mount], check=False)

    def traces(self) -> Iterator[str]:
        """Everything of it that is on this machine; nothing after `down`."""
        if self.state.exists():
            yield f"state {self.state}"
        if pid := self._supervisor():
            yield f"process {pid}"
        if Path(f"/run/netns/{self.label}").exists():
            yield f"network namespace {self.label}"
        if Path(f"/sys/class/net/{self._link}").exists():
            yield f"interface {self._link}"
        yield from (f"cgroup {folder}" for folder in self._cgroups() if folder.exists())
        mounts = Path("/proc/mounts").read_text()
        yield from (f"mount {path}" for path in re.findall(rf" ({re.escape(str(self.state))}/\S+)", mounts))
        yield from (f"process {process}" for process in self._processes())

    def _processes(self) -> Iterator[str]:
        """Processes whose command names the state folder (containerd, its shims, the components)."""
        mark = f"{self.state}/".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except OSError:
                continue
            if mark in command and path.parent.name not in (str(os.getpid()), str(self._supervisor())):
                yield f"{path.parent.name} {command.split(bytes(1))[0].decode(errors='replace')}"

    def exports(self) -> str:
        if not self.kubeconfig.exists():
            raise Problem(f"the cluster {self.name} is not up: python3 -m tests.cluster --name {self.name} up")
        binaries = (self.state / "binaries").read_text()
        return (
            f"export KUBECONFIG={shlex.quote(str(self.kubeconfig))}\n"
            f"export CONTAINERD_ADDRESS={shlex.quote(str(self.socket))}\n"
            f"export PATH={shlex.quote(binaries)}:$PATH\n"
        )


def _start_time(pid: int) -> str:
    """When a process began, in clock ticks since the machine did; with its number, who it is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _await_end(pid: int) -> None:
    """Wait until a process, and with it its process namespace, is gone."""
    end = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # when it is our own child
        time.sleep(0.02)


def _remove_cgroup(folder: Path) -> None:
    for child in sorted(folder.rglob("*"), key=lambda path: -len(path.parts)):
        if child.is_dir():
            _rmdir(child)
    if folder.exists():
        _rmdir(folder)


def _rmdir(folder: Path) -> None:
    """A cgroup can be removed when its last process is buried."""
    end = time.monotonic() + 5
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > end:
                return
            time.sleep(0.02)
        else:
            return


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
