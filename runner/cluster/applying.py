"""Making objects exist as `kubectl apply` does, and knowing which of them are ours: those that were absent.

An object that is ours carries the run's label from its first moment, and stands in the journal before that. When
somebody else makes it between our look and kubectl's own, it is theirs: it is applied once more without the label.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from runner.cluster import deletion, history, ownership, permission, phases, stale
from runner.cluster.dependents import Member
from runner.cluster.http import ApiError
from runner.cluster.insistence import Insistence
from runner.cluster.protocol import (
    RUN_LABEL,
    Applied,
    Hand,
    Manifest,
    Object,
    Ref,
    Selection,
    name_suffix,
    render,
)
from runner.cluster.resources import Resource
from runner.deadline import Deadline
from runner.errors import Cancelled, CommandResult, Expired, RunnerError, StepFailed, TimedOut

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.journal import Undo

_DEFINITION: Final = "CustomResourceDefinition"
_LAST_LOOK: Final = 1.0
# Annotations in which kubectl remembers what was applied.
_KUBECTL: Final = "kubectl.kubernetes.io/"


def apply(
    cluster: Kubectl, manifests: Sequence[Manifest], namespace: str, hand: Hand, *, server_side: bool = False
) -> list[Applied]:
    """Apply these objects, phase by phase; answers them in the order of the manifests."""
    named = [replace(manifest, object=_named(manifest.object)) for manifest in manifests]
    applied: dict[int, Applied] = {}
    for phase in phases.coming(named):
        work = _Work(cluster, [manifest.object for manifest in phase], namespace, hand, server_side=server_side)
        done = work.run()
        applied.update(zip(map(id, phase), done, strict=True))
        if definitions := tuple(item.ref.name for item in done if item.ref.kind == _DEFINITION):
            _await_established(cluster, definitions, hand)
    return [applied[id(manifest)] for manifest in named]


def _named(original: Object) -> Object:
    """A copy with a name: apply takes no generateName, and a name is journalled before its object exists."""
    object_: Object = json.loads(json.dumps(original))
    meta = object_["metadata"]
    if not meta.get("name"):
        meta["name"] = meta.pop("generateName") + name_suffix()
    return object_


def _await_established(cluster: Kubectl, names: tuple[str, ...], hand: Hand) -> None:
    """Return when the cluster serves the kinds that these definitions define."""
    for objects in cluster.watch(Selection(_DEFINITION, names), hand.deadline):
        open_ = {*names}
        for object_ in objects:
            for condition in (object_.get("status") or {}).get("conditions") or ():
                state = (condition["type"], condition["status"])
                if state == ("Established", "True"):
                    open_.discard(object_["metadata"]["name"])
                if state == ("NamesAccepted", "False"):
                    raise StepFailed(
                        f"{_DEFINITION} {object_['metadata']['name']}: {condition.get('message', 'no name is free')}",
                        hint="another definition has the name: kubectl get customresourcedefinitions",
                        reason="NamesNotAccepted",
                    )
        if not open_:
            cluster.discovery.forget()
            return
        hand.waiting(f"{_DEFINITION} {', '.join(sorted(open_))} to be established")


@dataclass(frozen=True, slots=True)
class _Item:
    """One object on its way: what is sent, where it goes, and what was there (nothing: then it is to be ours)."""

    object: Object
    ref: Ref
    resource: Resource
    live: Object | None


class _Work:
    """One phase: all its objects in one command, repeated as long as that makes sense."""

    def __init__(
        self, cluster: Kubectl, objects: Sequence[Object], namespace: str, hand: Hand, *, server_side: bool
    ) -> None:
        self.cluster = cluster
        self.objects = objects
        self.namespace = namespace
        self.hand = hand
        self.server_side = server_side
        self.attempts = Insistence(hand)
        self.open: dict[Ref, Undo] = {}
        """What may be made by us: intended, and not seen yet."""
        self.since: dict[Ref, str] = {}
        """Where the API server's history stood when nothing was there: it tells who made what is there later."""
        self.made: set[Ref] = set()
        self.foreign: set[Ref] = set()
        self.after: dict[Ref, Object] = {}
        """What exists now."""

    def run(self) -> list[Applied]:
        while True:
            items = self._look_at_all()
            for item in items:
                if item.live is None and item.ref not in self.open:
                    self.open[item.ref] = self.hand.intend(item.ref)
            try:
                answer = self._execute(items)
                self._disown(self._not_created(answer.stdout, items))
            except (Cancelled, TimedOut) as error:
                self._leave_others(items)
                # Its last request may still be on the way: the intents stay, and cleanup looks again.
                raise self.attempts.late(error) if isinstance(error, TimedOut) else error from None
            except StepFailed as error:
                looked = self._can_look_back(items)  # some of the objects may have been made
                self._give_up_or_wait(error, looked=looked)
                continue
            self._look_back(items)
            self._close_intents()
            self._warn_of_old_images(items)
            self._tell_changes(items)
            return [Applied(item.ref, self._uid(item.ref), item.ref in self.made) for item in items]

    def _uid(self, ref: Ref) -> str:
        return self.after[ref]["metadata"]["uid"] if ref in self.after else ""

    def _execute(self, items: Sequence[_Item]) -> CommandResult:
        file = render((item.object for item in items), self.hand.folder)
        flag = self.namespace if self.namespace != self.cluster.namespace else ""
        (command,) = self.cluster.dialect.apply((str(file),), flag, server_side=self.server_side)
        return self.hand.execute(command)

    def _give_up_or_wait(self, error: StepFailed, *, looked: bool) -> None:
        try:
            self.attempts.after(error)
        except TimedOut:
            raise
        except StepFailed:
            if looked:
                self._close_intents()  # refused: what does not exist now will not come
            raise

    # -- looking ------------------------------------------------------------------------------------------------

    def _look_at_all(self) -> list[_Item]:
        try:
            return [self._look(object_) for object_ in self.objects]
        except Expired as error:
            raise (self.attempts.late(error) if self.attempts.failed else error) from None

    def _look(self, original: Object) -> _Item:
        """What becomes of an object: one that is absent, or that this run made, carries the run's label."""
        object_ = json.loads(json.dumps(original))
        meta = object_["metadata"]
        resource = self._resource(object_)
        place = (meta.get("namespace") or self.namespace or self.cluster.namespace) if resource.namespaced else ""
        ref = Ref(resource.kind, meta["name"], place, resource.group_version)
        permission.to_write(ref.kind, ref.name, place, self.hand.allowed)
        live, since = self.cluster.look(resource, place, ref.name, self.hand.deadline)
        if live and "deletionTimestamp" in live["metadata"]:
            self.hand.waiting(f"{ref} of before to be gone")
            member = Member(resource, place, ref.name, live["metadata"]["uid"])
            deletion.await_all_gone(self.cluster, [member], self.hand)
            live = None
        if live is None:
            self.since[ref] = since
            ownership.mark(meta, ref, self.hand)
        else:
            self._respect(ref, live)
            ownership.keep(meta, live)
        return _Item(object_, ref, resource, live)

    def _respect(self, ref: Ref, live: Object) -> None:
        """What exists and is not ours: another's, and maybe that of a run that is still alive."""
        run = ownership.run_of(live)
        if run != self.hand.run_id and (record := self.open.pop(ref, None)):
            self.hand.unmade(record)
        if run not in ("", self.hand.run_id) and ref not in self.foreign:
            self.foreign.add(ref)
            clock = lambda: self.cluster.api.time(self.hand.deadline)  # noqa: E731
            ownership.respect(ref, live, self.cluster.runs, clock, self.hand)

    def _resource(self, object_: Object) -> Resource:
        """The resource of an object; waits for a kind whose definition is there and not served yet."""
        while True:
            try:
                return self.cluster.discovery.of_manifest(object_["apiVersion"], object_["kind"], self.hand.deadline)
            except StepFailed as error:
                if error.reason != "NoKindMatch" or not self._is_defined(object_["apiVersion"], object_["kind"]):
                    raise
            self.hand.waiting(f"the kind {object_['kind']} of {object_['apiVersion']} to be served")
            self.attempts.pause()
            self.cluster.discovery.forget()

    def _is_defined(self, api_version: str, kind: str) -> bool:
        """Whether a definition of this kind exists and stays, so that the kind will be served."""
        group, _, version = api_version.rpartition("/")
        definitions = self.cluster.discovery.of_manifest("apiextensions.k8s.io/v1", _DEFINITION, self.hand.deadline)
        try:
            found = self.cluster.objects(definitions, "", self.hand.deadline)
        except ApiError:  # not everybody may list them
            return False
        return any(
            (item["spec"]["group"], item["spec"]["names"]["kind"]) == (group, kind)
            and any(served["name"] == version and served["served"] for served in item["spec"]["versions"])
            and "deletionTimestamp" not in item["metadata"]
            for item in found
        )

    # -- whose is it --------------------------------------------------------------------------------------------

    def _not_created(self, output: str, items: Sequence[_Item]) -> list[_Item]:
        """Those that were absent, and that kubectl found when it came to create them."""
        if not self.server_side:
            return _not_created(output, items)
        # kubectl says the same of what it creates and of what it changes; the history tells.
        return self._anothers(items, self.hand.deadline)

    def _anothers(self, items: Iterable[_Item], deadline: Deadline) -> list[_Item]:
        """Those that were absent, and were made by somebody else before our label came on them."""
        return [item for item in items if item.ref in self.open and self._is_anothers(item, deadline)]

    def _is_anothers(self, item: _Item, deadline: Deadline) -> bool:
        live = self.cluster.find(item.resource, item.ref.namespace, item.ref.name, deadline)
        if live is None or ownership.run_of(live) != self.hand.run_id:
            return False
        since = self.since[item.ref]
        born = history.at_birth(self.cluster, item.resource, live, since, deadline) if since else None
        return ownership.run_of(born) != self.hand.run_id if born else _is_older_than_its_label(live)

    def _leave_others(self, items: Iterable[_Item]) -> None:
        """There is no time to take the label away; but what is not ours must not be removed for it."""
        with suppress(RunnerError), Deadline(_LAST_LOOK) as deadline:
            for item in self._anothers(items, deadline):
                self.hand.unmade(self.open.pop(item.ref))

    def _disown(self, found: Sequence[_Item]) -> None:
        """What somebody else made between our look and kubectl's: written off at once, and applied again without the
        label, which kubectl then takes away.
        """
        for item in found:
            self.hand.unmade(self.open.pop(item.ref))
            ownership.unmark(item.object["metadata"])
        if found:
            self._execute(found)
            names = ", ".join(str(item.ref) for item in found)
            self.hand.warn(f"{names}: made by somebody else in the meantime, so it is updated, and left at the end")

    def _warn_of_old_images(self, items: Iterable[_Item]) -> None:
        for item in items if self.cluster.images else ():
            if item.live and item.ref in self.after:
                stale.warn(self.cluster, item.ref, item.live, self.after[item.ref], self.hand)

    def _tell_changes(self, items: Iterable[_Item]) -> None:
        """What was there before is never deleted, but it may have been changed for good."""
        others = (item for item in items if item.live and ownership.run_of(item.live) != self.hand.run_id)
        for item in others:
            if item.live and item.ref in self.after and _content(item.live) != _content(self.after[item.ref]):
                self.hand.note(f"{item.ref} existed before this run: it is changed, and stays so")

    def _can_look_back(self, items: Sequence[_Item]) -> bool:
        """Look after a failure, whose words matter more than why nothing can be seen: then the intents stay, and
        cleanup looks again.
        """
        try:
            self._disown(self._anothers(items, self.hand.deadline))
            self._look_back(items)
        except StepFailed:
            return False
        return True

    def _look_back(self, items: Iterable[_Item]) -> None:
        """Read what exists now; also after a failed command, which may have made some of the objects."""
        # Not the step's deadline: that may be over, and the journal must know what exists all the same.
        with Deadline(10) as deadline, _ended_by(self.hand.deadline, deadline):
            for item in items:
                live = self.cluster.find(item.resource, item.ref.namespace, item.ref.name, deadline)
                if live is None:
                    continue
                self.after[item.ref] = live
                if item.ref in self.open and ownership.run_of(live) == self.hand.run_id:
                    self.hand.made(self.open.pop(item.ref), self._uid(item.ref))
                    self.made.add(item.ref)

    def _close_intents(self) -> None:
        """What was intended and is not there will not come any more."""
        while self.open:
            self.hand.unmade(self.open.popitem()[1])


