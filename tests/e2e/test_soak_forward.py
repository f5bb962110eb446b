"""Forwards for as long as somebody has them: 10,000 requests in a row, 10,000 with 50 at once, 100 MB there and back,
four minutes without any (`make soak`).

The last result, on a machine with two cores that did other things besides: 39 s, 17 s and 1.1 s, with `via: proxy`
95 s, 24 s and 0.8 s; memory of the runner 66 MB before and 71 MB after, with `via: proxy` 56 MB and 58 MB.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_forward import CLIENT, DEPLOYMENT, ECHO, SERVICE

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("app_image")]

LONG = """
def memory():
    status = pathlib.Path(f"/proc/{runner}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS"))

def timed(what, deed):
    began = time.monotonic()
    deed()
    print(what, f"{time.monotonic() - began:.1f} s")

ask(200)
together(50, 20)  # what 50 at once need, they keep
echo(ports[0])
before, megabytes = held(), memory()
timed("10,000 in a row", lambda: ask(10_000))
timed("10,000 with 50 at once", lambda: together(50, 200))
timed("100 MB there and back", lambda: echo(ports[0]))
let_go(before)
time.sleep(240)
timed("after four minutes", lambda: ask(1))
let_go(before)
print("memory", megabytes, "MB, then", memory(), "MB")
assert memory() < megabytes + 10
"""


@pytest.mark.parametrize(("via", "tunnels"), [("port_forward", "1"), ("proxy", "0")])
def test_nothing_stalls_and_nothing_leaks(
    via: str,
    tunnels: str,
    runner: Callable[..., Any],
    cluster_env: dict[str, str],
    namespace: str,
    tmp_path: Path,
) -> None:
    """Descriptors, threads, children and memory of the runner are those of before."""
    for name, object_ in (("web.json", DEPLOYMENT), ("service.json", SERVICE)):
        (tmp_path / name).write_text(json.dumps(object_))
    (tmp_path / "long.py").write_text(ECHO + CLIENT + LONG)
    (tmp_path / "flow.yaml").write_text(
        textwrap.dedent(f"""
            timeout: 30m
            steps:
              - apply: [web.json, service.json]
              - wait: deployment/web
              - id: web
                forward: {{target: service/web, ports: ":http", via: {via}}}
              - run: [python3, long.py]
                timeout: 20m
                show: true
                env:
                  PORT: "${{{{ steps.web.outputs.port }}}}"
                  METRICS: "${{{{ steps.web.outputs.port }}}}"
                  TUNNELS: "{tunnels}"
            """)
    )

    answer = runner("run", tmp_path / "flow.yaml", "-n", namespace, env=cluster_env, timeout=1500)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    print(answer.stdout)
