"""What tests of all folders share: the program as a person starts it, fake programs, a real cluster."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner import masking

ROOT = Path(__file__).parents[1]

Completed = subprocess.CompletedProcess[str]
Runner = Callable[..., Completed]

# What a child sees of this environment; everything else would make tests depend on the machine.
_PASSED_ON = ("PATH", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
# What containers and clusters need beside that.
_OF_ENGINES = ("HOME", "XDG_RUNTIME_DIR", "CONTAINERD_ADDRESS", "CONTAINERS_CONF", "DOCKER_HOST", "BASE_IMAGE")


def _start(
    arguments: Sequence[object], folder: Path, env: Mapping[str, str], cwd: Path | None, timeout: float
) -> Completed:
    """Run `runner` with a state and a home in `folder`."""
    own = {
        "HOME": str(folder / "home"),
        "XDG_STATE_HOME": str(folder / "state"),
        "KUBECONFIG": os.devnull,
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-m", "runner", *map(str, arguments)],
        env={**_part_of_environment(_PASSED_ON), **own, **env},
        cwd=cwd or ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _part_of_environment(names: Sequence[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


@pytest.fixture(autouse=True)
def _no_secrets() -> Iterator[None]:
    """What one test declared secret must not be masked in the next."""
    yield
    masking.forget()


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """The program in a process of its own: `runner("run", file, env={…}, cwd=…, timeout=…)`.

    It sees a fresh home, no cluster, and little of this environment; `env` is laid over that. The working directory is
    the project's unless `cwd` says otherwise.
    """

    def run(
        *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 180
    ) -> Completed:
        return _start(arguments, tmp_path, env or {}, cwd, timeout)

    return run


@dataclass(frozen=True)
class FakeBin:
    """A folder that is first on PATH."""

    folder: Path

    def put(self, name: str, script: str = "") -> None:
        """Install a program: bash that records its arguments, and then runs `script`."""
        path = self.folder / name
        path.write_text(f"#!/bin/bash\n{{ printf '%s\\037' {name} \"$@\"; echo; }} >>'{self._log}'\n{script}\n")
        path.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        """The argv of every call so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.split("\037")[:-1] for line in lines]

    @property
    def _log(self) -> Path:
        return self.folder / ".calls"


@pytest.fixture
def fake_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBin:
    """Fake programs, first on PATH: `fake_bin.put("kubectl", "echo pod/a")`, then `fake_bin.calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return FakeBin(folder)


@pytest.fixture
def example(tmp_path: Path) -> Callable[[str], Path]:
    """`example("pod")`: a copy of workflows/pod.yaml, and of what it needs, in a folder named `workflows`. Its forward
    has a free local port: somebody else on this machine may listen on 5000.
    """

    def copy(name: str) -> Path:
        file = shutil.copytree(ROOT / "workflows", tmp_path / "workflows") / f"{name}.yaml"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        text = file.read_text().replace('"5000:5000"', f'"{port}:5000"')
        file.write_text(text.replace("localhost:5000", f"localhost:{port}"))
        return file

    return copy


# --- real engines: tests that are marked e2e or podman


@pytest.fixture(autouse=True)
def _alone_on_the_machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of the tests that share things of this machine (podman's Pods and network, the image of the examples), one runs
    at a time, in whichever process. (The groups of pytest-xdist 3.8 have no effect with pytest 9.2.)
    """
    if not any(request.node.get_closest_marker(name) for name in ("example", "podman")):
        yield
        return
    with (tmp_path_factory.getbasetemp().parent / "machine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def cluster_env() -> dict[str, str]:
    """The environment in which `runner` and kubectl reach the cluster of the tests. Without one the test fails."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("no cluster: `make e2e` starts one, and KUBECONFIG=... make e2e takes yours", pytrace=False)
    return _part_of_environment(("KUBECONFIG", *_OF_ENGINES))


@pytest.fixture(scope="session")
def podman_env() -> dict[str, str]:
    """The environment in which `runner` finds podman, and no cluster. Without podman the test fails."""
    if shutil.which("podman") is None:
        pytest.fail("podman is not installed: `make e2e` installs it", pytrace=False)
    return _part_of_environment(_OF_ENGINES)


@pytest.fixture(scope="session")
def kubectl(cluster_env: dict[str, str]) -> Callable[..., str]:
    """Ask the cluster: `kubectl("get", "pods", "-n", namespace)` answers what kubectl printed."""

    def run(*arguments: str, check: bool = True) -> str:
        argv = ["kubectl", "--request-timeout=20s", *arguments]
        env = {**os.environ, **cluster_env}
        answer = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert answer.returncode == 0 or not check, f"{' '.join(argv)}: {answer.stderr}"
        return answer.stdout

    return run


@pytest.fixture
def namespace(kubectl: Callable[..., str]) -> Iterator[str]:
    """A new namespace that can take Pods; its deletion afterwards is not waited for."""
    name = f"test-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    deadline = time.monotonic() + 30
    while not kubectl("get", "serviceaccount", "default", "-n", name, "--ignore-not-found", "-o", "name"):
        assert time.monotonic() < deadline, f"{name} gets no service account: is the controller-manager alive?"
        time.sleep(0.1)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def app_image(cluster_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """`pythonapp`, built once and known to every node of the cluster: a web server on port 5000 that says hello."""
    folder = tmp_path_factory.mktemp("app")
    lock = (tmp_path_factory.getbasetemp().parent / "app.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # one worker builds, the others find it built
    shutil.copytree(ROOT / "workflows" / "pythonapp", folder / "pythonapp")
    (folder / "app.yaml").write_text(
        "inputs: {base: {env: BASE_IMAGE, default: docker.io/library/python:3-alpine}}\n"
        'steps: [{build: {image: pythonapp, context: pythonapp, args: {BASE: "${{ inputs.base }}"}}}]\n'
    )
    answer = _start(["run", "app.yaml"], folder, cluster_env, folder, 300)
    lock.close()
    assert answer.returncode == 0, f"the app's image cannot be built or loaded:\n{answer.stdout}{answer.stderr}"
    return "pythonapp"
