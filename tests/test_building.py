"""From a document to a workflow: inputs, vars, namespaces, timeouts, ids, retries, files; and what is refused."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import building, document, inputs, workflow
from runner.errors import InvalidWorkflow, StepFailed, UsageError
from runner.steps import KINDS
from runner.steps.kind import seconds
from runner.workflow import Workflow

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
STEPS = "steps: [{run: echo}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with a manifest, a folder of manifests and a Dockerfile."""
    (tmp_path / ".git").mkdir()
    folder = tmp_path / "flows"
    (folder / "app").mkdir(parents=True)
    (folder / "app/pod.yaml").write_text(POD)
    (folder / "app/Dockerfile").write_text("FROM scratch\n")
    return folder


def build(text: str, folder: Path) -> Workflow:
    """The workflow of a text."""
    return building.build(document.loads(textwrap.dedent(text), "w.yaml", folder / "w.yaml"), KINDS)


def told(text: str, folder: Path) -> list[str]:
    """The problems of a text: `line:column message (hint)`."""
    with pytest.raises(InvalidWorkflow) as caught:
        build(text, folder)
    return [f"{p.line}:{p.column} {p.message}" + (f" ({p.hint})" if p.hint else "") for p in caught.value.problems]


def values(
    text: str,
    folder: Path,
    *settings: str,
    files: tuple[Mapping[str, Any], ...] = (),
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The values of the inputs that a text declares."""
    return inputs.input_values(build(text + STEPS, folder).inputs, settings, files, env or {})


def refused(
    text: str,
    folder: Path,
    *settings: str,
    files: tuple[Mapping[str, Any], ...] = (),
    env: Mapping[str, str] | None = None,
) -> str:
    with pytest.raises(UsageError) as caught:
        values(text, folder, *settings, files=files, env=env)
    return caught.value.message


# -- the top --------------------------------------------------------------------------------------------------------


def test_defaults(folder: Path) -> None:
    """Everything but `steps` may be left out."""
    built = build(STEPS, folder)

    assert (built.name, built.description, built.file, built.folder) == ("w", "", "w.yaml", folder)
    assert (built.timeout, built.keep, built.engine, built.context) == (900.0, "never", "auto", "")
    assert built.namespace == workflow.Namespace("", create=False, generate="")
    assert (built.inputs, built.vars, built.on_failure, built.finally_, built.warnings) == ({}, {}, (), (), ())


def test_everything_at_the_top(folder: Path) -> None:
    """Each key arrives where it belongs; `x-` keys are ignored."""
    built = build(
        """
        name: demo
        description: A demo.
        x-mine: {a: [1]}
        cluster: {context: kind-a, engine: podman}
        timeout: 1h30m
        keep: on_failure
        steps: [{run: a}, {run: b}]
        on_failure: [{run: c}]
        finally: [{run: d}]
        """,
        folder,
    )

    assert (built.name, built.description, built.context, built.engine) == ("demo", "A demo.", "kind-a", "podman")
    assert (built.timeout, built.keep) == (5400.0, "on_failure")
    assert [step.data["run"] for step in built.all_steps] == ["a", "b", "c", "d"]
    assert [step.path for step in built.all_steps] == ["steps[0]", "steps[1]", "on_failure[0]", "finally[0]"]


@pytest.mark.parametrize(
    ("step", "lost"),
    [
        ("apply: {manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}}", "configmap/a"),
        ("apply: {manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: other}}}", ""),
        ("apply: {manifest: {apiVersion: v1, kind: Namespace, metadata: {name: a}}}", ""),
        ("apply: {manifest: {apiVersion: example.test/v1, kind: Widget, metadata: {name: a}}}", ""),
        ("namespace: other, apply: {manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}}", ""),
        ("apply: {kustomize: app}", ""),
        ("run: 'true'", ""),
    ],
)
def test_keep_in_a_generated_namespace(step: str, lost: str, folder: Path) -> None:
    """Refused for what is known to live in it; not for other namespaces, objects without one, and what is unknown."""
    (folder / "app").mkdir(exist_ok=True)
    (folder / "app/kustomization.yaml").write_text("resources: []")
    text = f"namespace: {{generate: demo-}}\nsteps: [{{keep: true, {step}}}]"
    if lost:
        (words,) = told(text, folder)
        assert f"`keep` cannot keep {lost}: the run generates its namespace, and deletes it" in words
    else:
        assert build(text, folder).steps[0].keep


@pytest.mark.parametrize("keep", ["never", "on_failure", "always"])
def test_keep_of_the_file(keep: str, folder: Path) -> None:
    """The three values that exist."""
    assert build(f"keep: {keep}\n{STEPS}", folder).keep == keep


def test_unknown_keep(folder: Path) -> None:
    """Anything else is refused with the values that exist."""
    assert told(f"keep: true\n{STEPS}", folder) == ["1:7 `keep` must be `always`, `never` or `on_failure`, not true"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (POD, "2:7 this is a Pod, not a workflow (write a workflow with the step `- apply: w.yaml`, and run that)"),
        (
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\n",
            "2:7 this is an Ingress, not a workflow (write a workflow with the step `- apply: w.yaml`, and run that)",
        ),
        ("- run: echo\n", "1:1 a workflow is a map, this file is a list (put the steps under `steps:`)"),
        ("hello\n", "1:1 a workflow is a map, this file is a single value (it begins with `steps:`)"),
        ("null\n", "1:1 a workflow is a map, this file is a single value (it begins with `steps:`)"),
        ("name: x\n", "1:1 a workflow needs `steps` (What to do, in order)"),
        ("steps: []\n", "1:8 `steps` is empty"),
    ],
)
def test_other_documents_get_one_message(text: str, expected: str, folder: Path) -> None:
    """A manifest, a list, a text, an empty workflow: one message that says what it is."""
    assert told(text, folder) == [expected]


# -- inputs ---------------------------------------------------------------------------------------------------------

TYPES = """
inputs:
  s: {type: string, default: a, env: E_S}
  i: {type: integer, default: 1, env: E_I}
  n: {type: number, default: 1.5, env: E_N}
  b: {type: boolean, default: false, env: E_B}
  l: {type: list, default: [1], env: E_L}
  m: {type: map, default: {k: 1}, env: E_M}
"""


def test_types_of_inputs(folder: Path) -> None:
    """Defaults keep their types; text from the environment and from --set becomes the declared type."""
    env = {"E_S": "1", "E_I": "-2", "E_N": "3", "E_B": "true", "E_L": "[1, 2]", "E_M": '{"a": {}}'}
    expected = {"s": "1", "i": -2, "n": 3.0, "b": True, "l": [1, 2], "m": {"a": {}}}

    assert values(TYPES, folder) == {"s": "a", "i": 1, "n": 1.5, "b": False, "l": [1], "m": {"k": 1}}
    assert values(TYPES, folder, env=env) == expected
    assert values(TYPES, folder, *(f"{name[2:].lower()}={text}" for name, text in env.items())) == expected
    assert type(values(TYPES, folder, "n=3")["n"]) is float


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("i=1.5", "input `i` from --set must be an integer, not '1.5'"),
        ("i=true", "input `i` from --set must be an integer, not 'true'"),
        ("i=", "input `i` from --set must be an integer, not ''"),
        ("n=x", "input `n` from --set must be a number, not 'x'"),
        ("n=true", "input `n` from --set must be a number, not 'true'"),
        ("b=yes", "input `b` from --set must be a boolean, not 'yes'"),
        ("b=1", "input `b` from --set must be a boolean, not '1'"),
        ("l=a,b", "input `l` from --set must be a list, not 'a,b'"),
        ("m=[1]", "input `m` from --set must be a map, not '[1]'"),
        ("t=1", "the workflow has no input `t` (--set); inputs: s, i, n, b, l, m"),
        ("s", "--set s: write --set name=value"),
    ],
)
def test_wrong_settings(setting: str, message: str, folder: Path) -> None:
    """What does not fit its declaration is refused in one sentence."""
    assert refused(TYPES, folder, setting) == message


def test_setting_that_is_nested_too_deeply(folder: Path) -> None:
    """A value that cannot be read is a usage error, whatever it is."""
    assert refused(TYPES, folder, "l=" + "[" * 100_000).startswith("input `l` from --set must be a list, not ")


def test_settings_keep_what_stands_behind_the_first_equals_sign(folder: Path) -> None:
    """Values may be empty and may contain `=`; the last setting wins."""
    assert values("inputs: {s: a}\n", folder, "s=a=b")["s"] == "a=b"
    assert values("inputs: {s: a}\n", folder, "s=x", "s=")["s"] == ""


def test_type_of_a_short_input_is_that_of_its_default(folder: Path) -> None:
    """`inputs: {count: 1}` is an integer."""
    inputs = build("inputs: {s: a, i: 1, n: 1.5, b: true}\n" + STEPS, folder).inputs

    assert {name: item.type for name, item in inputs.items()} == {
        "s": "string",
        "i": "int",
        "n": "double",
        "b": "bool",
    }


def test_whole_numbers_are_numbers(folder: Path) -> None:
    """`default: 1` and `--values` 1 fit `type: number`."""
    text = "inputs: {n: {type: number, default: 1}}\n"

    assert values(text, folder) == {"n": 1}
    assert values(text, folder, files=({"n": 2},)) == {"n": 2}


def test_who_wins(folder: Path) -> None:
    """Default < environment < values file < later values file < --set."""
    text = "inputs: {v: {default: default, env: E_V}}\n"
    env, files = {"E_V": "env"}, ({"v": "file"}, {"v": "later"})

    assert values(text, folder) == {"v": "default"}
    assert values(text, folder, env=env) == {"v": "env"}
    assert values(text, folder, env=env, files=files[:1]) == {"v": "file"}
    assert values(text, folder, env=env, files=files) == {"v": "later"}
    assert values(text, folder, "v=set", env=env, files=files) == {"v": "set"}


def test_environment_counts_only_where_it_is_declared(folder: Path) -> None:
    """An input without `env` cannot be changed by a variable of its name; an empty variable is a value."""
    assert values("inputs: {path: a}\n", folder, env={"path": "x", "PATH": "x"}) == {"path": "a"}
    assert values("inputs: {v: {default: a, env: V}}\n", folder, env={"V": ""}) == {"v": ""}


def test_wrong_environment_and_wrong_file(folder: Path) -> None:
    """The origin is named, so that one knows where to look."""
    text = "inputs: {i: {type: integer, env: COUNT}}\n"

    assert refused(text, folder, env={"COUNT": "x"}) == "input `i` from $COUNT must be an integer, not 'x'"
    assert refused(text, folder, files=({"i": "1"},)) == "input `i` from --values is not an integer"
    assert refused("", folder, "a=1") == "the workflow has no input `a` (--set); it declares none"
    assert refused("inputs: {image: x}\n", folder, "imge=1") == (
        "the workflow has no input `imge` (--set); did you mean `image`?"
    )


def test_all_faults_of_inputs_at_once(folder: Path) -> None:
    """One run of the program shows them all."""
    text = "inputs: {a: {type: integer}, b: {required: true}, c: {enum: [x, y]}}\n"

    assert refused(text, folder, "a=x", "c=z", "d") == (
        "4 problems with the inputs:\n  input `a` from --set must be an integer, not 'x'\n"
        "  --set d: write --set name=value\n  input `b` is required: --set b=…\n  input `c` must be one of x, y"
    )


def test_required_and_optional(folder: Path) -> None:
    """A required input needs a value from somewhere; an optional one without default is null."""
    text = "inputs: {a: {required: true, env: A}, b: {}}\n"

    assert refused(text, folder) == "input `a` is required: --set a=…"
    assert values(text, folder, env={"A": "x"}) == {"a": "x", "b": None}
    assert values(text, folder, files=({"a": "x"},)) == {"a": "x", "b": None}


def test_enum_is_checked_for_every_origin(folder: Path) -> None:
    """Also numbers, compared as numbers."""
    text = "inputs: {a: {type: integer, enum: [1, 2], env: A}}\n"

    assert values(text, folder, "a=2") == {"a": 2}
    assert refused(text, folder, "a=3") == "input `a` must be one of 1, 2"
    assert refused(text, folder, env={"A": "3"}) == "input `a` must be one of 1, 2"
    assert refused(text, folder, files=({"a": 3},)) == "input `a` must be one of 1, 2"


def test_wrong_declarations(folder: Path) -> None:
    """A default that does not fit, is not in the enum, or belongs to a secret."""
    text = """
        inputs:
          a: {type: integer, default: x}
          b: {default: z, enum: [x, y]}
          c: {secret: true, default: abcd}
          d: {type: text}
          E: 1
        steps: [{run: echo}]
        """
    assert told(text, folder) == [
        "3:31 the default of input `a` is not an integer",
        "4:16 the default of input `b` is not one of its `enum`",
        "5:30 input `c` is secret and has a default (give the value by `env` or --values)",
        "6:13 `type` must be `boolean`, `integer`, `list`, `map`, `number` or `string`, not 'text'",
        "7:3 `E` cannot be a name here (use a-z, 0-9 and _, beginning with a letter)",
    ]


SECRET = "inputs: {token: {secret: true, env: TOKEN, required: true}, other: {secret: true}}\n"


def test_secrets_come_from_the_environment_or_a_file(folder: Path) -> None:
    """Never from the command line, which other users of the machine can read."""
    assert values(SECRET, folder, env={"TOKEN": "hunter22"})["token"] == "hunter22"
    assert values(SECRET, folder, files=({"token": "hunter22"},))["token"] == "hunter22"
    assert refused(SECRET, folder, "token=hunter22", "other=hunter22") == (
        "3 problems with the inputs:\n"
        "  input `token` is secret: give it in the environment as TOKEN, not with --set\n"
        "  input `other` is secret: give it with --values FILE, not with --set\n"
        "  input `token` is required: give it in the environment as TOKEN"
    )


def test_no_message_has_a_secret(folder: Path) -> None:
    """A secret of the wrong type is not shown; one that is too short to be masked is refused."""
    text = "inputs: {n: {type: integer, secret: true, env: N}}\n"

    assert refused(text, folder, env={"N": "hunter22"}) == "input `n` from $N must be an integer, not its value"
    assert refused(text, folder, env={"N": "123"}) == (
        "input `n` is secret and shorter than 4 characters, which cannot be masked"
    )
    assert "hunter22" not in refused(SECRET, folder, "token=hunter22")


# -- vars -----------------------------------------------------------------------------------------------------------


def test_vars_are_derived_in_order(folder: Path) -> None:
    """A var sees inputs and earlier vars, keeps types, and may be nested data."""
    built = build(
        """
        inputs: {name: web, count: 2}
        vars:
          image: "${{ inputs.name }}:dev"
          more: "${{ inputs.count + 1 }}"
          all: {images: ["${{ vars.image }}"], n: "${{ vars.more * 10 }}"}
        steps: [{run: echo}]
        """,
        folder,
    )
    found = inputs.scope_values(built, {"name": "web", "count": 2}, {"id": "r"})

    assert found["vars.image"] == "web:dev"
    assert found["vars.more"] == 3
    assert found["vars.all"] == {"images": ["web:dev"], "n": 30}
    assert (found["run.id"], found["inputs.count"]) == ("r", 2)


def test_vars_refer_backwards_only(folder: Path) -> None:
    """A later var and a step are not known in a var."""
    text = """
        vars: {a: "${{ vars.b }}", b: 1, c: "${{ steps.x.outputs.code }}"}
        steps: [{id: x, run: echo}]
        """
    found = told(text, folder)

    assert found[0].startswith("2:16 `vars.b` is not known here")
    assert found[1].startswith("2:42 `steps.x.outputs.code` is not known here")
    assert len(found) == 2


def test_types_of_vars_are_known(folder: Path) -> None:
    """A text var is text to the type check."""
    assert told('vars: {a: "x"}\nsteps: [{run: echo, if: vars.a}]\n', folder) == [
        "2:25 this is a string, where bool is needed"
    ]


def test_var_without_a_value(folder: Path) -> None:
    """What fails only at run time is a usage error that names the var."""
    built = build('vars: {a: "${{ env.NOT_THERE_AT_ALL }}"}\n' + STEPS, folder)

    with pytest.raises(UsageError) as caught:
        inputs.scope_values(built, {}, {})
    assert caught.value.message == "`vars.a` has no value: there is no field `NOT_THERE_AT_ALL`"


# -- namespace ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", ("demo", False, "")),
        ("{name: demo}", ("demo", False, "")),
        ("{name: demo, create: true}", ("demo", True, "")),
        ("{generate: demo-}", ("", False, "demo-")),
    ],
)
def test_namespace_in_three_forms(text: str, expected: tuple[str, bool, str], folder: Path) -> None:
    """One that exists, one that is made when absent, a new one."""
    found = build(f"namespace: {text}\n{STEPS}", folder).namespace

    assert (found.name, found.create, found.generate) == expected


def test_namespace_may_be_an_expression(folder: Path) -> None:
    """Over inputs, in both places."""
    namespace = 'inputs: {ns: demo}\nnamespace: {name: "${{ inputs.ns }}"}\n'
    built = build(namespace + 'steps: [{run: x, namespace: "${{ inputs.ns }}-2"}]\n', folder)

    assert workflow.fill(built.namespace.name, {"inputs.ns": "demo"}) == "demo"
    assert workflow.fill(built.steps[0].namespace, {"inputs.ns": "demo"}) == "demo-2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Demo", "1:12 'Demo' cannot be a namespace (use a-z, 0-9 and hyphens, 63 characters at most)"),
        ("a_b", "1:12 'a_b' cannot be a namespace (use a-z, 0-9 and hyphens, 63 characters at most)"),
        ("{generate: Demo-}", "1:23 'Demo-' cannot be a namespace (use a-z, 0-9 and hyphens, 63 characters at most)"),
        ("{create: true}", "1:12 a namespace needs `name` or `generate`, one of them"),
        ("{name: a, generate: b}", "1:12 a namespace needs `name` or `generate`, one of them"),
    ],
)
def test_wrong_namespaces(text: str, expected: str, folder: Path) -> None:
    """What Kubernetes would refuse is refused before."""
    assert told(f"namespace: {text}\n{STEPS}", folder) == [expected]


def test_message_of_a_namespace_has_it_as_written(folder: Path) -> None:
    """A name that ends in x is shown whole."""
    assert told(f"namespace: LINUX_x\n{STEPS}", folder) == [
        "1:12 'LINUX_x' cannot be a namespace (use a-z, 0-9 and hyphens, 63 characters at most)"
    ]


def test_namespace_has_63_characters_at_most(folder: Path) -> None:
    """A namespace is a DNS label."""
    assert build(f"namespace: {'a' * 63}\n{STEPS}", folder)
    assert len(told(f"namespace: {'a' * 64}\n{STEPS}", folder)) == 1


def test_namespace_of_a_step(folder: Path) -> None:
    """The step's own namespace is checked like that of the file."""
    assert build("steps: [{wait: pod/a, namespace: other}]\n", folder).steps[0].namespace == "other"
    assert told("steps: [{wait: pod/a, namespace: A}]\n", folder) == [
        "1:34 'A' cannot be a namespace (use a-z, 0-9 and hyphens, 63 characters at most)"
    ]


# -- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"), [("500ms", 0.5), ("30s", 30), ("2m", 120), ("1h30m", 5400), ("1.5s", 1.5), ("1m500ms", 60.5)]
)
def test_lengths_of_time(text: str, expected: float, folder: Path) -> None:
    """As written in a file."""
    assert seconds(text) == expected
    assert build(f"timeout: {text}\n{STEPS}", folder).timeout == expected


