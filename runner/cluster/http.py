"""HTTP/1.1 over a unix socket: the API server through `kubectl proxy`, or podman's service. JSON in, JSON out."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from runner.deadline import Deadline
from runner.errors import StepFailed

_JSON = {"Accept": "application/json", "Content-Type": "application/json"}


class Unreachable(StepFailed):
    """No answer: the connection was refused, reset, or cut. Asking again may help."""


class ApiError(StepFailed):
    """An answer that is not a success. `reason` is the API server's word (`NotFound`, `Forbidden`, …)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        hint = "ask for the permission, or use another user" if status == http.client.FORBIDDEN else ""
        super().__init__(message, reason=reason, hint=hint)
        self.status = status


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

    def __init__(self, socket_path: Callable[[], str]) -> None:
        self._socket_path = socket_path
        self._local = threading.local()
        self._kept: set[UnixConnection] = set()

    def close(self) -> None:
        """Close the connections that are kept alive, those of threads that ended included."""
        while self._kept:
            self._kept.pop().close()

    def request(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The parsed answer. Raises `ApiError`, `Unreachable`, or the deadline's exceptions.

        A request on a connection that the other side had closed in the meantime is sent again on a new one, once.
        """
        return json.loads(self._send(method, path, deadline, body, headers) or b"null")

    def text(self, path: str, deadline: Deadline) -> str:
        """An answer that is not JSON, such as a log."""
        return self._send("GET", path, deadline, None, None).decode("utf-8", "replace")

    def _send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
    ) -> bytes:
        for last in (False, True):
            deadline.check()
            connection, fresh = self._connection(deadline)
            try:
                if connection.sock is None:
                    connection.connect()
                with deadline.closing(lambda: _shut(connection)):  # noqa: B023 - called in this round only
                    payload = None if body is None else json.dumps(body)
                    connection.request(method, path, payload, {**_JSON, **(headers or {})})
                    response = connection.getresponse()
                    text = response.read()
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                deadline.check()
                if last or fresh:
                    raise Unreachable(f"{type(error).__name__}: {error}") from error
                continue
            return _checked(response.status, text)
        raise AssertionError

    def get(self, path: str, deadline: Deadline, headers: Mapping[str, str] | None = None) -> Any:
        return self.request("GET", path, deadline, headers=headers)

    def stream(self, path: str, deadline: Deadline) -> Iterator[Any]:
        """The JSON lines of a watch until the other side ends it. Raises as `request` does."""
        connection = UnixConnection(self._socket_path(), deadline.socket_timeout())
        try:
            connection.connect()  # before `closing`: a cancel that came already has a socket to shut
            with deadline.closing(lambda: _shut(connection)):
                connection.request("GET", path, headers=_JSON)
                response = connection.getresponse()
                if response.status != http.client.OK:
                    _checked(response.status, response.read())
                while line := response.readline():
                    deadline.check()
                    yield json.loads(line)
                    # Not the whole budget again for each event.
                    connection.sock.settimeout(deadline.socket_timeout())
        except (OSError, http.client.HTTPException, ValueError) as error:
            deadline.check()
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()
        deadline.check()

    def _connection(self, deadline: Deadline) -> tuple[UnixConnection, bool]:
        connection: UnixConnection | None = getattr(self._local, "connection", None)
        fresh = connection is None
        if connection is None:
            connection = self._local.connection = UnixConnection(self._socket_path())
            self._kept.add(connection)
        connection.timeout = deadline.socket_timeout()
        if connection.sock:
            connection.sock.settimeout(connection.timeout)
        return connection, fresh

    def _drop(self) -> None:
        self._local.connection.close()
        self._kept.discard(self._local.connection)
        self._local.connection = None


def _shut(connection: http.client.HTTPConnection) -> None:
    """Wake whoever reads from it."""
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _checked(status: int, text: bytes) -> bytes:
    """The body of a success; raises `ApiError` with the server's own words otherwise."""
    if status < http.client.BAD_REQUEST:
        return text
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if isinstance(data, dict):
        raise ApiError(status, data.get("reason") or str(status), data.get("message") or str(data.get("cause", "")))
    raise ApiError(status, str(status), text.decode("utf-8", "replace").strip())
