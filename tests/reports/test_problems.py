"""What is wrong with a file, as a reader sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from runner.errors import Problem
from runner.reports import problems as report

if TYPE_CHECKING:
    from tests.reports.conftest import Golden


def test_every_shape(problems: tuple[Problem, ...], golden: Golden) -> None:
    """All problems by place, each once: place, message, line, caret, hint, and the sum."""
    golden("problems.txt", report.render(problems))


def test_ascii(problems: tuple[Problem, ...], golden: Golden) -> None:
    """Our own signs are ASCII where the encoding lacks others; the file's characters are its own."""
    golden("problems_ascii.txt", report.render(problems[:2], unicode=False))


def test_colour(problems: tuple[Problem, ...]) -> None:
    """Errors are red, warnings yellow."""
    text = report.render(problems, colour=True)
    assert "\x1b[31merror:\x1b[0m" in text
    assert "\x1b[33mwarning:\x1b[0m" in text


def test_narrow(problems: tuple[Problem, ...]) -> None:
    """On a terminal what is quoted of a file is not broken, so that the caret stands below what it means."""
    (long,) = [problem for problem in problems if problem.message == "a long line"]
    _, quoted, carets, *_ = report.render([long], width=70).splitlines()
    assert len(quoted) == 70
    assert "BBB" in quoted
    assert carets.index("^^^") == quoted.index("BBB")


def test_nothing_to_say() -> None:
    """No problems, no text."""
    assert report.render(()) == ""


@pytest.mark.parametrize(
    ("severities", "files", "expected"),
    [
        (["error"], ["a"], "1 problem in a; nothing was started"),
        (["error", "error"], ["a", "a"], "2 problems in a; nothing was started"),
        (["error", "warning"], ["a", "b"], "1 problem and 1 warning in 2 files; nothing was started"),
        (["warning"], ["a"], "1 warning in a"),
    ],
)
def test_summary(severities: list[str], files: list[str], expected: str) -> None:
    """Only errors keep a run from starting."""
    found = [Problem(file, 1, 1, "x", severity=severity) for file, severity in zip(files, severities, strict=True)]
    assert report.summary(found) == expected


def test_a_file_name_is_untrusted(problems: tuple[Problem, ...]) -> None:
    """A name with an escape sequence in it moves no cursor."""
    text = report.render([replace(problems[0], file="\x1b[2Ja\nb.yaml")])
    assert text.startswith("a\\nb.yaml:12:13: error: ")
    assert "\x1b" not in text
