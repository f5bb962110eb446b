"""What a workflow may change only when it says so: the system's namespaces, and cluster-wide objects of others.

`cluster: {allow: [system_namespaces]}` permits writes to the former, `cluster_scoped_delete` the deletion of objects
without a namespace that the run did not make: namespaces, nodes, cluster roles, definitions of kinds.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from runner.errors import StepFailed

SYSTEM_NAMESPACES: Final = "system_namespaces"
CLUSTER_SCOPED_DELETE: Final = "cluster_scoped_delete"

_SYSTEM: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})
# As people write them; the kinds that a cluster does not have built in are known when the step runs.
_CLUSTER_SCOPED: Final = frozenset(
    {
        *("namespace", "namespaces", "ns", "node", "nodes", "no", "persistentvolume", "persistentvolumes", "pv"),
        *("clusterrole", "clusterroles", "clusterrolebinding", "clusterrolebindings"),
        *("storageclass", "storageclasses", "sc", "ingressclass", "ingressclasses", "runtimeclass", "runtimeclasses"),
        *("customresourcedefinition", "customresourcedefinitions", "crd", "crds", "priorityclass", "priorityclasses"),
        *("validatingwebhookconfiguration", "validatingwebhookconfigurations", "apiservice", "apiservices"),
        *("mutatingwebhookconfiguration", "mutatingwebhookconfigurations", "csidriver", "csidrivers"),
    }
)


def is_cluster_scoped(kind: str) -> bool:
    """Whether this word means a built-in kind whose objects have no namespace."""
    return kind.lower().partition(".")[0] in _CLUSTER_SCOPED


def missing_for_write(kind: str, name: str, namespace: str, allowed: Collection[str]) -> str:
    """A sentence when a workflow with these words in `cluster.allow` may not change such an object."""
    if SYSTEM_NAMESPACES in allowed:
        return ""
    of_system = name if kind.lower() in ("namespace", "namespaces", "ns") else namespace
    return f"{kind.lower()}/{name} belongs to the system (namespace {of_system})" if of_system in _SYSTEM else ""


def missing_for_delete(kind: str, name: str, allowed: Collection[str]) -> str:
    """A sentence when it may not delete such an object, which has no namespace and is not the run's own."""
    if CLUSTER_SCOPED_DELETE in allowed:
        return ""
    return f"{kind.lower()}/{name} belongs to the whole cluster, and this run did not make it"


def hint(word: str) -> str:
    """What to write into the workflow."""
    return f"if it must be, say so in the workflow: `cluster: {{allow: [{word}]}}`"


def to_write(kind: str, name: str, namespace: str, allowed: Collection[str]) -> None:
    """Raises `StepFailed` when that is not allowed."""
    if sentence := missing_for_write(kind, name, namespace, allowed):
        raise StepFailed(sentence, hint=hint(SYSTEM_NAMESPACES), reason="not_allowed")


def to_delete(kind: str, name: str, namespace: str, allowed: Collection[str], *, ours: bool) -> None:
    """Raises `StepFailed` when that is not allowed; `namespace` is empty for an object of the whole cluster."""
    to_write(kind, name, namespace, allowed)
    if not (namespace or ours) and (sentence := missing_for_delete(kind, name, allowed)):
        raise StepFailed(sentence, hint=hint(CLUSTER_SCOPED_DELETE), reason="not_allowed")
