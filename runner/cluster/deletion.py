"""Deleting what is ours, and knowing when it is gone: with every dependent, and never another's object.

Cleanup deletes through the API, not through kubectl, because only there a delete can carry the UID as a precondition.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from runner.cluster import dependents, stuck
from runner.cluster.dependents import BY_KIND, OWNS, Member, family, native
from runner.cluster.http import ApiError
from runner.cluster.observer import PROBE
from runner.cluster.protocol import RUN_LABEL, Gone, Object, RemovingHand, UndoingHand, selector_of
from runner.cluster.resources import Resource
from runner.deadline import Deadline
from runner.errors import Cancelled, Expired, RunnerError, StepFailed, TimedOut

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.journal import Dependent, Undo

FORBIDDEN: Final = 403
_SILENCE_SECONDS: Final = 60.0
"""A cleanup waits this long for an API server that is not there, such as one that is being restarted."""
NOT_FOUND: Final = 404
CONFLICT: Final = 409
_AT_ONCE: Final = 8
_FIRST_NEWS: Final = 3.0
_NEWS: Final = 10.0
"""Seconds until what is waited for is said again, with what keeps it."""
_LOOK_SECONDS: Final = 2.0
"""For a last look at what is still there, at all of it together."""
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


def await_gone(cluster: Kubectl, member: Member, deadline: Deadline) -> None:
    """Return when no object of this UID is there; raises the deadline's exceptions."""
    query = {"fieldSelector": f"metadata.name={member.name}"}
    for objects in cluster.observe(member.resource, member.namespace, query, deadline, (member.name,)):
        if all(item["metadata"]["uid"] != member.uid for item in objects):
            return


def _attend(cluster: Kubectl, member: Member, hand: RemovingHand) -> None:
    """`await_gone`, and tell now and then what keeps the object."""
    hand.waiting(f"{member} to be gone")
    life = hand.deadline.child()
    teller = threading.Thread(target=_tell, args=(cluster, member, hand, life), name=f"news of {member}", daemon=True)
    teller.start()
    try:
        with life:
            await_gone(cluster, member, life)
    finally:
        life.cancel("it is over")


def _tell(cluster: Kubectl, member: Member, hand: RemovingHand, life: Deadline) -> None:
    """Say again and again what is waited for, and what keeps it, until `life` ends."""
    began, pause = time.monotonic(), _FIRST_NEWS
    with suppress(RunnerError):
        while True:
            life.pause(pause)
            pause = _NEWS
            holds = what_holds(cluster, member)
            life.check()
            hand.waiting(f"{member} to be gone{holds}", round(time.monotonic() - began, 1))


def await_all_gone(cluster: Kubectl, members: Iterable[Member], hand: RemovingHand) -> None:
    """`await_gone` for many; a timeout says what keeps the object."""
    for member in members:
        try:
            _attend(cluster, member, hand)
        except Expired as error:
            why, hint = _obstacle(cluster, member)
            raise TimedOut(f"{error.message}: {member} still exists{why}", reason="timeout", hint=hint) from None


def what_holds(cluster: Kubectl, member: Member) -> str:
    """Why an object is still there, as the end of a sentence."""
    return _obstacle(cluster, member)[0]


def _obstacle(cluster: Kubectl, member: Member) -> tuple[str, str]:
    """(why an object is still there, as the end of a sentence; what to type)."""
    with Deadline(_LOOK_SECONDS) as deadline:
        try:
            live = cluster.patiently("GET", member.path, deadline)
        except RunnerError:
            return "", ""
    return stuck.why(member.resource.kind, live)


@dataclass(slots=True)
class _Fired:
    """A deletion that was started, or could not be; `members` are who has to vanish."""

    record: Undo
    members: list[Member] = field(default_factory=list)
    error: RunnerError | None = None
    uid: str = ""
    """Of the object itself, when it was there."""
    replaced: bool = False
    """Whether somebody else made another one of the same name in its place."""

    @property
    def unsure(self) -> bool:
        """Nothing was there, but the run died or was told to stop while it was being made."""
        return not (self.members or self.error or self.record.uid)


