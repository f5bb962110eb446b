"""How an object came into being, by the history that the API server keeps for watches (some minutes of it)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from runner.cluster.protocol import Object
from runner.deadline import Deadline
from runner.errors import Cancelled, RunnerError

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.resources import Resource

_PAST_SECONDS: Final = 2.0
"""What has happened already is told at once."""


def at_birth(cluster: Kubectl, resource: Resource, live: Object, since: str, deadline: Deadline) -> Object | None:
    """An object as it was created, after the version `since`; None where the history does not tell."""
    meta = live["metadata"]
    query = {"fieldSelector": f"metadata.name={meta['name']}", "watch": "1", "resourceVersion": since}
    path = f"{resource.path(meta.get('namespace', ''))}?{urlencode(query)}"
    try:
        with deadline.child(_PAST_SECONDS) as limit:
            for event in cluster.api.stream(path, limit):
                object_: Object = event["object"]
                if event["type"] == "ERROR":
                    return None
                if event["type"] == "ADDED" and object_["metadata"]["uid"] == meta["uid"]:
                    return object_
    except Cancelled:
        raise
    except RunnerError:
        deadline.check()
    return None