def test_timeout_of_a_step(folder: Path) -> None:
    """Its own, else that of its kind in the file, else the kind's."""
    built = build(
        "timeouts: {wait: 5m}\n"
        "steps: [{wait: pod/a, timeout: 7s}, {wait: pod/a}, {run: echo}, {apply: app/pod.yaml}]\n",
        folder,
    )

    assert [step.timeout for step in built.steps] == [7, 300, seconds(KINDS["run"].TIMEOUT), 60]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "timeout: 30",
            "1:10 `timeout` must be a string, not the number 30 (a length of time has a unit: 30s, 2m, 1h30m)",
        ),
        ("timeout: 1d", "1:10 `timeout` is '1d', which is no length of time (write it as 500ms, 30s, 2m or 1h30m)"),
        ("timeout: -1s", "1:10 `timeout` is '-1s', which is no length of time (write it as 500ms, 30s, 2m or 1h30m)"),
        ("timeouts: {aply: 1m}", "1:12 `aply` is not a kind (did you mean `apply`?)"),
    ],
)
def test_wrong_lengths_of_time(text: str, expected: str, folder: Path) -> None:
    """A number without a unit, an unknown unit, a negative one; and a kind that does not exist."""
    assert told(f"{text}\n{STEPS}", folder) == [expected]


