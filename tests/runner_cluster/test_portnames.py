"""Which port a forward means, and what is said of ports that it cannot mean."""

from __future__ import annotations

from typing import Any

import pytest

from runner.cluster import portnames
from runner.errors import StepFailed

SERVICE: dict[str, Any] = {
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {
        "ports": [
            {"port": 80, "protocol": "UDP", "targetPort": 9090},
            {"name": "web", "port": 80, "targetPort": "http", "protocol": "TCP"},
            {"port": 82},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ]
    },
}
POD: dict[str, Any] = {
    "kind": "Pod",
    "metadata": {"name": "a"},
    "spec": {
        "containers": [{"ports": [{"name": "http", "containerPort": 5000}, {"containerPort": 6000}]}],
        "initContainers": [{"ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
    },
}


@pytest.mark.parametrize(("port", "target"), [("80", "http"), ("web", "http"), ("82", "82")])
def test_ports_of_a_service(port: str, target: str) -> None:
    """Of a number that is there twice it is the one that can be forwarded."""
    assert portnames.target_port(SERVICE, port) == target
    assert portnames.target_port(POD, port) == port


def test_ports_of_a_pod() -> None:
    """Numbers are taken at their word."""
    assert [portnames.number(POD, port) for port in ("http", "7000")] == [5000, 7000]
    assert portnames.declared(POD) == "5000 (http), 6000, 53 (dns, UDP)"


@pytest.mark.parametrize(
    ("asked", "port", "message", "hint"),
    [
        (SERVICE, "99", "service/web has no port 99", "its ports: 80 (UDP), 80 (web), 82, 53 (dns, UDP)"),
        ({**SERVICE, "spec": {}}, "99", "service/web has no port 99", "its ports: none"),
        (POD, "grpc", "pod/a has no port named grpc", "its named ports: http, dns"),
        *(
            (
                asked,
                port,
                f"the port {port} of {name} is UDP, which cannot be forwarded: only TCP can",
                "ask it from inside of the cluster, or name a TCP port",
            )
            for asked, name, port in (
                (SERVICE, "service/web", "53"),
                (SERVICE, "service/web", "dns"),
                (POD, "pod/a", "dns"),
            )
        ),
    ],
)
def test_what_is_meant_by_nothing(asked: dict[str, Any], port: str, message: str, hint: str) -> None:
    """With what there is."""
    of = portnames.service_port if asked["kind"] == "Service" else portnames.number
    with pytest.raises(StepFailed) as caught:
        of(asked, port)
    assert (caught.value.message, caught.value.hint, caught.value.reason) == (message, hint, "NoPort")
