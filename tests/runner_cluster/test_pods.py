"""What objects say that a real Kubernetes 1.34 wrote (`recorded.json`), and what moments between crashes mean."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.cluster.pods import STEADY_SECONDS, troubles, unready_for, why_not_ready
from runner.cluster.readiness import Around, judge
from runner.cluster.reasons import Trouble

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())
EVENTS: list[dict[str, Any]] = RECORDED["events"]


def recorded(name: str) -> dict[str, Any]:
    return copy.deepcopy(RECORDED["objects"][name])


def first(item: dict[str, Any], **around: Any) -> Trouble:
    """The first trouble of an object among the events of all."""
    return judge(item, "ready", Around(events=EVENTS, **around)).troubles[0]


@pytest.mark.parametrize(
    ("name", "reason", "container", "words"),
    [
        ("never", "ErrImageNeverPull", "app", "image no-such-image"),
        ("badname", "InvalidImageName", "app", "image UPPER CASE"),
        (
            "pull",
            "ImagePullBackOff",
            "app",
            "image 127.0.0.1:1/none/none:1: dial tcp 127.0.0.1:1: connect: connection refused",
        ),
        ("config", "CreateContainerConfigError", "app", 'configmap "later" not found'),
        ("crash", "CrashLoopBackOff", "app", "exit code 1, started again 4 times"),
        ("oom", "OOMKilled", "app", "exit code 137, started again 4 times"),
        ("init", "CrashLoopBackOff", "setup", "exit code 1, started again 4 times"),
        ("noexec", "RunContainerError", "app", "stat /no/such/program: no such file or directory"),
        ("big", "Unschedulable", "", "0/1 nodes are available: 1 Insufficient cpu"),
        ("mount", "FailedMount", "", 'MountVolume.SetUp failed for volume "v" : secret "absent" not found'),
        ("fails", "PodFailed", "app", "exit code 128, StartError"),
    ],
)
def test_recorded_pods_in_trouble(name: str, reason: str, container: str, words: str) -> None:
    """The reason, the container to blame, and the cause at the end of the cluster's words."""
    trouble = first(recorded(f"pod/{name}"))

    assert (trouble.reason, trouble.container, trouble.words) == (reason, container, words)
    assert trouble.name == f"pod/{name}"


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        (
            "quota-deployment/dep",
            "FailedCreate",
            "exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0",
        ),
        ("quota-replicaset/dep-7886fc7fd8", "FailedCreate", None),
        ("quota-statefulset/sts", "FailedCreate", None),
        ("quota-daemonset/ds", "FailedCreate", None),
        ("quota-job/job", "FailedCreate", None),
        ("job/job", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        (
            "deployment/deadline",
            "ProgressDeadlineExceeded",
            'ReplicaSet "deadline-84877fcc4b" has timed out progressing.',
        ),
        (
            "persistentvolumeclaim/claim",
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
    ],
)
def test_recorded_workloads_in_trouble(name: str, reason: str, words: str | None) -> None:
    """By their conditions, and by events where these are silent."""
    trouble = first(recorded(name))

    assert trouble.reason == reason
    assert words is None or trouble.words == words


def test_recorded_service_without_a_ready_pod() -> None:
    """It says what its Pod waits for, in the words of the probe."""
    pod, slice_ = recorded("pod/deadline-84877fcc4b-lzc74"), recorded("endpointslice/web-rgllk")
    verdict = judge(recorded("service/web"), "ready", Around(pods=[pod], slices=[slice_], events=EVENTS))

    assert verdict.sentence.startswith(
        "service/web has no ready endpoint: pod/deadline-84877fcc4b-lzc74: container app "
    )
    assert "runs, but is not ready: Readiness probe failed: Get" in verdict.sentence


def test_recorded_pod_that_healed() -> None:
    """Its events still tell of a ConfigMap that was missing."""
    healed = recorded("pod/config-healed")

    assert judge(healed, "ready", Around(events=EVENTS)).state == "done"
    assert list(troubles(healed, EVENTS)) == []


def test_mount_that_healed_is_no_trouble_while_the_image_is_pulled() -> None:
    """The newest event counts, though the old one is there."""
    pod = recorded("pod/mount")
    pulling = {
        "reason": "Pulling",
        "message": 'Pulling image "pythonapp"',
        "involvedObject": {"uid": pod["metadata"]["uid"], "fieldPath": "spec.containers{app}"},
        "lastTimestamp": "2026-11-24T02:00:00Z",
        "metadata": {"resourceVersion": "9999999"},
    }

    assert list(troubles(pod, [*EVENTS, pulling])) == []
    assert why_not_ready(pod, [*EVENTS, pulling]) == "pod/mount: container app is pulling image pythonapp"


# --- between two crashes