def what_outlived(cluster: Kubectl, gone: Sequence[Undo], deadline: Deadline) -> tuple[list[Gone], list[str]]:
    """Dependents of objects that are gone, and that are still there at the deadline; and the kinds that could not be
    looked through. The garbage collector may take a moment after their owner.
    """
    found, silent = dependents.of_the_gone(cluster, gone, deadline)
    left = []
    for record in gone:
        for member in found.get(record.id, ()):
            try:
                await_gone(cluster, member, deadline)
            except (Expired, Cancelled):
                left.append(_still_there(cluster, _Fired(record, [member]), "", Deadline(_LOOK_SECONDS)))
    return [item for item in left if item.why], silent


def _await_server(cluster: Kubectl, hand: UndoingHand) -> None:
    try:
        with hand.deadline.child(_FIRST_NEWS) as briefly:
            cluster.patiently("GET", PROBE, briefly)
            return
    except TimedOut:
        hand.deadline.check()
    hand.waiting(f"the API server to answer, for {_SILENCE_SECONDS:g} s at most")
    with hand.deadline.child(_SILENCE_SECONDS) as deadline:
        cluster.patiently("GET", PROBE, deadline)


def undo(cluster: Kubectl, records: Sequence[Undo], hand: UndoingHand, *, hurry: bool) -> Iterator[Gone]:
    """Fire all deletes, newest first (in a hurry several at once), then wait for each.

    A custom resource is waited for before anything older goes: its controller may have to take a finalizer away. What
    lives in a namespace that goes too has the short grace of a hurry.
    """
    try:
        _await_server(cluster, hand)
    except ApiError:
        pass  # it is there
    except RunnerError as error:
        yield from (Gone(record, _why_not_begun(error)) for record in reversed(records))
        return
    doomed = {record.name for record in records if record.kind == "Namespace"}
    last_look = cache(lambda: Deadline(_LOOK_SECONDS))

    def fire(record: Undo) -> _Fired:
        shot = _Fired(record)
        try:
            _fire(cluster, shot, hand, hurry=hurry or bool(doomed & {record.namespace}))
        except RunnerError as error:
            shot.error = error
        return shot

    fired: list[_Fired] = []
    if hurry:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_AT_ONCE, "undo") as pool:
            fired = list(pool.map(fire, reversed(records)))
    else:
        for record in reversed(records):
            shot = fire(record)
            if shot.members and not dependents.is_native(record.api_version, record.kind):
                yield _await(cluster, shot, hand, last_look)
            else:
                fired.append(shot)
            if isinstance(shot.error, Cancelled):
                break
    for shot in _settled(fired, fire, hand):
        yield _await(cluster, shot, hand, last_look)


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


def _await(cluster: Kubectl, shot: _Fired, hand: RemovingHand, last_look: Callable[[], Deadline]) -> Gone:
    if shot.error and not (shot.members and isinstance(shot.error, Cancelled)):
        return Gone(shot.record, _why_not_begun(shot.error), hopeless=_is_hopeless(shot.error))
    member = None
    try:
        if shot.error:
            raise shot.error
        for member in shot.members:
            _attend(cluster, member, hand)
    except Expired:
        return _still_there(cluster, shot, "", last_look())
    except Cancelled as error:
        return _still_there(cluster, shot, f"; not waited for ({error.message})", last_look())
    except RunnerError as error:
        return Gone(shot.record, f"{member} may still exist: {error.message}")
    return Gone(shot.record, found=bool(shot.members), replaced=shot.replaced)


def _why_not_begun(error: RunnerError) -> str:
    return f"its deletion was not reached before {error.message}" if isinstance(error, Cancelled) else error.message


def _still_there(cluster: Kubectl, shot: _Fired, because: str, deadline: Deadline) -> Gone:
    """What came of a deletion whose end was not awaited: asked once more, so that what is named is there indeed."""
    found = [(member, live) for member in shot.members if (live := _seen(cluster, member, deadline)) is not None]
    if not found:
        return Gone(shot.record)
    member, live = found[0]
    held = stuck.why(member.resource.kind, live)[0] if live else ""
    hint = stuck.remedy(member.resource.kind, live) if live else ""
    if shot.uid in {member.uid for member, _ in found}:
        return Gone(shot.record, f"{member} still exists{held}{because}", hint=hint)
    whose = f"; {shot.record}, to which it belongs, is gone"
    rest = tuple(item.record for item, _ in found)
    return Gone(shot.record, f"{member} still exists{held}{whose}{because}", rest=rest, hint=hint)


