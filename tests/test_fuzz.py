"""Whatever the text: `validate` answers with a workflow or with problems, an expression with a value or with its error.

All seeds are fixed; `HYPOTHESIS_MAX_EXAMPLES=100000 pytest tests/test_fuzz.py` searches longer, with new ones.
"""

from __future__ import annotations

import copy
import gzip
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner import document, expressions
from runner.building import build
from runner.cli import main
from runner.errors import InvalidWorkflow, Problem, StepFailed
from runner.expressions import EvaluationError, Flaw, InvalidExpression, Template
from runner.reports import problems as report
from runner.reports.encode import as_json
from runner.reports.terminal import fit
from runner.steps import KINDS
from runner.workflow import Workflow
from tests.steps.servers import FakeContext, Handler, serving, verified

ROOT = Path(__file__).parent.parent
SEEDS = [path.read_text() for path in sorted((ROOT / "workflows").glob("*.yaml"))]
SEEDS.append("""\
name: all
description: Every key that a workflow and a step can have.
inputs: {tag: dev, count: {type: integer, default: 2, enum: [1, 2]}, token: {secret: true, env: TOKEN}}
vars: {image: "app:${{ inputs.tag }}", list: ["${{ inputs.count }}"]}
namespace: {generate: demo-}
cluster: {context: "", engine: auto}
timeout: 15m
timeouts: {wait: 5m, run: 1m}
keep: on_failure
x-base: &base {show: true, timeout: 30s}
steps:
  - build: {image: "${{ vars.image }}", context: pythonapp, args: {BASE: x}, builder: docker, load: false}
  - {id: made, run: {command: [make, it], generates: [made.yaml], expect: {code: 0}}, env: {A: 1, B: "${{ run.id }}"}}
  - {<<: *base, apply: [made.yaml, pythonapp/pod.yaml], retry: {attempts: 3, interval: 1s, fail_if: error.code == 1}}
  - wait: {target: {kind: pod, selector: app=x}, until: condition=Ready, count: "${{ inputs.count }}"}
  - {wait: {target: [pod/a, pod/b], that: "object.a == 1", fail_if: "size(objects) > 1"}, if: "success() && true"}
  - {delete: {target: pod/a, grace: 5, wait: false}, continue_on_error: true, keep: true, namespace: other}
  - load: pythonapp
on_failure: [{run: "echo", if: "steps.made.outputs.code == 0 || failure()"}]
finally: [{delete: {file: pythonapp/pod.yaml}, name: "x ${{ steps.made.outcome }}", namespace: other}]
""")

TIMES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "0"))