# -- steps ----------------------------------------------------------------------------------------------------------


def test_step_keeps_what_was_written(folder: Path) -> None:
    """Every common key of a step."""
    (step,) = build(
        """
        steps:
          - id: a
            name: A step
            description: Why.
            run: echo
            namespace: other
            env: {A: 1, B: "x ${{ run.id }}"}
            timeout: 3s
            retry: {attempts: 3, interval: 500ms, backoff: 2, fail_if: error.code == 2}
            continue_on_error: true
            show: true
            keep: true
        """,
        folder,
    ).steps

    assert (step.path, step.id, step.name, step.description, step.namespace) == (
        "steps.a",
        "a",
        "A step",
        "Why.",
        "other",
    )
    assert (step.timeout, step.continue_on_error, step.show, step.keep) == (3.0, True, True, True)
    assert (step.line, step.column, step.source) == (6, 5, "    run: echo")
    assert workflow.fill(step.env, {"run.id": "r"}) == {"A": 1, "B": "x r"}
    assert (step.retry.attempts, step.retry.interval, step.retry.backoff) == (3, 0.5, 2)
    assert step.retry.fail_if is not None
    assert step.retry.fail_if.evaluate({"error": {"code": 2}}) is True


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("run: echo", "run echo"),
        ("run: |\n      one\n      two", "run one"),
        ("run: [a, b]", "run a b"),
        ("apply: app/pod.yaml", "apply app/pod.yaml"),
        ("wait: {target: {kind: pod, selector: a=b}}", "wait pod a=b"),
        ("delete: [pod/a, pod/b]", "delete pod/a, pod/b"),
        ("build: {image: web, context: app}", "build web"),
        (f"run: {'x' * 70}", f"run {'x' * 57}…"),
    ],
)
def test_default_names(step: str, name: str, folder: Path) -> None:
    """The kind and what it is about, in one line of bounded length."""
    assert build(f"steps:\n  - {step}\n", folder).steps[0].name == name


