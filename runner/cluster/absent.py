"""What to say about something that does not exist: its namespace may be missing, or its name misspelt."""

from __future__ import annotations

from difflib import get_close_matches
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from runner.cluster.http import ApiError
from runner.cluster.protocol import Ref, Selection
from runner.errors import RunnerError

if TYPE_CHECKING:
    from runner.cluster.protocol import Cluster
    from runner.deadline import Deadline

CREATE_NAMESPACE: Final = (
    "kubectl create namespace {namespace}; or let the run do it, at the top of the workflow: "
    "`namespace: {{name: {namespace}, create: true}}`"
)
SECONDS: Final = 3.0
"""Worth spending on it."""
_SOME: Final = 5


def why(cluster: Cluster, selection: Selection, deadline: Deadline) -> tuple[str, str]:
    """(how the sentence `pod/web does not exist …` goes on, the hint); empty texts when the cluster does not tell."""
    namespace = selection.namespace or cluster.namespace
    try:
        names = [ref.name for ref in cluster.expand(Selection(selection.kind, namespace=namespace), deadline)]
        if not names and _is_missing(cluster, namespace, deadline):
            return f", nor does the namespace {namespace}", CREATE_NAMESPACE.format(namespace=namespace)
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return ", nor does its kind any more", "apply its CustomResourceDefinition; see: kubectl api-resources"
        return "", ""
    except RunnerError:
        return "", ""
    return "", _similar(selection, names)


def _is_missing(cluster: Cluster, namespace: str, deadline: Deadline) -> bool:
    return cluster.engine == "kubectl" and cluster.get(Ref("Namespace", namespace), deadline) is None


def _similar(selection: Selection, names: list[str]) -> str:
    wanted = [name for name in selection.names if name not in names]
    close = get_close_matches(wanted[0], names, n=1) if wanted else []
    if close:
        return f"did you mean {selection.kind}/{close[0]}?"
    return f"there is: {', '.join(names[:_SOME])}" if names else f"there is no {selection.kind} at all"
