"""Pods that still run an image of before, although the nodes have a newer one under the same name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from runner.cluster.protocol import Hand, Object, Ref, selector_of
from runner.cluster.references import by_container, images_of, qualified
from runner.cluster.resources import BUILTIN
from runner.errors import RunnerError

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl

_PODS = next(resource for resource in BUILTIN if resource.kind == "Pod")


def warn(cluster: Kubectl, ref: Ref, before: Object, after: Object, hand: Hand) -> None:
    """Name the Pods that run on after an apply, when they have another image than the run's: Pods are made anew when
    their template changes, not when the image behind a name does.
    """
    if not _runs_on(before, after) or not any(qualified(image) in cluster.images for image in images_of([after])):
        return
    try:
        pods = _pods(cluster, ref, after, hand)
    except RunnerError:  # not everybody may list Pods, and this is a courtesy
        return
    found = {pod["metadata"]["name"]: image for pod in pods for image in _older(pod, cluster.images)}
    if not found:
        return
    names = ", ".join(f"pod/{name}" for name in found)
    what = ref if ref.kind == "Pod" else f"the Pod template of {ref}"
    hand.warn(
        f"{names} still run{'s' if len(found) == 1 else ''} the {next(iter(found.values()))} of before:"
        f" {what} did not change, so nothing starts its containers again",
        hint=f"delete it in a step before: `delete: {ref}`" if ref.kind == "Pod" else f"kubectl rollout restart {ref}",
    )


def _runs_on(before: Object, after: Object) -> bool:
    """Whether an apply left the containers as they were, whatever else it changed."""
    if before["kind"] == "Pod":
        return images_of([before]) == images_of([after])
    template = before["spec"].get("template") if before.get("spec") else None
    return bool(template) and template == after["spec"].get("template")


def _pods(cluster: Kubectl, ref: Ref, live: Object, hand: Hand) -> list[Object]:
    if ref.kind == "Pod":
        return [live]
    labels = ((live.get("spec") or {}).get("selector") or {}).get("matchLabels")
    if not labels:
        return []
    return cluster.objects(_PODS, ref.namespace, hand.deadline, labelSelector=selector_of(labels))


def _older(pod: Object, newest: dict[str, str]) -> Iterator[str]:
    """The images of a Pod's containers that are not the newest. Only a plain id can be compared."""
    images = by_container(pod)
    status = pod.get("status") or {}
    for each in chain(status.get("containerStatuses") or (), status.get("initContainerStatuses") or ()):
        image, id_ = images.get(each["name"], ""), each.get("imageID", "")
        wanted = newest.get(qualified(image)) if image else None
        if wanted and id_.startswith("sha256:") and id_.removeprefix("sha256:") != wanted:
            yield image
