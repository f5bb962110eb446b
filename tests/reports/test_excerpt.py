"""A source line and its carets line up, whatever the line holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.reports.excerpt import LIMIT, excerpt
from runner.reports.terminal import Style
from runner.reports.wording import cells

PLAIN = Style()


def marked(source: str, column: int, width: int) -> str:
    """The characters above the carets."""
    shown, carets = excerpt(source, 1, column, width, style=PLAIN)
    start = cells(carets.rstrip("^"))
    end = cells(carets)
    position, found = 0, ""
    for character in shown:
        if start <= position < end:
            found += character
        position += cells(character)
    return found


@pytest.mark.parametrize(
    ("source", "column", "width", "expected"),
    [
        ("abc: def", 6, 3, "def"),
        ("\tabc: def", 7, 3, "def"),
        ("日本: 語語 x", 5, 2, "語語"),
        ("e\u0301tat: x", 8, 1, "x"),
        ("a" * 300 + "BBB" + "c" * 300, 301, 3, "BBB"),
        ("日" * 300 + "BBB" + "c" * 300, 301, 3, "BBB"),
        ("a\x1b[31mX", 7, 1, "X"),
        ("abc", 4, 1, ""),
        ("abc", 99, 1, ""),
        ("abc", 0, 1, "a"),
        ("", 1, 1, ""),
    ],
)
def test_the_caret_stands_below_what_is_meant(source: str, column: int, width: int, expected: str) -> None:
    """Tabs, wide and combining characters, escapes and cuts do not move it."""
    assert marked(source, column, width) == expected


@given(st.text(), st.integers(0, 400), st.integers(1, 300))
def test_lines_stay_short_and_harmless(source: str, column: int, width: int) -> None:
    """Nothing longer than the limit, the gutter and two signs of a cut; always a caret."""
    shown, carets = excerpt(source, 1, column, width, style=PLAIN)
    assert cells(shown) <= LIMIT + 10
    assert cells(carets) <= LIMIT + 10
    assert carets.endswith("^")
    assert len(shown.splitlines()) == 1


def test_a_huge_line_takes_no_time() -> None:
    """A line of ten million characters is not walked through."""
    shown, carets = excerpt("x" * 10_000_000, 3, 5_000_000, 1_000_000, style=PLAIN)
    assert cells(shown) <= LIMIT + 10
    assert carets.count("^") == LIMIT // 2


def test_ascii_and_colour() -> None:
    """The gutter and the cut have signs that every encoding has, carets are red where there is colour."""
    shown, carets = excerpt("a" * 300, 7, 150, style=Style(colour=True, unicode=False))
    assert shown.isascii()
    assert shown.startswith("    7 | ...")
    assert carets.endswith("\x1b[31m^\x1b[0m")
