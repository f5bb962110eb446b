"""`runner run`: validate, choose the cluster, run, clean up, report."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from runner import __version__, cleanup, engine, masking, orphans, preflight, shell
from runner.cluster import images
from runner.cluster.choose import Choice, engine_of, open_cluster
from runner.commands import files
from runner.errors import Cancelled, ExitCode, RunnerError, UsageError
from runner.events import Events
from runner.expressions import EvaluationError
from runner.inputs import scope_values
from runner.invocation import Run
from runner.journal import (
    EVENTS,
    RUN_ID,
    Journal,
    Place,
    leftovers,
    line,
    new_run_id,
    past_runs,
    runs_folder,
    state_flags,
    unfinished,
)
from runner.result import RunResult, WorkflowResult
from runner.signals import Signals
from runner.steps.bounds import NAMESPACE
from runner.steps.kind import is_duration, seconds
from runner.watchdog import Watchdog
from runner.workflow import Workflow, fill

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster

# Run folders that are kept for looking back.
KEPT_RUNS = 50


def run(options: Namespace) -> int:
    """The exit code of the run; raises what keeps it from starting."""
    timeout = _timeout(options.timeout)
    _check_namespace(options.namespace)
    workflows = files.read(options.files, outside=options.allow_outside)
    inputs = [files.values(workflow, options.set, options.values) for workflow in workflows]
    with ExitStack() as stack:
        shared = _prepare(options, timeout, workflows, stack)
        listen = cache(lambda: _listen(options, shared, stack))
        with Signals(shared.interrupt, lambda: _left(shared)):
            result = _run_all(options, workflows, inputs, shared, listen)
    _report(options, masking.mask(result))
    return result.exit_code


def _timeout(text: str) -> float | None:
    if not text:
        return None
    if not is_duration(text):
        raise UsageError(f"--timeout {text}: write a length of time, such as 90s, 10m or 1h30m")
    if not seconds(text):
        raise UsageError("--timeout 0 leaves no time at all", hint="leave it out for the workflow's own")
    return seconds(text)


def _check_namespace(name: str) -> None:
    if name and not re.fullmatch(NAMESPACE, name):
        raise UsageError(f"--namespace {name}: this cannot be a namespace", hint="use a-z, 0-9 and hyphens")


def _prepare(options: Namespace, timeout: float | None, workflows: Sequence[Workflow], stack: ExitStack) -> Run:
    run_id = new_run_id()
    folder = runs_folder(options.state_dir) / run_id
    watchdog = Watchdog(folder)
    journal = Journal(folder, watchdog)
    stack.callback(watchdog.close)
    stack.callback(journal.close)
    journal.start(tuple(workflow.file for workflow in workflows), __version__)
    shell.keep_ledger(orphans.Ledger(journal))
    stack.callback(shell.keep_ledger, None)
    stack.push(lambda *raised: _say_goodbye(journal, raised[1]))
    _forget_old_runs(folder.parent)
    return Run(
        id=run_id,
        folder=folder,
        events=Events(run_id),
        journal=journal,
        keep="always" if options.keep else "on_failure" if options.keep_on_failure else "",
        namespace=options.namespace,
        timeout=timeout,
        builder=lru_cache(images.find_builder),
    )


def _say_goodbye(journal: Journal, error: BaseException | None) -> None:
    """What keeps a run from starting ends it; after a bug the watchdog looks whether something is left."""
    if isinstance(error, RunnerError):
        journal.end("error", int(error.code))
    elif error and not journal.goodbye:
        journal.end("bug", ExitCode.BUG, handover=True)
    if journal.goodbye and not journal.goodbye.handover:
        cleanup.tidy(journal.folder, left=bool(journal.goodbye.left))


def _listen(options: Namespace, shared: Run, stack: ExitStack) -> None:
    """Show events from now on, and those that were emitted so far. Its imports take as long as kubectl to start, so it
    is called in the meantime.
    """
    for sink, close in _sinks(options, shared.folder):
        shared.events.add(sink)
        stack.callback(close)


def _sinks(options: Namespace, folder: Path) -> list[tuple[Any, Any]]:
    """(sink, how to close it): the run folder, `--events`, and the terminal."""
    from runner.reports import lines, live, log

    kept = lines.make(folder / EVENTS)
    sinks: list[tuple[Any, Any]] = [(kept, kept.close)]
    if options.events:
        asked = lines.make(Path(options.events))
        sinks.append((asked, asked.close))
    verbosity: Literal[-1, 0, 1] = 1 if options.verbose else -1 if options.quiet else 0
    if verbosity == 0 and options.log_format == "text" and _watches(sys.stderr):
        view = live.make(sys.stderr)
        sinks.append((view, view.close))
    else:
        reported = options.output == "text" and _same(sys.stdout, sys.stderr)
        sinks.append((log.make(sys.stderr, options.log_format, verbosity, reported=reported), lambda: None))
    return sinks


def _same(one: TextIO, other: TextIO) -> bool:
    """Whether one reader sees both: the same file, pipe or terminal, or two pipes of a CI system, which has one log."""
    try:
        if os.path.sameopenfile(one.fileno(), other.fileno()):
            return True
        pipes = all(stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode) for stream in (one, other))
    except (OSError, ValueError):
        return False
    return pipes and bool(os.environ.get("CI"))


def _watches(stream: TextIO) -> bool:
    """Whether somebody sees the live view on this stream."""
    from runner.reports import live

    return live.suits(stream)


def _forget_old_runs(folder: Path) -> None:
    """Keep the newest run folders; one that still has something to undo stays, and what is no run's is not ours."""
    for old in [path for path in past_runs(folder) if RUN_ID.fullmatch(path.name)][:-KEPT_RUNS]:
        if not unfinished(old):
            shutil.rmtree(old, ignore_errors=True)


