"""Deleting what is ours, and knowing when it is gone: with every dependent, and never another's object.

Cleanup deletes through the API, not through kubectl, because only there a delete can carry the UID as a precondition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from runner.cluster import stuck
from runner.cluster.discovery import BUILTIN, Resource
from runner.cluster.http import ApiError
from runner.cluster.observer import PROBE
from runner.cluster.protocol import RUN_LABEL, Gone, Object, RemovingHand, selector_of
from runner.deadline import Deadline
from runner.errors import Cancelled, Expired, RunnerError, StepFailed, TimedOut

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.journal import Undo

# Which kinds an object of a kind may own. Kinds that are not here may own anything (custom resources).
_OWNS: Final[dict[str, tuple[str, ...]]] = {
    "Deployment": ("ReplicaSet", "Pod"),
    "ReplicaSet": ("Pod",),
    "ReplicationController": ("Pod",),
    "StatefulSet": ("Pod", "ControllerRevision"),
    "DaemonSet": ("Pod", "ControllerRevision"),
    "CronJob": ("Job", "Pod"),
    "Job": ("Pod",),
    "Service": ("EndpointSlice",),
    "Pod": ("PersistentVolumeClaim",),
    **dict.fromkeys(
        [
            "ConfigMap",
            "Secret",
            "ServiceAccount",
            "PersistentVolumeClaim",
            "Role",
            "RoleBinding",
            "Ingress",
            "NetworkPolicy",
            "LimitRange",
            "ResourceQuota",
            "Endpoints",
            "EndpointSlice",
            "Event",
            "PodDisruptionBudget",
            "HorizontalPodAutoscaler",
        ],
        (),
    ),
}
FORBIDDEN: Final = 403
_SILENCE_SECONDS: Final = 60.0
"""A cleanup waits this long for an API server that is not there, such as one that is being restarted."""
NOT_FOUND: Final = 404
CONFLICT: Final = 409
_AT_ONCE: Final = 8
# How long a request that its sender did not survive may take to become an object.
_SETTLING_PAUSES: Final = (0.5, 1.5)
# Labels that only controllers write.
_MARKS: Final = frozenset(
    {"pod-template-hash", "controller-revision-hash", "controller-uid", "batch.kubernetes.io/controller-uid"}
)
# Controllers that make new Pods when theirs go: in a hurry they are orphaned first.
_CONTROLLERS: Final = (
    "CronJob",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicationController",
    "ReplicaSet",
    "Job",
)
_BUILTIN: Final = frozenset((resource.group_version, resource.kind) for resource in BUILTIN)
_BY_KIND: Final = {resource.kind: resource for resource in BUILTIN}


def _native(resource: Resource) -> str:
    """The kind, where it is one of Kubernetes itself: a Job of another API group is none of those rules know of."""
    return resource.kind if (resource.group_version, resource.kind) in _BUILTIN else ""


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


def family(cluster: Kubectl, resource: Resource, live: Object, deadline: Deadline) -> list[Member]:
    """An object and every dependent that is reachable by ownerReferences."""
    meta = live["metadata"]
    members = [Member(resource, meta.get("namespace", ""), meta["name"], meta["uid"])]
    if not resource.namespaced:
        return members
    default = tuple(kind for kind in _BY_KIND if _BY_KIND[kind].namespaced and kind not in ("Event", "Endpoints"))
    owners = {meta["uid"]}
    kinds = _OWNS.get(_native(resource), default)
    things = [
        (_BY_KIND[kind], item["metadata"])
        for kind in kinds
        for item in _listed(cluster, _BY_KIND[kind], meta["namespace"], deadline)
    ]
    while True:  # once more for each level: an owner may stand behind what it owns
        found = [
            (dependent, own)
            for dependent, own in things
            if own["uid"] not in owners and owners & {owner["uid"] for owner in own.get("ownerReferences", ())}
        ]
        if not found:
            return members
        owners |= {own["uid"] for _, own in found}
        members += [Member(dependent, own["namespace"], own["name"], own["uid"]) for dependent, own in found]


def _listed(cluster: Kubectl, resource: Resource, namespace: str, deadline: Deadline) -> list[Object]:
    """The objects of a kind; none where they may not be listed: the garbage collector will find them."""
    try:
        return cluster.objects(resource, namespace, deadline)
    except ApiError as error:
        if error.status == FORBIDDEN:
            return []
        raise


def await_gone(cluster: Kubectl, resource: Resource, namespace: str, name: str, uid: str, deadline: Deadline) -> None:
    """Return when no object of this UID is there; raises the deadline's exceptions."""
    query = {"fieldSelector": f"metadata.name={name}"}
    for objects in cluster.observe(resource, namespace, query, deadline):
        if all(item["metadata"]["uid"] != uid for item in objects):
            return


