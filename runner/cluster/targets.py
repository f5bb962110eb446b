"""From the target of a forward to the Pod that answers, and the ports in it, for as long as the forward lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from runner.cluster import absent, portnames
from runner.cluster.pods import troubles, why_not_ready
from runner.cluster.protocol import Selection, selector_of
from runner.cluster.reasons import REASONS
from runner.cluster.workloads import resumption
from runner.deadline import FOREVER, Deadline
from runner.errors import Cancelled, Expired, RunnerError, StepFailed, TimedOut

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.protocol import Object

_NO_PODS_SECONDS: Final = 10.0
"""So long may a target that exists be without Pods: controllers make them within a second."""
_ENDED_SECONDS: Final = 5.0
"""So long may all Pods of a Job have ended before it makes another one."""
_LONGEST_PAUSE: Final = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target can be reached: `pod/web-1`, and its ports by the names that the user wrote."""

    kind: str
    name: str
    uid: str
    ports: Mapping[str, int]
    declared: str = ""
    """The ports that it declares, for a hint."""

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a target at a moment: where it is, or what is in the way, and for how many seconds to put up with
    that. A Pod that runs but has no chance to become ready is a place with a problem.
    """

    place: Place | None = None
    problem: StepFailed | None = None
    patience: float = FOREVER
    unfit: Mapping[str, str] | None = None
    """Pods that exist, by uid, and why a forward should leave them ("" when it need not); None when nobody looked."""


Look = Callable[[Deadline], Iterator[Sight]]


class Follower:
    """Looks at a target in a thread of its own until it is closed. `changed` guards `sight` and is notified of each."""

    def __init__(self, look: Look) -> None:
        self.changed = threading.Condition()
        self.sight = Sight()
        self.life = Deadline()
        self._since = time.monotonic()
        self._thread = threading.Thread(target=self._follow, args=(look,), name="target of a forward", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the problem, when it has been put up with for long enough."""
        if self.sight.problem and self._left() <= 0:
            raise self.sight.problem

    def place(self, deadline: Deadline, say: Callable[[str], None]) -> Place:
        """Where the target is; waits for that, and tells `say` for what. Raises the problem, or `TimedOut` with it."""
        with deadline.closing(self.wake), self.changed:
            while not self.sight.place:
                if self.life.cancelled:
                    raise Cancelled("the forward ended")
                self.check()
                try:
                    deadline.check()
                except Expired:
                    raise self.too_late(deadline) from None
                if self.sight.problem:
                    say(self.sight.problem.message)
                self.wait(deadline)
            return self.sight.place

    def too_late(self, deadline: Deadline) -> TimedOut:
        """The error of who waited for a place until now."""
        problem = self.sight.problem or StepFailed("nothing is known about the target")
        waited = f", also not within {deadline.seconds:g} s" if deadline.seconds else ""
        return TimedOut(problem.message + waited, hint=problem.hint, reason="timeout")

    def wait(self, deadline: Deadline) -> None:
        """Wait for a change, or until the deadline or the patience ends. The caller holds `changed`, and has the
        deadline call `wake`.
        """
        left = self._left()
        timeout = deadline.remaining(left if left > 0 else FOREVER)
        self.changed.wait(None if timeout == FOREVER else timeout)

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        self.life.cancel("the forward ended")
        self.wake()
        self._thread.join()

    def _left(self) -> float:
        return self._since + self.sight.patience - time.monotonic()

    def _follow(self, look: Look) -> None:
        pause = 0.1
        while not self.life.cancelled:
            try:
                for sight in look(self.life):
                    pause = 0.1
                    self._see(sight)
            except Cancelled:
                return
            except StepFailed as error:
                self._see(Sight(problem=error, patience=0))
            except RunnerError as error:
                self._see(Sight(problem=StepFailed(error.message, hint=error.hint), patience=0))
            with suppress(Cancelled):
                self.life.pause(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _see(self, sight: Sight) -> None:
        with self.changed:
            if str(sight.problem) != str(self.sight.problem):
                self._since = time.monotonic()
            self.sight = sight
            self.changed.notify_all()


def pods(cluster: Kubectl, target: Selection, ports: Iterable[str]) -> Look:
    """How to look at the Pods of a target: the newest one that runs is the place, ready ones first."""

    def look(deadline: Deadline) -> Iterator[Sight]:
        if cluster.discovery.of_word(target.kind, deadline).kind == "Pod":
            route = _Route(target, {}, target, {port: port for port in ports})
            yield from _look_at_pods(cluster, route, deadline)
        while True:
            route = yield from _route(cluster, target, ports, deadline)
            yield from _look_at_pods(cluster, route, deadline)

    return look


def service(cluster: Kubectl, target: Selection, ports: Iterable[str]) -> Look:
    """How to look at a Service that is a place itself."""

    def look(deadline: Deadline) -> Iterator[Sight]:
        for found in cluster.watch(target, deadline):
            if not found:
                yield _missing(cluster, target, deadline)
                continue
            meta = found[0]["metadata"]
            try:
                _check_not_external(found[0])
                numbers = {port: int(portnames.service_port(found[0], port)["port"]) for port in ports}
            except StepFailed as problem:
                yield Sight(problem=problem, patience=0)
            else:
                yield Sight(Place("service", meta["name"], meta["uid"], numbers))

    return look


@dataclass(frozen=True, slots=True)
class _Route:
    """The way from a target to its Pods: the object (none when the target is Pods), their selection, and the ports in
    them by the names that the user wrote.
    """

    target: Selection
    owner: Object
    pods: Selection
    ports: Mapping[str, str]


def _route(
    cluster: Kubectl, target: Selection, ports: Iterable[str], deadline: Deadline
) -> Generator[Sight, None, _Route]:
    """Wait for the object, and find its Pods."""
    for found in cluster.watch(target, deadline):
        owner = next((item for item in found if "deletionTimestamp" not in item["metadata"]), None)
        if owner is None:
            yield _missing(cluster, target, deadline)
            continue
        try:
            selection = Selection("pod", selector=_selector(owner), namespace=target.namespace)
            return _Route(target, owner, selection, {port: portnames.target_port(owner, port) for port in ports})
        except StepFailed as problem:
            yield Sight(problem=problem, patience=0)
    raise AssertionError  # a watch ends only by an exception


def _look_at_pods(cluster: Kubectl, route: _Route, deadline: Deadline) -> Iterator[Sight]:
    """Until a target that had Pods has none that runs: its object may be another one by now."""
    last = ""
    for found in cluster.watch(route.pods, deadline):
        sight = _sight(cluster, route, found, last, deadline)
        yield sight
        if sight.place:
            last = sight.place.uid
        elif last and route.owner:
            return


def _sight(cluster: Kubectl, route: _Route, found: Iterable[Object], last: str, deadline: Deadline) -> Sight:
    """Of several Pods the newest ready one, but the last one as long as it is as good."""
    found = list(found)
    running = [pod for pod in found if _runs(pod)]
    if not running:
        return _none_runs(cluster, route, found, deadline)
    best = max(running, key=lambda pod: (_is_ready(pod), _uid(pod) == last, pod["metadata"]["creationTimestamp"]))
    unfit = {_uid(pod): _unfitness(pod, best) for pod in found}
    try:
        numbers = {port: portnames.number(best, wanted) for port, wanted in route.ports.items()}
    except StepFailed as problem:
        return Sight(problem=problem, patience=0, unfit=unfit)
    place = Place("pod", best["metadata"]["name"], _uid(best), numbers, portnames.declared(best))
    return Sight(place, *_trouble(best), unfit)


def _unfitness(pod: Object, best: Object) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return f"{_name(pod)} is being deleted"
    if not _runs(pod):
        return f"{_name(pod)} is {_phase(pod)}"
    return f"{_name(best)} is ready, and {_name(pod)} is not" if _is_ready(best) and not _is_ready(pod) else ""


def _none_runs(cluster: Kubectl, route: _Route, found: list[Object], deadline: Deadline) -> Sight:
    """What is in the way, and for how long: some of it passes, some never will."""
    staying = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    unfit = {_uid(pod): _unfitness(pod, pod) for pod in found}
    if route.owner and (problem := _owner_problem(route)):
        # What is suspended is resumed by whoever queues it, maybe in a moment.
        patience = _NO_PODS_SECONDS if resumption(route.owner) else 0
        return Sight(problem=problem, patience=patience, unfit=unfit)
    if not staying:
        if not route.owner and route.target.names and not found:
            return _missing(cluster, route.target, deadline)
        return Sight(problem=_no_pods(cluster, route, found), patience=_NO_PODS_SECONDS, unfit=unfit)
    newest = max(staying, key=lambda pod: pod["metadata"]["creationTimestamp"])
    problem, patience = _trouble(newest)
    if problem:
        return Sight(problem=problem, patience=patience, unfit=unfit)
    if _phase(newest) not in ("Succeeded", "Failed"):
        return Sight(problem=StepFailed(why_not_ready(newest), reason=_phase(newest)), unfit=unfit)
    problem = StepFailed(
        f"{_name(newest)} has ended ({_phase(newest)}), so nothing listens",
        hint=f"kubectl logs {_name(newest)}{_flag(cluster, route.target)}",
        reason=_phase(newest),
    )
    is_final = not route.owner and bool(route.target.names)
    return Sight(problem=problem, patience=0 if is_final else _ENDED_SECONDS, unfit=unfit)


def _owner_problem(route: _Route) -> StepFailed | None:
    """Why an object will have no Pods that run."""
    spec, status = route.owner.get("spec") or {}, route.owner.get("status") or {}
    if spec.get("replicas") == 0:
        return StepFailed(
            f"{route.target} is scaled to 0, so it has no Pods", hint=f"kubectl scale {route.target} --replicas=1"
        )
    if route.owner["kind"] == "Job":
        if command := resumption(route.owner):
            return StepFailed(f"{route.target} is suspended, so it has no Pods", hint=command, reason="NoPods")
        for condition in status.get("conditions") or ():
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                return StepFailed(
                    f"{route.target} has ended ({condition['type']}), so nothing listens", reason=condition["type"]
                )
    return None


def _no_pods(cluster: Kubectl, route: _Route, found: list[Object]) -> StepFailed:
    if found:
        return StepFailed(f"{_name(found[0])} is being deleted, and no other Pod takes its place", reason="NoPods")
    flag = _flag(cluster, route.target)
    what = f"{route.target} has no Pods: none has" if route.owner else "no Pod has"
    if not route.owner or route.owner["kind"] == "Service":
        hint = f"kubectl get pods --show-labels{flag}"
    else:
        hint = f"kubectl describe {route.target}{flag}"
    return StepFailed(f"{what} the labels {route.pods.selector}", hint=hint, reason="NoPods")


def _missing(cluster: Kubectl, target: Selection, deadline: Deadline) -> Sight:
    with deadline.child(absent.SECONDS) as briefly:
        more, hint = absent.why(cluster, target, briefly)
    place = more or f" in namespace {target.namespace or cluster.namespace}"
    return Sight(problem=StepFailed(f"{target} does not exist{place}", hint=hint, reason="NotFound"))


def _trouble(pod: Object) -> tuple[StepFailed | None, float]:
    """What keeps a Pod from becoming ready, and for how many seconds that may heal."""
    for trouble in troubles(pod) if not _is_ready(pod) else ():
        if not trouble.resting:
            hint = trouble.look if "below" in (hint := REASONS[trouble.reason].hint) else f"{hint}; {trouble.look}"
            return StepFailed(trouble.sentence, hint=hint, reason=trouble.reason), trouble.tolerated({})
    return None, FOREVER


def _flag(cluster: Kubectl, target: Selection) -> str:
    return f" --namespace={target.namespace or cluster.namespace}"


def _selector(owner: Object) -> str:
    """The Pods of an object as a label selector; raises `StepFailed` when it selects none."""
    selector = (owner.get("spec") or {}).get("selector")
    if isinstance(selector, Mapping):
        # A Service (and a ReplicationController) has plain labels, everything else a LabelSelector.
        plain = owner["kind"] in ("Service", "ReplicationController")
        labels: Mapping[str, str] = selector if plain else selector.get("matchLabels") or {}
        rules = () if plain else selector.get("matchExpressions") or ()
        written = [part for part in (selector_of(labels), *map(_rule, rules)) if part]
        if written:
            return ",".join(written)
    name = f"{owner['kind'].lower()}/{owner['metadata']['name']}"
    _check_not_external(owner)
    raise StepFailed(
        f"{name} selects no Pods, so there is nothing to forward to",
        hint="`via: proxy` reaches its endpoints" if owner["kind"] == "Service" else "name a Pod or its workload",
        reason="NoSelector",
    )


def _check_not_external(owner: Object) -> None:
    spec = owner.get("spec") or {}
    if spec.get("type") == "ExternalName":
        raise StepFailed(
            f"service/{owner['metadata']['name']} is but another name of {spec.get('externalName')}, outside of the"
            " cluster: there is nothing to forward to",
            hint="ask that host itself",
            reason="NoSelector",
        )


def _rule(rule: Mapping[str, Any]) -> str:
    """One of `matchExpressions` as kubectl writes it."""
    key, values = rule["key"], ",".join(rule.get("values") or ())
    written: dict[str, str] = {
        "In": f"{key} in ({values})",
        "NotIn": f"{key} notin ({values})",
        "DoesNotExist": f"!{key}",
    }
    return written.get(rule["operator"], str(key))


def _runs(pod: Object) -> bool:
    return _phase(pod) == "Running" and "deletionTimestamp" not in pod["metadata"]


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _name(pod: Object) -> str:
    return f"pod/{pod['metadata']['name']}"


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])
