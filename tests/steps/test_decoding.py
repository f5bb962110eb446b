"""Bodies as text: packed, in some charset, too large, or not what they claim to be."""

from __future__ import annotations

import gzip
import time
import zlib

import pytest

from runner.steps.decoding import text

PLAIN = "Grüße ✓".encode()


def fields(coding: str = "", content_type: str = "text/plain") -> dict[str, str]:
    return {"content-type": content_type, "content-encoding": coding}


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


@pytest.mark.parametrize(
    "charset",
    [
        "idna",
        "punycode",
        "undefined",
        "hex",
        "unicode_escape",
        "a\0b",
        "utf-8\x85",
        "",
        '"',
        "x" * 60_000,
        "*0=a; charset*=b",
    ],
)
def test_charsets_that_are_none(charset: str) -> None:
    """Whatever the name, the text is UTF-8, and soon: Python would take hours for punycode."""
    body = PLAIN + b"-\\d" * 1_000_000

    assert text(body, fields(content_type=f"text/plain; charset={charset}"), 1 << 24) == body.decode()


def test_many_small_members() -> None:
    """They take the time that their content takes, not its square; a chain of codings is not followed for ever."""
    member = gzip.compress(b"x", mtime=0)
    started = time.monotonic()

    assert text(member * 200_000, fields("gzip"), 1 << 24) == "x" * 200_000
    assert text(member, fields("gzip," * 10_000), 100) == member.decode("utf-8", "replace")
    assert time.monotonic() - started < 20
