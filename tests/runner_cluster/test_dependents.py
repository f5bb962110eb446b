"""What hangs on an object: by the table for kinds of Kubernetes, among everything for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runner.cluster import dependents
from runner.cluster.dependents import family, of_the_gone
from runner.cluster.resources import BUILTIN, Resource
from runner.deadline import Deadline
from runner.journal import Dependent, Undo
from tests.runner_cluster import fake_api

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from tests.runner_cluster.fake_api import FakeApi

WIDGET = Resource("example.test/v1", "Widget", "widgets", namespaced=True)
FLEET = Resource("example.test/v1", "Fleet", "fleets", namespaced=False)


def served(group: str, version: str, *resources: tuple[str, str, str, tuple[str, ...]]) -> dict[str, Any]:
    """A group as aggregated discovery tells of it: (kind, plural, scope, verbs) of each resource."""
    return {
        "metadata": {"name": group},
        "versions": [
            {
                "version": version,
                "resources": [
                    {"resource": plural, "responseKind": {"kind": kind}, "scope": scope, "verbs": list(verbs)}
                    for kind, plural, scope, verbs in resources
                ],
            }
        ],
    }


@pytest.fixture(autouse=True)
def _discovery(api: FakeApi) -> None:
    every = ("get", "list")
    core = served(
        "",
        "v1",
        ("ConfigMap", "configmaps", "Namespaced", every),
        ("Pod", "pods", "Namespaced", every),
        ("Event", "events", "Namespaced", every),
        ("Binding", "bindings", "Namespaced", ("create",)),
        ("Namespace", "namespaces", "Cluster", every),
    )
    custom = served(
        "example.test", "v1", ("Widget", "widgets", "Namespaced", every), ("Fleet", "fleets", "Cluster", every)
    )
    api.discovery = {
        "/api": {"kind": "APIGroupDiscoveryList", "items": [core]},
        "/apis": {"kind": "APIGroupDiscoveryList", "items": [custom]},
    }


def put(api: FakeApi, plural: str, name: str, *owners: str, namespace: str = "default") -> Any:
    references = [{"uid": f"uid of {owner}"} for owner in owners]
    return api.put(plural, name, namespace=namespace, metadata={"ownerReferences": references} if owners else {})


def gone(kind: str, name: str, namespace: str = "default", api_version: str = "v1", *below: Dependent) -> Undo:
    return Undo(
        id=f"test/{name}",
        engine="kubectl",
        api_version=api_version,
        kind=kind,
        name=name,
        namespace=namespace,
        uid=f"uid of {name}",
        dependents=below,
    )


def test_a_custom_owner_may_own_anything(api: FakeApi, cluster: Kubectl) -> None:
    """Objects of every kind that can be listed, and what they own in turn; by their metadata alone."""
    live = put(api, "widgets", "w")
    put(api, "configmaps", "settings", "w")
    put(api, "widgets", "part", "w")
    put(api, "pods", "of-part", "part")
    put(api, "configmaps", "of-another", "x")

    members = family(cluster, WIDGET, live, Deadline(10))

    assert str(members[0]) == "widget/w"
    assert sorted(map(str, members[1:])) == ["configmap/settings", "pod/of-part", "widget/part"]
    assert api.asked("/(events|bindings|namespaces|fleets)$") == 0


def test_a_cluster_scoped_owner_owns_in_every_namespace(api: FakeApi, cluster: Kubectl) -> None:
    live = put(api, "fleets", "f", namespace="")
    put(api, "fleets", "small", "f", namespace="")
    put(api, "configmaps", "a", "small", namespace="one")
    put(api, "pods", "b", "f", namespace="two")

    members = family(cluster, FLEET, live, Deadline(10))

    assert sorted(f"{member.namespace}:{member}" for member in members) == [
        ":fleet/f",
        ":fleet/small",
        "one:configmap/a",
        "two:pod/b",
    ]


def test_kinds_of_kubernetes_cost_no_more_than_they_own(api: FakeApi, cluster: Kubectl) -> None:
    """Not even a look at what the cluster serves."""
    config_map = next(item for item in BUILTIN if item.kind == "ConfigMap")
    assert len(family(cluster, config_map, put(api, "configmaps", "a"), Deadline(10))) == 1
    assert api.requests == []


def test_what_has_another_owner_stays_with_it(api: FakeApi, cluster: Kubectl) -> None:
    """The garbage collector leaves it, so nobody waits for its end."""
    live = put(api, "widgets", "w")
    put(api, "configmaps", "shared", "w", "x")
    put(api, "configmaps", "of-both-generations", "w", "part")
    put(api, "widgets", "part", "w")

    members = family(cluster, WIDGET, live, Deadline(10))

    assert sorted(map(str, members)) == ["configmap/of-both-generations", "widget/part", "widget/w"]


def test_kinds_that_may_not_be_listed_or_do_not_answer(
    api: FakeApi, cluster: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector finds what is forbidden; a kind whose server is away is named."""
    monkeypatch.setattr(dependents, "_KIND_SECONDS", 0.3)
    put(api, "configmaps", "left", "w")
    api.fault(fake_api.status(403, "Forbidden"), "GET .*/pods")
    api.fault(fake_api.status(503), "GET .*/widgets", times=100)

    found, silent = of_the_gone(cluster, [gone("Widget", "w", "default", "example.test/v1")], Deadline(10))

    assert [str(member) for member in found["test/w"]] == ["configmap/left"]
    assert silent == ["widget.example.test"]


def test_dependents_of_objects_that_are_gone(api: FakeApi, cluster: Kubectl) -> None:
    """By the UIDs of the owner and of what was between; what lived in a namespace that went, went too."""
    put(api, "pods", "a", "set")
    put(api, "pods", "b", "of-nobody")
    between = Dependent(api_version="apps/v1", kind="ReplicaSet", name="set", namespace="default", uid="uid of set")

    records = [
        gone("Deployment", "web", "default", "apps/v1", between),
        gone("Namespace", "space", ""),
        gone("Job", "inside", "space", "batch/v1"),
    ]
    found, silent = of_the_gone(cluster, records, Deadline(10))

    assert {key: list(map(str, members)) for key, members in found.items()} == {"test/web": ["pod/a"]}
    assert silent == []
    assert api.asked("namespaces/space") == 0
