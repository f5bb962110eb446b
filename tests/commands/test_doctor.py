"""`runner doctor`: what it finds, what it advises, and its exit code."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.cluster import images
from runner.cluster.guard import this_machine
from runner.commands import doctor
from runner.commands.doctor import Finding, diagnose, render, run

CLIENT = {"clientVersion": {"gitVersion": "v1.34.1"}}
PODMAN = 'case $1 in --version) echo podman version 4.3.1 ;; run) echo started >>"$STARTED" ;; esac'


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Install a program that is a bash script; nothing else is on PATH, and there is no kubeconfig."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(doctor, "TOOL_SECONDS", 60)  # the machine may be busy
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "CONTAINER_HOST", "CONTAINER_CONNECTION"):
        monkeypatch.delenv(name, raising=False)

    def install(name: str, script: str = "") -> None:
        (folder / name).write_text(f'#!/bin/bash\necho "${{0##*/}} $*" >>"$CALLS"\n{script}\n')
        (folder / name).chmod(0o755)

    return install


Put = Callable[..., None]


@pytest.fixture
def context(tmp_path: Path, put: Put) -> None:
    """There is a context `dev` on this machine."""
    config: dict[str, Any] = {
        "clusters": [{"name": "dev", "cluster": {"server": "https://127.0.0.1:6443"}}],
        "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "dev", "namespace": "web"}}],
        "users": [{"name": "dev", "user": {"token": "hunter2"}}],
        "current-context": "dev",
    }
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text(json.dumps(config))


def kubectl(*nodes: dict[str, Any], version: str = "v1.34.1", fail: str = "") -> str:
    """The script of a kubectl whose server has these nodes, or fails with these lines."""
    client = json.dumps({"clientVersion": {"gitVersion": version}})
    answer = f"echo '{fail}' >&2; exit 1" if fail else f"echo '{json.dumps({'items': nodes})}'"
    return f"""case "$*" in "version --client"*) echo '{client}' ;; *"get nodes"*) {answer} ;; esac"""


def node(boot: str = "", **spec: str) -> dict[str, Any]:
    info = {
        "bootID": boot or this_machine().boot_id,
        "kubeletVersion": "v1.34.1",
        "containerRuntimeVersion": "containerd://1.7",
    }
    return {"metadata": {"name": "n1"}, "spec": spec, "status": {"nodeInfo": info}}


def found(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"context": None, "kubeconfig": None, "engine": "auto", "namespace": "", "output": "text", **given}
    )


@pytest.mark.usefixtures("put")
def test_nothing_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    """On an empty machine it says what to install, and exits with 3."""
    assert run(options()) == 3
    text = capsys.readouterr().out
    assert "- kubectl  not installed" in text
    assert "✗ podman   not installed" in text
    assert "→ install it: apt-get install podman" in text
    assert "! builder  none, so no `build` step can run: docker is not installed; podman is not installed" in text
    assert "neither a context (" in text
    assert text.endswith("\nA run cannot start: see podman.\n")


@pytest.mark.usefixtures("context")
def test_everything_is_there(put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    """With a local cluster and a builder a run can start: exit code 0, and each decision has its reason."""
    put("kubectl", kubectl(node()))
    put("podman", PODMAN)
    put("catatonit")
    put("ctr")
    assert run(options()) == 0
    text = capsys.readouterr().out
    assert "✓ kubectl  v1.34.1 (" in text
    assert "✓ podman   4.3.1 (" in text
    assert "- docker   not installed" in text
    assert "✓ builder  podman 4.3.1 (docker is not installed)" in text
    assert "✓ engine   kubectl, because there is a context" in text
    assert "✓ context  dev (https://127.0.0.1:6443), namespace web" in text
    assert "✓ cluster  1 node: n1 (v1.34.1, containerd://1.7)" in text
    assert "✓ guard    local: its node runs on this machine: same boot id" in text
    assert "✓ images   by `ctr -n k8s.io images import FILE`" in text
    assert text.endswith("\nA run can start.\n")
    run(options(namespace="demo"))
    assert "✓ context  dev (https://127.0.0.1:6443), namespace demo" in capsys.readouterr().out


@pytest.mark.usefixtures("context")
def test_json(put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o json` is one object with the same findings."""
    put("kubectl", kubectl(node()))
    run(options(output="json"))
    answer = json.loads(capsys.readouterr().out)
    assert answer["ready"] is True
    assert answer["findings"][1]["name"] == "kubectl"
    assert set(answer["findings"][1]) == {"name", "state", "text", "hint"}


