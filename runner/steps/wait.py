"""Wait until objects are ready, complete, deleted, or whatever a condition says.

One deadline (`timeout`) covers "does not exist yet" and "not ready yet", and all targets of the step together. While
it waits, the log has a line that says on what and why, again every 10 s.

```yaml
- wait: pod/pythonapp
- wait: [deployment/web, service/web, job/migrate]  # all of them, together
- wait: {target: job/migrate, until: complete}
  timeout: 5m
- wait: {target: {kind: pod, selector: app=web}, count: 3}
```

**`until: ready`** (the default) means, kind by kind:

- a Pod: the condition Ready; a container without readinessProbe that was started again must stay up for 5 s, because in
  a crash loop it is ready for a moment again and again;
- a Deployment, StatefulSet, DaemonSet or ReplicaSet: all replicas up to date and ready, and none too many;
- a Job: complete; a PersistentVolumeClaim: bound; a Namespace: active; an APIService: available;
- a Service: at least one endpoint is ready, and a LoadBalancer has its address. One of type ExternalName, or without
  a selector and endpoints, is ready as soon as it exists;
- an Ingress: it has an address; a HorizontalPodAutoscaler: it can scale; a PodDisruptionBudget: it was counted;
- a CustomResourceDefinition: established, so that its objects can be applied;
- anything else: its controller has seen the last change (`status.observedGeneration`), it is not `Reconciling`, and the
  first of its conditions Ready, Available, Established, Programmed, Complete, Succeeded is true. Without any of them
  it is ready as soon as it exists; a custom resource whose definition has a status, as soon as it has one.

**Other goals:**

```yaml
- wait: {target: job/migrate, until: complete}           # a Job, or a Pod that is meant to end
- wait: {target: pod/old, until: deleted}                # the object of now; another may have its name afterwards
- wait: {target: configmap/late, until: exists}
- wait: {target: certificate/web, until: condition=Issued}
- wait: {target: pod/web, until: condition=Ready=False}
- wait:
    target: deployment/web
    that: object.status.availableReplicas >= 2           # CEL; what is missing, or of another type, is "not yet"
    fail_if: object.metadata.annotations['example.com/state'] == 'broken'
- wait: {target: {kind: pod, selector: app=web}, count: any}  # or a number; of all targets together
```

**What can no longer succeed ends the wait at once**, with the reason, the state, the warnings among the events, and the
last log lines of the container that is to blame: a Job that failed, a Pod that ended, an object that was deleted and
did not come back, an image that is not there, a container that crashes, a Pod that no node can take, … A Deployment,
StatefulSet, DaemonSet, ReplicaSet, Job or Service is judged by its Pods, too. Trouble that may heal by itself (a
ConfigMap that comes later, a node that frees up) gets the time that this takes; the table below has all reasons and
their times. `tolerate` changes them:

```yaml
- wait:
    target: deployment/web
    tolerate: {CrashLoopBackOff: 1m, Unschedulable: 5m}  # it crashes until the database is there; nodes come on demand
```

With `that`, trouble may be what you wait for: only the reasons that `tolerate` names end such a wait early. The same
holds for conditions that speak of failure (`condition=Failed`, `condition=Ready=False`), which trouble never ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta

from runner.steps import kind
from runner.steps.kind import Cel, Context, Duration, Fault, Files, Output, Scene, Target

if TYPE_CHECKING:
    from runner.cluster.protocol import Object
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


_ENDING: Final = ("Job", "Pod")
_ENDING_WORDS: Final = " and ".join(_ENDING)


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
    tolerate: Annotated[
        dict[str, Duration],
        Meta(
            description="For how long trouble may last, by its reason: `{CrashLoopBackOff: 1m}`. The table below has "
            "the reasons, and what holds without this."
        ),
    ] = {}


needs_cluster = kind.always_cluster
wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
lasts = kind.no_time
homeless = kind.no_objects


def title(data: Mapping[str, Any]) -> str:
    return kind.target_title(data.get("target"))


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    if "until" in data and "that" in data:
        yield Fault(("that",), "`until` and `that` exclude each other")
    yield from _tolerate_faults(data.get("tolerate"))
    target = data.get("target")
    if isinstance(target, str) and kind.is_file(target):
        yield Fault(("target",), f"`wait` takes objects, not the file {target}", "write kind/name, as in pod/pythonapp")
    else:
        yield from kind.target_faults(target, ("target",))
    if data.get("until") == "complete":
        yield from _endless(target)
    named = (
        0 if isinstance(target, Mapping) and "name" not in target else len(target) if isinstance(target, list) else 1
    )
    count = data.get("count")
    if isinstance(count, int) and named and count > named:
        yield Fault(
            ("count",), f"`count: {count}` cannot be reached with {named} named", "name more, or use a selector"
        )


def _endless(target: Any) -> Iterable[Fault]:
    """Kinds of Kubernetes that have no end of their own; a custom resource may say that it is complete."""
    from runner.cluster.resources import builtin

    for index, item in enumerate(target) if isinstance(target, list) else [(-1, target)]:
        word = str(item.get("kind", "") if isinstance(item, Mapping) else item).partition("/")[0]
        found = builtin(word)
        if found and found.kind not in _ENDING:
            message = f"a {found.kind} does not become complete: of the kinds of Kubernetes only {_ENDING_WORDS} do"
            yield Fault(
                ("target",) if index < 0 else ("target", index), message, "leave `until` out to wait until ready"
            )


def _tolerate_faults(tolerate: Any) -> Iterable[Fault]:
    from runner.cluster.reasons import REASONS

    for reason in tolerate if isinstance(tolerate, Mapping) else ():
        if reason not in REASONS:
            close = get_close_matches(str(reason), REASONS, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}?" if close else f"known are: {', '.join(REASONS)}"
            yield Fault(("tolerate", reason), f"there is no reason {reason!r} to tolerate", hint)


commands = kind.no_commands


def equivalent(args: Args, scene: Scene) -> tuple[str, ...]:
    until = {"ready": "ready", "deleted": "delete", "exists": "create", "complete": "complete"}
    lines: list[str] = []
    for selection in kind.selections(args.target, scene.namespace):
        if args.that:
            lines.append(f"# {NAME} until this holds (CEL over the object): {args.that}")
        else:
            lines += scene.dialect.wait(selection, until.get(args.until, args.until), int(scene.timeout))
    return tuple(lines)


def run(args: Args, context: Context) -> dict[str, Any]:
    from runner.cluster.waiting import Goal, wait_for

    for line in equivalent(args, context.scene):
        context.observed(line)
    goal = Goal(
        until=args.until,
        test=partial(_test, args, context) if args.that else None,
        fail_if=partial(_fails, args, context) if args.fail_if else None,
        count=args.count,
        tolerate={reason: kind.seconds(duration) for reason, duration in args.tolerate.items()},
    )
    found = wait_for(context.cluster, kind.selections(args.target, context.namespace), goal, context)
    return {"object": found[0] if found else None, "objects": found}


def _test(args: Args, context: Context, object_: Object, objects: Sequence[Object]) -> Verdict:
    """What `that` says about an object; a missing field or a wrong type means not yet."""
    from runner.cluster.readiness import DONE, Verdict
    from runner.expressions import EvaluationError

    try:
        value = context.evaluate("that", object=object_, objects=list(objects))
    except EvaluationError as error:
        why = f": {error.message}"
    else:
        if value is True:
            return DONE
        why = "" if value is False else f": it gives {value!r}, which is neither true nor false"
    return Verdict("pending", f"{kind.object_ref(object_)}: not yet {args.that}{why}")


def _fails(args: Args, context: Context, object_: Object, objects: Sequence[Object]) -> str:
    """Why `fail_if` ends the wait, or nothing."""
    from runner.expressions import EvaluationError

    with suppress(EvaluationError):  # a field that is not there yet
        if context.evaluate("fail_if", object=object_, objects=list(objects)) is True:
            return f"{kind.object_ref(object_)}: {args.fail_if} holds"
    return ""
