"""Steps inside of a step (`verify: {throughout: [steps]}`): how they are checked, planned, run and reported."""

from __future__ import annotations

import json
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import building, document, preflight
from runner.cli import main
from runner.cluster.protocol import Selection
from runner.errors import CannotStart, InvalidWorkflow
from runner.events import Events
from runner.invocation import Run
from runner.journal import Journal
from runner.scope import Scope
from runner.steps import KINDS
from runner.workflow import Workflow

Execute = Callable[[str], tuple[int, dict[str, Any]]]


def build(text: str, folder: Path) -> Workflow:
    return building.build(document.loads(textwrap.dedent(text), "w.yaml", folder / "w.yaml"), KINDS)


def told(text: str, folder: Path) -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        build(text, folder)
    return [f"{p.line}:{p.column} {p.message}" + (f" ({p.hint})" if p.hint else "") for p in caught.value.problems]


@pytest.fixture
def port() -> Iterator[int]:
    """A local port that takes connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as server:
        yield server.getsockname()[1]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Execute:
    """Run a workflow in this process; answers the exit code and the first workflow of the JSON report."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    def execute(text: str) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "flow.yaml"
        file.write_text(textwrap.dedent(text))
        code = main(["run", str(file), "-o", "json"])
        captured = capsys.readouterr()
        return code, {**json.loads(captured.out)["workflows"][0], "stderr": captured.err}

    return execute


def test_paths_and_order(tmp_path: Path) -> None:
    """Every step has a stable address that says where it stands; those inside follow the step around them."""
    built = build(
        """
        steps:
          - id: check
            verify:
              url: http://localhost/
              throughout:
                - run: "true"
                - id: deep
                  verify: {url: http://localhost/, throughout: [{run: "true"}]}
          - verify: {url: http://localhost/, throughout: [{run: "true"}]}
        """,
        tmp_path,
    )

    assert [(step.path, step.depth, step.section) for step in built.all_steps] == [
        ("steps.check", 0, "steps"),
        ("steps.check.throughout[0]", 1, "steps"),
        ("steps.check.throughout.deep", 1, "steps"),
        ("steps.check.throughout.deep.throughout[0]", 2, "steps"),
        ("steps[1]", 0, "steps"),
        ("steps[1].throughout[0]", 1, "steps"),
    ]


def test_problems_inside_are_told_with_the_others(tmp_path: Path) -> None:
    """A misspelt key, a wrong expression, a taken id, a missing file and a fault of the step around them, at once."""
    found = told(
        """
        steps:
          - id: check
            verify:
              url: localhost
              throughout:
                - {id: a, ruin: "true"}
                - {id: a, run: [echo, "${{ steps.late.outputs.code }}"]}
                - {apply: none.yaml, timeot: 3s}
                - run: [echo, "${{ steps.check.outputs.body }}"]
          - {id: late, run: "true"}
        """,
        tmp_path,
    )

    assert [item.split(" (")[0] for item in found] == [
        "5:12 'localhost' is not a URL that can be asked: it must begin with http:// or https://",
        "7:19 `ruin` is not a key of a step",
        "8:16 the id `a` is taken by the step on line 7",
        "8:36 `steps.late.outputs.code` is not known here",
        "9:19 there is no file none.yaml",
        "9:30 `timeot` is not a key of a step",
        "10:28 `steps.check.outputs.body` is not known here",
    ]
    assert "(the step on line 11 runs later)" in found[3]
    assert "(that is the step around this one)" in found[6]


def test_ids_inside_are_known_later(tmp_path: Path) -> None:
    """Not before, and not in the expressions of the step around them."""
    flow = """
        steps:
          - verify:
              throughout: [{id: inner, run: "true"}]
              url: http://localhost/
              that: PLACE
          - run: [echo, "${{ steps.inner.outputs.code }}"]
        """

    build(flow.replace("PLACE", "response.status == 200"), tmp_path)
    (problem,) = told(flow.replace("PLACE", "steps.inner.outputs.code == 0"), tmp_path)
    assert problem.startswith("6:13 `steps.inner.outputs.code` is not known here")


@pytest.mark.parametrize(
    ("keys", "timeout", "patience"),
    [
        ("throughout: [{run: x}, {run: x, timeout: 10s}]", 30 + 300 + 10, 30),
        ("throughout: 1m", 90, 30),
        ("consecutive: 2", 30, 30),
    ],
)
def test_timeout_has_room_for_what_is_inside(keys: str, timeout: float, patience: float, tmp_path: Path) -> None:
    """Without a timeout of its own a step has that of its kind, and the time of its steps."""
    (step, *_) = build(f"steps: [{{verify: {{url: 'http://a/', {keys}}}}}]\n", tmp_path).all_steps

    assert (step.timeout, step.patience) == (timeout, patience)


def test_timeout_that_cannot_suffice(tmp_path: Path) -> None:
    """It is refused, not waited for."""
    (problem,) = told("steps: [{verify: {url: 'http://a/', throughout: 30s}, timeout: 20s}]\n", tmp_path)

    assert problem == (
        "1:64 the timeout of 20s ends this step in any case: it lasts 30 s by itself"
        " (write more than 30s, or leave `timeout` out)"
    )


def test_ports_inside_are_free_again_afterwards(tmp_path: Path) -> None:
    """A forward ends with the steps that it stands among."""
    forward = "{forward: {target: pod/a, ports: '5000:80'}}"
    around = f"verify: {{url: 'http://localhost/', throughout: [{forward}]}}"

    build(f"steps: [{{{around}}}, {{{around}}}, {forward}]\n", tmp_path)
    (problem,) = told(f"steps:\n- {forward}\n- {around}\n", tmp_path)
    assert "the step on line 2 listens on 127.0.0.1:5000 already" in problem


