"""A body as text: what a server packed (gzip, deflate) and wrote in some charset, without ever growing too large."""

from __future__ import annotations

import zlib
from email.message import Message
from typing import Final

# zlib's own numbers: gzip or zlib by their heads, and deflate without one.
_WITH_HEAD: Final = zlib.MAX_WBITS | 32
_BARE: Final = -zlib.MAX_WBITS


def text(body: bytes, headers: Message, limit: int) -> str | None:
    """The body by its Content-Encoding and charset (UTF-8 unless it says another); None when it is larger than `limit`
    bytes. What is not as it says it is stays as it is.
    """
    for coding in reversed(headers.get("Content-Encoding", "").lower().split(",")):
        if coding.strip() in ("gzip", "x-gzip", "deflate"):
            body = _unpacked(body, limit + 1)
    if len(body) > limit:
        return None
    charset = headers.get_content_charset() or "utf-8"
    try:
        return body.decode(charset, "replace").removeprefix("\ufeff")
    except (LookupError, UnicodeError):  # a charset that nobody knows, or one that is none of texts
        return body.decode("utf-8", "replace")


def _unpacked(body: bytes, limit: int) -> bytes:
    for bits in (_WITH_HEAD, _BARE):
        try:
            return _inflated(body, limit, bits)
        except zlib.error:
            continue
    return body


def _inflated(body: bytes, limit: int, bits: int) -> bytes:
    """The content of all members, `limit` bytes at most."""
    out = bytearray()
    while body and len(out) < limit:
        member = zlib.decompressobj(bits)
        out += member.decompress(body, limit - len(out))
        body = member.unused_data
    return bytes(out)
