"""In which order the objects of manifests come, and go. Pure: `plan` shows the same order that a run keeps.

They come in three phases: namespaces, then the definitions of kinds (the cluster must serve a kind before an object of
it can be made), then the rest as written. They go in the reverse order, and custom resources before everything else:
their controller may have to take a finalizer away, so it must still run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from runner.cluster.protocol import Manifest

Phase = tuple[Manifest, ...]

# The groups of kinds that Kubernetes itself serves; those of definitions may end in `.k8s.io` as well.
_BUILTIN_GROUPS: Final = frozenset(
    {
        *("", "apps", "autoscaling", "batch", "extensions", "policy"),
        *(
            f"{name}.k8s.io"
            for name in (
                *("admissionregistration", "apiextensions", "apiregistration", "authentication", "authorization"),
                *("certificates", "coordination", "discovery", "events", "flowcontrol.apiserver", "internal.apiserver"),
                *("networking", "node", "rbac.authorization", "resource", "scheduling", "storage", "storagemigration"),
            )
        ),
    }
)


def coming(manifests: Iterable[Manifest]) -> list[Phase]:
    """The phases in which objects are applied; empty ones left out."""
    return _grouped(manifests, _rank)


def going(manifests: Iterable[Manifest]) -> list[Phase]:
    """The phases in which objects are deleted: the last one applied is the first to go."""
    return _grouped(reversed(list(manifests)), lambda manifest: -1 if _is_custom(manifest) else _LAST - _rank(manifest))


_LAST: Final = 2


def _rank(manifest: Manifest) -> int:
    return {"Namespace": 0, "CustomResourceDefinition": 1}.get(manifest.object["kind"], _LAST)


def _is_custom(manifest: Manifest) -> bool:
    group, slash, _ = str(manifest.object["apiVersion"]).rpartition("/")
    return bool(slash) and group not in _BUILTIN_GROUPS


def _grouped(manifests: Iterable[Manifest], rank: Callable[[Manifest], int]) -> list[Phase]:
    groups: dict[int, list[Manifest]] = {}
    for manifest in manifests:
        groups.setdefault(rank(manifest), []).append(manifest)
    return [tuple(groups[key]) for key in sorted(groups)]
