"""What a text must satisfy (`contains`, `matches`, `equals`, `json`), and how it differs when it does not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from runner.steps.kind import Fault, Match

_COMPARED: Final = 200
"""Lines among which the most similar one is looked for."""
_SHOWN: Final = 300
"""Characters of a value that a difference quotes."""


def faults(data: Mapping[str, Any], path: tuple[str | int, ...]) -> Iterable[Fault]:
    """What is wrong with a match as written: a regular expression that RE2 does not take."""
    pattern = data.get("matches")
    if not isinstance(pattern, str) or "${{" in pattern:
        return
    if why := _flaw(pattern):
        yield Fault(
            (*path, "matches"),
            f"this regular expression is not valid: {why}",
            "the syntax is RE2's (https://github.com/google/re2/wiki/Syntax): no look-around, no back-references",
        )


def differences(match: Match, text: str) -> list[str]:
    """One entry for each way in which the text is not as wanted; none when it matches."""
    return [
        *_missing(match, text),
        *_unmatched(match, text),
        *_unequal(match, text),
        *([] if match.json is msgspec.UNSET else _json_differences(match.json, text)),
    ]


def parsed(text: str) -> Any:
    """A text as JSON; None when it is none (or nested so deeply that nobody meant it)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def partial(wanted: Any, actual: Any, path: str = "$") -> Iterator[str]:
    """Where `actual` lacks what `wanted` has: maps are compared as subsets, lists exactly, 1 equals 1.0."""
    if isinstance(wanted, Mapping) and isinstance(actual, Mapping):
        for key, value in wanted.items():
            below = f"{path}.{key}"
            if key in actual:
                yield from partial(value, actual[key], below)
            else:
                yield f"{below}: expected {_quoted(value)}, but there is no such key (there is {_keys(actual)})"
    elif isinstance(wanted, Sequence) and isinstance(actual, list) and not isinstance(wanted, str):
        if len(wanted) != len(actual):
            yield f"{path}: expected {len(wanted)} items, got {len(actual)}: {_quoted(actual)}"
            return
        for index, (one, other) in enumerate(zip(wanted, actual, strict=True)):
            yield from partial(one, other, f"{path}[{index}]")
    elif wanted != actual or isinstance(wanted, bool) is not isinstance(actual, bool):
        yield f"{path}: expected {_quoted(wanted)}, got {_quoted(actual)}"


def _missing(match: Match, text: str) -> Iterator[str]:
    for part in (match.contains,) if isinstance(match.contains, str) else match.contains:
        if part not in text:
            near = _nearest(part, text)
            yield f"expected it to contain {_quoted(part)}, " + (
                f"the nearest is {near}" if near else f"got {_text(text)}"
            )


def _nearest(part: str, text: str) -> str:
    """Of a text of several lines that one which is most like a part that is missing, and its number."""
    from difflib import get_close_matches

    lines = [line[:_SHOWN] for line in text.splitlines()[:_COMPARED]]
    close = get_close_matches(part, lines, n=1) if len(lines) > 1 and len(part) <= _SHOWN else []
    return f"line {lines.index(close[0]) + 1}: {_quoted(close[0])}" if close else ""


def _unmatched(match: Match, text: str) -> Iterator[str]:
    if match.matches:
        from runner.expressions import EvaluationError, search

        try:
            found = search(match.matches, text)
        except EvaluationError as error:
            yield f"the regular expression {match.matches} is not valid: {error.message}"
            return
        if not found:
            yield f"expected it to match {match.matches}, got {_text(text)}"


def _unequal(match: Match, text: str) -> Iterator[str]:
    if match.equals is None or match.equals.strip() == text.strip():
        return
    wanted, actual = match.equals.strip().splitlines(), text.strip().splitlines()
    if len(wanted) <= 1 and len(actual) <= 1:
        yield f"expected exactly {_quoted(match.equals.strip())}, got {_text(text.strip())}"
        return
    from difflib import unified_diff

    lines = unified_diff(wanted, actual, "expected", "actual", lineterm="", n=2)
    yield "\n".join(["it is not exactly as expected", *lines])


def _json_differences(wanted: Any, text: str) -> Iterator[str]:
    try:
        actual = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield f"expected JSON, got {_text(text)} ({error})"
        return
    yield from partial(wanted, actual)


def _flaw(pattern: str) -> str:
    from runner.expressions import EvaluationError, search

    try:
        search(pattern, "")
    except EvaluationError as error:
        return error.message
    return ""


def _quoted(value: Any) -> str:
    spelled = json.dumps(value, ensure_ascii=False, default=str)
    return spelled if len(spelled) <= _SHOWN else f"{spelled[:_SHOWN]}… ({len(spelled)} characters)"


def _text(text: str) -> str:
    return _quoted(text) if text else "nothing"


def _keys(value: Mapping[str, Any]) -> str:
    return ", ".join(map(str, list(value)[:12])) or "none"
