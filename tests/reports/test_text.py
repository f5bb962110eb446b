"""The report at the end of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from runner.errors import Problem
from runner.reports import text
from runner.reports.terminal import tame
from runner.result import Cleanup, Failure, Leftover, RunResult, Status, WorkflowResult

if TYPE_CHECKING:
    from tests.reports.conftest import Golden


def test_passed(run_passed: RunResult, golden: Golden) -> None:
    """A line per step, the cleanup, the verdict."""
    golden("text_passed.txt", text.render(run_passed))


def test_failed(run_failed: RunResult, golden: Golden) -> None:
    """The failed step in full, what is left and how to remove it, and the verdict last."""
    golden("text_failed.txt", text.render(run_failed))


def test_several(passed: WorkflowResult, failed: WorkflowResult, golden: Golden) -> None:
    """Each workflow with its steps, then all verdicts, their sum, and what the exit code means."""
    result = RunResult("r1", (passed, failed), 134.4, deadline_exceeded=True, clean="runner clean --run r1")
    golden("text_several.txt", text.render(result))


def test_watched(run_failed: RunResult, run_passed: RunResult, golden: Golden) -> None:
    """Who has just watched the live view sees only what went wrong, and the verdict."""
    golden("text_watched.txt", text.render(run_failed, watched=True))
    assert text.render(run_passed, watched=True) == "pod passed in 4.2 s\n"


def test_narrow(run_failed: RunResult, golden: Golden) -> None:
    """In 40 columns names are cut in the list, and nothing is cut where it matters."""
    workflow = run_failed.workflows[0]
    long = replace(workflow.steps[0], name="Create the Pod, its 日本語 Service and all that belongs to it")
    narrow = replace(workflow, steps=(long, *workflow.steps[2:]))
    golden("text_narrow.txt", text.render(replace(run_failed, workflows=(narrow,)), width=40))


def test_ascii(run_failed: RunResult) -> None:
    """Where the encoding has no signs there are none."""
    report = text.render(run_failed, unicode=False)
    assert report.isascii()
    assert "\nx Wait until it is ready\n" in report


def test_colour_changes_nothing_but_colour(run_failed: RunResult) -> None:
    """Without its codes the coloured report is the plain one."""
    coloured = text.render(run_failed, colour=True)
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m"):
        assert code in coloured
        coloured = coloured.replace(code, "")
    assert coloured == text.render(run_failed)


def test_interrupted(passed: WorkflowResult) -> None:
    """A signal is named, and that the cleanup was done."""
    cancelled = replace(passed, status=Status.CANCELLED, cause="SIGINT")
    report = text.render(RunResult("r1", (cancelled,), 3, signal=2))
    assert report.endswith("pod cancelled after 4.2 s: SIGINT\nexit code 130: ended by SIGINT after the cleanup\n")


def test_a_cancelled_step(passed: WorkflowResult) -> None:
    """A step that was told to stop has not failed."""
    step = replace(passed.steps[0], status=Status.CANCELLED, shown="")
    report = text.render(
        RunResult("r1", (replace(passed, steps=(step,), status=Status.CANCELLED, cause="deadline"),), 1)
    )
    assert report.startswith("! Build the image  cancelled after 3.1 s\ncleanup: ")
    assert report.endswith("pod cancelled after 4.2 s: deadline\n")


def test_output_without_a_command(passed: WorkflowResult) -> None:
    """A kind that is no command may have output, too."""
    step = replace(passed.steps[0], status=Status.FAILURE, failure=Failure("no answer", output="<html>\n"))
    report = text.render(RunResult("r1", (replace(passed, steps=(step,), status=Status.FAILURE),), 1))
    assert "  no answer\n  output:\n  │ <html>\n" in report


def test_could_not_start() -> None:
    """Why there was no run, what to do, and that nothing was changed."""
    result = RunResult(
        "", (), 0.1, error="the context kind-kind\nis unreachable", hint="name another with --context NAME"
    )
    assert text.render(result, exit_code=3).splitlines() == [
        "error: the context kind-kind",
        "  │ is unreachable",
        "  try: name another with --context NAME",
        "exit code 3: the run could not start; nothing was changed",
    ]


def test_problems_within_a_run() -> None:
    """Problems are shown as `problems` shows them."""
    report = text.render(RunResult("", (), 0, problems=(Problem("w.yaml", 1, 1, "wrong"),)), exit_code=2)
    assert report.startswith("w.yaml:1:1: error: wrong\n")
    assert report.endswith("exit code 2: the command line or the workflow is not valid; nothing was started\n")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ""),
        (1, ""),
        (4, "deadline"),
        (5, "could be removed"),
        (70, "bug"),
        (143, "SIGTERM"),
        (128 + 99, "signal 99"),
    ],
)
def test_meaning(code: int, words: str) -> None:
    """0 and 1 explain themselves; the others say what they mean."""
    assert words in text.meaning(code)
    assert bool(words) == bool(text.meaning(code))


def test_signal_and_incomplete_cleanup(passed: WorkflowResult) -> None:
    """It does not say that the cleanup is over while something is left."""
    left = Leftover("pod/x", "it still exists", "kubectl delete pod/x")
    report = text.render(RunResult("r1", (replace(passed, cleanup=Cleanup(0, (), (left,), 30)),), 40, signal=2))
    assert report.endswith("exit code 130: ended by SIGINT before the cleanup was complete\n")


def test_hint_stands_for_the_command_that_does_not_help(passed: WorkflowResult) -> None:
    left = Leftover("pod/x", "held", "kubectl delete pod/x", hint="take its finalizers away")
    report = text.render(RunResult("r1", (replace(passed, cleanup=Cleanup(0, (), (left,), 30)),), 40))
    assert "    try: take its finalizers away\n" in report
    assert "remove it with" not in report


def test_cleanup_incomplete(passed: WorkflowResult) -> None:
    """Exit code 5 says that the steps passed and what is left."""
    left = Leftover("pod/x", "it is stuck\nfor a reason", "kubectl delete pod/x")
    clean = "runner clean --run r1 --context=far"
    report = text.render(RunResult("r1", (replace(passed, cleanup=Cleanup(0, (), (left,), 30)),), 40, clean=clean))
    assert f"  try: {clean}\n" in report
    assert "  left: pod/x: it is stuck\n  │ for a reason\n    remove it with: kubectl delete pod/x\n" in report
    assert "\npod passed in 4.2 s, 1 left\nexit code 5: every step passed, but" in report


def test_objects_that_are_gone(run_failed: RunResult, failed: WorkflowResult, run_passed: RunResult) -> None:
    """The commands in the hints would find nothing: once, what to do instead."""
    words = "\nthe objects that were deleted cannot be looked at any more: run again with `--keep-on-failure`\n"
    assert words in text.render(run_failed)
    assert text.render(replace(run_failed, workflows=(failed, failed))).count(words) == 1
    kept = replace(failed, cleanup=Cleanup(0, kept=("pod/pythonapp",)))
    assert words not in text.render(replace(run_failed, workflows=(kept,)))
    assert words not in text.render(run_passed)


def test_verdicts_of_several_say_why(passed: WorkflowResult, failed: WorkflowResult) -> None:
    """What happened to each of them may be screens above; of one alone it stands just above."""
    verdict = 'job failed in 2 min 10 s at "Wait until it is ready" (workflows/pod.yaml:12)'
    assert text.render(RunResult("r1", (failed,), 130)).endswith(f"\n{verdict}\n")
    assert f"\n{verdict}: pod/pythonapp cannot" in text.render(RunResult("r1", (failed, passed), 134))


def test_nothing_to_clean_up(passed: WorkflowResult) -> None:
    """A run that made nothing says so."""
    assert "\ncleanup: nothing to delete\n" in text.render(RunResult("r1", (replace(passed, cleanup=Cleanup()),), 1))


@pytest.mark.parametrize("place", ["", "workflows/pod.yaml", "w.yaml:x:y", "w.yaml:3:1"])
def test_a_failure_with_little(passed: WorkflowResult, place: str) -> None:
    """Whatever is missing is left out."""
    step = replace(passed.steps[0], status=Status.FAILURE, failure=Failure("it broke", place=place), shown="")
    report = text.render(RunResult("r1", (replace(passed, steps=(step,), status=Status.FAILURE),), 1))
    where = f"{place}: " if place else ""
    assert f"\n\n✗ Build the image\n  {where}it broke\n\ncleanup" in report
    shown = f" ({place.removesuffix(':1')})" if place else ""
    assert report.endswith(f'pod failed in 4.2 s at "Build the image"{shown}\n')


def test_failed_without_a_failed_step(passed: WorkflowResult) -> None:
    """A cause that is no step's is told."""
    report = text.render(RunResult("r1", (replace(passed, status=Status.FAILURE, cause="the proxy ended"),), 1))
    assert report.endswith("pod failed in 4.2 s: the proxy ended\n")


def test_output_cannot_forge_lines(run_failed: RunResult) -> None:
    """What children print stands behind bars, without control characters, and commands nobody."""
    report = text.render(run_failed)
    assert "  │ ::error::forged\n" in report
    assert report.replace("\n", "").isprintable()
    assert tame(report, {"GITHUB_ACTIONS": "true"}) == report
