"""`make bench`: time, CPU and memory of the pod flow beside a bash script, and of starting; medians, alternating.

Needs a cluster (KUBECONFIG) that has the image `pythonapp`; `make bench` sees to both.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_urlsafe

from runner.cluster.reasons import REASONS
from runner.masking import Mask
from tests.bench import forwarding, reasons, waiting

ROOT = Path(__file__).parents[2]
FLOW = """\
steps:
  - apply: pod.yaml
  - wait: pod/pythonapp
  - run: kubectl get pod
    show: true
  - forward: {{target: pod/pythonapp, ports: "{port}:5000"}}
  - verify: {{url: "http://localhost:{port}/", status: 200, contains: Hello}}
  - delete: pod.yaml
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time and of CPU (the process and all descendants that were waited for), MB of the process."""

    wall: float
    cpu: float
    memory: float


def measure(argv: Sequence[str], cwd: Path) -> Cost:
    """Run a command once; a failure ends the benchmark with its output."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        child = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        peak = _Peak(child.pid)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(argv)} failed:\n{output.read().decode()}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak.stop())


class _Peak:
    """The highest resident memory of one process, not of its children; the kernel keeps the maximum."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/status")
        self._megabytes = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            try:
                text = self._path.read_text()
            except OSError:
                return
            for line in text.splitlines():
                if line.startswith("VmHWM:"):
                    self._megabytes = int(line.split()[1]) / 1024

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._megabytes


def alternate(rounds: int, *subjects: Callable[[], Cost]) -> list[Cost]:
    """The medians of each subject, measured in turn so that a busy moment hits all of them."""
    costs: list[list[Cost]] = [[] for _ in subjects]
    for number in range(rounds):
        for index, subject in enumerate(subjects):
            costs[index].append(subject())
        sys.stderr.write(f"\r{number + 1} of {rounds} ")
    sys.stderr.write("\r" + " " * 20 + "\r")
    return [
        Cost(*(statistics.median(getattr(cost, field) for cost in series) for field in ("wall", "cpu", "memory")))
        for series in costs
    ]


def pod_flow(rounds: int, folder: Path) -> list[str]:
    """The pod flow without the build step, beside the bash script of the same kubectl commands."""
    (folder / "pod.yaml").write_text((ROOT / "workflows/pythonapp/pod.yaml").read_text())
    port = _free_port()
    (folder / "flow.yaml").write_text(FLOW.format(port=port))
    script = [str(ROOT / "tests/bench/pod.sh"), "pod.yaml", str(port)]
    flow = [sys.executable, "-m", "runner", "flow.yaml"]
    bash, ours = alternate(rounds, lambda: measure(script, folder), lambda: measure(flow, folder))
    return [
        f"| pod flow, wall | {ours.wall:.2f} s | bash {bash.wall:.2f} s | {ours.wall / bash.wall:.2f} | 1.05 |",
        f"| pod flow, CPU of all | {ours.cpu:.2f} s | bash {bash.cpu:.2f} s | {ours.cpu / bash.cpu:.2f} | 3 |",
        f"| pod flow, memory of the runner | {ours.memory:.0f} MB | | | |",
    ]


def safety(rounds: int, folder: Path) -> list[str]:
    """The pod flow with journal and watchdog, and with masking, beside the same without; what starts of them counts as
    the runner's.
    """
    (folder / "pod.yaml").write_text((ROOT / "workflows/pythonapp/pod.yaml").read_text())
    (folder / "flow.yaml").write_text(FLOW.format(port=_free_port()))
    modules = (["runner"], ["tests.bench.unguarded", "crashes"], ["tests.bench.unguarded", "masking"])
    flows = [[sys.executable, "-m", *module, "flow.yaml"] for module in modules]
    ours, *bare = alternate(rounds, *(lambda argv=argv: measure(argv, folder) for argv in flows))
    rows = []
    for what, without in zip(("journal and watchdog", "masking"), bare, strict=True):
        wall, cpu = ours.wall / without.wall, ours.cpu / without.cpu
        rows += [
            f"| {what}, wall | {ours.wall:.2f} s | without {without.wall:.2f} s | {wall:.2f} | 1.03 |",
            f"| {what}, CPU of all | {ours.cpu:.2f} s | without {without.cpu:.2f} s | {cpu:.2f} | |",
        ]
    return [*rows, _masked_line(4), _masked_line(200)]


def _masked_line(secrets: int) -> str:
    """What a line of a child costs that has no secret in it."""
    mask = Mask()
    mask.hide(f"{number}-{token_urlsafe(24)}" for number in range(secrets))
    line = '10.244.0.1 - - [27/Nov/2026 07:18:43] "GET /healthz HTTP/1.1" 200 17 "-" "kube-probe/1.34"'
    mask(line)  # compiled when it is needed first
    seconds = min(timeit.repeat(lambda: mask(line), number=1000, repeat=7)) / 1000
    return f"| masking of a log line, {secrets} secrets | {seconds * 1e6:.1f} us | | | |"


def starting(rounds: int, folder: Path) -> list[str]:
    """`--version` beside a bare Python, `validate` beside the import of the two libraries that it cannot do without."""
    python = [sys.executable]
    version = [*python, "-m", "runner", "--version"]
    validate = [*python, "-m", "runner", "validate", str(ROOT / "workflows/pod.yaml")]
    bare = [*python, "-c", "pass"]
    libraries = [*python, "-c", "import yaml, jsonschema"]
    commands = (bare, version, libraries, validate)
    costs = alternate(max(rounds, 15), *(lambda argv=argv: measure(argv, folder) for argv in commands))
    rows = []
    for name, ours, other, beside, limit in (
        ("runner --version", costs[1], costs[0], "python -c pass", 3),
        ("runner validate", costs[3], costs[2], 'python -c "import yaml, jsonschema"', 1.5),
    ):
        ratio = ours.wall / other.wall
        times = f"{ours.wall * 1e3:.0f} ms | {beside} {other.wall * 1e3:.0f} ms"
        rows.append(f"| {name}, wall | {times} | {ratio:.2f} | {limit} |")
    return rows


def _provide_image() -> None:
    """Build the app's image and make it known to the nodes, by the workflow itself."""
    argv = [sys.executable, "-m", "runner", str(ROOT / "workflows/pod.yaml")]
    answer = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(answer.stdout + answer.stderr)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Part = Callable[[int, Path], list[str]]
