"""The engine `kubectl`: its argv, and what it keeps for the children of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runner.cluster.kubectl import KubectlDialect, complete_condition, ready_condition
from runner.cluster.protocol import Selection

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from tests.runner_cluster.fake_api import FakeApi

DIALECT = KubectlDialect()
WEB = Selection("deployment", ("web", "api"), namespace="demo")
LABELLED = Selection("pod", selector="app=web")


def test_delete() -> None:
    """Every default that matters is written out."""
    rest = "--grace-period=5 --ignore-not-found --wait=false"
    assert [str(command) for command in DIALECT.delete([WEB, LABELLED], 5)] == [
        f"kubectl delete --request-timeout=35s deployment/web deployment/api --namespace=demo {rest}",
        f"kubectl delete --request-timeout=35s pod --selector=app=web {rest}",
    ]
    (strict,) = DIALECT.delete([LABELLED], None, ignore_not_found=False)
    assert str(strict) == "kubectl delete --request-timeout=35s pod --selector=app=web --wait=false"


def test_observations() -> None:
    """The lines that they stand for."""
    assert str(DIALECT.describe(WEB)) == "kubectl describe deployment/web deployment/api --namespace=demo"
    assert DIALECT.wait(LABELLED, "ready", 30) == (
        "kubectl wait pod --selector=app=web --for=condition=Ready --timeout=30s",
    )
    assert DIALECT.wait(WEB, "condition=Available", 30) == (
        "kubectl wait deployment/web deployment/api --namespace=demo --for=condition=Available --timeout=30s",
    )
    assert str(DIALECT.forward(WEB, ["8080:80"], "127.0.0.1")) == (
        "kubectl port-forward --address=127.0.0.1 --namespace=demo deployment/web 8080:80"
    )


@pytest.mark.parametrize(
    ("kind", "condition"),
    [
        ("pod", "condition=Ready"),
        ("deploy", "condition=Available"),
        ("deployments.apps", "condition=Available"),
        ("job", "condition=Complete"),
        ("rs", "jsonpath={.status.availableReplicas}"),
        ("pv", "jsonpath={.status.phase}"),
        ("clusterrole", "create"),
        ("crd", "condition=Established"),
        ("pvc", "jsonpath={.status.phase}=Bound"),
        ("namespace", "jsonpath={.status.phase}=Active"),
        ("configmap", "create"),
        ("widget.example.test", "condition=Ready"),
    ],
)
def test_what_ready_is_called(kind: str, condition: str) -> None:
    assert ready_condition(kind) == condition


def test_ready_workloads() -> None:
    """A condition is true in the middle of a rollout, `rollout status` is not; older kubectl takes one object only."""
    status, limit = "kubectl rollout status", "--timeout=30s"
    labelled = Selection("sts", selector="app=web", namespace="demo")
    names = "kubectl get sts --selector=app=web --namespace=demo --output=name"
    replicas = "kubectl get rs/web '--output=jsonpath={.spec.replicas}'"

    assert DIALECT.wait(WEB, "ready", 30) == (
        f"{status} deployment/web --namespace=demo {limit}",
        f"{status} deployment/api --namespace=demo {limit}",
    )
    assert DIALECT.wait(labelled, "ready", 30) == (f"{names} | xargs -n1 {status} --namespace=demo {limit}",)
    assert DIALECT.wait(Selection("rs", ("web",)), "ready", 30) == (
        f'kubectl wait rs/web "--for=jsonpath={{.status.availableReplicas}}=$({replicas})" {limit}',
    )


def test_what_complete_is_called() -> None:
    assert complete_condition("po") == "jsonpath={.status.phase}=Succeeded"
    assert complete_condition("job.batch") == "condition=Complete"


def test_namespace_of_the_run_holds_for_its_children(cluster: Kubectl, tmp_path: Path) -> None:
    """In the pinned kubeconfig, so that a script's kubectl sees it; nobody else reads that file."""
    pinned = Path(str(cluster.environment["KUBECONFIG"]))
    pinned.write_text(json.dumps({"contexts": [{"name": "dev", "context": {"cluster": "dev"}}]}))
    cluster.use_namespace("made-1")
    (context,) = json.loads(pinned.read_text())["contexts"]
    assert context["context"] == {"cluster": "dev", "namespace": "made-1"}
    assert cluster.namespace == "made-1"
    assert pinned.stat().st_mode & 0o777 == 0o600


def test_children_do_not_read_preferences_of_the_user(cluster: Kubectl) -> None:
    """A kuberc can turn `delete --wait` around."""
    assert cluster.environment["KUBERC"] == "off"


def test_selection_is_expanded(api: FakeApi, cluster: Kubectl) -> None:
    """A selector means what there is now; names are taken at their word."""
    from runner.deadline import Deadline

    api.put("pods", "a", metadata={"labels": {"app": "web"}})
    api.put("pods", "b", metadata={"labels": {"app": "other"}})
    by_label = cluster.expand(LABELLED, Deadline(5))
    assert [(ref.kind, ref.name, ref.namespace, ref.api_version) for ref in by_label] == [("Pod", "a", "default", "v1")]
    assert [str(ref) for ref in cluster.expand(Selection("po", ("x", "y")), Deadline(5))] == ["pod/x", "pod/y"]
