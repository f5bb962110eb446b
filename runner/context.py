"""What a running step is given: `steps.kind.Context`, and the `Hand` of clusters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runner import confidential, masking, shell
from runner.cleanup import address
from runner.cluster.protocol import Ref, Selection
from runner.deadline import Deadline
from runner.errors import CommandResult, Expired, StepFailed, TimedOut
from runner.expressions import EvaluationError
from runner.invocation import AFTERMATH
from runner.journal import STEPS, Undo
from runner.result import Failure
from runner.scope import Scope
from runner.shell import Command
from runner.steps.bounds import wrong_namespace
from runner.steps.kind import Scene
from runner.workflow import Step, fill

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster
    from runner.engine import Execution
    from runner.steps.kind import Forwarded


_CONCEAL_SECONDS: Final = 10.0
# The records of Helm are Secrets of up to a megabyte each.
_NOT_OF_HELM: Final = "owner!=helm"


class StepContext:
    """Of one step, or (without one) of the run's namespace."""

    def __init__(
        self,
        execution: Execution,
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

    def conceal(self, namespaces: Iterable[str]) -> None:
        cluster = self._execution.shared.cluster
        if cluster is None or cluster.engine != "kubectl":
            return
        for namespace in (name or self.namespace for name in namespaces):
            try:
                with self.deadline.child(_CONCEAL_SECONDS) as deadline:
                    # Whatever reads a Secret masks its data.
                    next(cluster.watch(Selection("secret", selector=_NOT_OF_HELM, namespace=namespace), deadline))
            except StepFailed as error:
                unmasked = "so their data is not masked in what this command prints"
                message = f"the Secrets of the namespace {namespace} cannot be read, {unmasked}: {error.message}"
                self.warn(message, hint=error.hint)

    def execute(self, command: Command, *, check: bool = True, lent: bool = False) -> CommandResult:
        env = {**self._of_cluster(lent=lent), **self._env, **command.env}
        cwd = command.cwd or None
        self.commands.append(str(command))
        self.emit("command started", argv=list(command.argv), cwd=str(cwd or ""))
        result = shell.run(replace(command, env=env, cwd=cwd), self.deadline, self._on_line)
        self.emit("command ended", argv=list(command.argv), code=result.code, seconds=round(result.seconds, 3))
        if check and result.code != 0:
            raise StepFailed(_why_failed(result), reason="exit_code", result=result)
        return result

    def _of_cluster(self, *, lent: bool) -> Mapping[str, str | None]:
        cluster = self._execution.shared.cluster
        if cluster is None:  # then there is none for its children either: nobody proved that one may be touched
            return {"KUBECONFIG": os.devnull}
        return cluster.lend() if lent else cluster.environment

    def _on_line(self, stream: str, line: str) -> None:
        show = bool(self._step and self._step.show)
        if show:
            self.shown += line + "\n"
        self.emit("command output", level="info" if show else "debug", stream=stream, line=line)

    def observed(self, equivalent: str) -> None:
        self.commands.append(equivalent)
        self.emit("observation", equivalent=equivalent)

    def waiting(self, what: str, seconds: float = 0.0) -> None:
        if what != self._waiting or seconds:
            self._waiting = what
            self.emit("step waiting", waiting_for=what, **({"seconds": seconds} if seconds else {}))

    def warn(self, message: str, *, hint: str = "") -> None:
        self.emit("warning", message=message, hint=self._told(hint))

    def note(self, message: str) -> None:
        self.emit("note", message=message)

    def show(self, text: str) -> None:
        self.shown += f"{text}\n"
        self.note(text)

    def emit(self, event: str, /, **fields: Any) -> None:
        self._execution.emit(event, step=self.path, **fields)

    def intend(self, ref: Ref) -> Undo:
        execution = self._execution
        keep = not self.lifetime
        if keep and ref.namespace in {
            made.name for made in execution.records if made.kind == "Namespace" and not made.keep
        }:
            keep = False
            self.warn(
                f"{ref} cannot be kept: the run made its namespace {ref.namespace}, and deletes it",
                hint="name a namespace that is there, or keep all of a run with --keep",
            )
        record = Undo(
            id=f"{self.run_id}/{next(execution.shared.numbers)}",
            engine=self.cluster.engine,
            api_version=ref.api_version,
            kind=ref.kind,
            name=ref.name,
            namespace=ref.namespace,
            scope=f"{execution.workflow.name}:{self.path}",
            keep=keep,
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

    def forwards(self) -> dict[int, Forwarded]:
        return self._scope.forwards()

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

    def _told(self, hint: str) -> str:
        place = self._execution.shared.journal.place
        return place.told(hint) if place else hint

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
            hint=self._told(hint),
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
