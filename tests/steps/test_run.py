"""`run`: scripts and programs, what is checked before, and what counts as success."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.cluster.kubectl import KubectlDialect
from runner.errors import CommandResult, StepFailed
from runner.shell import Command
from runner.steps import run
from runner.steps.bounds import STAY_INSIDE
from runner.steps.kind import Fault, Files, Scene


def faults(data: dict[str, Any], folder: Path, *made: str) -> list[Fault]:
    return list(run.check(data, Files(folder, folder, frozenset(made))))


def command(data: dict[str, Any], folder: Path) -> Command:
    (only,) = run.commands(msgspec.convert(data, run.Args), Scene(KubectlDialect(), "demo", folder))
    return only


class Stage:
    """A step's context: answers what a child would have done."""

    def __init__(self, folder: Path, code: int = 0, stdout: str = "", stderr: str = "") -> None:
        self.scene = Scene(KubectlDialect(), "demo", folder)
        self.answer = (code, stdout, stderr)
        self.executed: list[Command] = []
        self.concealed: tuple[str, ...] = ()

    def conceal(self, namespaces: tuple[str, ...]) -> None:
        self.concealed = namespaces

    def execute(self, command: Command, *, check: bool = True, lent: bool = False) -> CommandResult:
        assert (check, lent) == (False, True)
        self.executed.append(command)
        return CommandResult(command.argv, *self.answer, seconds=0.1)


