"""Waiting for objects: watches them and what stands around them, and ends when they are there, or cannot come."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from runner.cluster import absent, diagnosis, references, stuck
from runner.cluster.protocol import Selection, kind_word
from runner.cluster.readiness import DONE, Around, Verdict, judge, obstacles
from runner.cluster.reasons import Trouble, name_of
from runner.cluster.vigil import Vigil
from runner.cluster.workloads import pods_of, resumption, slices_of
from runner.deadline import Deadline
from runner.errors import RunnerError, StepFailed, TimedOut

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster, Hand, Object

_OF_PULLS: Final = ("ErrImagePull", "ImagePullBackOff")
# A reader of a log wants to see that the wait is alive, and on what it waits.
HEARTBEAT: Final = 10.0
# What lasts less than this is not worth a line, when there was one just before.
_GLIMPSE: Final = 1.0
# Before, it is not worth saying that the cluster has not answered yet.
_FIRST_ANSWERS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Goal:
    """What is waited for: `until` as `readiness.judge` knows it, or a `test` of one's own.

    A test is asked about an object and all of its selection. Trouble ends such a wait only for the reasons that
    `tolerate` names (in seconds), because it may be what is waited for. `fail_if` answers a sentence when all is lost.
    """

    until: str = "ready"
    test: Callable[[Object, Sequence[Object]], Verdict] | None = None
    fail_if: Callable[[Object, Sequence[Object]], str] | None = None
    count: Literal["all", "any"] | int = "all"
    tolerate: Mapping[str, float] = field(default_factory=dict)


def wait_for(cluster: Cluster, selections: Sequence[Selection], goal: Goal, hand: Hand) -> list[Object]:
    """Wait for all selections together; answers the objects, in the order of the names that were given.

    Raises `StepFailed` as soon as the goal cannot be reached any more, `TimedOut` at the hand's deadline; both carry
    what the cluster knows about the objects that are missing.
    """
    with Vigil(hand.deadline) as vigil:
        return _Wait(cluster, selections, goal, hand, vigil).run()


@dataclass(frozen=True, slots=True)
class _Item:
    """One thing that is waited for: an object, or the place of one that is not there."""

    verdict: Verdict
    object: Object | None
    selection: Selection

    @property
    def done(self) -> bool:
        return self.verdict.state == "done"


def _image_of(trouble: Trouble) -> str:
    """The image of the container that is to blame, by the name that kubelet looks for."""
    image = references.by_container(trouble.object).get(trouble.container)
    return references.qualified(image) if image else ""


class _Tolerance:
    """Remembers since when there is which trouble."""

    def __init__(self, overrides: Mapping[str, float]) -> None:
        self._overrides = overrides
        self._since: dict[tuple[str, str, str], float] = {}
        self._seen: set[tuple[str, str, str]] = set()
        self.next = HEARTBEAT
        """After how many seconds a trouble that is tolerated now will not be any more."""

    def begin(self) -> None:
        """A new look at everything."""
        self._seen.clear()
        self.next = HEARTBEAT

    def end(self) -> None:
        """What was not seen in this look has healed."""
        self._since = {key: since for key, since in self._since.items() if key in self._seen}

    def intolerable(self, troubles: Iterable[Trouble], *, by_name_only: bool) -> Trouble | None:
        """The first trouble that has lasted too long. `by_name_only` looks at reasons that the user named alone."""
        now = time.monotonic()
        found: Trouble | None = None
        for trouble in troubles:
            self._seen.add(trouble.key)
            left = self._since.setdefault(trouble.key, now) + trouble.tolerated(self._overrides) - now
            named = trouble.reason in self._overrides or trouble.reason == "Deleted"
            if trouble.resting or (by_name_only and not named):
                continue
            if left <= 0:
                found = found or trouble
            else:
                self.next = min(self.next, left)
        return found


class _Teller:
    """Says on what a wait waits: at once after a silence, and the same again every `HEARTBEAT`.

    Where one change chases the other, the log has the newest of them, a `_GLIMPSE` after the last line, then twice as
    long after that one, and so on. All of them are events, which a live view shows as they come.
    """

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._newest = self._logged = ""
        self._began = time.monotonic()
        self._logged_at = self._changed_at = self._began - HEARTBEAT
        self._pause = 0.0

    @property
    def due(self) -> float:
        """The moment at which a line is due, although nothing changes."""
        return self._logged_at + (HEARTBEAT if self._newest == self._logged else self._pause)

    def say(self, sentence: str) -> None:
        now = time.monotonic()
        changed = sentence != self._newest
        if changed:
            self._pause = 0.0 if now - self._changed_at >= HEARTBEAT else self._pause
            self._newest, self._changed_at = sentence, now
        if now >= self.due:
            again = {"seconds": round(now - self._began, 1)} if sentence == self._logged else {}
            self._hand.emit("step waiting", waiting_for=sentence, **again)
            self._pause = max(_GLIMPSE, min(HEARTBEAT, 2 * self._pause))
            self._logged, self._logged_at = sentence, now
        elif changed:
            self._hand.emit("step waiting", level="debug", waiting_for=sentence)


class _Wait:
    """The state of one wait."""

    def __init__(self, cluster: Cluster, selections: Sequence[Selection], goal: Goal, hand: Hand, vigil: Vigil) -> None:
        self._cluster = cluster
        self._selections = selections
        self._goal = goal
        self._hand = hand
        self._vigil = vigil
        self._tolerance = _Tolerance(goal.tolerate)
        self._known: dict[tuple[Selection, str], Object] = {}
        self._indexed: dict[Hashable, tuple[Sequence[Object], Mapping[Any, Sequence[Object]]]] = {}
        self._teller = _Teller(hand)
        self._blind = False
        self._frozen: dict[Selection, set[Any]] = {}
        """Whose end is awaited, of selections by label."""
        self._began = time.monotonic()

    def run(self) -> list[Object]:
        for selection in self._selections:
            self._vigil.follow(selection, partial(self._cluster.watch, selection))
        items: list[_Item] = []
        try:
            while True:
                items = list(self._items())
                if self._reached(items):
                    return [item.object for item in items if item.object]
                self._check_hope(items)
                if all(item.verdict.known for item in items) or time.monotonic() > self._began + _FIRST_ANSWERS:
                    self._teller.say(self._summary(items))
                self._vigil.pause(self._until_next_look(items))
        except TimedOut:
            raise self._timed_out(items) from None

    def _until_next_look(self, items: Sequence[_Item]) -> float:
        """Seconds until something changes although nothing happens."""
        again = min((item.verdict.again for item in items if item.verdict.again), default=HEARTBEAT)
        line = max(self._teller.due, self._began + _FIRST_ANSWERS) - time.monotonic()
        return max(0.01, min(self._tolerance.next, again, line))

    # -- looking ------------------------------------------------------------------------------------------------

    def _items(self) -> Iterator[_Item]:
        for selection in self._selections:
            found = self._vigil.seen(selection)
            if found is None:
                yield _Item(Verdict("pending", f"{selection}: no answer yet", known=False), None, selection)
                continue
            if self._goal.until == "deleted" and not selection.names:
                first = self._frozen.setdefault(selection, {item["metadata"].get("uid") for item in found})
                found = [item for item in found if item["metadata"].get("uid") in first]  # those that come are others
            by_name = {item["metadata"]["name"]: item for item in found}
            for name in selection.names or by_name:
                if name in by_name:
                    yield _Item(self._judge(selection, by_name[name], found), by_name[name], selection)
                elif self._goal.until != "deleted":
                    yield _Item(self._absent(selection, name), None, selection)
            if not selection.names and not by_name and self._goal.until != "deleted":
                yield _Item(self._absent(selection, ""), None, selection)

    def _judge(self, selection: Selection, item: Object, all_: Sequence[Object]) -> Verdict:
        first = self._known.setdefault((selection, item["metadata"]["name"]), item)
        self._known[selection, ""] = item
        if self._goal.until == "deleted" and first["metadata"].get("uid") != item["metadata"].get("uid"):
            return DONE  # another one has the name now
        if self._goal.fail_if and (sentence := self._goal.fail_if(item, all_)):
            raise self._explained(StepFailed(sentence, reason="fail_if"), [item], None)
        verdict = self._goal.test(item, all_) if self._goal.test else judge(item, self._goal.until)
        alone = self._goal.test or self._goal.until == "exists" or item.get("kind") == "Pod"
        if verdict.state == "done" and alone:
            return verdict  # nothing around it could change that
        around = self._around(item)
        if self._goal.test is None:
            return judge(item, self._goal.until, around)
        troubles = tuple(obstacles(item, around))
        why = f" ({troubles[0].sentence})" if troubles else ""
        return Verdict("pending", verdict.sentence + why, troubles)

    def _absent(self, selection: Selection, name: str) -> Verdict:
        what = f"{selection.kind}/{name}" if name else str(selection)
        gone = self._known.get((selection, name))
        if gone is None:
            return Verdict("pending", f"{what} does not exist yet")
        return Verdict("pending", f"{what} was deleted meanwhile", (Trouble("Deleted", gone),))

    def _around(self, item: Object) -> Around:
        """What else is known about an object; from now on that is watched, too."""
        if self._goal.until == "deleted":
            return Around()
        meta = item["metadata"]
        uid, namespace = meta.get("uid") or meta["name"], meta.get("namespace") or ""
        watches = {("pods", uid): pods_of(item), ("slices", uid): slices_of(item)}
        for key, selection in watches.items():
            if selection:
                self._vigil.follow(key, partial(self._cluster.watch, selection), needed=False)
        pods = self._vigil.seen(("pods", uid))
        if error := self._vigil.lost(("pods", uid)):
            self._tell_unseen(item, error)
        # A single Pod's events are asked for by its name; those of many are in the namespace.
        single = item.get("kind") == "Pod" and [len(each.names) for each in self._selections] == [1]
        events = self._events(namespace, meta["name"] if single else "") if namespace else {}
        return Around(
            pods=pods,
            slices=self._vigil.seen(("slices", uid)),
            events=[event for each in (item, *(pods or ())) for event in events.get(each["metadata"].get("uid"), ())],
            complete=not any(selection and self._vigil.awaited(key) for key, selection in watches.items()),
            status=not item.get("status") and self._cluster.promises_status(item, self._hand.deadline),
        )

    def _tell_unseen(self, item: Object, error: RunnerError) -> None:
        """Once: without its Pods nobody knows that an object cannot become ready."""
        if not self._blind:
            self._blind = True
            what = f"{name_of(item)}: its Pods cannot be seen, so the wait may take all of its time in vain"
            self._hand.warn(f"{what}: {error.message}", hint=error.hint)

    def _events(self, namespace: str, name: str) -> Mapping[Any, Sequence[Object]]:
        """The events of a namespace (about objects of this name), by the UID of what they are about."""
        key = ("events", namespace, name)
        self._vigil.follow(key, partial(self._cluster.events, namespace, name), needed=False)
        found = self._vigil.seen(key)
        if found is not None and (key not in self._indexed or self._indexed[key][0] is not found):
            index: dict[Any, list[Object]] = {}
            for event in found:
                index.setdefault(event["involvedObject"].get("uid"), []).append(event)
            self._indexed[key] = (found, index)
        return self._indexed[key][1] if key in self._indexed else {}

    # -- deciding -----------------------------------------------------------------------------------------------

    def _reached(self, items: Sequence[_Item]) -> bool:
        done = sum(item.done for item in items)
        if self._goal.until == "deleted":
            return done == len(items)
        if self._goal.count == "any":
            return done > 0
        return done == len(items) if self._goal.count == "all" else done >= self._goal.count

    def _check_hope(self, items: Sequence[_Item]) -> None:
        """Raise when so many are lost that the goal cannot be reached."""
        self._tolerance.begin()
        lost: list[tuple[_Item, Trouble]] = []
        for item in items:
            troubles = () if item.done else item.verdict.troubles
            if trouble := self._tolerance.intolerable(troubles, by_name_only=self._goal.test is not None):
                lost.append((item, trouble))
        self._tolerance.end()
        count = self._goal.count
        by_name = all(selection.names for selection in self._selections)
        too_few = isinstance(count, int) and by_name and len(items) - len(lost) < count
        if lost and (count == "all" or len(lost) == len(items) or too_few):
            raise self._failed(*lost[0])

    def _failed(self, item: _Item, trouble: Trouble) -> StepFailed:
        whole = item.object if item.object and item.object is not trouble.object else None
        sentence = f"{name_of(whole)}: {trouble.sentence}" if whole else trouble.sentence
        look = trouble.look if self._cluster.engine == "kubectl" else ""
        error = StepFailed(sentence, reason=trouble.reason)
        self._explained(error, [whole or trouble.object], trouble)
        error.hint = "; ".join(filter(None, (self._cure(trouble, error), look)))
        return error

    def _cure(self, trouble: Trouble, error: StepFailed) -> str:
        if trouble.reason in _OF_PULLS and _image_of(trouble) in self._cluster.images:
            return "the nodes have this image already, but are told to pull it: write `imagePullPolicy: IfNotPresent`"
        return diagnosis.advice(trouble, error.objects)

    def _timed_out(self, items: Sequence[_Item]) -> StepFailed:
        pending = [item for item in items if not item.done]
        objects = [item.object for item in pending if item.object]
        trouble = next((trouble for item in pending for trouble in item.verdict.troubles), None)
        message = f"timed out after {self._hand.deadline.seconds or 0:g} s: {self._summary(items)}"
        if silent := self._cluster.trouble():
            return TimedOut(f"{message}: {silent.message}", reason="timeout", hint=silent.hint)
        if objects:
            more, hint = "", self._describe(objects[0])
        else:
            selection = next((item.selection for item in pending), self._selections[0])
            with Deadline(absent.SECONDS) as deadline:  # the step's is over
                more, hint = absent.why(self._cluster, selection, deadline)
        error = TimedOut(message + more, reason="timeout", hint=hint)
        return self._explained(error, objects, trouble)

    def _describe(self, item: Object) -> str:
        """What a person types to see its state, or what to do when it does not go."""
        meta = item["metadata"]
        if meta.get("deletionTimestamp"):
            return stuck.why(item["kind"], item)[1]
        if command := resumption(item):
            return command
        namespace = meta.get("namespace") or ""
        one = Selection(kind_word(item), (meta["name"],), namespace=namespace)
        return str(self._cluster.dialect.describe(one))

    def _explained(self, error: StepFailed, objects: Sequence[Object], trouble: Trouble | None) -> StepFailed:
        """The error, with what the cluster knows about the objects."""
        blame = (trouble.name, trouble.container) if trouble else ("", "")
        error.objects = self._cluster.diagnose(objects, self._hand.deadline, blame)
        error.details = diagnosis.text(error.objects)
        return error

    # -- telling ------------------------------------------------------------------------------------------------

    def _summary(self, items: Sequence[_Item]) -> str:
        """On what it waits, and why, in one line."""
        pending = [item.verdict for item in items if not item.done]
        wanted = {"all": len(items), "any": 1}.get(str(self._goal.count)) or self._goal.count
        count = f"{len(items) - len(pending)} of {wanted}"
        if not pending:
            return f"{count} {self._selections[0].kind}"
        first = next((verdict for verdict in pending if verdict.troubles), pending[0])
        more = f" (and {len(pending) - 1} more)" if len(pending) > 1 else ""
        return (f"{count}: " if wanted != 1 or len(items) > 1 else "") + first.sentence + self._tolerated(first) + more

    def _tolerated(self, verdict: Verdict) -> str:
        active = [trouble for trouble in verdict.troubles if not trouble.resting]
        seconds = active[0].tolerated(self._goal.tolerate) if active and self._goal.test is None else 0
        return f" (tolerated for {seconds:g} s)" if seconds else ""