def test_hash_of_a_step_follows_its_text(folder: Path) -> None:
    """Equal steps have equal hashes, whatever the order of their keys; a change changes it."""
    built = build("steps: [{run: a, show: true}, {show: true, run: a}, {run: b, show: true}]\n", folder)
    one, same, other = (step.definition for step in built.steps)

    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("condition", "state", "expected"),
    [
        ("success()", {"success": True}, True),
        ("failure()", {"failure": False}, False),
        ("always()", {"always": True}, True),
        ("cancelled() || failure()", {"cancelled": True, "failure": False}, True),
    ],
)
def test_status_functions_in_if(condition: str, state: dict[str, bool], expected: bool, folder: Path) -> None:
    """They work in `if`, and are noticed there."""
    step = build(f"steps: [{{run: echo, if: {condition}}}]\n", folder).steps[0]

    assert step.condition is not None
    assert step.condition.asks_status
    assert step.condition.evaluate({}, state) is expected


@pytest.mark.parametrize(("written", "expected"), [("true", True), ("false", False), ("run.engine == 'kubectl'", True)])
def test_if_without_status_function(written: str, expected: bool, folder: Path) -> None:
    """A boolean as it stands, or an expression over names."""
    condition = build(f"steps: [{{run: echo, if: {written}}}]\n", folder).steps[0].condition

    assert condition is not None
    assert not condition.asks_status
    assert condition.evaluate({"run.engine": "kubectl"}) is expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("{run: x, if: '${{ true }}'}", "1:22 `if` is an expression as it stands (leave out the `${{ }}`)"),
        ("{run: x, if: run.engine}", "1:22 this is a string, where bool is needed"),
        ("{run: x, if: 1}", "1:22 `if` must be a string or true or false, not the number 1"),
        (
            "{run: x, name: '${{ success() }}'}",
            "1:29 success(), failure(), always() and cancelled() work in `if` only",
        ),
        (
            "{run: x, retry: {attempts: 2, fail_if: failure()}}",
            "1:48 success(), failure(), always() and cancelled() work in `if` only",
        ),
        (
            "{wait: {target: pod/a, that: success()}}",
            "1:38 success(), failure(), always() and cancelled() work in `if` only",
        ),
        ("{run: x, name: 'a ${{ 1'}", "1:27 this `${{` is never closed (end it with `}}`)"),
    ],
)
def test_wrong_conditions(step: str, expected: str, folder: Path) -> None:
    """Habits from elsewhere, and status functions where they mean nothing."""
    (found,) = told(f"steps: [{step}]\n", folder)
    assert found.startswith(expected)


