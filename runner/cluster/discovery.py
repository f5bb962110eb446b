"""From a kind, as a manifest or a person spells it, to the resource that the API server serves.

Kinds that every cluster has stand in a table (no request); all others are asked for once (aggregated discovery).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import chain
from typing import Any, Final

from runner.cluster.http import ApiError
from runner.cluster.resources import BUILTIN, Resource, means
from runner.deadline import Deadline
from runner.errors import StepFailed, TimedOut

# GETs a path with headers, and answers the parsed JSON.
Fetch = Callable[[str, Deadline, Mapping[str, str] | None], Any]

_GROUP_SECONDS: Final = 3.0
_AGGREGATED: Final = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"}


class Discovery:
    """The resources of one cluster."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._served: tuple[Resource, ...] | None = None

    def of_manifest(self, api_version: str, kind: str, deadline: Deadline) -> Resource:
        """The resource of an object with this apiVersion and kind. Raises `StepFailed` when it is not served."""
        for resources in chain((BUILTIN,), self._asked(deadline)):
            for resource in resources:
                if resource.group_version == api_version and resource.kind == kind:
                    return resource
        raise StepFailed(
            f"the cluster knows no kind {kind} in {api_version}",
            hint=self._manifest_hint(api_version, kind),
            reason="NoKindMatch",
        )

    def of_word(self, word: str, deadline: Deadline) -> Resource:
        """The resource that a person means by `po`, `pods`, `Pod` or `deployments.apps`. Raises `StepFailed`."""
        for resources in chain((BUILTIN,), self._asked(deadline)):
            for resource in resources:
                if means(word.lower(), resource):
                    return resource
        raise StepFailed(f"the cluster knows no kind {word!r}", hint=self._kind_hint(word), reason="NoKindMatch")

    def listed(self, deadline: Deadline) -> tuple[Resource, ...]:
        """All resources that are served, each in the version that the server prefers."""
        served: dict[tuple[str, str], Resource] = {}
        for item in next(self._asked(deadline)):
            served.setdefault((item.group, item.plural), item)
        return tuple(served.values())

    def forget(self) -> None:
        """Ask again next time: a CustomResourceDefinition was applied."""
        with self._lock:
            self._served = None

    def _asked(self, deadline: Deadline) -> Iterator[tuple[Resource, ...]]:
        """The served resources, asked for only when the table did not have the answer; once more if that was old."""
        with self._lock:
            fresh = self._served is None
            if self._served is None:
                self._served = tuple(self._ask(deadline))
        yield self._served
        if not fresh:
            with self._lock:
                self._served = tuple(self._ask(deadline))
            yield self._served

    def _ask(self, deadline: Deadline) -> Iterator[Resource]:
        for root in ("/api", "/apis"):
            answer = self._fetch(root, deadline, _AGGREGATED)
            if answer.get("kind") == "APIGroupDiscoveryList":
                yield from _aggregated(answer)
            else:
                yield from self._one_by_one(root, answer, deadline)

    def _one_by_one(self, root: str, answer: Any, deadline: Deadline) -> Iterator[Resource]:
        """Servers before 1.26 have no aggregated discovery."""
        versions = answer.get("versions") or [
            version["groupVersion"] for group in answer.get("groups", ()) for version in group["versions"]
        ]
        for version in versions:
            try:
                with deadline.child(_GROUP_SECONDS) as briefly:
                    found = self._fetch(f"{root}/{version}", briefly, None)
            except (ApiError, TimedOut):
                deadline.check()
                continue  # an APIService whose backend is away must not hide all others
            names = {item["name"] for item in found.get("resources", ())}
            for item in found.get("resources", ()):
                if "/" not in item["name"]:
                    yield Resource(
                        version,
                        item["kind"],
                        item["name"],
                        item["namespaced"],
                        tuple(item.get("shortNames", ())),
                        f"{item['name']}/status" in names,
                        "list" in item.get("verbs", ("list",)),
                    )

    def _manifest_hint(self, api_version: str, kind: str) -> str:
        """A manifest has kinds as the API server has them, and no other words for them."""
        versions = dict.fromkeys(item.group_version for item in self._known() if item.kind == kind)
        if versions:
            return f"write {' or '.join(f'`apiVersion: {version}`' for version in versions)}"
        kinds = {item.kind.lower(): item for item in self._known()}
        close = get_close_matches(kind.lower(), kinds, n=1, cutoff=0.6)
        if not close:
            return "apply its CustomResourceDefinition first"
        meant = kinds[close[0]]
        place = "" if meant.group_version == api_version else f" (`apiVersion: {meant.group_version}`)"
        return f"did you mean {meant.kind}{place}?"

    def _known(self) -> tuple[Resource, ...]:
        return (*BUILTIN, *(self._served or ()))

    def _kind_hint(self, word: str) -> str:
        names = {name for resource in self._known() for name in (resource.kind, resource.plural, *resource.short)}
        lowered = {name.lower(): name for name in names}
        close = get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
        return f"did you mean {lowered[close[0]]}?" if close else ""


def _aggregated(answer: Any) -> Iterable[Resource]:
    for group in answer["items"]:
        name = group["metadata"].get("name", "")
        for version in group["versions"]:
            group_version = f"{name}/{version['version']}" if name else version["version"]
            for item in version.get("resources", ()):
                yield Resource(
                    group_version,
                    item["responseKind"]["kind"],
                    item["resource"],
                    item["scope"] == "Namespaced",
                    tuple(item.get("shortNames", ())),
                    any(each.get("subresource") == "status" for each in item.get("subresources", ())),
                    "list" in item.get("verbs", ("list",)),
                )
