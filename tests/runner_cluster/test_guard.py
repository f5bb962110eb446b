"""The guard: which cluster counts as local, on what proof, and who runs it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.cluster.guard import Machine, Verdict, judge, recognise, refusal, this_machine
from runner.cluster.kubeconfig import Selected
from runner.deadline import Deadline
from runner.errors import CommandResult, ExitCode
from runner.shell import Command, run

if TYPE_CHECKING:
    from runner.cluster.protocol import Object
    from tests.runner_cluster.conftest import Fakes

Run = Callable[[Command], CommandResult]

LINUX = Machine("linux", "boot-1")
MAC = Machine("macos")


@pytest.fixture(autouse=True)
def _no_containerd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINERD_ADDRESS", raising=False)


def selected(server: str = "https://127.0.0.1:6443", context: str = "dev", cluster: str = "", **entry: Any) -> Selected:
    name = cluster or context
    config = {"clusters": [{"name": name, "cluster": {"server": server, **entry}}]}
    return Selected(context, name, server, "default", "user", config)


def node(
    name: str = "n", boot: str = "boot-1", *, provider_id: str = "", address: str = "127.0.0.1", **more: Any
) -> Object:
    """A node as the API server tells of it; `labels`, `kubelet` and `runtime` may be given."""
    return {
        "metadata": {"name": name, "labels": more.get("labels", {})},
        "spec": {"providerID": provider_id} if provider_id else {},
        "status": {
            "nodeInfo": {
                "bootID": boot,
                "kubeletVersion": more.get("kubelet", "v1.34.1"),
                "containerRuntimeVersion": more.get("runtime", "containerd://1.7"),
            },
            "addresses": [{"type": "InternalIP", "address": address}],
        },
    }


def never() -> list[Object]:
    raise AssertionError("the nodes were asked for")


def no_tool(command: Command) -> CommandResult:
    raise AssertionError(f"{command} was run")


@pytest.mark.parametrize(
    "server",
    [
        "https://127.0.0.1:6443",
        "https://127.9.9.9",
        "https://0.0.0.0:41235",
        "https://[::1]:6443",
        "https://[::ffff:127.0.0.1]:6443",
        "https://10.1.2.3:6443",
        "https://172.18.0.2:6443",
        "https://192.168.49.2:8443",
        "https://[fd00::5]:6443",
        "https://[fe80::1%25eth0]:6443",
        "https://localhost:6443",
        "https://LOCALHOST.:6443",
        "localhost:8080",
        "https://api.localhost",
        "https://kubernetes.docker.internal:6443",
        "https://host.docker.internal:6443",
    ],
)
def test_near_addresses(server: str) -> None:
    """Loopback and private addresses, and the names that always mean this machine, can be local."""
    assert judge(selected(server), lambda: [node()], no_tool, LINUX).local


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("https://34.10.20.30", "neither a loopback nor a private address"),
        ("https://172.32.0.1:6443", "neither a loopback nor a private address"),
        ("https://100.64.0.1:6443", "neither a loopback nor a private address"),
        ("https://[2001:db8::1]:6443", "neither a loopback nor a private address"),
        ("https://[::ffff:8.8.8.8]:6443", "neither a loopback nor a private address"),
        ("https://api.example.com", "is a host name"),
        ("https://localhost.example.com", "is a host name"),
        ("https://notlocalhost", "is a host name"),
        ("https://[::1", "is a host name"),
        ("https://", "is a host name"),
    ],
)
def test_far_addresses(server: str, reason: str) -> None:
    """Any other address is refused before the nodes are asked for, whatever the context is called."""
    verdict = judge(selected(server, "kind-kind"), never, no_tool, LINUX)
    assert not verdict.local
    assert reason in verdict.proof
    assert verdict.provider == "remote"


def test_all_boot_ids_prove() -> None:
    """Nodes on this machine's kernel are local, without asking any tool."""
    assert judge(selected(), lambda: [node()], no_tool, LINUX) == Verdict(
        True, "its node runs on this machine: same boot id", "node", "containerd"
    )
    verdict = judge(selected(), lambda: [node("a"), node("b")], no_tool, LINUX)
    assert verdict.proof == "all 2 nodes run on this machine: same boot id"


