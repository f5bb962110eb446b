"""Ports of a Pod through `kubectl port-forward`, which is started again, for the Pod that is there then, whenever it
dies or its Pod goes.

kubectl ends on the first connection that the Pod refuses, and a Pod without readinessProbe is Ready before it listens;
and while nobody connects, it does not notice that its Pod is gone.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Selection
from runner.cluster.relay import Say, await_listener, carry
from runner.cluster.targets import Follower, Place, Sight
from runner.deadline import Deadline
from runner.errors import Cancelled, CannotStart, Expired, RunnerError, StepFailed, TimedOut
from runner.shell import Child, Command, start

if TYPE_CHECKING:
    from runner.cluster.protocol import Hand

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_STABLE_SECONDS: Final = 2.0
"""A child that lived this long was good: the next one starts without a pause."""
_START_SECONDS: Final = 10.0
"""kubectl takes 40 ms; one that takes so long has a connection on which nobody answers."""
_SHORTEST_SILENCE: Final = 0.05
_LONGEST_SILENCE: Final = 2.0
_SILENCE_PER_START: Final = 1.5
"""A refusal takes 3 to 21 % of the time that kubectl takes to start, and more on a machine that is busier by then."""
_QUIET_SECONDS: Final = 10.0
"""A restart for the same reason as the last one is not reported again within this time."""
REFUSED: Final = "the connection was refused, nothing listens there (yet)"
_UNDELIVERED: Final = re.compile(r"error forwarding port .*(is closed|not found|not running)")
"""kubectl could not make a connection in the Pod: nothing that the client said arrived."""
_FORBIDDEN: Final = re.compile(r"forbidden|unauthorized", re.IGNORECASE)
_NEVER: Final = re.compile(r"forbidden|unauthorized|unknown flag|executable .* not found", re.IGNORECASE)
"""Words of kubectl after which another try is pointless."""


def command(namespace: str, pod: str, ports: Sequence[int]) -> Command:
    """The child: a free local port for each port of the Pod."""
    return KubectlDialect().forward(
        Selection("pod", (pod,), namespace=namespace), [f":{port}" for port in ports], "127.0.0.1"
    )


class PortForward:
    """The far end of a forward; implements `protocol.FarEnd`. `local` is what events call it."""

    def __init__(
        self, follower: Follower, namespace: str, environment: Mapping[str, str | None], local: str, hand: Hand
    ) -> None:
        self._follower = follower
        self._namespace = namespace
        self._environment = environment
        self._local = local
        self._hand = hand
        self._tunnel: _Tunnel | None = None
        self._retired: _Tunnel | None = None
        """The one before, for the connections that it still has; its Pod is about to go."""
        self._why = ""
        """The last thing that kubectl said when it failed; a tunnel that has just started knows nothing yet."""
        self._unstartable: CannotStart | None = None
        """Why no kubectl can be started now: clients are turned away, and it is tried again."""
        self._down_since = 0.0
        self._pause = 0.0
        self._settled = False
        self._served = False
        """Whether anything was answered through it: before, a restart is no news to worry about."""
        self._reported = ("", 0.0)
        self._thread = threading.Thread(target=self._supervise, name="port-forward", daemon=True)
        self._thread.start()

    # -- for the step and its clients -----------------------------------------------------------------------------

    def await_answer(self, ports: Sequence[str], hand: Hand) -> str:
        for port in ports:
            await_listener(self, port, hand.deadline, hand.waiting)
        self._settled = True
        with self._follower.changed:
            return str(self._tunnel.place) if self._tunnel else ""

    def serve(self, port: str, client: socket.socket, life: Deadline) -> None:
        carry(self, port, client, life)

    def connect(self, port: str, deadline: Deadline, say: Say | None = None) -> socket.socket:
        while True:
            tunnel = self._await_tunnel(port, deadline, say)
            try:
                far = tunnel.connect(port, deadline)
            except OSError:
                tunnel.child.stop()  # it listens no more: it is about to end
                continue
            if not tunnel.child.exited:
                return far
            far.close()  # the port may be that of another program by now

    def silence(self) -> float:
        starting = self._tunnel.starting if self._tunnel else 0.0
        return min(_LONGEST_SILENCE, max(_SHORTEST_SILENCE, _SILENCE_PER_START * starting))

    def answered(self, far: socket.socket) -> None:
        self._served = True
        for tunnel in (self._tunnel, self._retired):
            if tunnel:
                tunnel.unanswered.pop(far, None)

    def refused(self, far: socket.socket) -> bool:
        # kubectl says why before it closes a connection.
        tunnels = [tunnel for tunnel in (self._tunnel, self._retired) if tunnel]
        for tunnel in tunnels:
            tunnel.child.catch_up()
        return any(tunnel.refused_one is far for tunnel in tunnels)

    def close(self) -> None:
        self._follower.close()
        self._thread.join()
        for tunnel in (self._tunnel, self._retired):
            if tunnel:
                tunnel.child.stop()

    def _await_tunnel(self, port: str, deadline: Deadline, say: Say | None) -> _Tunnel:
        """One that listens."""
        follower = self._follower
        with deadline.closing(follower.wake), follower.changed:
            while True:
                tunnel = self._tunnel
                if tunnel and tunnel.usable:
                    if say:
                        say(f"{tunnel.place} to listen on port {tunnel.place.ports[port]}")
                    return tunnel
                self._check(port)
                try:
                    deadline.check()
                except Expired:
                    raise self._too_late(port, deadline) from None
                if say and follower.sight.problem and not follower.sight.place:
                    say(follower.sight.problem.message)
                follower.wait(deadline)

    def _check(self, port: str) -> None:
        """Raise when there will be no tunnel."""
        if self._follower.life.cancelled:
            raise Cancelled("the forward ended")
        if self._follower.sight.place is None or self._why == REFUSED:
            self._follower.check()
        if self._unstartable:
            raise StepFailed(self._unstartable.message, hint=self._unstartable.hint, reason="forward")
        if _FORBIDDEN.search(self._why):
            raise StepFailed(
                f"kubectl port-forward is not allowed: {self._why}",
                hint="ask for the permission `create pods/portforward`, or write `via: proxy`, which needs"
                " `get services/proxy` (of a Service) or `get pods/proxy`",
                reason="Forbidden",
            )
        if _NEVER.search(self._why):
            raise StepFailed(f"kubectl port-forward: {self._why}", reason="forward")

    def _too_late(self, port: str, deadline: Deadline) -> TimedOut:
        sight = self._follower.sight
        if sight.place is None:
            return self._follower.too_late(deadline)
        why = self._why or "no connection through kubectl port-forward was made in time"
        hint = f"which port does it listen on? kubectl logs {sight.place} --namespace={self._namespace}"
        if sight.place.declared:
            hint = f"{sight.place} declares {sight.place.declared}"
        return TimedOut(
            f"port {sight.place.ports[port]} of {sight.place} does not answer: {why}",
            hint=hint if why == REFUSED else "",
            reason="timeout",
        )

    # -- the thread that keeps a tunnel ---------------------------------------------------------------------------

    def _supervise(self) -> None:
        with suppress(RunnerError):  # the life of the forward ends
            while True:
                place, why, since = self._await_need()
                if self._unstartable or not self._tunnel or self._tunnel.dead:
                    self._follower.life.pause(self._next_pause())
                self._replace(place, why, since)

    def _await_need(self) -> tuple[Place, str, float]:
        """Where another tunnel is needed, why, and since when."""
        why, since = "", 0.0
        while True:
            self._stop_gone()
            with self._follower.changed:
                self._follower.life.check()
                sight, tunnel = self._follower.sight, self._tunnel
                if tunnel and (reason := self._reason_to_leave(tunnel, sight)):
                    # The first reason is the cause: a Pod that is being deleted is gone a little later.
                    why, since = why or reason, since or time.monotonic()
                if sight.place and (why or not tunnel):
                    return sight.place, why, since
                if not self._gone():
                    self._follower.changed.wait()

    def _reason_to_leave(self, tunnel: _Tunnel, sight: Sight) -> str:
        if tunnel.dead:
            self._why = tunnel.words or "kubectl port-forward ended"
            self._follower.changed.notify_all()
            return self._why
        if tunnel.place == sight.place:
            return ""
        return (sight.unfit or {}).get(tunnel.place.uid, f"{tunnel.place} is gone")

    def _gone(self) -> list[_Tunnel]:
        """Tunnels to Pods that do not exist any more: kubectl itself would notice at the next connection only."""
        sight = self._follower.sight
        tunnels = [tunnel for tunnel in (self._tunnel, self._retired) if tunnel and not tunnel.child.exited]
        return [tunnel for tunnel in tunnels if sight.unfit is not None and tunnel.place.uid not in sight.unfit]

    def _stop_gone(self) -> None:
        with self._follower.changed:
            gone = self._gone()
        for tunnel in gone:
            tunnel.words = f"{tunnel.place} is gone"
            tunnel.child.stop()

    def _replace(self, place: Place, why: str, since: float) -> None:
        life, served = self._follower.life, self._served
        ports = sorted(set(place.ports.values()))
        line = command(self._namespace, place.name, ports)
        try:
            tunnel = _Tunnel(place, Command(line.argv, env=self._environment), len(ports), self._follower.wake)
        except CannotStart as error:
            self._turn_away(error, since)
            return
        try:
            with life.child(_START_SECONDS) as patience:
                tunnel.await_ports(patience)
        except TimedOut:
            tunnel.words = f"kubectl port-forward did not start within {_START_SECONDS:g} s"
            tunnel.child.stop()
        except RunnerError:
            tunnel.child.stop()
            raise
        with self._follower.changed:
            stale = self._retired
            self._retired = self._tunnel
            self._tunnel = tunnel
            since, self._down_since, self._unstartable = self._down_since or since, 0.0, None
            self._follower.changed.notify_all()
        if stale:
            stale.child.stop()
        if tunnel.usable and self._settled:
            self._report(place, why, since, "warning" if served else "info")

    def _report(self, place: Place, why: str, since: float, level: str) -> None:
        now = time.monotonic()
        last, reported = self._reported
        if (summary := f"{place}: {why}") != last or now - reported > _QUIET_SECONDS:
            self._reported = (summary, now)
            seconds = round(now - since, 3)
            restarted = {"local": self._local, "target": str(place), "seconds": seconds, "why": why}
            self._hand.emit("forward restarted", level=level, **restarted)

    def _turn_away(self, error: CannotStart, since: float) -> None:
        """There is no kubectl any more, or this machine starts no more processes."""
        with self._follower.changed:
            before, self._unstartable = self._unstartable, error
            self._down_since = self._down_since or since or time.monotonic()
            serves = self._tunnel is not None and self._tunnel.usable  # the one to a Pod that should be left
            self._follower.changed.notify_all()
        if self._settled and not serves and (before is None or before.message != error.message):
            message = f"the forward {self._local} is down: {error.message}; connections are closed until it can"
            self._hand.warn(message, hint=error.hint)

    def _next_pause(self) -> float:
        if not self._unstartable and (not self._tunnel or self._tunnel.age() > _STABLE_SECONDS):
            self._pause = 0.0
        pause, self._pause = self._pause, min(_LONGEST_PAUSE, max(_FIRST_PAUSE, self._pause * 2))
        return pause


class _Tunnel:
    """One kubectl port-forward: its local ports, and whether the Pod refused a connection through it."""

    def __init__(self, place: Place, line: Command, ports: int, changed: Callable[[], None]) -> None:
        self.place = place
        self.words = ""
        self.refused = False
        self.refused_one: socket.socket | None = None
        """The connection that the Pod refused, when it can be told which one that was."""
        self.unanswered: WeakKeyDictionary[socket.socket, int] = WeakKeyDictionary()
        """The port in the Pod of every connection through which nothing came yet."""
        self._locals: dict[int, int] = {}
        self._ports = ports
        self._spoken = threading.Event()
        self._started = time.monotonic()
        self.starting = 0.0
        """Seconds until it listened."""
        self._changed = changed
        self.child: Child = start(line, self._on_line, self._on_exit)

    @property
    def dead(self) -> bool:
        # kubectl ends after a refusal; a connection made before it does would be lost.
        return self.child.exited or self.refused

    @property
    def usable(self) -> bool:
        return len(self._locals) == self._ports and not self.dead

    def connect(self, port: str, deadline: Deadline) -> socket.socket:
        number = self.place.ports[port]
        far = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.unanswered[far] = number  # before it is made: kubectl may report a refusal the moment after
        try:
            far.settimeout(deadline.socket_timeout())
            far.connect(("127.0.0.1", self._locals[number]))
        except OSError:
            far.close()
            raise
        far.settimeout(None)
        return far

    def age(self) -> float:
        return time.monotonic() - self._started

    def await_ports(self, deadline: Deadline) -> None:
        """Wait until it listens on all, or has ended."""
        with deadline.closing(self._spoken.set):
            self._spoken.wait(deadline.socket_timeout())
        if not (self.usable or self.dead):
            deadline.check()

    def _on_exit(self) -> None:
        self._spoken.set()
        self._changed()

    def _on_line(self, stream: str, line: str) -> None:
        if stream == "stdout":
            if listening := re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)", line):
                self._locals[int(listening[2])] = int(listening[1])
                if len(self._locals) == self._ports:
                    self.starting = self.age()
                    self._spoken.set()
        elif "connection refused" in line:
            self._on_refusal(line, REFUSED)
        elif _UNDELIVERED.search(line):
            self._on_refusal(line, f"{self.place} is gone")
        elif line.strip() and not self.words:
            self.words = line.strip().removeprefix("error: ")

    def _on_refusal(self, line: str, words: str) -> None:
        self.words = words
        self.refused = True
        port = re.search(r" forwarding \d+ -> (\d+)", line)
        # Every other connection ends, too, and what was said there may have been delivered.
        waiting = [(far, number) for far, number in list(self.unanswered.items()) if far.fileno() >= 0]
        candidates = [far for far, number in waiting if port and number == int(port[1])]
        self.refused_one = self.refused_one or (candidates[0] if len(candidates) == 1 else None)
        self._changed()