def _run_all(
    options: Namespace,
    workflows: Sequence[Workflow],
    inputs: Sequence[dict[str, Any]],
    shared: Run,
    listen: Callable[[], None],
) -> RunResult:
    started = time.monotonic()
    results: list[tuple[WorkflowResult, cleanup.Pending]] = []
    try:
        _start(options, workflows, inputs, shared, listen)
        for workflow, values in zip(workflows, inputs, strict=True):
            if shared.signal:
                break
            shared.more = workflow is not workflows[-1]
            results.append(engine.run_workflow(workflow, shared, _values(workflow, values, shared)))
    except Cancelled:
        pass  # a signal before the first step: nothing was made
    finally:
        ended = [replace(result, cleanup=cleaning.wait()) for result, cleaning in results]
        ended = _verified(ended, shared)
        if shared.cluster:
            shared.cluster.close()
        abandoned = _end_children(shared)
    handover = abandoned or any(not item.hopeless for workflow in ended for item in workflow.cleanup.left)
    result = RunResult(
        run=shared.id,
        workflows=tuple(ended),
        seconds=time.monotonic() - started,
        engine=shared.cluster.engine if shared.cluster else "",
        context=shared.cluster.context if shared.cluster else "",
        folder=str(shared.folder),
        signal=shared.signal,
        deadline_exceeded=any(workflow.cause == "deadline" for workflow in ended),
        handover=handover,
        clean=shared.journal.clean_line if any(workflow.cleanup.left for workflow in ended) else "",
    )
    shared.events.emit("run ended", status=result.status, code=result.exit_code, seconds=round(result.seconds, 3))
    left = sum(len(workflow.cleanup.left) for workflow in ended)
    shared.journal.end(result.status, result.exit_code, left=left, handover=handover)
    return result


def _end_children(shared: Run) -> bool:
    """At the end none is alive; answers whether a builder that clears away is left to the watchdog after a signal."""
    with shared.cleanup.child() as patience:
        if shared.signal:
            shared.hasten(patience)
        for child in shell.alive():
            program = child.command.argv[0]
            if not child.ending:
                shared.events.emit("warning", message=f"{program} was still running, and is ended", hint="")
                child.stop()
                continue
            child.await_end(patience)
            if not child.exited:
                hint = "the watchdog ends it when it has, or in a few seconds"
                shared.events.emit("warning", message=f"{program} has not cleared away yet", hint=hint)
    abandoned = any(child.ending for child in shell.alive())
    if not abandoned:
        orphans.end_marked(shared.id)
    return abandoned


def _start(
    options: Namespace,
    workflows: Sequence[Workflow],
    inputs: Sequence[Mapping[str, Any]],
    shared: Run,
    listen: Callable[[], None],
) -> None:
    """Connect, and find what would make the run fail before anything is created."""
    try:
        choice = _common_choice(options, workflows, inputs)
        if _needs_cluster(workflows) or (_wants_cluster(options, workflows) and engine_of(choice)[0] == "kubectl"):
            sockets = shared.journal.make_temporary
            shared.cluster = open_cluster(choice, shared.folder, shared.events.emit, listen, shared.work, sockets)
            shared.journal.at(_place(shared.cluster, choice))
    finally:
        listen()
    cluster = shared.cluster
    if words := _words_about_leftovers(shared.folder.parent):
        shared.events.emit("note", message=words)
    shared.events.emit(
        "run started",
        version=__version__,
        files=[workflow.file for workflow in workflows],
        engine=cluster.engine if cluster else "none",
        context=cluster.context if cluster else "",
        namespace=_namespace(shared),
        folder=str(shared.folder),
    )
    for problem in (problem for workflow in workflows for problem in workflow.warnings):
        shared.events.emit("warning", message=f"{problem.place}: {problem.message}", hint=problem.hint)
    try:
        preflight.need_namespace(workflows[0], shared, _values(workflows[0], inputs[0], shared))
        for warning in dict.fromkeys(words for workflow in workflows for words in preflight.warnings(workflow, shared)):
            shared.events.emit("warning", message=warning, hint="")
    except BaseException:
        if cluster:
            cluster.close()
        raise


def _namespace(shared: Run) -> str:
    """Where the run begins; podman has one place for all."""
    cluster = shared.cluster
    if cluster and (cluster.engine == "podman" or not shared.namespace):
        return cluster.namespace
    return shared.namespace


