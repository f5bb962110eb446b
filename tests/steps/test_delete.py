"""`delete`: by reference, by selector, by file; in which order, with which words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Ref, Selection
from runner.deadline import Deadline
from runner.shell import Command
from runner.steps import delete
from runner.steps.bounds import STAY_INSIDE
from runner.steps.kind import Fault, Files, Scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with two manifests in a folder."""
    (tmp_path / "app").mkdir()
    for name in ("a", "b"):
        text = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}1}}\n"
        (tmp_path / f"app/{name}.yaml").write_text(f"{text}---\n{text.replace('1', '2')}")
    return tmp_path


def args(data: dict[str, Any]) -> delete.Args:
    return msgspec.convert(data, delete.Args)


def lines(data: dict[str, Any], folder: Path, namespace: str = "demo") -> list[str]:
    """The commands as typed, files relative to the folder."""
    scene = Scene(KubectlDialect(), namespace, folder, show_path=lambda path: str(path.relative_to(folder)))
    return [str(command) for command in delete.commands(args(data), scene)]


def faults(data: dict[str, Any], folder: Path, *made: str) -> list[Fault]:
    return list(delete.check(data, Files(folder, folder, frozenset(made))))


# -- commands -------------------------------------------------------------------------------------------------------

REST = "--ignore-not-found --wait=false"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"target": "pod/a"}, [f"kubectl delete --request-timeout=35s pod/a --namespace=demo {REST}"]),
        (
            {"target": ["pod/a", "svc/b", "pod/c"]},
            [
                f"kubectl delete --request-timeout=35s pod/a pod/c --namespace=demo {REST}",
                f"kubectl delete --request-timeout=35s svc/b --namespace=demo {REST}",
            ],
        ),
        (
            {"target": {"kind": "pod", "selector": "app=x,tier!=db"}},
            [f"kubectl delete --request-timeout=35s pod '--selector=app=x,tier!=db' --namespace=demo {REST}"],
        ),
        (
            {"target": {"kind": "pod", "name": "a", "namespace": "other"}},
            [f"kubectl delete --request-timeout=35s pod/a --namespace=other {REST}"],
        ),
        (
            {"target": "pod/a", "grace": 0},
            [f"kubectl delete --request-timeout=35s pod/a --namespace=demo --grace-period=0 {REST}"],
        ),
        (
            {"target": "app/a.yaml"},
            [f"kubectl delete --request-timeout=35s --namespace=demo --filename=app/a.yaml {REST}"],
        ),
        (
            {"file": ["app/a.yaml"], "grace": 5},
            [f"kubectl delete --request-timeout=35s --namespace=demo --filename=app/a.yaml --grace-period=5 {REST}"],
        ),
        (
            {"file": "app"},
            [
                f"kubectl delete --request-timeout=35s --namespace=demo --filename=app/b.yaml {REST}",
                f"kubectl delete --request-timeout=35s --namespace=demo --filename=app/a.yaml {REST}",
            ],
        ),
    ],
)
def test_commands(data: dict[str, Any], expected: list[str], folder: Path) -> None:
    """One for each kind of object or file; files in reverse, as they were applied; waiting is done by watching."""
    assert lines(data, folder) == expected


def test_without_namespace(folder: Path) -> None:
    """The context's own."""
    assert lines({"target": "pod/a"}, folder, "") == [f"kubectl delete --request-timeout=35s pod/a {REST}"]


def test_objects_that_must_be_there(folder: Path) -> None:
    """`ignore_not_found: false` is seen in the plan."""
    (line,) = lines({"target": "pod/a", "ignore_not_found": False}, folder)
    assert "--ignore-not-found" not in line.split()


def test_titles() -> None:
    """What is deleted."""
    assert delete.title({"target": "pod/a"}) == "pod/a"
    assert delete.title({"target": ["pod/a", "pod/b"]}) == "pod/a, pod/b"
    assert delete.title({"target": {"kind": "pod", "name": "a", "namespace": "x"}}) == "pod a"
    assert delete.title({"file": ["a.yaml", "b.yaml"]}) == "a.yaml, b.yaml"
    assert delete.needs_cluster({}) is True


