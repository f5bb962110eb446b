"""A port of a Pod through `kubectl port-forward`, started again (for the Pod that is there then) whenever it dies.

kubectl ends on the first connection that the Pod refuses, and a Pod without readinessProbe is Ready before it listens.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Selection
from runner.deadline import Deadline
from runner.errors import Expired, RunnerError, StepFailed, TimedOut
from runner.shell import Child, Command, start

if TYPE_CHECKING:
    from runner.cluster.protocol import Hand
    from runner.cluster.targets import Resolve

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_STABLE_SECONDS: Final = 2.0
"""A child that lived this long was good: the next one starts without a pause."""
_VERDICT_SECONDS: Final = 0.03
"""kubectl logs a refusal before it closes the connection; this long may reading that line take."""
REFUSED: Final = "the connection was refused, nothing listens there (yet)"
_NEVER: Final = re.compile(r"forbidden|unauthorized|unknown flag|executable .* not found", re.IGNORECASE)
"""Words of kubectl after which another try is pointless."""


def command(namespace: str, pod: str, port: int) -> Command:
    return KubectlDialect().forward(Selection("pod", (pod,), namespace=namespace), [f":{port}"], "127.0.0.1")


class KubectlBackend:
    """The far end of a forward: implements `protocol.Backend`. Construction waits for a Pod that runs."""

    def __init__(
        self,
        resolve: Resolve,
        namespace: str,
        environment: Mapping[str, str | None],
        hand: Hand,
        deadline: Deadline,
    ) -> None:
        self._resolve = resolve
        self._namespace = namespace
        self._environment = environment
        self._hand = hand
        self._lock = threading.Lock()
        self._tunnel: _Tunnel | None = None
        self._through: WeakKeyDictionary[socket.socket, _Tunnel] = WeakKeyDictionary()
        self._closed = False
        self._pause = 0.0
        self._why = ""
        """The last thing that kubectl said when it failed; a tunnel that has just started knows nothing yet."""
        self._pod, self.port = resolve(deadline)
        self._start(self._pod)

    def connect(self, deadline: Deadline) -> socket.socket:
        while True:
            try:
                tunnel = self._ready_tunnel(deadline)
            except Expired:
                raise self._too_late() from None
            try:
                far = socket.create_connection(("127.0.0.1", tunnel.port), timeout=deadline.socket_timeout())
            except OSError:
                tunnel.child.stop()  # it listens no more: it is about to end
            else:
                far.settimeout(None)
                self._through[far] = tunnel
                return far

    def refused(self, far: socket.socket) -> bool:
        tunnel = self._through.get(far)
        return bool(tunnel and tunnel.refused.wait(_VERDICT_SECONDS))

    def close(self) -> None:
        self._closed = True
        self._end_if_closed()

    def _end_if_closed(self) -> None:
        if self._closed and self._tunnel:
            self._tunnel.child.stop()

    def _ready_tunnel(self, deadline: Deadline) -> _Tunnel:
        """One that listens; the dead one is replaced."""
        with self._lock:
            while True:
                deadline.check()
                tunnel = self._tunnel
                if tunnel and not tunnel.dead and tunnel.await_port(deadline):
                    return tunnel
                self._restart(deadline)

    def _too_late(self) -> TimedOut:
        why = (self._tunnel.words if self._tunnel else "") or self._why or "no connection through it was made in time"
        return TimedOut(
            f"port {self.port} of pod/{self._pod} does not answer: {why}",
            hint=f"does the program listen on 0.0.0.0:{self.port}?" if why == REFUSED else "",
            reason="timeout",
        )

    def _restart(self, deadline: Deadline) -> None:
        why = (self._tunnel.words if self._tunnel else "") or "kubectl port-forward ended"
        self._why = why
        if _NEVER.search(why):
            raise StepFailed(f"kubectl port-forward: {why}", reason="forward")
        deadline.pause(self._next_pause())
        self._pod, self.port = self._resolve(deadline)
        self._start(self._pod)
        self._hand.emit("forward restarted", local=str(self.port), pod=self._pod, why=why)

    def _next_pause(self) -> float:
        if self._tunnel and self._tunnel.age() > _STABLE_SECONDS:
            self._pause = 0.0
        pause, self._pause = self._pause, min(_LONGEST_PAUSE, max(_FIRST_PAUSE, self._pause * 2))
        return pause

    def _start(self, pod: str) -> None:
        if self._closed:
            raise RunnerError("the forward was closed")
        line = command(self._namespace, pod, self.port)
        self._tunnel = _Tunnel(Command(line.argv, env=self._environment))
        self._end_if_closed()  # meanwhile: nobody else would end the child


class _Tunnel:
    """One kubectl port-forward: its local port, and whether the Pod refused a connection through it."""

    def __init__(self, line: Command) -> None:
        self.port = 0
        self.refused = threading.Event()
        self._spoken = threading.Event()
        self._started = time.monotonic()
        self.words = ""
        self.child: Child = start(line, self._on_line, self._spoken.set)

    @property
    def dead(self) -> bool:
        # kubectl ends after a refusal; a connection made before it does would be lost.
        return self.child.exited or self.refused.is_set()

    def age(self) -> float:
        return time.monotonic() - self._started

    def await_port(self, deadline: Deadline) -> bool:
        """Wait until it listens; False when it ended instead."""
        with deadline.closing(self._spoken.set):
            self._spoken.wait(deadline.socket_timeout())
        deadline.check()
        return bool(self.port) and not self.child.exited

    def _on_line(self, stream: str, line: str) -> None:
        if stream == "stdout":
            if listening := re.match(r"Forwarding from 127\.0\.0\.1:(\d+) ", line):
                self.port = int(listening[1])
                self._spoken.set()
            return
        if "connection refused" in line:
            self.words = REFUSED
            self.refused.set()
        elif line.strip() and not self.words:
            self.words = line.strip()
