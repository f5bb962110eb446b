"""What podman says when something fails, for a person."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster.diagnosis import text
from runner.cluster.podman_diagnosis import diagnose, explained, last_words
from runner.deadline import Deadline
from runner.errors import CommandResult, StepFailed


@pytest.mark.parametrize(
    ("said", "words"),
    [("", ""), ("one\ntwo\n\n", "two"), ("Error: no pod\nmore\n", "Error: no pod"), ("Error: a\nError: b", "Error: b")],
)
def test_last_words(said: str, words: str) -> None:
    assert last_words(said) == words


def failed(stderr: str) -> StepFailed:
    return StepFailed("podman failed", reason="exit", result=CommandResult(("podman",), 125, "", stderr, 0.1))


def test_well_known_failures_are_explained() -> None:
    missing = explained(failed("Error: x: image not known\n"))
    assert (str(missing), missing.reason) == ("podman kube play: x: image not known", "ErrImageNeverPull")
    taken = explained(failed("Error: the name is already in use"))
    assert (taken.reason, taken.hint) == ("exit", "something else has this name or port: podman ps --all --pod")


def test_other_failures_stay_as_they_are() -> None:
    error = failed("Error: something new")
    assert explained(error) is error


CRASHING = {
    "name": "app",
    "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "started again 3 times"}},
    "lastState": {"terminated": {"exitCode": 7}},
}
RUNNING = {"name": "web", "restartCount": 1, "state": {"running": {}}, "lastState": {}}


def test_a_pod_is_explained_by_its_containers(fakes: Any) -> None:
    fakes.put("podman", "echo no database >&2")
    status = {"phase": "Running", "containerStatuses": [CRASHING, RUNNING]}
    with Deadline(5) as deadline:
        told = diagnose([{"kind": "Pod", "metadata": {"name": "web"}, "status": status}], deadline, ("", ""))
    assert text(told).splitlines() == [
        "pod/web",
        "  phase Running",
        "  container app: waiting (CrashLoopBackOff), restarted 3 times (ended with exit code 7), not ready",
        "  container web: running, restarted once, not ready",
        "  last log lines of container app before it crashed:",
        "    no database",
        "  last log lines of container web:",
        "    no database",
    ]
    assert fakes.calls == ["podman logs --tail=20 web-app", "podman logs --tail=20 web-web"]


def test_only_the_log_of_the_container_to_blame(fakes: Any) -> None:
    fakes.put("podman", "echo no database >&2")
    status = {"phase": "Running", "containerStatuses": [CRASHING, RUNNING]}
    with Deadline(5) as deadline:
        diagnose([{"kind": "Pod", "metadata": {"name": "web"}, "status": status}], deadline, ("pod/web", "app"))
    assert fakes.calls == ["podman logs --tail=20 web-app"]


def test_no_diagnostics_is_no_failure(fakes: Any) -> None:
    pod = {"kind": "Pod", "metadata": {"name": "web"}, "status": {"containerStatuses": [RUNNING]}}
    with Deadline(5) as deadline:
        assert diagnose([pod], deadline, ("", "")) == []
        deadline.cancel("enough")
        assert diagnose([pod], deadline, ("", "")) == []
