"""`load`: an image or an archive, one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.cluster.kubectl import KubectlDialect
from runner.steps import load
from runner.steps.bounds import STAY_INSIDE
from runner.steps.kind import Fault, Files, Scene


def args(data: dict[str, Any]) -> load.Args:
    return msgspec.convert(data, load.Args)


def faults(data: dict[str, Any], folder: Path, *made: str) -> list[Fault]:
    return list(load.check(data, Files(folder, folder, frozenset(made))))


@pytest.mark.parametrize("data", [{}, {"image": ""}, {"image": "a", "archive": "a.tar"}])
def test_one_of_them(data: dict[str, Any], tmp_path: Path) -> None:
    """Neither and both are refused."""
    (tmp_path / "a.tar").write_text("")

    assert faults(data, tmp_path) == [Fault((), "`load` needs `image` or `archive`, one of them")]


@pytest.mark.parametrize(
    "data", [{"image": "a"}, {"image": "${{ inputs.a }}"}, {"archive": "a.tar"}, {"archive": "${{ inputs.a }}"}]
)
def test_nothing_is_wrong(data: dict[str, Any], tmp_path: Path) -> None:
    """An image is looked for at run time only."""
    (tmp_path / "a.tar").write_text("")

    assert faults(data, tmp_path) == []


def test_archives_that_are_not_there(tmp_path: Path) -> None:
    """Unless an earlier step makes them."""
    hint = "a `run` step before that makes it says so with `generates: [a.tar]`"

    assert faults({"archive": "a.tar"}, tmp_path) == [Fault(("archive",), "there is no file a.tar", hint)]
    assert faults({"archive": "a.tar"}, tmp_path, "a.tar") == []
    assert faults({"archive": "../a.tar"}, tmp_path) == [
        Fault(("archive",), "a.tar is outside of the repository of the workflow", STAY_INSIDE)
    ]


def test_line_of_the_plan(tmp_path: Path) -> None:
    """A function of the planned script; podman needs none, since it shares its images."""
    dialect = KubectlDialect()
    assert load.equivalent(args({"image": "a:b"}), Scene(dialect, "", tmp_path)) == ("load_image a:b",)
    assert load.equivalent(args({"archive": "a.tar"}), Scene(dialect, "", tmp_path)) == (
        f"load_archive {tmp_path}/a.tar",
    )
    dialect.engine = "podman"
    assert load.equivalent(args({"image": "a"}), Scene(dialect, "", tmp_path)) == ()


def test_titles() -> None:
    """What is loaded."""
    assert load.title({"image": "a"}) == "a"
    assert load.title({"archive": "a.tar"}) == "a.tar"
    assert load.needs_cluster({"image": "a"}) is True


class Stage:
    """A step's context and its cluster in one."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(KubectlDialect(), "", folder)
        self.cluster = self
        self.done: list[Any] = []

    def load(self, image: str, archive: Path | None, hand: object) -> str:
        self.done.append((image, archive))
        return "loaded"

    def note(self, message: str) -> None:
        self.done.append(message)


@pytest.mark.parametrize(
    ("data", "image", "archive"), [({"image": "a"}, "a", None), ({"archive": "x/a.tar"}, "x/a.tar", "x/a.tar")]
)
def test_run(data: dict[str, Any], image: str, archive: str | None, tmp_path: Path) -> None:
    """The cluster loads it; an archive is found beside the workflow; what was done is noted."""
    stage: Any = Stage(tmp_path)

    assert load.run(args(data), stage) == {"image": image}
    assert stage.done == [(image, tmp_path / archive if archive else None), "loaded"]
