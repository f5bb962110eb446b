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
_SEQUENCE: Final = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[\]P^_X].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]")
_LEVELS: Final = 3


class Mask:
    """A list of secrets. `hide` and calls may come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hidden: set[str] = set()
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask these values from now on, in every form that programs print; those that are too short are not."""
        with self._lock:
            for secret in secrets:
                if secret not in self._hidden and len(secret) >= SHORTEST:
                    self._hidden.add(secret)
                    self._forms.update(form for form in _forms(secret) if len(form) >= SHORTEST)
                    self._pattern = None

    def forget(self) -> None:
        """Nothing is secret any more; for tests."""
        with self._lock:
            self._hidden, self._forms, self._pattern = set(), set(), None

    def __call__(self, thing: Thing) -> Thing:
        """The same text, data or record without secrets; itself where there is none."""
        if not self._forms:
            return thing
        result: Thing = self._masked(thing, self._pattern or self._compiled())
        return result

    def _compiled(self) -> re.Pattern[str]:
        with self._lock:
            self._pattern = self._pattern or re.compile(_alternatives(self._forms, _LEVELS))
            return self._pattern

    def _masked(self, thing: Any, pattern: re.Pattern[str]) -> Any:
        if isinstance(thing, Enum) or thing is None or isinstance(thing, bool):
            return thing
        if isinstance(thing, str):
            return _without(thing, pattern)
        if isinstance(thing, Mapping):
            return {self._masked(key, pattern): self._masked(item, pattern) for key, item in thing.items()}
        if isinstance(thing, list):
            return [self._masked(item, pattern) for item in thing]
        if isinstance(thing, tuple):
            return tuple(self._masked(item, pattern) for item in thing)
        if is_dataclass(thing) and not isinstance(thing, type):
            values = {item.name: getattr(thing, item.name) for item in fields(thing)}
            return replace(thing, **{name: self._masked(value, pattern) for name, value in values.items()})
        if names := getattr(thing, "__struct_fields__", ()):  # msgspec's records
            return type(thing)(**{name: self._masked(getattr(thing, name), pattern) for name in names})
        if isinstance(thing, int | float) and str(thing) in self._hidden:
            return STARS
        return thing


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
