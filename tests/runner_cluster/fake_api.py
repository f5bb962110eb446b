"""A small API server with its objects in memory, on a unix socket, and what can go wrong with one."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
Handler = BaseHTTPRequestHandler
Fault = Callable[["_Handler"], None]

PATH = re.compile(
    r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?"
    r"(?P<log>/log)?"
)


class FakeApi:
    """`put` and `remove` objects as their owners would; `fault` makes the next requests fail; `requests` tells all.

    Watches follow a history of events; `forget` drops it, as a restart or a compaction does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.requests: list[tuple[float, str, str]] = []
        self.logs: dict[str, str] = {}
        self.discovery: dict[str, Any] = {"/api": _aggregated(), "/apis": _aggregated()}
        self.deletions: list[tuple[str, Any]] = []
        self.over = threading.Event()
        self.sent = 0
        """How many events watches have sent."""
        self._faults: list[tuple[str, Fault]] = []
        self._changed = threading.Condition()
        self._version = 100
        self._oldest = 100
        self._history: list[tuple[int, str, str, Object]] = []
        self._streams: set[socket.socket] = set()
        self._server = _Server(str(path), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.over.set()
        with self._changed:
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # -- objects ------------------------------------------------------------------------------------------------

    def put(self, plural: str, name: str, *, namespace: str = "default", **rest: Any) -> Object:
        """Create or change an object; `rest` is laid over it (`metadata` over its metadata)."""
        key = (plural, namespace, name)
        with self._changed:
            old = self.objects.get(key, {})
            meta = {"name": name, "uid": f"uid of {name}", **({"namespace": namespace} if namespace else {})}
            meta = {**meta, **old.get("metadata", {}), **rest.pop("metadata", {})}
            meta["resourceVersion"] = str(self._version + 1)
            self.objects[key] = {**old, **rest, "metadata": meta}
            self._tell("MODIFIED" if old else "ADDED", plural, self.objects[key])
            return self.objects[key]

    def remove(self, plural: str, name: str, namespace: str = "default") -> None:
        with self._changed:
            if object_ := self.objects.pop((plural, namespace, name), None):
                meta = {**object_["metadata"], "resourceVersion": str(self._version + 1)}
                self._tell("DELETED", plural, {**object_, "metadata": meta})

    def forget(self) -> None:
        """The history is gone: watches from before now are answered with 410."""
        with self._changed:
            self._oldest = self._version

    def cut_watches(self) -> None:
        """Every open watch ends in the middle of a line."""
        for stream in list(self._streams):
            stream.sendall(b'7\r\n{"type\r\n')
            stream.shutdown(socket.SHUT_RDWR)

    def _tell(self, type_: str, plural: str, object_: Object) -> None:
        self._version += 1
        self._history.append((self._version, type_, plural, object_))
        self._changed.notify_all()

    # -- faults -------------------------------------------------------------------------------------------------

    def fault(self, fault: Fault, on: str = "", times: int = 1) -> None:
        """The next requests whose line (`GET /api/v1/pods?watch=1…`) matches the expression end like this."""
        self._faults += [(on, fault)] * times

    def fault_of(self, line: str) -> Fault | None:
        for index, (on, fault) in enumerate(self._faults):
            if re.search(on, line):
                del self._faults[index]
                return fault
        return None

    def asked(self, pattern: str) -> int:
        """How many requests match."""
        return sum(bool(re.search(pattern, f"{method} {path}")) for _, method, path in self.requests)

    def await_asked(self, pattern: str, number: int = 1) -> None:
        """Wait until so many requests came."""
        await_true(lambda: self.asked(pattern) >= number)

    # -- answers ------------------------------------------------------------------------------------------------

    def selected(self, plural: str, namespace: str | None, query: Mapping[str, list[str]]) -> list[Object]:
        return [
            item
            for (its, place, _), item in self.objects.items()
            if its == plural and namespace in (None, place) and _matches(item, query)
        ]

    def events(self, plural: str, namespace: str | None, query: Mapping[str, list[str]]) -> Iterator[Object | None]:
        """What a watch sends, for ever; None when the version that it wants to begin at is gone."""
        at = int(query["resourceVersion"][0])
        if at < self._oldest:
            yield None
            return
        while not self.over.is_set():
            with self._changed:
                new = [entry for entry in self._history if entry[0] > at]
                if not new:
                    self._changed.wait(20)
                    continue
            for version, type_, its, object_ in new:
                at = version
                place = object_["metadata"].get("namespace")
                if its == plural and namespace in (None, place) and _matches(object_, query):
                    yield {"type": type_, "object": object_}
                else:
                    yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}

    def delete(self, key: tuple[str, str, str], options: Any) -> tuple[int, Object]:
        self.deletions.append((f"{key[0]}/{key[2]}", options))
        object_ = self.objects[key]
        wanted = ((options or {}).get("preconditions") or {}).get("uid")
        if wanted and wanted != object_["metadata"]["uid"]:
            return 409, _status(409, "Conflict", "the UID in the precondition does not match")
        if object_["metadata"].get("finalizers"):
            self.put(key[0], key[2], namespace=key[1], metadata={"deletionTimestamp": "now"})
        else:
            self.remove(key[0], key[2], key[1])
        return 200, {"kind": "Status", "status": "Success"}


