"""What is said about something that does not exist."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster import absent
from runner.cluster.http import ApiError
from runner.cluster.protocol import Ref, Selection
from runner.deadline import Deadline
from runner.errors import RunnerError


class FakeCluster:
    namespace = "demo"

    def __init__(self, answer: list[str] | RunnerError, engine: str = "kubectl") -> None:
        self.answer = answer
        self.engine = engine

    def expand(self, selection: Selection, deadline: Deadline) -> list[Ref]:
        if isinstance(self.answer, RunnerError):
            raise self.answer
        return [Ref("Pod", name, selection.namespace) for name in self.answer]

    def get(self, ref: Ref, deadline: Deadline) -> Any:
        return {} if (ref.kind, ref.name) == ("Namespace", "demo") else None


def why(answer: list[str] | RunnerError, namespace: str = "", engine: str = "kubectl") -> tuple[str, str]:
    cluster: Any = FakeCluster(answer, engine)
    return absent.why(cluster, Selection("pod", ("web",), namespace=namespace), Deadline(1))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["wbe", "db"], "did you mean pod/wbe?"),
        (["a", "b", "c", "d", "e", "f"], "there is: a, b, c, d, e"),
        ([], "there is no pod at all"),
    ],
)
def test_what_is_there_instead(names: list[str], hint: str) -> None:
    assert why(names) == ("", hint)


def test_missing_namespace() -> None:
    """It is why nothing is there, where the engine has namespaces."""
    more, hint = why([], "shop")
    assert more == ", nor does the namespace shop"
    assert hint == (
        "kubectl create namespace shop; or let the run do it, at the top of the workflow: "
        "`namespace: {name: shop, create: true}`"
    )
    assert why([], "shop", "podman") == ("", "there is no pod at all")


def test_what_the_cluster_does_not_tell() -> None:
    """A kind whose definition went, and everything else that stands in the way of looking."""
    assert why(ApiError(404, "NotFound", "404 page not found"))[0] == ", nor does its kind any more"
    assert why(ApiError(403, "Forbidden", "no")) == why(RunnerError("down")) == ("", "")
