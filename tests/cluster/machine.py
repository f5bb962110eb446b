"""The machine: programs and Debian packages, how to say what goes on, how to fail with a sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

# Program (or file) → the Debian package that has it.
NEEDED = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "openssl": "openssl",
    "podman": "podman",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "faketime": "faketime",
    "mount": "mount",
}
CATATONIT = (Path("/usr/bin/catatonit"), Path("/usr/libexec/podman/catatonit"))


class Problem(Exception):
    """What went wrong, for a person."""


def say(text: str) -> None:
    sys.stderr.write(f"cluster: {text}\n")
    sys.stderr.flush()


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    say(f"{what} ...")
    started = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - started:.1f} s")


def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, check: bool = True
) -> str:
    """What a program prints; its own words are in the `Problem` when it fails."""
    full = {**os.environ, **(env or {})}
    answer = subprocess.run(
        argv, env=full, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if check and answer.returncode:
        raise Problem(
            f"{' '.join(argv)} failed ({answer.returncode}):\n{answer.stderr.strip() or answer.stdout.strip()}"
        )
    return answer.stdout


def install() -> None:
    """Install the packages that are missing."""
    missing = {package for program, package in NEEDED.items() if not _is_there(program)}
    if not any(path.exists() for path in CATATONIT):
        missing.add("catatonit")
    if not missing:
        return
    names = sorted(missing)
    if not shutil.which("apt-get"):
        raise Problem(f"this system has no apt-get; install what Debian calls {', '.join(names)}")
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    with timed(f"installing {' '.join(names)}"):
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run([*sudo, "apt-get", "update", "-qq"], env=env)
        run([*sudo, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *names], env=env)


def _is_there(program: str) -> bool:
    return Path(program).exists() if program.startswith("/") else shutil.which(program) is not None