def await_true(holds: Callable[[], bool]) -> None:
    """Wait until something holds that another thread brings about."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    api: FakeApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: Any) -> None:
        """Not on stderr."""

    def do_GET(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        api = self.server.api
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        api.requests.append((time.monotonic(), self.command, self.path))
        if fault := api.fault_of(f"{self.command} {self.path}"):
            fault(self)
            return None
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/version":
            return self.answer(200, {"major": "1"})
        if url.path in api.discovery:
            return self.answer(200, api.discovery[url.path])
        found = PATH.fullmatch(url.path)
        if not found:
            return self.answer(404, _status(404, "NotFound", "the server could not find the requested resource"))
        plural, namespace, name = found["plural"], found["namespace"], found["name"]
        if found["log"]:
            return self._text(api.logs.get(f"{name}{' previous' if 'previous' in query else ''}"))
        if not name and "watch" in query:
            return self._watch(plural, namespace, query)
        if not name:
            items: list[Object] | None = api.selected(plural, namespace, query)
            if "as=PartialObjectMetadataList" in self.headers.get("Accept", ""):
                items = [{"metadata": item["metadata"]} for item in items or ()] or None  # as the real one
            return self.answer(200, {"metadata": {"resourceVersion": str(api._version)}, "items": items})
        key = (plural, namespace or "", name)
        if key not in api.objects:
            return self.answer(404, _status(404, "NotFound", f'{plural} "{name}" not found'))
        if self.command == "DELETE":
            return self.answer(*api.delete(key, body))
        return self.answer(200, api.objects[key])

    def answer(self, status: int, body: Any, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _text(self, text: str | None) -> None:
        if text is None:
            self.answer(400, _status(400, "BadRequest", "there is no such container"))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_event(self, event: Any) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.server.api.sent += 1

    def _watch(self, plural: str, namespace: str | None, query: Mapping[str, list[str]]) -> None:
        api = self.server.api
        self.close_connection = True
        self.begin_stream()
        api._streams.add(self.connection)
        try:
            for event in api.events(plural, namespace, query):
                if event is None:
                    self.send_event({"type": "ERROR", "object": _status(410, "Expired", "too old resource version")})
                    break
                self.send_event(event)
            self.wfile.write(b"0\r\n\r\n")
        finally:
            api._streams.discard(self.connection)


# -- what can go wrong --------------------------------------------------------------------------------------------


def status(code: int, reason: str = "", message: str = "", **headers: str) -> Fault:
    """An answer that is a failure."""
    return lambda handler: handler.answer(code, _status(code, reason, message or f"failure {code}"), **headers)


def plain(code: int, text: str) -> Fault:
    """What kubectl proxy says when it does not reach the API server."""

    def fault(handler: _Handler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text.encode())

    return fault


def reset(handler: _Handler) -> None:
    """The connection ends without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def silent(handler: _Handler) -> None:
    """Nothing comes, and the connection stays."""
    handler.close_connection = True
    handler.server.api.over.wait(60)


def garbage(handler: _Handler) -> None:
    """A success that is not JSON."""
    handler.send_response(200)
    handler.send_header("Content-Length", "13")
    handler.end_headers()
    handler.wfile.write(b"<html></html>")


def event(**told: Any) -> Fault:
    """A watch that brings one event and ends."""

    def fault(handler: _Handler) -> None:
        handler.close_connection = True
        handler.begin_stream()
        handler.send_event(told)
        handler.wfile.write(b"0\r\n\r\n")

    return fault


def opened_then_silent(handler: _Handler) -> None:
    """A watch that begins, and in which nothing ever comes."""
    handler.close_connection = True
    handler.begin_stream()
    handler.server.api.over.wait(60)


def closed(handler: _Handler) -> None:
    """A watch that ends at once, in peace."""
    handler.close_connection = True
    handler.begin_stream()
    handler.wfile.write(b"0\r\n\r\n")


def _status(code: int, reason: str, message: str) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}


def _aggregated() -> Any:
    return {"kind": "APIGroupDiscoveryList", "items": []}


def _matches(item: Object, query: Mapping[str, list[str]]) -> bool:
    meta = item["metadata"]
    labels = meta.get("labels") or {}
    wanted = [part.split("=") for part in query.get("labelSelector", [""])[0].split(",") if part]
    fields = [part.split("=") for part in query.get("fieldSelector", [""])[0].split(",") if part]
    known = {"metadata.name": meta["name"], "involvedObject.uid": (item.get("involvedObject") or {}).get("uid")}
    return all(labels.get(key) == value for key, value in wanted) and all(known[key] == value for key, value in fields)
