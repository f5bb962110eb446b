"""`apply`: which files a key means, what is wrong with them before the run, and what is applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Applied, Manifest
from runner.errors import StepFailed
from runner.steps import apply
from runner.steps.bounds import STAY_INSIDE
from runner.steps.kind import Fault, Files, Scene

ADVICE = "a manifest has apiVersion, kind and metadata.name"


def manifest(name: str, kind: str = "Pod") -> str:
    return f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: other}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with manifests in a folder, of every suffix, and what is none."""
    folder = tmp_path / "repository"
    (folder / "many").mkdir(parents=True)
    (folder / "pod.yaml").write_text(manifest("a"))
    (folder / "many/b.yml").write_text(manifest("b"))
    (folder / "many/a.yaml").write_text(manifest("x") + "---\n" + manifest("y", "Service"))
    (folder / "many/c.json").write_text('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}')
    (folder / "many/notes.txt").write_text("no manifest")
    (folder / "empty").mkdir()
    return folder


def faults(file: Any, folder: Path, *made: str) -> list[Fault]:
    return list(apply.check({"file": file}, Files(folder, folder, frozenset(made))))


def files(file: str | list[str], folder: Path, namespace: str = "") -> list[str]:
    """The files that the commands name, relative to the folder."""
    args = msgspec.convert({"file": file}, apply.Args)
    (command,) = apply.commands(args, Scene(KubectlDialect(), namespace, folder))
    names = (word for word in command.argv if word.startswith("--filename="))
    return [name.removeprefix(f"--filename={folder}/") for name in names]


# -- commands -------------------------------------------------------------------------------------------------------


def test_command(folder: Path) -> None:
    """As a person types it, with the namespace when there is one."""
    args = msgspec.convert({"file": "pod.yaml"}, apply.Args)

    (plain,) = apply.commands(args, Scene(KubectlDialect(), "", folder))
    assert plain.argv == ("kubectl", "apply", f"--filename={folder}/pod.yaml")
    (other,) = apply.commands(args, Scene(KubectlDialect(), "demo", folder, show_path=lambda path: path.name))
    assert other.argv == ("kubectl", "apply", "--namespace=demo", "--filename=pod.yaml")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pod.yaml", ["pod.yaml"]),
        ("many", ["many/a.yaml", "many/b.yml", "many/c.json"]),
        ("many/", ["many/a.yaml", "many/b.yml", "many/c.json"]),
        ("many/*.yaml", ["many/a.yaml"]),
        ("**/*.y*ml", ["many/a.yaml", "many/b.yml", "pod.yaml"]),
        ("many/*", ["many/a.yaml", "many/b.yml", "many/c.json"]),
        (["pod.yaml", "many/*.json"], ["pod.yaml", "many/c.json"]),
        (["many/b.yml", "many/a.yaml"], ["many/b.yml", "many/a.yaml"]),
        ("made.yaml", ["made.yaml"]),
    ],
)
def test_which_files(file: str | list[str], expected: list[str], folder: Path) -> None:
    """A path, a folder, a glob: sorted; a list: in its order; a file that is not there yet is kept."""
    assert files(file, folder) == expected


def test_titles() -> None:
    """As written."""
    assert apply.title({"file": "a.yaml"}) == "a.yaml"
    assert apply.title({"file": ["a.yaml", "b"]}) == "a.yaml, b"
    assert apply.needs_cluster({"file": "a.yaml"}) is True