PARTS: dict[str, Part] = {
    "start": starting,
    "pod": pod_flow,
    "safety": safety,
    "latency": waiting.latency,
    "crowds": waiting.crowds,
    "forward": forwarding.forwarding,
    "reasons": reasons.reasons,
}
"""What is measured: each answers rows of the table."""
USUAL = [part for part in PARTS if part != "reasons"]
"""`reasons` takes minutes, and writes the figures of the reference anew."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=USUAL, help="these parts (all but reasons)")
    parser.add_argument("--reasons", choices=REASONS, nargs="+", default=(), metavar="REASON", help="of reasons, these")
    options = parser.parse_args()
    if not os.environ.get("KUBECONFIG"):
        sys.exit("no cluster: `make bench` starts one, KUBECONFIG=... make bench takes yours")
    _provide_image()
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        parts: dict[str, Part] = {**PARTS, "reasons": partial(reasons.reasons, chosen=options.reasons)}
        rows = [row for part in options.only for row in parts[part](options.rounds, folder)]
    print(f"medians of {options.rounds} runs, alternating; {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    print("| | runner | beside | ratio | limit |\n|---|---|---|---|---|")
    print("\n".join(rows))
    if too_much := [row for row in rows if _exceeds(row)]:
        sys.exit("over the limit:\n" + "\n".join(too_much))


def _exceeds(row: str) -> bool:
    *_, ratio, limit = (cell.strip() for cell in row.strip("|").split("|"))
    return bool(limit) and float(ratio) > float(limit)


if __name__ == "__main__":
    main()