def test_busy_port_inside_is_found_before_anything_runs(tmp_path: Path, port: int) -> None:
    """What stands inside of a step is looked at with the rest."""
    forward = f"{{forward: {{target: pod/a, ports: '{port}:80'}}}}"
    built = build(f"steps: [{{verify: {{url: 'http://localhost/', throughout: [{forward}]}}}}]\n", tmp_path)

    with pytest.raises(CannotStart, match=f"the local port 127.0.0.1:{port} is in use"):
        list(preflight.warnings(built, Run("r", tmp_path, Events("r"), Journal(tmp_path / "run"))))


def test_plan_shows_the_steps_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbered below the step around them, with their commands."""
    file = tmp_path / "flow.yaml"
    file.write_text("steps: [{verify: {url: 'http://a/', throughout: [{run: [kubectl, version]}], max_failures: 2}}]\n")
    main(["plan", str(file)])

    assert capsys.readouterr().out.splitlines()[2:7] == [
        "  1  verify http://a/",
        "       ~ curl --max-time 2 http://a/",
        "       ~ the same again and again meanwhile, of which 2 may fail",
        "      1.1  run kubectl version",
        "           $ kubectl version",
    ]


def test_steps_run_while_it_asks(execute: Execute, port: int) -> None:
    """In order, with values passed on; the report says how often it asked, before the steps inside."""
    code, report = execute(f"""
        steps:
          - id: check
            verify:
              tcp: 127.0.0.1:{port}
              throughout:
                - {{id: one, run: echo 1}}
                - {{run: "test $V = 1", env: {{V: "${{{{ steps.one.outputs.stdout }}}}"}}}}
                - {{run: "false", if: failure()}}
          - run: test $V = 1
            env: {{V: "${{{{ steps.one.outputs.stdout }}}}"}}
        """)

    assert code == 0
    assert [(step["path"], step["status"]) for step in report["steps"]] == [
        ("steps.check", "success"),
        ("steps.check.throughout.one", "success"),
        ("steps.check.throughout[1]", "success"),
        ("steps.check.throughout[2]", "skipped"),
        ("steps[1]", "success"),
    ]
    check = report["steps"][0]
    assert "all as expected" in check["shown"]
    assert check["outputs"]["attempts"] >= 3


def test_failure_inside_fails_the_step_around(execute: Execute, port: int) -> None:
    """The rest inside is skipped, and so is what comes after; both say why."""
    code, report = execute(f"""
        steps:
          - verify:
              tcp: 127.0.0.1:{port}
              throughout:
                - {{name: tolerated, run: exit 1, continue_on_error: true}}
                - {{name: breaks, run: exit 3}}
                - {{run: "true"}}
                - {{run: "true", if: always()}}
          - run: "true"
        """)

    assert code == 1
    assert [step["status"] for step in report["steps"]] == [
        "failure", "failure", "failure", "skipped", "success", "skipped",
    ]  # fmt: skip
    failure = report["steps"][0]["failure"]
    assert failure["message"].startswith('the step "breaks" inside it failed: the command ended with exit code 3')
    assert failure["details"].startswith("asked ")


def test_steps_inside_are_skipped_with_the_step_around(execute: Execute) -> None:
    """Nothing is missing in the report: neither when it is skipped, nor when it fails before them."""
    code, report = execute("""
        inputs: {go: false}
        steps:
          - {verify: {tcp: "127.0.0.1:1", throughout: [{run: "true"}]}, if: inputs.go}
          - {verify: {tcp: "127.0.0.1:1", throughout: [{id: inner, run: "true"}]}, retry: 1}
          - {run: "test $V = skipped", if: always(), env: {V: "${{ steps.inner.outcome }}"}}
        """)

    assert code == 1
    assert [step["status"] for step in report["steps"]] == ["skipped", "skipped", "failure", "skipped", "success"]
    assert "did not get to it" in report["steps"][3]["skipped_because"]


def test_scope_ends_what_it_began() -> None:
    """Forwards of a scope are known inside it, end with it newest first, and are unknown around it."""
    around, ended = Scope(), []
    around.bind("127.0.0.1", 80, Selection("pod", ("a",)), "http")
    inside = Scope(around)
    inside.bind("::1", 81, Selection("pod", ("b",)), "80")
    for name in ("first", "second"):
        inside.close_later(lambda name=name: ended.append(name))  # type: ignore[misc]

    assert [bool(inside.forwarded("localhost", port)) for port in (80, 81, 82)] == [True, True, False]
    assert around.forwarded("localhost", 81) is None
    assert [{*scope.forwards()} for scope in (around, inside)] == [{80}, {80, 81}]
    inside.close()
    assert ended == ["second", "first"]
    assert inside.forwarded("localhost", 81) is None
    assert str(around.forwarded("127.0.0.1", 80).target) == "pod/a"  # type: ignore[union-attr]


def test_scope_ends_with_its_steps(execute: Execute, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the steps inside before that of the workflow, also when one of them fails."""
    closed: list[bool] = []
    monkeypatch.setattr(Scope, "close", lambda scope: closed.append(scope.parent is not None))

    code, _ = execute(f"steps: [{{verify: {{tcp: 'localhost:{port}', throughout: [{{run: exit 1}}]}}}}]\n")

    assert (code, closed) == (1, [True, False])
