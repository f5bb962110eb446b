"""What the API server's history tells about an object."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster import history
from runner.cluster.kubectl import Kubectl
from runner.cluster.resources import BUILTIN
from runner.deadline import Deadline
from tests.runner_cluster.fake_api import FakeApi

MAPS = next(resource for resource in BUILTIN if resource.kind == "ConfigMap")


@pytest.fixture
def ask(api: FakeApi, cluster: Kubectl) -> Any:
    """`ask(live, since)`: the object at its birth."""

    def ask(live: Any, since: str) -> Any:
        with Deadline(20) as deadline:
            return history.at_birth(cluster, MAPS, live, since, deadline)

    return ask


def test_birth_and_not_what_came_later(api: FakeApi, cluster: Kubectl, ask: Any) -> None:
    """The object as it was created, of those that had the name the one that is there now."""
    since = version(cluster)
    api.put("configmaps", "a", metadata={"uid": "1", "labels": {"by": "somebody"}})
    api.remove("configmaps", "a")
    api.put("configmaps", "a", metadata={"uid": "2", "labels": {"by": "another"}})
    live = api.put("configmaps", "a", metadata={"labels": {"by": "us"}})

    assert ask(live, since)["metadata"]["labels"] == {"by": "another"}


def test_history_that_is_forgotten_tells_nothing(api: FakeApi, cluster: Kubectl, ask: Any) -> None:
    """After a restart or a compaction of the API server."""
    since = version(cluster)
    live = api.put("configmaps", "a")
    api.forget()

    assert ask(live, since) is None


def version(cluster: Kubectl) -> str:
    with Deadline(20) as deadline:
        live, since = cluster.look(MAPS, "default", "a", deadline)
    assert live is None
    return since
