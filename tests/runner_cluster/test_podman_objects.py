"""podman's records of Pods, in the shape of Kubernetes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from runner.cluster.podman_manifests import MANIFEST_LABEL, OWNER_LABEL
from runner.cluster.podman_objects import deployment_object, owner_of, pod_object, port_number, settles
from runner.cluster.protocol import Object
from runner.cluster.readiness import judge
from runner.errors import StepFailed

NEVER = "0001-01-01T00:00:00Z"
TIMES = {"StartedAt": "2020-11-23T20:56:05.625355336Z", "FinishedAt": NEVER}
INFRA = {
    "State": {"Status": "running"},
    "HostConfig": {"PortBindings": {"5000/tcp": [{"HostPort": "33000"}], "53/udp": [{"HostPort": "53"}]}},
    "NetworkSettings": {"Networks": {"n": {"IPAddress": "10.89.0.2"}}},
}


def state(status: str, code: int = 0, *, restarts: int = 0, policy: str = "always", **more: Any) -> Object:
    """One container as podman inspects it."""
    return {
        "State": {"Status": status, "ExitCode": code, **TIMES, **more},
        "RestartCount": restarts,
        "HostConfig": {"RestartPolicy": {"Name": policy}},
    }


def live(*containers: Object, infra: Object = INFRA, exits: dict[str, int] | None = None, **more: Any) -> Object:
    """A Pod `web` with the containers `c0`, `c1`…"""
    record = {
        "Id": "1",
        "Name": "web",
        "Created": "2026-11-23T21:55:15.450284721+01:00",
        "Labels": {"app": "a"},
        **more,
    }
    inspected = [{"Id": f"id{n}", "Name": f"web-c{n}", **item} for n, item in enumerate(containers)]
    return pod_object(record, inspected, infra, {}, exits or {}, "default")


def test_a_running_pod() -> None:
    found = live(state("running"))
    assert judge(found, "ready").state == "done"
    assert found["metadata"]["creationTimestamp"] == "2026-11-23T20:55:15Z"
    assert found["status"]["podIP"] == "10.89.0.2"
    assert found["status"]["published"] == {5000: 33000}
    assert found["status"]["containerStatuses"][0]["state"] == {"running": {"startedAt": "2020-11-23T20:56:05Z"}}


@pytest.mark.parametrize(
    ("containers", "until", "verdict", "words"),
    [
        ([state("running"), state("created")], "ready", "pending", "c1 is being created"),
        ([state("created")], "ready", "pending", "c0 is being created"),
        ([state("exited", 3, policy="no")], "ready", "failed", "container c0: PodFailed"),
        ([state("exited", 0, policy="no")], "complete", "done", ""),
        (
            [state("exited", 3, policy="no")],
            "complete",
            "failed",
            "PodFailed: the Pod failed: exit code 3",
        ),
        ([state("exited", 0, policy="always")], "complete", "pending", "is Running"),
        ([state("exited", 3, restarts=5)], "ready", "failed", "CrashLoopBackOff"),
        ([state("exited", 3, restarts=5)], "ready", "failed", "exit code 3, started again 5 times"),
        ([state("running", restarts=5)], "ready", "done", ""),
        ([state("created", Error="no such file")], "ready", "failed", "RunContainerError"),
    ],
)
def test_what_a_wait_concludes(containers: list[Object], until: str, verdict: str, words: str) -> None:
    found = judge(live(*containers), until)
    assert (verdict == "failed", found.state) == (found.hopeless is not None, verdict.replace("failed", "pending"))
    assert words in found.sentence


def test_a_pod_that_was_stopped_does_not_come_back() -> None:
    found = live(state("exited", 0, policy="always"), infra={**INFRA, "State": {"Status": "exited"}})
    trouble = judge(found, "ready").hopeless
    assert trouble
    assert trouble.reason == "PodSucceeded"
    assert found["status"]["podIP"] == ""


def test_an_exit_code_that_the_inspection_forgot() -> None:
    found = live(state("running", restarts=5, StartedAt=datetime.now(UTC).isoformat()), exits={"id0": 7})
    assert "exit code 7" in judge(found, "ready").sentence


def test_a_container_that_was_started_again_has_to_settle() -> None:
    now = datetime.now(UTC).isoformat()
    young, old = live(state("running", restarts=1, StartedAt=now)), live(state("running", restarts=1))
    assert (judge(young, "ready").state, settles(young)) == ("pending", True)
    assert (judge(old, "ready").state, settles(old)) == ("done", False)


def test_the_address_of_a_pod_on_the_network_of_the_host() -> None:
    infra = {**INFRA, "NetworkSettings": {"Networks": {"host": {"IPAddress": ""}}}}
    assert live(state("running"), infra=infra)["status"]["podIP"] == "127.0.0.1"


def test_a_deployment_is_its_pod() -> None:
    ready, waiting = (deployment_object("web", live(state(status))) for status in ("running", "created"))
    assert judge(ready, "ready").state == "done"
    assert ready["spec"]["selector"]["matchLabels"] == {"app": "a"}
    assert "0 of 1 replicas ready" in judge(waiting, "ready").sentence


@pytest.mark.parametrize(
    ("name", "labels", "owner"),
    [
        ("web-pod-0", None, "web"),
        ("web-pod", {"app": "web"}, "web"),
        ("web", {}, ""),
        ("web-pod-0", {MANIFEST_LABEL: "x"}, ""),
        ("other", {MANIFEST_LABEL: "x", OWNER_LABEL: "web"}, "web"),
    ],
)
def test_the_deployment_of_a_pod(name: str, labels: dict[str, str] | None, owner: str) -> None:
    assert owner_of({"Name": name, "Labels": labels}) == owner


def test_ports_by_name() -> None:
    item = live()
    item["spec"] = {"containers": [{"ports": [{"name": "http", "containerPort": 5000}, {"containerPort": 80}]}]}
    assert port_number(item, "8080") == 8080
    assert port_number(item, "http") == 5000
    assert port_number(deployment_object("web", item), "http") == 5000
    with pytest.raises(StepFailed, match="pod/web has no port named grpc") as failed:
        port_number(item, "grpc")
    assert failed.value.hint == "its named ports: http"