# -- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["pod.yaml", "many", "many/*.yaml", ["pod.yaml", "many"], "${{ inputs.a }}", "m.yaml"])
def test_nothing_is_wrong(file: Any, folder: Path) -> None:
    """Also for a file that an expression names, and one that an earlier step makes."""
    assert faults(file, folder, "m.yaml") == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pood.yaml", Fault(("file",), "there is no file pood.yaml", "did you mean pod.yaml?")),
        ("many/aa.yaml", Fault(("file",), "there is no file many/aa.yaml", "did you mean many/a.yaml?")),
        (
            ["pod.yaml", "x/*.yaml"],
            Fault(
                ("file", 1),
                "there is no file x/*.yaml",
                "a `run` step before that makes it says so with `generates: [x/*.yaml]`",
            ),
        ),
        ("empty", Fault(("file",), "the folder empty has no manifests (*.yaml, *.yml, *.json)")),
        (
            "https://example.org/a.yaml",
            Fault(
                ("file",),
                "https://example.org/a.yaml is a URL: what it holds may change, and nobody has looked at it",
                "download it into the repository, or allow it: `allow_remote: true`",
            ),
        ),
        (
            "../a.yaml",
            Fault(("file",), "a.yaml is outside of the repository of the workflow", STAY_INSIDE),
        ),
    ],
)
def test_wrong_names(file: Any, expected: Fault, folder: Path) -> None:
    """With the place in the list, and a suggestion."""
    assert faults(file, folder) == [expected]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "m.yaml is empty", ""),
        ("# nothing\n---\n", "m.yaml is empty", ""),
        ("- a\n", "m.yaml:1: this is a list, not a Kubernetes object", ADVICE),
        ("a\n", "m.yaml:1: this is a single value, not a Kubernetes object", ADVICE),
        ("a: 1\n", "m.yaml:1: `apiVersion` and `kind` are missing: not a Kubernetes object", ADVICE),
        ("kind: Pod\n", "m.yaml:1: `apiVersion` is missing: not a Kubernetes object", ADVICE),
        ("apiVersion: ''\nkind: Pod\n", "m.yaml:1: `apiVersion` is missing: not a Kubernetes object", ADVICE),
        ("apiVersion: v1\nkind: Pod\n", "m.yaml:1: this Pod has no metadata.name", ADVICE),
        ("apiVersion: v1\nkind: Pod\nmetadata: a\n", "m.yaml:1: this Pod has no metadata.name", ADVICE),
        ("apiVersion: v1\nkind: List\n", "m.yaml:1: List has no items", ADVICE),
        ("apiVersion: 1\nkind: Pod\n", "m.yaml:1: `apiVersion` is missing: not a Kubernetes object", ADVICE),
        ("a: [\n", "m.yaml:2:1: a value is missing here", "write the value, or put it in quotes"),
        (
            "a: {{ .Values.x }}\n",
            "m.yaml:1:5: a key must be text, not a list or map",
            "is a `{{ }}` or `${{ }}` without quotes?",
        ),
    ],
)
def test_wrong_contents(text: str, message: str, hint: str, folder: Path) -> None:
    """Found before anything runs, with file and line of the manifest."""
    (folder / "m.yaml").write_text(text)

    assert faults("m.yaml", folder) == [Fault(("file",), message, hint)]


def test_generated_names_and_lists_are_fine(folder: Path) -> None:
    """`generateName` and `kind: List`."""
    (folder / "m.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n---\napiVersion: v1\nkind: PodList\nitems: []\n"
    )
    assert faults("m.yaml", folder) == []


@pytest.mark.parametrize("item", ["1", "[]", "{kind: Pod}", "{apiVersion: v1, kind: Pod}"])
def test_wrong_items_of_a_list(item: str, folder: Path) -> None:
    """What stands in a list is an object, or refused before the run."""
    (folder / "m.yaml").write_text(f"apiVersion: v1\nkind: List\nitems:\n- {item}\n")

    assert len(faults("m.yaml", folder)) == 1


# -- run ------------------------------------------------------------------------------------------------------------


class Stage:
    """A step's context and its cluster in one."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(KubectlDialect(), "", folder)
        self.namespace = "demo"
        self.cluster = self
        self.applied: list[Manifest] = []

    def apply(
        self, manifests: list[Manifest], namespace: str, hand: object, *, server_side: bool = False
    ) -> list[Applied]:
        assert (namespace, hand, server_side) == ("demo", self, False)
        self.applied = list(manifests)
        return [Applied(item.ref, f"uid-{item.ref.name}", created=item.ref.kind == "Pod") for item in manifests]


def test_run(folder: Path) -> None:
    """All objects of all files in order, in one call; outputs say which of them are new."""
    stage: Any = Stage(folder)
    outputs = apply.run(msgspec.convert({"file": ["pod.yaml", "many/a.yaml"]}, apply.Args), stage)

    assert [(item.object["metadata"]["name"], item.line) for item in stage.applied] == [("a", 1), ("x", 1), ("y", 5)]
    assert outputs["objects"][0] == {
        "kind": "Pod",
        "name": "a",
        "namespace": "other",
        "uid": "uid-a",
        "created": True,
    }
    assert [item["created"] for item in outputs["objects"]] == [True, True, False]


def test_lists_are_unfolded(folder: Path) -> None:
    """Each item is an object of its own, with its own line."""
    items = "".join(f"- {{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}\n" for name in "pq")
    (folder / "l.yaml").write_text(f"apiVersion: v1\nkind: List\nitems:\n{items}")
    stage: Any = Stage(folder)
    apply.run(msgspec.convert({"file": "l.yaml"}, apply.Args), stage)

    assert [(item.object["metadata"]["name"], item.line) for item in stage.applied] == [("p", 4), ("q", 5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "`apiVersion` and `kind` are missing: not a Kubernetes object"),
        ("a: [\n", "2:1: a value is missing here"),
        (None, "there is no file "),
    ],
)
def test_file_that_was_generated_wrongly(text: str | None, message: str, folder: Path) -> None:
    """What validation could not see fails the step with a sentence, and nothing is applied."""
    if text:
        (folder / "made.yaml").write_text(text)
    stage: Any = Stage(folder)

    with pytest.raises(StepFailed) as caught:
        apply.run(msgspec.convert({"file": "made.yaml"}, apply.Args), stage)
    assert message in caught.value.message
    assert caught.value.message.count("made.yaml") >= 1
    assert caught.value.reason == "manifest"
    assert stage.applied == []