def bounded(examples: int) -> Callable[..., Any]:
    return settings(
        max_examples=TIMES or examples,
        derandomize=not TIMES,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files that the seeds name."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / ".git").mkdir()
    shutil.copytree(ROOT / "workflows", folder / "w")
    return folder / "w"


def validate(text: str | bytes, folder: Path) -> Workflow | tuple[Problem, ...]:
    """What `runner validate` does with one file; problems are checked for a place that exists and can be shown."""
    try:
        return build(document.loads(text, "w.yaml", folder / "w.yaml"), KINDS)
    except InvalidWorkflow as error:
        problems = error.problems
    lines = _lines(text)
    assert problems
    for problem in problems:
        assert problem.message
        assert problem.line == problem.column == 0 or _is_inside(problem.line, problem.column, lines), problem
    assert report.render(problems)
    return problems


def _lines(text: str | bytes) -> list[str]:
    decoded = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return decoded.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _is_inside(line: int, column: int, lines: list[str]) -> bool:
    return 1 <= line <= len(lines) + 1 and 1 <= column <= len([*lines, ""][line - 1]) + 1


# -- files ----------------------------------------------------------------------------------------------------------

KEYS = [
    *("name", "description", "inputs", "vars", "namespace", "cluster", "timeout", "timeouts", "keep", "steps", "x-y"),
    *("on_failure", "finally", "id", "if", "env", "retry", "continue_on_error", "show", "type", "default", "enum"),
    *("secret", "required", "create", "generate", "context", "engine", "attempts", "fail_if", "command", "target"),
    *("file", "until", "that", "count", "image", "args", "dir", "expect", "generates", "kind", "selector", "grace"),
    *("apiVersion", "<<", "uses", "on", "url", "tcp", "ports", "address", "status", "headers", "contains", "matches"),
    *("equals", "json", "request", "method", "form", "body", "auth", "tls", "throughout", "consecutive", *KINDS),
]
SCALARS = [
    *("1", "-1", "0", "1.5", "true", "null", "yes", "010", "2024-01-01", "''", '"10"', "text", "pod/a", "30s", "2 m"),
    *("pythonapp", "pythonapp/pod.yaml", "none.yaml", "*.yaml", "**", "..", "../..", ".", "/", "~", "[", "*x", "&x 1"),
    *("!!str 1", "!x", "@", "`", "%", "|", ">", '"\\0"', '"\\n"', '"a\\0.yaml"', "/*.yaml", "a\u0300", "''''"),
    *('"${{ inputs.tag }}"', '"${{ a.b"', '"${{"', '"${{ }}"', '"${{ steps.x.outputs.y }}"', "success()", "object.a"),
    *("1 == 1", '"}}"', "a" * 300 + ".yaml", "9" * 30, "1e999", "http://x/y.yaml", "condition=A=b", "{generate: x-}"),
    *(
        "'8080:80'",
        "':80'",
        "70000:1",
        "http://a:b@[::1/",
        "http://x:99999/",
        "https://x/${{",
        "a(",
        "2xx",
        "[200, 3xx]",
    ),
]
# Line breaks of old systems have tests of their own below; they would hide everything else.
BREAKS = "\r\x85\u2028\u2029"
TEXT = st.characters(exclude_characters=BREAKS)
WORDS = [
    *KEYS,
    *SCALARS,
    ": ",
    ": ",
    ": ",
    "- ",
    "- ",
    "\n",
    "\n",
    "\n  ",
    "\n    ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "#",
    "---",
]


@given(content=st.binary(max_size=200).map(lambda content: content.replace(b"\r", b"\r\n")))
@bounded(150)
def test_arbitrary_bytes(content: bytes, folder: Path) -> None:
    """No file content is a crash."""
    validate(content, folder)


@given(text=st.text(TEXT, max_size=200))
@bounded(150)
def test_arbitrary_text(text: str, folder: Path) -> None:
    """No text is a crash; also below `steps`."""
    validate(text, folder)
    validate(f"steps:\n  - run: {text}", folder)


@given(words=st.lists(st.sampled_from(WORDS), max_size=40))
@bounded(300)
def test_text_like_yaml(words: list[str], folder: Path) -> None:
    """No sequence of YAML's signs and our words is a crash."""
    validate("".join(words), folder)


def nodes(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every node below the root."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from nodes(value, (*path, key))


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(TEXT, max_size=8)
    | st.sampled_from([yaml.safe_load(item) for item in SCALARS if item[0] not in "[*&!@`%|>"]).filter(
        lambda value: isinstance(value, str | int | float | bool | dict)
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2),
    max_leaves=4,
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["drop", "double", "replace", "rename", "copy"]), st.integers(0, 999), VALUES), min_size=1
)


def changed(seed: str, changes: list[tuple[str, int, Any]]) -> str:
    data = yaml.safe_load(seed)
    for change, number, value in changes:
        places = list(nodes(data))
        if not places:
            break
        *way, key = places[number % len(places)]
        parent = data
        for step in way:
            parent = parent[step]
        if change == "drop":
            del parent[key]
        elif change == "replace":
            parent[key] = value
        elif change == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif change == "copy":
            source = data
            for step in places[(number * 7 + 1) % len(places)]:
                source = source[step]
            parent[key] = copy.deepcopy(source)
        elif isinstance(parent, dict):
            parent[KEYS[number % len(KEYS)]] = parent.pop(key)
    return yaml.safe_dump(data, allow_unicode=True, sort_keys=False)


@given(seed=st.sampled_from(SEEDS), changes=CHANGES)
@bounded(300)
def test_changed_workflows(seed: str, changes: list[tuple[str, int, Any]], folder: Path) -> None:
    """No workflow with nodes dropped, doubled, renamed or replaced is a crash."""
    validate(changed(seed, changes), folder)


