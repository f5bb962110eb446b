"""The object of `--output json`: what a run came to, for programs.

Keys, always all of them and in this order (`schema` changes when one of them changes its meaning or goes away; new ones
may come, so ignore what you do not know):

- `schema`: 1.
- `run`: the run's id, the value of the label on everything that it made; empty when nothing was run.
- `status`: `success`, `failure`, `cancelled` (a signal, the deadline), `invalid` (see `problems`) or `error` (see
  `error`): the run could not start, or broke off. Of past runs (`runner runs`, `show` and `clean` with `-o json`) also
  `running`, `cleaning` (its watchdog removes what is left), `crashed` and `bug`; `unknown` of runs of other machines.
- `exit_code`: what the process answers.
- `seconds`: how long it took, as every duration in seconds, rounded to milliseconds.
- `engine`, `context`: how and where it ran: `kubectl` or `podman`; the context of the kubeconfig.
- `folder`: where everything about the run is kept.
- `signal`: the number of the signal that ended it, 0 for none; `deadline_exceeded`: whether its deadline did.
- `handover`: whether the watchdog goes on to remove what is left; `clean`: the command that removes it otherwise, empty
  when nothing is left.
- `error`, `hint`: why there was no run and what to do about it; empty when there was.
- `workflows`: one for each file, in the order in which they ran:
  - `name`, `file`, `namespace`; `status`: `success`, `failure`, `skipped` or `cancelled`; `seconds`.
  - `cause`: what ended it when no step did: `deadline`, `SIGINT`, a sentence.
  - `steps`: in the order in which they began; those inside of a step (`steps.web.throughout[0]`) follow it:
    - `path`: its stable address (`steps.web`, `steps[2]`); `id` (may be empty); `name`; `kind`.
    - `section`: `steps`, `on_failure` or `finally`; `line` in the file.
    - `status`: as `steps.<id>.outcome`; `tolerated`: failed, and `continue_on_error` let the run go on.
    - `seconds`; `attempts`; `skipped_because`: empty unless it was skipped.
    - `commands`: what it ran, as you would type it; `outputs`: as `steps.<id>.outputs`; `shown`: what it printed for
      people.
    - `failure`: null, or `message`, `hint`, `reason` (a stable word: `timeout`, `exit_code`), `place`
      (`file:line:column`), `source` (that line), `command`, `code` (null unless a command failed), `output`, `details`,
      and `objects`, what the cluster said about the objects that are not as they should be:
      - `object` (`pod/web`), `namespace`, `state` (its phase).
      - `conditions`: those that are not met: `type`, `status`, `reason`, `message`.
      - `events`: its warnings, the newest last: `reason`, `message`, `count` (how often), `last` (when).
      - `containers`: `name`, `init`, `image`, `state` (`waiting`, `running`, `terminated`), `reason`, `message`,
        `ready`, `restarts`, `exit_code` (null unless it has ended before), `exit_reason`; `log`, the last 20 lines of
        the container that is to blame, and `log_of_previous`: whether they are of its life before it crashed.
      - `alike`: how many more Pods of the same workload have the same trouble.
  - `cleanup`: `deleted` (how many objects), `kept` (their names), `left`: `object`, `why`, `command` (which removes
    it), `hint` (what to do where that alone does not help); `seconds`.
- `problems`: what is wrong with the files: `file`, `line` and `column` from 1 (0: the file as a whole), `width` (how
  many characters), `severity` (`error` or `warning`), `message`, `hint`, `source` (that line).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from runner.errors import ExitCode, Problem
from runner.reports.encode import as_json
from runner.result import Cleanup, Failure, Leftover, RunResult, StepResult, WorkflowResult

SCHEMA: Final = 1


def render(result: RunResult, exit_code: int | None = None) -> str:
    """The object as text, with a newline. `exit_code` is the process's, where it is another than the result's own."""
    return as_json(document(result, exit_code), indent=2) + "\n"


def render_problems(problems: Iterable[Problem]) -> str:
    """The same object where nothing was run: `validate --output json`."""
    return render(RunResult(run="", workflows=(), seconds=0.0, problems=tuple(problems)))


def document(result: RunResult, exit_code: int | None = None) -> dict[str, Any]:
    """The object as data."""
    code = _exit_code(result) if exit_code is None else exit_code
    return {
        "schema": SCHEMA,
        "run": result.run,
        "status": result.status,
        "exit_code": code,
        "seconds": _rounded(result.seconds),
        "engine": result.engine,
        "context": result.context,
        "folder": result.folder,
        "signal": result.signal,
        "deadline_exceeded": result.deadline_exceeded,
        "handover": result.handover,
        "clean": result.clean,
        "error": result.error,
        "hint": result.hint,
        "workflows": [_workflow(workflow) for workflow in result.workflows],
        "problems": [_problem(problem) for problem in result.problems],
    }


def _exit_code(result: RunResult) -> int:
    return int(ExitCode.USAGE if result.status == "invalid" else result.exit_code)


def _workflow(workflow: WorkflowResult) -> dict[str, Any]:
    return {
        "name": workflow.name,
        "file": workflow.file,
        "namespace": workflow.namespace,
        "status": str(workflow.status),
        "seconds": _rounded(workflow.seconds),
        "cause": workflow.cause,
        "steps": [_step(step) for step in workflow.steps],
        "cleanup": _cleanup(workflow.cleanup),
    }


def _step(step: StepResult) -> dict[str, Any]:
    return {
        "path": step.path,
        "id": step.id,
        "name": step.name,
        "kind": step.kind,
        "section": step.section,
        "line": step.line,
        "status": str(step.status),
        "tolerated": step.tolerated,
        "seconds": _rounded(step.seconds),
        "attempts": step.attempts,
        "skipped_because": step.skipped_because,
        "commands": list(step.commands),
        "outputs": step.outputs,
        "shown": step.shown,
        "failure": _failure(step.failure) if step.failure else None,
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "message": failure.message,
        "hint": failure.hint,
        "reason": failure.reason,
        "place": failure.place,
        "source": failure.source,
        "command": failure.command,
        "code": failure.code,
        "output": failure.output,
        "details": failure.details,
        "objects": [dict(item) for item in failure.objects],
    }


def _cleanup(cleanup: Cleanup) -> dict[str, Any]:
    return {
        "deleted": cleanup.deleted,
        "kept": list(cleanup.kept),
        "left": [_leftover(left) for left in cleanup.left],
        "seconds": _rounded(cleanup.seconds),
    }


def _leftover(left: Leftover) -> dict[str, Any]:
    return {"object": left.object, "why": left.why, "command": left.command, "hint": left.hint}


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "width": problem.width,
        "severity": problem.severity,
        "message": problem.message,
        "hint": problem.hint,
        "source": problem.source,
    }


def _rounded(seconds: float) -> float:
    return round(float(seconds), 3)
