"""What is known of objects after kubectl's apply, and which words a failed one leaves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from runner.cluster.applying import _is_older_than_its_label, _Work
from runner.cluster.protocol import RUN_LABEL, Ref
from runner.deadline import Deadline
from runner.errors import Cancelled, CommandResult, Expired, StepFailed

OBJECT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
REFUSED = "Error from server (Forbidden): no"


class Cluster:
    """The object is absent at the first look; all later ones do what the test says."""

    namespace = "demo"
    dialect = SimpleNamespace(apply=lambda *_, **__: (("kubectl", "apply"),))

    def __init__(self, look: Any) -> None:
        resource = SimpleNamespace(kind="ConfigMap", namespaced=True, group_version="v1")
        self.discovery = SimpleNamespace(of_manifest=lambda *_: resource)
        self.looks = [lambda _: None, look]

    def look(self, resource: Any, namespace: str, name: str, deadline: Deadline) -> Any:
        return self.find(resource, namespace, name, deadline), "1"

    def find(self, resource: Any, namespace: str, name: str, deadline: Deadline) -> Any:
        return (self.looks.pop(0) if len(self.looks) > 1 else self.looks[0])(deadline)


class Hand:
    """Its command is refused; it keeps the names of what stands in the journal."""

    run_id, lifetime, allowed = "run", 0.0, frozenset[str]()

    def __init__(self, folder: Any) -> None:
        self.folder = folder
        self.deadline = Deadline(60)
        self.open: list[str] = []

    def intend(self, ref: Ref) -> Any:
        self.open.append(ref.name)
        return ref

    def unmade(self, ref: Ref) -> None:
        self.open.remove(ref.name)

    def execute(self, _: object) -> CommandResult:
        raise StepFailed("exit code 1", result=CommandResult(("kubectl",), 1, "", REFUSED, 0.1))


def fail(look: Any, hand: Hand) -> None:
    _Work(cast("Any", Cluster(look)), [OBJECT], "", cast("Any", hand), server_side=False).run()


def test_refused_apply_leaves_no_intent(tmp_path: Any) -> None:
    """What was not there at the second look will not come."""
    hand = Hand(tmp_path)

    with pytest.raises(StepFailed):
        fail(lambda _: None, hand)
    assert hand.open == []


def test_server_that_is_silent_after_a_failed_apply(tmp_path: Any) -> None:
    """The step says why kubectl failed; what may exist stays in the journal."""
    hand = Hand(tmp_path)

    def silent(_: Deadline) -> None:
        raise Expired("timed out after 10 s", reason="timeout")

    with pytest.raises(StepFailed) as caught:
        fail(silent, hand)
    assert "timed out" not in caught.value.message
    assert caught.value.result
    assert caught.value.result.stderr.startswith(REFUSED)
    assert hand.open == ["a"]


def test_signal_ends_the_look_after_a_failed_apply(tmp_path: Any) -> None:
    """The look has a deadline of its own, and feels the signal all the same."""
    hand = Hand(tmp_path)

    def look(deadline: Deadline) -> None:
        hand.deadline.cancel("SIGINT")
        deadline.check()

    with pytest.raises(Cancelled, match="SIGINT"):
        fail(look, hand)
    assert hand.open == ["a"]


@pytest.mark.parametrize(("written", "older"), [("2026-01-01T00:00:00Z", False), ("2026-01-01T00:00:02Z", True)])
def test_server_side_apply_onto_what_somebody_else_made(written: str, older: bool) -> None:
    """The label of the run came later than the object: it is not ours."""
    fields: dict[str, Any] = {"f:metadata": {"f:labels": {f"f:{RUN_LABEL}": {}}}}
    entries = [
        {"manager": "other", "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:data": {}}},
        {"manager": "kubectl", "operation": "Apply", "time": written, "fieldsV1": fields},
    ]
    live = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": entries}}

    assert _is_older_than_its_label(live) is older
