"""Undoing what a run made, at the end of a workflow: calmly, and after a signal in a hurry."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from runner import shell
from runner.cluster.protocol import Ref
from runner.errors import CommandResult, RunnerError, StepFailed
from runner.journal import KUBECONFIG, STEPS
from runner.result import Cleanup, Leftover
from runner.shell import Command

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster, Gone
    from runner.deadline import Deadline
    from runner.invocation import Run
    from runner.journal import Dependent, Journal, Place, Undo

VERIFY_TIMEOUT: Final = 20.0
_GLIMPSE: Final = 1.0

Emit = Callable[..., None]


class Pending:
    """The cleanup of a workflow; `wait` answers what came of it. Namespaces end while the next workflow runs."""

    def __init__(self, run: Run, records: Sequence[Undo], emit: Emit, *, keep_all: bool) -> None:
        """Start to undo what a workflow made and may not keep; `records` are its own, also those undone already."""
        self._run = run
        self._budget = run.budget
        self._emit = emit
        open_ = {record.id: record for record in run.journal.records}
        mine = [open_[record.id] for record in records if record.id in open_]
        self._kept = [record for record in mine if keep_all or record.keep]
        self._doomed = [record for record in mine if record not in self._kept]
        self._deleted = 0
        self._left: dict[str, Leftover] = {}
        self._result: Cleanup | None = None
        self._thread: threading.Thread | None = None
        self._started = self._ended = time.monotonic()
        self._bug: Exception | None = None
        for record in self._kept:
            run.journal.kept(record)
        for record in self._doomed:
            if record.spare:
                run.journal.condemned(record)
        if run.cluster is not None and self._doomed:
            self._start()
        if self._thread is None:
            self.wait()

    def _start(self) -> None:
        """Undo at once what is gone soon; namespaces go on in a thread of their own."""
        self._emit("cleanup started", objects=len(self._doomed))
        ending = {record.name for record in self._doomed if record.kind == "Namespace"}
        within = [record for record in self._doomed if _namespace_of(record) in ending]
        rest = [record for record in self._doomed if record not in within]
        short = self._budget.short
        if not short:
            rest = self._calmly(rest)
        if short or self._run.signal:
            self._hurriedly([*rest, *within])
        elif within:
            self._thread = threading.Thread(target=self._undo_later, args=(within,), name="namespaces", daemon=True)
            self._thread.start()

    def wait(self) -> Cleanup:
        if self._result is None:
            self._result = self._wait()
        return self._result

    def _wait(self) -> Cleanup:
        if self._thread:
            self._thread.join()
        if self._bug:
            raise self._bug
        kept = tuple(map(address, self._kept))
        if not (self._deleted or self._left):
            return Cleanup(kept=kept)
        for leftover in self._left.values():
            self._emit("object left", **told(leftover))
        seconds = self._ended - self._started
        counts = {"deleted": self._deleted, "left": len(self._left), "kept": len(kept)}
        self._emit("cleanup ended", **counts, seconds=round(seconds, 3))
        return Cleanup(self._deleted, kept, tuple(self._left.values()), seconds)

    def _undo_later(self, doomed: list[Undo]) -> None:
        try:
            self._undo(doomed)
        except Exception as error:  # noqa: BLE001 - raised again by `wait`, in the thread of the run
            self._bug = error

    def _undo(self, doomed: list[Undo]) -> None:
        """Delete these: calmly, and what is not gone when a signal comes in a hurry."""
        rest = self._calmly(doomed)
        if self._run.signal:
            self._hurriedly(rest)

    def _calmly(self, doomed: list[Undo]) -> list[Undo]:
        """Delete these until a signal comes; answers those that are left then."""
        run = self._run
        if doomed and not run.signal:
            limit = self._budget.for_cleanup()
            with run.cleanup.child(limit) as deadline, run.work.closing(lambda: deadline.cancel("hurry")):
                doomed = self._remove(doomed, deadline, hurry=False)
        return doomed

    def _hurriedly(self, doomed: list[Undo]) -> None:
        """Delete these all at once, in the time that the deadline leaves, or a signal, also one that comes now."""
        run = self._run
        limit = run.left_after_signal() if run.signal else self._budget.for_cleanup()
        with run.cleanup.child(limit) as deadline, run.work.closing(partial(run.hasten, deadline)):
            self._remove(doomed, deadline, hurry=True)

    def _remove(self, doomed: list[Undo], deadline: Deadline, *, hurry: bool) -> list[Undo]:
        run = self._run
        assert run.cluster is not None  # noqa: S101 - for the type checker
        for record in doomed:
            self._left.pop(record.id, None)
        deleted, left = Remover(run.cluster, run.journal, run.id, self._emit).undo(doomed, deadline, hurry=hurry)
        self._deleted += deleted
        self._left |= left
        self._ended = time.monotonic()
        return [record for record in doomed if record.id in left]


def verify(run: Run) -> tuple[Leftover, ...]:
    """Ask the cluster once more whether all that was undone is gone indeed, with all that belonged to it; answers what
    is not. Each was seen to go before, so one that cannot be asked about now is a warning. After a signal there is the
    rest of its budget for that, and after a second one no time.
    """
    cluster, gone = run.cluster, run.journal.gone
    limit = run.left_after_signal(0.0) if run.signal else min(VERIFY_TIMEOUT, run.budget.for_cleanup())
    if cluster is None or run.cleanup.cancelled or not (gone and limit):
        return ()
    left: list[Leftover] = []
    asked: list[Undo] = []
    unasked: list[Undo] = []
    why = ""
    with run.cleanup.child(limit) as deadline, run.work.closing(partial(run.hasten, deadline)):
        for record in gone:
            try:
                there = _exists(cluster, record, deadline)
            except RunnerError as error:
                unasked.append(record)
                why = why or error.message
                continue
            asked.append(record)
            if there:
                run.journal.again(record)
                left.append(leftover(record, "it was deleted, but is still there", place=run.journal.place))
        left += _outlived(run, cluster, asked, deadline)
    if unasked:
        what = f"whether {_count(len(unasked), 'object is', 'objects are')} gone could not be verified: {why}"
        run.events.emit("warning", message=what, hint="look for " + ", ".join(map(address, unasked)))
    if asked:
        run.events.emit("cleanup verified", objects=len(asked), left=len(left))
    return tuple(left)


def _outlived(run: Run, cluster: Cluster, gone: Sequence[Undo], deadline: Deadline) -> Iterator[Leftover]:
    """What belonged to objects that are gone, and is still there; the journal knows it again."""
    try:
        found, silent = cluster.what_outlived(gone, deadline)
    except RunnerError as error:
        found, silent = [], [error.message]
    if silent:
        what = f"what belonged to the objects that are gone could not be looked for everywhere: {', '.join(silent)}"
        run.events.emit("warning", message=what, hint="")
    for item in found:
        known = item.record.dependents
        run.journal.again(msgspec.structs.replace(item.record, dependents=tuple(dict.fromkeys((*known, *item.rest)))))
        yield _left_of(item, run.journal.place)


def _count(number: int, one: str, many: str) -> str:
    return f"1 {one}" if number == 1 else f"{number} {many}"


def _exists(cluster: Cluster, record: Undo, deadline: Deadline) -> bool:
    try:
        live = cluster.get(Ref(record.kind, record.name, record.namespace, record.api_version), deadline)
    except StepFailed as error:
        if error.reason == "NoKindMatch":  # its definition is gone, and all objects of the kind with it
            return False
        raise
    return live is not None and live["metadata"]["uid"] == record.uid


def _namespace_of(record: Undo) -> str:
    return record.name if record.kind == "Namespace" else record.namespace


class Remover:
    """Removes the objects of undo records, and writes down what is gone. It is the hand of the cluster meanwhile."""

    def __init__(
        self, cluster: Cluster, journal: Journal | None, run_id: str, emit: Emit, place: Place | None = None
    ) -> None:
        """`place` is for runs without a journal: the words that name the cluster."""
        self.run_id = run_id
        self._place = journal.place if journal else place
        self.deadline: Deadline
        self._cluster = cluster
        self._journal = journal
        self._emit = emit
        self._waiting = ""
        self._said_at = 0.0

    def undo(self, doomed: Sequence[Undo], deadline: Deadline, *, hurry: bool) -> tuple[int, dict[str, Leftover]]:
        """(how many were deleted, what is left by the id of its record)."""
        self.deadline = deadline
        known = {record.id: record for record in self._journal.records} if self._journal else {}
        doomed = [known.get(record.id, record) for record in doomed]  # with what was found to depend on them
        deleted = 0
        left = {record.id: leftover(record, "it was not reached in time", place=self._place) for record in doomed}
        try:
            for gone in self._cluster.undo(doomed, self, hurry=hurry):
                record = gone.record
                left.pop(record.id)
                if gone.why:
                    left[record.id] = _left_of(gone, self._place)
                    continue
                if self._journal:
                    self._journal.undone(record, stays=gone.stays)
                if gone.replaced:
                    self._emit(
                        "note", message=f"{address(record)} was replaced by something else meanwhile: it is left"
                    )
                if gone.found and not gone.stays:
                    deleted += 1
                    self._emit("object deleted", object=address(record))
        except RunnerError as error:
            left = {key: dataclasses.replace(item, why=error.message) for key, item in left.items()}
        return deleted, left

    def depends(self, record: Undo, more: Iterable[Dependent]) -> None:
        if self._journal:
            self._journal.depends(record, more)

    def execute(self, command: Command, *, check: bool = True) -> CommandResult:
        argv = list(command.argv)
        self._emit("command started", argv=argv, cwd="", step="cleanup")
        environment = {**self._cluster.environment, **command.env}
        result = shell.run(dataclasses.replace(command, env=environment), self.deadline)
        self._emit("command ended", argv=argv, code=result.code, seconds=round(result.seconds, 3), step="cleanup")
        return result

    def waiting(self, what: str, seconds: float = 0.0) -> None:
        if what == self._waiting and not seconds:
            return
        # Objects that go one after the other are not worth a line each; a live view shows them all the same.
        now = time.monotonic()
        glimpse = not seconds and now < self._said_at + _GLIMPSE
        self._waiting, self._said_at = what, self._said_at if glimpse else now
        again = {"seconds": seconds} if seconds else {}
        self._emit("cleanup waiting", level="debug" if glimpse else "", waiting_for=what, **again)


def told(left: Leftover) -> dict[str, str]:
    """The fields of the event `object left`."""
    return {"object": left.object, "why": left.why, "command": left.command, "hint": left.hint}


def address(record: Undo | Dependent) -> str:
    """An object for people: `pod/a (namespace demo)`."""
    return f"{record}" + (f" (namespace {record.namespace})" if record.namespace else "")


def leftover(
    record: Undo, why: str, rest: Sequence[Dependent] = (), place: Place | None = None, *, hopeless: bool = False
) -> Leftover:
    """What is left of a record: the object itself, or the `rest` of it."""
    name = address(rest[0]) if rest else address(record)
    more = f" and {len(rest) - 1} more of {record}" if len(rest) > 1 else ""
    return Leftover(name + more, why, removal(record, rest, place), hopeless)


def _left_of(gone: Gone, place: Place | None) -> Leftover:
    """With the hint: for a cluster that was named, kubectl must be told which; who may not needs another account."""
    left = leftover(gone.record, gone.why, gone.rest, place, hopeless=gone.hopeless)
    hint = gone.hint
    if gone.hopeless:
        hint = f"as an account that may do that: {removal(gone.record, gone.rest)}"
    elif place:
        hint = place.told(hint)
    return dataclasses.replace(left, hint=hint)


def removal(record: Undo, rest: Sequence[Dependent] = (), place: Place | None = None) -> str:
    """What a person types to remove what is left of a record, in the cluster at this place."""
    if record.engine == "podman":
        from runner.cluster import podman_dialect

        return str(podman_dialect.removal(record.kind, record.name))
    namespace = (f"--namespace={record.namespace}",) if record.namespace else ()
    flags = place.flags if place else ()
    return shell.quote(("kubectl", "delete", *map(str, rest or (record,)), *namespace, *flags))


def tidy(folder: Path, *, left: bool = False) -> None:
    """Remove what only a run that goes on needs: rendered files, and the pinned kubeconfig unless something is left to
    be removed with it; journal and events stay.
    """
    shutil.rmtree(folder / STEPS, ignore_errors=True)
    if not left:
        (folder / KUBECONFIG).unlink(missing_ok=True)