@pytest.mark.usefixtures("context")
def test_secrets_are_not_printed(put: Put, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No credential is printed or passed as an argument, and the copy of the kubeconfig is gone afterwards."""
    put("kubectl", kubectl(node()))
    run(options())
    calls = (tmp_path / "calls").read_text()
    assert "hunter2" not in capsys.readouterr().out + calls
    pinned = next(word.partition("=")[2] for word in calls.split() if word.startswith("--kubeconfig="))
    assert not Path(pinned).exists()


@pytest.mark.usefixtures("context")
def test_dispatcher(put: Put) -> None:
    """A kubectl that starts another one is told apart: its version says nothing."""
    put("kubectl", kubectl(node(), version="v1.32.4-dispatcher"))
    finding = found(diagnose())["kubectl"]
    assert (finding.state, "a dispatcher" in finding.text) == ("warning", True)
    assert "plain kubectl first on PATH" in finding.hint


def test_kubectl_that_does_not_work(put: Put) -> None:
    """A kubectl that prints something else is as good as none, and it is said."""
    put("kubectl", "echo not json")
    finding = found(diagnose(engine="kubectl"))["kubectl"]
    assert finding.state == "missing"
    assert "does not work: not json" in finding.text


@pytest.mark.usefixtures("context")
def test_context_without_kubectl(put: Put) -> None:
    """A context but no kubectl: no run, and the remedy is named."""
    findings = found(diagnose())
    assert findings["kubectl"].state == "missing"
    assert "kubernetes.io" in findings["kubectl"].hint
    assert findings["cluster"].state == "missing"


def test_podman_alone(put: Put, tmp_path: Path) -> None:
    """Without a cluster it is podman, once a container has started in it."""
    put("podman", PODMAN)
    put("catatonit")
    findings = diagnose()
    assert all(finding.state != "missing" for finding in findings)
    assert found(findings)["engine"].text.startswith("podman, because there is neither a context")
    assert found(findings)["podman"].text.endswith("a container starts")
    assert (tmp_path / "started").exists()
    assert "context" not in found(findings)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("Error: runc: error setting rlimit type 7: operation not permitted", "export CONTAINERS_CONF="),
        ("Error: crun: unknown cgroup mode", 'runtime = "runc"'),
        ("Error: command required for rootless mode: newuidmap not found", "apt-get install uidmap"),
        ("Error: something new", "`podman run` must work"),
    ],
)
def test_containers_that_cannot_start(put: Put, error: str, remedy: str) -> None:
    """When no container starts the reason is shown, with what cures it."""
    put("podman", f"case $1 in --version) echo podman version 4.3.1 ;; run) echo '{error}' >&2; exit 126 ;; esac")
    finding = found(diagnose())["podman"]
    assert finding.state == "missing"
    assert f"a container cannot start: {error.removeprefix('Error: ')}" in finding.text
    assert remedy in finding.hint


@pytest.mark.usefixtures("context")
def test_broken_podman_beside_a_cluster(put: Put) -> None:
    """With a cluster a podman that starts no container is only worth a warning."""
    put("kubectl", kubectl(node()))
    put("podman", "case $1 in --version) echo podman version 4.3.1 ;; *) echo 'Error: rlimit' >&2; exit 126 ;; esac")
    findings = diagnose()
    assert found(findings)["podman"].state == "warning"
    assert all(finding.state != "missing" for finding in findings)


def test_missing_catatonit(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods of podman need catatonit."""
    monkeypatch.setattr(doctor, "_CATATONIT", ())
    put("podman", PODMAN)
    assert found(diagnose())["podman"].hint == "apt-get install catatonit"


@pytest.mark.usefixtures("context")
def test_server_that_does_not_answer(put: Put) -> None:
    """An unreachable server is one sentence, without kubectl's log lines, and the ways out."""
    log = 'E1122 10:00:00.000000 1 memcache.go:265] "Unhandled Error"'
    put("kubectl", kubectl(fail=f"{log}\nThe connection to the server 127.0.0.1:6443 was refused\n{log}"))
    finding = found(diagnose())["cluster"]
    assert finding.state == "missing"
    assert finding.text == (
        "the server https://127.0.0.1:6443 cannot be used: The connection to the server 127.0.0.1:6443 was refused"
    )
    assert "--engine podman" in finding.hint


@pytest.mark.usefixtures("context")
def test_everything_is_bounded(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that hang cost a few seconds, all together."""
    monkeypatch.setattr(doctor, "TOOL_SECONDS", 0.3)
    monkeypatch.setattr(doctor, "SERVER_SECONDS", 0.3)
    monkeypatch.setattr(images, "PROBE_SECONDS", 0.3)
    for name in ("kubectl", "docker", "podman"):
        put(name, "exec /bin/sleep 600")
    start = time.monotonic()
    findings = found(diagnose())
    assert time.monotonic() - start < 30
    assert "no answer within 0.3 s" in findings["kubectl"].text
    assert findings["cluster"].state == "missing"


@pytest.mark.usefixtures("context")
def test_cluster_that_is_not_local(put: Put) -> None:
    """A cluster that is not proven local is refused, unless it is named."""
    put("kubectl", kubectl(node("another-machine")))
    finding = found(diagnose())["guard"]
    assert finding.state == "missing"
    assert "another boot id" in finding.text
    assert "--context dev" in finding.hint
    named = found(diagnose(context="dev"))
    assert named["guard"].state == "ok"
    assert named["guard"].text.endswith("but named by --context")
    assert named["images"].text.startswith("by push")


@pytest.mark.usefixtures("context")
def test_nodes_that_may_not_be_listed(put: Put) -> None:
    """A server that forbids listing nodes answers, but proves nothing."""
    put("kubectl", kubectl(fail="Error from server (Forbidden): nodes is forbidden"))
    findings = found(diagnose())
    assert findings["cluster"].text == "it answers, but does not let us see its nodes"
    assert findings["guard"].state == "missing"


@pytest.mark.usefixtures("context")
def test_unknown_context(put: Put) -> None:
    """A context that does not exist is the one thing to repair, with the names that do."""
    put("kubectl", kubectl(node()))
    finding = found(diagnose(context="deb"))["context"]
    assert finding.state == "missing"
    assert finding.hint == "did you mean dev? there is dev"


def test_kubectl_without_context(put: Put) -> None:
    """`--engine kubectl` without any context cannot run."""
    put("kubectl", kubectl(node()))
    findings = found(diagnose(engine="kubectl"))
    assert findings["engine"].text == "kubectl, by --engine"
    assert findings["context"].state == "missing"


@pytest.mark.usefixtures("context")
def test_podman_by_wish(put: Put) -> None:
    """`--engine podman` leaves the cluster aside, whatever is wrong with it."""
    put("podman", PODMAN)
    put("catatonit")
    findings = found(diagnose(engine="podman"))
    assert findings["engine"].text == "podman, by --engine"
    assert "context" not in findings


@pytest.mark.usefixtures("context")
def test_images_without_their_tool(put: Put) -> None:
    """When the provider's tool for images is missing, or does not work, that is a warning with the remedy."""
    put("kubectl", kubectl(node(providerID="kind://docker/web/n1")))
    finding = found(diagnose())["images"]
    assert (finding.state, finding.hint) == ("warning", "install kind")
    assert finding.text == "by `kind load image-archive FILE --name web`, but kind is not installed"
    put("kubectl", kubectl(node()))
    put("ctr", "echo 'ctr: permission denied' >&2; exit 1")
    finding = found(diagnose())["images"]
    assert finding.text.endswith("but: ctr: permission denied")
    assert "CONTAINERD_ADDRESS" in finding.hint


def test_render_is_aligned() -> None:
    """The lines stand in columns, a hint under its finding."""
    findings = [Finding("kubectl", "ok", "v1"), Finding("podman", "missing", "not installed", "install it")]
    assert render(findings) == (
        "✓ kubectl  v1\n✗ podman   not installed\n           → install it\n\nA run cannot start: see podman.\n"
    )


@pytest.mark.e2e
@pytest.mark.skipif(not os.environ.get("KUBECONFIG") or not shutil.which("kubectl"), reason="needs KUBECONFIG")
def test_real_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    """On the cluster of the tests everything is found, and a run can start."""
    code = run(options())
    text = capsys.readouterr().out
    assert code == 0, text
    assert "✓ guard" in text
