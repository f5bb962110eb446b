"""Runs a workflow: the scope tree, order, `if`, attempts, deadlines, undo. Emits events, answers results.

After a failure the remaining steps whose `if` allows it run, then `on_failure`, then `finally`, then the cleanup of
what is ours. After a signal or the run's deadline only `finally` and the cleanup.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runner import confidential, masking, shell
from runner.cleanup import Pending, address
from runner.cluster.images import find_builder
from runner.cluster.protocol import Ref, name_suffix
from runner.deadline import Deadline
from runner.errors import MACHINE, Cancelled, CommandResult, Expired, RunnerError, StepFailed, TimedOut
from runner.expressions import EvaluationError
from runner.journal import STEPS, Journal, Undo
from runner.result import Failure, Status, StepResult, WorkflowResult
from runner.scope import Scope
from runner.shell import Command
from runner.steps import manifests
from runner.steps.bounds import wrong_namespace
from runner.steps.kind import Scene
from runner.workflow import Namespace, Step, Workflow, default_name, fill

if TYPE_CHECKING:
    from runner.cluster.images import Builder
    from runner.cluster.protocol import Cluster, Selection
    from runner.events import Events
    from runner.steps.kind import Forwarded

# From the first signal to the end of the process. CI systems kill 10 s after their first signal.
SIGNAL_BUDGET: Final = 7.0
SIGNAL_FINALLY: Final = 1.4
"""From the first signal to the end of `finally`, so that the first deletion is asked for within 2 s: some CI systems
kill soon after that. What collects logs of objects comes before their deletion, so it has to be quick.
"""
FINALLY_TIMEOUT: Final = 120.0
_ROOM: Final = "free some space, or name another folder with --state-dir"
# Longer than cleanup, the next workflows' and the watchdog's patience can take after a workflow's own time.
AFTERMATH: Final = 1200.0


@dataclass
class Run:
    """One invocation: what its workflows share."""

    id: str
    folder: Path
    events: Events
    journal: Journal
    cluster: Cluster | None = None
    keep: str = ""
    """Overrides the workflow's `keep` when set."""
    namespace: str = ""
    """Overrides the workflow's namespace when set."""
    timeout: float | None = None
    more: bool = False
    """Another workflow follows: namespaces may end meanwhile."""
    builder: Callable[[str], Builder] = find_builder
    """Finds the image builder of this machine; commands give one that remembers."""
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    """Of the undo records; no two of a run have the same."""
    signal: int = 0
    signalled_at: float = 0.0
    work: Deadline = field(default_factory=Deadline)
    """Steps run under this; the first signal cancels it."""
    cleanup: Deadline = field(default_factory=Deadline)
    """Cleanup waits under this; the second signal cancels it."""

    def interrupt(self, number: int, name: str) -> None:
        """Take a signal: the first ends the steps, the second the waiting of the cleanup. Any thread."""
        # First the deed, then the word: a log that nobody reads may block.
        if not self.signal:
            self.signal, self.signalled_at = number, time.monotonic()
            self.work.cancel(name)
            budget = f"ending the step and cleaning up for up to {SIGNAL_BUDGET:g} s; again: do not wait"
            self.events.emit("interrupted", signal=name, message=budget)
        else:
            self.cleanup.cancel(name)
            self.events.emit("interrupted", signal=name, message="not waiting for deletions; again: leave at once")

    def left_for_finally(self) -> float:
        return max(0.0, self.signalled_at + SIGNAL_FINALLY - time.monotonic())

    def left_after_signal(self) -> float:
        return max(1.0, self.signalled_at + SIGNAL_BUDGET - time.monotonic())


def run_workflow(workflow: Workflow, run: Run, values: Mapping[str, Any]) -> tuple[WorkflowResult, Pending]:
    """Run one workflow to its end, whatever happens, and start its cleanup; without another workflow to follow, also
    wait for that. A bug in a step is raised after the cleanup.
    """
    return _Execution(workflow, run, dict(values)).run()