# -- references between steps ---------------------------------------------------------------------------------------


def test_ids_are_unique_in_the_whole_file(folder: Path) -> None:
    """Also across sections."""
    text = "steps:\n  - {id: a, run: x}\n  - {id: a, run: x}\nfinally:\n  - {id: a, run: x}\n"

    assert told(text, folder) == [
        "3:10 the id `a` is taken by the step on line 2",
        "5:10 the id `a` is taken by the step on line 2",
    ]


@pytest.mark.parametrize("id_", ["my-id", "A", "1a", "a.b", "''"])
def test_ids_are_names_of_expressions(id_: str, folder: Path) -> None:
    """Letters, digits and _."""
    (found,) = told(f"steps: [{{id: {id_}, run: x}}]\n", folder)
    assert found.startswith("1:14 `id` is ")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (
            "steps.nope.outputs.code",
            "`steps.nope.outputs.code` is not known here (did you mean `steps.one.outputs.code`?)",
        ),
        ("steps.one.outputs.cod", "`steps.one.outputs.cod` is not known here (did you mean `steps.one.outputs.code`?)"),
        ("steps.two.outputs.code", "`steps.two.outputs.code` is not known here (that is this step itself)"),
        ("steps.three.outputs.code", "`steps.three.outputs.code` is not known here (the step on line 4 runs later)"),
        ("inputs.x", "`inputs.x` is not known here"),
        ("run.x", "`run.x` is not known here (did you mean `run.id`?)"),
    ],
)
def test_references_to_what_is_not_there(expression: str, expected: str, folder: Path) -> None:
    """Unknown ids, unknown outputs, the step itself and later steps are refused, each with its own hint."""
    steps = f"  - {{id: one, run: x}}\n  - {{id: two, run: x, if: {expression} == 0}}\n  - {{id: three, run: x}}\n"
    (found,) = told(f"steps:\n{steps}", folder)

    assert found.startswith(f"3:27 {expected}")


