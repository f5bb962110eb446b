"""Whose an object is: what a run writes on what it makes, and what that tells another run.

An object carries the id of its run as a label and, unless it is to be kept, how long after its creation the run can be
alive at most. On the machine of that run the lock of its journal says whether it is alive; elsewhere that time does. It
is compared with the clock of the API server alone, so that nobody's wrong clock makes a live run look dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runner.cluster.protocol import RUN_LABEL
from runner.errors import StepFailed
from runner.journal import NAME, clean_line, is_alive, line, replay, state_flags

if TYPE_CHECKING:
    from runner.cluster.protocol import Hand, Object, Ref

EXPIRY: Final = "runner/expires-after"
"""The annotation: seconds after the object's creation at which nobody of its run can be alive."""
MADE: Final = "runner/made-as"
"""The annotation: where the run made the object. On a copy that somebody makes of it, this is not true any more."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The run that made an object: `state` is `alive`, `dead` (it left the object), or `kept` (on purpose)."""

    run: str
    state: str
    why: str = ""


def mark(meta: dict[str, Any], ref: Ref, hand: Hand) -> None:
    """Write the run on an object that it is about to make; never on the template of its Pods."""
    meta["labels"] = {**(meta.get("labels") or {}), RUN_LABEL: hand.run_id}
    ends = {EXPIRY: f"{hand.lifetime:.0f}s"} if hand.lifetime else {}
    meta["annotations"] = {**(meta.get("annotations") or {}), MADE: _address(ref.namespace, ref.name), **ends}


def unmark(meta: dict[str, Any]) -> None:
    """Take away what `mark` wrote: somebody else made the object in the meantime."""
    meta["labels"].pop(RUN_LABEL)
    for name in (EXPIRY, MADE):
        meta["annotations"].pop(name, None)


def keep(meta: dict[str, Any], live: Object) -> None:
    """Write on a manifest what stands on its object, whoever wrote it: an apply without it would take it away."""
    for key, name in (("labels", RUN_LABEL), ("annotations", EXPIRY), ("annotations", MADE)):
        if value := (live["metadata"].get(key) or {}).get(name):
            meta[key] = {**(meta.get(key) or {}), name: value}


def run_of(live: Object) -> str:
    return str((live["metadata"].get("labels") or {}).get(RUN_LABEL) or "")


def is_copy(live: Object) -> bool:
    """Whether somebody made it of an object of a run, label and all."""
    meta = live["metadata"]
    made = (meta.get("annotations") or {}).get(MADE)
    return bool(made) and made != _address(meta.get("namespace") or "", meta["name"])


def _address(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def expires(live: Object) -> datetime | None:
    """When nobody of its run can be alive any more, on the API server's clock; None for an object to keep."""
    text = str((live["metadata"].get("annotations") or {}).get(EXPIRY) or "").removesuffix("s")
    if not text.isdigit():
        return None
    return datetime.fromisoformat(live["metadata"]["creationTimestamp"]) + timedelta(seconds=int(text))


def owner(live: Object, runs: Path, clock: Callable[[], datetime]) -> Owner:
    """Whose it is, by the run folders of this machine, else by what stands on it and the `clock` of its cluster."""
    run = run_of(live)
    if (runs / run / NAME).exists():
        return Owner(run, *_on_this_machine(runs / run, live["metadata"].get("uid", "")))
    until = expires(live)
    if until is None:
        return Owner(run, "kept")
    if clock() < until:
        return Owner(run, "alive", f"on another machine, until {until.astimezone(UTC):%H:%M} UTC at the latest")
    return Owner(run, "dead")


def _on_this_machine(folder: Path, uid: str) -> tuple[str, str]:
    past = replay(folder)
    if is_alive(folder):
        return "alive", f"process {past.started.pid}" if past.started else ""
    return ("kept" if any(record.uid == uid for record in past.spared) else "dead"), ""


def respect(ref: Ref, live: Object, runs: Path, clock: Callable[[], datetime], hand: Hand) -> None:
    """Refuse to take over an object of another run that is alive; say so when it is one that a dead run left."""
    if run_of(live) in ("", hand.run_id):
        return
    found = owner(live, runs, clock)
    if found.state == "alive":
        raise StepFailed(
            f"{ref} belongs to the run {found.run}, which is still alive ({found.why})",
            hint="wait for its end, or give each run a namespace of its own: `namespace: {generate: demo-}`",
            reason="OtherRun",
        )
    if found.state == "dead":
        hand.warn(
            f"{ref} was left by the run {found.run}, which is dead: it is updated, but not deleted at the end",
            hint=_clean_line(found.run, runs, hand),
        )


def _clean_line(run: str, runs: Path, hand: Hand) -> str:
    """What a person types to remove what a dead run left: by its journal, or by its label where there is none here."""
    if (runs / run / NAME).exists():
        return clean_line(runs / run, replay(runs / run).place)
    here = replay(runs / hand.run_id).place
    return line("clean", "--cluster", "--run", run, *state_flags(runs), *(here.flags if here else ()))


def of_labels(labels: Mapping[str, str], uid: str) -> Object:
    """The part of an object that says whose it is, of something that podman made."""
    return {"metadata": {"labels": dict(labels), "uid": uid}}
