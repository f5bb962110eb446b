"""What a stream can show, and that writing to it never fails."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path

import pytest

from runner.reports import terminal
from runner.reports.terminal import Style


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        ({"TERM": "xterm", "FORCE_COLOR": "0"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_on_a_terminal(environ: dict[str, str], expected: bool) -> None:
    """NO_COLOR wins, then FORCE_COLOR, then the kind of terminal."""
    assert terminal.wants_colour(Tty(), environ) is expected


def test_no_colour_in_a_pipe() -> None:
    """People read CI logs: no colour off a terminal, unless it is forced."""
    assert not terminal.wants_colour(io.StringIO(), {"TERM": "xterm"})
    assert terminal.wants_colour(io.StringIO(), {"FORCE_COLOR": "1"})


def test_a_closed_stream_is_no_terminal() -> None:
    """A stream that was closed is asked all the same."""
    stream = io.StringIO()
    stream.close()
    assert not terminal.is_terminal(stream)


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_signs_only_where_the_encoding_has_them(encoding: str, expected: bool) -> None:
    """✓ and ✗ are for encodings that have them."""
    assert terminal.can_print(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) is expected


def test_an_unknown_encoding_gets_ascii() -> None:
    """An encoding that Python does not know is not trusted with signs."""
    stream: io.StringIO = type("Odd", (io.StringIO,), {"encoding": "no-such-encoding"})()
    assert not terminal.can_print(stream)


def test_style_paints_only_in_colour() -> None:
    """The same code writes with and without colour."""
    assert Style(colour=True).paint("bad", "x") == "\x1b[31mx\x1b[0m"
    assert Style(colour=False).paint("bad", "x") == "x"
    assert Style(colour=True).paint("", "x") == "x"


def test_style_of_a_stream() -> None:
    """A style is what suits a stream."""
    assert Style.of(Tty(), {"TERM": "xterm"}) == Style(colour=True, unicode=True)
    assert Style.of(io.TextIOWrapper(io.BytesIO(), encoding="ascii"), {}).bar == "|"


def test_size_of_what_is_no_terminal() -> None:
    """80 x 24 where nobody knows."""
    assert terminal.size(io.StringIO()) == os.terminal_size((80, 24))


def test_write_escapes_what_the_encoding_lacks() -> None:
    """A Latin-1 stream gets an escape instead of a crash."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    terminal.write(stream, "é ✓ \udc80\n", {})
    assert raw.getvalue() == b"\xe9 \\u2713 \\udc80\n"


def test_write_to_a_reader_who_went_away() -> None:
    """`runner … | head` does not end a run that still has to clean up."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    terminal.write(stream, "x" * 100000, {})
    with suppress(BrokenPipeError):
        stream.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_write_to_a_full_disk() -> None:
    """A full disk is no error either."""
    stream = Path("/dev/full").open("w")  # noqa: SIM115  closing it fails, too
    terminal.write(stream, "x", {})
    with pytest.raises(OSError, match="No space"):
        stream.close()


def test_write_to_a_closed_stream() -> None:
    """Nor is a stream that was closed."""
    stream = io.StringIO()
    stream.close()
    terminal.write(stream, "x", {})


@pytest.mark.parametrize("variable", ["GITHUB_ACTIONS", "TF_BUILD"])
def test_commands_to_the_ci_runner_are_tamed(variable: str) -> None:
    """GitHub takes `::` after white space and `##[` anywhere for commands, Azure `##vso[`."""
    text = "::error::a\n  ::add-mask::b\na ##[group] ##vso[task] ::1\n"
    assert terminal.tame(text, {variable: "true"}) == ": :error::a\n  : :add-mask::b\na ## [group] ## vso[task] ::1\n"


def test_text_outside_ci_is_left_alone() -> None:
    """Elsewhere these are just characters."""
    assert terminal.tame("::error::a", {}) == "::error::a"