def test_references_forward_through_sections(folder: Path) -> None:
    """`finally` sees steps; steps do not see `finally`."""
    assert build("steps: [{id: a, run: x}]\nfinally: [{run: x, if: steps.a.outputs.code == 0}]\n", folder)
    (found,) = told("steps: [{run: x, if: steps.a.outputs.code == 0}]\nfinally: [{id: a, run: x}]\n", folder)
    assert found.endswith("(the step on line 2 runs later)")


def test_outputs_have_types(folder: Path) -> None:
    """`code` is an int and cannot be compared with a text."""
    (found,) = told("steps:\n  - {id: a, run: x}\n  - {run: x, if: steps.a.outputs.code == '0'}\n", folder)
    assert found == "3:39 `==` does not take (int, string) (convert one side: string(x) or int(x))"


def test_outputs_of_a_broken_step_are_not_complained_about(folder: Path) -> None:
    """A misspelt kind is one problem, not one for each use of its outputs."""
    (found,) = told("steps:\n  - {id: a, rnu: x}\n  - {run: x, if: steps.a.outputs.code == 0}\n", folder)
    assert found.startswith("2:13 `rnu` is not a key of a step")


# -- retry ----------------------------------------------------------------------------------------------------------


def test_retry_is_a_number_or_a_map(folder: Path) -> None:
    """And one attempt without it."""
    built = build("steps: [{run: x, retry: 3}, {run: x, retry: {attempts: 2}}, {run: x}]\n", folder)

    assert [(s.retry.attempts, s.retry.interval, s.retry.backoff) for s in built.steps] == [
        (3, 1, 1),
        (2, 1, 1),
        (1, 1, 1),
    ]


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.RETRY == "none"])
def test_retry_is_refused_where_the_kind_polls(kind: str, folder: Path) -> None:
    """It would multiply two waits."""
    arguments = {"wait": "pod/a", "forward": "{target: pod/a, ports: '80'}"}
    found = told(f"steps: [{{{kind}: {arguments[kind]}, retry: 3}}]\n", folder)

    assert [item.split(" ", 1)[1] for item in found] == [
        f"`{kind}` takes no `retry` (it tries by itself until its `timeout`)"
    ]


