"""What the tests of the reports share: sample records, events at a fixed time, and golden files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from runner.errors import Problem
from runner.events import LEVELS, Event
from runner.result import Cleanup, Failure, Leftover, RunResult, Status, StepResult, WorkflowResult

GOLDEN = Path(__file__).parent / "golden"

MakeEvent = Callable[..., Event]
Golden = Callable[[str, str], None]


@pytest.fixture
def golden() -> Golden:
    """Compare a text with a file of `golden/`; UPDATE_GOLDEN=1 writes the file instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} differs; UPDATE_GOLDEN=1 pytest accepts the new text"

    return compare


@pytest.fixture
def event() -> MakeEvent:
    """Make an event with a fixed time: `event("step passed", step="steps.web", seconds=0.2)`."""

    def make(phrase: str, /, *, level: str = "", **fields: Any) -> Event:
        return Event(phrase, level or LEVELS[phrase], "r1", datetime(2026, 1, 2, 10, 15, 2, 345000, tzinfo=UTC), fields)

    return make


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def events(event: MakeEvent) -> list[Event]:
    """A run with everything that can happen, in an order in which it could."""
    web = {"workflow": "pod", "step": "steps.web", "name": "Forward the port", "kind": "forward"}
    ready = {"workflow": "pod", "step": "steps.ready", "name": "Wait until it is ready", "kind": "wait"}
    return [
        event(
            "run started",
            version="0.1.0",
            files=["workflows/pod.yaml"],
            engine="kubectl",
            context="kind-kind",
            namespace="default",
        ),
        event("workflow started", workflow="pod", file="workflows/pod.yaml", steps=5, namespace="default"),
        event("step started", **web, line=12, hash="3f2a"),
        event(
            "command started",
            workflow="pod",
            step="steps.web",
            argv=["kubectl", "apply", "-f", "a b.yaml"],
            cwd="/home/me/app",
        ),
        event("command output", workflow="pod", step="steps.web", stream="stdout", line="pod/pythonapp created"),
        event(
            "command output",
            level="info",
            workflow="pod",
            step="steps[0]",
            stream="stdout",
            line="::error::shown \x1b[2J10%\r20%",
        ),
        event(
            "command retried",
            workflow="pod",
            step="steps.web",
            attempt=1,
            why="the API server is not available",
            rule="ServiceUnavailable",
            nature="transient",
        ),
        event("command ended", workflow="pod", step="steps.web", argv=["kubectl"], code=0, seconds=0.1),
        event("observation", workflow="pod", step="steps.web", equivalent="kubectl get pod/pythonapp --watch"),
        event("object created", object="pod/pythonapp", uid="123"),
        event("step waiting", workflow="pod", step="steps.web", waiting_for="pod/pythonapp: ContainerCreating"),
        event("step retried", workflow="pod", step="steps.web", attempt=2, reason="exit code 1", seconds=2),
        event("forward ready", workflow="pod", step="steps.web", local="127.0.0.1:5000", target="pod/pythonapp:5000"),
        event(
            "forward restarted", workflow="pod", step="steps.web", local="127.0.0.1:5000", why="the Pod was replaced"
        ),
        event(
            "step passed", **web, seconds=0.21, attempts=2, outputs={"url": "http://localhost:5000", "ports": [5000]}
        ),
        event(
            "step passed",
            workflow="pod",
            step="steps[1]",
            name="two\nlines \x1b[31m",
            kind="run",
            seconds=75.2,
            attempts=1,
            outputs={},
        ),
        event("step started", **ready, line=14, hash="77aa"),
        event(
            "step failed",
            **ready,
            seconds=120,
            reason="timeout",
            message="pod/pythonapp did not become ready in 2m\n::error::ErrImageNeverPull",
            hint="kubectl describe pod/pythonapp",
        ),
        event(
            "step skipped",
            workflow="pod",
            step="steps[3]",
            name="verify",
            kind="verify",
            because="a step before it failed",
        ),
        event(
            "step cancelled", workflow="pod", step="steps[4]", name="delete", kind="delete", seconds=1, because="SIGINT"
        ),
        event("note", message="hello\nfrom say"),
        event("warning", message="there is no context", hint="name one with --context NAME"),
        event(
            "request retried",
            request="GET /api/v1/nodes",
            rule="unavailable",
            reason="the API server https://10.0.0.1:6443 answers 503: it is starting",
            attempt=1,
            seconds=0.05,
        ),
        event("deadline reached", workflow="pod", message="the workflow's timeout is 900 s"),
        event("interrupted", signal=2, message="interrupted: cleaning up; once more stops waiting"),
        event("workflow ended", workflow="pod", status="failure", seconds=9.1),
        event("cleanup started", workflow="pod", objects=2),
        event("cleanup waiting", workflow="pod", waiting_for="pod/pythonapp"),
        event("object deleted", object="pod/pythonapp"),
        event(
            "object left", object="pod/other", why="its finalizer is not removed", command="kubectl delete pod/other"
        ),
        event("cleanup ended", workflow="pod", deleted=1, left=1, kept=0, seconds=1.9),
        event("cleanup verified", objects=7, left=0),
        event("run ended", status="failure", code=1, seconds=12),
        event("watchdog started", pid=77, objects=2, handover=False),
        event("watchdog ended", left=0, kept=[], children=["kubectl"]),
    ]