def running_again(seconds: float, **spec: Any) -> dict[str, Any]:
    """A Pod whose container crashed and has been running again for so many seconds: the API server calls it ready."""
    pod = recorded("pod/crash")
    started = datetime.fromtimestamp(1_000_000 - seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = pod["status"]["containerStatuses"][0]
    status |= {"state": {"running": {"startedAt": started}}, "ready": True, "restartCount": 1}
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    pod["spec"]["containers"][0] |= spec
    return pod


@pytest.mark.parametrize(
    ("seconds", "spec", "left"),
    [(1, {}, 4), (STEADY_SECONDS, {}, 0), (3600, {}, 0), (1, {"readinessProbe": {}}, 0), (-100, {}, 5)],
)
def test_ready_between_two_crashes(seconds: float, spec: dict[str, Any], left: float) -> None:
    """Believed after a while, or at once when a probe vouches for it; also when the node's clock is ahead of ours."""
    assert unready_for(running_again(seconds, **spec), now=1_000_000)[0] == left


def test_crash_loop_goes_on_while_the_container_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no trouble at the moment, but its time does not begin anew."""
    monkeypatch.setattr("time.time", lambda: 1_000_000)
    verdict = judge(running_again(1), "ready")
    (resting,) = verdict.troubles

    assert (verdict.state, verdict.again, verdict.hopeless) == ("pending", 4, None)
    assert verdict.sentence == "pod/crash: container app was started again after exit code 1, and must stay up for 5 s"
    assert (resting.resting, resting.key[2]) == (True, "CrashLoopBackOff")


@pytest.mark.parametrize(
    ("restarts", "lived", "policy", "reason", "resting"),
    [
        (0, 1, "Always", "CrashLoopBackOff", True),
        (1, 1, "Always", "CrashLoopBackOff", False),
        (1, 3600, "Always", "CrashLoopBackOff", True),
        (0, 1, "Never", "PodFailed", False),
    ],
)
def test_container_that_just_ended(restarts: int, lived: int, policy: str, reason: str, resting: bool) -> None:
    """The second crash in a row is a loop, some seconds before kubelet says so."""
    pod = recorded("pod/crash")
    pod["spec"]["restartPolicy"] = policy
    ended = {
        "exitCode": 1,
        "startedAt": "2024-01-01T00:00:00Z",
        "finishedAt": f"2024-01-01T{lived // 3600:02}:00:{lived % 60:02}Z",
    }
    pod["status"]["containerStatuses"][0] |= {"state": {"terminated": ended}, "lastState": {}, "restartCount": restarts}
    (trouble,) = troubles(pod)

    assert (trouble.reason, trouble.resting) == (reason, resting)


def test_one_of_two_containers_that_failed_for_good() -> None:
    """The Pod goes on, and will never be ready."""
    pod = recorded("pod/fails")
    pod["status"]["phase"] = "Running"
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "Error"
    pod["status"]["containerStatuses"].append({"name": "other", "state": {"running": {}}, "ready": True})

    assert [trouble.reason for trouble in troubles(pod)] == ["ContainerFailed"]


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda pod: pod["status"].update(containerStatuses=[], phase="Pending"), "waits for a node"),
        (
            lambda pod: pod["status"].update(
                initContainerStatuses=[{"name": "setup", "state": {"running": {}}}], containerStatuses=[]
            ),
            "init container setup is running",
        ),
        (
            lambda pod: (
                pod["spec"].update(readinessGates=[{"conditionType": "example.com/lb"}]),
                pod["status"]["containerStatuses"][0].update(ready=True, state={"running": {}}),
            ),
            "its readiness gate example.com/lb is not open",
        ),
        (
            lambda pod: pod["status"]["containerStatuses"][0].update(state={"terminated": {"exitCode": 0}}),
            "container app ended with exit code 0",
        ),
    ],
)
def test_why_not_ready(change: Change, words: str) -> None:
    """One line about the first thing that is missing."""
    pod = recorded("pod/config-healed")
    change(pod)

    assert why_not_ready(pod) == f"pod/config-healed: {words}"


# -- sidecars ---------------------------------------------------------------------------------------------------------


def with_sidecar(app: dict[str, Any], proxy: dict[str, Any], **sidecar: Any) -> dict[str, Any]:
    """A Pod that is not started again, with a container that runs beside its own."""
    return {
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {
            "restartPolicy": "Never",
            "initContainers": [{"name": "proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "app"}],
        },
        "status": {
            "phase": "Running",
            "initContainerStatuses": [{"name": "proxy", "state": proxy, "started": True, **sidecar}],
            "containerStatuses": [{"name": "app", "state": app, "ready": True}],
        },
    }


def ended(code: int) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:09Z"}}


def test_a_sidecar_that_ends_after_the_others_is_no_trouble() -> None:
    """Kubelet ends it, and it may not like that."""
    assert list(troubles(with_sidecar(ended(0), ended(137)))) == []


def test_a_sidecar_that_ends_before_the_others_is_started_again() -> None:
    """Also where the Pod itself is not."""
    (trouble,) = troubles(with_sidecar({"running": {}}, ended(3)))
    assert (trouble.reason, trouble.resting) == ("CrashLoopBackOff", True)


def test_a_sidecar_that_is_not_ready_is_named() -> None:
    """It has a say in whether the Pod is."""
    words = why_not_ready(with_sidecar({"running": {}}, {"running": {}}, ready=False))
    assert words == "pod/p: init container proxy runs, but is not ready"
