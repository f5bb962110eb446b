"""Bodies as text: packed, in some charset, too large, or not what they claim to be."""

from __future__ import annotations

import gzip
import zlib
from email.message import Message

import pytest

from runner.steps.decoding import text

PLAIN = "Grüße ✓".encode()


def fields(coding: str = "", content_type: str = "text/plain") -> Message:
    message = Message()
    message["Content-Type"] = content_type
    if coding:
        message["Content-Encoding"] = coding
    return message


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(PLAIN, mtime=0)),
        ("x-gzip", gzip.compress(PLAIN[:3], mtime=0) + gzip.compress(PLAIN[3:], mtime=0)),
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", bare(PLAIN)),
        ("deflate, GZIP", gzip.compress(zlib.compress(PLAIN), mtime=0)),
        ("identity", PLAIN),
        ("gzip", PLAIN),
        ("", b"\xef\xbb\xbf" + PLAIN),
    ],
)
def test_packed_bodies(coding: str, body: bytes) -> None:
    """Every packing is undone; a server that lies about it, and a byte order mark, do no harm."""
    assert text(body, fields(coding), 100) == PLAIN.decode()


def test_bodies_are_bounded() -> None:
    """A small body that unpacks to a large one is given up before it is large."""
    bomb = gzip.compress(b"0" * 10_000_000)

    assert text(bomb, fields("gzip"), 1000) is None
    assert text(b"0" * 1001, fields(), 1000) is None
    assert text(b"0" * 1000, fields(), 1000) == "0" * 1000


def test_charsets() -> None:
    """The named one; UTF-8 when it is none."""
    assert text("é".encode("latin-1"), fields(content_type="text/html; charset=ISO-8859-1"), 10) == "é"
    assert text("é".encode(), fields(content_type="text/html; charset=none"), 10) == "é"
    assert text("é".encode(), fields(content_type="text/html; charset=idna"), 10) == "é"
    assert text("é".encode(), fields(content_type="text/html; charset=base64"), 10) == "é"