# -- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {"target": "pod/a"},
        {"target": "app/a.yaml"},
        {"target": "${{ inputs.a }}"},
        {"target": {"kind": "pod", "selector": "a=b"}},
        {"file": "app"},
        {"file": ["app/a.yaml", "made.yaml"]},
        {"target": "made.yaml"},
    ],
)
def test_nothing_is_wrong(data: dict[str, Any], folder: Path) -> None:
    """A string that ends in .yaml is a file, anything else a reference."""
    assert faults(data, folder, "made.yaml") == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, Fault((), "`delete` needs `target` or `file`, one of them")),
        ({"target": "pod/a", "file": "app/a.yaml"}, Fault((), "`delete` needs `target` or `file`, one of them")),
        (
            {"target": "app"},
            Fault(("target",), "'app' is not a reference to an object", "write kind/name, as in pod/pythonapp"),
        ),
        (
            {"target": ["pod/a", "app/a b"]},
            Fault(("target", 1), "'app/a b' is not a reference to an object", "write kind/name, as in pod/pythonapp"),
        ),
        (
            {"target": "app/"},
            Fault(("target",), "app/ is a folder", "write `delete: {file: app/}` for the files in it"),
        ),
        ({"target": {"kind": "pod"}}, Fault(("target",), "a target needs a name or a selector, one of them")),
        ({"target": "app/aa.yaml"}, Fault(("target",), "there is no file app/aa.yaml", "did you mean app/a.yaml?")),
        (
            {"file": ["app/a.yaml", "../x.yaml"]},
            Fault(("file", 1), "x.yaml is outside of the repository of the workflow", STAY_INSIDE),
        ),
    ],
)
def test_what_is_wrong(data: dict[str, Any], expected: Fault, folder: Path) -> None:
    """Each with its place."""
    assert faults(data, folder) == [expected]


# -- run ------------------------------------------------------------------------------------------------------------


class Stage:
    """A step's context and its cluster in one: every second object was there."""

    def __init__(self, folder: Path) -> None:
        self.workflow_folder = folder
        self.namespace = "demo"
        self.scene = Scene(KubectlDialect(), "demo", folder)
        self.cluster = self
        self.refs: list[str] = []
        self.options: dict[str, bool] = {}
        self.commands: list[Command] = []
        self.deadline = Deadline(5)

    def expand(self, selection: Selection, deadline: Deadline) -> list[Ref]:
        names = selection.names or ("x", "y")
        return [Ref(selection.kind, name, selection.namespace) for name in names]

    def delete(self, refs: Sequence[Ref], commands: Sequence[Command], hand: object, **options: bool) -> list[Ref]:
        assert hand is self
        self.refs = [str(ref) for ref in refs]
        self.options = options
        self.commands = list(commands)
        return list(refs[::2])


@pytest.mark.parametrize(
    ("data", "refs"),
    [
        ({"target": "pod/a"}, ["pod/a"]),
        ({"target": ["pod/a", "svc/b", "pod/c"]}, ["pod/a", "pod/c", "svc/b"]),
        ({"target": {"kind": "pod", "selector": "app=x"}}, ["pod/x", "pod/y"]),
        ({"target": "app/a.yaml"}, ["pod/a2", "pod/a1"]),
        ({"file": "app"}, ["pod/b2", "pod/b1", "pod/a2", "pod/a1"]),
    ],
)
def test_what_is_deleted(data: dict[str, Any], refs: list[str], folder: Path) -> None:
    """Exactly what is named; objects of files in reverse; the outputs are those that were there."""
    stage: Any = Stage(folder)
    outputs = delete.run(args(data), stage)

    assert stage.refs == refs
    assert [f"{item['kind'].lower()}/{item['name']}" for item in outputs["objects"]] == refs[::2]
    assert all(item.keys() == {"kind", "name", "namespace"} for item in outputs["objects"])
    assert stage.options == {"wait": True, "ignore_not_found": True}


def test_run_and_plan_have_the_same_commands(folder: Path) -> None:
    """A plan cannot lie."""
    stage: Any = Stage(folder)
    for data in ({"target": ["pod/a", "svc/b"], "grace": 3}, {"file": "app"}):
        delete.run(args(data), stage)
        assert stage.commands == list(delete.commands(args(data), stage.scene))


def test_options_reach_the_cluster(folder: Path) -> None:
    """`wait` and `ignore_not_found`."""
    stage: Any = Stage(folder)
    delete.run(args({"target": "pod/a", "wait": False, "ignore_not_found": False}), stage)

    assert stage.options == {"wait": False, "ignore_not_found": False}
