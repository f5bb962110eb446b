"""Values that may not be seen, and how to find them in text in whatever form programs print them.

A process has one list of them: what is secret for one part of the program is secret for all, its last words included.
`hide` adds to it (see `confidential` for what is secret); `mask` is called where something leaves the program: by the
bus of events, and by reports.

All forms of all secrets are one regular expression, a table of first letters three levels deep: a line costs a few
microseconds, whether there are four secrets or two hundred. It is compiled when it is needed first.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any, Final, TypeVar

Thing = TypeVar("Thing")

STARS: Final = "***"
SHORTEST: Final = 4
"""Shorter values cannot be masked: they would blacken half of a log."""

# How many characters of base64 depend on what stands before a text, by the bytes of it that share its first group.
_UNSURE_HEAD: Final = (0, 2, 3)
# `base64` and `openssl` break their lines after so many characters.
_WRAPPED: Final = (76, 64)
# Of a line that was broken: the whole of it, and what can stand on its sides (`\\n` as JSON writes it, too).
_LETTERS: Final = "[A-Za-z0-9+/_-]"
_BROKEN: Final = re.compile(
    rf"(?:(?<!{_LETTERS})|(?<=\\n))(?:{'|'.join(f'{_LETTERS}{{{width}}}' for width in _WRAPPED)})(?!{_LETTERS})"
)
_LONG_PIECE: Final = 8
"""A shorter piece of a broken secret is only one where it stands beside the break."""
_SEQUENCE: Final = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]P^_X].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]")
_LEVELS: Final = 3


class Mask:
    """A list of secrets. `hide` and calls may come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hidden: set[str] = set()
        self._forms: set[str] = set()
        self._edges: set[str] = set()
        self._beginnings: dict[bytes, list[bytes]] = {}
        self._ends: set[bytes] = set()
        self._met: set[tuple[bytes, int, int]] = set()
        self._pattern: re.Pattern[str] | None = None

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask these values from now on, in every form that programs print; those that are too short are not."""
        with self._lock:
            for secret in secrets:
                if secret not in self._hidden and len(secret) >= SHORTEST:
                    self._hidden.add(secret)
                    self._forms.update(form for form in _forms(secret) if len(form) >= SHORTEST)
                    self._beginnings = {}
                    self._pattern = None

    def forget(self) -> None:
        """Nothing is secret any more; for tests."""
        with self._lock:
            self._hidden, self._forms, self._edges, self._pattern = set(), set(), set(), None
            self._beginnings, self._met = {}, set()

    def __call__(self, thing: Thing) -> Thing:
        """The same text, data or record without secrets; itself where there is none."""
        if not self._forms:
            return thing
        result: Thing = self._masked(thing)
        return result

    def _compiled(self) -> re.Pattern[str]:
        with self._lock:
            if self._pattern is None:
                self._pattern = re.compile("|".join((_alternatives(self._forms, _LEVELS), *sorted(self._edges))))
            return self._pattern

    def _masked(self, thing: Any) -> Any:
        if isinstance(thing, Enum) or thing is None or isinstance(thing, bool):
            return thing
        if isinstance(thing, str):
            if _may_be_broken(thing):
                self._learn(thing)
            return _without(thing, self._pattern or self._compiled())
        if isinstance(thing, Mapping):
            return {self._masked(key): self._masked(item) for key, item in thing.items()}
        if isinstance(thing, list):
            return [self._masked(item) for item in thing]
        if isinstance(thing, tuple):
            return tuple(self._masked(item) for item in thing)
        if is_dataclass(thing) and not isinstance(thing, type):
            values = {item.name: getattr(thing, item.name) for item in fields(thing)}
            return replace(thing, **{name: self._masked(value) for name, value in values.items()})
        if names := getattr(thing, "__struct_fields__", ()):  # msgspec's records
            return type(thing)(**{name: self._masked(getattr(thing, name)) for name in names})
        if isinstance(thing, int | float) and str(thing) in self._hidden:
            return STARS
        return thing

    def _learn(self, text: str) -> None:
        """Mask the pieces of secrets that are broken at the end of a full line of base64, here and on the next lines.

        They are learned when such a line comes: to know them all before would be hundreds of forms for each secret.
        """
        for line in _BROKEN.findall(text):
            raw = base64.b64decode(line.translate(_STANDARD))
            if self._beginnings and raw[-2:] not in self._ends:
                continue
            with self._lock:
                if not self._beginnings:
                    beginnings = _beginnings(self._hidden)
                    self._ends = {start[-2:] for start in beginnings}
                    self._beginnings = beginnings  # last: other threads look at it without the lock
                    # One letter is found at the end of many lines: those pieces are learned all at once.
                    alone = (found for start, found in self._beginnings.items() if len(start) == 1)
                    self._add_pieces({(secret, 1, width) for found in alone for secret in found for width in _WRAPPED})
                ends = (raw[-length:] for length in range(2, len(raw) + 1))
                self._add_pieces(
                    {(secret, len(end), len(line)) for end in ends for secret in self._beginnings.get(end, ())}
                )

    def _add_pieces(self, broken: set[tuple[bytes, int, int]]) -> None:
        for piece in broken - self._met:
            head, tails = _pieces(*piece)
            long = [part for part in (head, *tails) if len(part) >= _LONG_PIECE]
            self._forms.update(long, (part.translate(_URL_SAFE) for part in long))
            self._edges.update(_edges(head, tails))
            self._pattern = None
        self._met |= broken


def _without(text: str, pattern: re.Pattern[str]) -> str:
    """The text without secrets. Where colours run through one, the text loses its colours too."""
    text = pattern.sub(STARS, text)
    if "\x1b" in text or "\x9b" in text:
        plain = _SEQUENCE.sub("", text)
        masked = pattern.sub(STARS, plain)
        return text if masked == plain else masked
    return text


def _alternatives(forms: Iterable[str], levels: int) -> str:
    """A pattern that finds the longest of these texts that stands at a place.

    It branches by letter: `re` tries the branches one by one, and a flat list of thousands would be slow.
    """
    if not levels:
        return "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    by_letter: dict[str, list[str]] = {}
    for form in sorted(forms):
        by_letter.setdefault(form[0], []).append(form[1:])
    branches = [
        re.escape(letter) + (re.escape(rests[0]) if len(rests) == 1 else f"(?:{_alternatives(rests, levels - 1)})")
        for letter, rests in by_letter.items()
    ]
    return "|".join(branches)


# -- the forms of a value ---------------------------------------------------------------------------------------------


def _forms(secret: str) -> Iterator[str]:
    """The value as it is, and as JSON, base64, URLs, shells, XML and others spell it."""
    for text in {secret, secret.strip()}:
        yield text
        yield from _escaped(text)
        yield from _encoded(text.encode("utf-8", "surrogateescape"))


def _escaped(text: str) -> Iterator[str]:
    """The text with some of its characters written otherwise. Most secrets have none of these: then it is the same."""
    if text.isascii() and text.isalnum():
        return
    from html import escape
    from urllib.parse import quote, quote_plus

    in_json = {_json(text), _json(text, ascii_=False)}
    in_json |= {re.sub("[<>&]", lambda sign: f"\\u{ord(sign[0]):04x}", form) for form in in_json}  # as Go writes it
    in_json |= {form.replace("/", "\\/") for form in in_json}
    in_shell = {text.replace("'", "'\"'\"'"), text.replace("'", "'\\''"), re.sub(r"([^\w@%+=:,./-])", r"\\\1", text)}
    in_double = {re.sub(r'([$`"\\!])', r"\\\1", text), re.sub(r'([$`"\\])', r"\\\1", text)}
    urls = {quote(text, safe=safe, errors="replace") for safe in ("", "/", "/:@!$&'()*+,;=")}
    urls |= {quote_plus(text, errors="replace")}
    yield from in_json
    yield from (_json(form) for form in (*in_json, *in_shell))  # JSON in JSON, and a command line in JSON
    yield from in_shell | in_double
    yield from urls | {re.sub("%[0-9A-F]{2}", lambda sign: sign[0].lower(), url) for url in urls}
    yield from (repr(text)[1:-1], escape(text), escape(text, quote=False))


def _json(text: str, *, ascii_: bool = True) -> str:
    return json.dumps(text, ensure_ascii=ascii_)[1:-1]


def _encoded(raw: bytes) -> Iterator[str]:
    """The bytes in hexadecimal, and in base64 wherever they stand in what was encoded."""
    yield raw.hex()
    yield raw.hex().upper()
    for form in _in_base64(raw):
        yield form
        yield form.translate(_URL_SAFE)


_URL_SAFE: Final = str.maketrans("+/", "-_")


def _in_base64(raw: bytes) -> Iterator[str]:
    whole = base64.b64encode(raw).decode()
    yield whole
    for width in _WRAPPED:
        yield from (whole[at : at + width] for at in range(0, len(whole), width) if len(whole) > width)
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        unsure_tail = 1 if (before + len(raw)) % 3 else 0  # it depends on what follows
        yield encoded[_UNSURE_HEAD[before] : len(encoded) - unsure_tail]


# -- base64 that is broken inside of a secret -------------------------------------------------------------------------


_STANDARD: Final = str.maketrans("-_", "+/")


def _may_be_broken(text: str) -> bool:
    """Whether a full line of base64 can be in a text: somewhere are enough characters without a space."""
    shortest = min(_WRAPPED)
    at = 0
    while at + shortest <= len(text):
        space = text.rfind(" ", at, at + shortest)
        if space < 0:
            return True
        at = space + 1
    return False


def _beginnings(secrets: Iterable[str]) -> dict[bytes, list[bytes]]:
    """The secrets by each of their beginnings that may end a line."""
    longest = max(_WRAPPED) // 4 * 3
    found: dict[bytes, list[bytes]] = {}
    for form in {form for secret in secrets for form in (secret, secret.strip())}:
        raw = form.encode("utf-8", "surrogateescape")
        for length in range(1, min(longest + 1, len(raw))):
            found.setdefault(raw[:length], []).append(raw)
    return found


def _pieces(secret: bytes, length: int, width: int) -> tuple[str, list[str]]:
    """What stands of a secret at the end of a line of base64 that has its first bytes, and on the lines after it."""
    before = -length % 3
    head = base64.b64encode(b"\0" * before + secret[:length]).decode()[_UNSURE_HEAD[before] :]
    rest = base64.b64encode(secret[length:]).decode()
    sure = rest.rstrip("=")[: -1 if rest.endswith("=") else None]
    return head, [whole[at : at + width] for whole in (rest, sure) for at in range(0, len(whole), width)]


def _edges(head: str, tails: Iterable[str]) -> Iterator[str]:
    """Patterns for pieces that are short: at the end of a full line, and at the beginning of the next."""
    for spelled in {head, head.translate(_URL_SAFE)}:
        if 1 < len(spelled) < _LONG_PIECE:
            full = f"(?<={_LETTERS}{{{min(_WRAPPED) - len(spelled)}}})"
            yield f"{full}{re.escape(spelled)}(?!{_LETTERS})"
    for spelled in {form for tail in tails for form in (tail, tail.translate(_URL_SAFE))}:
        if 1 < len(spelled) < _LONG_PIECE:  # many words begin with two letters, but no long line of base64 is a word
            line = f"(?={_LETTERS}{{20}})" if len(spelled) < SHORTEST else ""
            yield f"(?:(?<!{_LETTERS})|(?<=\\\\n)){re.escape(spelled)}{line}"


_PROCESS: Final = Mask()


def hide(secrets: Iterable[str]) -> None:
    """Mask these values in everything that leaves this process from now on."""
    _PROCESS.hide(secrets)


def mask(thing: Thing) -> Thing:
    """The same text, data or record without secrets."""
    return _PROCESS(thing)


def forget() -> None:
    """Nothing is secret any more; for tests."""
    _PROCESS.forget()