@pytest.fixture
def failure() -> Failure:
    """A failure with every field, and output that tries things."""
    return Failure(
        message="pod/pythonapp cannot become ready: container pythonapp: ErrImageNeverPull",
        hint="kubectl describe pod/pythonapp",
        reason="ErrImageNeverPull",
        details="pod/pythonapp  Pending  0 restarts\n  12s  Warning  Failed  Error: ErrImageNeverPull",
        command="kubectl --context kind-kind apply -f pythonapp/pod.yaml",
        code=1,
        output="error: unable\n::error::forged\n\x1b[31mred\x1b[0m\x1b]0;title\x07 \x1b[2J\n",
        place="workflows/pod.yaml:12:5",
        source="  - wait: pod/pythonapp",
    )


@pytest.fixture
def passed() -> WorkflowResult:
    """A workflow where all is well."""
    return WorkflowResult(
        "pod",
        "workflows/pod.yaml",
        Status.SUCCESS,
        4.2,
        (
            StepResult(
                "steps[0]", "Build the image", "build", "steps", 4, Status.SUCCESS, 3.14, 1, shown="STEP 1/2\nSTEP 2/2"
            ),
            StepResult(
                "steps.web",
                "Forward the port",
                "forward",
                "steps",
                8,
                Status.SUCCESS,
                0.2,
                3,
                "web",
                outputs={"port": 5000},
            ),
            StepResult("steps[2]", "verify", "verify", "steps", 9, Status.SKIPPED, skipped_because="`if` was false"),
            StepResult("finally[0]", "Save the logs", "logs", "finally", 12, Status.SUCCESS, 0.05, 1),
        ),
        Cleanup(3, seconds=1.9),
    )


@pytest.fixture
def failed(failure: Failure) -> WorkflowResult:
    """A workflow where a step failed and the cleanup is incomplete."""
    return WorkflowResult(
        "job",
        "workflows/job.yaml",
        Status.FAILURE,
        130.0,
        (
            StepResult("steps[0]", "Create the Pod", "apply", "steps", 4, Status.SUCCESS, 0.21, 1),
            StepResult(
                "steps[1]",
                "A look that may fail",
                "run",
                "steps",
                6,
                Status.FAILURE,
                1.0,
                1,
                tolerated=True,
                failure=Failure("exit code -9", code=-9, command="bash -c 'sleep 1\nexit 1'"),
            ),
            StepResult(
                "steps[2]", "Wait until it is ready", "wait", "steps", 12, Status.FAILURE, 125.2, 1, failure=failure
            ),
            StepResult(
                "steps[3]",
                "Forward the port",
                "forward",
                "steps",
                14,
                Status.SKIPPED,
                skipped_because="a step before it failed",
            ),
        ),
        Cleanup(
            2,
            ("namespace/demo-x",),
            (
                Leftover(
                    "pod/pythonapp", "its finalizer example.com/hold is not removed", "kubectl delete pod/pythonapp"
                ),
            ),
            30.0,
        ),
    )


@pytest.fixture
def run_passed(passed: WorkflowResult) -> RunResult:
    """A run of one workflow where all is well."""
    return RunResult("r1", (passed,), 4.25, "kubectl", "kind-kind", "/home/me/.local/state/runner/r1")


@pytest.fixture
def run_failed(failed: WorkflowResult) -> RunResult:
    """A run of one workflow that failed."""
    return RunResult(
        "r1",
        (failed,),
        130.3,
        "kubectl",
        "kind-kind",
        "/home/me/.local/state/runner/r1",
        clean="runner clean --run r1",
    )


@pytest.fixture
def problems() -> tuple[Problem, ...]:
    """Problems of every shape, out of order."""
    file = "workflows/pod.yaml"
    return (
        Problem(file, 12, 13, 'unknown key "imgae"', 'write "image"', "    build: {imgae: x}", 5),
        Problem(file, 3, 3, "a tab before it", "", "\t\tbuild: x", 5),
        Problem(file, 4, 7, "wide characters around it", "two lines\nof hint", "日本: 日本語 # 語", 3),
        Problem(file, 5, 200, "a long line", "", "a" * 199 + "BBB" + "c" * 300, 3),
        Problem(file, 7, 10, "a mark longer than the line", "", "  name: " + "n" * 200, 200),
        Problem(file, 0, 0, "this is a Pod, not a workflow", "apply it with kubectl"),
        Problem(file, 9, 3, "what it hides is shown\nand explained", "", "a \x1b[31m\u202eb", 1, "warning"),
        Problem(file, 10, 40, "beyond the end", "", "abc"),
        Problem(file, 10, 40, "beyond the end", "", "abc"),
    )
