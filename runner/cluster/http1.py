"""Requests and answers of HTTP/1.1 as bytes, for a proxy that passes them on: heads are read strictly, bodies only for
where they end.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

CHUNK: Final = 1 << 17
_LONGEST_HEAD: Final = 1 << 16
_LONGEST_LINE: Final = 1 << 12
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST: Final = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.([01])")
_ANSWER: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})( .*)?")
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*(.*)", re.IGNORECASE)
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?")
_HOPS: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"upgrade",
    }
)
"""Headers that hold for one connection only."""
_LAST_CHUNK: Final = b"0\r\n\r\n"


class Refused(Exception):
    """A request that is not passed on; `answer` is what its client is told."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        body = f"runner: {why}\n".encode()
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        self.answer = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


class Reader:
    """Reads heads and bodies from one socket."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self.buffered = b""

    def head(self) -> bytes:
        """Up to the empty line; nothing when the other side ended before it."""
        return self._until(b"\r\n\r\n", _LONGEST_HEAD, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def line(self) -> bytes:
        return self._until(b"\r\n", _LONGEST_LINE, HTTPStatus.BAD_REQUEST)

    def take(self, most: int = CHUNK) -> bytes:
        """The next bytes; nothing at the end."""
        if not self.buffered:
            return self._source.recv(min(most, CHUNK))
        data, self.buffered = self.buffered[:most], self.buffered[most:]
        return data

    def _until(self, end: bytes, most: int, status: HTTPStatus) -> bytes:
        while (place := self.buffered.find(end)) < 0:
            if len(self.buffered) > most:
                raise Refused(status, f"more than {most} bytes before the end of a line or of the headers")
            data = self._source.recv(CHUNK)
            if not data:
                return b""
            self.buffered += data
        place += len(end)
        found, self.buffered = self.buffered[:place], self.buffered[place:]
        return found


class _Message:
    def __init__(self, head: bytes) -> None:
        self.start, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        self._fields: list[tuple[bytes, bytes]] = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not _TOKEN.fullmatch(name) or re.search(rb"[\0\r\n]", line):
                raise Refused(HTTPStatus.BAD_REQUEST, "a header is not written as HTTP/1.1 wants it")
            self._fields.append((name, value.strip(b" \t")))
        codings = [value.lower() for value in self.values(b"transfer-encoding")]
        lengths = self.values(b"content-length")
        self.chunked = codings == [b"chunked"]
        if (codings and (not self.chunked or lengths)) or len(lengths) > 1 or not all(map(bytes.isdigit, lengths)):
            raise Refused(HTTPStatus.BAD_REQUEST, "it is not clear where the body ends")
        self.length = int(lengths[0]) if lengths else None

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self._fields if key.lower() == name]

    def tokens(self) -> set[bytes]:
        """What `Connection` lists."""
        return {word.strip().lower() for value in self.values(b"connection") for word in value.split(b",")}

    def _kept(self) -> Iterator[tuple[bytes, bytes]]:
        """The headers that are not about this connection."""
        dropped = _HOPS | self.tokens()
        return ((key, value) for key, value in self._fields if key.lower() not in dropped)


class Request(_Message):
    """A request of a client."""

    def __init__(self, head: bytes) -> None:
        super().__init__(head)
        parts = _REQUEST.fullmatch(self.start)
        if not parts:
            raise Refused(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.1")
        self.method, self._target, minor = parts.groups()
        self._minor = minor
        upgrades = self.values(b"upgrade")
        self.upgrade = upgrades[0] if upgrades and b"upgrade" in self.tokens() else b""
        self.lasting = minor == b"1" and b"close" not in self.tokens()
        """Whether the client wants to send another one."""
        if self.values(b"authorization"):
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                "the API server would take the header Authorization for its own: use `via: port_forward`",
            )

    @property
    def harmless(self) -> bool:
        """Whether it may be sent twice, and can be."""
        return self.method in (b"GET", b"HEAD", b"OPTIONS") and not (self.length or self.chunked or self.upgrade)

    def rewritten(self, prefix: bytes) -> bytes:
        """The head for the API server's proxy, whose connection ends with the answer."""
        lines = [b"%s %s HTTP/1.%s" % (self.method, prefix + self._path(prefix), self._minor), b"Host: localhost"]
        # The API server would act as somebody else.
        lines += [b"%s: %s" % field for field in self._kept() if self._may_pass(field[0].lower())]
        lines += (
            [b"Connection: Upgrade, close", b"Upgrade: " + self.upgrade] if self.upgrade else [b"Connection: close"]
        )
        return b"\r\n".join([*lines, b"", b""])

    @staticmethod
    def _may_pass(name: bytes) -> bool:
        return name != b"host" and not name.startswith((b"impersonate-", b"x-remote-"))

    def _path(self, prefix: bytes) -> bytes:
        target = self._target
        if absolute := _ABSOLUTE.fullmatch(target):
            target = absolute[1] or b"/"
        if target.startswith(b"?"):
            target = b"/" + target
        if not target.startswith(b"/"):
            raise Refused(HTTPStatus.BAD_REQUEST, f"{target.decode('latin-1')!r} is not a path")
        if b".." in re.split(rb"[/\\]", unquote_to_bytes(target.partition(b"?")[0])):
            raise Refused(HTTPStatus.BAD_REQUEST, "`..` in a path does not pass through the API server")
        return _without(prefix, target)  # links in pages: the API server writes its own paths into them