def _verified(ended: list[WorkflowResult], shared: Run) -> list[WorkflowResult]:
    """The results, and with the last one what the cluster still has although it was deleted."""
    left = cleanup.verify(shared)
    if not left:
        return ended
    cleaned = replace(ended[-1].cleanup, left=ended[-1].cleanup.left + left)
    return [*ended[:-1], replace(ended[-1], cleanup=cleaned)]


def _words_about_leftovers(runs: Path) -> str:
    """What earlier runs left, in one line; empty for nothing."""
    left = list(leftovers(runs))
    if not left:
        return ""
    objects = sum(len(past.doomed) for past in left)
    there = "1 object" if objects == 1 else f"{objects} objects"
    whose = f"the run {left[0].id}" if len(left) == 1 else f"{len(left)} earlier runs"
    return f"{whose} left {there}; see and remove: {line('clean', *state_flags(runs))}"


def _place(cluster: Cluster, choice: Choice) -> Place:
    return Place(
        engine=cluster.engine,
        context=cluster.context,
        server=cluster.server,
        named=bool(choice.context),
        kubeconfig=str(Path(choice.kubeconfig).absolute()) if choice.kubeconfig else "",
    )


def _needs_cluster(workflows: Sequence[Workflow]) -> bool:
    return any(step.kind.needs_cluster(step.template) for workflow in workflows for step in workflow.all_steps)


def _wants_cluster(options: Namespace, workflows: Sequence[Workflow]) -> bool:
    """Whether a cluster was named, or commands of the workflows would use one."""
    if options.namespace or options.context or options.kubeconfig or options.engine == "kubectl":
        return True
    for workflow in workflows:
        place = workflow.namespace
        if place.name or place.generate or workflow.context or workflow.engine == "kubectl":
            return True
    return any(step.kind.wants_cluster(step.template) for workflow in workflows for step in workflow.all_steps)


def _common_choice(options: Namespace, workflows: Sequence[Workflow], inputs: Sequence[Mapping[str, Any]]) -> Choice:
    wanted = {_choice(options, workflow, values) for workflow, values in zip(workflows, inputs, strict=True)}
    if len(wanted) > 1:
        contexts = ", ".join(sorted(choice.context or choice.engine for choice in wanted))
        raise UsageError(f"these workflows want different clusters ({contexts})", hint="run them one by one")
    return wanted.pop()


def _choice(options: Namespace, workflow: Workflow, values: Mapping[str, Any]) -> Choice:
    """What the command line and the file ask for; they may not contradict each other."""
    try:
        context = str(fill(workflow.context, {f"inputs.{name}": value for name, value in values.items()}) or "")
    except EvaluationError as error:
        raise UsageError(f"{workflow.file}: `cluster.context` has no value: {error.message}") from None
    if context and options.context and context != options.context:
        raise UsageError(
            f"{workflow.file} is for the context {context}, and --context says {options.context}",
            hint="leave out --context, or change `cluster.context`",
        )
    if "auto" not in (options.engine, workflow.engine) and options.engine != workflow.engine:
        raise UsageError(
            f"{workflow.file} is for the engine {workflow.engine}, and --engine says {options.engine}",
            hint="leave out --engine, or change `cluster.engine`",
        )
    chosen = options.engine if options.engine != "auto" else workflow.engine
    return Choice(chosen, options.kubeconfig, options.context or context)


def _values(workflow: Workflow, inputs: Mapping[str, Any], shared: Run) -> dict[str, Any]:
    """What expressions of a workflow can see before its first step."""
    cluster = shared.cluster
    facts = {
        "id": shared.id,
        "namespace": cluster.namespace if cluster else "",
        "engine": cluster.engine if cluster else "",
        "context": cluster.context if cluster else "",
    }
    return scope_values(workflow, inputs, facts)


def _left(shared: Run) -> None:
    """The third signal: say what is left, and who removes it."""
    from runner.reports import terminal

    records = [record for record in shared.journal.records if not record.keep]
    if records:
        there = "1 object is" if len(records) == 1 else f"{len(records)} objects are"
        lines = [
            f"runner: left at once; {there} left, and the watchdog removes what it can:",
            *(f"  {cleanup.address(record)}" for record in records),
            f"  try: {shared.journal.clean_line}   (shows and removes what is still there)",
        ]
    else:
        lines = ["runner: left at once; nothing is left in the cluster"]
    terminal.write(sys.stderr, "\n" + "".join(f"{line}\n" for line in lines))
    for child in shell.alive():
        if not child.command.leaves_first:  # the watchdog ends these: they must clear away
            child.signal(signal.SIGKILL)


def _report(options: Namespace, result: RunResult) -> None:
    from runner.reports import terminal

    if options.output == "json":
        from runner.reports import json_report

        terminal.write(sys.stdout, json_report.render(result))
    elif not options.quiet or result.exit_code:
        from runner.reports import text

        style = terminal.Style.of(sys.stdout)
        watched = not options.verbose and not options.quiet and options.log_format == "text" and _watches(sys.stderr)
        watched = watched and sys.stdout.isatty()
        report = text.render(
            result, style.colour, terminal.size(sys.stdout).columns, unicode=style.unicode, watched=watched
        )
        terminal.write(sys.stdout, report)
