"""A body as text: what a server packed (gzip, deflate) and wrote in some charset, without ever growing too large."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Mapping
from typing import Final

# zlib's own numbers: gzip or zlib by their heads, and deflate without one.
_WITH_HEAD: Final = zlib.MAX_WBITS | 32
_BARE: Final = -zlib.MAX_WBITS
_MOST_CODINGS: Final = 5
_PIECE: Final = 4096
_CHARSET: Final = re.compile(r""";\s*charset\s*=\s*["']?([\w.:+-]+)""", re.IGNORECASE | re.ASCII)
# Codecs of Python's own; punycode takes hours for a large body.
_NO_CHARSETS: Final = frozenset({"punycode", "raw-unicode-escape", "unicode-escape"})


def text(body: bytes, headers: Mapping[str, str], limit: int) -> str | None:
    """The body by its Content-Encoding and charset (UTF-8 unless it says another); None when it is larger than `limit`
    bytes. Names of headers are in lower case. What is not as it says it is stays as it is.
    """
    codings = headers.get("content-encoding", "").lower().split(",")
    for coding in reversed(codings if len(codings) <= _MOST_CODINGS else ()):
        if coding.strip() in ("gzip", "x-gzip", "deflate"):
            body = _unpacked(body, limit + 1)
    if len(body) > limit:
        return None
    return body.decode(_charset(headers.get("content-type", "")), "replace").removeprefix("\ufeff")


def _charset(content_type: str) -> str:
    """The charset that it names, as Python calls it. The parser of `email` has bugs that a server could meet."""
    named = _CHARSET.search(content_type)
    try:
        codec = codecs.lookup(named[1] if named else "utf-8").name
        b"a".decode(codec, "replace")
    except (LookupError, ValueError):  # it is not known, or does not make a text of any bytes
        return "utf-8"
    return "utf-8" if codec in _NO_CHARSETS else codec


def _unpacked(body: bytes, limit: int) -> bytes:
    for bits in (_WITH_HEAD, _BARE):
        try:
            return _inflated(body, limit, bits)
        except zlib.error:
            continue
    return body


def _inflated(body: bytes, limit: int, bits: int) -> bytes:
    """The content of all members, `limit` bytes at most. Piece by piece: each member copies what comes after it."""
    out = bytearray()
    member = zlib.decompressobj(bits)
    for start in range(0, len(body), _PIECE):
        piece = body[start : start + _PIECE]
        while piece and len(out) < limit:
            if member.eof:
                member = zlib.decompressobj(bits)
            out += member.decompress(piece, limit - len(out))
            piece = member.unused_data
    return bytes(out)
