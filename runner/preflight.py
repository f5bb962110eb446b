"""What a run must know before it makes anything: a missing namespace, a busy port, what its engine cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from runner import shell
from runner.cluster.protocol import Ref
from runner.errors import CannotStart, StepFailed
from runner.expressions import EvaluationError
from runner.steps import clusterless, manifests
from runner.steps.bounds import wrong_namespace
from runner.workflow import Workflow, fill

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster
    from runner.deadline import Deadline
    from runner.invocation import Run
    from runner.workflow import Step

_LOOK_SECONDS: Final = 10.0


def namespace_exists(cluster: Cluster, name: str, deadline: Deadline) -> bool:
    """Whether it does, as far as this account may know."""
    try:
        return cluster.get(Ref("Namespace", name), deadline) is not None
    except StepFailed as error:
        if error.reason == "Forbidden":  # an account of one namespace may not look at that itself; the steps will tell
            return True
        raise


def no_namespace(name: str, run: Run) -> tuple[str, str]:
    """Of one that does not exist: (the sentence, what to type)."""
    make = "" if run.namespace else f"; or let the run do it: {{name: {name}, create: true}}"
    return f"the namespace {name} does not exist", f"kubectl create namespace {name}{make}"


def need_namespace(workflow: Workflow, run: Run, values: Mapping[str, Any]) -> None:
    """Before anything is made: raise `CannotStart` when the namespace of the first workflow is not there, and the run
    does not make it. What cannot be found out now, its steps will tell.
    """
    if run.cluster is None:
        return
    wanted = workflow.namespace
    with suppress(EvaluationError, StepFailed), run.work.child(_LOOK_SECONDS) as deadline:
        name = run.namespace or ("" if wanted.create else str(fill(wanted.name, values) or ""))
        if name and not wrong_namespace(name) and not namespace_exists(run.cluster, name, deadline):
            message, hint = no_namespace(name, run)
            raise CannotStart(message, hint=hint)


def warnings(workflow: Workflow, run: Run) -> Iterator[str]:
    """What must be known before anything is created: busy ports, what the engine says of the manifests, and commands
    that ask a cluster where there is none. Warnings are answered; what cannot work raises `CannotStart`.
    """
    for step in workflow.all_steps:
        for host, port in step.kind.fixed_ports(step.template):
            from runner.cluster.relay import check_free

            check_free(host, port)
    cluster = run.cluster
    doubtful, errors = _unanswered(workflow) if cluster is None or cluster.engine == "podman" else ([], [])
    if cluster:
        applies = [step for step in workflow.all_steps if step.kind.NAME == "apply"]
        ignored, impossible = cluster.check(
            [item for step in applies for item in manifests.known(step.template, workflow.folder)]
        )
        doubtful = [*_no_namespaces(workflow, run, cluster), *ignored, *doubtful]
        errors = [*impossible, *(words for step in applies for words in _unable(step, workflow, cluster)), *errors]
    if errors:
        raise CannotStart("\n".join(errors))
    yield from doubtful


def _no_namespaces(workflow: Workflow, run: Run, cluster: Cluster) -> Iterator[str]:
    """What asks for a namespace, on podman."""
    if cluster.engine != "podman":
        return
    wanted = workflow.namespace
    places = [f"--namespace {run.namespace}"] if run.namespace else []
    places += [f"{workflow.file}: `namespace`"] if wanted.name or wanted.generate else []
    places += [f"{workflow.file}:{step.line}: `namespace`" for step in workflow.all_steps if step.namespace]
    for place in places:
        yield f"{place} is ignored: podman has no namespaces, and `run.namespace` is {cluster.namespace}"


def _unanswered(workflow: Workflow) -> tuple[list[str], list[str]]:
    """The steps that ask a cluster, where there is none: (those that may fail, those that fail for certain)."""
    doubtful: list[str] = []
    errors: list[str] = []
    for step, harmless in _unconditional(workflow):
        found = clusterless.question(step.template, step.env) if step.kind.NAME == "run" else None
        if found:
            name = step.name if isinstance(step.name, str) else step.path
            words = (
                f'{workflow.file}:{step.line}: the step "{name}" runs `{found.command}`, and this run has no cluster'
                ' that could answer: to skip the step in such a run, write `if: run.engine == "kubectl"`'
            )
            (errors if found.certain and not harmless else doubtful).append(words)
    return doubtful, errors


def _unconditional(workflow: Workflow) -> Iterator[tuple[Step, bool]]:
    """The steps without `if`, on themselves and around them, and whether the run may pass although they fail."""

    def walk(steps: Sequence[Step], harmless: bool) -> Iterator[tuple[Step, bool]]:
        for step in steps:
            if step.condition is None:
                spared = harmless or step.continue_on_error
                yield step, spared
                for inner in step.nested.values():
                    yield from walk(inner, spared)

    yield from walk((*workflow.steps, *workflow.finally_), harmless=False)
    yield from walk(workflow.on_failure, harmless=True)


def _unable(step: Step, workflow: Workflow, cluster: Cluster) -> Iterator[str]:
    """What this engine, or this machine, cannot do for an `apply`."""
    place = f"{workflow.file}:{step.line}"
    if step.template.get("server_side") is True and cluster.engine == "podman":
        yield f"{place}: podman has no server-side apply: leave out `server_side`"
    if step.template.get("kustomize") and not shell.find("kubectl"):
        yield f"{place}: kubectl renders kustomizations, and is not installed"
