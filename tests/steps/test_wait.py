"""`wait`: the line it stands for, what is checked before, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Selection
from runner.deadline import Deadline
from runner.errors import Expired, StepFailed, TimedOut
from runner.expressions import EvaluationError
from runner.steps import wait
from runner.steps.kind import Fault, Files, Scene


def args(data: dict[str, Any]) -> wait.Args:
    return msgspec.convert(data, wait.Args)


def scene(namespace: str = "demo", timeout: float = 120) -> Scene:
    return Scene(KubectlDialect(), namespace, Path("/flows"), timeout=timeout)


def faults(data: dict[str, Any]) -> list[Fault]:
    return list(wait.check(data, Files(Path("/flows"), Path("/flows"))))


# -- the line it stands for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"target": "pod/a"}, "kubectl wait pod/a --namespace=demo --for=condition=Ready --timeout=120s"),
        (
            {"target": "deployment/a"},
            "kubectl wait deployment/a --namespace=demo --for=condition=Available --timeout=120s",
        ),
        (
            {"target": "job/a", "until": "complete"},
            "kubectl wait job/a --namespace=demo --for=condition=Complete --timeout=120s",
        ),
        ({"target": "pod/a", "until": "deleted"}, "kubectl wait pod/a --namespace=demo --for=delete --timeout=120s"),
        ({"target": "pod/a", "until": "exists"}, "kubectl wait pod/a --namespace=demo --for=create --timeout=120s"),
        (
            {"target": "pod/a", "until": "condition=Ready=false"},
            "kubectl wait pod/a --namespace=demo --for=condition=Ready=false --timeout=120s",
        ),
        (
            {"target": {"kind": "pod", "selector": "app=x"}},
            "kubectl wait pod --selector=app=x --namespace=demo --for=condition=Ready --timeout=120s",
        ),
        (
            {"target": {"kind": "pod", "name": "a", "namespace": "other"}},
            "kubectl wait pod/a --namespace=other --for=condition=Ready --timeout=120s",
        ),
        (
            {"target": "pod/a", "that": "object.spec.x == 1"},
            "# wait until this holds (CEL over the object): object.spec.x == 1",
        ),
    ],
)
def test_line_of_the_plan(data: dict[str, Any], line: str) -> None:
    """As a person would type it; CEL has no such line and is shown as it is."""
    assert wait.equivalent(args(data), scene()) == (line,)
    assert wait.commands(args(data), scene()) == ()


def test_one_line_for_each_kind_of_object() -> None:
    """Objects of the same kind are waited for together; no namespace, no flag."""
    assert wait.equivalent(args({"target": ["pod/a", "svc/x", "pod/b"]}), scene("", 7)) == (
        "kubectl wait pod/a pod/b --for=condition=Ready --timeout=7s",
        "kubectl wait svc/x --for=create --timeout=7s",
    )


def test_titles() -> None:
    """What is waited for."""
    assert wait.title({"target": "pod/a"}) == "pod/a"
    assert wait.title({"target": ["pod/a", "pod/b"]}) == "pod/a, pod/b"
    assert wait.title({"target": {"kind": "pod", "selector": "app=x"}}) == "pod app=x"
    assert wait.needs_cluster({"target": "pod/a"}) is True


# -- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {"target": "pod/a"},
        {"target": "deployments.apps/a"},
        {"target": ["pod/a", "${{ inputs.b }}"]},
        {"target": {"kind": "pod", "name": "a"}},
        {"target": {"kind": "pod", "selector": "a=b"}, "that": "true"},
    ],
)
def test_nothing_is_wrong(data: dict[str, Any]) -> None:
    """References, expressions, maps."""
    assert faults(data) == []


HINT = "write kind/name, as in pod/pythonapp"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"target": "pod"}, Fault(("target",), "'pod' is not a reference to an object", HINT)),
        ({"target": "pod a"}, Fault(("target",), "'pod a' is not a reference to an object", HINT)),
        ({"target": "pod/"}, Fault(("target",), "'pod/' is not a reference to an object", HINT)),
        ({"target": "a/b/c"}, Fault(("target",), "'a/b/c' is not a reference to an object", HINT)),
        ({"target": ["pod/a", "b"]}, Fault(("target", 1), "'b' is not a reference to an object", HINT)),
        ({"target": "app/pod.yaml"}, Fault(("target",), "`wait` takes objects, not the file app/pod.yaml", HINT)),
        ({"target": {"kind": "pod"}}, Fault(("target",), "a target needs a name or a selector, one of them")),
        (
            {"target": {"kind": "pod", "name": "a", "selector": "b"}},
            Fault(("target",), "a target needs a name or a selector, one of them"),
        ),
        (
            {"target": "pod/a", "until": "ready", "that": "true"},
            Fault(("that",), "`until` and `that` exclude each other"),
        ),
    ],
)
def test_what_is_wrong(data: dict[str, Any], expected: Fault) -> None:
    """Each with its place."""
    assert faults(data) == [expected]


# -- run ------------------------------------------------------------------------------------------------------------


def pod(name: str, ready: bool = True, **more: Any) -> dict[str, Any]:
    """A Pod as a cluster has it."""
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": status, **more}


class Stage:
    """A step's context and its cluster in one: the states that a watch shows, one after the other, then a timeout."""

    def __init__(self, *states: list[dict[str, Any]], timeout: float = 5) -> None:
        self.states = states
        self.scene = scene(timeout=timeout)
        self.namespace = "demo"
        self.deadline = Deadline(5)
        self.cluster = self
        self.seen: list[Selection] = []
        self.lines: list[str] = []
        self.waits: list[str] = []

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[dict[str, Any]]]:
        self.seen.append(selection)
        yield from self.states
        raise Expired("the deadline")

    def explain(self, objects: Sequence[dict[str, Any]], deadline: object) -> str:
        return "explained " + " ".join(item["metadata"]["name"] for item in objects)

    def observed(self, line: str) -> None:
        self.lines.append(line)

    def waiting(self, what: str) -> None:
        self.waits.append(what)

    def evaluate(self, key: str, **variables: Any) -> Any:
        """`that` and `fail_if` are keys of the object here."""
        if key not in variables["object"]:
            raise EvaluationError(key, f"there is no field `{key}`")
        return variables["object"][key]


