"""What hangs on objects by ownerReferences, through all generations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from runner.cluster.http import ApiError
from runner.cluster.protocol import Object
from runner.cluster.resources import BUILTIN, Resource
from runner.deadline import Deadline
from runner.errors import Cancelled, RunnerError
from runner.journal import Dependent

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.journal import Undo

OWNS: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("ReplicaSet", "Pod"),
    "ReplicaSet": ("Pod",),
    "ReplicationController": ("Pod",),
    "StatefulSet": ("Pod", "ControllerRevision"),
    "DaemonSet": ("Pod", "ControllerRevision"),
    "CronJob": ("Job", "Pod"),
    "Job": ("Pod",),
    "Service": ("EndpointSlice",),
    "Pod": ("PersistentVolumeClaim",),
}
"""Which kinds an object of a kind of Kubernetes owns; those that are not here own nothing. All other kinds may own
anything.
"""
BY_KIND: Final = {resource.kind: resource for resource in BUILTIN}
_BUILTIN: Final = frozenset((resource.group_version, resource.kind) for resource in BUILTIN)
# Many, and never owned.
_PASSED_OVER: Final = frozenset({"Event", "Endpoints"})
_METADATA: Final = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"}
_AT_ONCE: Final = 8
_KIND_SECONDS: Final = 5.0
"""How long one kind may take to be listed: an API service whose backend is away must not hide all others."""
_CLOSED: Final = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
"""Answers for a kind that may not or cannot be listed: the garbage collector will find its objects."""


def native(resource: Resource) -> str:
    """The kind, where it is one of Kubernetes itself: a Job of another API group is none of those rules know of."""
    return resource.kind if is_native(resource.group_version, resource.kind) else ""


def is_native(api_version: str, kind: str) -> bool:
    return (api_version, kind) in _BUILTIN


@dataclass(frozen=True, slots=True)
class Member:
    """One object that has to vanish: itself, or a dependent."""

    resource: Resource
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.resource.kind.lower()}/{self.name}"

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace, quote(self.name))

    @property
    def record(self) -> Dependent:
        """How the journal remembers it."""
        return Dependent(
            api_version=self.resource.group_version,
            kind=self.resource.kind,
            name=self.name,
            namespace=self.namespace,
            uid=self.uid,
        )


@dataclass(frozen=True, slots=True)
class _Thing:
    """An object that is there, and the UIDs of its owners."""

    member: Member
    owners: frozenset[str]


def family(cluster: Kubectl, resource: Resource, live: Object, deadline: Deadline) -> list[Member]:
    """An object and every dependent that goes with it. What has another owner besides stays as long as that does."""
    meta = live["metadata"]
    head = Member(resource, meta.get("namespace", ""), meta["name"], meta["uid"])
    return [head, *heirs(cluster, [[head]], deadline)]


def heirs(cluster: Kubectl, families: Iterable[Sequence[Member]], deadline: Deadline) -> list[Member]:
    """What is there of the dependents of families (each with its head first), besides themselves: a controller may have
    made one more while it was being deleted.
    """
    look = _Look(cluster, deadline)
    found: list[Member] = []
    for members in families:
        head = members[0]
        kinds = _may_own(head.resource.group_version, head.resource.kind)
        found += _below({member.uid for member in members}, look.around(kinds, head.namespace))
    return found


def of_the_gone(
    cluster: Kubectl, gone: Sequence[Undo], deadline: Deadline
) -> tuple[dict[str, list[Member]], list[str]]:
    """(what is still there of the dependents of objects that are gone, by the id of their record; kinds that did not
    answer). What lived in a namespace that went with them went, too.
    """
    spaces = {record.name for record in gone if record.kind == "Namespace"}
    look = _Look(cluster, deadline)
    found: dict[str, list[Member]] = {}
    for record in gone:
        if record.namespace in spaces:
            continue
        kinds = _may_own(record.api_version, record.kind)
        owners = {record.uid, *(dependent.uid for dependent in record.dependents)}
        if members := _below(owners, look.around(kinds, record.namespace)):
            found[record.id] = members
    return found, look.silent


def _may_own(api_version: str, kind: str) -> tuple[str, ...] | None:
    """The kinds of what an object of this kind may own; None for any."""
    return OWNS.get(kind, ()) if is_native(api_version, kind) else None


def _below(owners: Collection[str], things: Iterable[_Thing]) -> list[Member]:
    """The things that only these own, and those that only they own, and so on."""
    owners, rest = set(owners), list(things)
    members: list[Member] = []
    while True:  # once more for each level: an owner may stand behind what it owns
        found = [thing.member for thing in rest if thing.owners <= owners and thing.member.uid not in owners]
        if not found:
            return members
        owners |= {member.uid for member in found}
        members += found


class _Look:
    """Lists the objects that have owners, each kind in each place once."""

    def __init__(self, cluster: Kubectl, deadline: Deadline) -> None:
        self._cluster = cluster
        self._deadline = deadline
        self._listed: Callable[[Resource, str], list[_Thing]] = cache(self._list)
        self.silent: list[str] = []
        """The kinds that did not answer."""

    def around(self, kinds: Sequence[str] | None, namespace: str) -> list[_Thing]:
        """What an object in this namespace may own: these kinds, or (None) any."""
        if kinds is not None:
            return [thing for kind in kinds for thing in self._listed(BY_KIND[kind], namespace)]
        resources = [
            resource
            for resource in self._cluster.discovery.listed(self._deadline)
            if resource.listable and resource.kind not in _PASSED_OVER and (resource.namespaced or not namespace)
        ]
        with ThreadPoolExecutor(_AT_ONCE, "dependents") as pool:
            lists = pool.map(lambda resource: self._listed(resource, namespace), resources)
            return [thing for things in lists for thing in things]

    def _list(self, resource: Resource, namespace: str) -> list[_Thing]:
        try:
            with self._deadline.child(_KIND_SECONDS) as deadline:
                answer = self._cluster.patiently("GET", resource.path(namespace), deadline, headers=_METADATA)
        except Cancelled:
            raise
        except RunnerError as error:
            self._deadline.check()
            if not (isinstance(error, ApiError) and error.status in _CLOSED):
                self.silent.append(resource.argument)
            return []
        return list(_owned(resource, answer["items"] or ()))  # null in an empty list of metadata


def _owned(resource: Resource, items: Iterable[Mapping[str, Any]]) -> Iterator[_Thing]:
    for item in items:
        meta = item["metadata"]
        if owners := meta.get("ownerReferences"):
            member = Member(resource, meta.get("namespace", ""), meta["name"], meta["uid"])
            yield _Thing(member, frozenset(owner["uid"] for owner in owners))
