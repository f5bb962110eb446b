"""Whose an object is, by its marks, the run folders of this machine, and the clock of the API server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.cluster import ownership
from runner.cluster.protocol import Ref
from runner.errors import StepFailed
from runner.journal import Journal, Place, Undo

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runner_cluster.conftest import FakeHand

MADE = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
REF = Ref("Pod", "a", "demo", "v1")


def live(run: str = "other", lifetime: str = "60s", uid: str = "u1") -> dict[str, Any]:
    """An object of another run, as the API server shows it."""
    annotations = {ownership.EXPIRY: lifetime} if lifetime else {}
    meta = {"labels": {"runner/run-id": run} if run else {}, "annotations": annotations, "uid": uid}
    return {"metadata": {**meta, "creationTimestamp": "2026-01-01T12:00:00Z"}}


def clock(seconds: float) -> Callable[[], datetime]:
    """The API server's clock, so many seconds after the object was made."""
    return lambda: MADE + timedelta(seconds=seconds)


def test_marks_stand_on_the_object(hand: FakeHand) -> None:
    """The run as a label, its longest life as an annotation; nothing of the user's is lost. Kept ones do not expire."""
    meta: dict[str, Any] = {"name": "a", "labels": {"app": "web"}}
    ownership.mark(meta, REF, hand)
    hand.lifetime = 0
    kept: dict[str, Any] = {"name": "a"}
    ownership.mark(kept, REF, hand)

    assert meta["labels"] == {"app": "web", "runner/run-id": "test"}
    assert meta["annotations"] == {"runner/made-as": "demo/a", "runner/expires-after": "60s"}
    assert kept == {
        "name": "a",
        "labels": {"runner/run-id": "test"},
        "annotations": {"runner/made-as": "demo/a"},
    }


def test_copies_of_an_object(hand: FakeHand) -> None:
    """Who copies it copies its label, but its place or its name is another one."""
    meta: dict[str, Any] = {"name": "a", "namespace": "demo"}
    ownership.mark(meta, REF, hand)

    assert not ownership.is_copy({"metadata": meta})
    assert ownership.is_copy({"metadata": {**meta, "name": "b"}})
    assert ownership.is_copy({"metadata": {**meta, "namespace": "other"}})
    assert not ownership.is_copy({"metadata": {"name": "b"}})


def test_marks_stay_when_an_object_is_updated() -> None:
    """Kubectl apply would take away what the new manifest does not have."""
    meta: dict[str, Any] = {"name": "a"}
    ownership.keep(meta, live())
    plain: dict[str, Any] = {"name": "a"}
    ownership.keep(plain, live(run="", lifetime=""))

    assert meta == {
        "name": "a",
        "labels": {"runner/run-id": "other"},
        "annotations": {"runner/expires-after": "60s"},
    }
    assert plain == {"name": "a"}


@pytest.mark.parametrize(
    ("lifetime", "seconds", "state"),
    [("60s", 59, "alive"), ("60s", 60, "dead"), ("", 1, "kept"), ("soon", 1, "kept"), ("60s", -3600, "alive")],
)
def test_run_of_another_machine(tmp_path: Path, lifetime: str, seconds: float, state: str) -> None:
    """It counts as alive until its time is over, by the server's clock: this machine's clock may have jumped."""
    found = ownership.owner(live(lifetime=lifetime), tmp_path, clock(seconds))

    assert found.state == state
    assert ("until 12:01 UTC" in found.why) == (state == "alive")


def test_run_of_this_machine(tmp_path: Path) -> None:
    """Its lock decides, not its time; what it kept is told from what it left."""
    journal = Journal(tmp_path / "other")
    journal.start((), "1.0")
    for uid, keep in (("u1", False), ("u2", True)):
        record = Undo(id=f"other/{uid}", engine="kubectl", api_version="v1", kind="Pod", name="a", keep=keep)
        journal.intend(record)
        journal.made(record, uid)

    assert ownership.owner(live(), tmp_path, clock(1e9)).state == "alive"
    journal.close()
    assert ownership.owner(live(), tmp_path, clock(0)).state == "dead"
    assert ownership.owner(live(uid="u2"), tmp_path, clock(0)).state == "kept"


def test_live_runs_are_respected(tmp_path: Path, hand: FakeHand) -> None:
    """Their objects are refused; one's own and those of nobody are not."""
    with pytest.raises(StepFailed) as caught:
        ownership.respect(REF, live(), tmp_path, clock(0), hand)
    assert caught.value.message == (
        "pod/a belongs to the run other, which is still alive (on another machine, until 12:01 UTC at the latest)"
    )
    assert caught.value.hint == (
        "wait for its end, or give each run a namespace of its own: `namespace: {generate: demo-}`"
    )
    for mine in (live(run="test"), live(run="")):
        ownership.respect(REF, mine, tmp_path, clock(0), hand)


def test_what_a_dead_run_left_is_told(tmp_path: Path, hand: FakeHand, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that removes it, as this run was started: by the label, where its journal is elsewhere."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(hand, "warn", lambda message, hint="": told.append((message, hint)))
    runs = tmp_path / "my state/runs"
    mine = Journal(runs / hand.run_id)
    mine.at(Place(engine="kubectl", context="far", named=True, kubeconfig="/home/me/its config"))
    ownership.respect(REF, live(), runs, clock(100), hand)
    ownership.respect(REF, live(lifetime=""), runs, clock(100), hand)
    other = Journal(runs / "other")
    other.close()
    ownership.respect(REF, live(), runs, clock(100), hand)
    mine.close()

    state = f"'--state-dir={tmp_path}/my state'"
    message = "pod/a was left by the run other, which is dead: it is updated, but not deleted at the end"
    assert told == [
        (
            message,
            f"runner clean --cluster --run other {state} '--kubeconfig=/home/me/its config' --context=far",
        ),
        (message, f"runner clean --run other {state}"),
    ]
