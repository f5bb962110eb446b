"""HTTP/1.1 over a unix socket: the API server through `kubectl proxy`, or podman's service. JSON in, JSON out."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from runner.deadline import FOREVER, Deadline
from runner.errors import StepFailed

_CHUNK: Final = 1 << 16
_EXCERPT: Final = 60
_JSON = {"Accept": "application/json", "Content-Type": "application/json"}


class Unreachable(StepFailed):
    """No answer, or none that can be read. `reason` is `connection refused`, `connection cut`, `no answer` or
    `unreadable answer`. Asking again may help.
    """


class ApiError(StepFailed):
    """An answer that is not a success. `reason` is the API server's word (`NotFound`, `Forbidden`, …); `retry_after`
    the seconds after which it wants to be asked again (0: it did not say). `of_gateway`: not the API server says so,
    but what stands before it and does not reach it (kubectl proxy: 500 and plain text).
    """

    def __init__(
        self, status: int, reason: str, message: str, retry_after: float = 0.0, *, of_gateway: bool = False
    ) -> None:
        hint = "ask for the permission, or use another user" if status == http.client.FORBIDDEN else ""
        super().__init__(message, reason=reason, hint=hint)
        self.status = status
        self.retry_after = retry_after
        self.of_gateway = of_gateway


class UnixConnection(http.client.HTTPConnection):
    """A connection to a socket file. The Host is `localhost`: kubectl proxy refuses others."""

    def __init__(self, path: str, timeout: float | None = None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Api:
    """Requests to one socket. Connections are kept alive, one per thread."""

    def __init__(self, socket_path: Callable[[Deadline], str]) -> None:
        self._socket_path = socket_path
        self._local = threading.local()
        self._kept: dict[threading.Thread, UnixConnection] = {}

    def close(self) -> None:
        """Close the connections that are kept alive, those of threads that ended included."""
        while self._kept:
            self._kept.popitem()[1].close()

    def request(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        within: float = FOREVER,
    ) -> Any:
        """The parsed answer. Raises `ApiError`, `Unreachable` (also when nothing comes for `within` seconds), or the
        deadline's exceptions.

        A request on a connection that the other side had closed in the meantime is sent again on a new one, once.
        """
        return parsed(self._send(method, path, deadline, body, headers, within) or b"null")

    def text(self, path: str, deadline: Deadline, within: float = FOREVER) -> str:
        """An answer that is not JSON, such as a log."""
        return self._send("GET", path, deadline, None, None, within).decode("utf-8", "replace")

    def _send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        within: float,
    ) -> bytes:
        for last in (False, True):
            deadline.check()
            connection, fresh = self._connection(deadline, within)
            try:
                if connection.sock is None:
                    connection.connect()
                sock = connection.sock  # ours alone, once an answer that ends with the connection began
                with deadline.closing(lambda: _shut(sock)):  # noqa: B023 - called in this round only
                    payload = None if body is None else json.dumps(body)
                    connection.request(method, path, payload, {**_JSON, **(headers or {})})
                    response = connection.getresponse()
                    text = _read(sock, response, deadline, within)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                deadline.check()
                if last or fresh or isinstance(error, TimeoutError):
                    raise _unreachable(error, within) from error
                continue
            except BaseException:
                self._drop()  # half of an answer is in it
                raise
            return _checked(response, text)
        raise AssertionError

    def get(self, path: str, deadline: Deadline, headers: Mapping[str, str] | None = None) -> Any:
        return self.request("GET", path, deadline, headers=headers)

    def time(self, deadline: Deadline) -> datetime:
        """The clock of the other side, to the second."""
        connection = UnixConnection(self._socket_path(deadline), deadline.socket_timeout())
        try:
            connection.connect()
            sock = connection.sock
            with deadline.closing(lambda: _shut(sock)):
                connection.request("GET", "/version", headers=_JSON)
                stamp = connection.getresponse().getheader("Date") or ""
                return parsedate_to_datetime(stamp)
        except (OSError, http.client.HTTPException, ValueError) as error:
            deadline.check()
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def stream(
        self,
        path: str,
        deadline: Deadline,
        within: float = FOREVER,
        opened: Callable[[], None] = lambda: None,
    ) -> Iterator[Any]:
        """The JSON lines of a watch until the other side ends it. Raises as `request` does. `within` is how many
        seconds the answer may take to begin; `opened` is called when it does.
        """
        connection = UnixConnection(self._socket_path(deadline), _timeout(deadline, within))
        try:
            connection.connect()  # before `closing`: a cancel that came already has a socket to shut
            sock = connection.sock
            with deadline.closing(lambda: _shut(sock)):
                connection.request("GET", path, headers=_JSON)
                response = connection.getresponse()
                if response.status != http.client.OK:
                    _checked(response, _read(sock, response, deadline, within))
                opened()
                rest = b""
                # Not the whole budget again for each piece.
                while piece := _next(sock, response, deadline.socket_timeout()):
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        deadline.check()
                        yield parsed(line)
                if rest:
                    raise http.client.IncompleteRead(rest)
        except (OSError, http.client.HTTPException) as error:
            deadline.check()
            raise _unreachable(error, within) from error
        finally:
            connection.close()
        deadline.check()

    def _connection(self, deadline: Deadline, within: float) -> tuple[UnixConnection, bool]:
        connection: UnixConnection | None = getattr(self._local, "connection", None)
        fresh = connection is None
        if connection is None:
            connection = self._local.connection = UnixConnection(self._socket_path(deadline))
            self._forget_the_dead()
            self._kept[threading.current_thread()] = connection
        connection.timeout = _timeout(deadline, within)
        if connection.sock:
            connection.sock.settimeout(connection.timeout)
        return connection, fresh

    def _drop(self) -> None:
        self._local.connection.close()
        self._kept.pop(threading.current_thread(), None)
        self._local.connection = None

    def _forget_the_dead(self) -> None:
        """Close the connections of threads that ended: a long run has many watches, one after the other."""
        for thread in list(self._kept):
            if not thread.is_alive() and (connection := self._kept.pop(thread, None)):
                connection.close()


def _shut(sock: socket.socket) -> None:
    """Wake whoever reads from it."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _timeout(deadline: Deadline, within: float) -> float | None:
    """For the next operation on a socket."""
    left = deadline.remaining(within)
    return None if left == FOREVER else max(left, 0.001)


