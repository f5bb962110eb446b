"""What is masked: every form of a value that a program may print, and nothing else."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest

from runner.errors import Problem
from runner.masking import STARS, Mask
from tests.forms import FORMS

PLAIN = "Tr0ub4dor-3x"
ODD = "p@ss'w\"or\\d<&>/ü $x%"


@pytest.fixture
def mask() -> Mask:
    return Mask()


@pytest.mark.parametrize("secret", [PLAIN, ODD])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_masked(mask: Mask, form: str, secret: str) -> None:
    """Whole, wherever it stands in a line."""
    mask.hide([secret])
    masked = mask(f"before {FORMS[form](secret)} after")

    assert masked == f"before {STARS} after"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
@pytest.mark.parametrize("after", ["", "x", "xy", "\n"])
def test_base64_of_a_text_around_it(mask: Mask, encode: Callable[[bytes], bytes], before: str, after: str) -> None:
    """As in a header `Authorization: Basic`: at the edges at most one byte can be guessed."""
    secret = "S3cr~t?>password"
    mask.hide([secret])
    masked = mask(encode(f"{before}{secret}{after}".encode()).decode())
    rests = masked.split(STARS)

    assert len(rests) == 2
    for rest in rests:
        padded = rest.rstrip("=")
        decoded = (
            base64.urlsafe_b64decode(padded.replace("+", "-").replace("/", "_") + "=" * (-len(padded) % 4))
            if len(padded) % 4 != 1
            else b""
        )
        assert not any(secret[at : at + 2].encode() in decoded for at in range(len(secret) - 1))


def test_long_base64_is_broken_into_lines(mask: Mask) -> None:
    """As `base64` and `openssl` print it."""
    secret = "".join(chr(33 + 7 * at % 90) for at in range(200))
    mask.hide([secret])
    for tool in (["base64"], ["base64", "--wrap=64"]):
        text = subprocess.run(tool, input=secret, capture_output=True, text=True, check=True).stdout

        assert set(mask(text).split()) == {STARS}


@pytest.mark.parametrize("whole", [True, False], ids=["as one text", "line by line"])
@pytest.mark.parametrize(("width", "altered"), [(76, "+/"), (64, "-_")])
@pytest.mark.parametrize("secret", ["Tr0ub4dor-3?", "7q#~", "".join(chr(33 + 7 * at % 90) for at in range(150))])
def test_base64_that_is_broken_inside_of_a_secret(
    mask: Mask, secret: str, width: int, altered: str, *, whole: bool
) -> None:
    """Wherever in it: on no line stand two of its characters that follow each other."""
    mask.hide([secret])
    pairs = [secret[at : at + 2].encode() for at in range(len(secret) - 1)]
    for before in range(58):
        encoded = base64.b64encode(b"\x01" * before + secret.encode() + b"\x02" * 90, altered.encode()).decode()
        lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]
        masked = mask("\n".join(lines)).splitlines() if whole else [mask(line) for line in lines]
        for line, shown in zip(lines, masked, strict=True):
            first, *_, last = shown.split(STARS) if STARS in shown else (line, "")
            rests = (first[: len(first) // 4 * 4], last[len(last) % 4 :])
            for rest in rests:
                decoded = base64.b64decode(rest, altered.encode())
                assert not any(pair in decoded for pair in pairs), (before, shown)


def test_pieces_of_a_broken_secret_are_masked_beside_the_break_only(mask: Mask) -> None:
    """A few letters elsewhere are no piece of it."""
    mask.hide(["x7q#~"])
    line = base64.b64encode(b"\x01" * 55 + b"x7").decode()
    head, tail = line[-2:], base64.b64encode(b"q#~").decode()

    assert mask(f"{line}\n{tail}").endswith(f"{STARS}\n{STARS}")
    assert mask(f"{head} a{tail} {line[40:]} {line}A") == f"{head} a{tail} {line[40:]} {line}A"


def test_everything_is_reached(mask: Mask) -> None:
    """Maps (keys too), lists, tuples, records and numbers; other values stay as they are."""

    class Word(StrEnum):
        PASSED = "hunter22"

    @dataclass(frozen=True)
    class Record:
        text: str
        word: Word
        parts: tuple[str, ...]

    mask.hide(["hunter22", "12345678"])
    problem = Problem("hunter22.yaml", 1, 2, "no hunter22")

    assert mask({"a hunter22": ["x", ("hunter22hunter22", 1, None, True, 1.5, 12345678)]}) == {
        "a ***": ["x", ("******", 1, None, True, 1.5, STARS)]
    }
    assert mask(Record("hunter22", Word.PASSED, ("hunter22",))) == Record(STARS, Word.PASSED, (STARS,))
    assert mask(problem) == Problem("***.yaml", 1, 2, "no ***")
    assert mask("Hunter22 hunter") == "Hunter22 hunter"


def test_longest_is_masked_first(mask: Mask) -> None:
    """A secret that contains another leaves no rest, in whatever order they are known; one that comes later counts."""
    mask.hide(["abcd"])
    assert mask("abcd-efgh abcd") == "***-efgh ***"
    mask.hide(["abcd-efgh", "abcd"])

    assert mask("abcd-efgh abcd") == "*** ***"


def test_nothing_is_masked_without_secrets(mask: Mask) -> None:
    """The common case costs nothing: the same object. What is too short is never masked."""
    fields: dict[str, Any] = {"a": ["b"]}
    mask.hide(["abc", ""])

    assert mask(fields) is fields
    mask.hide(["abcdef"])
    mask.forget()
    assert mask(fields) is fields


def test_colours_stay_where_no_secret_is(mask: Mask) -> None:
    """Only a line in which they hide a secret loses them."""
    mask.hide(["hunter22"])

    assert mask("\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"
    assert mask("\x1b[31mred\x1b[0m hunter22") == "\x1b[31mred\x1b[0m ***"


def test_hundreds_of_secrets(mask: Mask) -> None:
    """All of them are found, also those that begin alike."""
    secrets = [f"{'abc' if n % 2 else ''}{n * 7919:08x}-{n}" for n in range(300)]
    mask.hide(secrets)

    assert [mask(f"<{secret}>") for secret in secrets] == ["<***>"] * 300
