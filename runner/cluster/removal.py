"""What the step `delete` does: exactly what it names goes, whoever made it, and its dependents with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from runner.cluster import deletion, kubectl_errors, ownership, permission
from runner.cluster.dependents import family, heirs
from runner.cluster.insistence import Insistence
from runner.cluster.protocol import Hand, Object, Ref
from runner.cluster.resources import Resource
from runner.errors import StepFailed
from runner.shell import Command

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl


def delete(
    cluster: Kubectl,
    refs: Sequence[Ref],
    commands: Sequence[Command],
    hand: Hand,
    *,
    wait: bool,
    ignore_not_found: bool,
) -> list[Ref]:
    """Execute `commands`, which delete `refs`; with `wait` return when all of that is gone. Answers what existed."""
    existing: list[tuple[Ref, Resource, Object]] = []
    kinds_gone = False
    for ref in refs:
        resource = _resource(cluster, ref, hand)
        kinds_gone = kinds_gone or resource is None
        place = (ref.namespace or cluster.namespace) if resource and resource.namespaced else ""
        live = cluster.find(resource, place, ref.name, hand.deadline) if resource else None
        if resource and live:
            existing.append((Ref(resource.kind, ref.name, place, resource.group_version), resource, live))
        elif not ignore_not_found:
            raise StepFailed(f"{ref} does not exist", reason="NotFound", hint="ignore_not_found: true allows that")
    for ref, _, live in existing:
        ours = ownership.run_of(live) == hand.run_id
        permission.to_delete(ref.kind, ref.name, ref.namespace, hand.allowed, ours=ours)
    families = [family(cluster, resource, live, hand.deadline) for _, resource, live in existing]
    for command in commands if existing else ():
        _execute(command, hand, kinds_gone=kinds_gone)
    if wait:
        deletion.await_all_gone(cluster, chain.from_iterable(families), hand)
        deletion.await_all_gone(cluster, heirs(cluster, families, hand.deadline), hand)
        for ref, _, _ in existing:
            hand.deleted(ref)
    return [ref for ref, _, _ in existing]


def _resource(cluster: Kubectl, ref: Ref, hand: Hand) -> Resource | None:
    """The resource of an object; None when it stands in a manifest and the cluster knows its kind no more: then all
    objects of that kind are gone. A kind that a person wrote may be misspelt, and that is raised.
    """
    try:
        return cluster.resource(ref, hand.deadline)
    except StepFailed as error:
        if error.reason == "NoKindMatch" and ref.api_version:
            return None
        raise


def _execute(command: Command, hand: Hand, *, kinds_gone: bool) -> None:
    """Insist on a command. kubectl deletes what it can of a file, and then complains about kinds that are gone."""
    attempts = Insistence(hand)
    while True:
        try:
            hand.execute(command)
            return
        except StepFailed as error:
            if kinds_gone and error.result and _is_about_kinds(error.result.stderr):
                return
            attempts.after(error)


def _is_about_kinds(stderr: str) -> bool:
    found = kubectl_errors.classify(stderr)
    return found is not None and found.rule.name == "NoKindMatch"