def _seen(cluster: Kubectl, member: Member, deadline: Deadline) -> Object | None:
    """The object, if it is still there; empty where nobody answers."""
    try:
        live: Object = cluster.patiently("GET", member.path, deadline)
    except ApiError as error:
        return None if error.status == NOT_FOUND else {}
    except RunnerError:
        return {}
    return live if live["metadata"]["uid"] == member.uid else None


def _is_hopeless(error: RunnerError) -> bool:
    """Whether the API server will say no to this again."""
    return isinstance(error, ApiError) and error.status in (401, FORBIDDEN, 405, 422)


def _fire(cluster: Kubectl, shot: _Fired, hand: UndoingHand, *, hurry: bool) -> None:
    """Start the deletion of one object, if it is ours, and of what outlived it. Who has to vanish is written down
    first: when the owner is gone, nobody else knows it.
    """
    record, deadline = shot.record, hand.deadline
    resource = _resource(cluster, record, deadline)
    live = _live(cluster, resource, record, deadline) if resource else None
    if live and not _is_ours(live, record):
        shot.replaced, live = bool(record.uid), None
    own: list[Member] = []  # what is deleted here; the rest of the family goes by itself
    if resource and live:
        shot.uid = live["metadata"]["uid"]
        shot.members += family(cluster, resource, live, deadline)
        own = shot.members[:1]
        if native(resource) == "StatefulSet":
            own += _claims(cluster, live, deadline)  # Kubernetes lets a claim go when no Pod uses it any more
    own += _survivors(cluster, record, {member.uid for member in (*shot.members, *own)}, deadline)
    shot.members += [member for member in own if member not in shot.members]
    _write_down(hand, record, shot.members)
    if live and record.kind == "Namespace":
        _empty(cluster, record.name, deadline)
    if hurry and own and (live is None or native(own[0].resource) in _CONTROLLERS):
        _orphan_and_end(cluster, shot.members, deadline, lambda: _write_down(hand, record, shot.members))
        return
    for member in own:
        _delete(cluster, member, deadline, hurry=hurry)


def _write_down(hand: UndoingHand, record: Undo, members: Iterable[Member]) -> None:
    if more := [member.record for member in members if member.uid != record.uid]:
        hand.depends(record, more)


def _resource(cluster: Kubectl, record: Undo | Dependent, deadline: Deadline) -> Resource | None:
    """None when its definition is gone, and all objects of the kind with it."""
    try:
        return cluster.discovery.of_manifest(record.api_version, record.kind, deadline)
    except StepFailed as error:
        if error.reason == "NoKindMatch":
            return None
        raise


def _survivors(cluster: Kubectl, record: Undo, known: set[str], deadline: Deadline) -> Iterator[Member]:
    """Dependents that an earlier deletion wrote down, and that are still there: they end slowly, or were orphaned."""
    for dependent in record.dependents:
        if dependent.uid not in known and (resource := _resource(cluster, dependent, deadline)):
            member = Member(resource, dependent.namespace, dependent.name, dependent.uid)
            try:
                live = cluster.patiently("GET", member.path, deadline)
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
                continue
            if live["metadata"]["uid"] == member.uid:
                yield member


def _claims(cluster: Kubectl, live: Object, deadline: Deadline) -> list[Member]:
    """The volume claims that a StatefulSet made by its templates; Kubernetes leaves them, and nobody owns them. They
    carry the labels of its selector. What has such a name but is older than the StatefulSet was there before.
    """
    meta, resource = live["metadata"], BY_KIND["PersistentVolumeClaim"]
    names = [template["metadata"]["name"] for template in live["spec"].get("volumeClaimTemplates") or ()]
    if not names:
        return []
    labels = live["spec"]["selector"].get("matchLabels") or {}
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, names))})-{re.escape(meta['name'])}-\d+")
    found = [item["metadata"] for item in _listed(cluster, resource, meta["namespace"], deadline)]
    return [
        Member(resource, own["namespace"], own["name"], own["uid"])
        for own in found
        if pattern.fullmatch(own["name"])
        and own["creationTimestamp"] >= meta["creationTimestamp"]
        and labels.items() <= (own.get("labels") or {}).items()
    ]