class _Execution:
    """The state of one workflow while it runs."""

    def __init__(self, workflow: Workflow, run: Run, values: dict[str, Any]) -> None:
        self.workflow = workflow
        self.shared = run
        self.values = values
        self.results: list[StepResult] = []
        self.cause = ""
        self.bug: BaseException | None = None
        self.scope = Scope()
        self.namespace = run.namespace
        self.home = run.cluster.namespace if run.cluster else ""
        self.records: list[Undo] = []
        self.work = run.work.child(run.timeout or workflow.timeout)
        for step in workflow.all_steps:
            if step.id:
                values[f"steps.{step.id}.outcome"] = Status.SKIPPED.value

    @property
    def cancelled(self) -> bool:
        return self.work.ended

    @property
    def failed(self) -> bool:
        return self.scope.failed is not None

    def emit(self, event: str, /, **fields: Any) -> None:
        self.shared.events.emit(event, workflow=self.workflow.name, **fields)

    def run(self) -> tuple[WorkflowResult, Pending]:
        started = time.monotonic()
        self.emit("workflow started", file=self.workflow.file, steps=len(self.workflow.all_steps))
        try:
            self._steps()
        finally:
            with self.work:
                self.scope.close()
                cleanup = self._clean_up()
                self._leave_namespace()
                if not self.shared.more:
                    cleanup.wait()
        if self.bug:
            raise self.bug
        seconds = time.monotonic() - started
        status = self._status()
        self.emit("workflow ended", status=status.value, seconds=round(seconds, 3))
        result = WorkflowResult(
            name=self.workflow.name,
            file=self.workflow.file,
            status=status,
            seconds=seconds,
            steps=tuple(self.results),
            cause=self.cause,
            namespace=self.namespace,
        )
        return result, cleanup

    def _status(self) -> Status:
        if self.cause:
            return Status.CANCELLED
        return Status.FAILURE if self.failed else Status.SUCCESS

    def _steps(self) -> None:
        if self._prepare_namespace():
            for step in self.workflow.steps:
                self._step(step, self.work, self.scope)
        if self.cancelled:
            self.cause = self.work.reason or "deadline"
        if self.failed and not self.cause:
            for step in self.workflow.on_failure:
                self._step(step, self.work, self.scope)
        else:
            not_needed = (inner for step in self.workflow.on_failure for inner in step.walk())
            self.results += [_skipped(step, self._why_not_on_failure()) for step in not_needed]
        # `finally` has time of its own: the run's may be over. A signal, also one that comes now, leaves little of it.
        with (
            Deadline(FINALLY_TIMEOUT, self.shared.cleanup) as reserve,
            self.shared.work.closing(lambda: _cancel_in(self.shared.left_for_finally(), reserve)),
        ):
            for step in self.workflow.finally_:
                self._step(step, reserve, self.scope)

    def _why_not_on_failure(self) -> str:
        return f"the run is over: {self.cause}" if self.cause else "nothing failed"

    # -- the namespace ------------------------------------------------------------------------------------------

    def _prepare_namespace(self) -> bool:
        """Make or choose the workflow's namespace; False when that failed."""
        cluster = self.shared.cluster
        if cluster is None:
            return True
        wanted = self.workflow.namespace
        try:
            name, prefix = (str(fill(value, self.values) or "") for value in (wanted.name, wanted.generate))
            if wrong := wrong_namespace(name) or wrong_namespace(f"{prefix}x" if prefix else ""):
                self._namespace_failed(StepFailed(wrong), 0.0)
                return False
        except EvaluationError as error:
            self._namespace_failed(StepFailed(f"the namespace has no value: {error.message}"), 0.0)
            return False
        if self.shared.namespace:
            wanted, name, prefix = Namespace(), self.shared.namespace, ""
        name = prefix + name_suffix() if prefix else name
        started = time.monotonic()
        if name:
            try:
                self._enter_namespace(cluster, str(name), make=bool(prefix), create=wanted.create)
            except RunnerError as error:
                self._namespace_failed(error, time.monotonic() - started)
                return False
        self.namespace = cluster.namespace
        self.values["run.namespace"] = self.namespace
        return True

    def _leave_namespace(self) -> None:
        """The next workflow begins in the context's own again."""
        cluster = self.shared.cluster
        if cluster and cluster.namespace != self.home:
            cluster.use_namespace(self.home)

    def _enter_namespace(self, cluster: Cluster, name: str, *, make: bool, create: bool) -> None:
        with self.work.child(60) as deadline:
            context = StepContext(self, None, deadline, path="namespace")
            exists = False if make else _namespace_exists(cluster, name, deadline)
            if make or (create and not exists):
                cluster.make_namespace(name, context)
            elif not exists:
                raise StepFailed(
                    f"the namespace {name} does not exist",
                    hint=f"kubectl create namespace {name}"
                    + ("" if self.shared.namespace else f"; or let the run do it: {{name: {name}, create: true}}"),
                    reason="NotFound",
                )
        cluster.use_namespace(name)

    def _namespace_failed(self, error: RunnerError, seconds: float) -> None:
        if isinstance(error, Cancelled) or self.cancelled:
            return
        failure = Failure(error.message, error.hint, getattr(error, "reason", ""), place=self.workflow.file)
        result = StepResult(
            "namespace", "namespace", "namespace", "steps", 0, Status.FAILURE, seconds, 1, failure=failure
        )
        self.results.append(result)
        self.scope.failed = result
        self.emit(
            "step failed", step="namespace", name="namespace", kind="namespace", message=error.message, hint=error.hint
        )

    # -- one step -----------------------------------------------------------------------------------------------

    def _step(self, step: Step, limit: Deadline, scope: Scope) -> None:
        if limit.ended and (step.depth or step.section != "finally"):
            self._skip(step, "the run was ended", Status.CANCELLED)
            return
        try:
            because = self._skip_reason(step, scope)
        except EvaluationError as error:
            self._fail_condition(step, error, scope)
            return
        if because:
            self._skip(step, because, Status.SKIPPED)
            return
        place = len(self.results)  # before those of the steps inside it
        result = self._perform(step, limit, scope)
        self._finish(step, result, scope, place)

    def _skip(self, step: Step, because: str, status: Status) -> None:
        for one in step.walk():
            result = _skipped(one, because, status)
            self.results.append(result)
            self.emit("step skipped", step=one.path, name=result.name, kind=one.kind.NAME, because=because)

    def _fail_condition(self, step: Step, error: EvaluationError, scope: Scope) -> None:
        failure = StepFailed(f"`if` has no value: {error.message}", reason="expression")
        context = StepContext(self, step, self.work, path=step.path)
        result = self._result(step, str(step.name), context, failure, 0.0, 0, {})
        self._finish(step, result, scope, len(self.results))

    def nest(self, steps: Sequence[Step], limit: Deadline, around: Scope) -> None:
        """Run steps that stand inside of another, in a scope of their own. Raises `StepFailed` when one failed."""
        scope = Scope(around)
        try:
            for step in steps:
                self._step(step, limit, scope)
        finally:
            scope.close()
        if failed := scope.failed:
            message = failed.failure.message.partition("\n")[0] if failed.failure else ""
            raise StepFailed(f'the step "{failed.name}" inside it failed: {message}', reason="nested")
        limit.check()

    def _skip_reason(self, step: Step, scope: Scope) -> str:
        """Why a step does not run, or an empty string."""
        status = {
            "success": not scope.failed and not self.cancelled,
            "failure": scope.failed is not None,
            "always": True,
            "cancelled": self.cancelled,
        }
        condition = step.condition
        chained = step.depth or step.section == "steps"
        if chained and not (condition and condition.asks_status) and not status["success"]:
            return "an earlier step failed"
        if condition is None or condition.evaluate(self.values, status) is True:
            return ""
        return f"if: {condition.source} is false"

    def _perform(self, step: Step, limit: Deadline, scope: Scope) -> StepResult:
        """All attempts of one step."""
        name = self._name(step)
        self.emit("step started", step=step.path, name=name, kind=step.kind.NAME, line=step.line, hash=step.definition)
        started = time.monotonic()
        pause = step.retry.interval
        attempt = 0
        outputs: dict[str, Any] = {}
        error: BaseException | None = None
        with limit.child(step.timeout) as deadline:
            context = StepContext(self, step, deadline, path=step.path, scope=scope)
            while True:
                attempt += 1
                outputs, error = self._attempt(step, context)
                if error is None or not self._again(step, attempt, error, deadline):
                    break
                self.emit("step retried", step=step.path, attempt=attempt, reason=str(error), seconds=pause)
                try:
                    deadline.pause(pause)
                except RunnerError:
                    break
                pause *= step.retry.backoff
        for inner in context.not_run():
            self._skip(inner, "the step around it did not get to it", Status.SKIPPED)
        return self._result(step, name, context, error, time.monotonic() - started, attempt, outputs)

    def _name(self, step: Step) -> str:
        """For people: with values where the file has expressions."""
        try:
            if isinstance(step.name, str) and "${{" in step.name:  # the default, made of the arguments as written
                return default_name(step.kind, fill(step.template, self.values))
            return str(fill(step.name, self.values))
        except EvaluationError:
            return step.path

    def _attempt(self, step: Step, context: StepContext) -> tuple[dict[str, Any], BaseException | None]:
        try:
            context.prepare()
            return step.kind.run(step.render(self.values), context), None
        except RunnerError as error:
            return {}, error
        except OSError as error:
            if error.errno not in MACHINE:
                self.bug = error
            return {}, StepFailed(f"this machine refuses: {error}", hint=_ROOM, reason="machine")
        except Exception as error:  # noqa: BLE001 - a bug: clean up first, then tell
            self.bug = error
            return {}, StepFailed(f"bug in the kind {step.kind.NAME}: {type(error).__name__}: {error}", reason="bug")

    def _again(self, step: Step, attempt: int, error: BaseException, deadline: Deadline) -> bool:
        if (
            step.kind.RETRY != "repeat"
            or attempt >= step.retry.attempts
            or deadline.ended
            or self.bug
            or isinstance(error, Cancelled)
        ):
            return False
        if step.retry.fail_if is None:
            return True
        try:
            return step.retry.fail_if.evaluate({**self.values, "error": _facts(error)}) is not True
        except EvaluationError:
            return True

    def _result(
        self,
        step: Step,
        name: str,
        context: StepContext,
        error: BaseException | None,
        seconds: float,
        attempts: int,
        outputs: dict[str, Any],
    ) -> StepResult:
        status = Status.SUCCESS
        failure = None
        if error is not None:
            ended_by_run = isinstance(error, Cancelled) or (self.work.ended and step.section != "finally")
            status = Status.CANCELLED if ended_by_run else Status.FAILURE
            failure = context.failure(error, step, self.workflow.file)
        return StepResult(
            path=step.path,
            name=name,
            kind=step.kind.NAME,
            section=step.section,
            line=step.line,
            status=status,
            seconds=seconds,
            attempts=attempts,
            depth=step.depth,
            id=step.id,
            outputs=outputs,
            failure=failure,
            tolerated=status is Status.FAILURE and step.continue_on_error,
            commands=tuple(context.commands),
            shown=context.shown,
        )

    def _finish(self, step: Step, result: StepResult, scope: Scope, place: int) -> None:
        self.results.insert(place, result)
        if step.id:
            self.values[f"steps.{step.id}.outcome"] = result.status.value
            self.values |= {f"steps.{step.id}.outputs.{key}": value for key, value in result.outputs.items()}
        common = {"step": step.path, "name": result.name, "kind": result.kind, "seconds": round(result.seconds, 3)}
        failure = result.failure
        if result.status is Status.SUCCESS:
            self.emit("step passed", **common, attempts=result.attempts, outputs=result.outputs)
        elif result.status is Status.CANCELLED:
            self.emit("step cancelled", **common, because=self.work.reason or "the run's deadline")
        elif failure:
            if not result.tolerated:
                scope.failed = scope.failed or result
            self.emit(
                "step failed",
                **common,
                reason=failure.reason,
                message=failure.message,
                hint=failure.hint,
                details=failure.details,
                objects=list(failure.objects),
                place=failure.place,
                tolerated=result.tolerated,
            )

    @property
    def policy(self) -> str:
        return self.shared.keep or self.workflow.keep

    def _clean_up(self) -> Pending:
        keep_all = self.policy == "always" or (self.policy == "on_failure" and (self.failed or bool(self.cause)))
        return Pending(self.shared, self.records, self.emit, keep_all=keep_all)