Play = Callable[..., dict[str, Any]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run a step whose child ends with a code and an output."""

    def play(data: dict[str, Any], code: int = 0, stdout: str = "", stderr: str = "") -> dict[str, Any]:
        stage: Any = Stage(tmp_path, code, stdout, stderr)
        return run.run(msgspec.convert(data, run.Args), stage)

    return play


# -- commands -------------------------------------------------------------------------------------------------------


def test_text_is_a_script(tmp_path: Path) -> None:
    """For bash, that stops at the first failure; the script is one argument, whatever is in it."""
    script = "echo \"$A\" | grep 'x'\nexit 3"

    assert command({"command": script}, tmp_path).argv == ("bash", "-euo", "pipefail", "-c", script)


def test_list_is_a_program(tmp_path: Path) -> None:
    """Without a shell: each item is one argument."""
    assert command({"command": ["echo", "$A; ls", ""]}, tmp_path).argv == ("echo", "$A; ls", "")


def test_folder_and_standard_input(tmp_path: Path) -> None:
    """The workflow's folder and nothing to read, unless said otherwise."""
    plain = command({"command": "x"}, tmp_path)
    other = command({"command": "x", "dir": "sub", "stdin": "a\n"}, tmp_path)

    assert (plain.cwd, plain.stdin) == (tmp_path, None)
    assert (other.cwd, other.stdin) == (tmp_path / "sub", "a\n")


def test_titles() -> None:
    """As typed."""
    assert run.title({"command": "echo a"}) == "echo a"
    assert run.title({"command": ["echo", "a", 1]}) == "echo a 1"
    assert run.needs_cluster({"command": "kubectl get pod"}) is False


# -- check ----------------------------------------------------------------------------------------------------------


def test_nothing_is_wrong(tmp_path: Path) -> None:
    """Expressions are allowed everywhere but in a script."""
    (tmp_path / "sub").mkdir()

    assert faults({"command": "echo $A"}, tmp_path) == []
    assert faults({"command": ["echo", "${{ inputs.a }}"], "dir": "sub", "stdin": "${{ inputs.a }}"}, tmp_path) == []
    assert faults({"command": "x", "dir": "${{ inputs.a }}"}, tmp_path) == []
    assert faults({"command": "x", "dir": "made"}, tmp_path, "made") == []


def test_expression_in_a_script(tmp_path: Path) -> None:
    """Its value would be executed."""
    assert faults({"command": "echo ${{ inputs.a }}"}, tmp_path) == [
        Fault(
            ("command",),
            "an expression in a script is not allowed: its value would become code",
            'put it in `env: {NAME: "${{ … }}"}` and write "$NAME" in the script',
        )
    ]


def test_wrong_folders(tmp_path: Path) -> None:
    """Missing, a file, outside of the repository."""
    (tmp_path / "file").write_text("")

    assert faults({"command": "x", "dir": "none"}, tmp_path) == [Fault(("dir",), "there is no folder none")]
    assert faults({"command": "x", "dir": "file"}, tmp_path) == [Fault(("dir",), "there is no folder file")]
    assert faults({"command": "x", "dir": "../.."}, tmp_path) == [
        Fault(("dir",), ".. is outside of the repository of the workflow", STAY_INSIDE)
    ]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_wrong_patterns(stream: str, tmp_path: Path) -> None:
    """A regular expression that cannot be compiled is found before the run, with its place."""
    (fault,) = faults({"command": "x", "expect": {stream: {"matches": "a("}}}, tmp_path)

    assert fault.path == ("expect", stream, "matches")
    assert fault.severity == "error"


# -- run ------------------------------------------------------------------------------------------------------------


def test_outputs(play: Play) -> None:
    """One newline at the end is not part of the output; JSON is parsed, anything else is null."""
    assert play({"command": ["x"]}, 0, "a\n\n", "b\n") == {"stdout": "a\n", "stderr": "b", "code": 0, "json": None}
    assert play({"command": ["x"]}, 0, '{"a": [1]}\n')["json"] == {"a": [1]}
    assert play({"command": ["x"]}, 0, "12")["json"] == 12


def test_output_that_is_nested_too_deeply(play: Play) -> None:
    """What a child prints cannot break the run."""
    assert play({"command": ["x"]}, 0, "[" * 100_000)["json"] is None


@pytest.mark.parametrize(
    ("expect", "code", "message"),
    [
        ({}, 3, "the command ended with exit code 3"),
        ({}, -9, "the command was ended by signal 9"),
        ({"code": 2}, 0, "the command ended with exit code 0, expected exit code 2"),
    ],
)
def test_wrong_exit_code(expect: dict[str, Any], code: int, message: str, play: Play) -> None:
    """The failure carries the whole result."""
    with pytest.raises(StepFailed) as caught:
        play({"command": ["x"], "expect": expect}, code, "out", "err")

    assert (caught.value.message, caught.value.reason) == (message, "exit_code")
    assert caught.value.result is not None
    assert (caught.value.result.code, caught.value.result.stdout, caught.value.result.stderr) == (code, "out", "err")


def test_expected_exit_code(play: Play) -> None:
    """Another code than 0 may be what is wanted."""
    assert play({"command": ["x"], "expect": {"code": 2}}, 2)["code"] == 2


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_expected_output(stream: str, play: Play) -> None:
    """Each stream is compared with its own match."""
    texts = {"stdout": "hello world\n"} if stream == "stdout" else {"stderr": "hello world\n"}

    assert play({"command": ["x"], "expect": {stream: {"contains": "world"}}}, **texts)[stream] == "hello world"
    with pytest.raises(StepFailed) as caught:
        play({"command": ["x"], "expect": {stream: {"contains": "moon"}}}, **texts)
    assert (caught.value.message, caught.value.reason) == (f"{stream} is not as expected", "expect")
    assert "moon" in caught.value.details


def test_script_without_bash(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence instead of an exit code 127; programs do not need it."""
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(StepFailed) as caught:
        play({"command": "x"})
    assert (caught.value.message, caught.value.reason) == ("bash is not installed", "tool")
    assert caught.value.hint == "install bash, or give `command` as a list"
    assert play({"command": ["x"]})["code"] == 0


@pytest.mark.parametrize(
    ("command", "namespaces"),
    [
        ("kubectl get secret db -o yaml", ("",)),
        ("kubectl get secret/db | base64 -d; kubectl describe secrets", ("",)),
        ("kubectl get pod\nkubectl -n far get \\\n  secret db", ("far",)),
        ("kubectl get secret a --namespace=one; kubectl get secret b -n 'two' | head -n 5", ("one", "two")),
        (["kubectl", "get", "Secret", "db", "--namespace", "far"], ("far",)),
        ("kubectl get pod; echo secret", ()),
        ("kubectl get secretstore", ()),
        ("echo a secret", ()),
    ],
)
def test_secrets_that_the_words_of_a_command_name(command: Any, namespaces: tuple[str, ...], tmp_path: Path) -> None:
    """Their data is masked before the command starts; where none are named, nothing is read."""
    stage: Any = Stage(tmp_path)
    run.run(msgspec.convert({"command": command}, run.Args), stage)

    assert stage.concealed == namespaces
