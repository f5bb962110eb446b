"""`runner validate`: all problems of all files, nothing started, nothing reached."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.cli import main
from runner.steps import KINDS

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, where neither a cluster nor a state folder can be used."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    folder = tmp_path / "flows"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_valid_files(folder: Path, capsys: Captured) -> None:
    """One line for each, on stdout, under the name that was typed; steps of all sections are counted."""
    (folder / "one.yaml").write_text("steps: [{run: x}]\n")
    (folder / "many.yml").write_text("steps: [{run: x}, {wait: pod/a}]\nfinally: [{run: x}]\n")

    assert main(["validate", "one.yaml", "./many.yml"]) == 0
    assert capsys.readouterr() == ("one.yaml: valid, 1 step\n./many.yml: valid, 3 steps\n", "")


def test_all_problems_of_all_files(folder: Path, capsys: Captured) -> None:
    """By file and place; a file that is fine is not mentioned when another is not."""
    (folder / "a.yaml").write_text("steps: [{wait: pod}]\nname: 1\n")
    (folder / "b.yaml").write_text("steps: [1\n")
    (folder / "c.yaml").write_text("steps: [{run: x}]\n")

    assert main(["validate", "c.yaml", "b.yaml", "a.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "a.yaml:1:16: error: 'pod' is not a reference to an object\n"
        "    1 │ steps: [{wait: pod}]\n"
        "      │                ^^^\n"
        "      = write kind/name, as in pod/pythonapp\n"
        "\n"
        "a.yaml:2:7: error: `name` must be a string, not the number 1\n"
        "    2 │ name: 1\n"
        "      │       ^\n"
        '      = put it in quotes: "1"\n'
        "\n"
        "b.yaml:2:1: error: a list in brackets is not closed or lacks a comma\n"
        "      = add `]` or `,`\n"
        "\n"
        "3 problems in 2 files; nothing was started\n"
    )


def test_problems_of_every_layer_at_once(folder: Path, capsys: Captured) -> None:
    """YAML, schema, expressions, references and files of one workflow come together, in the order of the file."""
    (folder / "w.yaml").write_text(
        "inputs: {debug: yes}\n"
        "timeout: 5\n"
        "steps:\n"
        "  - {id: a, run: x}\n"
        "  - {id: a, run: x, if: steps.a.outputs.cod == 1}\n"
        "  - apply: none.yaml\n"
        "  - {run: 'echo ${{ inputs.debug }}'}\n"
        "  - {wait: pod/a, retry: 2}\n"
    )

    assert main(["validate", "w.yaml"]) == 2
    _, err = capsys.readouterr()
    assert [line for line in err.splitlines() if ": error: " in line] == [
        "w.yaml:1:17: error: yes is true in YAML 1.1 and text in YAML 1.2",
        "w.yaml:2:10: error: `timeout` must be a string, not the number 5",
        "w.yaml:5:10: error: the id `a` is taken by the step on line 4",
        "w.yaml:5:25: error: `steps.a.outputs.cod` is not known here",
        "w.yaml:6:12: error: there is no file none.yaml",
        "w.yaml:7:11: error: an expression in a script is not allowed: its value would become code",
        "w.yaml:8:19: error: `wait` takes no `retry`",
    ]
    assert err.endswith("7 problems in w.yaml; nothing was started\n")


def test_same_file_twice_is_told_once(folder: Path, capsys: Captured) -> None:
    """Each problem once."""
    (folder / "a.yaml").write_text("steps: []\n")

    assert main(["validate", "a.yaml", "a.yaml"]) == 2
    assert capsys.readouterr().err.endswith("\n1 problem in a.yaml; nothing was started\n")


def test_json(folder: Path, capsys: Captured) -> None:
    """One object on stdout with every problem as a record, for editors and CI systems."""
    (folder / "a.yaml").write_text("steps: [{wait: pod}]\n")
    (folder / "ok.yaml").write_text("steps: [{run: x}]\n")

    assert main(["validate", "-o", "json", "a.yaml"]) == 2
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == ""
    assert (report["schema"], report["status"], report["exit_code"]) == (1, "invalid", 2)
    assert report["problems"] == [
        {
            "file": "a.yaml",
            "line": 1,
            "column": 16,
            "width": 3,
            "severity": "error",
            "message": "'pod' is not a reference to an object",
            "hint": "write kind/name, as in pod/pythonapp",
            "source": "steps: [{wait: pod}]",
        }
    ]

    assert main(["validate", "ok.yaml", "--output", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["status"], report["exit_code"], report["problems"]) == ("success", 0, [])


def test_warnings_are_no_failure(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """They are shown on stderr with their place, and the file is valid."""
    from runner.steps.kind import Fault

    warning = [Fault((), "this is slow", "do it faster", "warning")]
    monkeypatch.setattr(KINDS["run"], "check", lambda data, files: warning)
    (folder / "a.yaml").write_text("steps: [{run: x}]\n")

    assert main(["validate", "a.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == "a.yaml: valid, 1 step\n"
    assert err.startswith("a.yaml:1:15: warning: this is slow\n")
    assert err.endswith("1 warning in a.yaml\n")

    assert main(["validate", "-o", "json", "a.yaml"]) == 0
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["severity"], problem["message"], problem["hint"]) == ("warning", "this is slow", "do it faster")


def test_nothing_is_started_and_no_secret_needed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """No child, no state, no input that a run would require."""
    from runner import shell

    def no_child(*arguments: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(shell, "run", no_child)
    monkeypatch.setenv("PATH", str(tmp_path))
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / "a.yaml").write_text(
        "inputs: {token: {secret: true, env: TOKEN, required: true}}\n"
        "steps: [{build: {image: a}}, {run: 'echo', env: {T: '${{ inputs.token }}'}}, {wait: pod/a}]\n"
    )

    assert main(["validate", "a.yaml"]) == 0
    assert not (tmp_path / "state").exists()


def test_inline_manifests_with_expressions_in_their_metadata(
    runner: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """What only a run knows is no fault; what stands there is looked at, and no objects at all are one."""
    step = "{apply: {manifest: [{apiVersion: v1, kind: ConfigMap, metadata: META}]}}"
    for meta, wrong in (
        ('{name: "${{ inputs.a }}"}', ""),
        ('"${{ inputs.m }}"', ""),
        ('{name: a, labels: "${{ inputs.m }}"}', ""),
        ('{name: "${{ inputs.a }}", labels: 3}', "metadata.labels is not a map"),
    ):
        inputs = "inputs: {a: x, m: {type: map, default: {name: a}}}\n"
        (tmp_path / "flow.yaml").write_text(f"{inputs}steps: [{step.replace('META', meta)}]\n")
        answer = runner("validate", "flow.yaml", cwd=tmp_path)
        assert (wrong in answer.stdout + answer.stderr, answer.returncode) == (True, 2 if wrong else 0)
    for empty in ("[]", "{manifest: []}"):
        (tmp_path / "flow.yaml").write_text(f"steps: [{{apply: {empty}}}]\n")
        answer = runner("validate", "flow.yaml", cwd=tmp_path)
        assert ("there is nothing to apply" in answer.stdout + answer.stderr, answer.returncode) == (True, 2)