def _listed(cluster: Kubectl, resource: Resource, namespace: str, deadline: Deadline) -> list[Object]:
    """The objects of a kind; none where they may not be listed: the garbage collector will find them."""
    try:
        return cluster.objects(resource, namespace, deadline)
    except ApiError as error:
        if error.status == FORBIDDEN:
            return []
        raise


def _live(cluster: Kubectl, resource: Resource, record: Undo, deadline: Deadline) -> Object | None:
    """What has the object's name now."""
    try:
        live: Object = cluster.patiently("GET", resource.path(record.namespace, quote(record.name)), deadline)
    except ApiError as error:
        if error.status == NOT_FOUND:  # a kind that is not served any more has no reason with it
            return None
        raise
    return live


def _is_ours(live: Object, record: Undo) -> bool:
    meta = live["metadata"]
    return bool(meta["uid"] == record.uid if record.uid else (meta.get("labels") or {}).get(RUN_LABEL) == record.run)


def _delete(
    cluster: Kubectl, member: Member, deadline: Deadline, *, hurry: bool = False, propagation: str = ""
) -> None:
    options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": member.uid}}
    if propagation or native(member.resource) in _CONTROLLERS:
        options["propagationPolicy"] = propagation or "Foreground"
    if hurry and member.resource.kind == "Pod":
        options["gracePeriodSeconds"] = 1
    try:
        cluster.patiently("DELETE", member.path, deadline, options)
    except ApiError as error:
        # NotFound: gone meanwhile. Conflict: the name belongs to another object now.
        if error.status not in (NOT_FOUND, CONFLICT):
            raise


def _orphan_and_end(
    cluster: Kubectl, found: list[Member], deadline: Deadline, more: Callable[[], None] = lambda: None
) -> None:
    """Controllers first, without their dependents, so that nobody makes Pods again; then the Pods, quickly.

    What a controller made while it was being deleted is added to `found`, and `more` is called then.
    """
    for kind in _CONTROLLERS:
        controllers = [member for member in found if native(member.resource) == kind]
        selectors = [_selector(cluster, member, deadline) for member in controllers]
        for member in controllers:
            _delete(cluster, member, deadline, propagation="Orphan")
        for member, selector in zip(controllers, selectors, strict=True):
            await_gone(cluster, member, deadline)
            late = list(_orphans(cluster, member, selector, {item.uid for item in found}, deadline)) if selector else []
            if late:
                found += late
                more()
    for member in found:
        if native(member.resource) not in _CONTROLLERS:
            _delete(cluster, member, deadline, hurry=True)


def _selector(cluster: Kubectl, member: Member, deadline: Deadline) -> str:
    """The labels of a controller's dependents, as a selector; empty when it is gone or has none."""
    try:
        live = cluster.patiently("GET", member.path, deadline)
    except ApiError:
        return ""
    return selector_of(((live.get("spec") or {}).get("selector") or {}).get("matchLabels") or {})


def _orphans(cluster: Kubectl, owner: Member, selector: str, known: set[str], deadline: Deadline) -> Iterator[Member]:
    """What a controller made between the listing and its end: without an owner, but with a controller's mark."""
    for kind in OWNS.get(native(owner.resource), ()):
        for item in cluster.objects(BY_KIND[kind], owner.namespace, deadline, labelSelector=selector):
            meta = item["metadata"]
            marked = _MARKS & (meta.get("labels") or {}).keys()
            if marked and not meta.get("ownerReferences") and meta["uid"] not in known:
                yield Member(BY_KIND[kind], owner.namespace, meta["name"], meta["uid"])


def _empty(cluster: Kubectl, namespace: str, deadline: Deadline) -> None:
    """End all Pods of a namespace that goes, before its own deletion gives them their full grace."""
    members = [
        Member(BY_KIND[kind], namespace, item["metadata"]["name"], item["metadata"]["uid"])
        for kind in (*_CONTROLLERS, "Pod")
        for item in _listed(cluster, BY_KIND[kind], namespace, deadline)
    ]
    _orphan_and_end(cluster, members, deadline)