def test_some_boot_ids_do_not() -> None:
    """A cluster that has one node here and others elsewhere is not local, and no tool can change that."""
    nodes = [node("kind-control-plane", provider_id="kind://docker/kind/kind-control-plane"), node("b", "boot-2")]
    verdict = judge(selected(context="kind-kind"), lambda: nodes, no_tool, LINUX)
    assert (verdict.local, verdict.provider) == (False, "remote")
    assert verdict.proof == "only 1 of its 2 nodes run on this machine, by their boot ids"


def test_tunnel_is_refused() -> None:
    """A far cluster at a local port, by a tunnel or a proxy, has another boot id."""
    verdict = judge(selected(), lambda: [node(boot="boot-2")], no_tool, LINUX)
    assert not verdict.local
    assert "another boot id" in verdict.proof


def test_no_boot_id_is_no_match() -> None:
    """Nothing equals nothing: a machine without a boot id and a node without one do not prove each other."""
    assert not judge(selected(), lambda: [node(boot="")], no_tool, MAC).local


def test_nodes_that_may_not_be_read() -> None:
    """When listing nodes is forbidden nothing is proven, and the sentence says so."""
    verdict = judge(selected(), list, no_tool, LINUX)
    assert not verdict.local
    assert "its nodes cannot be read" in verdict.proof


def test_pod() -> None:
    """The service account of a Pod is its own cluster, whatever the address; nodes are not listed."""
    account = Selected("service-account", "c", "https://34.1.1.1", "ci", "u", {}, in_pod=True)
    verdict = judge(account, never, no_tool, LINUX)
    assert (verdict.local, verdict.provider) == (True, "remote")


KIND_NODE = node("kind-control-plane", "vm", provider_id="kind://docker/kind/kind-control-plane")


def test_kind_vouches(fakes: Fakes, run_command: Run) -> None:
    """In a virtual machine kind's own list is the proof, when its API server is on the context's port."""
    fakes.put(
        "kind", 'case $* in "get clusters") echo other; echo kind;; *) echo "    server: https://127.0.0.1:6443";; esac'
    )
    verdict = judge(selected(context="kind-kind"), lambda: [KIND_NODE], run_command, MAC)
    assert verdict == Verdict(True, "kind lists the cluster 'kind', at this address", "kind", "kind")
    assert fakes.calls == ["kind get clusters", "kind get kubeconfig --name kind"]


def test_kind_of_another_machine(fakes: Fakes, run_command: Run) -> None:
    """A tunnel to somebody else's `kind` is not local, although there is a local cluster of this name too."""
    fakes.put("kind", 'case $* in "get clusters") echo kind;; *) echo "    server: https://127.0.0.1:40001";; esac')
    verdict = judge(selected(context="kind-kind"), lambda: [KIND_NODE], run_command, MAC)
    assert not verdict.local
    assert "kind does not list 'kind' at this address" in verdict.proof


@pytest.mark.parametrize("script", ["echo other", "echo 'No kind clusters found.' >&2", "exit 1", "echo kind; exit 1"])
def test_kind_that_does_not_vouch(fakes: Fakes, run_command: Run, script: str) -> None:
    """Another list, an empty one, or a tool that fails proves nothing."""
    fakes.put("kind", script)
    assert not judge(selected(context="kind-kind"), lambda: [KIND_NODE], run_command, MAC).local


@pytest.mark.usefixtures("fakes")
def test_missing_tool_proves_nothing(run_command: Run) -> None:
    """Names alone do not suffice: without kind there is no proof, and no error."""
    assert not judge(selected(context="kind-kind"), lambda: [KIND_NODE], run_command, MAC).local


