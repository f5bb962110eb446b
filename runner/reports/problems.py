"""What is wrong with workflow files: every problem with its place, its line and what to do; nothing was started."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from runner.errors import Problem
from runner.masking import mask
from runner.reports.excerpt import LIMIT, MARGIN, SHORTEST, excerpt
from runner.reports.terminal import Style
from runner.reports.wording import block, count, harmless

WIDTH: Final = LIMIT + MARGIN
_TONES: Final = {"error": "bad", "warning": "warn"}


def render(problems: Iterable[Problem], colour: bool = False, unicode: bool = True, width: int = WIDTH) -> str:
    """All problems by place, each once, and a sentence that sums them up; empty when there are none. What is quoted of
    a file is cut to `width` columns.

    `file:line:column: error: message` is what editors and CI systems make a link of.
    """
    style = Style(colour, unicode)
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: (problem.file, problem.line, problem.column))
    if not ordered:
        return ""
    return (
        "\n".join([*(line for problem in ordered for line in _problem(problem, style, width)), summary(ordered)]) + "\n"
    )


def summary(problems: Iterable[Problem]) -> str:
    """`3 problems in workflows/pod.yaml; nothing was started`; warnings alone stop nothing."""
    problems = tuple(problems)
    errors = sum(problem.severity != "warning" for problem in problems)
    warnings = len(problems) - errors
    counts = [count(errors, "problem")] * (errors > 0) + [count(warnings, "warning")] * (warnings > 0)
    files = sorted({problem.file for problem in problems})
    place = harmless(files[0]) if len(files) == 1 else count(len(files), "file")
    return f"{' and '.join(counts)} in {place}" + ("; nothing was started" if errors else "")


def _problem(problem: Problem, style: Style, width: int) -> list[str]:
    message, *more = block(problem.message) or [""]
    severity = style.paint(_TONES.get(problem.severity, "bad"), f"{problem.severity}:")
    lines = [f"{style.paint('bold', harmless(problem.place) + ':')} {severity} {style.paint('bold', message)}"]
    lines += [f"      {style.bar} {line}" for line in more]
    if problem.source.strip():
        lines += excerpt(*_quoted(problem), style=style, limit=min(LIMIT, max(SHORTEST, width - MARGIN)))
    for number, line in enumerate(block(problem.hint)):
        lines.append(f"      {'=' if number == 0 else ' '} {line}")
    return [*lines, ""]


def _quoted(problem: Problem) -> tuple[str, int, int, int]:
    """The line, its number, and the column and width of the caret. Masked before it is cut: half a secret is not known
    as one; the caret moves with what it marks.
    """
    start = problem.column - 1
    before, marked = problem.source[:start], problem.source[start : start + problem.width]
    return mask(problem.source), problem.line, len(mask(before)) + 1, max(1, len(mask(marked)))