def test_wait_polls(folder: Path) -> None:
    """At least one kind is covered by the test above."""
    assert told("steps: [{wait: pod/a, retry: 3}]\n", folder) == [
        "1:23 `wait` takes no `retry` (it tries by itself until its `timeout`)"
    ]


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        ("0", "`retry` must be at least 1, not the number 0"),
        ("1001", "`retry` must be at most 1000, not the number 1001"),
        ("{interval: 1s}", "`retry` needs `attempts`"),
        ("{attempts: 2, intervall: 1s}", "`intervall` is not a key of `retry` (did you mean `interval`?)"),
        ("{attempts: 2, fail_if: error.code}", ""),
        ("{attempts: 2, fail_if: eror.code == 1}", "`eror.code` is not known here"),
    ],
)
def test_wrong_retries(retry: str, expected: str, folder: Path) -> None:
    """Bounds, keys, and the expression."""
    if not expected:  # `error` is known at run time only
        assert build(f"steps: [{{run: x, retry: {retry}}}]\n", folder)
        return
    (found,) = told(f"steps: [{{run: x, retry: {retry}}}]\n", folder)
    assert found.split(" ", 1)[1].startswith(expected)


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "what"),
    [
        ("{apply: ../../out.yaml}", "1:17 out.yaml"),
        ("{apply: /etc/passwd.yaml}", "1:17 passwd.yaml"),
        ("{apply: [app/pod.yaml, link.yaml]}", "1:32 link.yaml"),
        ("{delete: ../../out.yaml}", "1:18 out.yaml"),
        ("{build: {image: x, context: ../..}}", "1:37 .."),
        ("{build: {image: x, context: app, file: ../../Dockerfile}}", "1:48 Dockerfile"),
        ("{load: {archive: /tmp/a.tar}}", "1:26 a.tar"),
        ("{run: {command: x, dir: /}}", "1:33 "),
    ],
)
def test_paths_do_not_leave_the_repository(step: str, what: str, folder: Path) -> None:
    """Neither with `..`, nor absolute, nor through a link."""
    (folder.parent.parent / "out.yaml").write_text(POD)
    (folder / "link.yaml").symlink_to(folder.parent.parent / "out.yaml")
    (found,) = told(f"steps: [{step}]\n", folder)

    assert found.startswith(f"{what} is outside of the repository of the workflow")


