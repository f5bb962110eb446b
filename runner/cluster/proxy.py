"""One `kubectl proxy --unix-socket` per context: authentication stays kubectl's business, a GET costs 2 ms."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Mapping

from runner.deadline import Deadline
from runner.errors import CannotStart
from runner.shell import Child, Command, start

# kubectl's defaults also refuse innocent URLs that contain these words; only the real sub-resources are refused here.
REJECT = r"^/api/v1/namespaces/[^/]+/pods/[^/]+/(exec|attach)$"


def command(socket_path: str) -> Command:
    return Command(("kubectl", "proxy", f"--unix-socket={socket_path}", f"--reject-paths={REJECT}"))


class Proxy:
    """The child, and where it listens. When it dies it is started again at the next request."""

    def __init__(self, environment: Mapping[str, str | None], folder: str = "") -> None:
        """`folder` is private and ours, and goes when this is closed; without one it makes its own."""
        self._environment = environment
        self._folder = folder or tempfile.mkdtemp(prefix="runner-")  # 0700
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._number = 0
        self._closed = False
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def _socket(self) -> str:
        return f"{self._folder}/{self._number}.sock"

    def path(self) -> str:
        """The socket, once the proxy listens on it. Raises `CannotStart` with kubectl's words when it cannot."""
        with self._lock:
            child = self._child
            if child is None or child.exited:
                self._start()
            self._await_ready()
            return self._socket

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._child:
                self._child.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        if self._closed:
            raise CannotStart("the connection to the cluster is closed")
        self._number += 1  # kubectl does not take over the socket file of a dead one
        self._ready = threading.Event()
        line = command(self._socket)
        ready = self._ready

        def on_line(stream: str, text: str) -> None:
            if stream == "stdout" and text.startswith("Starting to serve"):
                ready.set()

        self._child = start(Command(line.argv, env=self._environment), on_line, ready.set)

    def _await_ready(self) -> None:
        with Deadline(10) as deadline:
            self._ready.wait(deadline.remaining())
        child = self._child
        if child is None or child.exited or not self._ready.is_set():
            words = child.result().stderr.strip().splitlines() if child else []
            raise CannotStart(f"kubectl proxy does not start: {words[-1] if words else 'no answer within 10 s'}")
