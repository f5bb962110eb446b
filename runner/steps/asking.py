"""One request of `verify`, as bytes on a socket: HTTP/1.1 without proxies, or just a TCP connection."""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from email.message import Message
from functools import partial
from http import HTTPStatus
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from runner.errors import StepFailed
from runner.steps import tls
from runner.steps.decoding import text

if TYPE_CHECKING:
    from runner.deadline import Deadline
    from runner.steps.kind import Forwarded

Forwards = Callable[[str, int], "Forwarded | None"]
"""Finds the forward of this run that listens on a host and port."""
_LARGEST_BODY: Final = 16 * 1024 * 1024
_MOST_REDIRECTS: Final = 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SHOWN: Final = 200
"""Characters of what a server says that a sentence repeats."""
_TLS_ALERT: Final = "\x15\x03"
"""How the answer of a server begins that expected TLS."""
_PROBE_SECONDS: Final = 0.5
_SILENCE_SECONDS: Final = 0.25
"""A TCP connection that nobody wanted is closed within this time, also through a forward and on a busy machine."""


class Lost(Exception):
    """No (whole) answer came; `sent` is whether the other side may have got the request, `mute` whether it ended the
    connection without a word.
    """

    def __init__(self, why: str, *, sent: bool, mute: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent
        self.mute = mute


class Answer(msgspec.Struct, frozen=True):
    """What came back; header names are in lower case, `elapsed` is in seconds. For TCP all is empty but `elapsed`."""

    elapsed: float
    status: int = 0
    reason: str = ""
    headers: Mapping[str, str] = {}
    body: str = ""


class Question(msgspec.Struct, frozen=True):
    """A request that can be asked again and again."""

    url: str
    tcp: str
    method: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout: float
    follow: bool
    security: tls.Security = tls.Security()
    secure: ssl.SSLContext | None = None
    """Made of `security` when the question was, for https and redirects to it."""

    def __str__(self) -> str:
        return f"{self.method} {self.url}" if self.url else f"tcp {self.tcp}"

    @property
    def place(self) -> tuple[str, int]:
        """The host and the port."""
        parts = urlsplit(self.url or f"tcp://{self.tcp}")
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def ask(self, limit: Deadline, forwarded: Forwards) -> Answer:
        """Ask once. Raises `Lost`, `StepFailed` for what asking again cannot cure, or the exceptions of `limit`."""
        started = time.monotonic()
        with limit.child(self.timeout) as deadline:
            line = _Line(limit, deadline, forwarded)
            if self.tcp:
                line.knock(*self.place)
                return Answer(time.monotonic() - started)
            question = self
            for _ in range(_MOST_REDIRECTS + 1):
                answer = line.exchange(question, started)
                target = answer.headers.get("location") if self.follow and answer.status in _REDIRECTS else None
                if not target:
                    return answer
                question = question.redirected(target, answer.status)
        raise StepFailed(
            f"{self.url} redirects more than {_MOST_REDIRECTS} times",
            hint=f"the last time to {question.url}",
            reason="verify",
        )

    def refusal(self, limit: Deadline, forwarded: Forwards) -> StepFailed | None:
        """Why the other end hangs up without a word, if asking again does not cure it: plain HTTP was spoken to it and
        it takes TLS; or it did not like the client certificate, which TLS 1.3 says only after the handshake, when a
        request may be on its way already and the reason gets lost.
        """
        host, port = self.place
        with limit.child(_PROBE_SECONDS) as deadline:
            line = _Line(limit, deadline, forwarded)
            try:
                if self.url.startswith("http:"):
                    line.secured(line.connect(host, port), tls.Security(insecure=True).context(), host).close()
                    return _https_wanted(self)
                with line.trusted(line.connect(host, port), self) as end:
                    end.settimeout(deadline.socket_timeout())
                    end.recv(1)
            except ssl.SSLError as error:
                return tls.refusal(error, f"{host}:{port}", host, tuple) if self.url.startswith("https:") else None
            except (Lost, OSError):
                pass
        return None

    def redirected(self, target: str, status: int) -> Question:
        """The next request after a redirect, as browsers do it: 307 and 308 repeat, the others ask with GET.

        Credentials go to the same host only.
        """
        try:
            next_ = msgspec.structs.replace(self, url=quote(urljoin(self.url, target), safe=string.punctuation))
            place, scheme = next_.place, urlsplit(next_.url).scheme
        except ValueError as error:  # a port or an address of IPv6 that cannot be one
            raise self._lost_way(target, f"which is no address: {error}") from None
        if scheme not in ("http", "https"):
            raise self._lost_way(target, "which is not HTTP")
        if not place[0]:
            raise self._lost_way(target, "which names no host")
        again = status in (307, 308)
        same = place == self.place and scheme == urlsplit(self.url).scheme
        headers = {
            name: value
            for name, value in self.headers.items()
            if (same or name.lower() not in ("authorization", "cookie")) and (again or name.lower() != "content-type")
        }
        method = self.method if again or self.method == "HEAD" else "GET"
        body = self.body if again else None
        return msgspec.structs.replace(next_, method=method, headers=headers, body=body)

    def _lost_way(self, target: str, why: str) -> StepFailed:
        return StepFailed(f"{self.url} redirects to {target[:_SHOWN]}, {why}", reason="verify")


class _Line(msgspec.Struct, frozen=True):
    """The way to the other end while a question is asked: `deadline` is the attempt's, inside of the step's `limit`."""

    limit: Deadline
    deadline: Deadline
    forwarded: Forwards

    def exchange(self, question: Question, started: float) -> Answer:
        parts = urlsplit(quote(question.url, safe=string.punctuation))
        host, port = question.place
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        end = self.connect(host, port)
        if parts.scheme == "https":
            end = self.trusted(end, question)
        name = host if host.isascii() else host.encode("idna").decode()
        connection = http.client.HTTPConnection(name, port, timeout=self.deadline.socket_timeout())
        connection.default_port = 443 if parts.scheme == "https" else 80  # which the Host field leaves out
        connection.sock = end
        connection.response_class = _Response
        with closing(connection), _cut_off(end, self.deadline):
            try:
                connection.request(question.method, target, question.body, question.headers)
                response = connection.getresponse()
                body = response.read(_LARGEST_BODY + 1)
                if response.length and len(body) <= _LARGEST_BODY:
                    raise http.client.IncompleteRead(body, response.length)
                if self.deadline.ended:  # what was cut off looks like an answer that came to its end
                    raise TimeoutError
            except (OSError, http.client.HTTPException) as error:
                raise self._lost(error, question) from None
        headers = _fields(response.headers)
        content = text(body, headers, _LARGEST_BODY)
        if content is None:
            raise StepFailed(f"the body of {question.url} is larger than {_LARGEST_BODY >> 20} MiB", reason="verify")
        return Answer(time.monotonic() - started, response.status, response.reason[:_SHOWN], headers, content)

    def _lost(self, error: Exception, question: Question) -> Exception:
        """What became of a request that was begun and not answered."""
        self.limit.check()
        host, port = question.place
        if isinstance(error, ssl.SSLError) and (refusal := tls.refusal(error, f"{host}:{port}", host, tuple)):
            return refusal
        if isinstance(error, http.client.BadStatusLine) and str(error).startswith(_TLS_ALERT):
            return _https_wanted(question)
        if self.deadline.ended:
            return Lost(f"no answer within {self.deadline.seconds:g} s", sent=True)
        mute = isinstance(error, ConnectionError | ssl.SSLEOFError)  # RemoteDisconnected is one
        return Lost(_words(error), sent=True, mute=mute)

    def knock(self, host: str, port: int) -> None:
        """A connection that stays open for a moment, or on which something is said."""
        with self.connect(host, port) as end:
            ready, _, _ = select.select([end], [], [], _SILENCE_SECONDS)
            try:
                if not ready or end.recv(1):
                    return
            except ConnectionError as error:
                raise Lost(_words(error), sent=True) from None
        raise Lost("the connection was closed at once", sent=True)

    def connect(self, host: str, port: int) -> socket.socket:
        """A connection to the first address that takes one."""
        why = ""
        for name in self._addresses(host, port):
            for family, kind, protocol, _, address in self._resolved(name, port):
                end = socket.socket(family, kind, protocol)
                try:
                    end.settimeout(self.deadline.socket_timeout())
                    with self.deadline.closing(partial(_shut, end)):
                        end.connect(address)
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except OSError as error:
                    end.close()
                    self.limit.check()
                    why = why or f"{address[0]}:{port}: {_words(error)}"
                else:
                    return end
        raise Lost(why or f"{host} has no address", sent=False)

    def _addresses(self, host: str, port: int) -> tuple[str, ...]:
        """`localhost` is what a forward of this run bound there, else both loopback addresses."""
        if host != "localhost":
            return (host,)
        bound = self.forwarded(host, port)
        return (bound.host,) if bound else ("127.0.0.1", "::1")

    def _resolved(self, name: str, port: int) -> list[Any]:
        """The addresses of a name, in a thread: a resolver that is silent cannot be interrupted."""
        answer: Queue[list[Any] | OSError | None] = Queue()

        def ask() -> None:
            try:
                answer.put(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
            except OSError as error:
                answer.put(error)
            except ValueError as error:  # a name that cannot be one: `a..b`
                answer.put(OSError(str(error)))

        if name[-1:].isdigit() or ":" in name:
            ask()
        else:
            threading.Thread(target=ask, name="resolver", daemon=True).start()
        with self.deadline.closing(lambda: answer.put(None)), suppress(Empty):
            found = answer.get(timeout=self.deadline.socket_timeout())
            if isinstance(found, list):
                return found
            if found:
                raise Lost(f"the name {name} is not known: {_words(found)}", sent=False)
        self.limit.check()
        raise Lost(f"no resolver answers for {name}", sent=False)

    def trusted(self, end: socket.socket, question: Question) -> socket.socket:
        """The connection, secured as the question wants it."""
        host, port = question.place
        security = question.security
        name = security.name_for(host)
        try:
            return self.secured(end, question.secure or security.context(), name)
        except ssl.SSLError as error:
            self.limit.check()
            names = partial(self._names, host, port, security)
            refusal = tls.refusal(error, f"{host}:{port}", name, names)
            raise refusal or Lost(f"TLS: {_words(error)}", sent=False) from None
        except OSError as error:
            self.limit.check()
            raise Lost(f"TLS: {_words(error)}", sent=False) from None

    def secured(self, end: socket.socket, context: ssl.SSLContext, name: str) -> socket.socket:
        secure = tls.shake_hands(end, context, name)
        try:
            with _cut_off(secure, self.deadline):
                secure.do_handshake()
        except BaseException:
            secure.close()
            raise
        return secure

    def _names(self, host: str, port: int, security: tls.Security) -> tuple[str, ...]:
        """The names in the certificate that is shown there, on a connection of its own: one that fails tells none."""
        with suppress(Lost, OSError):
            end = self.secured(self.connect(host, port), security.context(any_name=True), security.name_for(host))
            with end:
                return tls.names_in(end.getpeercert() or {})  # type: ignore[attr-defined]
        return ()


class _Response(http.client.HTTPResponse):
    """The answer after all interim ones, of which http.client passes over 100 only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fp = _Lines(self.fp.detach())

    def begin(self) -> None:
        super().begin()
        while self.status < HTTPStatus.OK and self.status != HTTPStatus.SWITCHING_PROTOCOLS:
            self.headers = None  # type: ignore[assignment]  # it begins again only without
            super().begin()


class _Lines(io.BufferedReader):
    """What a server says. http.client takes the end of a connection for the end of a head, and reads without a limit
    where a chunk has a negative size.
    """

    _begun = False

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if self._begun and not line.endswith(b"\n") and len(line) != size:
            raise http.client.IncompleteRead(line)
        self._begun = True
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise http.client.HTTPException("a chunk of the body has a negative size")
        return super().read(size)


def _fields(headers: Message) -> dict[str, str]:
    """The fields by their names in lower case; those of one name are a list, cookies (which have commas) are lines."""
    values: dict[str, list[str]] = {}
    for name, value in headers.items():
        values.setdefault(name.lower(), []).append(value)
    return {name: ("\n" if name == "set-cookie" else ", ").join(several) for name, several in values.items()}


def _https_wanted(question: Question) -> StepFailed:
    host, port = question.place
    return StepFailed(
        f"{host}:{port} speaks TLS, and was asked in plain HTTP", hint="write https:// instead of http://", reason="tls"
    )


@contextmanager
def _cut_off(end: socket.socket, deadline: Deadline) -> Iterator[None]:
    """Shut the connection when the deadline ends, also when the other side sends a byte now and then."""
    timer = threading.Timer(deadline.remaining(), _shut, (end,))
    timer.daemon = True
    timer.start()
    try:
        with deadline.closing(partial(_shut, end)):
            yield
    finally:
        timer.cancel()


def _shut(end: socket.socket) -> None:
    """Wake whoever connects, reads or writes there; TLS is not told, which another thread may be in the middle of."""
    with suppress(OSError):
        socket.socket.shutdown(end, socket.SHUT_RDWR)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.RemoteDisconnected | ssl.SSLEOFError):
        return "the connection was closed without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut in the middle of the answer"
    if isinstance(error, http.client.BadStatusLine | http.client.UnknownProtocol):
        return f"what answers there does not speak HTTP/1: {str(error)[:_SHOWN]!r}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return (getattr(error, "strerror", "") or str(error) or type(error).__name__).lower()
