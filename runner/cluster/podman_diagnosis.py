"""What podman says and shows when something fails, for a person."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from runner import shell
from runner.cluster.diagnosis import LOG_LINES, Facts, container_facts
from runner.cluster.pods import Container, containers
from runner.cluster.protocol import Object
from runner.cluster.reasons import name_of
from runner.deadline import Deadline
from runner.errors import RunnerError, StepFailed
from runner.shell import Command

# A part of what podman says, what it means in the words of Kubernetes, and what to do.
_KNOWN_FAILURES: Final = (
    (
        "image not known",
        "ErrImageNeverPull",
        "build it in a step before (`build: {image: …}`), or check `image` in the manifest",
    ),
    ("starting container", "RunContainerError", "check `command` in the manifest, and the image"),
    ("already in use", "", "something else has this name or port: podman ps --all --pod"),
    ("catatonit", "", "install catatonit, which podman needs for Pods"),
)


def last_words(text: str) -> str:
    """The line of podman's output that says what went wrong."""
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("Error")), lines[-1] if lines else "").strip()


def explained(error: StepFailed) -> StepFailed:
    """The words of podman, and what to do about those that are well known."""
    said = error.result.stderr.splitlines() if error.result else []
    for sign, reason, hint in _KNOWN_FAILURES:
        if line := next((line for line in said if sign in line), ""):
            words = re.sub(r"^Error: |container [0-9a-f]{64}", "", line).replace("starting : ", "").strip()
            return StepFailed(
                f"podman kube play: {words}", hint=hint, reason=reason or error.reason, result=error.result
            )
    return error


def diagnose(objects: Sequence[Object], deadline: Deadline, blame: tuple[str, str]) -> list[Facts]:
    """The state of objects, and the last lines of their containers (of the one to blame, when it is known)."""
    found: list[Facts] = []
    if not deadline.cancelled:
        with Deadline(3) as short, suppress(RunnerError):  # the step's own may be over
            found.extend(_facts(item, short, blame[1]) for item in objects)
    return found


def _facts(item: Object, deadline: Deadline, container: str) -> Facts:
    meta, status = item["metadata"], item.get("status") or {}
    pod = (meta.get("annotations") or {}).get("runner/pod", meta["name"])
    return {
        "object": name_of(item),
        "namespace": "",
        "state": str(status.get("phase") or ""),
        "conditions": [],
        "events": [],
        "containers": [
            {
                **container_facts(each),
                **(_log(each, f"{pod}-{each.name}", deadline) if container in ("", each.name) else {}),
            }
            for each in containers(item)
        ],
        "alike": 0,
    }


def _log(container: Container, name: str, deadline: Deadline) -> Facts:
    answer = shell.run(Command(("podman", "logs", f"--tail={LOG_LINES}", name)), deadline)
    lines = (answer.stdout + answer.stderr).splitlines()[-LOG_LINES:]
    return {"log": lines, "log_of_previous": bool(container.ended)}