def _content(live: Object) -> Object:
    """What people write into an object, without what the cluster and kubectl note about it."""
    meta = live["metadata"]
    notes = {key: value for key, value in (meta.get("annotations") or {}).items() if not key.startswith(_KUBECTL)}
    rest = {key: value for key, value in live.items() if key not in ("metadata", "status")}
    return {**rest, "labels": meta.get("labels") or {}, "annotations": notes}


def _ended_by(outer: Deadline, deadline: Deadline) -> AbstractContextManager[None]:
    """A signal ends this deadline, too; the end of the outer one's time does not."""
    return outer.closing(lambda: deadline.cancel(outer.reason or "cancelled"))


def _is_older_than_its_label(live: Object) -> bool:
    """Whether the run's label came on it after it was made; the API server tells both moments to the second."""
    label = f"f:{RUN_LABEL}"
    entries = live["metadata"].get("managedFields") or ()
    metas = ((entry, (entry.get("fieldsV1") or {}).get("f:metadata") or {}) for entry in entries)
    written = [entry["time"] for entry, meta in metas if label in (meta.get("f:labels") or {}) and "time" in entry]
    return bool(written) and min(written) > live["metadata"]["creationTimestamp"]


def _not_created(output: str, items: Sequence[_Item]) -> list[_Item]:
    """Those that were absent, and that kubectl found when it came to create them; it says a line for each object, in
    their order.
    """
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    if len(lines) != len(items):
        return []
    created = {item.ref for item, line in zip(items, lines, strict=True) if line.endswith(" created")}
    return [
        item
        for item, line in zip(items, lines, strict=True)
        if item.live is None and item.ref not in created and line.endswith((" configured", " unchanged"))
    ]