def await_all_gone(cluster: Kubectl, members: Iterable[Member], hand: RemovingHand) -> None:
    """`await_gone` for many; a timeout says what keeps the object."""
    for member in members:
        hand.waiting(f"{member} to be gone")
        try:
            await_gone(cluster, member.resource, member.namespace, member.name, member.uid, hand.deadline)
        except Expired as error:
            why, hint = _obstacle(cluster, member)
            raise TimedOut(f"{error.message}: {member} still exists{why}", reason="timeout", hint=hint) from None


def what_holds(cluster: Kubectl, member: Member) -> str:
    """Why an object is still there, as the end of a sentence."""
    return _obstacle(cluster, member)[0]


def _obstacle(cluster: Kubectl, member: Member) -> tuple[str, str]:
    """(why an object is still there, as the end of a sentence; what to type)."""
    with Deadline(2) as deadline:
        try:
            live = cluster.patiently("GET", member.path, deadline)
        except RunnerError:
            return "", ""
    return stuck.why(member.resource.kind, live)


@dataclass(frozen=True, slots=True)
class _Fired:
    """A deletion that was started, or could not be."""

    record: Undo
    members: Sequence[Member] = ()
    error: RunnerError | None = None

    @property
    def unsure(self) -> bool:
        """Nothing was there, but the run died or was told to stop while it was being made."""
        return not (self.members or self.error or self.record.uid)


def undo(cluster: Kubectl, records: Sequence[Undo], hand: RemovingHand, *, hurry: bool) -> Iterator[Gone]:
    """Fire all deletes, newest first (in a hurry several at once), then wait for each.

    A custom resource is waited for before anything older goes: its controller may have to take a finalizer away. What
    lives in a namespace that goes too has the short grace of a hurry.
    """
    try:
        with hand.deadline.child(_SILENCE_SECONDS) as deadline:
            cluster.patiently("GET", PROBE, deadline)
    except ApiError:
        pass  # it is there
    except RunnerError as error:
        yield from (Gone(record, error.message) for record in reversed(records))
        return
    doomed = {record.name for record in records if record.kind == "Namespace"}

    def fire(record: Undo) -> _Fired:
        try:
            return _Fired(record, _fire(cluster, record, hand, hurry=hurry or bool(doomed & {record.namespace})))
        except RunnerError as error:
            return _Fired(record, error=error)

    fired: list[_Fired] = []
    if hurry:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE, "undo") as pool:
            fired = list(pool.map(fire, reversed(records)))
    else:
        for record in reversed(records):
            shot = fire(record)
            if shot.members and (record.api_version, record.kind) not in _BUILTIN:
                yield _await(cluster, shot, hand)
            else:
                fired.append(shot)
            if isinstance(shot.error, Cancelled):
                break
    for shot in _settled(fired, fire, hand):
        yield _await(cluster, shot, hand)


def _settled(fired: Sequence[_Fired], fire: Callable[[Undo], _Fired], hand: RemovingHand) -> Iterator[_Fired]:
    """All of them; those that may still be on their way to the API server are looked for again."""
    yield from (shot for shot in fired if not shot.unsure)
    unsure = [shot for shot in fired if shot.unsure]
    for pause in _SETTLING_PAUSES if unsure else ():
        with suppress(RunnerError):
            hand.deadline.pause(pause)
        shots = [fire(shot.record) for shot in unsure]
        yield from (shot for shot in shots if not shot.unsure)
        unsure = [shot for shot in shots if shot.unsure]
    yield from unsure


def _await(cluster: Kubectl, shot: _Fired, hand: RemovingHand) -> Gone:
    if isinstance(shot.error, Cancelled):
        return Gone(shot.record, f"its deletion was not reached before {shot.error.message}")
    if shot.error:
        return Gone(shot.record, shot.error.message, hopeless=_is_hopeless(shot.error))
    for member in shot.members:
        try:
            hand.waiting(f"{member} to be gone")
            await_gone(cluster, member.resource, member.namespace, member.name, member.uid, hand.deadline)
        except Expired:
            return Gone(shot.record, f"{member} still exists{what_holds(cluster, member)}")
        except Cancelled as error:
            return Gone(shot.record, f"its deletion was started, and not waited for ({error.message})")
        except RunnerError as error:
            return Gone(shot.record, f"{member} may still exist: {error.message}")
    return Gone(shot.record, found=bool(shot.members))


def _is_hopeless(error: RunnerError) -> bool:
    """Whether the API server will say no to this again."""
    return isinstance(error, ApiError) and error.status in (401, FORBIDDEN, 405, 422)


def _fire(cluster: Kubectl, record: Undo, hand: RemovingHand, *, hurry: bool) -> list[Member]:
    """Start the deletion of one object, if it is ours; answers who has to vanish."""
    try:
        resource = cluster.discovery.of_manifest(record.api_version, record.kind, hand.deadline)
    except StepFailed as error:
        if error.reason == "NoKindMatch":  # its definition is gone, and all objects of the kind with it
            return []
        raise
    live = _live(cluster, resource, record, hand.deadline)
    if live is None:
        return []
    members = family(cluster, resource, live, hand.deadline)
    claims = _claims(cluster, live, hand.deadline) if _native(resource) == "StatefulSet" else []
    if resource.kind == "Namespace":
        _empty(cluster, record.name, hand.deadline)
    if hurry and _native(resource) in _CONTROLLERS:
        return _orphan_and_end(cluster, [*members, *claims], hand.deadline)
    for member in (members[0], *claims):  # Kubernetes lets a claim go when no Pod uses it any more
        _delete(cluster, member, hand.deadline, hurry=hurry)
    return [*members, *claims]


