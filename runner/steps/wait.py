"""Wait until objects are ready, complete, deleted, or whatever a condition says.

One deadline covers "does not exist yet" and "not ready yet". What can no longer succeed (a Job that failed, an image
that is not there) ends the wait at once, with the reason; a Deployment, StatefulSet, DaemonSet or Job is judged by
its Pods, too.

Ready is: a Pod with the condition Ready; a Deployment, StatefulSet, DaemonSet or ReplicaSet with all replicas up to
date and available; a Job that is complete; a PersistentVolumeClaim that is bound; a Service of type LoadBalancer with
an address; anything else with the condition Ready, Available or Established, or without conditions as soon as it
exists.

```yaml
- wait: pod/pythonapp
- wait: {target: job/migrate, until: complete}
  timeout: 5m
- wait: {target: {kind: pod, selector: app=web}, count: 3}
- wait: {target: deployment/web, that: object.status.availableReplicas >= 2}
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta

from runner.errors import Cancelled, Expired, StepFailed, TimedOut
from runner.steps import kind
from runner.steps.kind import Cel, Context, Fault, Files, Output, Scene, Target

if TYPE_CHECKING:
    from runner.cluster.protocol import Object, Selection
    from runner.cluster.readiness import Verdict

NAME: Final = "wait"
SHORT: Final = "target"
TIMEOUT: Final = "2m"
RETRY: Final = "none"
EXPRESSIONS: Final = {"that": ("object", "objects"), "fail_if": ("object", "objects")}
OUTPUTS: Final = {
    "object": Output("dyn", "The first object, as the cluster has it (`null` after `until: deleted`)."),
    "objects": Output("list", "All objects."),
}


class Args(kind.Args, frozen=True):
    """What to wait for."""

    target: Annotated[Target, Meta(description="The objects: `kind/name`, a list of them, or a map with a selector.")]
    until: Annotated[
        str,
        Meta(
            pattern=r"^(ready|complete|deleted|exists|condition=[A-Za-z0-9./-]+(=[A-Za-z0-9]+)?)$",
            description="`ready`, `complete`, `deleted`, `exists`, or `condition=NAME[=VALUE]` as kubectl has it.",
        ),
    ] = "ready"
    that: Annotated[Cel, Meta(description="A CEL expression over `object` instead of `until`.")] = ""
    fail_if: Annotated[
        Cel, Meta(description="A CEL expression over `object`: when it holds, the wait fails at once.")
    ] = ""
    count: Annotated[
        Literal["all", "any"] | Annotated[int, Meta(ge=1)],
        Meta(description="How many must reach it: all that exist (at least one), any one, or a number."),
    ] = "all"


needs_cluster = kind.always_cluster
wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
lasts = kind.no_time


def title(data: Mapping[str, Any]) -> str:
    return kind.target_title(data.get("target"))


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    if "until" in data and "that" in data:
        yield Fault(("that",), "`until` and `that` exclude each other")
    target = data.get("target")
    if isinstance(target, str) and kind.is_file(target):
        yield Fault(("target",), f"`wait` takes objects, not the file {target}", "write kind/name, as in pod/pythonapp")
    else:
        yield from kind.target_faults(target, ("target",))


commands = kind.no_commands


def equivalent(args: Args, scene: Scene) -> tuple[str, ...]:
    until = {"ready": "ready", "deleted": "delete", "exists": "create", "complete": "complete"}
    lines = []
    for selection in kind.selections(args.target, scene.namespace):
        if args.that:
            lines.append(f"# {NAME} until this holds (CEL over the object): {args.that}")
        else:
            lines.append(str(scene.dialect.wait(selection, until.get(args.until, args.until), int(scene.timeout))))
    return tuple(lines)


def run(args: Args, context: Context) -> dict[str, Any]:
    found: list[Object] = []
    for selection, line in zip(
        kind.selections(args.target, context.namespace), equivalent(args, context.scene), strict=True
    ):
        context.observed(line)
        found += _wait(selection, args, context)
    return {"object": found[0] if found else None, "objects": found}


def _wait(selection: Selection, args: Args, context: Context) -> list[Object]:
    from runner.cluster.workloads import PodsOf

    last: Sequence[Object] = ()
    sentence = f"{selection} does not exist yet"
    seen = False
    with context.deadline.child() as deadline, PodsOf(context.cluster, deadline) as pods:
        try:
            for objects in context.cluster.watch(selection, deadline):
                verdicts = [_judge(item, objects, args, context) for item in objects]
                if _reached(selection, args, verdicts):
                    return list(objects)
                for verdict in verdicts:
                    if verdict.state == "failed" and args.count == "all":
                        raise _failed(verdict, objects, context)
                if verdicts and all(verdict.state == "failed" for verdict in verdicts):
                    raise _failed(verdicts[0], objects, context)
                if seen and not objects and selection.names and args.until != "deleted":
                    sentence = f"{selection} was deleted meanwhile"
                else:
                    sentence = _pending(selection, args, verdicts)
                context.waiting(sentence)
                last, seen = objects, seen or bool(objects)
                if args.until in ("ready", "complete") and not args.that:
                    pods.follow(objects)
        except Cancelled:
            if pods.verdict and not context.deadline.cancelled:
                raise _failed(pods.verdict, last, context) from None
            raise
        except Expired:
            raise TimedOut(
                f"timed out after {context.scene.timeout:g} s: {sentence}",
                reason="timeout",
                hint=str(context.scene.dialect.describe(selection)) if last else "",
                details=context.cluster.explain(last, context.deadline),
            ) from None
    raise StepFailed(f"the watch of {selection} ended", reason="watch")


def _failed(verdict: Verdict, objects: Sequence[Object], context: Context) -> StepFailed:
    return StepFailed(
        verdict.sentence,
        hint=verdict.hint,
        reason=verdict.reason,
        details=context.cluster.explain(objects, context.deadline),
    )


def _judge(object_: Object, objects: Sequence[Object], args: Args, context: Context) -> Verdict:
    from runner.cluster.readiness import Verdict, judge
    from runner.expressions import EvaluationError

    variables = {"object": object_, "objects": list(objects)}
    if args.fail_if:
        try:
            if context.evaluate("fail_if", **variables) is True:
                return Verdict("failed", f"{_name(object_)}: {args.fail_if} holds", "fail_if")
        except EvaluationError:
            pass  # a field that is not there yet
    if not args.that:
        return judge(object_, args.until)
    try:
        holds = context.evaluate("that", **variables) is True
    except EvaluationError as error:
        return Verdict("pending", f"{_name(object_)}: not yet {args.that}: {error.message}")
    return Verdict("done" if holds else "pending", f"{_name(object_)}: not yet {args.that}")


def _name(object_: Object) -> str:
    return str(kind.object_ref(object_))


def _reached(selection: Selection, args: Args, verdicts: Sequence[Verdict]) -> bool:
    if args.until == "deleted":
        return not verdicts
    done = sum(verdict.state == "done" for verdict in verdicts)
    if args.count == "any":
        return done > 0
    if args.count == "all":
        return done == len(verdicts) and done >= max(1, len(selection.names))
    return done >= args.count


def _pending(selection: Selection, args: Args, verdicts: Sequence[Verdict]) -> str:
    """What the wait is for now, in one line."""
    if args.until == "deleted":
        return f"{selection} still exists"
    if not verdicts:
        return f"{selection} does not exist yet"
    open_ = [verdict.sentence for verdict in verdicts if verdict.state != "done"]
    more = f" (and {len(open_) - 1} more)" if len(open_) > 1 else ""
    if not open_:
        return f"{len(verdicts)} of {args.count if args.count != 'all' else len(selection.names)} {selection.kind}"
    return open_[0] + more
