"""Where podman answers: a `podman system service` of our own, or the socket of a podman that runs elsewhere."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from typing import Final

from runner import shell
from runner.cluster.podman_diagnosis import last_words
from runner.deadline import Deadline
from runner.errors import CannotStart
from runner.shell import Child, Command

START_SECONDS: Final = 10.0


class Service:
    """`podman system service` on a socket in a folder of its own, started at the first request, and again at the next
    one after it died.
    """

    def __init__(self, folder: str = "") -> None:
        """`folder` is private and ours, and goes when this is closed; without one it makes its own."""
        self._folder = folder or tempfile.mkdtemp(prefix="runner-")  # 0700
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._number = 0
        self._closed = False

    def path(self, deadline: Deadline) -> str:
        """The socket, once podman listens on it. Raises `CannotStart` with podman's words when it cannot, or the
        deadline's exceptions.
        """
        with self._lock:
            if self._child is None or self._child.exited:
                self._number += 1
                self._child = self._start(deadline)
            return self._socket

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._child:
                self._child.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _socket(self) -> str:
        return f"{self._folder}/{self._number}.sock"

    def _start(self, deadline: Deadline) -> Child:
        if self._closed:
            raise CannotStart("the connection to podman is closed")
        ready = threading.Event()

        def on_line(stream: str, text: str) -> None:
            if "API service listening on" in text:
                ready.set()

        # At the level info it says when it listens, so that nobody has to try again and again.
        argv = ("podman", "--log-level=info", "system", "service", "--time=0", f"unix://{self._socket}")
        child = shell.start(Command(argv), on_line, ready.set)
        with deadline.closing(ready.set):
            ready.wait(deadline.remaining(START_SECONDS))
        if deadline.ended:
            child.stop()
            deadline.check()
        if not ready.is_set() or child.exited:
            child.stop()
            words = last_words(child.result().stderr) or f"no answer within {START_SECONDS:g} s"
            raise cannot_start(f"podman's service does not start: {words}")
        return child


class RemoteSocket:
    """The socket of a podman that runs elsewhere: in the virtual machine of `podman machine`, or at CONTAINER_HOST."""

    def __init__(self, deadline: Deadline) -> None:
        self._path = _of_environment() or _of_machine(deadline)

    def path(self, _: Deadline) -> str:
        return self._path

    def close(self) -> None:
        """It is not ours."""


def cannot_start(message: str) -> CannotStart:
    hint = "`podman info` must work first; on macOS and Windows: podman machine init && podman machine start"
    return CannotStart(message, hint=hint)


def _of_environment() -> str:
    host = os.environ.get("CONTAINER_HOST", "")
    if host and not host.startswith("unix://"):
        raise cannot_start(f"CONTAINER_HOST={host} is not a unix socket, and podman is observed through one")
    return host.removeprefix("unix://")


def _of_machine(deadline: Deadline) -> str:
    argv = ("podman", "machine", "inspect", "--format", "{{.ConnectionInfo.PodmanSocket.Path}}")
    answer = shell.run(Command(argv), deadline)
    path = answer.stdout.strip()
    if answer.code or not path:
        raise cannot_start(f"the podman machine has no socket: {last_words(answer.stderr)}")
    return path
