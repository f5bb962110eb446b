"""Every file in tests/bad is refused, with the message that stands beside it: `UPDATE_GOLDEN=1 pytest` writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.cli import main

BAD = Path(__file__).parent / "bad"
FILES = sorted(BAD.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_bad_workflow_has_a_message(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong file is exit 2 with all its problems, each with a place and what to do; never a traceback."""
    monkeypatch.chdir(BAD)
    code = main(["validate", file.name])
    captured = capsys.readouterr()
    golden = file.with_suffix(".txt")
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(captured.err)

    assert (code, captured.out) == (2, "")
    assert captured.err == golden.read_text()
    assert file.name in captured.err


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_bad_workflow_starts_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`run` refuses what `validate` refuses, before it makes even a run folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(BAD)

    assert main(["run", file.name]) == 2
    assert "nothing was started" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_there_are_enough() -> None:
    """The corpus has at least 40 files."""
    assert len(FILES) >= 40
