"""What a stream can show: colour, signs beyond ASCII, how wide it is; and a way to write to it that never fails.

Reports are read on terminals, in CI logs, in pipes and in files. What each of them bears is decided here, once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TextIO

from runner.masking import mask

SIGNS: Final = "✓✗▸·│…"
CODES: Final = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1"}

# What the runners of GitHub (`::name::` after white space, `##[name]` anywhere) and Azure (`##vso[`) take for commands.
_COMMAND_LINE = re.compile(r"^(\s*):(?=:)", re.MULTILINE)
_COMMAND_ANYWHERE = re.compile(r"##(?=\[|vso\[)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Style:
    """How a text is to be written: with colour or without, with typographic signs or in ASCII."""

    colour: bool = False
    unicode: bool = True

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Style:
        """What suits this stream."""
        return cls(colour=wants_colour(stream, environ), unicode=can_print(stream))

    def paint(self, tone: str, text: str) -> str:
        """The text in the colour of a tone (`good`, `bad`, `warn`, `dim`, `bold`); unchanged where there is none."""
        code = CODES.get(tone)
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code and text else text

    def sign(self, unicode: str, ascii_: str) -> str:
        """The sign, or what stands for it where the stream's encoding lacks it."""
        return unicode if self.unicode else ascii_

    @property
    def bar(self) -> str:
        """What stands before every line that others wrote, so that it is never taken for one of ours."""
        return self.sign("│", "|")


def wants_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """NO_COLOR wins, then FORCE_COLOR (0 means none), then: only on a terminal that is not dumb."""
    if environ.get("NO_COLOR"):
        return False
    forced = environ.get("FORCE_COLOR", "")
    if forced:
        return forced.lower() not in {"0", "false"}
    return is_terminal(stream) and environ.get("TERM", "") not in {"", "dumb", "unknown"}


def can_print(stream: TextIO, signs: str = SIGNS) -> bool:
    """Whether the stream's encoding has these signs; a stream in memory has no encoding and takes everything."""
    try:
        signs.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody may be watching; a closed stream is no terminal."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def size(stream: TextIO) -> os.terminal_size:
    """Columns and rows of a terminal right now; 80 x 24 where nobody knows."""
    with suppress(OSError, ValueError, AttributeError):
        found = os.get_terminal_size(stream.fileno())
        if found.columns and found.lines:
            return found
    return os.terminal_size((80, 24))


def columns(stream: TextIO, otherwise: int) -> int:
    """The columns of a terminal; `otherwise` where it is none."""
    return size(stream).columns if stream.isatty() else otherwise


def write(stream: TextIO, text: str, environ: Mapping[str, str] = os.environ) -> None:
    """Write and flush, whatever the text holds and whatever became of the stream.

    A report must not end a run that still has to clean up: signs that the encoding lacks are escaped, and a reader who
    went away (`| head`), a full disk or a closed stream is no error. In CI, nothing in it is taken for a command. No
    secret passes.
    """
    with suppress(OSError, ValueError):
        stream.write(fit(stream, text, environ))
        stream.flush()


def fit(stream: TextIO, text: str, environ: Mapping[str, str] = os.environ) -> str:
    """What `write` writes; for those who want to hear of a full disk."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return tame(mask(text), environ).encode(encoding, "backslashreplace").decode(encoding)


def tame(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with a space inside everything that GitHub's or Azure's runner would take for a command to it."""
    if not (environ.get("GITHUB_ACTIONS") or environ.get("TF_BUILD")):
        return text
    return _COMMAND_ANYWHERE.sub("## ", _COMMAND_LINE.sub(r"\1: ", text))
