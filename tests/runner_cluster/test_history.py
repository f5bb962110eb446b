"""What the API server's history tells about an object."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster import history
from runner.cluster.discovery import BUILTIN
from runner.cluster.kubectl import Kubectl
from runner.deadline import Deadline
from tests.runner_cluster.fake_api import FakeApi

MAPS = next(resource for resource in BUILTIN if resource.kind == "ConfigMap")


@pytest.fixture
def ask(api: FakeApi, cluster: Kubectl) -> Any:
    """`ask("version", "a")` and `ask("at_birth", live, since)`."""

    def ask(what: str, *arguments: Any) -> Any:
        place = ("default",) if what == "version" else ()
        with Deadline(20) as deadline:
            return getattr(history, what)(cluster, MAPS, *place, *arguments, deadline)

    return ask


def test_birth_and_not_what_came_later(api: FakeApi, ask: Any) -> None:
    """The object as it was created, of those that had the name the one that is there now."""
    since = ask("version", "a")
    api.put("configmaps", "a", metadata={"uid": "1", "labels": {"by": "somebody"}})
    api.remove("configmaps", "a")
    api.put("configmaps", "a", metadata={"uid": "2", "labels": {"by": "another"}})
    live = api.put("configmaps", "a", metadata={"labels": {"by": "us"}})

    assert ask("at_birth", live, since)["metadata"]["labels"] == {"by": "another"}


def test_history_that_is_forgotten_tells_nothing(api: FakeApi, ask: Any) -> None:
    """After a restart or a compaction of the API server."""
    since = ask("version", "a")
    live = api.put("configmaps", "a")
    api.forget()

    assert ask("at_birth", live, since) is None


def test_who_may_not_list_gets_no_version(api: FakeApi, ask: Any) -> None:
    """Then the object's own times have to do."""
    api.fault(lambda handler: handler.answer(403, {"kind": "Status", "reason": "Forbidden", "message": "no"}), "GET")

    assert ask("version", "a") == ""
