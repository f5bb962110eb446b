"""A killed run on podman: its watchdog removes the Pod, and the network that podman made for it."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.podman

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/runner-test-app:1"

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  containers:
  - {name: app, image: IMAGE, imagePullPolicy: Never, command: [python3, -c, "import time; time.sleep(300)"]}
"""


@pytest.fixture
def podman_image(podman_env: dict[str, str]) -> str:
    base = os.environ.get("BASE_IMAGE", "docker.io/library/python:3-alpine")
    argv = [
        "podman",
        "build",
        "--quiet",
        f"--tag={IMAGE}",
        "--label=of=tests",  # an id of its own: others build pythonapp at the same time
        f"--build-arg=BASE={base}",
        str(ROOT / "workflows/pythonapp"),
    ]
    subprocess.run(argv, env={**os.environ, **podman_env}, stdout=subprocess.DEVNULL, check=True)
    return IMAGE


@dataclass
class Site:
    """A folder with a workflow that applies a Pod, and the environment in which `runner` runs it."""

    folder: Path
    pod: str
    env: dict[str, str]

    @property
    def networks(self) -> list[Path]:
        return [*(self.folder / "networks").glob("*.conflist"), *(self.folder / "networks").glob("*.json")]

    def write(self, *steps: str) -> None:
        (self.folder / "flow.yaml").write_text("\n- ".join(("steps:", "apply: pod.yaml", *steps)) + "\n")


@pytest.fixture
def site(tmp_path: Path, podman_env: dict[str, str], podman_image: str) -> Site:
    """The networks of this test are its own: others need the one of the machine."""
    name = f"crash-{secrets.token_hex(4)}"
    (tmp_path / "networks").mkdir()
    (tmp_path / "tmp").mkdir()
    known = Path(podman_env.get("CONTAINERS_CONF", "/nonexistent"))
    own = f'\n[network]\nnetwork_config_dir = "{tmp_path / "networks"}"\n'
    (tmp_path / "containers.conf").write_text((known.read_text() if known.exists() else "") + own)
    (tmp_path / "pod.yaml").write_text(POD.replace("NAME", name).replace("IMAGE", podman_image))
    env = {
        **podman_env,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path / "tmp"),
        "CONTAINERS_CONF": str(tmp_path / "containers.conf"),
    }
    return Site(tmp_path, name, env)


ARGV = [sys.executable, "-m", "runner", "--engine", "podman", "flow.yaml"]


def test_killed_run_leaves_neither_pod_nor_network(site: Site) -> None:
    """Whoever kills it need not clean up."""
    tmp_path, env = site.folder, site.env
    site.write("run: 'touch ready; sleep 300'")
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(ARGV, cwd=tmp_path, env=env, stdout=output, stderr=output)
    _until(lambda: (tmp_path / "ready").exists() or process.poll() is not None)
    assert site.networks, (tmp_path / "output").read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = (tmp_path / "state/runner/runs").iterdir()
    _until(lambda: '"by": "watchdog"' in (folder / "journal.jsonl").read_text())

    there = (
        subprocess.run(["podman", "pod", "exists", site.pod], env={**os.environ, **env}, check=False).returncode == 0
    )
    assert not there
    assert site.networks == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not (folder / "kubeconfig").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", [" build ", "time.sleep"])
@pytest.mark.parametrize("builder", ["podman", "buildah"])
def test_build_that_is_ended_leaves_nothing(
    tmp_path: Path, podman_env: dict[str, str], podman_image: str, builder: str, number: signal.Signals, moment: str
) -> None:
    """Neither the container in which it works, nor that container's process, nor what the runtime (runc, crun) knows of
    it, nor temporary files; whether it has only begun or is in the middle of a RUN.
    """
    name = f"crash-{secrets.token_hex(4)}"
    (tmp_path / "tmp").mkdir()
    code = f"import time; {name!r}; time.sleep(300)"
    (tmp_path / "Dockerfile").write_text(f"FROM localhost/{name}:1\nRUN {json.dumps(['python3', '-c', code])}\n")
    (tmp_path / "flow.yaml").write_text(f"steps: [{{build: {{image: {name}:2, load: false, builder: {builder}}}}}]")
    own = {
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path / "tmp"),
        "KUBECONFIG": os.devnull,
    }
    env = {**os.environ, **podman_env, **own}
    # An image of its own: podman can lose a name of one that somebody else builds at this moment.
    _podman("build", f"--tag=localhost/{name}:1", "-", env=env, stdin=f"FROM {podman_image}\nLABEL of={name}\n")
    try:
        argv = [sys.executable, "-m", "runner", "flow.yaml"]
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=output, stderr=output)
        _until(lambda: bool(_processes(name, moment)) or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "output").read_text()
        process.send_signal(number)
        assert process.wait() == (143 if number == signal.SIGTERM else -number)
        (folder,) = (tmp_path / "state/runner/runs").iterdir()
        _until(lambda: '{"end"' in (folder / "journal.jsonl").read_text())

        assert _processes(name) == []
        # (`podman ps` fails when the container of somebody else goes while it looks)
        exists = ["podman", "container", "exists", "--external", f"{name}-working-container"]
        assert subprocess.run(exists, env=env, check=False).returncode == 1
        known = Path("/run").glob("*run*/buildah-*/stat*")
        assert [path for path in known if str(tmp_path) in path.read_text(errors="replace")] == []
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        _podman("rm", "--force", "--ignore", f"{name}-working-container", env=env)
        _podman("rmi", f"localhost/{name}:1", env=env)


def _podman(*arguments: str, env: dict[str, str], stdin: str = "") -> None:
    argv = ["podman", *arguments]
    answer = subprocess.run(argv, input=stdin, env=env, check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def _processes(*words: str) -> list[str]:
    """The numbers of processes whose command says these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (path / "cmdline").read_text().replace("\0", " ")
            if all(word in line for word in words):
                found.append(path.name)
    return found


def test_network_of_a_run_is_verified_to_be_gone(site: Site) -> None:
    """With the Pod, and without a word more."""
    site.write()
    answer = subprocess.run(ARGV, cwd=site.folder, env=site.env, capture_output=True, text=True, check=False)

    assert answer.returncode == 0, answer.stderr
    assert "warning" not in answer.stderr
    assert re.search(r"cleanup verified +objects=2 left=0", answer.stderr), answer.stderr
    assert site.networks == []


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