@given(seed=st.sampled_from(SEEDS), cuts=st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(["", *WORDS]))))
@bounded(150)
def test_workflows_with_wrong_lines(seed: str, cuts: list[tuple[int, str]], folder: Path) -> None:
    """No workflow with text cut and inserted is a crash."""
    text = seed
    for place, word in cuts:
        at = place % (len(text) + 1)
        text = text[:at] + word + text[at + 3 :]
    validate(text, folder)


def test_seeds_are_valid_where_all_kinds_exist(folder: Path) -> None:
    """The seeds are what the mutations are meant to be one step away from."""
    found = validate(SEEDS[-1], folder)

    assert isinstance(found, Workflow), found
    assert len(found.all_steps) == 9


@given(words=st.lists(st.sampled_from(WORDS), max_size=12))
@bounded(25)
def test_program_never_shows_a_traceback(words: list[str], folder: Path) -> None:
    """The whole way from the file to the exit code: 0 or 2."""
    file = folder / "fuzz.yaml"
    file.write_text("".join(words))

    assert main(["validate", str(file)]) in (0, 2)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('steps: [{apply: "a\\0.yaml"}]', id="NUL in a path"),
        pytest.param('steps: [{build: {image: x, context: "a\\0"}}]', id="NUL in a folder"),
        pytest.param('steps: [{run: {command: x, dir: "a\\0"}}]', id="NUL in a working directory"),
        pytest.param("steps: [{apply: /*.yaml}]", id="absolute glob"),
        pytest.param(f"steps: [{{apply: {'a' * 300}.yaml}}]", id="long name"),
        pytest.param("steps: [{apply: '**.yaml'}]", id="wrong glob"),
        pytest.param("steps: [{apply: '[.yaml'}]", id="open bracket"),
        pytest.param("steps: [{apply: '~nobody/x.yaml'}]", id="home of nobody"),
        pytest.param("steps: [{apply: ''}]", id="empty name"),
    ],
)
def test_paths_that_no_disk_has(text: str, folder: Path) -> None:
    """A path that cannot exist is a problem, not a crash."""
    assert not isinstance(validate(text, folder), Workflow)


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85"])
def test_unusual_line_breaks_shift_no_line(sign: str, folder: Path) -> None:
    """A line separator inside a text, as pasted from a web page, leaves the lines after it where editors show them."""
    found = validate(f"name: 'a{sign}b'\nsteps:\n  - run: yes\n", folder)

    assert not isinstance(found, Workflow)
    assert [(problem.line, problem.column) for problem in found] == [(3, 10)]


@pytest.mark.parametrize("content", [b"a: 1\rb: \x08\r", b"a: 1\rb: \xff\r"])
def test_places_in_files_with_carriage_returns(content: bytes, folder: Path) -> None:
    """Control characters and wrong bytes in a file of an old Mac have the line that the parser would give."""
    found = validate(content, folder)

    assert not isinstance(found, Workflow)
    assert [(problem.line, problem.column) for problem in found] == [(2, 4)]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("if: |\n      true &&\n      nope", (4, 7)),
        ("if: >-\n      true &&\n      nope", (4, 7)),
        ("if: |\n\n      nope", (4, 7)),
        ('if: "true &&\\n nope"', (2, 20)),
        ("if: true &&\n      nope", (3, 7)),
        ("name: |\n      ${{ 1 +\n      nope }}", (4, 7)),
        ("name: >-\n      ${{ 1 +\n      nope }}", (4, 7)),
        ('name: "${{ 1 +\\n nope }}"', (2, 22)),
    ],
)
def test_place_on_a_later_line_of_an_expression(step: str, expected: tuple[int, int], folder: Path) -> None:
    """A flaw on the second line of an expression has its place, whatever the style of the scalar."""
    found = validate(f"steps:\n  - {step}\n    run: echo\n", folder)

    assert not isinstance(found, Workflow)
    assert [(problem.line, problem.column) for problem in found] == [expected]


# -- expressions ----------------------------------------------------------------------------------------------------

