"""How text from elsewhere, durations, counts and values are written."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.reports import wording


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("日本語 ✓ é", "日本語 ✓ é"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[1;1Hhome", "home"),
        ("\x9b31mred", "red"),
        ("\x1b(Bcharset", "charset"),
        ("\x1bcreset", "reset"),
        ("half \x1b[", "half \\x1b["),
        ("a\tb", "a\tb"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x00\x07\x7f\x85", "\\x00\\x07\\x7f\\x85"),
        ("\u2028\u202e\ufeff\udc80", "\\u2028\\u202e\\ufeff\\udc80"),
    ],
)
def test_harmless(text: str, expected: str) -> None:
    """Colours go, other control characters and marks that reorder text show as escapes."""
    assert wording.harmless(text) == expected


@given(st.text())
def test_harmless_leaves_no_control_character(text: str) -> None:
    """Whatever a child prints, what is written stays on its line and moves no cursor."""
    shown = wording.harmless(text)
    assert not any(character < " " and character != "\t" for character in shown)
    assert not any("\x7f" <= character <= "\x9f" for character in shown)
    assert len(shown.splitlines()) <= 1


@given(st.text(alphabet=string.printable))
def test_harmless_keeps_what_is_printable(text: str) -> None:
    """Nothing readable gets lost."""
    assert wording.harmless(text).replace("\\", "") == "".join(map(wording.visible, text)).replace("\\", "")


def test_block_is_the_lines_of_a_text() -> None:
    """What a progress bar overwrites becomes lines, empty lines at the ends go."""
    assert wording.block("\n\na\n\n  b\x1b[1m\r10%\r20%\n\n") == ["a", "", "  b", "10%", "20%"]
    assert wording.block("") == []


def test_first_line() -> None:
    """The first line that says something, cut where asked."""
    assert wording.first_line("\n  \n hello world\nmore") == "hello world"
    assert wording.first_line("hello world", 6) == "hello…"
    assert wording.first_line("") == ""


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("a\u200db", 2), ("🎉", 2)])
def test_cells(text: str, columns: int) -> None:
    """East-Asian characters take two columns, combining ones none."""
    assert wording.cells(text) == columns


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 4, "日…"), ("日本語", 5, "日本…")],
)
def test_cut(text: str, columns: int, expected: str) -> None:
    """What is cut fits, and says that it was cut."""
    assert wording.cut(text, columns) == expected


def test_pad_counts_columns() -> None:
    """Columns line up after wide characters."""
    assert wording.pad("日", 4) + "|" == "日  |"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.00 s"),
        (0.004, "0.00 s"),
        (0.214, "0.21 s"),
        (0.994, "0.99 s"),
        (0.996, "1.0 s"),
        (4.24, "4.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (125.2, "2 min 5 s"),
        (3599.6, "1 h 0 min"),
        (7265, "2 h 1 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """Digits that are worth reading, and no `60.0 s`."""
    assert wording.duration(seconds) == text


def test_count() -> None:
    """One step, two steps."""
    assert wording.count(1, "step") == "1 step"
    assert wording.count(0, "step") == "0 steps"


def test_outcome() -> None:
    """How a cleanup went, in the words of every report."""
    assert wording.outcome(0, 0, 0) == "nothing to delete"
    assert wording.outcome(1, 0, 0) == "1 object deleted, 0 left"
    assert wording.outcome(3, 1, 2) == "3 objects deleted, 1 left, 2 kept"


def test_advice() -> None:
    """A hint tells what to try, once."""
    assert wording.advice("kubectl get pods") == "try: kubectl get pods"
    assert wording.advice("Try again") == "Try again"
    for fact in ("did you mean pod/web?", "its ports: 80 (http)", "there is trial", "known are: a, b"):
        assert wording.advice(fact) == f"hint: {fact}"


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        ("pod/x", "pod/x"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a\nb", "a\\nb"),
        ('say "x"', '"say \\"x\\""'),
        ("a=b", '"a=b"'),
        (3, "3"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        (["a", "b"], '"a, b"'),
        ({"a": 1}, '"{\\"a\\": 1}"'),
    ],
)
def test_value(thing: object, text: str) -> None:
    """The right side of key=value is one word, or quoted."""
    assert wording.value(thing) == text