class Answer(_Message):
    """What comes back."""

    def __init__(self, head: bytes, request: Request) -> None:
        super().__init__(head)
        parts = _ANSWER.fullmatch(self.start)
        if not parts:
            raise Refused(HTTPStatus.BAD_GATEWAY, "the answer is not one of HTTP/1.1")
        self.status = int(parts[1])
        if request.method == b"HEAD" or self.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.length, self.chunked = 0, False
        self.lasting = request.lasting and (self.chunked or self.length is not None)
        """Whether its end can be seen without the end of the connection."""

    def rewritten(self, prefix: bytes) -> bytes:
        """The head for the client: redirects lead to paths as it knows them."""
        lines = [self.start]
        for key, value in self._kept():
            local = _local(value, prefix) if key.lower() == b"location" else value
            lines.append(b"%s: %s" % (key, local))
        if not self.lasting:
            lines.append(b"Connection: close")
        return b"\r\n".join([*lines, b"", b""])


def _local(location: bytes, prefix: bytes) -> bytes:
    absolute = _ABSOLUTE.fullmatch(location)
    path = absolute[1] if absolute else location
    local = _without(prefix, path)
    return location if local == path else local


def _without(prefix: bytes, path: bytes) -> bytes:
    rest = path.removeprefix(prefix)
    if rest == path or (rest and not rest.startswith((b"/", b"?"))):
        return path
    return rest if rest.startswith(b"/") else b"/" + rest


def body(message: Request, reader: Reader) -> Iterator[bytes]:
    """The body of a request, piece by piece, as it stands in the connection."""
    if not message.chunked:
        yield from _exactly(message.length or 0, reader)
        return
    while True:
        line = reader.line()
        size = _SIZE.fullmatch(line.removesuffix(b"\r\n"))
        if not size:
            raise ConnectionError("a chunk has no size")
        yield line
        if int(size[1], 16) == 0:
            break
        yield from _exactly(int(size[1], 16) + 2, reader)
    while (line := reader.line()) not in (b"\r\n", b""):
        yield line
    yield line


def _exactly(length: int, reader: Reader) -> Iterator[bytes]:
    while length:
        data = reader.take(length)
        if not data:
            raise ConnectionError("the body ends too early")
        length -= len(data)
        yield data


class Tail:
    """Watches the bytes of an answer's body for its end."""

    def __init__(self, answer: Answer) -> None:
        self._chunked = answer.chunked
        self._left = answer.length
        self._last = b""

    @property
    def complete(self) -> bool:
        return self._last == _LAST_CHUNK if self._chunked else self._left == 0

    @property
    def most(self) -> int:
        """How much may be read before the end; the end of a connection tells that of an answer without a length."""
        return CHUNK if self._left is None else self._left

    def saw(self, data: bytes) -> None:
        self._last = (self._last + data)[-len(_LAST_CHUNK) :]
        if self._left is not None:
            self._left -= len(data)