def test_slow_tool_proves_nothing(fakes: Fakes) -> None:
    """A tool that hangs is given up."""
    fakes.put("kind", "exec /bin/sleep 20")
    patience = Deadline(0.3)
    verdict = judge(selected(context="kind-kind"), lambda: [KIND_NODE], lambda command: run(command, patience), MAC)
    assert not verdict.local


def test_k3d_vouches(fakes: Fakes, run_command: Run) -> None:
    """k3d's list is the proof, when its API server is on the context's port."""
    fakes.put(
        "k3d",
        """case $* in "cluster list -o json") echo '[{"name": "dev"}]';;
        *) echo '  server: "https://0.0.0.0:6550"';; esac""",
    )
    where = selected("https://0.0.0.0:6550", "k3d-dev")
    nodes = [node("k3d-dev-server-0", "vm")]
    assert judge(where, lambda: nodes, run_command, MAC) == Verdict(
        True, "k3d lists the cluster 'dev', at this address", "k3d", "dev"
    )
    assert not judge(selected("https://0.0.0.0:9999", "k3d-dev"), lambda: nodes, run_command, MAC).local


PROFILES = json.dumps({"invalid": [], "valid": [{"Name": "minikube", "Config": {"Nodes": [{"IP": "192.168.39.2"}]}}]})


@pytest.mark.parametrize(
    ("server", "authority", "local"),
    [
        ("https://192.168.39.2:8443", "", True),
        ("https://192.168.1.7:8443", "", False),
        ("https://127.0.0.1:55000", "own", True),
        ("https://127.0.0.1:55000", "another", False),  # a tunnel to the minikube of another machine
        ("https://127.0.0.1:55000", "", False),
    ],
)
@pytest.mark.parametrize("form", ["file", "data"])
def test_minikube_vouches(
    fakes: Fakes,
    run_command: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    authority: str,
    local: bool,
    form: str,
) -> None:
    """The list of minikube is the proof, for the address of its machine, or a local port with its own certificate."""
    fakes.put("minikube", f"echo '{PROFILES}'")
    monkeypatch.setenv("MINIKUBE_HOME", str(tmp_path))
    (tmp_path / "ca.crt").write_text("own")
    (tmp_path / "given.crt").write_text(authority)
    entry: dict[str, Any] = {"certificate-authority": str(tmp_path / "given.crt")}
    if form == "data":
        entry = {"certificate-authority-data": base64.b64encode(authority.encode()).decode()}
    nodes = [node("minikube", "vm", labels={"minikube.k8s.io/name": "minikube"})]
    assert judge(selected(server, "minikube", **entry), lambda: nodes, run_command, LINUX).local is local


@pytest.mark.parametrize("answer", ["not json", "[]", "{}", '{"valid": null}', '{"valid": [{}]}'])
def test_minikube_that_does_not_vouch(fakes: Fakes, run_command: Run, answer: str) -> None:
    """An answer that cannot be understood proves nothing."""
    fakes.put("minikube", f"echo '{answer}'")
    nodes = [node("minikube", "vm", labels={"minikube.k8s.io/name": "minikube"})]
    assert not judge(selected(context="minikube"), lambda: nodes, run_command, MAC).local


@pytest.mark.parametrize(
    ("context", "cluster", "system", "local"),
    [
        ("docker-desktop", "docker-desktop", "macos", True),
        ("docker-for-desktop", "docker-for-desktop-cluster", "windows", True),
        ("rancher-desktop", "rancher-desktop", "wsl", True),
        ("orbstack", "orbstack", "macos", True),
        ("colima-work", "colima-work", "macos", True),
        ("docker-desktop", "docker-desktop", "linux", False),
        ("docker-desktop", "production", "macos", False),
    ],
)
def test_desktop_applications(context: str, cluster: str, system: str, local: bool) -> None:
    """A desktop application's own context, named so in both places, is local where such applications use a machine of
    their own; on Linux the boot id must prove it.
    """
    where = selected(context=context, cluster=cluster)
    verdict = judge(where, lambda: [node(boot="vm")], no_tool, Machine(system, "boot-1"))
    assert verdict.local is local
    assert verdict.provider == "desktop"


