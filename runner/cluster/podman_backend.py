"""The far end of a forward: the Pod's own address, or the port of this machine that podman publishes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from runner.cluster.podman_dialect import kind_of
from runner.cluster.podman_objects import port_number
from runner.cluster.podman_observer import Observer
from runner.cluster.protocol import Hand, Object, Selection, selector_of
from runner.cluster.relay import Say, await_listener, carry
from runner.deadline import Deadline
from runner.errors import StepFailed

# Deletes an entry of the table of neighbours; <linux/sockios.h>.
_SIOCDARP: Final = 0x8953
CONNECT_SECONDS: Final = 5.0
_SILENCE_SECONDS: Final = 0.05


class PodmanFarEnd:
    """Implements `protocol.FarEnd`. `direct` is whether the addresses of Pods can be reached from here."""

    def __init__(self, observer: Observer, target: Selection, *, direct: bool) -> None:
        self._observer = observer
        self._target = target
        self._direct = direct
        self._addresses: dict[str, tuple[str, int]] = {}

    def await_answer(self, ports: Sequence[str], hand: Hand) -> str:
        for port in ports:
            await_listener(self, port, hand.deadline, hand.waiting)
        return ""

    def serve(self, port: str, client: socket.socket, life: Deadline) -> None:
        carry(self, port, client, life)

    def connect(self, port: str, deadline: Deadline, say: Say | None = None) -> socket.socket:
        """The application may not listen yet, and the Pod may just be replaced: tried again until the deadline."""
        pause = 0.01
        while True:
            deadline.check()
            address = self._addresses.get(port)
            if address is None:
                address = self._addresses[port] = self._resolve(port, deadline, say)
            if say:
                say(f"{self._target} to listen on port {port}")
            try:
                return _connected(address, deadline)
            except OSError:
                self._addresses.pop(port, None)
            deadline.pause(pause)
            pause = min(0.25, pause * 2)

    def silence(self) -> float:
        """A Pod refuses the connection itself; podman takes those to a published port, and ends them then."""
        return 0.0 if self._direct else _SILENCE_SECONDS

    def answered(self, far: socket.socket) -> None:
        """Nothing hangs on it here."""

    def refused(self, far: socket.socket) -> bool:
        """A refusal is seen by `connect` itself; behind a published port nobody can tell it from an end."""
        return False

    def close(self) -> None:
        """Connections belong to who asked for them."""

    def _resolve(self, port: str, deadline: Deadline, say: Say | None) -> tuple[str, int]:
        """Where a port of the target is, once one of its Pods runs."""
        target = self._target
        if kind_of(target.kind) == "Service":
            target, port = self._behind_service(port)
        for objects in self._observer.watch(target, deadline):
            running = [item for item in objects if item["status"].get("podIP")]
            if running:
                return self._reach(running[-1], port_number(running[-1], port))
            if say:
                say(f"a running Pod of {self._target}")
        raise AssertionError  # a watch ends only by an exception

    def _behind_service(self, port: str) -> tuple[Selection, str]:
        """The Pods and the port behind a Service that this run applied."""
        target = self._target
        found = (self._observer.known.get(("Service", name)) for name in target.names)
        service = next((item for item in found if item), None)
        if service is None:
            raise StepFailed(f"podman has no {target}", hint="forward to a pod or a deployment", reason="NotFound")
        spec = service.get("spec") or {}
        selector = selector_of(spec.get("selector") or {})
        for item in spec.get("ports") or ():
            if port in (str(item["port"]), item.get("name")):
                return Selection("Pod", selector=selector), str(item.get("targetPort", item["port"]))
        known = ", ".join(str(item["port"]) for item in spec.get("ports") or ())
        raise StepFailed(f"{target} has no port {port}", hint=f"its ports: {known or 'none'}", reason="NoPort")

    def _reach(self, pod: Object, port: int) -> tuple[str, int]:
        if self._direct:
            _forget_neighbour(pod["status"]["podIP"])
            return pod["status"]["podIP"], port
        published = pod["status"]["published"]
        if port in published:
            return "127.0.0.1", published[port]
        raise StepFailed(
            f"port {port} of pod/{pod['metadata']['name']} cannot be reached: podman without root reaches"
            " published ports only",
            hint=f"write `ports: [{{containerPort: {port}}}]` into the manifest, and it is published",
            reason="NoPort",
        )


def _forget_neighbour(address: str) -> None:
    """Make the kernel ask anew who has an address: podman gives those of earlier Pods again, and the kernel would look
    for the hardware address of the earlier one, which takes it 8 s to give up. Harmless when it cannot be done.
    """
    import fcntl

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        protocol_address = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
        fcntl.ioctl(any_socket, _SIOCDARP, protocol_address + bytes(16 + 4 + 16 + 16))  # <net/if_arp.h>: arpreq


def _connected(address: tuple[str, int], deadline: Deadline) -> socket.socket:
    """A connection; a deadline that is cancelled while it is being made ends it at once."""
    connection = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)

    def abort() -> None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    try:
        connection.settimeout(deadline.remaining(CONNECT_SECONDS))
        with deadline.closing(abort):
            connection.connect(address)
        connection.settimeout(None)
        return connection
    except BaseException:
        connection.close()
        raise
