"""Every fault × every kind of step, on the real cluster: what passes is survived, what is final is said at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import server
from tests.faults.server import Plan

if TYPE_CHECKING:
    from tests.faults.conftest import Outcome, Through

pytestmark = pytest.mark.e2e

WATCH = r"watch=1"
MUTATION = r"^(POST|PATCH|PUT|DELETE) "

# Every step is armed anew: its first requests fail.
ALL = """
steps:
  - run: ${arm} apply
  - {id: apply, apply: pod.yaml}
  - run: ${arm} wait
  - {id: wait, wait: pod/app}
  - run: ${arm} forward
  - {id: forward, forward: {target: pod/app, ports: ":5000"}}
  - run: ${arm} verify
  - {id: verify, verify: {url: "${{ steps.forward.outputs.url }}", contains: Hello}}
  - run: ${arm} load
  - {id: load, load: pythonapp}
  - run: ${arm} run
  - {id: run, run: kubectl get pods --request-timeout=3s, retry: {attempts: 4, interval: 100ms}}
  - {id: keep, apply: ${map}.yaml}
  - run: ${arm} delete
  - {id: delete, delete: {target: pod/app, grace: 1}}
  - run: ${arm} cleanup
"""
KINDS = ("apply", "wait", "forward", "verify", "load", "run", "delete")
# The kinds whose requests each fault meets at least; below, each with the rules by which the log says that it was met.
LOOKS = frozenset({"apply", "wait", "forward", "delete", "cleanup"})
WATCHES = frozenset({"wait", "delete"})
MUTATES = frozenset({"apply", "delete", "cleanup"})

TRANSIENT: dict[str, tuple[Plan, frozenset[str], set[str]]] = {
    "delay": (Plan(server.delay(0.3), times=8), LOOKS, set()),
    "reset": (Plan(server.reset, times=2), LOOKS, {"bad gateway", "connection cut"}),
    "reset of what is open": (Plan(server.reset, times=1, cut_open=True), LOOKS, {"bad gateway", "connection cut"}),
    "cut": (Plan(server.cut, times=2), LOOKS, {"connection cut"}),
    "429": (Plan(server.status(429, "TooManyRequests"), times=2), LOOKS, {"too many requests"}),
    "429 with Retry-After": (
        Plan(server.status(429, "TooManyRequests", Retry_After="1"), times=1),
        LOOKS,
        {"too many requests"},
    ),
    "500": (Plan(server.status(500, "InternalError"), times=2), LOOKS, {"internal error"}),
    "503": (Plan(server.status(503, "ServiceUnavailable"), times=2), LOOKS, {"unavailable"}),
    "503 with Retry-After": (
        Plan(server.status(503, "ServiceUnavailable", Retry_After="1"), times=1),
        LOOKS,
        {"unavailable"},
    ),
    "garbage": (Plan(server.garbage, times=1), LOOKS, {"unreadable answer"}),
    "drip": (Plan(server.drip, "/namespaces/"), LOOKS, set()),
    "410 on watch": (Plan(server.status(410, "Expired"), WATCH, times=2), WATCHES, {"expired version"}),
    "410 in a watch": (Plan(server.gone_event, WATCH, times=2), WATCHES, {"expired version"}),
    "watch closed each second": (Plan(server.closed_each(1), WATCH), WATCHES, set()),
    "black hole once": (
        Plan(server.black_hole, "fieldSelector=metadata.name|watch=1", times=1),
        frozenset({"apply", "wait", "delete"}),
        {"no answer"},
    ),
    "black hole once for kubectl": (
        Plan(server.black_hole, r"pods/app\?timeout=", times=1),
        frozenset({"apply"}),
        {"NoAnswer"},
    ),
    "reset of mutations": (Plan(server.reset, MUTATION, times=2), MUTATES, {"ConnectionLost"}),
    "429 on mutations": (Plan(server.status(429, "TooManyRequests"), MUTATION, times=2), MUTATES, {"TooManyRequests"}),
    "500 on mutations": (Plan(server.status(500, "InternalError"), MUTATION, times=2), MUTATES, {"InternalError"}),
    "503 on mutations": (
        Plan(server.status(503, "ServiceUnavailable"), MUTATION, times=2),
        MUTATES,
        {"ServiceUnavailable"},
    ),
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_passes_is_survived(through: Through, fault: str) -> None:
    """All kinds of steps, and the cleanup, in one run; the log says what was asked again, and by which rule."""
    plan, met, rules = TRANSIENT[fault]

    outcome = through(plan, ALL)

    assert outcome.code == 0, str(outcome)
    assert {kind: outcome.steps[kind]["status"] for kind in KINDS} == dict.fromkeys(KINDS, "success")
    assert outcome.cleanup["left"] == []
    assert {kind for kind in met if not outcome.hit(kind)} == set()
    told = {event["rule"] for event in outcome.told("request retried", "command retried")}
    assert not rules or told & rules, (told, str(outcome))


# One step of each kind that is refused for ever, from the moment in which it starts.
ONE = {
    "apply": "steps: [{run: ${arm} it}, {id: it, apply: ${map}.yaml}]",
    "wait": "steps: [{run: ${arm} it}, {id: it, wait: pod/none}]",
    "forward": 'steps: [{run: ${arm} it}, {id: it, forward: {target: pod/none, ports: ":80"}}]',
    "delete": "steps: [{apply: ${map}.yaml}, {run: ${arm} it}, {id: it, delete: configmap/${map}}]",
}
PERMANENT = {
    "401": Plan(server.status(401, "Unauthorized")),
    "403": Plan(server.status(403, "Forbidden")),
    "404": Plan(server.status(404, "NotFound"), "^GET [^?]*/(pods|configmaps)[?]"),
    "422 on mutations": Plan(server.status(422, "Invalid"), MUTATION),
    "403 on mutations": Plan(server.status(403, "Forbidden"), MUTATION),
    "500": Plan(server.status(500, "InternalError")),
    "garbage": Plan(server.garbage),
}
MEETS = [
    *((fault, kind) for fault in ("401", "403", "500", "garbage") for kind in ONE),
    ("404", "wait"),
    *((fault, kind) for fault in ("422 on mutations", "403 on mutations") for kind in ("apply", "delete")),
]


def all_at_once(through: Through, plans: dict[Any, tuple[Plan, str]], *arguments: str) -> dict[Any, Outcome]:
    """Runs of several workflows, each through a server of its own, a few at a time."""
    with ThreadPoolExecutor(4) as pool:
        runs = {key: pool.submit(through, plan, text, *arguments) for key, (plan, text) in plans.items()}
    return {key: run.result() for key, run in runs.items()}


@pytest.mark.parametrize("fault", PERMANENT)
def test_what_does_not_pass_is_said_at_once(through: Through, fault: str) -> None:
    """Long before the step's timeout, and in the server's words."""
    plan = PERMANENT[fault]
    outcomes = all_at_once(through, {kind: (plan, ONE[kind]) for name, kind in MEETS if name == fault}, "--keep")

    for kind, outcome in outcomes.items():
        step = outcome.steps["it"]
        assert (outcome.code, step["status"]) == (1, "failure"), f"{kind}: {outcome}"
        assert step["seconds"] < 20, f"{kind}: {outcome}"
        words = "not JSON" if fault == "garbage" else "made to fail with"
        assert words in step["failure"]["message"], f"{kind}: {outcome}"


def test_cleanup_that_is_refused_is_said_at_once(through: Through) -> None:
    """What is left is named, with the command that removes it."""
    text = "steps: [{apply: ${map}.yaml}, {run: ${arm} cleanup}]"

    outcome = through(Plan(server.status(403, "Forbidden"), MUTATION), text)

    assert outcome.code == 5, str(outcome)
    (left,) = outcome.cleanup["left"]
    assert left["object"].startswith("configmap/m")
    assert "made to fail with 403" in left["why"]
    assert left["command"].startswith("kubectl delete configmap/m")
    assert outcome.cleanup["seconds"] < 20


SILENT = {
    "apply": "steps: [{run: ${arm} it}, {id: it, apply: ${map}.yaml, timeout: 7s}]",
    "wait": "steps: [{run: ${arm} it}, {id: it, wait: pod/none, timeout: 7s}]",
    "forward": 'steps: [{run: ${arm} it}, {id: it, forward: {target: pod/none, ports: ":80"}, timeout: 7s}]',
    "delete": "steps: [{apply: ${map}.yaml}, {run: ${arm} it}, {id: it, delete: configmap/${map}, timeout: 7s}]",
    "run": "steps: [{run: ${arm} it}, {id: it, run: kubectl get pods, timeout: 4s}]",
    "verify": """
        steps:
          - apply: pod.yaml
          - wait: pod/app
          - {id: f, forward: {target: pod/app, ports: ":5000"}}
          - run: ${arm} it
          - {id: it, verify: {url: "${{ steps.f.outputs.url }}"}, timeout: 7s}
    """,
}


def test_black_hole_ends_every_step_within_its_timeout(through: Through) -> None:
    """The message names the server and what to type; the log says what happens long before."""
    silent = Plan(server.black_hole, cut_open=True)
    outcomes = all_at_once(through, {kind: (silent, text) for kind, text in SILENT.items()}, "--keep")

    for kind, outcome in outcomes.items():
        failure = outcome.steps["it"]["failure"]
        assert outcome.code == 1, f"{kind}: {outcome}"
        assert outcome.steps["it"]["seconds"] < 15, f"{kind}: {outcome}"
        assert f"the API server {outcome.server.url} does not answer" in failure["message"], f"{kind}: {outcome}"
        assert "kubectl --context=faults get --raw=/readyz" in failure["hint"], f"{kind}: {outcome}"
        if kind in LOOKS:
            (first, *_) = outcome.told("request retried")
            assert (first["level"], first["rule"]) == ("warning", "no answer"), f"{kind}: {outcome}"


def test_black_hole_from_the_start(through: Through) -> None:
    """Nothing is run, and the message says which server does not answer."""
    outcome = through(Plan(server.black_hole, armed=True), "steps: [{wait: pod/none}]")

    assert outcome.code == 3, str(outcome)
    assert (
        f"the cluster of context faults ({outcome.server.url}) does not answer: no answer within" in f"{outcome.report}"
    )


def test_nothing_is_asked_in_a_loop(through: Through) -> None:
    """A watch that ends at once, each time: the fault server counts."""
    plan = Plan(server.closed_each(0.01), WATCH)
    outcome = through(plan, "steps: [{run: ${arm} it}, {id: it, wait: pod/none, timeout: 5s}]")

    assert outcome.steps["it"]["failure"]["message"].startswith("timed out after 5 s: pod/none does not exist")
    # Pauses of 0.05, 0.1, 0.2, 0.4, 0.8, 1.6 and 2 s, shortened by a quarter at most.
    assert 3 <= outcome.hit("it") <= 9, str(outcome)


def silence_after_the_watch() -> server.Fault:
    """A watch begins; from then on it, and everything else, is a black hole."""
    opened = threading.Event()

    def fault(exchange: server.Exchange) -> None:
        if opened.is_set():
            server.black_hole(exchange)
        elif "watch=1" in exchange.request.path:
            opened.set()
            server.silent_watch(exchange)
        else:
            server.pass_on(exchange)

    return fault


def test_silence_in_the_middle(through: Through) -> None:
    """While a watch is open it is reported long before the step's end, and named there."""
    text = "steps: [{run: ${arm} it}, {id: it, wait: pod/none, timeout: 11s}]"

    outcome = through(Plan(silence_after_the_watch()), text)

    (first, *_) = outcome.told("request retried")
    (failed,) = outcome.told("step failed")
    assert (first["level"], first["rule"]) == ("warning", "no answer"), str(outcome)
    assert first["request"].startswith("watch ")
    assert first["time"] < failed["time"]
    assert f"the API server {outcome.server.url} does not answer" in failed["message"]


def proxies(folder: Path) -> list[int]:
    """The kubectl proxies of runs whose state is in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (process / "cmdline").read_bytes()
            if b"--unix-socket=" in line and str(folder).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def test_proxy_that_is_killed(through: Through, kubectl: Callable[..., str], namespace: str, tmp_path: Path) -> None:
    """In the middle of a wait: another one takes over, and the object that came meanwhile is seen."""

    def kill_it() -> None:
        for pid in proxies(tmp_path):
            os.kill(pid, signal.SIGKILL)
        kubectl("create", "configmap", "m", "-n", namespace)

    def fault(exchange: server.Exchange) -> None:
        threading.Timer(0.3, kill_it).start()
        server.pass_on(exchange)

    text = "steps: [{run: ${arm} it}, {id: it, wait: {target: configmap/m, until: exists}, timeout: 20s}]"
    outcome = through(Plan(fault, WATCH, times=1), text)

    assert outcome.code == 0, str(outcome)
    assert outcome.told("request retried")[0]["rule"] in ("connection cut", "connection refused")
