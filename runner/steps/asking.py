"""One request of `verify`, as bytes on a socket: HTTP/1.1 without proxies, or just a TCP connection."""

from __future__ import annotations

import http.client
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

import msgspec

from runner.errors import StepFailed

if TYPE_CHECKING:
    from runner.deadline import Deadline
    from runner.steps.kind import Context

_LARGEST_BODY: Final = 16 * 1024 * 1024
_MOST_REDIRECTS: Final = 10
_SILENCE_SECONDS: Final = 0.025
"""A TCP connection that nobody wanted is closed within this time."""


class Lost(Exception):
    """No (whole) answer came; `sent` is whether the other side may have got the request."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


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

    def __str__(self) -> str:
        return f"{self.method} {self.url}" if self.url else f"tcp {self.tcp}"

    def ask(self, context: Context) -> Answer:
        """Ask once. Raises `Lost`, `StepFailed` for what asking again cannot cure, or the deadline's exceptions."""
        started = time.monotonic()
        with context.deadline.child(self.timeout) as deadline:
            if self.tcp:
                host, _, port = self.tcp.rpartition(":")
                _knock(host.strip("[]"), int(port), context, deadline)
                return Answer(time.monotonic() - started)
            question = self
            for _ in range(_MOST_REDIRECTS + 1):
                answer = _exchange(question, context, deadline, started)
                target = answer.headers.get("location") if self.follow and 300 <= answer.status < 400 else None  # noqa: PLR2004
                if not target:
                    return answer
                question = question.redirected(target, answer.status)
        raise StepFailed(f"{self.url} redirects more than {_MOST_REDIRECTS} times", reason="verify")

    def redirected(self, target: str, status: int) -> Question:
        """The next request after a redirect, as browsers do it: 307 and 308 repeat, the others ask with GET.

        Credentials go to the same host only.
        """
        url = urljoin(self.url, target)
        if urlsplit(url).scheme not in ("http", "https"):
            raise StepFailed(f"{self.url} redirects to {target}, which is not HTTP", reason="verify")
        again = status in (307, 308)
        same = urlsplit(url).netloc == urlsplit(self.url).netloc
        headers = {
            name: value
            for name, value in self.headers.items()
            if (same or name.lower() not in ("authorization", "cookie")) and (again or name.lower() != "content-type")
        }
        method = self.method if again or self.method == "HEAD" else "GET"
        body = self.body if again else None
        return msgspec.structs.replace(self, url=url, method=method, headers=headers, body=body)


def _exchange(question: Question, context: Context, deadline: Deadline, started: float) -> Answer:
    parts = urlsplit(question.url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    end = _connect(host, port, context, deadline)
    if parts.scheme == "https":
        end = _secured(end, host)
    connection = http.client.HTTPConnection(host, parts.port or port, timeout=deadline.socket_timeout())
    connection.default_port = 443 if parts.scheme == "https" else 80  # which the Host field leaves out
    connection.sock = end
    with closing(connection), _cut_off(end, deadline):
        try:
            connection.request(question.method, target, question.body, {"User-Agent": "runner", **question.headers})
            response = connection.getresponse()
            body = response.read(_LARGEST_BODY + 1)
            if response.length and len(body) <= _LARGEST_BODY:
                raise http.client.IncompleteRead(body, response.length)
        except (OSError, http.client.HTTPException) as error:
            context.deadline.check()
            why = f"no answer within {deadline.seconds:g} s" if deadline.ended else _words(error)
            raise Lost(why, sent=True) from None
        except ValueError as error:  # a header with a newline, a method with a space
            raise StepFailed(f"this request cannot be sent: {error}", reason="verify") from None
    if len(body) > _LARGEST_BODY:
        raise StepFailed(f"the body of {question.url} is larger than {_LARGEST_BODY >> 20} MiB", reason="verify")
    headers = {name.lower(): value for name, value in response.getheaders()}
    charset = response.headers.get_content_charset() or "utf-8"
    return Answer(time.monotonic() - started, response.status, response.reason, headers, _decoded(body, charset))


def _knock(host: str, port: int, context: Context, deadline: Deadline) -> None:
    """A connection that stays open for a moment, or on which something is said."""
    with _connect(host, port, context, deadline) as end:
        ready, _, _ = select.select([end], [], [], _SILENCE_SECONDS)
        try:
            if not ready or end.recv(1):
                return
        except ConnectionError as error:
            raise Lost(_words(error), sent=True) from None
    raise Lost("the connection was closed at once", sent=True)


def _connect(host: str, port: int, context: Context, deadline: Deadline) -> socket.socket:
    """A connection to the first address that takes one."""
    why = ""
    for name in _addresses(host, port, context):
        for family, kind, protocol, _, address in _resolved(name, port, context, deadline):
            end = socket.socket(family, kind, protocol)
            try:
                end.settimeout(deadline.socket_timeout())
                with deadline.closing(partial(_shut, end)):
                    end.connect(address)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                end.close()
                context.deadline.check()
                why = why or f"{address[0]}:{port}: {_words(error)}"
            else:
                return end
    raise Lost(why or f"{host} has no address", sent=False)


def _resolved(name: str, port: int, context: Context, deadline: Deadline) -> list[Any]:
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
    with deadline.closing(lambda: answer.put(None)), suppress(Empty):
        found = answer.get(timeout=deadline.socket_timeout())
        if isinstance(found, list):
            return found
        if found:
            raise Lost(f"the name {name} is not known: {_words(found)}", sent=False)
    context.deadline.check()
    raise Lost(f"no resolver answers for {name}", sent=False)


def _addresses(host: str, port: int, context: Context) -> tuple[str, ...]:
    """`localhost` is what a forward of this run bound there, else both loopback addresses."""
    if bound := context.forwarded(host, port):
        return (bound,)
    return ("127.0.0.1", "::1") if host == "localhost" else (host,)


def _secured(end: socket.socket, host: str) -> socket.socket:
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(end, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        end.close()
        raise StepFailed(f"the certificate of {host} is not accepted: {error.verify_message}", reason="tls") from None
    except OSError as error:
        end.close()
        raise Lost(f"TLS: {_words(error)}", sent=False) from None


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
    """Wake whoever connects, reads or writes there."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _decoded(body: bytes, charset: str) -> str:
    try:
        return body.decode(charset, "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut in the middle of the answer"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (getattr(error, "strerror", "") or str(error) or type(error).__name__).lower()