VARIABLES = {"inputs.count": "int", "inputs.name": "string", "steps.a.outcome": "string", "env": "environment"}
TOKENS = [
    *("inputs.count", "inputs.name", "steps.a.outcome", "env", "env.X", "object", "object.a", "nope", "success()", "1"),
    *("1.5", "'a'", '"b"', "'''c'''", "r'\\d'", "b'x'", "true", "null", "+", "-", "*", "/", "%", "==", "!=", "<", "&&"),
    *(
        "||",
        "!",
        "?",
        ":",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        " ",
        " ",
        "\n",
        "in",
        "size(",
        "has(",
        ".map(x, ",
        "//",
    ),
    *(
        "$",
        "@",
        "`",
        "é",
        "😀",
        "\\",
        "'",
        '"',
        "0x1",
        "1u",
        "9" * 20,
        "type(",
        "duration('1s')",
        "timestamp('x')",
        "?.",
        "#",
    ),
]
SOURCES = st.text(max_size=40) | st.lists(st.sampled_from(TOKENS), max_size=12).map("".join)


@given(source=SOURCES, wanted=st.sampled_from(["", "bool"]))
@bounded(400)
def test_any_expression_compiles_or_says_where_not(source: str, wanted: str) -> None:
    """Every flaw has a message, and a place inside the expression."""
    flaws: tuple[Flaw, ...] = ()
    try:
        expressions.compile(source, {**VARIABLES, "object": "dyn"}, wanted=wanted)
    except InvalidExpression as error:
        flaws = error.flaws or (Flaw(0, 0, ""),)
    lines = source.split("\n")
    for flaw in flaws:
        assert flaw.message
        assert 1 <= flaw.line <= len(lines), (source, flaw)
        assert 1 <= flaw.column <= len(lines[flaw.line - 1]) + 1, (source, flaw)


@given(source=SOURCES.filter(lambda source: not {*source} & {*BREAKS, "\n"}))
@bounded(150)
def test_expressions_in_a_file_have_a_place_in_the_file(source: str, folder: Path) -> None:
    """As `${{ }}`, as a bare expression, in quotes and as a literal block."""
    quoted = yaml.safe_dump(f"x ${{{{{source}}}}}", allow_unicode=True, width=1000, default_style='"')
    bare = yaml.safe_dump(source, allow_unicode=True, width=1000, default_style='"')
    text = f"steps:\n  - if: {bare}  - name: {quoted}    run: echo\n".replace("  - name", "    name")
    validate(text, folder)
    validate(f"steps:\n  - run: echo\n    name: |\n      ${{{{{source}}}}}\n    if: |-\n      {source}\n", folder)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "", "é"]), inner, max_size=3)
    ),
    max_leaves=6,
)
USES = [
    *("object", "object.a", "object.a.b", "object['a']", "object[0]", "object.a + 1", "object.a > 1", "size(object)"),
    *("object.map(x, x.a)", "object.all(x, x == 1)", "object.exists(k, k == 'a')", "has(object.a)", "'a' in object"),
    *("object == [1]", "-object", "!object", "object ? 1 : 2", "object.matches('(')", "string(object)", "int(object)"),
    *(
        "double(object)",
        "timestamp(object)",
        "duration(object)",
        "object / 0",
        "object % 0",
        "object.a.startsWith('x')",
    ),
    *(
        "object.?a.orValue(1)",
        "base64.encode(object)",
        "object.split(',')",
        "object * 9223372036854775807",
        "bytes(object)",
    ),
    *("{object: 1}", "[object, object]", "object.replace('a', 'b')", "dyn(object) == object", "uint(object)"),
]


@given(source=st.sampled_from(USES), value=JSON)
@bounded(500)
def test_evaluation_raises_only_its_error(source: str, value: Any) -> None:
    """Any JSON value under any use of it: a plain value, or a sentence; also inside a longer text."""
    compiled = expressions.compile(source, {"object": "dyn"})
    message = "fine"
    try:
        json.dumps(compiled.evaluate({"object": value}))
        assert isinstance(Template(("x", compiled)).render({"object": value}), str)
    except EvaluationError as error:
        message = error.message
    assert message
    assert "\n" not in message


@pytest.mark.parametrize("source", ["type(object)", "[type(object)]", "{'a': type(object)}"])
def test_type_of_a_value_is_plain(source: str) -> None:
    """`type(x)` has a value that a report can hold."""
    json.dumps(expressions.compile(source, {"object": "dyn"}).evaluate({"object": 1}))


