"""The report at the end of a run, for people: short when all is well, and everything about what went wrong.

Written for the reader of a CI log at night: what happened to which object, why, and what to type next. The verdict is
the last thing in it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Final

from runner.errors import ExitCode
from runner.reports import problems
from runner.reports.excerpt import MARGIN, SHORTEST, excerpt
from runner.reports.terminal import Style
from runner.reports.wording import advice, block, cells, count, cure, cut, duration, first_line, harmless, outcome, pad
from runner.result import Cleanup, Failure, RunResult, Status, StepResult, WorkflowResult

MEANINGS: Final[Mapping[int, str]] = {
    ExitCode.USAGE: "the command line or the workflow is not valid; nothing was started",
    ExitCode.CANNOT_START: "the run could not start; nothing was changed",
    ExitCode.DEADLINE: "the run's deadline was reached",
    ExitCode.CLEANUP: "every step passed, but not everything that the run made could be removed",
    ExitCode.BUG: "a bug in runner, not in your workflow",
}
_ENDED: Final = {
    Status.SUCCESS: ("passed in", "good"),
    Status.FAILURE: ("failed in", "bad"),
    Status.CANCELLED: ("cancelled after", "warn"),
    Status.SKIPPED: ("skipped after", "dim"),
}


def render(
    result: RunResult,
    colour: bool = False,
    width: int = 80,
    *,
    unicode: bool = True,
    exit_code: int | None = None,
    watched: bool = False,
) -> str:
    """The report. `exit_code` is the process's, where it is another than the result's own.

    `watched`: the same reader has just seen the live view on the same terminal, with every step and what they printed;
    then only what went wrong and the verdict are repeated.
    """
    report = _Report(Style(colour, unicode), width, watched)
    code = result.exit_code if exit_code is None else exit_code
    return "".join(f"{line}\n" for line in report.run(result, code))


def meaning(code: int, *, clean: bool = True) -> str:
    """What an exit code says, where it says more than passed or failed; else nothing."""
    if code > 128:  # noqa: PLR2004  the shells' convention
        when = "after the cleanup" if clean else "before the cleanup was complete"
        return f"ended by {signal_name(code - 128)} {when}"
    return MEANINGS.get(code, "")


def signal_name(number: int) -> str:
    """`SIGTERM`, or `signal 99` for what has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Report:
    """Makes the lines; holds what all of them need to know: the style, the width, whether the reader watched."""

    def __init__(self, style: Style, width: int, watched: bool) -> None:
        self.style = style
        self.width = width
        self.watched = watched

    def run(self, result: RunResult, code: int) -> Iterator[str]:
        several = len(result.workflows) > 1
        for workflow in result.workflows:
            if several:
                yield self.style.paint("bold", f"{harmless(workflow.name)}  {harmless(workflow.file)}")
            yield from self.workflow(workflow)
            if several:
                yield ""
        if result.problems:
            yield from problems.render(result.problems, self.style.colour, self.style.unicode, self.width).splitlines()
        yield from self.error(result)
        yield from self.left(result)
        yield from self.gone(result)
        if result.folder and code != ExitCode.PASSED:
            yield f"everything about this run: {harmless(result.folder)}"
        yield from self.verdicts(result)
        if words := meaning(code, clean=not any(workflow.cleanup.left for workflow in result.workflows)):
            yield f"exit code {code}: {words}"

    def workflow(self, workflow: WorkflowResult) -> Iterator[str]:
        if not self.watched:
            yield from self.steps(workflow.steps)
        failures = [(step, step.failure) for step in workflow.steps if step.failure and step.status is Status.FAILURE]
        for step, failure in failures:
            yield ""
            yield from self.failed(step, failure)
        if failures:
            yield ""
        yield from self.cleanup(workflow.cleanup)

    def steps(self, steps: tuple[StepResult, ...]) -> Iterator[str]:
        names = [_title(step) for step in steps]
        column = min(max(map(cells, names), default=0), max(16, self.width - 12))
        for step, name in zip(steps, names, strict=True):
            sign, tone, ending = self.ending(step)
            text = pad(cut(name, column, self.style.sign("…", "...")), column)
            yield f"{self.style.paint(tone, sign)} {text}  {self.style.paint('dim', ending)}"
            yield from self.quoted(step.shown)

    def ending(self, step: StepResult) -> tuple[str, str, str]:
        """A step's sign, its tone, and how it ended in a few words."""
        took = duration(step.seconds)
        if step.status is Status.SUCCESS:
            tries = f", {count(step.attempts, 'attempt')}" if step.attempts > 1 else ""
            return self.style.sign("✓", "+"), "good", took + tries
        if step.status is Status.SKIPPED:
            because = first_line(step.skipped_because)
            return "-", "dim", f"skipped: {because}" if because else "skipped"
        if step.status is Status.CANCELLED:
            return "!", "warn", f"cancelled after {took}"
        if step.tolerated:
            return "!", "warn", f"failed after {took}, tolerated (continue_on_error)"
        return self.style.sign("✗", "x"), "bad", f"failed after {took}"

    def failed(self, step: StepResult, failure: Failure) -> Iterator[str]:
        """Everything about a step that failed; what others wrote stands behind bars."""
        tone, sign = ("warn", "!") if step.tolerated else ("bad", self.style.sign("✗", "x"))
        yield self.style.paint(tone, f"{sign} {harmless(step.name)}")
        message, *more = block(failure.message) or ["failed"]
        yield f"  {harmless(failure.place)}: {message}" if failure.place else f"  {message}"
        yield from self.quoted("\n".join(more))
        yield from self.source(failure)
        if failure.hint:
            first, *rest = block(advice(failure.hint))
            yield f"  {self.style.paint('bold', first)}"
            yield from (f"    {line}" for line in rest)
        yield from self.command(failure)
        if failure.details:
            yield "  details:"
            yield from self.quoted(failure.details)

    def source(self, failure: Failure) -> Iterator[str]:
        """The line of the workflow, with a caret; a place is `file:line:column`."""
        line, column = ([0, 0, *_numbers(failure.place)])[-2:]
        if line and failure.source.strip():
            yield from excerpt(failure.source, line, column, style=self.style, limit=max(SHORTEST, self.width - MARGIN))

    def command(self, failure: Failure) -> Iterator[str]:
        if failure.command:
            yield f"  command: {' '.join(block(failure.command)[:1])}"
            yield from self.quoted("\n".join(failure.command.splitlines()[1:]))
        if failure.code is not None:
            ended = f"ended by {signal_name(-failure.code)}" if failure.code < 0 else f"exit code {failure.code}"
            yield f"  {ended}, {'its output:' if failure.output.strip() else 'no output'}"
        elif failure.output.strip():
            yield "  output:"
        yield from self.quoted(failure.output)

    def quoted(self, text: str) -> Iterator[str]:
        """What others wrote, in full, behind bars."""
        for line in block(text):
            yield f"  {self.style.paint('dim', self.style.bar)} {line}".rstrip()

    def cleanup(self, cleanup: Cleanup) -> Iterator[str]:
        what = outcome(cleanup.deleted, len(cleanup.left), len(cleanup.kept))
        took = f" ({duration(cleanup.seconds)})" if cleanup.seconds or cleanup.deleted or cleanup.left else ""
        if not self.watched:
            yield self.style.paint("bad" if cleanup.left else "", f"cleanup: {what}{took}")
        for kept in cleanup.kept:
            yield f"  kept: {harmless(kept)}"
        for left in cleanup.left:
            first, *rest = block(left.why) or [""]
            yield self.style.paint("bad", f"  left: {harmless(left.object)}" + (f": {first}" if first else ""))
            yield from self.quoted("\n".join(rest))
            if left.command or left.hint:
                yield f"    {harmless(cure(left.command, left.hint))}"

    def gone(self, result: RunResult) -> Iterator[str]:
        """Once, that the commands in the hints find nothing any more, and what to do instead."""
        failed = (workflow for workflow in result.workflows if workflow.status is Status.FAILURE)
        if any(workflow.cleanup.deleted for workflow in failed):
            yield "the objects that were deleted cannot be looked at any more: run again with `--keep-on-failure`"

    def left(self, result: RunResult) -> Iterator[str]:
        """Who removes what is left."""
        if not any(workflow.cleanup.left for workflow in result.workflows):
            return
        if result.handover:
            yield "the watchdog goes on removing it for up to 10 min; what is left after that:"
        yield f"  {advice(harmless(result.clean))}"

    def error(self, result: RunResult) -> Iterator[str]:
        if result.error:
            first, *rest = block(result.error) or [""]
            yield f"{self.style.paint('bad', 'error:')} {first}"
            yield from self.quoted("\n".join(rest))
        for number, line in enumerate(block(result.hint)):
            yield f"  {advice(line) if number == 0 else line}"

    def verdicts(self, result: RunResult) -> Iterator[str]:
        """A line for each workflow; of several, their sum last."""
        workflows = result.workflows
        column = max((cells(harmless(workflow.name)) for workflow in workflows), default=0)
        for workflow in workflows:
            yield self.verdict(workflow, column, several=len(workflows) > 1)
        if len(workflows) > 1:
            yield f"{count(len(workflows), 'workflow')} in {duration(result.seconds)}: {_sum(workflows)}"

    def verdict(self, workflow: WorkflowResult, column: int, *, several: bool) -> str:
        ended, tone = _ENDED[workflow.status]
        name = harmless(workflow.name)
        verdict = (
            f"{pad(name, column) if several else name} {self.style.paint(tone, ended)} {duration(workflow.seconds)}"
        )
        if workflow.status is Status.SUCCESS and workflow.cleanup.left:
            verdict += f", {len(workflow.cleanup.left)} left"
        culprit = _culprit(workflow)
        if culprit is None:
            return f"{verdict}: {why}" if (why := first_line(workflow.cause)) else verdict
        place, message = ("", "") if culprit.failure is None else (culprit.failure.place, culprit.failure.message)
        verdict += f' at "{harmless(culprit.name)}"' + (f" ({_line_of(place)})" if place else "")
        # Of one workflow everything about the step stands just above.
        return f"{verdict}: {first_line(message)}" if several and first_line(message) else verdict


