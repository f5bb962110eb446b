"""From names on the command line to workflows: folders, what lies beside workflows, values files."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.commands import files
from runner.errors import InvalidWorkflow, UsageError

STEPS = "steps: [{run: x}]\n"
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder: Path, **texts: str) -> None:
    """Write files; `_` in a name stands for the dot."""
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)


def names(*arguments: str) -> list[str]:
    return [workflow.file for workflow in files.read(arguments)]


def refused(*arguments: str) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        files.read(arguments)
    return caught.value.message, caught.value.hint


def problems(*arguments: str) -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        files.read(arguments)
    return [f"{problem.place} {problem.message}" for problem in caught.value.problems]


def test_files_in_the_order_given(folder: Path) -> None:
    """Under their names as typed; any suffix, when a file is named itself; twice means twice."""
    put(folder, b_yaml=STEPS, a_yml=STEPS, flow_txt=STEPS)

    assert names("b.yaml", "./a.yml", "flow.txt", "b.yaml") == ["b.yaml", "./a.yml", "flow.txt", "b.yaml"]
    assert names(str(folder / "a.yml")) == [str(folder / "a.yml")]


def test_folder_is_unfolded(folder: Path) -> None:
    """Its *.yaml and *.yml, sorted; not those of folders below, nor other files."""
    put(folder, b_yaml=STEPS, a_yml=STEPS, c_txt=STEPS, d_json="{}")
    (folder / "below").mkdir()
    put(folder / "below", e_yaml=STEPS)
    (folder / "folder.yaml").mkdir()

    assert names(".") == ["a.yml", "b.yaml"]
    assert names("below", ".") == ["below/e.yaml", "a.yml", "b.yaml"]


def test_what_lies_beside_workflows_is_skipped(folder: Path) -> None:
    """Manifests with one or several documents, and kustomizations."""
    put(
        folder,
        flow_yaml=STEPS,
        pod_yaml=POD,
        two_yaml=f"{POD}---\n{POD}",
        octal_yaml=f"{POD}data: {{mode: 0755, on: yes}}\n",
        kustomization_yaml="resources: [pod.yaml]\n",
    )

    assert names(".") == ["flow.yaml"]


def test_manifest_that_is_named_itself_is_explained(folder: Path) -> None:
    """It is not skipped silently."""
    put(folder, pod_yaml=POD)

    assert problems("pod.yaml") == ["pod.yaml:2:7 this is a Pod, not a workflow"]


def test_broken_files_of_a_folder_are_told(folder: Path) -> None:
    """A folder hides no problem: neither a broken workflow, nor a file that is nothing at all; all files at once."""
    put(folder, a_yaml="steps: [{rnu: x}]\n", b_yaml="a: [1\n", c_yaml=STEPS, d_yaml="values: {a: 1}\n")

    assert problems(".") == [
        "a.yaml:1:10 `rnu` is not a key of a step",
        "b.yaml:2:1 a list in brackets is not closed or lacks a comma",
        "d.yaml:1:1 a workflow needs `steps`",
        "d.yaml:1:1 `values` is not a key of a workflow",
    ]


def test_folders_without_workflows(folder: Path) -> None:
    """Empty, or with manifests only: said so, since a run of nothing would look like success."""
    (folder / "empty").mkdir()
    put(folder, pod_yaml=POD)

    assert refused("empty") == ("the folder empty has no workflow files (*.yaml, *.yml)", "")
    assert refused(".") == ("there is no workflow in .", "a workflow is a YAML file with `steps`")


def test_empty_file_in_a_folder_is_told(folder: Path) -> None:
    """As when it is named itself."""
    put(folder, empty_yaml="", flow_yaml=STEPS)

    assert problems(".") == ["empty.yaml empty.yaml is empty"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pood.yaml", "did you mean pod.yaml?"),
        ("plann", "did you mean plan?"),
        ("below/aa.yaml", "did you mean below/a.yaml?"),
        ("nowhere/pod.yaml", ""),
        ("zzz", ""),
    ],
)
def test_missing_file(name: str, hint: str, folder: Path) -> None:
    """The nearest file in the same folder, or the command that was meant."""
    (folder / "below").mkdir()
    put(folder, pod_yaml=STEPS)
    put(folder / "below", a_yaml=STEPS)

    assert refused(name) == (f"there is no file {name}", hint)


def test_dangling_link(folder: Path) -> None:
    """It is no file, and no suggestion either."""
    (folder / "link.yaml").symlink_to("nothing")

    assert refused("link.yaml") == ("there is no file link.yaml", "")


def test_values_from_files_and_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All --values files in their order, then --set, over the environment."""
    monkeypatch.setenv("E_B", "env")
    put(
        folder,
        w_yaml="inputs: {a: 0, b: {env: E_B}, c: x, d: x}\n" + STEPS,
        one_yaml="a: 1\nc: one\n",
        two_yaml="c: two\nd: two\n",
    )
    (workflow,) = files.read(["w.yaml"])

    assert files.values(workflow, [], []) == {"a": 0, "b": "env", "c": "x", "d": "x"}
    assert files.values(workflow, ["d=set"], ["one.yaml", "two.yaml"]) == {"a": 1, "b": "env", "c": "two", "d": "set"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.yaml", None, "there is no file none.yaml (--values)"),
        (".", None, "there is no file . (--values)"),
        ("v.yaml", "- a\n", "v.yaml must be a map of inputs: `name: value`"),
        ("v.yaml", "a\n", "v.yaml must be a map of inputs: `name: value`"),
    ],
)
def test_wrong_values_files(name: str, text: str | None, message: str, folder: Path) -> None:
    """Missing, a folder, or no map."""
    put(folder, w_yaml=STEPS)
    if text:
        (folder / name).write_text(text)
    (workflow,) = files.read(["w.yaml"])

    with pytest.raises(UsageError) as caught:
        files.values(workflow, [], [name])
    assert caught.value.message == message


def test_values_files_have_the_same_guards(folder: Path) -> None:
    """Problems with their places, as in a workflow."""
    put(folder, w_yaml="inputs: {a: x}\n" + STEPS, v_yaml="a: yes\na: no\n")
    (workflow,) = files.read(["w.yaml"])

    with pytest.raises(InvalidWorkflow) as caught:
        files.values(workflow, [], ["v.yaml"])
    assert [problem.place for problem in caught.value.problems] == ["v.yaml:1:4", "v.yaml:2:1"]
