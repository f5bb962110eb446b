"""Why an object does not go, and what to type."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster import stuck


def live(status: dict[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
    found = {"name": "a", "namespace": "demo", "deletionTimestamp": "2026-01-01T00:00:00Z", **meta}
    return {"metadata": {key: value for key, value in found.items() if value}, "status": status or {}}


def conditions(**messages: str) -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": "True", "message": text} for name, text in messages.items()]}


@pytest.mark.parametrize(
    ("kind", "object_", "why", "hint"),
    [
        (
            "Widget",
            live(finalizers=["x.test/a", "x.test/b"]),
            ", held by its finalizers: x.test/a, x.test/b",
            'kubectl patch widget/a --namespace=demo --type=merge --patch=\'{"metadata":{"finalizers":null}}\'',
        ),
        (
            "Widget",
            live(finalizers=["foregroundDeletion", "x.test/a"]),
            ", held by its finalizers: x.test/a",
            "kubectl patch widget/a",
        ),
        (
            "Deployment",
            live(finalizers=["foregroundDeletion"]),
            ", until the garbage collector is done with what belongs to it",
            "kubectl get deployment/a --namespace=demo -o yaml",
        ),
        (
            "Pod",
            live(deletionGracePeriodSeconds=30),
            ", ending within its grace period of 30 s",
            "kubectl delete pod/a --namespace=demo --grace-period=0 --force",
        ),
        ("Pod", live(deletionTimestamp=""), ", and is not being deleted", "kubectl get pod/a --namespace=demo -o yaml"),
        ("Pod", live(), "", "kubectl get pod/a --namespace=demo -o yaml"),
        (
            "Namespace",
            live(conditions(NamespaceContentRemaining="pods. has 1"), namespace=""),
            ": pods. has 1",
            "kubectl get --show-kind --ignore-not-found --namespace=a",
        ),
        (
            "Namespace",
            live(
                conditions(NamespaceContentRemaining="x", NamespaceDeletionDiscoveryFailure="metrics.k8s.io: stale"),
                namespace="",
            ),
            ": metrics.k8s.io: stale",
            "kubectl get apiservices",
        ),
        (
            "Namespace",
            live(conditions(NamespaceFinalizersRemaining="x.test/a in 1"), namespace=""),
            ": x.test/a in 1",
            "take its finalizers away",
        ),
        ("Namespace", live(namespace=""), "", "kubectl get namespace/a -o yaml"),
    ],
)
def test_why(kind: str, object_: dict[str, Any], why: str, hint: str) -> None:
    """The end of a sentence, and a command with the names of the case."""
    told, advice = stuck.why(kind, object_)

    assert told == why
    assert hint in advice