def _title(step: StepResult) -> str:
    section = f" ({step.section})" if step.section not in {"", "steps"} else ""
    return "  " * step.depth + harmless(step.name) + section


def _culprit(workflow: WorkflowResult) -> StepResult | None:
    """The first step that failed the workflow; none when something else ended it."""
    if workflow.status is not Status.FAILURE:
        return None
    failed = (step for step in workflow.steps if step.status is Status.FAILURE and not step.tolerated)
    return next(failed, None)


def _sum(workflows: tuple[WorkflowResult, ...]) -> str:
    words = {
        Status.SUCCESS: "passed",
        Status.FAILURE: "failed",
        Status.CANCELLED: "cancelled",
        Status.SKIPPED: "skipped",
    }
    counts = ((sum(workflow.status is status for workflow in workflows), word) for status, word in words.items())
    return ", ".join(f"{number} {word}" for number, word in counts if number)


def _line_of(place: str) -> str:
    """`file:12`, of a place that may name a column, too."""
    return harmless(place.rpartition(":")[0] if _numbers(place) else place)


def _numbers(place: str) -> list[int]:
    """The line and column at the end of `file:12:3`."""
    parts = place.rsplit(":", 2)[1:]
    return [int(part) for part in parts] if len(parts) == 2 and all(map(str.isdecimal, parts)) else []  # noqa: PLR2004
