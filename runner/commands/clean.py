"""`runner clean`: list and undo what earlier runs left, by their journals, and by the labels in the cluster."""

from __future__ import annotations

import shutil
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from runner import orphans, shell
from runner.cleanup import Remover, address, leftover, tidy
from runner.cluster.choose import Choice, engine_of, open_cluster
from runner.cluster.patience import quiet
from runner.commands import history
from runner.deadline import Deadline
from runner.errors import ExitCode, RunnerError, UsageError
from runner.journal import NAME, Journal, Past, Undo, boot_id, past_runs, replay, runs_folder
from runner.result import Leftover
from runner.signals import Signals
from runner.steps.kind import is_duration, seconds

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.labelled import Labelled

CLEAN_SECONDS = 120.0


@dataclass
class Case:
    """One run: what of it goes, what stays on purpose, or (`held`) why it is left alone; then what came of that."""

    run: str
    status: str
    when: str
    doomed: tuple[Undo, ...]
    kept: tuple[Undo, ...] = ()
    past: Past | None = None
    held: str = ""
    removed: list[str] = field(default_factory=list)
    left: dict[str, Leftover] = field(default_factory=dict)
    """By the id of its record."""


def run(options: Namespace) -> int:
    """0, or 5 when something could not be removed; raises what keeps it from starting."""
    older = _older_than(options.older_than)
    acts = bool(options.run or options.all or older) and not options.dry_run
    deadline = Deadline()
    with ExitStack() as stack:
        stack.enter_context(Signals(lambda _, name: deadline.cancel(name), lambda: None))
        runs = runs_folder(options.state_dir)
        cases = list(_here(runs, options, older))
        cluster = _connect(options, deadline, stack) if options.cluster else None
        if cluster:
            cases += _elsewhere(cluster, {case.run for case in cases}, runs, options, older, deadline)
        for case in cases if acts else ():
            _undo(case, cluster, options, deadline)
    _report(options, cases, acts=acts)
    if deadline.reason:
        return 128 + signal.Signals[deadline.reason]
    return ExitCode.CLEANUP if any(case.left for case in cases) else ExitCode.PASSED


def _older_than(text: str) -> float:
    if text and not is_duration(text):
        raise UsageError(f"--older-than {text}: write a length of time, such as 90s, 10m or 2h")
    return seconds(text) if text else 0.0


# --- what there is


def _here(runs: Path, options: Namespace, older: float) -> Iterator[Case]:
    """The runs of this machine that left something, or that are named. What was kept goes only by name."""
    named = {history.find(runs, name).id for name in options.run if not options.cluster or (runs / name).exists()}
    for folder in past_runs(runs):
        past = replay(folder)
        status = history.status(past)
        wanted = past.id in named if options.run else history.age(past) >= older and status != "running"
        other = options.context and past.place and past.place.context != options.context
        if not wanted or other:
            continue
        held = {"running": "it is alive", "cleaning": "its watchdog is removing it"}.get(status, "")
        doomed = (*past.doomed, *(past.spared if named else ()))
        if named or doomed or held or _is_on_this_machine(past):
            kept = () if named else past.spared
            yield Case(past.id, status, history.when(past), doomed, kept, past, held)


def _is_on_this_machine(past: Past) -> bool:
    """Whether processes or files of a dead run may be left."""
    return not past.finished and bool(past.children or any(Path(path).exists() for path in past.temporary))


def _elsewhere(
    cluster: Kubectl, known: set[str], runs: Path, options: Namespace, older: float, deadline: Deadline
) -> Iterator[Case]:
    """The runs whose objects are in the cluster, and whose journals are not on this machine."""
    from runner.cluster import labelled

    now = cluster.api.time(deadline)
    for found in labelled.find(cluster, deadline):
        wanted = found.run in options.run if options.run else (now - found.created).total_seconds() >= older
        if not wanted or found.run in known or (runs / found.run / NAME).exists():
            continue
        kept = () if options.run else tuple(record for record in found.records if record.keep)
        doomed = tuple(record for record in found.records if record not in kept)
        when = found.created.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        held = "" if options.run else _may_be_alive(found, now)
        yield Case(found.run, "of another machine", when, doomed, kept, held=held)


def _may_be_alive(found: Labelled, now: Any) -> str:
    if found.until is None or now >= found.until:
        return ""
    until = found.until.astimezone(UTC).strftime("%H:%M UTC")
    return f"it may be alive on another machine until {until}; --run {found.run} removes it all the same"


# --- undoing it


def _connect(options: Namespace, deadline: Deadline, stack: ExitStack) -> Kubectl:
    """The cluster that the options mean, proven local or named."""
    from runner.cluster.kubectl import Kubectl

    choice = Choice("kubectl", options.kubeconfig, options.context)
    engine_of(choice)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="runner-")))
    cluster = open_cluster(choice, folder, quiet, parent=deadline)
    stack.callback(cluster.close)
    assert isinstance(cluster, Kubectl)  # noqa: S101 - the choice says so
    return cluster


def _undo(case: Case, cluster: Kubectl | None, options: Namespace, deadline: Deadline) -> None:
    if case.held or deadline.ended:
        return
    try:
        if case.past:
            _undo_past(case, case.past, options, deadline)
        elif cluster:
            with deadline.child(CLEAN_SECONDS) as part:
                remover = Remover(cluster, None, case.run, _remembering(case))
                case.left |= remover.undo(case.doomed, part, hurry=False)[1]
    except (RunnerError, OSError) as error:
        gone = set(case.removed)
        case.left = {record.id: leftover(record, str(error)) for record in case.doomed if address(record) not in gone}


