"""In which order objects come and go."""

from __future__ import annotations

from runner.cluster import phases
from runner.cluster.protocol import Manifest


def manifest(text: str) -> Manifest:
    """`group/version Kind name` as a manifest."""
    api_version, kind, name = text.split()
    return Manifest({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}, "a.yaml", 1)


LISTED = [
    "example.test/v1 Widget w",
    "v1 Pod p",
    "apiextensions.k8s.io/v1 CustomResourceDefinition d",
    "gateway.networking.k8s.io/v1 Gateway g",
    "v1 Namespace n",
    "apps/v1 Deployment a",
    "rbac.authorization.k8s.io/v1 Role r",
]


def names(found: list[phases.Phase]) -> list[str]:
    return ["".join(item.object["metadata"]["name"] for item in phase) for phase in found]


def test_coming() -> None:
    """Namespaces, definitions, and the rest as it is written."""
    assert names(phases.coming(map(manifest, LISTED))) == ["n", "d", "wpgar"]


def test_going() -> None:
    """Custom resources first, while their controllers run; then backwards. Also those of groups that end in k8s.io."""
    assert names(phases.going(map(manifest, LISTED))) == ["gw", "rap", "d", "n"]


def test_nothing_and_one_phase() -> None:
    """Phases without an object are no phases."""
    assert phases.coming([]) == phases.going([]) == []
    assert names(phases.coming([manifest("v1 Pod p")])) == ["p"]
