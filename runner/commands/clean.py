"""`runner clean`: list and undo what earlier runs left, by their journals, and by the labels in the cluster."""

from __future__ import annotations

import shutil
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from runner import orphans, shell
from runner.cleanup import Remover, address, leftover, tidy, told
from runner.cluster.choose import Choice, engine_of, open_again, open_cluster
from runner.cluster.kubeconfig import IN_POD
from runner.cluster.patience import quiet
from runner.commands import history
from runner.deadline import Deadline
from runner.errors import CannotStart, ExitCode, RunnerError, UsageError
from runner.journal import (
    KUBECONFIG,
    NAME,
    Journal,
    Past,
    Place,
    Undo,
    boot_id,
    line,
    past_runs,
    replay,
    runs_folder,
    state_flags,
)
from runner.result import Leftover
from runner.signals import Signals
from runner.steps.kind import is_duration, seconds

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.labelled import Labelled
    from runner.cluster.protocol import Cluster

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
    where: str = ""
    """The cluster, and the kubeconfig by which it was reached."""
    removed: list[str] = field(default_factory=list)
    left: dict[str, Leftover] = field(default_factory=dict)
    """By the id of its record."""

    @property
    def idle(self) -> bool:
        """Whether all that is known of it was kept on purpose: there is nothing to do, only something to say."""
        return bool(self.kept) and not self.doomed and not (self.past and _is_on_this_machine(self.past))


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
        status = past.status
        wanted = past.id in named if options.run else history.age(past) >= older and status != "running"
        other = options.context and past.place and past.place.context != options.context
        if not wanted or other:
            continue
        held = {"running": "it is alive", "cleaning": "its watchdog is removing it"}.get(status, "")
        doomed = (*past.doomed, *(past.spared if named else ()))
        if named or doomed or held or past.spared or _is_on_this_machine(past):
            kept = () if named else past.spared
            yield Case(past.id, status, history.when(past), doomed, kept, past, held, _where(past.place))


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
        where = f"{cluster.context} ({cluster.server})"
        yield Case(found.run, "unknown", when, doomed, kept, held=held, where=where)


def _where(place: Place | None) -> str:
    if place is None or not place.context:
        return place.engine if place else ""
    return f"{place.context} ({place.server})"


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
    if case.held or case.idle or deadline.ended:
        return
    try:
        if case.past:
            _undo_past(case, case.past, options, deadline)
        elif cluster:
            with deadline.child(CLEAN_SECONDS) as part:
                remover = Remover(cluster, None, case.run, _remembering(case), _asked(options))
                case.left |= remover.undo(case.doomed, part, hurry=False)[1]
    except (RunnerError, OSError) as error:
        gone = set(case.removed)
        rest = [record for record in case.doomed if address(record) not in gone]
        place = case.past.place if case.past else None
        case.left = {record.id: leftover(record, str(error), place=place) for record in rest}


def _asked(options: Namespace) -> Place:
    """The cluster that the command line names."""
    file = str(Path(options.kubeconfig).absolute()) if options.kubeconfig else ""
    return Place(engine="kubectl", context=options.context, named=bool(options.context), kubeconfig=file)


def _undo_past(case: Case, past: Past, options: Namespace, deadline: Deadline) -> None:
    """End the processes of a dead run, remove its files and its objects, and write all that into its journal."""
    journal = Journal.resume(past.folder)
    if journal is None:
        case.held = "somebody else is removing it"
        return
    with ExitStack() as stack:
        stack.callback(journal.close)
        stack.callback(lambda: _end(case, past, journal))
        stack.callback(lambda: tidy(past.folder, left=_still_open(case, journal) > 0))
        orphans.end(past.children.values() if past.started and past.started.boot == boot_id() else ())
        orphans.end_marked(past.id)
        for mark in past.children:
            journal.ended(mark)
        for path in past.temporary:
            shutil.rmtree(path, ignore_errors=True)
        if not case.doomed:
            return
        shell.keep_ledger(orphans.Ledger(journal))
        stack.callback(shell.keep_ledger, None)
        scratch = Path(journal.make_temporary())
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        _remove(case, past, journal, _ways(past, journal, scratch, options, deadline), deadline)


Way = tuple[str, Callable[[], "Cluster"]]


def _remove(case: Case, past: Past, journal: Journal, ways: Iterable[Way], deadline: Deadline) -> None:
    """Remove the objects: with the run's own kubeconfig while that works, and what that may not with the user's."""
    rest = list(case.doomed)
    failures: list[str] = []
    for name, connect in ways:
        try:
            cluster = connect()
        except RunnerError as error:
            failures.append(f"by {name}: {error}")
            continue
        case.where = f"{_where(past.place)}, by {name}"
        with closing(cluster), deadline.child(CLEAN_SECONDS) as part:
            case.left = Remover(cluster, journal, past.id, _remembering(case)).undo(rest, part, hurry=False)[1]
        rest = [record for record in rest if record.id in case.left]
        if not any(item.hopeless for item in case.left.values()):
            return
    if not case.left:
        raise CannotStart("; ".join(failures))


