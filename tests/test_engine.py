"""Running a workflow: order, conditions, attempts, deadlines, what a failure shows. Real children, no cluster."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.cli import main

Execute = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Execute:
    """Run a workflow in this process; answers the exit code and the first workflow of the JSON report."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))

    def execute(text: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "flow.yaml"
        file.write_text(textwrap.dedent(text))
        code = main(["run", str(file), "-o", "json", *arguments])
        captured = capsys.readouterr()
        report = json.loads(captured.out)
        workflow = report["workflows"][0] if report["workflows"] else {"steps": []}
        return code, {**report, **workflow, "stderr": captured.err}

    return execute


def statuses(report: dict[str, Any]) -> list[str]:
    return [step["status"] for step in report["steps"]]


def test_steps_run_in_order_and_pass_values(execute: Execute) -> None:
    """A later step sees the typed outputs of an earlier one, as argument, environment and condition."""
    code, report = execute("""
        steps:
          - id: first
            run: "echo '{\\"port\\": 80}'"
          - id: second
            run: [printf, "%s", "${{ steps.first.outputs.json.port + 1 }}"]
          - if: steps.second.outputs.stdout == '81' && steps.first.outcome == 'success'
            run: test "$V" = 'port 81'
            env: {V: "port ${{ steps.second.outputs.stdout }}"}
        """)

    assert (code, statuses(report)) == (0, ["success", "success", "success"])


def test_failure_skips_the_rest_then_reacts_then_ends(execute: Execute) -> None:
    """After a failure: remaining steps are skipped unless their `if` allows them, then on_failure, then finally."""
    code, report = execute("""
        steps:
          - {id: bad, run: exit 3}
          - {run: echo no}
          - {run: echo yes, if: failure()}
          - {run: echo yes, if: always() && steps.bad.outcome == 'failure'}
        on_failure:
          - {run: echo reacting}
        finally:
          - {run: echo ending}
        """)

    assert code == 1
    assert statuses(report) == ["failure", "skipped", "success", "success", "success", "success"]


def test_success_skips_on_failure(execute: Execute) -> None:
    """on_failure steps do not run when nothing failed; finally steps do."""
    code, report = execute("""
        steps: [{run: "true"}]
        on_failure: [{run: "true"}]
        finally: [{run: "true"}]
        """)

    assert (code, statuses(report)) == (0, ["success", "skipped", "success"])


def test_failing_finally_fails_the_run_and_the_others_still_run(execute: Execute) -> None:
    """Each `finally` step gets its chance."""
    code, report = execute("""
        steps: [{run: "true"}]
        finally: [{run: exit 1}, {run: "true"}]
        """)

    assert (code, statuses(report)) == (1, ["success", "failure", "success"])


def test_continue_on_error_is_reported_but_does_not_fail(execute: Execute) -> None:
    """A tolerated failure is visible, and later steps run."""
    code, report = execute("""
        steps: [{run: exit 1, continue_on_error: true}, {run: "true"}]
        """)

    assert (code, statuses(report)) == (0, ["failure", "success"])


def test_false_condition_skips_with_the_reason(execute: Execute) -> None:
    """A skipped step says which condition was false."""
    _, report = execute("""
        inputs: {go: false}
        steps: [{run: "true", if: inputs.go}]
        """)

    assert "inputs.go" in report["steps"][0]["skipped_because"]


def test_failed_command_shows_everything(execute: Execute) -> None:
    """A failed step carries its command, its code, its full output on both streams, and its place in the file."""
    _, report = execute("""
        steps:
          - run: |
              echo to stdout
              echo to stderr >&2
              exit 7
        """)

    failure = report["steps"][0]["failure"]
    assert failure["code"] == 7
    assert failure["output"] == "to stdout\nto stderr\n"
    assert failure["command"].startswith("bash -euo pipefail -c ")
    assert failure["place"].endswith("flow.yaml:3:5")


def test_script_stops_at_the_first_error(execute: Execute) -> None:
    """A script is strict: errors, unset variables and broken pipes end it."""
    for script in ("false; echo on", "echo $UNSET_VARIABLE", "false | true"):
        code, _ = execute(f"steps: [{{run: '{script}'}}]")

        assert code == 1, script


def test_default_name_has_values(execute: Execute) -> None:
    """A step without a name is called by what it really does."""
    _, report = execute("""
        inputs: {who: moon}
        steps: [{run: [echo, "hello ${{ inputs.who }}"]}]
        """)

    assert report["steps"][0]["name"] == "run echo hello moon"


def test_retry_counts_attempts(execute: Execute, tmp_path: Path) -> None:
    """A step that fails is tried again, and the report says how often."""
    code, report = execute(f"""
        steps:
          - run: test -e {tmp_path}/mark || {{ touch {tmp_path}/mark; exit 1; }}
            retry: {{attempts: 3, interval: 10ms}}
        """)

    assert (code, report["steps"][0]["attempts"]) == (0, 2)


def test_retry_stops_when_it_is_told_to(execute: Execute) -> None:
    """`fail_if` sees the error and ends the attempts."""
    _, report = execute("""
        steps:
          - run: exit 4
            retry: {attempts: 5, interval: 10ms, fail_if: error.code == 4}
        """)

    assert report["steps"][0]["attempts"] == 1


def test_step_timeout_fails_the_step(execute: Execute) -> None:
    """A step that takes too long fails with its timeout in the message."""
    code, report = execute("""
        steps: [{run: sleep 60, timeout: 200ms}]
        """)

    assert (code, report["steps"][0]["failure"]["reason"]) == (1, "timeout")
    assert "0.2 s" in report["steps"][0]["failure"]["message"]


def test_run_deadline_has_its_own_exit_code_and_still_runs_finally(execute: Execute) -> None:
    """When the run's deadline is reached: exit 4, remaining steps do not run, finally does."""
    code, report = execute("""
        timeout: 300ms
        steps: [{run: sleep 60}, {run: "true", if: always()}]
        on_failure: [{run: "true"}]
        finally: [{run: "true"}]
        """)

    assert code == 4
    assert statuses(report) == ["cancelled", "cancelled", "skipped", "success"]
    assert report["steps"][2]["skipped_because"].startswith("the run is over: ")


def test_run_deadline_keeps_time_for_finally(execute: Execute) -> None:
    """The steps end before the timeout, the log says so, and what `finally` does ends with the timeout, too."""
    code, report = execute("""
        timeout: 2s
        steps: [{run: sleep 60}]
        finally: [{run: echo ending}, {run: sleep 60}]
        """)

    assert (code, statuses(report)) == (4, ["cancelled", "success", "failure"])
    assert "the workflow's timeout is 2 s: the last 0.4 s of it are for `finally` and the cleanup" in report["stderr"]
    assert report["steps"][0]["seconds"] < 2
    assert report["steps"][2]["failure"]["reason"] == "timeout"


def test_timeout_flag_overrides_the_file(execute: Execute) -> None:
    """--timeout is the deadline of each workflow."""
    code, _ = execute("steps: [{run: sleep 60}]", "--timeout", "200ms")

    assert code == 4


def test_default_timeouts_by_kind(execute: Execute) -> None:
    """`timeouts` sets the default of a kind."""
    code, report = execute("""
        timeouts: {run: 200ms}
        steps: [{run: sleep 60}]
        """)

    assert (code, report["steps"][0]["failure"]["reason"]) == (1, "timeout")


def test_inputs_from_everywhere(execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default < environment < --values < --set, each typed by its declaration."""
    values = tmp_path / "values.yaml"
    values.write_text("c: 3\nd: 3\n")
    for name in ("B", "C", "D"):
        monkeypatch.setenv(name, "2")

    code, _ = execute(
        """
        inputs:
          a: 1
          b: {type: integer, env: B}
          c: {type: integer, env: C}
          d: {type: integer, env: D}
        vars: {sum: "${{ inputs.a * 1000 + inputs.b * 100 + inputs.c * 10 + inputs.d }}"}
        steps: [{run: 'test "$SUM" = 1234', env: {SUM: "${{ vars.sum }}"}}]
        """,
        "--values",
        str(values),
        "--set",
        "d=4",
    )

    assert code == 0


@pytest.mark.parametrize(
    ("inputs", "arguments", "message"),
    [
        ("{tag: {required: true}}", (), "input `tag` is required: --set tag=…"),
        ("{tag: x}", ("--set", "tga=1"), "did you mean `tag`?"),
        ("{n: 1}", ("--set", "n=abc"), "input `n` from --set must be an integer, not 'abc'"),
        ("{n: 1}", ("--set", "n"), "write --set name=value"),
        ("{c: {enum: [red, blue], default: red}}", ("--set", "c=green"), "must be one of red, blue"),
        ("{t: {secret: true, env: T}}", ("--set", "t=abcdef"), "give it in the environment as T"),
    ],
)
def test_wrong_inputs_start_nothing(execute: Execute, inputs: str, arguments: tuple[str, ...], message: str) -> None:
    """Inputs that are missing, unknown, of the wrong type or secret on the command line are usage errors."""
    code, report = execute(f"inputs: {inputs}\nsteps: [{{run: 'true'}}]", *arguments)

    assert code == 2
    assert message in report["error"]


def test_all_wrong_inputs_at_once(execute: Execute) -> None:
    """Two wrong inputs are both named."""
    _, report = execute("inputs: {a: {required: true}, b: {required: true}}\nsteps: [{run: 'true'}]")

    assert "`a`" in report["error"]
    assert "`b`" in report["error"]


def test_secrets_are_masked_everywhere(execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret input reaches the child, and no sink."""
    monkeypatch.setenv("TOKEN", "s3cr3t-value")

    _, report = execute(
        """
        inputs: {token: {secret: true, env: TOKEN}}
        steps:
          - run: 'test "$T" = s3cr3t-value || exit 9; echo "the token is $T"; exit 1'
            env: {T: "${{ inputs.token }}"}
        """,
        "-v",
        "--events",
        str(tmp_path / "events.jsonl"),
    )

    assert report["steps"][0]["failure"]["code"] == 1
    assert "the token is ***" in report["stderr"]
    everything = [path.read_text() for path in tmp_path.rglob("*") if path.is_file() and path.name != "flow.yaml"]
    assert not any("s3cr3t-value" in text for text in (*everything, json.dumps(report)))


def test_show_prints_what_children_print(execute: Execute) -> None:
    """With show: true the output of a passing step is on the log and in the report."""
    _, report = execute("steps: [{run: echo visible, show: true}, {run: echo hidden}]")

    assert "visible" in report["stderr"]
    assert "hidden" not in report["stderr"].replace("run echo hidden", "")


def test_events_are_a_versioned_stream(execute: Execute, tmp_path: Path) -> None:
    """--events appends one JSON object a line, with schema, time, run and constant phrases."""
    events = tmp_path / "events.jsonl"

    execute("steps: [{id: a, run: 'true'}]", "--events", str(events))

    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [line["event"] for line in lines if line["level"] == "info"] == [
        "run started",
        "workflow started",
        "step started",
        "step passed",
        "workflow ended",
        "run ended",
    ]
    assert all(line["schema"] == 1 and line["run"] == lines[0]["run"] for line in lines)


def test_wrong_type_after_evaluation(execute: Execute) -> None:
    """A value of the wrong type is a message about the key, not a traceback."""
    code, report = execute("""
        vars: {word: "${{ 'a' + 'b' }}"}
        steps:
          - id: a
            run: echo '[1]'
          - run: {command: "true", dir: "${{ steps.a.outputs.json }}"}
        """)

    assert code == 1
    assert "`dir` does not fit" in report["steps"][1]["failure"]["message"]


def test_value_of_a_skipped_step(execute: Execute) -> None:
    """Using the output of a step that did not run says so."""
    _, report = execute("""
        inputs: {go: false}
        steps:
          - {id: a, run: echo x, if: inputs.go}
          - run: [echo, "${{ steps.a.outputs.stdout }}"]
        """)

    assert "its step did not run" in report["steps"][1]["failure"]["message"]


def test_expected_code_and_output(execute: Execute) -> None:
    """`expect` turns another exit code into success, and checks what was printed."""
    code, report = execute("""
        steps:
          - run: {command: "echo hello; exit 3", expect: {code: 3, stdout: {contains: hell}}}
          - run: {command: echo hello, expect: {stdout: {contains: goodbye}}}
        """)

    assert (code, statuses(report)) == (1, ["success", "failure"])


def test_several_workflows_run_one_after_the_other(
    execute: Execute, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All run, and the worst result is the exit code."""
    other = tmp_path / "other.yaml"
    other.write_text("steps: [{run: exit 1}]\n")

    code, report = execute("steps: [{run: 'true'}]", str(other))

    assert code == 1
    assert [workflow["status"] for workflow in report["workflows"]] == ["success", "failure"]


def test_cluster_step_without_any_engine(execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With neither kubectl nor podman a cluster step is exit 3 before anything runs, with what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))

    code, report = execute("steps: [{run: 'true'}, {wait: pod/x}]")

    assert (code, report["workflows"]) == (3, [])
    assert report["hint"]


REFUSED = (
    'flow.yaml:{line}: the step "{name}" runs `kubectl get`, and this run has no cluster that could answer: to skip the'
    ' step in such a run, write `if: run.engine == "kubectl"`'
)


def test_commands_that_nobody_answers_do_not_start(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are named, with their places and what to write; kubectl is not asked."""
    monkeypatch.chdir(tmp_path)
    code, report = execute("""
        steps:
          - run: touch started
          - {name: Look, run: kubectl get pod}
          - {name: Try, run: kubectl get pod, continue_on_error: true}
          - verify: {url: "http://localhost/", throughout: [{name: Inside, run: [kubectl, get, pod]}]}
        finally:
          - {name: Tidy up, run: kubectl get pod}
        """)

    assert (code, report["workflows"]) == (3, [])
    expected = [REFUSED.format(line=line, name=name) for line, name in ((4, "Look"), (6, "Inside"), (8, "Tidy up"))]
    assert [line.removeprefix(f"{tmp_path}/") for line in report["error"].splitlines()] == expected
    assert not (tmp_path / "started").exists()


def test_commands_that_may_get_by_without_an_answer_are_a_warning(execute: Execute) -> None:
    """When their failure would not fail the run; a condition, also of a step around them, is enough to be quiet."""
    code, report = execute("""
        steps:
          - {name: Try, run: kubectl get pod, continue_on_error: true}
          - {name: Or not, run: kubectl get pod || true}
          - {name: Skipped, run: kubectl get pod, if: run.engine == "kubectl"}
          - verify: {url: "http://localhost/", throughout: [{name: Inside, run: kubectl get pod}]}
            if: run.engine == "kubectl"
        on_failure:
          - {name: Look, run: kubectl get pod}
        """)

    assert code == 0
    for line, name in ((3, "Try"), (4, "Or not"), (9, "Look")):
        assert REFUSED.format(line=line, name=name) in report["stderr"]
    assert "Skipped" not in report["stderr"].split("workflow started")[0]
    assert "Inside" not in report["stderr"].split("workflow started")[0]


@pytest.mark.podman
def test_a_namespace_is_ignored_on_podman(execute: Execute, podman_env: dict[str, str]) -> None:
    """It has none: what the log, the report and expressions say is the same, and a warning names each place."""
    flow = """
        namespace: {generate: kz-}
        steps:
          - wait: {target: pod/absent, until: deleted}
            namespace: other
          - {id: look, run: 'echo "$NAMESPACE"', env: {NAMESPACE: "${{ run.namespace }}"}}
        """
    code, report = execute(flow, "--engine", "podman", "--namespace", "third")

    assert (code, report["namespace"], report["steps"][1]["outputs"]["stdout"]) == (0, "default", "default")
    assert re.search("run started .* namespace=default ", report["stderr"])
    ignored = re.findall("warning +(?:.*/)?(.*) is ignored: podman has no namespaces", report["stderr"])
    assert ignored == ["--namespace third", "flow.yaml: `namespace`", "flow.yaml:4: `namespace`"]


def test_commands_see_no_cluster_that_the_run_does_not_have(execute: Execute) -> None:
    """Nobody proved that the cluster of the user's kubeconfig may be touched."""
    code, report = execute("steps: [{id: look, run: 'echo \"$KUBECONFIG\"'}]")

    assert (code, report["steps"][0]["outputs"]["stdout"]) == (0, "/dev/null")
