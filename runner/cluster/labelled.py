"""What runs left in a cluster, by the labels alone: for runs of machines that are gone."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from runner.cluster.http import ApiError
from runner.cluster.ownership import expires, is_copy, run_of
from runner.cluster.protocol import RUN_LABEL, Object
from runner.journal import Undo

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.resources import Resource
    from runner.deadline import Deadline

_AT_ONCE: Final = 8
# Their controllers copy the labels of what they are for.
_COPIES: Final = frozenset({"Endpoints", "EndpointSlice", "Event"})


@dataclass(frozen=True, slots=True)
class Labelled:
    """The objects of one run, oldest first. `until`: when the last of its processes can be alive; None for kept ones
    alone.
    """

    run: str
    records: tuple[Undo, ...]
    created: datetime
    until: datetime | None


def find(cluster: Kubectl, deadline: Deadline) -> list[Labelled]:
    """All objects of the cluster that carry the label of a run, by run. Kinds that may not be listed are left out."""
    resources = [
        resource
        for resource in cluster.discovery.listed(deadline)
        if resource.listable and resource.kind not in _COPIES
    ]

    def ask(resource: Resource) -> list[Object]:
        try:
            return cluster.objects(resource, "", deadline, labelSelector=RUN_LABEL)
        except ApiError:
            return []

    with ThreadPoolExecutor(_AT_ONCE, "find") as pool:
        found = [item for items in pool.map(ask, resources) for item in items]
    runs: dict[str, list[Object]] = {}
    for item in {item["metadata"]["uid"]: item for item in found}.values():
        if not item["metadata"].get("ownerReferences") and not is_copy(item):
            runs.setdefault(run_of(item), []).append(item)
    return [_labelled(run, items) for run, items in sorted(runs.items())]


def _labelled(run: str, items: Iterable[Object]) -> Labelled:
    ordered = sorted(items, key=lambda item: str(item["metadata"]["creationTimestamp"]))
    records = tuple(_record(run, number, item) for number, item in enumerate(ordered, 1))
    ends = [moment for moment in map(expires, ordered) if moment]
    created = datetime.fromisoformat(ordered[0]["metadata"]["creationTimestamp"])
    return Labelled(run, records, created, max(ends, default=None))


def _record(run: str, number: int, item: Object) -> Undo:
    meta = item["metadata"]
    return Undo(
        id=f"{run}/{number}",
        engine="kubectl",
        api_version=item["apiVersion"],
        kind=item["kind"],
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        uid=meta["uid"],
        keep=expires(item) is None,
    )
