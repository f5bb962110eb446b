"""`forward`: how ports are written, what is wrong with them, what a script would type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.cluster.kubectl import KubectlDialect
from runner.steps import forward
from runner.steps.kind import Files, Scene

SCENE = Scene(
    dialect=KubectlDialect(), namespace="demo", folder=Path(), variable=lambda output: f"web_{output}", timeout=30
)
FILES = Files(Path(), Path())


@pytest.mark.parametrize(
    ("data", "ports"),
    [
        ({"ports": "8080:80"}, [("127.0.0.1", 8080)]),
        ({"ports": "8000"}, [("127.0.0.1", 8000)]),
        ({"ports": ":80"}, []),
        ({"ports": "http"}, []),
        ({"ports": ["1:80", ":81", "2:http"], "address": "0.0.0.0"}, [("0.0.0.0", 1), ("0.0.0.0", 2)]),
        ({"ports": "${{ inputs.port }}:80"}, []),
        ({}, []),
    ],
)
def test_ports_that_are_known_before_the_run(data: dict[str, Any], ports: list[tuple[str, int]]) -> None:
    """Those are checked before anything is created."""
    assert list(forward.fixed_ports(data)) == ports


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"target": "web", "ports": "80"}, "'web' is not a reference to an object"),
        ({"target": {"kind": "pod"}, "ports": "80"}, "a target needs a name or a selector, one of them"),
        ({"target": "pod/a", "ports": "80:99999"}, "'80:99999': a port is a number from 1 to 65535"),
        ({"target": "pod/a", "ports": ["80", "0:80"]}, "'0:80': a port is a number from 1 to 65535"),
    ],
)
def test_faults(data: dict[str, Any], message: str) -> None:
    """Each is found at validation."""
    assert message in [fault.message for fault in forward.check(data, FILES)]


@pytest.mark.parametrize("port", ["80", "8080:80", ":80", ":http", "9090:metrics-2", "http"])
def test_ports_that_are_valid(port: str) -> None:
    """As kubectl takes them; a name may stand for the target's port."""
    args = msgspec.convert({"target": "pod/a", "ports": port}, forward.Args)

    assert list(forward.check({"target": "pod/a", "ports": port}, FILES)) == []
    assert args.ports == port


@pytest.mark.parametrize("port", ["a:b:c", "80:", "", "80 81", "-1:80", "x:80"])
def test_ports_that_the_schema_refuses(port: str) -> None:
    """The pattern is the whole syntax."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"target": "pod/a", "ports": port}, forward.Args)


def test_equivalent_of_a_fixed_and_a_free_port() -> None:
    """Lines of bash for the functions of a planned script; the outputs are variables."""
    args = msgspec.convert({"target": "service/web", "ports": [":80", "9090:metrics"]}, forward.Args)

    kubectl = "kubectl port-forward --address=127.0.0.1 --namespace=demo service/web"
    assert forward.equivalent(args, SCENE) == (
        "web_port=$(free_port)",
        "web_host=127.0.0.1",
        'web_url="http://127.0.0.1:$web_port"',
        'web_ports_80="$web_port"',
        f'forward "$web_port" {kubectl} "$web_port:80"',
        "web_ports_metrics=9090",
        f"forward 9090 {kubectl} 9090:metrics",
    )


def test_equivalent_through_the_api_server() -> None:
    """A path stands behind the port; in place of a workload stands one of its Pods."""
    args = msgspec.convert({"target": "svc/web", "ports": "8080:http", "via": "proxy"}, forward.Args)
    assert forward.equivalent(args, SCENE) == (
        "web_port=8080",
        "web_host=127.0.0.1",
        'web_url="http://127.0.0.1:$web_port/api/v1/namespaces/demo/services/web:http/proxy"',
        "web_ports_http=8080",
        "forward 8080 kubectl proxy --address=127.0.0.1 --port=8080",
    )
    args = msgspec.convert({"target": "deployment/web", "ports": ":80", "via": "proxy"}, forward.Args)
    assert forward.equivalent(args, SCENE) == (
        "web_port=$(free_port)",
        "web_host=127.0.0.1",
        'web_url="http://127.0.0.1:$web_port/api/v1/namespaces/demo/pods/POD:80/proxy"',
        'web_ports_80="$web_port"',
        'forward "$web_port" kubectl proxy --address=127.0.0.1 --port="$web_port"',
    )


def test_title_says_what_and_where() -> None:
    """The default name of a step."""
    assert forward.title({"target": "pod/a", "ports": "80"}) == "pod/a 80"
    assert forward.title({"target": {"kind": "pod", "selector": "a=b"}, "ports": ["1:80", ":81"]}) == "pod a=b 1:80 :81"