def _ways(past: Past, journal: Journal, scratch: Path, options: Namespace, deadline: Deadline) -> Iterator[Way]:
    """How to reach the cluster of a dead run, the best first. Whichever it is, the cluster must be proven local again
    unless --context names it. The run's own kubeconfig stays as it is; others are pinned in `scratch`.
    """
    place, sockets = past.place, journal.make_temporary
    connect = partial(open_cluster, report=quiet, parent=deadline, sockets=sockets)
    if place and place.engine == "podman":
        yield "podman", partial(connect, Choice("podman"), past.folder)
        return

    def connect_as(choice: Choice) -> Cluster:
        server = selected.server if (selected := engine_of(choice)[1]) else ""
        if place and place.server != server:
            raise CannotStart(f"the context {context} is another cluster now: it was {place.server}, and is {server}")
        return connect(choice, scratch)

    named, asked, own = bool(options.context), _asked(options).kubeconfig, place.kubeconfig if place else ""
    if (past.folder / KUBECONFIG).exists() and asked in ("", own):
        yield "the run's own kubeconfig", partial(open_again, past.folder, quiet, deadline, sockets, named=named)
    context = options.context or (place.context if place and place.context != IN_POD else "")
    for file in dict.fromkeys((asked, asked or own)):
        yield file or "your kubeconfig", partial(connect_as, Choice("kubectl", file, context, named=named))


def _end(case: Case, past: Past, journal: Journal) -> None:
    status, code = (past.end.status, past.end.code) if past.end else ("crashed", 128 + signal.SIGKILL)
    journal.end(status, code, left=_still_open(case, journal), by="clean")


def _still_open(case: Case, journal: Journal) -> int:
    """How many of its objects are left."""
    return len({record.id for record in journal.records} & {record.id for record in case.doomed})


def _remembering(case: Case) -> Callable[..., None]:
    """An `Emit` that keeps what was deleted."""

    def emit(phrase: str, /, **fields: Any) -> None:
        if phrase == "object deleted":
            case.removed.append(fields["object"])

    return emit


# --- saying it


def _report(options: Namespace, cases: Sequence[Case], *, acts: bool) -> None:
    from runner.reports import terminal

    if options.output == "json":
        from runner.reports.encode import as_json

        document = {"schema": 1, "dry_run": not acts, "runs": [_document(case) for case in cases]}
        terminal.write(sys.stdout, as_json(document, indent=2) + "\n")
        return
    terminal.write(sys.stdout, "".join(f"{text}\n" for text in _lines(cases, options, acts=acts)))


def _document(case: Case) -> dict[str, Any]:
    return {
        "run": case.run,
        "status": case.status,
        "started": case.when,
        "objects": [address(record) for record in case.doomed],
        "kept": [address(record) for record in case.kept],
        "held": case.held,
        "where": case.where,
        "removed": case.removed,
        "left": [told(item) for item in case.left.values()],
    }


def _lines(cases: Sequence[Case], options: Namespace, *, acts: bool) -> Iterator[str]:
    from runner.reports.wording import harmless

    differ = len({_flags(case, options) for case in cases if case.doomed and not case.held}) > 1
    for case in cases:
        where = f", on {case.where}" if case.where else ""
        held = f": {case.held}" if case.held else ""
        yield harmless(f"{case.run}  {history.in_words(case.status, case.past)}, begun {case.when}{where}{held}")
        for record in case.doomed:
            yield from _line(case, record, acts=acts)
        for record in case.kept:
            yield f"  kept: {harmless(address(record))}"
        if differ and not acts and case.doomed and not case.held:
            yield f"  try: {harmless(line('clean', '--run', case.run, *_flags(case, options)))}"
    yield _sum(cases, options, acts=acts, differ=differ)


def _flags(case: Case, options: Namespace) -> tuple[str, ...]:
    """What `clean` must be told to find a run and its cluster."""
    asked = _asked(options).flags
    own = case.past.place.flags if case.past and case.past.place else ()
    cluster = ("--cluster",) if options.cluster else ()
    return (*cluster, *state_flags(runs_folder(options.state_dir)), *(asked or own))


def _line(case: Case, record: Undo, *, acts: bool) -> Iterator[str]:
    """What came of one object, or what it is now."""
    from runner.reports.wording import cure, first_line, harmless

    if left := case.left.get(record.id):
        yield f"  left: {harmless(left.object)}: {first_line(left.why)}"
        yield f"    {harmless(cure(left.command, left.hint))}"
        return
    word = "remains" if case.held or not acts else "removed" if address(record) in case.removed else "gone"
    more = f", or of it: {', '.join(map(str, record.dependents))}" if word == "remains" and record.dependents else ""
    yield f"  {word}: {harmless(address(record) + more)}"


def _sum(cases: Sequence[Case], options: Namespace, *, acts: bool, differ: bool) -> str:
    from runner.reports.wording import count, harmless

    removed, left = sum(len(case.removed) for case in cases), sum(len(case.left) for case in cases)
    free = [case for case in cases if case.doomed and not case.held]
    held = sum(len(case.doomed) for case in cases if case.held)
    kept = sum(len(case.kept) for case in cases)
    there = f"{count(kept, 'object')} {'was' if kept == 1 else 'were'} kept on purpose"
    purpose = f"; {there}, and --run ID removes {'it' if kept == 1 else 'them'}" if kept else ""
    others = f"{count(held, 'object')} {'is' if held == 1 else 'are'} left to others, as said above"
    if acts:
        return f"{count(removed, 'object')} removed, {left} left" + (f"; {others}" if held else "") + purpose
    if free:
        flags = _flags(free[0], options)
        every, one = line("clean", "--all", *flags), line("clean", "--run", "ID", *flags)
        there = f"{count(sum(len(case.doomed) for case in free), 'object')} can be removed; try: "
        return there + ("the lines above" if differ else harmless(f"{every}, or {one}")) + purpose
    return (others if held else "nothing is left") + purpose
