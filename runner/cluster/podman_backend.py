"""The far end of a forward: the Pod's own address, or the port of this machine that podman publishes."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Final

from runner.cluster.podman_dialect import kind_of
from runner.cluster.podman_objects import port_number
from runner.cluster.podman_observer import Observer
from runner.cluster.protocol import Object, Selection, selector_of
from runner.deadline import Deadline
from runner.errors import StepFailed

# Deletes an entry of the table of neighbours; <linux/sockios.h>.
_SIOCDARP: Final = 0x8953
CONNECT_SECONDS: Final = 5.0


class PodmanBackend:
    """Implements `protocol.Backend`. `direct` is whether the addresses of Pods can be reached from here."""

    def __init__(self, observer: Observer, target: Selection, port: str, deadline: Deadline, *, direct: bool) -> None:
        self._observer = observer
        self._target = target
        self._name = port
        self._direct = direct
        self._address: tuple[str, int] | None = self._resolve(deadline)

    def connect(self, deadline: Deadline) -> socket.socket:
        """The application may not listen yet, and the Pod may just be replaced: tried again until the deadline."""
        pause = 0.01
        while True:
            deadline.check()
            self._address = self._address or self._resolve(deadline)
            try:
                return _connected(self._address, deadline)
            except OSError:
                self._address = None
            deadline.pause(pause)
            pause = min(0.25, pause * 2)

    def refused(self, far: socket.socket) -> bool:
        """A refusal is seen by `connect` itself; behind a published port nobody can tell it from an end."""
        return False

    def close(self) -> None:
        """Connections belong to who asked for them."""

    def _resolve(self, deadline: Deadline) -> tuple[str, int]:
        """Where the port of the target is, once one of its Pods runs."""
        target, port = self._target, self._name
        if kind_of(target.kind) == "Service":
            target, port = self._behind_service()
        for objects in self._observer.watch(target, deadline):
            running = [item for item in objects if item["status"].get("podIP")]
            if running:
                self.port = port_number(running[-1], port)
                return self._reach(running[-1])
        raise AssertionError  # a watch ends only by an exception

    def _behind_service(self) -> tuple[Selection, str]:
        """The Pods and the port behind a Service that this run applied."""
        target, port = self._target, self._name
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

    def _reach(self, pod: Object) -> tuple[str, int]:
        if self._direct:
            _forget_neighbour(pod["status"]["podIP"])
            return pod["status"]["podIP"], self.port
        published = pod["status"]["published"]
        if self.port in published:
            return "127.0.0.1", published[self.port]
        raise StepFailed(
            f"port {self.port} of pod/{pod['metadata']['name']} cannot be reached: podman without root reaches"
            " published ports only",
            hint=f"write `ports: [{{containerPort: {self.port}}}]` into the manifest, and it is published",
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