def test_paths_may_go_up_inside_the_repository(folder: Path) -> None:
    """The repository is the folder with `.git`, not that of the workflow."""
    (folder.parent / "pod.yaml").write_text(POD)

    assert build("steps: [{apply: ../pod.yaml}]\n", folder).root == folder.parent


def test_missing_manifest(folder: Path) -> None:
    """A near name is suggested; otherwise how to say that it is made by a step."""
    assert told("steps: [{apply: app/pdo.yaml}]\n", folder) == [
        "1:17 there is no file app/pdo.yaml (did you mean app/pod.yaml?)"
    ]
    assert told("steps: [{apply: made.yaml}]\n", folder) == [
        "1:17 there is no file made.yaml (a `run` step before that makes it says so with `generates: [made.yaml]`)"
    ]


def test_manifest_that_an_earlier_step_makes(folder: Path) -> None:
    """`generates` of an earlier `run` makes it known; of a later one not."""
    make = "{run: {command: make, generates: [made.yaml]}}"

    assert build(f"steps: [{make}, {{apply: made.yaml}}, {{delete: made.yaml}}]\n", folder)
    assert len(told(f"steps: [{{apply: made.yaml}}, {make}]\n", folder)) == 1


def test_file_that_an_expression_names_is_not_looked_for(folder: Path) -> None:
    """Its name is known only at run time."""
    assert build('inputs: {f: x.yaml}\nsteps: [{apply: "${{ inputs.f }}"}]\n', folder)


def test_problems_of_a_manifest_are_told_with_its_place(folder: Path) -> None:
    """A broken manifest is found before anything runs."""
    (folder / "bad.yaml").write_text("kind: Pod\n---\napiVersion: v1\nkind: Pod\n---\n- a\n")

    assert told("steps: [{apply: bad.yaml}]\n", folder) == [
        f"1:17 bad.yaml:{sentence} (a manifest has apiVersion, kind and metadata.name)"
        for sentence in (
            "1: `apiVersion` is missing: not a Kubernetes object",
            "3: this Pod has no metadata.name",
            "6: this is a list, not a Kubernetes object",
        )
    ]


# -- render ---------------------------------------------------------------------------------------------------------


def test_render_puts_values_in(folder: Path) -> None:
    """Text becomes text, a whole expression keeps its type, a number where text is wanted becomes text."""
    text = """
        inputs: {n: 2, wait: true}
        steps:
          - delete: {target: ["pod/a-${{ inputs.n }}"], grace: "${{ inputs.n }}", wait: "${{ inputs.wait }}"}
          - run: [echo, "${{ inputs.n }}", "${{ inputs.wait }}"]
        """
    delete, run = build(text, folder).steps
    found = {"inputs.n": 2, "inputs.wait": True}

    assert json.loads(json.dumps(delete.render(found).target)) == ["pod/a-2"]
    assert (delete.render(found).grace, delete.render(found).wait) == (2, True)
    assert run.render(found).command == ("echo", "2", "true")


def test_value_of_the_wrong_type_at_run_time(folder: Path) -> None:
    """Checked like a literal, with the key; and an expression without a value says which."""
    text = 'steps: [{id: a, run: x}, {delete: {target: pod/a, grace: "${{ steps.a.outputs.json.g }}"}}]\n'
    step = build(text, folder).steps[1]

    with pytest.raises(StepFailed) as caught:
        step.render({"steps.a.outputs.json": {"g": "soon"}})
    assert caught.value.message == "`grace` does not fit: expected `int | null`, got `str`"
    with pytest.raises(StepFailed) as caught:
        step.render({"steps.a.outputs.json": {}})
    assert caught.value.message == "the expression steps.a.outputs.json.g has no value: there is no field `g`"


def test_a_warning_takes_nothing_from_its_step(folder: Path) -> None:
    """A step that validation only warns about has its name and its time."""
    text = "steps: [{verify: {url: 'http://localhost/', request: {auth: {bearer: abcdefghijkl}}}}]"
    (step,) = build(text, folder).steps

    assert step.name == "verify http://localhost/"
    assert step.timeout == 30
