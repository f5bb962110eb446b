"""Looking at a cluster through its API: objects as they are now, and everything that changes, whatever happens to the
connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

from runner import confidential, masking
from runner.cluster.discovery import Discovery
from runner.cluster.http import Api, ApiError, Unreachable
from runner.cluster.patience import Attempts, Patience
from runner.cluster.protocol import Object, Ref, Selection, custom_group
from runner.cluster.pulse import Pulse
from runner.cluster.resources import BUILTIN, Resource
from runner.deadline import Deadline
from runner.errors import Cancelled, Expired, RunnerError, StepFailed

PROBE: Final = "/version"
_PROBE_SECONDS: Final = 2.0
_VISIT_SECONDS: Final = 1.0
_FORGOTTEN: Final = frozenset({HTTPStatus.GONE, HTTPStatus.GATEWAY_TIMEOUT})
"""Answers of a server that cannot go on from a version: too old for it, or (after a restart) not reached yet."""


class Observer:
    """The looking half of `protocol.Cluster`. Every request is repeated by the rules of `patience`, and ends with the
    deadline of whoever asks.
    """

    def __init__(self, api: Api, patience: Patience, namespace: str) -> None:
        self.api = api
        self.patience = patience
        self.namespace = namespace
        self.discovery = Discovery(self._fetch)
        self._visited: set[tuple[str, str, str]] = set()
        """The kinds and namespaces of which the user knows that they are only got."""
        self.pulse = Pulse(lambda deadline: self.api.get(PROBE, deadline))

    def patiently(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer to a request that may be sent twice. Raises `ApiError` and `Unreachable` for what does not heal,
        and the deadline's exceptions.
        """
        return self.patience.ask(
            f"{method} {path.partition('?')[0]}",
            lambda within: self.api.request(method, path, deadline, body, headers, within),
            deadline,
        )

    def _fetch(self, path: str, deadline: Deadline, headers: Mapping[str, str] | None = None) -> Any:
        return self.patiently("GET", path, deadline, headers=headers)

    def trouble(self) -> StepFailed | None:
        """Whether the API server is not there now: the sentence and the hint for whoever waited in vain."""
        with Deadline(_PROBE_SECONDS) as deadline:
            try:
                self.api.get(PROBE, deadline)
            except ApiError as error:
                return self.patience.verdict(error) if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
            except Unreachable as error:
                return self.patience.verdict(error)
            except RunnerError:
                return self.patience.verdict(Unreachable(f"no answer within {_PROBE_SECONDS:g} s", reason="no answer"))
        return None

    def resource(self, ref: Ref, deadline: Deadline) -> Resource:
        if ref.api_version:
            return self.discovery.of_manifest(ref.api_version, ref.kind, deadline)
        return self.discovery.of_word(ref.kind, deadline)

    def nodes(self, deadline: Deadline) -> list[Object]:
        items: list[Object] = self.patiently("GET", "/api/v1/nodes", deadline)["items"]
        return items

    def get(self, ref: Ref, deadline: Deadline) -> Object | None:
        return self.find(self.resource(ref, deadline), ref.namespace or self.namespace, ref.name, deadline)

    def find(self, resource: Resource, namespace: str, name: str, deadline: Deadline) -> Object | None:
        """One object, or None."""
        try:
            found = _completed(self.patiently("GET", resource.path(namespace, quote(name)), deadline), resource)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise _failure(f"{resource.kind.lower()}/{name}", error) from None
        return found

    def look(self, resource: Resource, namespace: str, name: str, deadline: Deadline) -> tuple[Object | None, str]:
        """One object, or None, and the API server's version at which that was so (empty for who may not list)."""
        path = _with_query(resource.path(namespace), {"fieldSelector": f"metadata.name={name}"})
        try:
            answer = self.patiently("GET", path, deadline)
        except ApiError:
            return self.find(resource, namespace, name, deadline), ""
        found = next((_completed(item, resource) for item in answer["items"]), None)
        return found, str(answer["metadata"]["resourceVersion"])

    def objects(self, resource: Resource, namespace: str, deadline: Deadline, **query: str) -> list[Object]:
        """Objects of a resource; items get the kind and apiVersion that lists leave out."""
        answer = self.patiently("GET", _with_query(resource.path(namespace), query), deadline)
        return [_completed(item, resource) for item in answer["items"]]

    def expand(self, selection: Selection, deadline: Deadline) -> list[Ref]:
        resource = self.discovery.of_word(selection.kind, deadline)
        namespace = (selection.namespace or self.namespace) if resource.namespaced else ""
        names = selection.names or tuple(
            item["metadata"]["name"]
            for item in self.objects(resource, namespace, deadline, labelSelector=selection.selector)
        )
        return [Ref(resource.kind, name, namespace, resource.group_version) for name in names]

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[Object]]:
        resource = self.discovery.of_word(selection.kind, deadline)
        namespace = selection.namespace or self.namespace
        query = {}
        if selection.selector:
            query["labelSelector"] = selection.selector
        elif len(selection.names) == 1:
            query["fieldSelector"] = f"metadata.name={selection.names[0]}"
        wanted = frozenset(selection.names)
        for objects in self.observe(resource, namespace, query, deadline, selection.names):
            yield [item for item in objects if not wanted or item["metadata"]["name"] in wanted]

    def events(self, namespace: str, name: str, deadline: Deadline) -> Iterator[list[Object]]:
        query = {"fieldSelector": f"involvedObject.name={name}"} if name else {}
        return self.observe(self.discovery.of_word("event", deadline), namespace, query, deadline)

    def promises_status(self, object_: Object, deadline: Deadline) -> bool:
        if not custom_group(object_):
            return False
        return self.discovery.of_manifest(object_["apiVersion"], object_["kind"], deadline).status

    def observe(
        self,
        resource: Resource,
        namespace: str,
        query: Mapping[str, str],
        deadline: Deadline,
        names: Sequence[str] = (),
    ) -> Iterator[list[Object]]:
        """All objects that match, now and after every change. `names` are theirs where these are known: an account that
        may neither list nor watch, only get, looks at them one by one.
        """
        try:
            yield from self._watch(resource, namespace, query, deadline)
        except ApiError as error:
            if error.status != HTTPStatus.FORBIDDEN or not names:
                raise _not_watched(resource, namespace, error) from None
            refusal = error
        yield from self._visit(resource, namespace, names, refusal, deadline)

    def _visit(
        self, resource: Resource, namespace: str, names: Sequence[str], refusal: ApiError, deadline: Deadline
    ) -> Iterator[list[Object]]:
        """To an account that may only get, nobody tells of a change: this asks in a loop."""
        last = None
        while True:
            try:
                found = [self.find(resource, namespace, name, deadline) for name in names]
            except StepFailed as error:
                raise _not_watched(resource, namespace, refusal) if error.reason == "Forbidden" else error from None
            if last is None and (kind := (resource.group_version, resource.plural, namespace)) not in self._visited:
                self._visited.add(kind)
                what = f"this account may get {resource.plural}, but not list and watch them: it looks once a second"
                hint = f"with `list` and `watch` of {resource.plural} it sees each change at once"
                self.patience.report("warning", message=what, hint=hint)
            objects = [item for item in found if item]
            state = [(item["metadata"]["uid"], item["metadata"].get("resourceVersion")) for item in objects]
            if state != last:
                last = state
                yield objects
            deadline.pause(_VISIT_SECONDS)

    def _watch(
        self, resource: Resource, namespace: str, query: Mapping[str, str], deadline: Deadline
    ) -> Iterator[list[Object]]:
        """A watch that is lost goes on where it was, or, when the server does not know that place any more, from a new
        list: nothing is missed, and nothing is asked in a loop.
        """
        path = resource.path(namespace)
        attempts = self.patience.attempts(f"watch {path}", deadline)
        while True:
            try:
                answer = self.patiently("GET", _with_query(path, query), deadline)
            except ApiError as error:
                if error.status != HTTPStatus.NOT_FOUND or resource in BUILTIN:
                    raise
                yield []  # its definition went, and all its objects with it; both may come again
                deadline.pause(_VISIT_SECONDS)
                continue
            objects = {item["metadata"]["uid"]: _completed(item, resource) for item in answer["items"]}
            yield list(objects.values())
            place = _Place(answer["metadata"]["resourceVersion"])
            while place.version:
                for event in self._events(path, query, place, attempts, deadline):
                    if event["type"] == "DELETED":
                        objects.pop(event["object"]["metadata"]["uid"], None)
                    else:
                        objects[event["object"]["metadata"]["uid"]] = _completed(event["object"], resource)
                    yield list(objects.values())

    def _events(
        self, path: str, query: Mapping[str, str], place: _Place, attempts: Attempts, deadline: Deadline
    ) -> Iterator[Any]:
        """What changed since `place`, until the watch ends; then, after a pause, it can be called again. `place` has no
        version any more when the server forgot it.
        """
        follow = {**query, "watch": "1", "allowWatchBookmarks": "true", "resourceVersion": place.version}
        within = attempts.begin()
        with self.pulse.listening(deadline) as ear:
            try:
                for event in self.api.stream(_with_query(path, follow), ear.life, within, attempts.answered):
                    ear.hears()
                    if event["type"] == "ERROR":
                        raise _told(event["object"])
                    place.version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event
                attempts.ended()
            except Cancelled:
                if deadline.cancelled:
                    raise
                attempts.failed(Unreachable(ear.life.reason or "", reason="no answer"))
            except (Expired, Unreachable) as error:
                attempts.failed(error)
            except ApiError as error:
                if error.status in _FORGOTTEN:
                    place.version = ""
                if error.status == HTTPStatus.NOT_FOUND:
                    place.version = ""  # a new list will tell
                    return
                attempts.failed(error)


class _Place:
    """How far a watch has come."""

    def __init__(self, version: str) -> None:
        self.version = version


def _told(status: Object) -> ApiError:
    """The error that a watch brings as an event."""
    return ApiError(status.get("code", 0), status.get("reason", ""), status.get("message", ""))


def _with_query(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _completed(item: Object, resource: Resource) -> Object:
    completed = {"apiVersion": resource.group_version, "kind": resource.kind, **item}
    masking.hide(confidential.of_object(completed))
    return completed


def _not_watched(resource: Resource, namespace: str, error: ApiError) -> StepFailed:
    failure = _failure(resource.plural, error)
    if error.status == HTTPStatus.FORBIDDEN:
        place = f" --namespace={namespace}" if resource.namespaced else ""
        failure.hint = (
            f"ask for `get`, `list` and `watch` of {resource.plural} (of an object that is named `get` suffices); "
            f"what this account may do: kubectl auth can-i --list{place}"
        )
    return failure


def _failure(what: str, error: ApiError) -> StepFailed:
    return StepFailed(f"{what}: {error.message}", reason=error.reason, hint=error.hint)