def _claims(cluster: Kubectl, live: Object, deadline: Deadline) -> list[Member]:
    """The volume claims that a StatefulSet made by its templates; Kubernetes leaves them, and nobody owns them. What
    has such a name but is older than the StatefulSet was there before.
    """
    meta, resource = live["metadata"], _BY_KIND["PersistentVolumeClaim"]
    names = [template["metadata"]["name"] for template in live["spec"].get("volumeClaimTemplates") or ()]
    if not names:
        return []
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, names))})-{re.escape(meta['name'])}-\d+")
    found = [item["metadata"] for item in _listed(cluster, resource, meta["namespace"], deadline)]
    return [
        Member(resource, own["namespace"], own["name"], own["uid"])
        for own in found
        if pattern.fullmatch(own["name"]) and own["creationTimestamp"] >= meta["creationTimestamp"]
    ]


def _live(cluster: Kubectl, resource: Resource, record: Undo, deadline: Deadline) -> Object | None:
    """The object, if it exists and is the one that the run made."""
    try:
        live: Object = cluster.patiently("GET", resource.path(record.namespace, quote(record.name)), deadline)
    except ApiError as error:
        if error.status == NOT_FOUND:  # a kind that is not served any more has no reason with it
            return None
        raise
    meta = live["metadata"]
    ours = meta["uid"] == record.uid if record.uid else (meta.get("labels") or {}).get(RUN_LABEL) == record.run
    return live if ours else None


def _delete(
    cluster: Kubectl, member: Member, deadline: Deadline, *, hurry: bool = False, propagation: str = ""
) -> None:
    options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": member.uid}}
    if propagation or _native(member.resource) in _CONTROLLERS:
        options["propagationPolicy"] = propagation or "Foreground"
    if hurry and member.resource.kind == "Pod":
        options["gracePeriodSeconds"] = 1
    try:
        cluster.patiently("DELETE", member.path, deadline, options)
    except ApiError as error:
        # NotFound: gone meanwhile. Conflict: the name belongs to another object now.
        if error.status not in (NOT_FOUND, CONFLICT):
            raise


def _orphan_and_end(cluster: Kubectl, members: Sequence[Member], deadline: Deadline) -> list[Member]:
    """Controllers first, without their dependents, so that nobody makes Pods again; then the Pods, quickly.

    Answers all that has to vanish: the members, and what a controller made while it was being deleted.
    """
    found = list(members)
    for kind in _CONTROLLERS:
        controllers = [member for member in found if _native(member.resource) == kind]
        selectors = [_selector(cluster, member, deadline) for member in controllers]
        for member in controllers:
            _delete(cluster, member, deadline, propagation="Orphan")
        for member, selector in zip(controllers, selectors, strict=True):
            await_gone(cluster, member.resource, member.namespace, member.name, member.uid, deadline)
            if selector:
                found += _orphans(cluster, member, selector, {item.uid for item in found}, deadline)
    for member in found:
        if _native(member.resource) not in _CONTROLLERS:
            _delete(cluster, member, deadline, hurry=True)
    return found


def _selector(cluster: Kubectl, member: Member, deadline: Deadline) -> str:
    """The labels of a controller's dependents, as a selector; empty when it is gone or has none."""
    try:
        live = cluster.patiently("GET", member.path, deadline)
    except ApiError:
        return ""
    return selector_of(((live.get("spec") or {}).get("selector") or {}).get("matchLabels") or {})


def _orphans(cluster: Kubectl, owner: Member, selector: str, known: set[str], deadline: Deadline) -> Iterator[Member]:
    """What a controller made between the listing and its end: without an owner, but with a controller's mark."""
    for kind in _OWNS.get(_native(owner.resource), ()):
        for item in cluster.objects(_BY_KIND[kind], owner.namespace, deadline, labelSelector=selector):
            meta = item["metadata"]
            marked = _MARKS & (meta.get("labels") or {}).keys()
            if marked and not meta.get("ownerReferences") and meta["uid"] not in known:
                yield Member(_BY_KIND[kind], owner.namespace, meta["name"], meta["uid"])


def _empty(cluster: Kubectl, namespace: str, deadline: Deadline) -> None:
    """End all Pods of a namespace that goes, before its own deletion gives them their full grace."""
    members = [
        Member(_BY_KIND[kind], namespace, item["metadata"]["name"], item["metadata"]["uid"])
        for kind in (*_CONTROLLERS, "Pod")
        for item in _listed(cluster, _BY_KIND[kind], namespace, deadline)
    ]
    _orphan_and_end(cluster, members, deadline)
