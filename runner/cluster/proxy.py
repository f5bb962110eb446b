"""One `kubectl proxy --unix-socket` per context: authentication stays kubectl's business, a GET costs 2 ms."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Final

from runner.cluster.http import Unreachable
from runner.cluster.patience import Backoff
from runner.deadline import Deadline
from runner.errors import CannotStart
from runner.shell import Child, Command, start

# kubectl's defaults also refuse innocent URLs that contain these words; only the real sub-resources are refused here.
REJECT = r"^/api/v1/namespaces/[^/]+/pods/[^/]+/(exec|attach)$"
START_SECONDS: Final = 10.0
_STABLE_SECONDS: Final = 10.0
"""A proxy that lived this long was good: the next one starts at once."""


def command(socket_path: str) -> Command:
    return Command(("kubectl", "proxy", f"--unix-socket={socket_path}", f"--reject-paths={REJECT}"))


class Proxy:
    """The child, and where it listens. When it dies it is started again at the next request: once for each death,
    by whoever asks first, after a growing pause; all others wait for the same new one.
    """

    def __init__(self, environment: Mapping[str, str | None], folder: str = "") -> None:
        """`folder` is private and ours, and goes when this is closed; without one it makes its own."""
        self._environment = environment
        self._folder = folder or tempfile.mkdtemp(prefix="runner-")  # 0700
        self._changed = threading.Condition()
        self._number = 0
        self._served = False
        self._closed = False
        self._backoff = Backoff()
        try:
            self._life = self._start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def path(self, deadline: Deadline) -> str:
        """The socket, once the proxy listens on it. Raises `CannotStart` with kubectl's words when the first one does
        not start, `Unreachable` when a later one does not (that may pass), or the deadline's exceptions.
        """
        with deadline.closing(self._notify), self._changed:
            if self._served:
                self._revive(deadline)
            life = self._life
            patience = deadline.remaining(life.started + START_SECONDS - time.monotonic())
            self._changed.wait_for(lambda: life.settled or deadline.ended or self._closed, max(0.0, patience))
            if life.ready and not life.child.exited and not self._closed:
                self._served = True
                return life.socket
        deadline.check()
        if self._closed:
            raise CannotStart("the connection to the cluster is closed")
        life.child.stop()
        words = life.child.result().stderr.strip().splitlines()
        sentence = f"kubectl proxy does not start: {words[-1] if words else f'no answer within {START_SECONDS:g} s'}"
        raise Unreachable(sentence) if self._served else CannotStart(sentence)

    def close(self) -> None:
        """End it; harmless twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._life.child.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _revive(self, deadline: Deadline) -> None:
        """Replace a dead one, when its pause is over. The lock is held, except while waiting."""
        while self._life.child.exited and not self._closed and not deadline.ended:
            pause = self._life.replaceable - time.monotonic()
            if pause <= 0:
                self._life = self._start()
            else:
                self._changed.wait(deadline.remaining(pause))

    def _start(self) -> _Life:
        self._number += 1  # kubectl does not take over the socket file of a dead one
        life = _Life(f"{self._folder}/{self._number}.sock")
        if self._number > 1 and life.started - self._life.started > _STABLE_SECONDS:
            self._backoff.reset()
        life.replaceable = life.started + self._backoff.next()

        def on_line(stream: str, text: str) -> None:
            if stream == "stdout" and text.startswith("Starting to serve"):
                life.ready = True
                self._notify()

        life.child = start(Command(command(life.socket).argv, env=self._environment), on_line, self._notify)
        return life

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Life:
    """One proxy, from its start to its death."""

    child: Child

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.started = self.replaceable = time.monotonic()
        self.ready = False

    @property
    def settled(self) -> bool:
        return self.ready or self.child.exited