def _undo_past(case: Case, past: Past, options: Namespace, deadline: Deadline) -> None:
    """End the processes of a dead run, remove its files and its objects, and write all that into its journal."""
    journal = Journal.resume(past.folder)
    if journal is None:
        case.held = "somebody else is removing it"
        return
    with ExitStack() as stack:
        stack.callback(journal.close)
        stack.callback(lambda: _end(case, past, journal))
        stack.callback(tidy, past.folder)
        orphans.end(past.children.values() if past.started and past.started.boot == boot_id() else ())
        for mark in past.children:
            journal.ended(mark)
        for path in past.temporary:
            shutil.rmtree(path, ignore_errors=True)
        if not case.doomed:
            return
        shell.keep_ledger(orphans.Ledger(journal))
        stack.callback(shell.keep_ledger, None)
        sockets = journal.make_temporary
        cluster = open_cluster(_choice(past, options), past.folder, quiet, parent=deadline, sockets=sockets)
        stack.callback(cluster.close)
        if past.place and past.place.server != cluster.server:
            raise UsageError(
                f"the context {past.place.context} is another cluster now: it was {past.place.server}, and is "
                f"{cluster.server}",
            )
        with deadline.child(CLEAN_SECONDS) as part:
            remover = Remover(cluster, journal, past.id, _remembering(case))
            case.left |= remover.undo(case.doomed, part, hurry=False)[1]


def _end(case: Case, past: Past, journal: Journal) -> None:
    status, code = (past.end.status, past.end.code) if past.end else ("crashed", 128 + signal.SIGKILL)
    open_ = {record.id for record in journal.records}
    left = sum(record.id in open_ for record in case.doomed)
    journal.end(status, code, left=left, by="clean")


def _remembering(case: Case) -> Callable[..., None]:
    """An `Emit` that keeps what was deleted."""

    def emit(phrase: str, /, **fields: Any) -> None:
        if phrase == "object deleted":
            case.removed.append(fields["object"])

    return emit


def _choice(past: Past, options: Namespace) -> Choice:
    """The cluster of a run: by its context, which must be proven local again unless --context names it."""
    if past.place and past.place.engine == "podman":
        return Choice("podman")
    context = options.context or (past.place.context if past.place else "")
    return Choice("kubectl", options.kubeconfig, context, named=bool(options.context))


# --- saying it


def _report(options: Namespace, cases: Sequence[Case], *, acts: bool) -> None:
    from runner.reports import terminal

    if options.output == "json":
        from runner.reports.encode import as_json

        document = {"schema": 1, "dry_run": not acts, "runs": [_document(case) for case in cases]}
        terminal.write(sys.stdout, as_json(document, indent=2) + "\n")
        return
    command = "runner clean --cluster" if options.cluster else "runner clean"
    terminal.write(sys.stdout, "".join(f"{line}\n" for line in _lines(cases, command, acts=acts)))


def _document(case: Case) -> dict[str, Any]:
    return {
        "run": case.run,
        "status": case.status,
        "started": case.when,
        "objects": [address(record) for record in case.doomed],
        "kept": [address(record) for record in case.kept],
        "held": case.held,
        "removed": case.removed,
        "left": [{"object": item.object, "why": item.why, "command": item.command} for item in case.left.values()],
    }


def _lines(cases: Sequence[Case], command: str, *, acts: bool) -> Iterator[str]:
    from runner.reports.wording import harmless

    for case in cases:
        yield f"{case.run}  {case.status}, begun {case.when}" + (f": {harmless(case.held)}" if case.held else "")
        for record in case.doomed:
            yield from _line(case, record, acts=acts)
        for record in case.kept:
            yield f"  kept: {harmless(address(record))}"
    yield _sum(cases, command, acts=acts)


def _line(case: Case, record: Undo, *, acts: bool) -> Iterator[str]:
    """What came of one object, or what it is now."""
    from runner.reports.wording import first_line, harmless

    if left := case.left.get(record.id):
        yield f"  left: {harmless(left.object)}: {first_line(left.why)}"
        yield f"    remove it with: {harmless(left.command)}"
        return
    word = "remains" if case.held or not acts else "removed" if address(record) in case.removed else "gone"
    more = f", or of it: {', '.join(map(str, record.dependents))}" if word == "remains" and record.dependents else ""
    yield f"  {word}: {harmless(address(record) + more)}"


def _sum(cases: Sequence[Case], command: str, *, acts: bool) -> str:
    from runner.reports.wording import count

    removed, left = sum(len(case.removed) for case in cases), sum(len(case.left) for case in cases)
    there = sum(len(case.doomed) for case in cases if not case.held)
    held = sum(len(case.doomed) for case in cases if case.held)
    others = f"{count(held, 'object')} {'is' if held == 1 else 'are'} left to others, as said above"
    if acts:
        return f"{count(removed, 'object')} removed, {left} left" + (f"; {others}" if held else "")
    if there:
        return f"{count(there, 'object')} can be removed; try: {command} --all, or {command} --run ID"
    return others if held else "nothing is left"
