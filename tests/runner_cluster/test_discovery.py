"""From a kind, as a manifest or a person spells it, to the resource of the API server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runner.cluster import discovery
from runner.deadline import Deadline
from runner.errors import StepFailed
from tests.runner_cluster import fake_api

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from tests.runner_cluster.fake_api import FakeApi


def widgets(group: str = "example.test") -> dict[str, Any]:
    """Aggregated discovery of one custom resource."""
    resource = {
        "resource": "widgets",
        "responseKind": {"group": group, "version": "v1", "kind": "Widget"},
        "scope": "Namespaced",
        "shortNames": ["wd"],
    }
    group_ = {"metadata": {"name": group}, "versions": [{"version": "v1", "resources": [resource]}]}
    return {"kind": "APIGroupDiscoveryList", "items": [group_]}


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("pod", "/api/v1/namespaces/demo/pods/x"),
        ("Pods", "/api/v1/namespaces/demo/pods/x"),
        ("po", "/api/v1/namespaces/demo/pods/x"),
        ("deploy", "/apis/apps/v1/namespaces/demo/deployments/x"),
        ("deployment.apps", "/apis/apps/v1/namespaces/demo/deployments/x"),
        ("deployments.v1.apps", "/apis/apps/v1/namespaces/demo/deployments/x"),
        ("ns", "/api/v1/namespaces/x"),
        ("crd", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/x"),
    ],
)
def test_kinds_of_every_cluster_cost_no_request(api: FakeApi, cluster: Kubectl, word: str, path: str) -> None:
    assert cluster.discovery.of_word(word, Deadline(5)).path("demo", "x") == path
    assert api.requests == []


def test_custom_kind_is_asked_for_once(api: FakeApi, cluster: Kubectl) -> None:
    """By a person's word and by a manifest's; what kubectl is told is unambiguous."""
    api.discovery["/apis"] = widgets()
    found = cluster.discovery.of_word("wd", Deadline(5))
    assert found == cluster.discovery.of_word("widgets.example.test", Deadline(5))
    assert found == cluster.discovery.of_manifest("example.test/v1", "Widget", Deadline(5))
    assert (found.argument, found.path("demo")) == (
        "widget.example.test",
        "/apis/example.test/v1/namespaces/demo/widgets",
    )
    assert api.asked("GET /apis$") == 1


def test_kind_that_came_later_is_found(api: FakeApi, cluster: Kubectl) -> None:
    """An old answer is not the last word."""
    with pytest.raises(StepFailed):
        cluster.discovery.of_word("widget", Deadline(5))
    api.discovery["/apis"] = widgets()
    assert cluster.discovery.of_word("widget", Deadline(5)).kind == "Widget"


def test_kind_that_went_is_forgotten(api: FakeApi, cluster: Kubectl) -> None:
    api.discovery["/apis"] = widgets()
    cluster.discovery.of_word("widget", Deadline(5))
    cluster.discovery.forget()
    api.discovery["/apis"] = fake_api._aggregated()
    with pytest.raises(StepFailed):
        cluster.discovery.of_word("widget", Deadline(5))


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("pdo", "the cluster knows no kind 'pdo'", "did you mean po?"),
        ("deploymnet", "the cluster knows no kind 'deploymnet'", "did you mean Deployment?"),
        ("widgte", "the cluster knows no kind 'widgte'", "did you mean Widget?"),
        ("zzzzzz", "the cluster knows no kind 'zzzzzz'", ""),
    ],
)
def test_unknown_word(api: FakeApi, cluster: Kubectl, word: str, message: str, hint: str) -> None:
    """The nearest kind that there is, custom ones too."""
    api.discovery["/apis"] = widgets()
    with pytest.raises(StepFailed) as caught:
        cluster.discovery.of_word(word, Deadline(5))
    assert (caught.value.message, caught.value.hint, caught.value.reason) == (message, hint, "NoKindMatch")


@pytest.mark.parametrize(
    ("version", "kind", "hint"),
    [
        ("example.test/v1", "Gadget", "apply its CustomResourceDefinition first"),
        ("v1", "Pdo", "did you mean Pod?"),
        ("v1", "Deploymnet", "did you mean Deployment (`apiVersion: apps/v1`)?"),
        ("v1", "pod", "did you mean Pod?"),
        ("v1", "Deployment", "write `apiVersion: apps/v1`"),
        ("app/v1", "Deployment", "write `apiVersion: apps/v1`"),
    ],
)
def test_unknown_kind_of_a_manifest(cluster: Kubectl, version: str, kind: str, hint: str) -> None:
    """A manifest has a kind in a version; the other words that kubectl takes do not count there."""
    with pytest.raises(StepFailed) as caught:
        cluster.discovery.of_manifest(version, kind, Deadline(5))
    assert caught.value.message == f"the cluster knows no kind {kind} in {version}"
    assert caught.value.hint == hint


def test_servers_without_aggregated_discovery(api: FakeApi, cluster: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group by group; one whose backend is away hides no other."""
    monkeypatch.setattr(discovery, "_GROUP_SECONDS", 0.2)
    item = {"name": "widgets", "kind": "Widget", "namespaced": True, "shortNames": ["wd"]}
    groups = [
        {"versions": [{"groupVersion": "metrics.test/v1"}]},
        {"versions": [{"groupVersion": "example.test/v1"}]},
    ]
    api.discovery |= {
        "/api": {"kind": "APIVersions", "versions": []},
        "/apis": {"kind": "APIGroupList", "groups": groups},
        "/apis/example.test/v1": {"resources": [item, {**item, "name": "widgets/status"}]},
    }
    api.fault(fake_api.status(503, "ServiceUnavailable", "no endpoints"), "/apis/metrics.test/v1", times=1000)
    found = cluster.discovery.of_word("wd", Deadline(5))
    assert (found.plural, found.group_version) == ("widgets", "example.test/v1")


def test_faults_are_survived(api: FakeApi, cluster: Kubectl) -> None:
    api.discovery["/apis"] = widgets()
    cluster.patience.known = True
    for fault in (fake_api.reset, fake_api.garbage, fake_api.status(500)):
        api.fault(fault, "GET /api")
    assert cluster.discovery.of_word("widget", Deadline(5)).kind == "Widget"
