"""What podman says and shows when something fails, for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from runner import shell
from runner.cluster.protocol import Object
from runner.deadline import Deadline
from runner.errors import RunnerError, StepFailed
from runner.shell import Command

LOG_LINES: Final = 20

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


def explain(objects: Sequence[Object], deadline: Deadline) -> str:
    """The state of objects and the last lines of their containers. Never raises."""
    if deadline.cancelled:
        return ""
    with Deadline(3) as short:  # the step's own may be over
        try:
            return "\n".join(line for item in objects for line in _lines(item, short))
        except RunnerError as error:
            return f"(no diagnostics: {error})"


def _lines(item: Object, deadline: Deadline) -> Iterator[str]:
    status = item.get("status") or {}
    name = item["metadata"]["name"]
    yield f"{item['kind'].lower()}/{name}: {status.get('phase', '')}".rstrip(": ")
    for container in status.get("containerStatuses") or ():
        yield f"  container {container['name']}: {_state(container)}"
        pod = (item["metadata"].get("annotations") or {}).get("runner/pod", name)
        command = Command(("podman", "logs", f"--tail={LOG_LINES}", f"{pod}-{container['name']}"))
        answer = shell.run(command, deadline)
        yield from (f"    {line}" for line in (answer.stdout + answer.stderr).splitlines()[-LOG_LINES:])


def _state(status: Object) -> str:
    """A container's state in words."""
    state, words = next(iter(status["state"].items()))
    ended = words if state == "terminated" else status["lastState"].get("terminated") or {}
    parts = [words.get("reason") or state]
    if ended:
        parts.append(f"exit code {ended['exitCode']}")
    if words.get("message"):
        parts.append(words["message"])
    if status["restartCount"] and state != "waiting":
        parts.append(f"started again {status['restartCount']} times")
    return ", ".join(parts)