def _read(sock: socket.socket, response: http.client.HTTPResponse, deadline: Deadline, within: float) -> bytes:
    """The body, however slowly it comes, until the deadline or until nothing comes for `within` seconds."""
    chunks = []
    while chunk := _next(sock, response, _timeout(deadline, within)):
        chunks.append(chunk)
        deadline.check()
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    response.close()  # reading in pieces does not: the connection would not take another request
    return b"".join(chunks)


def _next(sock: socket.socket, response: http.client.HTTPResponse, timeout: float | None) -> bytes:
    sock.settimeout(timeout)
    return response.read1(_CHUNK)


def parsed(text: bytes) -> Any:
    """JSON; raises `Unreachable` for anything else."""
    try:
        return json.loads(text)
    except ValueError:
        start = text[:_EXCERPT].decode("utf-8", "replace")
        raise Unreachable(f"the answer is not JSON: {start!r}", reason="unreadable answer") from None


def _unreachable(error: Exception, within: float) -> Unreachable:
    match error:
        case TimeoutError():
            return Unreachable(f"no answer within {within:g} s", reason="no answer")
        case ConnectionRefusedError() | FileNotFoundError():
            return Unreachable("the connection was refused", reason="connection refused")
        case http.client.HTTPException() if not isinstance(error, http.client.IncompleteRead | ConnectionError):
            return Unreachable(f"the answer is not HTTP ({type(error).__name__})", reason="unreadable answer")
    return Unreachable(f"the connection was cut ({type(error).__name__})", reason="connection cut")


def _checked(response: http.client.HTTPResponse, text: bytes) -> bytes:
    """The body of a success; raises `ApiError` with the server's own words otherwise."""
    status = response.status
    if status < http.client.BAD_REQUEST:
        return text
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    asked = response.headers.get("Retry-After") or ""
    after = float(asked) if asked.isdigit() else 0.0
    if isinstance(data, dict):
        words = data.get("message") or str(data.get("cause", ""))
        raise ApiError(status, data.get("reason") or str(status), words, after)
    of_gateway = status >= http.client.INTERNAL_SERVER_ERROR
    raise ApiError(status, str(status), text.decode("utf-8", "replace").strip(), after, of_gateway=of_gateway)
