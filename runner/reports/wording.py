"""How text from elsewhere, durations, counts and values are written in every report."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

# Complete sequences that colour, move the cursor or set a title: they are dropped, what is left of others is escaped.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]P^_X].*?(?:\x07|\x1b\\|$)"  # OSC and its kin: titles, links
    r"|\x1b[ -/]+[0-~]|\x1b[0-Z\\`-~]"  # two and three characters
    r"|\x9b[0-?]*[ -/]*[@-~]"  # CSI as one character
)
_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Marks that reorder what is displayed: a reviewer would read something else than what stands there.
_REORDERING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_NEEDS_QUOTES = re.compile(r"[\s\"'=]|^$")
_FACT: Final = re.compile(r"(?:did you mean|there|its?|known|the|an?|another|what|which|every|this|is|do) ")
_MINUTE: Final = 60
_HOUR: Final = 3600


def harmless(text: str) -> str:
    """One line from elsewhere (a name, a child's output) that cannot move the cursor, break the line or hide anything.

    Colours are dropped; every other control character is shown as an escape; tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(visible, _SEQUENCE.sub("", text)))


def visible(character: str) -> str:
    """A character, or its escape when it does not show or changes how its neighbours show."""
    if character == "\t":
        return character
    if character in _REORDERING or unicodedata.category(character) in _HIDDEN_CATEGORIES:
        return character.encode("unicode_escape").decode("ascii")
    return character


def block(text: str) -> list[str]:
    """Text of several lines as harmless lines, without the empty ones at its ends."""
    return [harmless(line) for line in text.strip("\r\n").splitlines()]


def first_line(text: str, at_most: int = 0) -> str:
    """The first line that says something, cut when it is longer than `at_most`."""
    line = next((line.strip() for line in block(text) if line.strip()), "")
    return cut(line, at_most) if at_most else line


def cells(text: str) -> int:
    """How many columns a text takes: East-Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, at_most: int, more: str = "…") -> str:
    """The text in at most so many columns; what is cut off leaves a sign."""
    if cells(text) <= at_most:
        return text
    room = at_most - cells(more)
    kept = ""
    for character in text:
        room -= _cells_of(character)
        if room < 0:
            break
        kept += character
    return kept + more


def pad(text: str, columns: int) -> str:
    """The text followed by spaces up to a column."""
    return text + " " * max(0, columns - cells(text))


def duration(seconds: float) -> str:
    """`0.21 s`, `4.2 s`, `2 min 5 s`, `1 h 2 min`."""
    if seconds < 0.995:  # noqa: PLR2004  below, two digits are worth reading
        return f"{max(0.0, seconds):.2f} s"
    if seconds < _MINUTE - 0.05:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def count(number: int, thing: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def outcome(deleted: int, left: int, kept: int) -> str:
    """How a cleanup went: `3 objects deleted, 0 left`."""
    if not (deleted or left or kept):
        return "nothing to delete"
    return f"{count(deleted, 'object')} deleted, {left} left" + (f", {kept} kept" if kept else "")


def advice(hint: str) -> str:
    """A hint behind a word that says what it is: something to do or to type, or a fact or a question that helps."""
    if hint.lower().startswith("try"):
        return hint
    return f"hint: {hint}" if _FACT.match(hint) else f"try: {hint}"


def cure(command: str, hint: str) -> str:
    """What to do about an object that is left."""
    return advice(hint) if hint else f"remove it with: {command}"


def value(thing: Any) -> str:
    """A field's value on one line, quoted when it has spaces: the text of `key=value`."""
    shown = harmless(plain(thing))
    return json.dumps(shown, ensure_ascii=False) if _NEEDS_QUOTES.search(shown) else shown


def plain(thing: Any) -> str:
    """A value as text: lists with commas, maps as JSON."""
    if isinstance(thing, str):
        return thing
    if isinstance(thing, bool) or thing is None:
        return json.dumps(thing)
    if isinstance(thing, Mapping):
        return json.dumps(thing, ensure_ascii=False, default=str)
    if isinstance(thing, Iterable):
        return ", ".join(map(plain, thing))
    return str(thing)
