"""Undoing at the end of a workflow: what goes, what stays, in which order, and what a signal changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.cleanup import Pending, Remover, address, removal, tidy, verify
from runner.cluster.protocol import Gone, Ref
from runner.errors import StepFailed
from runner.events import Event, Events
from runner.invocation import Budget, Run
from runner.journal import Dependent, Journal, Place, Undo, replay


def record(number: int, kind: str, name: str, namespace: str = "", **fields: Any) -> Undo:
    return Undo(
        id=f"run/{number}", engine="kubectl", api_version="v1", kind=kind, name=name, namespace=namespace, **fields
    )


SPACE = record(1, "Namespace", "made")
INSIDE = record(2, "Pod", "a", "made")
OUTSIDE = record(3, "Pod", "b", "other")
KEPT = record(4, "Pod", "c", "other", keep=True)


class Cluster:
    """Removes what it is told to, but for what is in `held`; remembers each call."""

    environment: dict[str, str | None] = {}

    def __init__(self, **held: Gone) -> None:
        self.held = held
        self.calls: list[tuple[list[str], bool]] = []
        self.there: dict[str, Any] = {}
        self.reason = "NoKindMatch"
        self.outlived: list[Gone] = []
        self.silent: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def undo(self, records: Sequence[Undo], hand: Any, *, hurry: bool) -> Iterator[Gone]:
        self.calls.append(([item.name for item in records], hurry))
        self.meanwhile()
        for item in records:
            yield self.held.get(item.name, Gone(item))

    def get(self, ref: Ref, deadline: Any) -> Any:
        if ref.name in self.there:
            return self.there[ref.name]
        raise StepFailed("the cluster knows no such kind", reason=self.reason)

    def what_outlived(self, gone: Sequence[Undo], deadline: Any) -> Any:
        return [item for item in self.outlived if item.record.id in {record.id for record in gone}], self.silent


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def run(tmp_path: Path, heard: list[Event]) -> Iterator[Run]:
    """A run that made four objects."""
    journal = Journal(tmp_path / "run")
    for number, item in enumerate((SPACE, INSIDE, OUTSIDE, KEPT)):
        journal.intend(item)
        journal.made(item, f"u{number}")
    run = Run(id="run", folder=tmp_path / "run", events=Events("run", (heard.append,)), journal=journal)
    yield run
    journal.close()


def clean(run: Run, cluster: Cluster, *, keep_all: bool = False) -> Pending:
    run.cluster = cluster  # type: ignore[assignment]
    return Pending(run, [SPACE, INSIDE, OUTSIDE, KEPT], run.events.emit, keep_all=keep_all)


def test_hurries_when_the_deadline_is_near(run: Run) -> None:
    """With little time left everything goes at once, with short grace, namespaces too."""
    run.budget = Budget(60, time.monotonic() - 55)
    cluster = Cluster()
    result = clean(run, cluster).wait()

    assert cluster.calls == [(["b", "made", "a"], True)]
    assert (result.deleted, result.left) == (3, ())


def test_namespaces_end_in_the_background(run: Run, heard: list[Event]) -> None:
    """What is elsewhere is waited for at once; a namespace with all in it when the result is asked for."""
    released = threading.Event()
    cluster = Cluster()
    cluster.meanwhile = lambda: len(cluster.calls) == 1 or released.wait(30)
    pending = clean(run, cluster)
    before = list(run.journal.records)
    released.set()
    result = pending.wait()

    assert [item.name for item in before] == ["made", "a", "c"]
    assert cluster.calls == [(["b"], False), (["made", "a"], False)]
    assert (result.deleted, result.kept, result.left) == (3, ("pod/c (namespace other)",), ())
    assert pending.wait() is result
    assert [event.name for event in heard].count("object deleted") == 3
    past = replay(run.folder)
    assert ([*past.records], past.kept) == (["run/4"], {"run/4"})


def test_after_a_signal_all_goes_at_once(run: Run) -> None:
    """Nothing waits for anything else; what was deleted calmly before is not left over."""
    cluster = Cluster(b=Gone(OUTSIDE, "it still exists"))
    cluster.meanwhile = lambda: None if run.signal else run.interrupt(15, "SIGTERM")
    result = clean(run, cluster).wait()

    assert cluster.calls == [(["b"], False), (["b", "made", "a"], True)]
    assert (result.deleted, [(item.object, item.why) for item in result.left]) == (
        2,
        [("pod/b (namespace other)", "it still exists")],
    )
    assert result.left[0].command == "kubectl delete pod/b --namespace=other"


@pytest.mark.parametrize(
    ("gone", "hint"),
    [
        (
            Gone(OUTSIDE, "held by its finalizers: x", hint="see: kubectl get pod/b; kubectl patch pod/b"),
            "see: kubectl --context=far get pod/b; kubectl --context=far patch pod/b",
        ),
        (
            Gone(OUTSIDE, "pods is forbidden", hopeless=True),
            "as an account that may do that: kubectl delete pod/b --namespace=other",
        ),
        (Gone(OUTSIDE, "it still exists"), ""),
    ],
)
def test_what_to_do_where_deleting_does_not_help(run: Run, heard: list[Event], gone: Gone, hint: str) -> None:
    """In the cluster that the run had named; the command stands beside it for programs."""
    run.journal.at(Place(engine="kubectl", context="far", named=True))
    (left,) = clean(run, Cluster(b=gone)).wait().left

    assert (left.hint, left.command) == (hint, "kubectl delete pod/b --namespace=other --context=far")
    assert next(event.fields["hint"] for event in heard if event.name == "object left") == hint


def test_another_object_of_the_name_is_named(run: Run, heard: list[Event]) -> None:
    """It is left, and whoever wonders why finds out."""
    result = clean(run, Cluster(b=Gone(OUTSIDE, found=False, replaced=True))).wait()

    assert (result.deleted, result.left) == (2, ())
    (note,) = [event.fields["message"] for event in heard if event.name == "note"]
    assert note == "pod/b (namespace other) was replaced by something else meanwhile: it is left"


def test_nothing_to_do(run: Run) -> None:
    """Everything is kept."""
    cluster = Cluster()
    result = clean(run, cluster, keep_all=True).wait()

    assert cluster.calls == []
    assert (result.deleted, len(result.kept)) == (0, 4)
    assert replay(run.folder).doomed == ()


def test_verified_against_the_cluster(run: Run, heard: list[Event]) -> None:
    """What is there again under its UID is left; another object of the name is none of ours."""
    cluster = Cluster()
    clean(run, cluster).wait()
    cluster.there = {"a": {"metadata": {"uid": "u1"}}, "b": {"metadata": {"uid": "of somebody else"}}, "made": None}

    assert [(item.object, item.why) for item in verify(run)] == [
        ("pod/a (namespace made)", "it was deleted, but is still there")
    ]
    (said,) = (event.fields for event in heard if event.name == "cleanup verified")
    assert said == {"objects": 3, "left": 1}
    assert "run/2" in replay(run.folder).records  # `runner clean` finds it again


def test_verified_after_a_signal_as_long_as_there_is_time(run: Run, heard: list[Event]) -> None:
    """What is still there is named, and left to those who go on; the second signal means that nobody waits."""
    cluster = Cluster()
    clean(run, cluster).wait()
    cluster.there = dict.fromkeys(("a", "b", "made"))
    below = Dependent(api_version="v1", kind="Pod", name="late", namespace="other", uid="u9")
    cluster.outlived = [Gone(OUTSIDE, "it still exists", rest=(below,))]

    run.interrupt(15, "SIGTERM")
    assert [item.object for item in verify(run)] == ["pod/late (namespace other)"]
    run.interrupt(15, "SIGTERM")
    assert verify(run) == ()
    assert [event.name for event in heard].count("cleanup verified") == 1


def test_what_others_use_now_stays_without_a_word(run: Run, heard: list[Event]) -> None:
    """It was not deleted, nothing of it is left to do, and that it is there is no surprise afterwards."""
    cluster = Cluster(b=Gone(OUTSIDE, stays=True))
    result = clean(run, cluster).wait()
    cluster.there = {"a": None, "made": None, "b": {"metadata": {"uid": "u2"}}}

    assert (result.deleted, result.left, verify(run)) == (2, (), ())
    assert "warning" not in [event.name for event in heard]
    assert [*replay(run.folder).records] == ["run/4"]


def test_dependents_that_outlive_their_owner_are_left(run: Run, heard: list[Event]) -> None:
    """With the command that removes them; the journal knows them, and which kinds were silent is told."""
    cluster = Cluster()
    clean(run, cluster).wait()
    below = Dependent(api_version="v1", kind="ConfigMap", name="part", namespace="other", uid="u9")
    cluster.outlived = [Gone(OUTSIDE, "it still exists, held by its finalizers: x", rest=(below,), hint="look")]
    cluster.silent = ["widget.example.test"]

    (left,) = verify(run)

    assert left.object == "configmap/part (namespace other)"
    assert (left.why, left.hint) == ("it still exists, held by its finalizers: x", "look")
    assert left.command == "kubectl delete configmap/part --namespace=other"
    assert heard[-2].fields["message"].endswith("could not be looked for everywhere: widget.example.test")
    assert heard[-1].fields == {"objects": 3, "left": 1}
    assert replay(run.folder).records["run/3"].dependents == (below,)


def test_each_object_has_its_own_verdict(run: Run, heard: list[Event]) -> None:
    """One that cannot be asked about hides no other: what was found is left, the rest is counted and named."""
    cluster = Cluster()
    clean(run, cluster).wait()
    cluster.reason = "Unreachable"
    cluster.there = {"a": {"metadata": {"uid": "u1"}}}

    assert [item.object for item in verify(run)] == ["pod/a (namespace made)"]
    warning, verified = heard[-2:]
    assert "whether 2 objects are gone could not be verified" in warning.fields["message"]
    assert warning.fields["hint"] == "look for pod/b (namespace other), namespace/made"
    assert verified.fields == {"objects": 1, "left": 1}


def test_what_cannot_be_asked_is_not_verified(run: Run, heard: list[Event]) -> None:
    """An API server that is away has not said that anything is gone."""
    cluster = Cluster()
    clean(run, cluster).wait()
    cluster.reason = "Unreachable"

    assert verify(run) == ()
    assert "cleanup verified" not in [event.name for event in heard]
    assert "whether 3 objects are gone could not be verified" in heard[-1].fields["message"]


def test_a_bug_in_the_background_is_not_lost(run: Run) -> None:
    """Otherwise a namespace would stay, and nobody would be told."""
    cluster = Cluster()

    def fail() -> None:
        if "made" in cluster.calls[-1][0]:
            raise KeyError("uid")

    cluster.meanwhile = fail
    pending = clean(run, cluster)

    with pytest.raises(KeyError):
        pending.wait()
    assert SPACE.id in {item.id for item in run.journal.records}


def test_words() -> None:
    """How objects and the commands that remove them are written."""
    volume = Undo(id="run/1", engine="podman", api_version="", kind="Volume", name="data")
    assert (address(SPACE), address(INSIDE)) == ("namespace/made", "pod/a (namespace made)")
    assert (removal(SPACE), removal(volume)) == ("kubectl delete namespace/made", "podman volume rm data")


def test_tidy_leaves_what_tells_of_the_run(run: Run) -> None:
    """Rendered files and credentials go; harmless twice."""
    (run.folder / "steps/a").mkdir(parents=True)
    (run.folder / "kubeconfig").write_text("secret")
    for _ in range(2):
        tidy(run.folder)

    assert [path.name for path in run.folder.iterdir()] == ["journal.jsonl"]


def test_objects_that_go_one_after_the_other_are_one_line(run: Run, heard: list[Event]) -> None:
    """The log has a line a second at most; the live view all of them; what lasts is said again, with its seconds."""
    remover = Remover(Cluster(), run.journal, run.id, run.events.emit)  # type: ignore[arg-type]
    for number in range(5):
        remover.waiting(f"configmap/{number} to be gone")
    remover.waiting("configmap/4 to be gone")
    remover.waiting("configmap/4 to be gone, held by its finalizers: x", 3.0)

    lines = [(event.level, event.fields.get("seconds")) for event in heard]
    assert lines == [("info", None), *[("debug", None)] * 4, ("info", 3.0)]
