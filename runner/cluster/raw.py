"""The API server without a proxy: a kubectl process for each request (`kubectl get --raw`), where a proxy cannot start.

It costs 50 ms for each look and 40 MB for each watch, and is otherwise the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import Any, Final

from msgspec import structs

from runner import shell
from runner.cluster import kubectl_errors
from runner.cluster.http import Api, ApiError, Unreachable, parsed
from runner.deadline import FOREVER, Deadline
from runner.errors import CommandResult, Expired
from runner.shell import Command

_ANSWER: Final = re.compile(r"Error from server(?: \((?P<reason>\w+)\))?: (?P<message>.*)", re.DOTALL)
_DATE: Final = re.compile(r"\bDate: (\w{3}, .* GMT)$", re.MULTILINE)
"""The header among those that kubectl writes to its log with -v=8; each version of it does, in one form or another."""
_STATUS: Final = {
    "AlreadyExists": HTTPStatus.CONFLICT,
    "BadRequest": HTTPStatus.BAD_REQUEST,
    "Conflict": HTTPStatus.CONFLICT,
    "Expired": HTTPStatus.GONE,
    "Forbidden": HTTPStatus.FORBIDDEN,
    "Gone": HTTPStatus.GONE,
    "InternalError": HTTPStatus.INTERNAL_SERVER_ERROR,
    "Invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "MethodNotAllowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "NotFound": HTTPStatus.NOT_FOUND,
    "ServerTimeout": HTTPStatus.GATEWAY_TIMEOUT,
    "ServiceUnavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "Timeout": HTTPStatus.GATEWAY_TIMEOUT,
    "TooManyRequests": HTTPStatus.TOO_MANY_REQUESTS,
    "Unauthorized": HTTPStatus.UNAUTHORIZED,
}


def command(method: str, path: str) -> Command:
    """Pure. A DELETE takes its options from standard input."""
    if method == "GET":
        return Command(("kubectl", "get", f"--raw={path}"))
    return Command(("kubectl", method.lower(), f"--raw={path}", "--filename=-"))


def clock() -> Command:
    """Pure. Only its log has the headers of an answer."""
    return Command((*command("GET", "/version").argv, "-v=8"))


class RawApi(Api):
    """`http.Api` by processes. Headers cannot be sent, so nobody gets the newer form of discovery."""

    def __init__(self, environment: Mapping[str, str | None]) -> None:
        super().__init__(lambda _: "")
        self._environment = environment

    def _send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        within: float,
    ) -> bytes:
        line = command(method, path)
        stdin = None if method == "GET" else json.dumps(body or {})
        with deadline.child(None if within == FOREVER else within) as limit:
            try:
                result = shell.run(Command(line.argv, stdin, self._environment), limit)
            except Expired:
                deadline.check()
                raise Unreachable(f"no answer within {within:g} s", reason="no answer") from None
        if result.code:
            raise _failure(result)
        return result.stdout.encode()

    def time(self, deadline: Deadline) -> datetime:
        result = shell.run(Command(clock().argv, env=self._environment), deadline)
        if date := _DATE.search(result.stderr):  # also beside a refusal
            return parsedate_to_datetime(date[1])
        if result.code:
            raise _failure(structs.replace(result, stderr=result.stderr.strip().rpartition("\n")[2]))
        raise Unreachable(f"`{clock()}` does not show when the answer was given", reason="unreadable answer")

    def stream(
        self,
        path: str,
        deadline: Deadline,
        within: float = FOREVER,
        opened: Callable[[], None] = lambda: None,
    ) -> Iterator[Any]:
        lines: SimpleQueue[str | None] = SimpleQueue()  # None: the child or the deadline ended

        def on_line(stream: str, line: str) -> None:
            if stream == "stdout":
                lines.put(line)

        argv = command("GET", path).argv
        child = shell.start(Command(argv, env=self._environment), on_line, lambda: lines.put(None))
        opened()
        try:
            with deadline.closing(lambda: lines.put(None)):
                while (line := _next(lines, deadline)) is not None:
                    yield parsed(line.encode())
        finally:
            child.stop()
        deadline.check()
        if child.code:
            raise _failure(child.result())


def _next(lines: SimpleQueue[str | None], deadline: Deadline) -> str | None:
    try:
        line = lines.get(timeout=deadline.socket_timeout())
    except Empty:
        line = None
    deadline.check()
    return line


def _failure(result: CommandResult) -> ApiError | Unreachable:
    """What kubectl's complaint means: an answer of the server, or none."""
    words = kubectl_errors.words(result.stderr).strip()
    if answer := _ANSWER.search(words):
        reason = answer["reason"] or ""
        return ApiError(_STATUS.get(reason, HTTPStatus.BAD_REQUEST), reason, answer["message"])
    if "(Unauthorized)" in words:
        return ApiError(HTTPStatus.UNAUTHORIZED, "Unauthorized", words)
    finding = kubectl_errors.classify(result.stderr)
    if finding and finding.rule.kind == "transient":
        return Unreachable(words, reason="connection refused" if "refused" in words else "connection cut")
    return ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", words)