@pytest.mark.parametrize("depth", [100, 400])
def test_deep_values(depth: int) -> None:
    """JSON as deep as Python reads it."""
    value = json.loads("[" * depth + "]" * depth)

    assert expressions.compile("object", {"object": "dyn"}).evaluate({"object": value}) == value


@pytest.mark.parametrize(
    "source",
    [
        "(" * 20_000,
        "1 + " * 20_000 + "1",
        "!" * 20_000 + "true",
        "[" * 20_000 + "]" * 20_000,
        "a." * 20_000 + "a",
        "'" * 20_001,
        "'''" * 6_667 + "x",
        "{" * 20_000,
        "true ? " * 5_000,
        "size(" * 5_000,
    ],
    ids=lambda source: source[:8],
)
def test_large_expressions_end_soon(source: str) -> None:
    """No stack overflow and no time that grows with the square."""
    start = time.perf_counter()
    with suppress(InvalidExpression):
        expressions.compile(source, VARIABLES)
    expressions.split(f"${{{{ {source} }}}}")

    assert time.perf_counter() - start < 30


STATUS_LINES = """\
HTTP/1.1 200 OK|HTTP/1.1 302 Found|HTTP/1.0 999 \xff\x1b[31m|HTTP/1.1 204|HTTP/1.1 103 x|HTTP/1.1 101 x|HTTP/9.9 200
HTTP/1.1 2e2 OK|ICY 200 OK|\x15\x03\x01||HTTP/1.1 99"""
FIELDS = """\
Content-Length: 3|Content-Length: -1|Content-Length: x|Transfer-Encoding: chunked|Transfer-Encoding: \xff|\0: \0
Content-Encoding: gzip, deflate|Content-Encoding: gzip|Content-Type: text/plain; charset=idna| folded|:|no colon
Content-Type: a; charset=a\0b|Content-Type: a; charset*=x; charset*0=y|Content-Type: ; charset=punycode
Location: http://[::b/|Location: https:///|Location: //localhost:99999/|Location: \x80\xff|Location: http://a..b/
Set-Cookie: \xe9\x1b[2J|Set-Cookie: ;;;"""
BODIES = [
    *(b"", b"abc", b"\xff\xfe\0", b"NaN", b"[1e999, -Infinity]", b'"\\ud800"', b"1" * 5000, b"-0", b"\x1b]0;x"),
    *(b"[" * 900 + b"]" * 900, b'{"a": ' * 5000, b'{"a":' * 480 + b"1" + b"}" * 480, gzip.compress(b"0" * 20_000_000)),
    *(b"\x1f\x8b\x08", gzip.compress(b"ok")[:-5], b"-1\r\nabc", b"ffffffffffffffffffff\r\nabc", b"3\r\nabc\r\n0\r\n"),
]
EXPECTED: list[dict[str, Any]] = [
    *({}, {"contains": "x"}, {"matches": "^x"}, {"equals": "x"}, {"json": {"a": 1}}, {"json": [1.5, "x"]}),
    *({"headers": {"Set-Cookie": "x"}}, {"that": "response.json == 1"}, {"that": "size(response.body) > 1"}),
]


def spoken(lines: str) -> st.SearchStrategy[bytes]:
    return st.sampled_from([line.encode("latin-1") for line in re.split(r"[|\n]", lines)])


@given(
    line=spoken(STATUS_LINES),
    fields=st.lists(
        spoken(FIELDS) | st.just(b"X: " + b"a" * 70_000) | st.just(b"Content-Length: " + b"9" * 5000), max_size=5
    ),
    body=st.sampled_from(BODIES),
    expected=st.sampled_from(EXPECTED),
)
@bounded(400)
def test_hostile_servers(
    line: bytes, fields: list[bytes], body: bytes, expected: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a server says: an answer that a report can hold, or a sentence that a terminal can show."""

    def answer(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(b"\r\n".join([line, *fields, b"", body]))

    context = FakeContext(tmp_path_factory.getbasetemp())
    context.attempts = 1
    request = {"follow_redirects": True}
    with serving(answer) as server:
        try:
            told = as_json(verified(context, url=server.url, status=["2xx", 302, 101], request=request, **expected))
        except StepFailed as error:
            told = as_json(fit(TextIOWrapper(BytesIO(), "ascii"), f"{error.message}\n{error.hint}\n{error.details}"))
    assert json.loads(told)
