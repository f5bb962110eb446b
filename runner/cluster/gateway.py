"""A small HTTP/1.1 proxy onto the API server's own proxy of Services and Pods, for forwards `via: proxy`.

It stands before a kubectl proxy that could ask the API server anything, so every request gets a connection of its own,
which ends with its answer: what a client says after a request cannot become another one, with another path.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from runner.cluster.http import UnixConnection
from runner.cluster.http1 import Answer, Reader, Refused, Request, Tail, body
from runner.cluster.patience import Backoff
from runner.cluster.relay import CONNECT_SECONDS, Exchange, Say, shut
from runner.deadline import Deadline
from runner.errors import Expired, RunnerError, StepFailed, TimedOut

if TYPE_CHECKING:
    from runner.cluster.protocol import Hand
    from runner.cluster.targets import Follower, Place

_GONE: Final = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
_ATTEMPTS: Final = 6
"""Of a request that was not answered: kubectl proxy is started again in the meantime."""
_LONGEST_STATUS: Final = 1 << 16
_LINGER_SECONDS: Final = 0.2
"""So long after the answer the end of the question may come; who answers early does not want it."""


_NO_ENDPOINTS: Final = "it has no endpoints that are ready"


class Gateway:
    """The far end of a forward `via: proxy`; implements `protocol.FarEnd`. A Service spreads requests over its
    endpoints; of everything else the newest ready Pod is asked.
    """

    def __init__(self, follower: Follower, namespace: str, socket_path: Callable[[Deadline], str]) -> None:
        self._follower = follower
        self._namespace = namespace
        self._socket_path = socket_path

    def await_answer(self, ports: Sequence[str], hand: Hand) -> str:
        return [self._await(port, hand.deadline, hand.waiting) for port in ports][-1]

    def serve(self, port: str, client: socket.socket, life: Deadline) -> None:
        """Request after request, until the client or an answer ends the connection."""
        client.setblocking(True)
        reader = Reader(client)
        try:
            while (head := reader.head()) and self._pass_on(Request(head), port, client, reader, life):
                pass
        except Refused as refusal:
            client.sendall(refusal.answer)

    def close(self) -> None:
        self._follower.close()

    def _path(self, place: Place, port: str) -> str:
        return f"/api/v1/namespaces/{self._namespace}/{place.kind}s/{place.name}:{place.ports[port]}/proxy"

    def _await(self, port: str, deadline: Deadline, say: Say) -> str:
        backoff = Backoff()
        place = self._follower.place(deadline, say)
        why = ""
        try:
            while True:
                say(f"port {place.ports[port]} of {place} to answer")
                why = self._ask(place, port, deadline)
                if not why:
                    return str(place)
                deadline.pause(backoff.next())
                place = self._follower.place(deadline, say)
        except Expired:
            message = f"port {place.ports[port]} of {place} does not answer: {why or 'no answer in time'}"
            raise TimedOut(message, reason="timeout", hint=self._hint(place, why)) from None

    def _hint(self, place: Place, why: str) -> str:
        selector = f"--selector=kubernetes.io/service-name={place.name}"
        return f"kubectl get endpointslices --namespace={self._namespace} {selector}" if why == _NO_ENDPOINTS else ""

    def _ask(self, place: Place, port: str, deadline: Deadline) -> str:
        """Why there is no answer yet; empty when there is one, whatever it says."""
        connection = UnixConnection(self._socket_path(deadline), deadline.socket_timeout())
        try:
            connection.connect()
            with deadline.closing(lambda: shut(connection.sock)):
                connection.request("GET", f"{self._path(place, port)}/")
                status = _api_status(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            deadline.check()
            return str(error)
        finally:
            connection.close()
        if status.get("code") in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
            raise StepFailed(
                f"the API server's proxy is not allowed: {status.get('message')}",
                hint=f"ask for the permission `get {place.kind}s/proxy` (and `create` for POST, `update` for PUT)",
                reason=str(status.get("reason")),
            )
        message = str(status.get("message") or "")
        unserved = status.get("code") == HTTPStatus.NOT_FOUND or "no endpoints available" in message
        return _NO_ENDPOINTS if unserved and place.kind == "service" else message

    def _pass_on(self, request: Request, port: str, client: socket.socket, reader: Reader, life: Deadline) -> bool:
        """Have a request answered; False when the connection ends with it."""
        backoff = Backoff()
        with life.child(CONNECT_SECONDS) as patience:
            for last in (*[False] * (_ATTEMPTS - 1), True):
                try:
                    prefix = self._path(self._follower.place(patience, _say_nothing), port).encode()
                    path = self._socket_path(patience)
                except RunnerError as error:
                    raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, error.message) from None
                try:
                    return self._try(request, prefix, path, client, reader, life)
                except _Unanswered as cut:  # kubectl proxy ended, and is started again
                    if last or (cut.said and not request.harmless):
                        raise Refused(HTTPStatus.BAD_GATEWAY, str(cut)) from None
                patience.pause(backoff.next())
        raise AssertionError

    def _try(
        self, request: Request, prefix: bytes, path: str, client: socket.socket, reader: Reader, life: Deadline
    ) -> bool:
        head = request.rewritten(prefix)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as far, life.closing(lambda: shut(far)):
            try:
                far.connect(path)
            except OSError as error:
                raise _Unanswered(f"kubectl proxy cannot be reached: {error}", said=False) from None
            return _Passage(request, client, reader, far, prefix).run(head)


class _Unanswered(Exception):
    """The connection ended before an answer began; `said` is whether the request may have been heard."""

    def __init__(self, why: str, *, said: bool) -> None:
        super().__init__(why)
        self.said = said


class _Passage:
    """The body of one request on its way there, and the answer on its way back."""

    def __init__(
        self, request: Request, client: socket.socket, reader: Reader, far: socket.socket, prefix: bytes
    ) -> None:
        self._request = request
        self._client = client
        self._reader = reader
        self._far = far
        self._prefix = prefix
        self._answers = Reader(far)
        self._whole = False
        """Whether the question was sent to its end: where the next one begins is not known before."""

    def run(self, head: bytes) -> bool:
        with suppress(OSError):  # then there is no answer either
            self._far.sendall(head)
        upload = threading.Thread(target=self._send_body, name="forwarded up", daemon=True)
        if self._request.chunked or (self._request.length or 0) > len(self._reader.buffered):
            upload.start()  # the answer may come before the end of the question
        else:
            self._send_body()
        try:
            lasting = self._answer()
            if upload.is_alive():
                upload.join(_LINGER_SECONDS)
            return lasting and self._whole
        finally:
            if upload.is_alive():  # the question is not heard to its end
                shut(self._far)
                with suppress(OSError):
                    self._client.shutdown(socket.SHUT_RD)
                upload.join()

    def _send_body(self) -> None:
        try:
            for piece in body(self._request, self._reader):
                self._far.sendall(piece)
            self._whole = True
        except (Refused, ConnectionError):
            shut(self._far)

    def _answer(self) -> bool:
        while True:
            self._await_bytes()
            try:
                head = self._answers.head()
            except OSError:
                head = b""
            if not head:
                raise _Unanswered("the API server ended the connection without an answer", said=True)
            answer = Answer(head, self._request)
            if answer.status == HTTPStatus.SWITCHING_PROTOCOLS:
                return self._switch(head)
            if answer.status >= HTTPStatus.OK:
                break
            self._client.sendall(head)
        self._client.sendall(answer.rewritten(self._prefix))
        tail = Tail(answer)
        while not (tail.complete and not answer.chunked):
            self._await_bytes()
            data = self._answers.take(tail.most)
            if not data:
                break
            tail.saw(data)
            self._client.sendall(data)
        return answer.lasting and tail.complete

    def _await_bytes(self) -> None:
        """Wait for more of the answer; raises when the client goes meanwhile."""
        if self._answers.buffered:
            return
        poll = select.poll()
        poll.register(self._far, select.POLLIN)
        poll.register(self._client, _GONE)
        ready = dict(poll.poll())
        if self._far.fileno() not in ready and ready.get(self._client.fileno(), 0) & _GONE:
            raise ConnectionResetError

    def _switch(self, head: bytes) -> bool:
        """Another protocol from here on, such as WebSocket: bytes in both directions."""
        self._client.sendall(head + self._answers.buffered)
        self._far.sendall(self._reader.buffered)
        with suppress(ConnectionError):
            Exchange(self._client, self._far).run()
        return False


def _say_nothing(what: str) -> None: ...


def _api_status(response: http.client.HTTPResponse) -> dict[str, Any]:
    """What the API server says itself, instead of the target."""
    if response.status < HTTPStatus.BAD_REQUEST or "json" not in response.getheader("Content-Type", ""):
        return {}
    with suppress(ValueError):
        data = json.loads(response.read(_LONGEST_STATUS))
        if isinstance(data, dict) and (data.get("kind"), data.get("apiVersion")) == ("Status", "v1"):
            return data
    return {}
