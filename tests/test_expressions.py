"""Expressions: found by lexing, checked with places, evaluated with types kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import confidential, expressions, masking
from runner.expressions import EvaluationError, Flaw, InvalidExpression, Template

VARIABLES = {
    "inputs.count": "int",
    "inputs.name": "string",
    "steps.web.outputs.url": "string",
    "steps.web.outputs.port": "int",
    "steps.web.outcome": "string",
    "env": "environment",
    "object": "dyn",
}


@pytest.mark.parametrize(
    ("string", "expected"),
    [
        ("plain", [("plain", False)]),
        ("", [("", False)]),
        ("${{ a }}", [(" a ", True)]),
        ("a ${{ b }} c", [("a ", False), (" b ", True), (" c", False)]),
        ("${{ '}}' }}", [(" '}}' ", True)]),
        ("${{ {'a': {'b': 1}} }}", [(" {'a': {'b': 1}} ", True)]),
        ("${{ a // }}\n }}x", [(" a // }}\n ", True), ("x", False)]),
        ("$${{ a }}", [("$", False), (" a ", True)]),
        ("${ a } {{ b }}", [("${ a } {{ b }}", False)]),
    ],
)
def test_split_minds_quotes_comments_and_braces(string: str, expected: list[tuple[str, bool]]) -> None:
    """`}}` inside a string, a comment or a map does not end the expression."""
    assert [(piece.source, piece.is_expression) for piece in expressions.split(string)] == expected


def test_unclosed_expression_is_marked() -> None:
    """An expression without its `}}` is found and marked."""
    (piece,) = expressions.split("${{ a")

    assert (piece.is_expression, piece.complete) == (True, False)


@given(st.text(alphabet="${}'\"\\ab/\n ", max_size=60))
def test_split_loses_nothing(string: str) -> None:
    """Whatever the text, the pieces stand in it where they say, and cover it."""
    pieces = expressions.split(string)

    assert all(string[piece.offset :].startswith(piece.source) for piece in pieces)
    joined = "".join(f"${{{{{p.source}}}}}" if p.is_expression and p.complete else p.source for p in pieces)
    assert len(joined) >= len(string) - 3


@pytest.mark.parametrize(
    ("source", "column", "message", "hint"),
    [
        (
            "steps.web.outputs.ulr",
            1,
            "`steps.web.outputs.ulr` is not known here",
            "did you mean `steps.web.outputs.url`?",
        ),
        ("1 + steps.web.outputs.ulr", 5, "is not known here", "did you mean"),
        ("inputs.count + 'a'", 14, "`+` does not take (int, string)", "convert one side"),
        ("contains(inputs.name, 'a')", 1, "there is no function `contains`", "text.contains('part')"),
        ("steps.my-id.outputs.x", 1, "an id has no hyphen", "the hyphen here is a minus"),
        ("github.sha", 1, "is not known here", "not GitHub Actions"),
        ("a ? b", 6, "syntax error", "condition ? value : other value"),
        ("not true", 5, "syntax error", "! for not"),
        ("inputs.count == 1.5", 14, "does not take (int, double)", "double(x) or int(x)"),
        ("True", 1, "is not known here", "CEL writes true"),
        ("   ", 1, "the expression is empty", "write a value"),
    ],
)
def test_flaws_have_a_place_and_a_hint(source: str, column: int, message: str, hint: str) -> None:
    """A wrong expression says where, what, and what to write instead."""
    with pytest.raises(InvalidExpression) as caught:
        expressions.compile(source, VARIABLES)

    flaw = caught.value.flaws[0]
    assert flaw.column == column
    assert message in flaw.message
    assert hint in flaw.hint


def test_all_flaws_are_reported() -> None:
    """Two unknown names are two flaws."""
    with pytest.raises(InvalidExpression) as caught:
        expressions.compile("nope1 && nope2", VARIABLES)

    assert [flaw.column for flaw in caught.value.flaws] == [1, 10]


def test_wanted_type_is_checked() -> None:
    """A place that needs a bool refuses a string, and takes what is known only at run time."""
    with pytest.raises(InvalidExpression, match="this is a string, where bool is needed"):
        expressions.compile("inputs.name", VARIABLES, wanted="bool")

    assert expressions.compile("object.ready", VARIABLES, wanted="bool").type == "dyn"


def test_value_keeps_its_type() -> None:
    """A template that is one expression is not a string; inside a longer text it is."""
    port = expressions.compile("steps.web.outputs.port", VARIABLES)
    values = {"steps.web.outputs.port": 80}

    assert Template((port,)).render(values) == 80
    assert Template(("port ", port)).render(values) == "port 80"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("true", "true"),
        ("null", "null"),
        ("1.0", "1"),
        ("1.5", "1.5"),
        ("{'a': [1, 'é']}", '{"a": [1, "é"]}'),
        ("b'abc'", "abc"),
        ("duration('90s')", "90s"),
        ("timestamp('2026-01-02T03:04:05Z')", "2026-01-02T03:04:05Z"),
    ],
)
def test_values_inside_text(source: str, expected: str) -> None:
    """Values that are no strings are written as JSON inside a longer text."""
    assert Template(("", expressions.compile(source, VARIABLES))).render({}) == expected


@pytest.mark.parametrize(
    ("source", "values", "message"),
    [
        ("object.status.phase", {"object": {"status": {}}}, "there is no field `phase`"),
        ("env.NOPE", {"env": {}}, "there is no field `NOPE`"),
        ("steps.web.outputs.url", {}, "its step did not run or did not succeed"),
        ("object.a + 1", {"object": {"a": 1.5}}, "types do not fit"),
        ("1 / 0", {}, "divi"),
    ],
)
def test_evaluation_errors_are_sentences(source: str, values: dict[str, object], message: str) -> None:
    """A value that is not there at run time is a sentence for people."""
    compiled = expressions.compile(source, VARIABLES)

    with pytest.raises(EvaluationError, match=message):
        compiled.evaluate(values)


def test_status_functions() -> None:
    """Status functions answer what the engine says, and are noticed in the source but not in a string."""
    condition = expressions.compile("failure() || steps.web.outcome == 'success()'", VARIABLES)
    other = expressions.compile("inputs.name == 'failure()'", VARIABLES)
    status = {"success": False, "failure": True, "always": True, "cancelled": False}

    assert condition.evaluate({"steps.web.outcome": "x"}, status) is True
    assert (condition.asks_status, other.asks_status) == (True, False)


@given(st.text(max_size=40))
def test_any_source_compiles_or_says_why(source: str) -> None:
    """No text makes the compiler raise anything but its own error."""
    flaws: tuple[Flaw, ...] = ()
    try:
        expressions.compile(source, VARIABLES)
    except InvalidExpression as error:
        flaws = error.flaws
    assert all(flaw.message and flaw.line >= 1 and flaw.column >= 1 for flaw in flaws)


SECRET = {
    "inputs.token": "Tr0ub4dor-3x-and-more",
    "inputs.name": "web-server",
    "steps.a.outputs.stdout": "first\nLine0fSecret",
}


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("inputs.token.substring(0, 12)", False),
        ("inputs.token.substring(3, 7)", False),
        ("inputs.token.upperAscii()", False),
        ('"Basic " + base64.encode(bytes("bob:" + inputs.token.substring(9)))', False),
        ('inputs.token.split("-")', False),
        ("{'inner': inputs.token.lowerAscii()}", False),
        ("env.MY_TOKEN.upperAscii()", False),
        ("steps.a.outputs.stdout.substring(6).upperAscii()", False),
        ('steps.a.outputs.stdout.split("\\n")[0]', True),
        ("inputs.token.size()", True),
        ("string(inputs.token.size() + 10000)", True),
        ('string(inputs.token == "")', True),
        ('inputs.token == "" ? "without" : "with-token"', True),
        ('inputs.token == "" ? "without" : inputs.name', True),
        ("inputs.name.upperAscii()", True),
        ("env.HOME_PAGE.upperAscii()", True),
    ],
)
def test_what_is_computed_from_a_secret_is_masked(source: str, shown: bool) -> None:
    """Of inputs, variables and outputs that are masked; not what is said about them, nor what stands beside them."""
    values: dict[str, Any] = {**SECRET, "env": {"MY_TOKEN": "Env1ronToken", "HOME_PAGE": "example/page"}}
    types = dict.fromkeys(SECRET, "string") | {"env": "environment"}
    masking.hide([SECRET["inputs.token"], "Line0fSecret", values["env"]["MY_TOKEN"]])
    template = Template((expressions.compile(source, types),))
    value = template.render(values)

    assert all(
        (masking.mask(text) == text) == shown for text in confidential.declared(value) if len(text) >= masking.SHORTEST
    )
    if source.startswith('"Basic'):
        assert masking.mask(value.split()[1]) == masking.STARS
