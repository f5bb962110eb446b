"""`build`: the builder's argv, what is checked before, and the order of what happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.cluster.images import Builder
from runner.cluster.kubectl import KubectlDialect
from runner.errors import CommandResult, StepFailed
from runner.shell import Command
from runner.steps import build
from runner.steps.bounds import STAY_INSIDE
from runner.steps.kind import Fault, Files, Scene

FULL = {
    "image": "web:dev",
    "context": "app",
    "file": "docker/Dockerfile",
    "args": {"A": "1", "B": "x y"},
    "target": "runtime",
    "platform": "linux/amd64",
}


def args(data: dict[str, Any]) -> build.Args:
    return msgspec.convert(data, build.Args)


def scene(folder: Path, name: str = "docker", engine: str = "kubectl") -> Scene:
    dialect = KubectlDialect()
    if engine != "kubectl":
        dialect.engine = engine
    return Scene(dialect, "demo", folder, builder=lambda preferred: Builder(name if preferred == "auto" else preferred))


def faults(data: dict[str, Any], folder: Path, *made: str) -> list[Fault]:
    return list(build.check(data, Files(folder, folder, frozenset(made))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with a folder that can be built, and one that cannot."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/Dockerfile").write_text("FROM scratch\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


# -- commands -------------------------------------------------------------------------------------------------------


def test_short_command(tmp_path: Path) -> None:
    """No more than is needed: the builder finds the Dockerfile itself."""
    (command,) = build.commands(args({"image": "a"}), scene(tmp_path))

    assert command.argv == ("docker", "build", "--tag", "a", str(tmp_path))


def test_full_command(tmp_path: Path) -> None:
    """Every key; paths are relative to the workflow file; values are one argument each."""
    (command,) = build.commands(args(FULL), scene(tmp_path))

    assert command.argv == (
        *("docker", "build", "--tag", "web:dev", "--file", f"{tmp_path}/docker/Dockerfile"),
        *("--build-arg", "A=1", "--build-arg", "B=x y", "--target", "runtime", "--platform", "linux/amd64"),
        f"{tmp_path}/app",
    )


@pytest.mark.parametrize(
    ("builder", "start"),
    [
        ("docker", ("docker", "build", "--tag")),
        ("podman", ("podman", "build", "--tag")),
        ("buildah", ("buildah", "build", "--tag")),
        ("nerdctl", ("nerdctl", "--namespace", "k8s.io", "build", "--tag")),
    ],
)
def test_builders(builder: str, start: tuple[str, ...], tmp_path: Path) -> None:
    """The one that was found, and the one that was asked for, are spoken to in the same words."""
    (found,) = build.commands(args({"image": "a"}), scene(tmp_path, builder))
    (asked,) = build.commands(args({"image": "a", "builder": builder}), scene(tmp_path, "docker"))

    assert found == asked
    assert found.argv[: len(start)] == start


def test_line_of_the_plan(tmp_path: Path) -> None:
    """Loading is shown where images must be sent to nodes, and not where it is switched off."""
    assert build.equivalent(args({"image": "a b"}), scene(tmp_path)) == ("load_image 'a b'",)
    assert build.equivalent(args({"image": "a", "load": False}), scene(tmp_path)) == ()
    assert build.equivalent(args({"image": "a"}), scene(tmp_path, engine="podman")) == ()


def test_cluster_is_needed_for_loading_only() -> None:
    """`load: false` builds without one; an expression may come out either way."""
    assert build.needs_cluster({"image": "a"}) is True
    assert build.needs_cluster({"image": "a", "load": False}) is False
    assert build.needs_cluster({"image": "a", "load": "${{ inputs.load }}"}) is True
    assert build.title({"image": "a"}) == "a"


# -- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "made"),
    [
        ({"context": "app"}, ""),
        ({"context": "app", "file": "app/Dockerfile"}, ""),
        ({"context": "${{ inputs.a }}"}, ""),
        ({"context": "empty", "file": "${{ inputs.a }}"}, ""),
        ({"context": "made"}, "made"),
        ({"context": "empty"}, "empty/Dockerfile"),
        ({"context": "empty", "file": "made"}, "made"),
    ],
)
def test_nothing_is_wrong(data: dict[str, Any], made: str, folder: Path) -> None:
    """Files that are there, that an expression names, or that an earlier step makes."""
    assert faults({"image": "a", **data}, folder, made) == []


def test_containerfile_is_found_too(folder: Path) -> None:
    """As podman calls it."""
    (folder / "empty/Containerfile").write_text("FROM scratch\n")
    assert faults({"image": "a", "context": "empty"}, folder) == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"context": "none"}, Fault(("context",), "there is no folder none")),
        ({"context": "app/Dockerfile"}, Fault(("context",), "there is no folder app/Dockerfile")),
        ({"context": "empty"}, Fault(("context",), "there is no Dockerfile in empty", "name it: `file: …`")),
        ({}, Fault((), "there is no Dockerfile in .", "name it: `file: …`")),
        (
            {"context": "app", "file": "Dockerfile"},
            Fault(("file",), "there is no file Dockerfile", "it is relative to the workflow file"),
        ),
        (
            {"context": ".."},
            Fault(("context",), ".. is outside of the repository of the workflow", STAY_INSIDE),
        ),
        (
            {"context": "app", "file": "../Dockerfile"},
            Fault(("file",), "Dockerfile is outside of the repository of the workflow", STAY_INSIDE),
        ),
    ],
)
def test_what_is_wrong(data: dict[str, Any], expected: Fault, folder: Path) -> None:
    """Missing folders and files, at the key that names them."""
    assert faults({"image": "a", **data}, folder) == [expected]


# -- run ------------------------------------------------------------------------------------------------------------


class Stage:
    """A step's context and its cluster in one: notes down what happens."""

    def __init__(self, folder: Path, fails: bool = False) -> None:
        self.scene = scene(folder)
        self.cluster = self
        self.done: list[str] = []
        self.fails = fails

    def execute(self, command: Command, *, check: bool = True) -> CommandResult:
        self.done.append(" ".join(command.argv[:3]))
        if self.fails:
            return CommandResult(command.argv, 1, "", "Error: something new\n", 0.1)
        return CommandResult(command.argv, 0, "sha256:abc\n", "", 0.1)

    def load(self, image: str, archive: Path | None, hand: object, builder: Builder) -> str:
        self.done.append(f"load {image} {archive} {builder.name}")
        return "loaded"

    def note(self, message: str) -> None:
        self.done.append(f"note {message}")


def test_build_then_ask_then_load(folder: Path) -> None:
    """The id is the builder's; the image is loaded by the builder that has it, and what was done is noted."""
    stage: Any = Stage(folder)

    assert build.run(args({"image": "a", "context": "app"}), stage) == {"image": "a", "id": "sha256:abc"}
    assert stage.done == ["docker build --tag", "docker image inspect", "load a None docker", "note loaded"]


def test_no_load(folder: Path) -> None:
    """`load: false` leaves the cluster alone."""
    stage: Any = Stage(folder)
    build.run(args({"image": "a", "context": "app", "load": False}), stage)

    assert stage.done == ["docker build --tag", "docker image inspect"]


def test_failed_build_ends_the_step(folder: Path) -> None:
    """Nothing is loaded after it."""
    stage: Any = Stage(folder, fails=True)
    with pytest.raises(StepFailed, match="docker build ended with exit code 1: Error: something new"):
        build.run(args({"image": "a", "context": "app"}), stage)

    assert stage.done == ["docker build --tag"]