def test_nobody_vouches_behind_a_proxy(fakes: Fakes, run_command: Run) -> None:
    """With proxy-url the address is seen from elsewhere: neither a tool's list nor a name is a proof, a boot id is."""
    fakes.put("kind", 'case $* in "get clusters") echo kind;; *) echo "    server: https://127.0.0.1:6443";; esac')
    proxied = selected(context="kind-kind", **{"proxy-url": "http://corporate"})
    assert not judge(proxied, lambda: [KIND_NODE], run_command, MAC).local
    assert judge(proxied, lambda: [node()], run_command, LINUX).local


@pytest.mark.parametrize(
    ("context", "nodes", "provider"),
    [
        ("kind-a", [node(provider_id="kind://podman/web/web-control-plane")], ("kind", "web")),
        ("renamed", [node("web-control-plane", provider_id="kind://docker/web/web-control-plane")], ("kind", "web")),
        ("kind-web", [node("web-control-plane", address="203.0.113.1")], ("kind", "web")),
        ("kind-web", [node("somewhere", address="203.0.113.1")], ("remote", "")),
        ("renamed", [node("k3d-my-dev-server-0", kubelet="v1.31.5+k3s1")], ("k3d", "my-dev")),
        ("m", [node(labels={"minikube.k8s.io/name": "p1"})], ("minikube", "p1")),
        ("x", [node("docker-desktop")], ("desktop", "x")),
        ("rancher-desktop", [node("my-laptop")], ("desktop", "rancher-desktop")),
        ("x", [node(kubelet="v1.31.5+k3s1")], ("node", "k3s")),
        ("x", [node(kubelet="v1.31.5+rke2r1")], ("node", "rke2")),
        ("x", [node(kubelet="v1.31.5+k0s")], ("node", "k0s")),
        ("x", [node(labels={"microk8s.io/cluster": "true"})], ("node", "microk8s")),
        ("x", [node(runtime="cri-o://1.30.0")], ("node", "cri-o")),
        ("x", [node(runtime="docker://27.0.0")], ("node", "docker")),
        ("x", [node()], ("node", "containerd")),
        ("x", [node(address="203.0.113.1")], ("remote", "")),
        ("x", [node(), node(address="203.0.113.1")], ("remote", "")),
        ("kind-web", [], ("kind", "web")),
        ("k3d-web", [], ("k3d", "web")),
        ("minikube", [], ("minikube", "minikube")),
        ("x", [], ("remote", "")),
    ],
)
def test_providers(context: str, nodes: list[Object], provider: tuple[str, str]) -> None:
    """The provider is told from the marks that nodes bear, without asking a tool; a node that has another address than
    this machine (a container of some tool) is none that can be loaded by hand.
    """
    assert recognise(selected(context=context), nodes) == provider


def test_named_containerd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a containerd says where images go, also from a container that shares the kernel with the node."""
    monkeypatch.setenv("CONTAINERD_ADDRESS", "/run/host/containerd.sock")
    assert recognise(selected(), [node(address="203.0.113.1")]) == ("node", "containerd")


def test_refusal_says_the_ways_out() -> None:
    """The refusal is exit code 3 and names --context, the key of the workflow, and --engine podman."""
    where = selected("https://prod.example.com", "prod")
    error = refusal(judge(where, never, no_tool, LINUX), where)
    assert error.code == ExitCode.CANNOT_START
    assert error.message == (
        "the context prod is not known to be local: its server https://prod.example.com is a host name; "
        "only literal addresses and names like localhost count"
    )
    assert "--context prod" in error.hint
    assert "cluster: {context: prod}" in error.hint
    assert "--engine podman" in error.hint


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="Linux only")
def test_this_machine() -> None:
    """On Linux the machine knows its boot id."""
    machine = this_machine()
    assert machine.system in ("linux", "wsl")
    assert machine.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
