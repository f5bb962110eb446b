"""Runs a workflow: the scope tree, order, `if`, attempts, deadlines, undo. Emits events, answers results.

After a failure the remaining steps whose `if` allows it run, then `on_failure`, then `finally`, then the cleanup of
what is ours. After a signal or the run's deadline only `finally` and the cleanup.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from runner import preflight
from runner.cleanup import Pending
from runner.cluster.protocol import name_suffix
from runner.context import StepContext
from runner.deadline import Deadline
from runner.errors import MACHINE, Cancelled, RunnerError, StepFailed
from runner.expressions import EvaluationError
from runner.invocation import Budget, Run
from runner.journal import Undo
from runner.result import Failure, Status, StepResult, WorkflowResult
from runner.scope import Scope
from runner.steps.bounds import wrong_namespace
from runner.workflow import Namespace, Step, Workflow, default_name, fill

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster


def run_workflow(workflow: Workflow, run: Run, values: Mapping[str, Any]) -> tuple[WorkflowResult, Pending]:
    """Run one workflow to its end, whatever happens, and start its cleanup; without another workflow to follow, also
    wait for that. A bug in a step is raised after the cleanup.
    """
    return Execution(workflow, run, dict(values)).run()


class Execution:
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
        self.budget = run.budget = Budget(run.timeout or workflow.timeout)
        self.work = run.work.child(self.budget.for_steps)
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
            self._tell_of_deadline()
        if self.failed and not self.cause:
            for step in self.workflow.on_failure:
                self._step(step, self.work, self.scope)
        else:
            not_needed = (inner for step in self.workflow.on_failure for inner in step.walk())
            self.results += [_skipped(step, self._why_not_on_failure()) for step in not_needed]
        # `finally` has time of its own: the steps' may be over. A signal, also one that comes now, leaves little of it.
        with (
            Deadline(self.budget.for_finally(), self.shared.cleanup) as reserve,
            self.shared.work.closing(partial(self.shared.hasten_finally, reserve)),
        ):
            for step in self.workflow.finally_:
                self._step(step, reserve, self.scope)

    def _tell_of_deadline(self) -> None:
        if self.cause == "deadline":
            budget = self.budget
            whole, kept = f"{budget.total:g} s", f"{budget.reserve:g} s"
            message = f"the workflow's timeout is {whole}: the last {kept} of it are for `finally` and the cleanup"
            self.emit("deadline reached", message=message)

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
            exists = False if make else preflight.namespace_exists(cluster, name, deadline)
            if make or (create and not exists):
                cluster.make_namespace(name, context)
            elif not exists:
                message, hint = preflight.no_namespace(name, self.shared)
                raise StepFailed(message, hint=hint, reason="NotFound")
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
            hint = f"free some space (the run folder is {self.shared.folder}), or name another one with --state-dir"
            return {}, StepFailed(f"this machine refuses: {error}", hint=hint, reason="machine")
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
