"""Connecting to the cluster of the kubeconfig: what is found out before anything runs."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.cluster import choose
from runner.cluster.choose import Choice, engine_of, open_cluster
from runner.errors import CannotStart
from tests.runner_cluster import fake_api
from tests.runner_cluster.conftest import SERVE

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from tests.runner_cluster.conftest import News
    from tests.runner_cluster.fake_api import FakeApi

BOOT = Path("/proc/sys/kernel/random/boot_id")


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: FakeApi) -> Path:
    """One context, `dev`, whose server is the fake; its node is this machine."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "kubectl").write_text(f"#!/bin/bash\n{SERVE}")
    (folder / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("API", str(api.path))
    file = tmp_path / "kubeconfig"
    config = {
        "clusters": [{"name": "dev", "cluster": {"server": "https://127.0.0.1:6443"}}],
        "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": "dev", "namespace": "team"}}],
        "users": [{"name": "dev", "user": {}}],
        "current-context": "dev",
    }
    file.write_text(json.dumps(config))
    api.put("nodes", "n", namespace="", status={"nodeInfo": {"bootID": BOOT.read_text().strip()}})
    return file


@pytest.fixture
def connect(kubeconfig: Path, tmp_path: Path, news: News) -> Any:
    def open_it(context: str = "") -> Kubectl:
        found = open_cluster(Choice(kubeconfig=str(kubeconfig), context=context), tmp_path, news)
        assert found.engine == "kubectl"
        return found  # type: ignore[return-value]

    return open_it


@pytest.mark.skipif(not BOOT.exists(), reason="needs Linux: the proof is this machine's boot id")
def test_local_cluster_is_opened(connect: Any, api: FakeApi) -> None:
    """Its own namespace holds, and one request was enough."""
    with closing(connect()) as cluster:
        assert (cluster.context, cluster.server, cluster.namespace) == ("dev", "https://127.0.0.1:6443", "team")
        assert cluster.verdict.local
    assert [path for _, _, path in api.requests] == ["/api/v1/nodes"]


def test_cluster_elsewhere_is_refused(connect: Any, api: FakeApi) -> None:
    """Unless it was named; then it is only asked whether it is there."""
    api.put("nodes", "n", namespace="", status={"nodeInfo": {"bootID": "another machine's"}})
    with pytest.raises(CannotStart, match="dev"):
        connect()
    with closing(connect(context="dev")) as cluster:
        assert not cluster.verdict.local
    assert api.requests[-1][2] == "/version"


def test_nodes_that_may_not_be_listed_prove_nothing(connect: Any, api: FakeApi) -> None:
    api.fault(fake_api.status(403, "Forbidden", "nodes is forbidden"), times=2)
    with pytest.raises(CannotStart) as caught:
        connect()
    assert "does not answer" not in caught.value.message


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (fake_api.plain(500, "dial tcp 127.0.0.1:6443: connect: connection refused"), "connection refused"),
        (fake_api.plain(500, "tls: failed to verify certificate: x509: unknown authority"), "x509"),
        (fake_api.status(401, "Unauthorized", "Unauthorized"), "Unauthorized"),
    ],
)
def test_cluster_that_is_not_there_is_said_at_once(connect: Any, api: FakeApi, fault: Any, why: str) -> None:
    api.fault(fault, times=100)
    with pytest.raises(CannotStart) as caught:
        connect()
    assert caught.value.message.startswith("the cluster of context dev (https://127.0.0.1:6443) does not answer: ")
    assert why in caught.value.message
    assert "--engine podman" in caught.value.hint
    assert len(api.requests) == 1


def test_passing_faults_at_the_start_are_survived(connect: Any, api: FakeApi, news: News) -> None:
    for fault in (fake_api.reset, fake_api.status(503), fake_api.status(429), fake_api.status(500)):
        api.fault(fault)
    with closing(connect(context="dev")):
        assert news.rules == ["connection cut", "unavailable", "too many requests", "internal error"]


def test_cluster_that_never_answers_is_given_up(connect: Any, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "ANSWER_SECONDS", 1.3)
    api.fault(fake_api.silent, times=100)
    with pytest.raises(CannotStart) as caught:
        connect()
    assert caught.value.message.endswith("does not answer: no answer within 1 s")


def test_context_that_does_not_exist(connect: Any) -> None:
    with pytest.raises(CannotStart, match="prod"):
        connect(context="prod")


@pytest.mark.skipif(not BOOT.exists(), reason="needs Linux: the proof is this machine's boot id")
def test_proxy_that_does_not_start_is_no_obstacle(connect: Any, api: FakeApi, news: News, tmp_path: Path) -> None:
    """Kubectl processes take its place, and the log says why."""
    nodes = json.dumps({"items": [api.objects["nodes", "", "n"]]})
    (tmp_path / "programs/kubectl").write_text(
        "#!/bin/bash\n"
        "if [[ $1 = proxy ]]; then echo 'error: listen unix: permission denied' >&2; exit 1; fi\n"
        f"[[ $* = 'get --raw=/api/v1/nodes' ]] && echo '{nodes}'\n"
    )
    with closing(connect()) as cluster:
        assert cluster.verdict.local
    ((phrase, fields),) = news.events
    assert phrase == "warning"
    assert fields["message"].startswith("kubectl proxy does not start: error: listen unix: permission denied; so every")


def test_engine_without_any_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """podman, unless kubectl is insisted on."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert engine_of(Choice()) == ("podman", None)
    with pytest.raises(CannotStart) as caught:
        engine_of(Choice("kubectl"))
    assert caught.value.message == (
        f"there is no cluster: no kubeconfig has a current context (looked for in {tmp_path}/none)"
    )


def test_a_kubeconfig_that_is_misspelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, news: News) -> None:
    """Nobody who names one wants a run that passes without a cluster."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(CannotStart, match=r"KUBECONFIG names .*/none, which does not exist") as caught:
        open_cluster(Choice(), tmp_path, news)
    assert "--engine podman" in caught.value.hint
