"""Pods that still run an image of before, although the nodes have a newer one under the same name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from runner.cluster.discovery import BUILTIN
from runner.cluster.protocol import Hand, Object, Ref, selector_of
from runner.cluster.references import images_of, qualified
from runner.errors import RunnerError

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl

_PODS = next(resource for resource in BUILTIN if resource.kind == "Pod")


def warn(cluster: Kubectl, ref: Ref, live: Object, hand: Hand) -> None:
    """Name the Pods of an object that an apply left as they were, when they run another image than the run's."""
    if not any(qualified(image) in cluster.images for image in images_of([live])):
        return
    try:
        pods = _pods(cluster, ref, live, hand)
    except RunnerError:  # not everybody may list Pods, and this is a courtesy
        return
    found = {pod["metadata"]["name"]: image for pod in pods for image in _older(pod, cluster.images)}
    if not found:
        return
    names = ", ".join(f"pod/{name}" for name in found)
    hand.warn(
        f"{names} still run{'s' if len(found) == 1 else ''} the {next(iter(found.values()))} of before:"
        f" {ref} did not change, so nothing starts its containers again",
        hint=f"delete it in a step before: `delete: {ref}`" if ref.kind == "Pod" else f"kubectl rollout restart {ref}",
    )


def _pods(cluster: Kubectl, ref: Ref, live: Object, hand: Hand) -> list[Object]:
    if ref.kind == "Pod":
        return [live]
    labels = ((live.get("spec") or {}).get("selector") or {}).get("matchLabels")
    if not labels:
        return []
    return cluster.objects(_PODS, ref.namespace, hand.deadline, labelSelector=selector_of(labels))


def _older(pod: Object, newest: dict[str, str]) -> Iterator[str]:
    """The images of a Pod's containers that are not the newest. Only a plain id can be compared."""
    images = {container["name"]: container["image"] for container in pod["spec"]["containers"]}
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        image, id_ = images.get(status["name"], ""), status.get("imageID", "")
        wanted = newest.get(qualified(image)) if image else None
        if wanted and id_.startswith("sha256:") and id_.removeprefix("sha256:") != wanted:
            yield image
