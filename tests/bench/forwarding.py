"""Forwarding: requests per second and latency through `forward`, by port-forward and via proxy, beside a plain `kubectl
port-forward` to the same Pod. A connection for each request, as tests make them; one after the other, and 50 at once.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).parents[2]
IN_A_ROW = 300
CLIENTS = 50
EACH = 10
# The app of the demo takes 5 connections at once; more wait for a second.
APP = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Server(ThreadingHTTPServer):
    request_queue_size = 128

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"Hello\\n")

Server(("", 5000), Handler).serve_forever()
"""
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 5000}]},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {"name": "app", "image": "pythonapp", "imagePullPolicy": "Never", "command": ["python3", "-c", APP]}
        ],
    },
}
FLOW = """\
namespace: {{generate: bench-forwarding-}}
steps:
  - apply: [pod.json, service.json]
  - wait: pod/web
  - id: web
    forward: {{target: pod/web, ports: ":5000"}}
  - id: proxied
    forward: {{target: service/web, ports: ":5000", via: proxy}}
  - run: [{python}, -m, tests.bench.forwarding, "{rounds}", "{figures}"]
    env: {{FORWARD: "${{{{ steps.web.outputs.port }}}}", PROXY: "${{{{ steps.proxied.outputs.port }}}}"}}
"""


def forwarding(rounds: int, folder: Path) -> list[str]:
    """The rows of the table."""
    (folder / "pod.json").write_text(json.dumps(POD))
    (folder / "service.json").write_text(json.dumps(SERVICE))
    flow, figures = folder / "forwarding.yaml", folder / "forwarding.json"
    flow.write_text(FLOW.format(python=sys.executable, rounds=rounds, figures=figures))
    answer = subprocess.run(
        [sys.executable, "-m", "runner", flow], cwd=folder, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        sys.exit(answer.stdout + answer.stderr)
    rows = []
    for number, title in enumerate(("in a row", f"{CLIENTS} at once")):
        kubectl, ours, proxied = (_Figures(series[number]) for series in json.loads(figures.read_text()))
        rows += [
            f"| forward, {title} | {ours} | kubectl port-forward {kubectl} | {ours.median / kubectl.median:.2f} | |",
            f"| forward via proxy, {title} | {proxied} | | {proxied.median / kubectl.median:.2f} | |",
        ]
    return rows


class _Figures:
    """Of all rounds: requests per second, and the latencies in ms."""

    def __init__(self, rounds: Sequence[Sequence[float]]) -> None:
        self.rate, self.median, self.p99 = (statistics.median(column) for column in zip(*rounds, strict=True))

    def __str__(self) -> str:
        return f"{self.rate:.0f}/s, median {self.median:.1f} ms, p99 {self.p99:.1f} ms"


def main() -> None:
    """The client, a step of the workflow: the three in turn, so that a busy moment hits all of them."""
    rounds, figures = int(sys.argv[1]), Path(sys.argv[2])
    line = ["kubectl", "port-forward", "--address=127.0.0.1", "pod/web", ":5000"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as kubectl:
        assert kubectl.stdout
        listening = re.search(r":(\d+) ->", kubectl.stdout.readline())
        threading.Thread(target=kubectl.stdout.read, daemon=True).start()  # it stops when nobody reads
        assert listening
        ports = [int(listening[1]), int(os.environ["FORWARD"]), int(os.environ["PROXY"])]
        series: list[tuple[list[list[float]], list[list[float]]]] = [([], []) for _ in ports]
        for _ in range(rounds):
            for port, (in_a_row, together) in zip(ports, series, strict=True):
                in_a_row.append(_load(port, 1, IN_A_ROW))
                together.append(_load(port, CLIENTS, EACH))
        kubectl.terminate()
    figures.write_text(json.dumps(series))


def _load(port: int, clients: int, each: int) -> list[float]:
    """Requests per second, median and 99th percentile of the latency in ms."""
    seconds: list[float] = []

    def client() -> None:
        for _ in range(each):
            started = time.perf_counter()
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/")
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            if (answer.status, text) == (200, b"Hello\n"):
                seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - started
    if len(seconds) != clients * each:
        sys.exit(f"{clients * each - len(seconds)} of {clients * each} requests failed through port {port}")
    return [len(seconds) / wall, statistics.median(seconds) * 1e3, statistics.quantiles(seconds, n=100)[98] * 1e3]


if __name__ == "__main__":
    main()
