"""What the cluster knows about the other end of a forward, when it does not answer as it should."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from runner.cluster.pods import condition, containers, exit_words, troubles
from runner.cluster.protocol import Selection, selector_of
from runner.cluster.reasons import name_of
from runner.deadline import Deadline
from runner.errors import RunnerError

if TYPE_CHECKING:
    from runner.cluster.protocol import Object
    from runner.steps.kind import Context, Forwarded

_PATIENCE: Final = 5.0


def known(context: Context, host: str, port: int) -> tuple[str, str]:
    """(a sentence that explains it, if there is one; everything that is known, in full) about what is behind a local
    port. Both are empty when no forward of this run listens there. Never raises.
    """
    forward = context.forwarded(host, port)
    if forward is None or context.deadline.cancelled:
        return "", ""
    heading = f"the other end: {forward.target}, port {forward.port}, by a forward of this run"
    # The step's own deadline may be over; a signal ends this one too.
    with Deadline(_PATIENCE) as short, context.deadline.closing(lambda: short.cancel("the run was ended")):
        try:
            why, objects = _state(context, forward, short)
            told = context.cluster.explain(objects, short) if objects else ""
        except RunnerError as error:
            why, told = "", f"(nothing more is known: {error.message})"
    return why, "\n".join(part for part in (heading, why, told) if part)


def _state(context: Context, forward: Forwarded, deadline: Deadline) -> tuple[str, list[Object]]:
    """(what is wrong there in a sentence, the objects that explain it)."""
    target = forward.target
    objects = _now(context, target, deadline)
    if not objects:
        return f"{target} does not exist any more", []
    owner = objects[0]
    if owner["kind"] == "Pod":
        return _trouble(context, objects), objects
    labels = (owner.get("spec") or {}).get("selector") or {}
    labels = labels if owner["kind"] == "Service" else labels.get("matchLabels") or {}
    if not labels:  # it selects by expressions, or nothing
        return "", objects
    selector = selector_of(labels)
    pods = _now(context, Selection("pod", selector=selector, namespace=target.namespace), deadline)
    if not pods:
        return f"{target} has no Pods: none has the labels {selector}", objects
    if owner["kind"] == "Service" and not any(map(_is_ready, pods)):
        return f"{target} has no ready endpoints: {_trouble(context, pods)}", pods
    return _trouble(context, pods), pods


def _now(context: Context, selection: Selection, deadline: Deadline) -> list[Object]:
    """The objects as they are now."""
    with closing(context.cluster.watch(selection, deadline)) as states:  # type: ignore[type-var]
        return next(states)


def _trouble(context: Context, pods: list[Object]) -> str:
    """What is wrong with the first Pod that is not well, and where to look; nothing when all are."""
    for pod in sorted(pods, key=_is_leaving):
        name = name_of(pod)
        if _is_leaving(pod):
            return f"{name} is being deleted"
        for trouble in troubles(pod):
            this = Selection("pod", (pod["metadata"]["name"],))
            look = trouble.look if context.cluster.engine == "kubectl" else context.scene.dialect.describe(this)
            return f"{trouble.sentence}; {look}"
        for container in containers(pod):
            if container.restarts:
                return f"{name}: {container.words} was started again{exit_words(container)}"
        if not _is_ready(pod):
            return f"{name} is not ready"
    return ""


def _is_leaving(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _is_ready(pod: Object) -> bool:
    return condition(pod, "Ready").get("status") == "True"
