"""What a text must satisfy, and how a difference reads."""

from __future__ import annotations

import pytest

from runner.steps.kind import Match
from runner.steps.matching import differences, faults


@pytest.mark.parametrize(
    ("match", "text"),
    [
        (Match(), "anything"),
        (Match(contains="ell"), "Hello"),
        (Match(contains=("H", "o")), "Hello"),
        (Match(matches=r"^He.*o$"), "Hello"),
        (Match(matches="(?i)HELLO"), "say hello"),
        (Match(equals="Hello"), "Hello\n"),
        (Match(json={"a": 1}), '{"a": 1.0, "b": 2}'),
        (Match(json=[{"a": []}, None]), '[{"a": [], "x": 0}, null]'),
        (Match(json=False), "false"),
    ],
)
def test_texts_that_match(match: Match, text: str) -> None:
    """Maps are compared as subsets; white space at the ends does not count for `equals`."""
    assert differences(match, text) == []


@pytest.mark.parametrize(
    ("match", "text", "difference"),
    [
        (Match(contains="x"), "Hello", 'expected it to contain "x", got "Hello"'),
        (Match(contains="x"), "", 'expected it to contain "x", got nothing'),
        (
            Match(contains="Hello World"),
            "<p>\nHello Word\n</p>",
            'expected it to contain "Hello World", the nearest is line 2: "Hello Word"',
        ),
        (Match(contains="x"), "a\nb", 'expected it to contain "x", got "a\\nb"'),
        (Match(matches="^ello"), "Hello", 'expected it to match ^ello, got "Hello"'),
        (Match(equals="Hullo"), "Hello\n", 'expected exactly "Hullo", got "Hello"'),
        (Match(equals="a\nb\nc"), "a\nx\nc", "it is not exactly as expected\n--- expected\n+++ actual\n"),
        (Match(json={"a": {"b": 1}}), '{"a": {"b": 2}}', "$.a.b: expected 1, got 2"),
        (Match(json={"a": 1}), '{"b": 1}', "$.a: expected 1, but there is no such key (there is b)"),
        (Match(json=[1]), "[1, 2]", "$: expected 1 items, got 2: [1, 2]"),
        (Match(json=True), "1", "$: expected true, got 1"),
        (Match(json={}), "<html>", 'expected JSON, got "<html>"'),
    ],
)
def test_differences_say_what_was_expected_and_what_came(match: Match, text: str, difference: str) -> None:
    """One line (or a diff) names the place, the expectation and the value."""
    (found,) = differences(match, text)

    assert found.startswith(difference)


def test_every_difference_is_named() -> None:
    """Nothing is left out after the first one."""
    assert len(differences(Match(contains=("x", "y"), matches="z", equals="w", json={"a": 1}), "{}")) == 5


def test_long_values_are_cut() -> None:
    """A megabyte in a log helps nobody."""
    (found,) = differences(Match(contains="x"), "y" * 1_000_000)

    assert len(found) < 400


@pytest.mark.parametrize(("pattern", "why"), [("(?=x)", "(?="), (r"(a)\1", r"\1"), ("[", "missing ]")])
def test_patterns_that_are_not_re2_are_refused(pattern: str, why: str) -> None:
    """Look-around and back-references are found at validation."""
    (fault,) = faults({"matches": pattern}, ("expect", "stdout"))

    assert fault.path == ("expect", "stdout", "matches")
    assert why in fault.message


def test_patterns_cannot_hang() -> None:
    """A pattern that makes backtracking engines run for ever is linear here."""
    assert differences(Match(matches="^(a+)+$"), "a" * 100_000 + "!") != []