def _cancel_in(seconds: float, deadline: Deadline) -> None:
    timer = threading.Timer(seconds, deadline.cancel, ("its time after a signal is over",))
    timer.daemon = True
    timer.start()


def _skipped(step: Step, because: str, status: Status = Status.SKIPPED) -> StepResult:
    return StepResult(
        path=step.path,
        name=step.name if isinstance(step.name, str) else step.path,
        kind=step.kind.NAME,
        section=step.section,
        line=step.line,
        status=status,
        depth=step.depth,
        id=step.id,
        skipped_because=because,
    )


def _facts(error: BaseException) -> dict[str, Any]:
    """What `retry.fail_if` sees as `error`."""
    result = getattr(error, "result", None)
    return {
        "message": str(error),
        "reason": getattr(error, "reason", ""),
        "code": result.code if result else 0,
        "output": (result.stdout + result.stderr) if result else "",
    }


class StepContext:
    """What a running step is given: `steps.kind.Context`, and the `Hand` of clusters."""

    def __init__(
        self,
        execution: _Execution,
        step: Step | None,
        deadline: Deadline,
        *,
        path: str,
        scope: Scope | None = None,
    ) -> None:
        run, workflow = execution.shared, execution.workflow
        self._execution = execution
        self._step = step
        self._scope = scope or execution.scope
        self._begun: set[str] = set()
        self.deadline = deadline
        self.path = path
        self.run_id = run.id
        kept = bool(step and step.keep) or execution.policy == "always"
        self.allowed = workflow.allowed
        self.lifetime = 0.0 if kept else (run.timeout or workflow.timeout) + AFTERMATH
        self._folder = run.folder / STEPS / f"{workflow.name}.{path}".replace("/", "_")
        self.workflow_folder = workflow.folder
        self.namespace = ""
        self.commands: list[str] = []
        self.shown = ""
        self._env: dict[str, str | None] = {}
        self._waiting = ""

    def prepare(self) -> None:
        """What is evaluated just before the step: its namespace and environment. Raises `StepFailed`."""
        step, values = self._step, self._execution.values
        if step is None:
            return
        try:
            self.namespace = str(fill(step.namespace, values) or "")
            self._env = {key: _env_text(fill(value, values)) for key, value in step.env.items()}
            masking.hide(confidential.of_variables(self._env))
        except EvaluationError as error:
            raise StepFailed(
                f"the expression {error.source} has no value: {error.message}", reason="expression"
            ) from None
        if wrong := wrong_namespace(self.namespace):
            raise StepFailed(wrong, reason="expression")
        if not self.namespace and self._execution.shared.cluster:
            self.namespace = self.cluster.namespace

    @property
    def folder(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder

    @property
    def cluster(self) -> Cluster:
        cluster = self._execution.shared.cluster
        if cluster is None:
            raise StepFailed("this step needs a cluster, and the run has none", reason="cluster")
        return cluster

    @property
    def scene(self) -> Scene:
        from runner.cluster.kubectl import KubectlDialect

        cluster = self._execution.shared.cluster
        return Scene(
            dialect=cluster.dialect if cluster else KubectlDialect(),
            # The run's own is the default of the pinned kubeconfig: no flag, as in a plan.
            namespace="" if cluster and self.namespace == cluster.namespace else self.namespace,
            folder=self.workflow_folder,
            timeout=self._step.timeout if self._step else 60.0,
            patience=self._step.patience if self._step else 60.0,
            builder=self._execution.shared.builder,
            root=self._execution.workflow.root,
        )

    def execute(self, command: Command, *, check: bool = True) -> CommandResult:
        cluster = self._execution.shared.cluster
        # Without a cluster of the run there is none for its children either: nobody proved that one may be touched.
        env = {**(cluster.environment if cluster else {"KUBECONFIG": os.devnull}), **self._env, **command.env}
        cwd = command.cwd or None
        self.commands.append(str(command))
        self.emit("command started", argv=list(command.argv), cwd=str(cwd or ""))
        result = shell.run(Command(command.argv, command.stdin, env, cwd), self.deadline, self._on_line)
        self.emit("command ended", argv=list(command.argv), code=result.code, seconds=round(result.seconds, 3))
        if check and result.code != 0:
            raise StepFailed(_why_failed(result), reason="exit_code", result=result)
        return result

    def _on_line(self, stream: str, line: str) -> None:
        show = bool(self._step and self._step.show)
        if show:
            self.shown += line + "\n"
        self.emit("command output", level="info" if show else "debug", stream=stream, line=line)

    def observed(self, equivalent: str) -> None:
        self.commands.append(equivalent)
        self.emit("observation", equivalent=equivalent)

    def waiting(self, what: str) -> None:
        if what != self._waiting:
            self._waiting = what
            self.emit("step waiting", waiting_for=what)

    def warn(self, message: str, *, hint: str = "") -> None:
        self.emit("warning", message=message, hint=hint)

    def note(self, message: str) -> None:
        self.emit("note", message=message)

    def show(self, text: str) -> None:
        self.shown += f"{text}\n"
        self.note(text)

    def emit(self, event: str, /, **fields: Any) -> None:
        self._execution.emit(event, step=self.path, **fields)

    def intend(self, ref: Ref) -> Undo:
        execution = self._execution
        record = Undo(
            id=f"{self.run_id}/{next(execution.shared.numbers)}",
            engine=self.cluster.engine,
            api_version=ref.api_version,
            kind=ref.kind,
            name=ref.name,
            namespace=ref.namespace,
            scope=f"{execution.workflow.name}:{self.path}",
            keep=not self.lifetime,
            spare=execution.policy == "on_failure",
        )
        execution.shared.journal.intend(record)
        execution.records.append(record)
        return record

    def made(self, record: Undo, uid: str) -> None:
        self._execution.shared.journal.made(record, uid)
        self.emit("object created", object=address(record), uid=uid)

    def unmade(self, record: Undo) -> None:
        self._execution.shared.journal.undone(record)

    def deleted(self, ref: Ref) -> None:
        for record in self._execution.shared.journal.records:
            same = (record.kind, record.name, record.namespace) == (ref.kind, ref.name, ref.namespace)
            if same and _group(record.api_version) == _group(ref.api_version):
                self._execution.shared.journal.undone(record)

    def close_later(self, close: Callable[[], None]) -> None:
        self._scope.close_later(close)

    def bind(self, host: str, port: int, target: Selection, target_port: str) -> None:
        self._scope.bind(host, port, target, target_port)

    def forwarded(self, host: str, port: int) -> Forwarded | None:
        return self._scope.forwarded(host, port)

    @property
    def attempts(self) -> int:
        return self._step.retry.attempts if self._step else 0

    def run_steps(self, key: str) -> None:
        assert self._step is not None  # noqa: S101 - only kinds call this
        self._begun.add(key)
        self._execution.nest(self._step.nested[key], self.deadline, self._scope)

    def not_run(self) -> Iterator[Step]:
        """The steps inside this one that it did not run."""
        for key, steps in self._step.nested.items() if self._step else ():
            if key not in self._begun:
                yield from steps

    def evaluate(self, key: str, **variables: Any) -> Any:
        assert self._step is not None  # noqa: S101 - only kinds call this
        return self._step.expressions[key].evaluate({**self._execution.values, **variables})

    def failure(self, error: BaseException, step: Step, file: str) -> Failure:
        """The record of a failure, with its place in the file."""
        message = str(getattr(error, "message", "") or error)
        hint = getattr(error, "hint", "")
        if isinstance(error, Expired) and self._waiting:
            message = f"timed out after {step.timeout:g} s, waiting for {self._waiting}"
        cluster = self._execution.shared.cluster
        if isinstance(error, TimedOut) and error.reason == "timeout" and cluster and (trouble := cluster.trouble()):
            message, hint = f"{message}: {trouble.message}", trouble.hint
        result: CommandResult | None = getattr(error, "result", None)
        return Failure(
            message=message,
            hint=hint,
            reason=getattr(error, "reason", ""),
            details=getattr(error, "details", ""),
            command=shell.quote(result.argv) if result else "",
            code=result.code if result else None,
            output=_both(result) if result else "",
            place=f"{file}:{step.line}:{step.column}",
            source=step.source,
            objects=tuple(getattr(error, "objects", ())),
        )


def _group(api_version: str) -> str:
    """`apps` of `apps/v1`; a Service of Knative is none of Kubernetes."""
    return api_version.rpartition("/")[0]


def _env_text(value: Any) -> str:
    from runner.expressions import text

    return text(value)


def _both(result: CommandResult) -> str:
    parts = [part if part.endswith("\n") else f"{part}\n" for part in (result.stdout, result.stderr) if part]
    return "".join(parts)


def _why_failed(result: CommandResult) -> str:
    """The tool's own last words, without klog noise, after what was run."""
    lines = [line for line in result.stderr.strip().splitlines() if line.strip() and "memcache.go" not in line]
    words = next(
        (line for line in reversed(lines) if line.lower().startswith(("error", "the "))), lines[-1] if lines else ""
    )
    program = " ".join(result.argv[:2])
    ended = f"was ended by signal {-result.code}" if result.code < 0 else f"ended with exit code {result.code}"
    return f"{program} {ended}" + (f": {words.strip()}" if words else "")


def _namespace_exists(cluster: Cluster, name: str, deadline: Deadline) -> bool:
    try:
        return cluster.get(Ref("Namespace", name), deadline) is not None
    except StepFailed as error:
        if error.reason == "Forbidden":  # an account of one namespace may not look at that itself; the steps will tell
            return True
        raise


def preflight(workflow: Workflow, run: Run) -> Iterator[str]:
    """What must be known before anything is created: busy ports (raises), and what the engine says of the manifests
    (warnings are answered, errors are raised).
    """
    for step in workflow.all_steps:
        for host, port in step.kind.fixed_ports(step.template):
            from runner.cluster.relay import check_free

            check_free(host, port)
    if run.cluster is None:
        return
    applies = [step for step in workflow.all_steps if step.kind.NAME == "apply"]
    objects = [item for step in applies for item in manifests.known(step.template, workflow.folder)]
    warnings, errors = run.cluster.check(objects)
    errors += [words for step in applies for words in _unable(step, workflow, run.cluster)]
    if errors:
        raise StepFailed("\n".join(errors), reason="engine")
    yield from warnings


def _unable(step: Step, workflow: Workflow, cluster: Cluster) -> Iterator[str]:
    """What this engine, or this machine, cannot do for an `apply`."""
    place = f"{workflow.file}:{step.line}"
    if step.template.get("server_side") is True and cluster.engine == "podman":
        yield f"{place}: podman has no server-side apply: leave out `server_side`"
    if step.template.get("kustomize") and not shell.find("kubectl"):
        yield f"{place}: kubectl renders kustomizations, and is not installed"
