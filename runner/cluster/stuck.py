"""Why an object that is being deleted does not go, and what to type. Pure."""

from __future__ import annotations

from typing import Any, Final

from runner.cluster.protocol import Object, kind_word

# What stops a namespace from ending, by its conditions, with what to type; the cause before the effect.
_NAMESPACE: Final = (
    (
        "NamespaceDeletionDiscoveryFailure",
        "an API service that nobody serves blocks it, see: kubectl get apiservices; kubectl delete apiservice NAME",
    ),
    ("NamespaceDeletionGroupVersionParsingFailure", "kubectl get apiservices"),
    (
        "NamespaceFinalizersRemaining",
        "see what is left, then take its finalizers away if nobody else will: {list}",
    ),
    ("NamespaceContentRemaining", "see what is left: {list}"),
    ("NamespaceDeletionContentFailure", "see what is left: {list}"),
)
_LIST: Final = (
    "kubectl api-resources --verbs=list --namespaced -o name"
    " | xargs -n1 kubectl get --show-kind --ignore-not-found --namespace={name}"
)


# Every deletion that waits for dependents, or leaves them, has one of these for a moment.
_OF_GARBAGE_COLLECTION: Final = ("foregroundDeletion", "orphan")
_NO_FINALIZERS: Final = """--patch='{"metadata":{"finalizers":null}}'"""


def why(kind: str, live: Object) -> tuple[str, str]:
    """(what keeps it, as the end of the sentence `… still exists`; what to type)."""
    meta = live["metadata"]
    place = f" --namespace={meta['namespace']}" if meta.get("namespace") else ""
    reference = f"{kind_word({'kind': kind, **live})}/{meta['name']}{place}"
    look = f"kubectl get {reference} -o yaml"
    if not (meta.get("deletionTimestamp") or meta.get("deletionGracePeriodSeconds")):
        return ", and is not being deleted", look
    if kind == "Namespace" and (found := _namespace(live)):
        return found
    finalizers = meta.get("finalizers") or ()
    if others := [name for name in finalizers if name not in _OF_GARBAGE_COLLECTION]:
        return (
            f", held by its finalizers: {', '.join(others)}",
            f"if there is no controller to take them away: kubectl patch {reference} --type=merge {_NO_FINALIZERS}",
        )
    if finalizers:
        return ", until the garbage collector is done with what belongs to it", look
    if seconds := meta.get("deletionGracePeriodSeconds"):
        return (
            f", ending within its grace period of {seconds} s",
            f"give it less time (`grace: 1`), or end it now: kubectl delete {reference} --grace-period=0 --force",
        )
    return "", look


def remedy(kind: str, live: Object) -> str:
    """What to type where one more `kubectl delete` does not help; empty where it does, or time will."""
    meta = live["metadata"]
    held = meta.get("finalizers") or (kind == "Namespace" and _namespace(live))
    return why(kind, live)[1] if held and meta.get("deletionTimestamp") else ""


def _namespace(live: Object) -> tuple[str, str] | None:
    status: dict[str, Any] = live.get("status") or {}
    true = {
        item["type"]: item.get("message", "") for item in status.get("conditions") or () if item["status"] == "True"
    }
    for condition, hint in _NAMESPACE:
        if condition in true:
            listing = _LIST.format(name=live["metadata"]["name"])
            return f": {true[condition].strip()}", hint.format(list=listing)
    return None