def play(data: dict[str, Any], *states: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    stage: Any = Stage(*states)
    return wait.run(args(data), stage), stage


def failed(data: dict[str, Any], *states: list[dict[str, Any]]) -> StepFailed:
    stage: Any = Stage(*states)
    with pytest.raises(StepFailed) as caught:
        wait.run(args(data), stage)
    return caught.value


def test_first_missing_then_pending_then_ready() -> None:
    """One deadline covers both; what it waits for is told; the outputs are the objects."""
    outputs, stage = play({"target": "pod/a"}, [], [pod("a", ready=False)], [pod("a")])

    assert outputs == {"object": pod("a"), "objects": [pod("a")]}
    assert stage.waits[0] == "pod/a does not exist yet"
    assert len(stage.waits) == 2
    assert stage.waits[1].startswith("pod/a")
    assert stage.lines == ["kubectl wait pod/a --namespace=demo --for=condition=Ready --timeout=5s"]
    assert stage.seen == [Selection("pod", ("a",), "", "demo")]


@pytest.mark.parametrize(
    ("count", "ready", "total", "ends"),
    [
        ("all", 2, 2, True),
        ("all", 1, 2, False),
        ("all", 0, 0, False),
        ("any", 1, 3, True),
        ("any", 0, 3, False),
        (2, 2, 3, True),
        (2, 3, 3, True),
        (2, 1, 3, False),
        (2, 1, 1, False),
    ],
)
def test_how_many(count: str | int, ready: int, total: int, ends: bool) -> None:
    """All that exist (at least one), any one, or a number."""
    data = {"target": {"kind": "pod", "selector": "app=x"}, "count": count}
    pods = [pod(str(number), ready=number < ready) for number in range(total)]

    if ends:
        assert play(data, pods)[0]["objects"] == pods
    else:
        assert failed(data, pods).reason == "timeout"


def test_all_of_several_names() -> None:
    """A name that does not exist is not there yet, whatever the others do."""
    data = {"target": ["pod/a", "pod/b"]}

    assert failed(data, [pod("a")]).message == "timed out after 5 s: 1 of 2 pod"
    assert play(data, [pod("a")], [pod("a"), pod("b")])[0]["object"] == pod("a")


def test_several_kinds_one_after_the_other() -> None:
    """Their objects come together in the outputs."""
    outputs, stage = play({"target": ["pod/a", "po/b"], "until": "exists"}, [pod("a")])

    assert [selection.kind for selection in stage.seen] == ["pod", "po"]
    assert len(outputs["objects"]) == len(stage.lines) == 2


def test_until_deleted() -> None:
    """Ends when nothing is left, at once when nothing was there."""
    data = {"target": "pod/a", "until": "deleted"}
    outputs, stage = play(data, [pod("a")], [])

    assert outputs == {"object": None, "objects": []}
    assert stage.waits == ["pod/a still exists"]
    assert play(data, [])[1].waits == []


@pytest.mark.parametrize(("until", "ends"), [("condition=Ready", True), ("condition=Ready=False", False)])
def test_until_condition(until: str, ends: bool) -> None:
    """With its value; True by default."""
    data = {"target": "pod/a", "until": until}

    if ends:
        assert play(data, [pod("a")])[0]["object"] == pod("a")
    else:
        assert failed(data, [pod("a")]).reason == "timeout"


def test_that() -> None:
    """A missing field means not yet; only `true` ends the wait, not any value that is not empty."""
    data = {"target": "pod/a", "that": "object.x"}
    outputs, stage = play(data, [pod("a")], [pod("a", that=False)], [pod("a", that="yes")], [pod("a", that=True)])

    assert outputs["object"]["that"] is True
    assert stage.waits == [
        "pod/a: not yet object.x: there is no field `that`",
        "pod/a: not yet object.x",
        "pod/a: not yet object.x",
    ]


def test_fail_if() -> None:
    """Ends at once with the expression, and with what the cluster says about the objects."""
    data = {"target": "pod/a", "fail_if": "object.x"}
    error = failed(data, [pod("a", ready=False)], [pod("a", ready=False, fail_if=True)], [pod("a")])

    assert (error.message, error.reason, error.details) == ("pod/a: object.x holds", "fail_if", "explained a")
    assert not isinstance(error, TimedOut)
    assert play(data, [pod("a", ready=False, fail_if=False)], [pod("a")])


def test_what_cannot_succeed_fails_at_once() -> None:
    """A Job that failed is not waited for."""
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j"},
        "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]},
    }
    error = failed({"target": "job/j", "until": "complete"}, [job])

    assert not isinstance(error, TimedOut)
    assert error.message.startswith("job/j failed")
    assert error.details == "explained j"


def test_timeout() -> None:
    """Says how long, what was missing, what to type next, and what the cluster says."""
    error = failed({"target": "pod/a"}, [pod("a", ready=False)])
    nothing = failed({"target": "pod/a"}, [])

    assert isinstance(error, TimedOut)
    assert error.message.startswith("timed out after 5 s: pod/a")
    assert (error.hint, error.details, error.reason) == (
        "kubectl describe pod/a --namespace=demo",
        "explained a",
        "timeout",
    )
    assert (nothing.message, nothing.hint) == ("timed out after 5 s: pod/a does not exist yet", "")


def test_object_that_went_away() -> None:
    """Named as what it is: it was there and is not any more."""
    assert failed({"target": "pod/a"}, [pod("a", ready=False)], []).message == (
        "timed out after 5 s: pod/a was deleted meanwhile"
    )
