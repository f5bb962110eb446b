"""Undoing what a run made, at the end of a workflow: calmly, and after a signal in a hurry."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from runner import shell
from runner.errors import CommandResult, RunnerError
from runner.result import Cleanup, Leftover
from runner.shell import Command

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster
    from runner.deadline import Deadline
    from runner.engine import Run
    from runner.journal import Journal, Undo

CLEANUP_TIMEOUT: Final = 120.0

Emit = Callable[..., None]


def clean_up(run: Run, records: Sequence[Undo], emit: Emit, *, keep_all: bool) -> Cleanup:
    """Undo what a workflow made and may not keep; `records` are its own, also those that are undone already."""
    open_ = {record.id: record for record in run.journal.records}
    mine = [open_[record.id] for record in records if record.id in open_]
    kept = [record for record in mine if keep_all or record.keep]
    doomed = [record for record in mine if record not in kept]
    names = tuple(map(address, kept))
    if run.cluster is None or not doomed:
        return Cleanup(kept=names)
    started = time.monotonic()
    emit("cleanup started", objects=len(doomed))
    deleted, left = _undo(run, Remover(run.cluster, run.journal, run.id, emit), doomed)
    for leftover in left.values():
        emit("object left", object=leftover.object, why=leftover.why, command=leftover.command)
    seconds = time.monotonic() - started
    emit("cleanup ended", deleted=deleted, left=len(left), kept=len(kept), seconds=round(seconds, 3))
    return Cleanup(deleted, names, tuple(left.values()), seconds)


def _undo(run: Run, remover: Remover, doomed: list[Undo]) -> tuple[int, dict[str, Leftover]]:
    """Delete these: calmly, and what is not gone when a signal comes in a hurry."""
    deleted = 0
    left: dict[str, Leftover] = {}
    if not run.signal:
        with (
            run.cleanup.child(CLEANUP_TIMEOUT) as deadline,
            run.work.closing(lambda: deadline.cancel("hurry")),
        ):
            deleted, left = remover.undo(doomed, deadline, hurry=False)
        doomed = [record for record in doomed if record.id in left]
    if run.signal and doomed:
        with run.cleanup.child(run.left_after_signal()) as deadline:
            more, left = remover.undo(doomed, deadline, hurry=True)
        deleted += more
    return deleted, left


class Remover:
    """Removes the objects of undo records, and writes down what is gone. It is the hand of the cluster meanwhile."""

    def __init__(self, cluster: Cluster, journal: Journal, run_id: str, emit: Emit) -> None:
        self.run_id = run_id
        self.deadline: Deadline
        self._cluster = cluster
        self._journal = journal
        self._emit = emit
        self._waiting = ""

    def undo(self, doomed: Sequence[Undo], deadline: Deadline, *, hurry: bool) -> tuple[int, dict[str, Leftover]]:
        """(how many were deleted, what is left by the id of its record)."""
        self.deadline = deadline
        deleted = 0
        left = {record.id: Leftover(address(record), "not reached", removal(record)) for record in doomed}
        try:
            for gone in self._cluster.undo(doomed, self, hurry=hurry):
                record = gone.record
                left.pop(record.id)
                if gone.why:
                    left[record.id] = Leftover(address(record), gone.why, removal(record))
                else:
                    deleted += 1
                    self._journal.undone(record)
                    self._emit("object deleted", object=address(record))
        except RunnerError as error:
            left = {key: Leftover(item.object, error.message, item.command) for key, item in left.items()}
        return deleted, left

    def execute(self, command: Command, *, check: bool = True) -> CommandResult:
        argv = list(command.argv)
        self._emit("command started", argv=argv, cwd="", step="cleanup")
        environment = {**self._cluster.environment, **command.env}
        result = shell.run(Command(command.argv, command.stdin, environment), self.deadline)
        self._emit("command ended", argv=argv, code=result.code, seconds=round(result.seconds, 3), step="cleanup")
        return result

    def waiting(self, what: str) -> None:
        if what != self._waiting:
            self._waiting = what
            self._emit("cleanup waiting", waiting_for=what)


def address(record: Undo) -> str:
    """An object for people: `pod/a (namespace demo)`."""
    return f"{record}" + (f" (namespace {record.namespace})" if record.namespace else "")


def removal(record: Undo) -> str:
    """What a person types to remove an object that is left."""
    if record.engine == "podman":
        from runner.cluster import podman_dialect

        return str(podman_dialect.removal(record.kind, record.name))
    place = f" --namespace={record.namespace}" if record.namespace else ""
    return f"kubectl delete {record}{place}"
