"""What a failing `verify` says of the Pods behind a forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.cluster.protocol import Selection
from runner.deadline import Deadline
from runner.errors import StepFailed, TimedOut
from runner.steps import other_end
from runner.steps.kind import Forwarded
from tests.steps.servers import FakeContext
from tests.steps.servers import verified as run

LABELS = {"app": "web"}


class FakeCluster:
    """Objects by kind; its own explanation names those that it was given."""

    engine = "kubectl"

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        self.objects = objects
        self.asked: list[Selection] = []

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[dict[str, Any]]]:
        self.asked.append(selection)
        yield self.objects.get(selection.kind, [])

    def explain(self, objects: Sequence[dict[str, Any]], deadline: Deadline) -> str:
        return "explained " + ", ".join(item["metadata"]["name"] for item in objects)


def pod(name: str, *, ready: bool = True, restarts: int = 0, **state: Any) -> dict[str, Any]:
    status = {
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "containerStatuses": [{"name": "app", "restartCount": restarts, "state": state or {"running": {}}}],
    }
    return {"kind": "Pod", "metadata": {"name": name}, "status": status}


def known(tmp_path: Path, target: Selection, **objects: list[dict[str, Any]]) -> tuple[str, str]:
    context = FakeContext(tmp_path)
    context.cluster = FakeCluster(**objects)
    context.forwarded = lambda host, port: Forwarded(host, target, "http")  # type: ignore[method-assign]
    return other_end.known(context, "localhost", 80)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("behind", "why"),
    [
        (pod("a"), ""),
        (pod("a", ready=False), "pod/a is not ready"),
        (pod("a", restarts=1), "pod/a: container app was started again"),
        (
            pod("a", ready=False, restarts=4, waiting={"reason": "CrashLoopBackOff"}),
            "pod/a: container app: CrashLoopBackOff: ",
        ),
        (pod("a", ready=False, waiting={"reason": "ContainerCreating"}), "pod/a is not ready"),
        (
            pod("a", ready=False, restarts=1, terminated={"exitCode": 3}),
            "exit code 3, started again once; kubectl logs ",
        ),
        ({"kind": "Pod", "metadata": {"name": "a", "deletionTimestamp": "now"}}, "pod/a is being deleted"),
    ],
)
def test_pod(behind: dict[str, Any], why: str, tmp_path: Path) -> None:
    """What is wrong with it in a sentence, then all that is known."""
    sentence, told = known(tmp_path, Selection("pod", ("a",)), pod=[behind])

    assert why in sentence
    assert bool(why) is bool(sentence)
    assert told.splitlines()[0] == "the other end: pod/a, port http, by a forward of this run"
    assert told.splitlines()[-1] == "explained a"


def test_service(tmp_path: Path) -> None:
    """Its Pods are found by its selector; without ready ones it has no endpoints."""
    service = {"kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": LABELS}}
    target = Selection("service", ("web",), namespace="n")

    assert known(tmp_path, target, service=[service], pod=[pod("a")])[0] == ""
    assert known(tmp_path, target, service=[service])[0] == "service/web has no Pods: none has the labels app=web"
    bad = pod("a", ready=False)
    sentence, told = known(tmp_path, target, service=[service], pod=[bad])
    assert sentence == "service/web has no ready endpoints: pod/a is not ready"
    assert told.endswith("explained a")


def test_workload_and_nothing(tmp_path: Path) -> None:
    """A Deployment explains itself by its Pods; what is gone is said to be gone."""
    deployment = {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": LABELS}}}
    target = Selection("deployment", ("web",))

    assert known(tmp_path, target, deployment=[deployment], pod=[pod("a", restarts=2)])[0] == (
        "pod/a: container app was started again"
    )
    assert known(tmp_path, target)[0] == "deployment/web does not exist any more"


def test_cluster_that_does_not_answer(tmp_path: Path) -> None:
    """The failure of the step is told in any case."""

    class Silent(FakeCluster):
        def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[dict[str, Any]]]:
            raise StepFailed("no route to host")

    context = FakeContext(tmp_path, 0.1, **{"127.0.0.1": "127.0.0.1"})
    context.cluster = Silent()
    with pytest.raises(TimedOut) as caught:
        run(context, url="http://127.0.0.1:1/")

    assert "connection refused" in caught.value.message
    assert "nothing more is known: no route to host" in caught.value.details


def test_failure_without_a_forward(tmp_path: Path) -> None:
    """Then the cluster is not asked."""
    assert other_end.known(FakeContext(tmp_path), "localhost", 80) == ("", "")  # type: ignore[arg-type]
