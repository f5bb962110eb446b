"""From a kind, as a manifest or a person spells it, to the resource that the API server serves.

Kinds that every cluster has stand in a table (no request); all others are asked for once (aggregated discovery).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import Any, Final

from runner.cluster.http import ApiError
from runner.deadline import Deadline
from runner.errors import StepFailed, TimedOut

# GETs a path with headers, and answers the parsed JSON.
Fetch = Callable[[str, Deadline, Mapping[str, str] | None], Any]

_GROUP_SECONDS: Final = 3.0
_AGGREGATED: Final = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"}


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource type: `group_version` is `v1` or `apps/v1`."""

    group_version: str
    kind: str
    plural: str
    namespaced: bool
    short: tuple[str, ...] = ()
    status: bool = False
    """Whether it has the subresource `status`; known of resources that were asked for."""
    listable: bool = True

    @property
    def group(self) -> str:
        return self.group_version.rpartition("/")[0]

    @property
    def argument(self) -> str:
        """How kubectl is told about it without ambiguity: `pod`, `deployment.apps`."""
        return self.kind.lower() + (f".{self.group}" if self.group else "")

    def path(self, namespace: str = "", name: str = "") -> str:
        """The URL path of the collection or of one object."""
        root = f"/apis/{self.group_version}" if "/" in self.group_version else f"/api/{self.group_version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")


# group/version, whether namespaced, and `Kind:plural[:short,short]` for each.
_TABLE: Final = (
    ("v1", True, """
        Pod:pods:po Service:services:svc ConfigMap:configmaps:cm Secret:secrets ServiceAccount:serviceaccounts:sa
        PersistentVolumeClaim:persistentvolumeclaims:pvc ReplicationController:replicationcontrollers:rc
        Endpoints:endpoints:ep Event:events:ev LimitRange:limitranges:limits ResourceQuota:resourcequotas:quota"""),
    ("v1", False, "Namespace:namespaces:ns Node:nodes:no PersistentVolume:persistentvolumes:pv"),
    ("apps/v1", True, """
        Deployment:deployments:deploy ReplicaSet:replicasets:rs StatefulSet:statefulsets:sts DaemonSet:daemonsets:ds
        ControllerRevision:controllerrevisions"""),
    ("batch/v1", True, "Job:jobs CronJob:cronjobs:cj"),
    ("networking.k8s.io/v1", True, "Ingress:ingresses:ing NetworkPolicy:networkpolicies:netpol"),
    ("discovery.k8s.io/v1", True, "EndpointSlice:endpointslices"),
    ("rbac.authorization.k8s.io/v1", True, "Role:roles RoleBinding:rolebindings"),
    ("rbac.authorization.k8s.io/v1", False, "ClusterRole:clusterroles ClusterRoleBinding:clusterrolebindings"),
    ("storage.k8s.io/v1", False, "StorageClass:storageclasses:sc"),
    ("apiextensions.k8s.io/v1", False, "CustomResourceDefinition:customresourcedefinitions:crd,crds"),
    ("policy/v1", True, "PodDisruptionBudget:poddisruptionbudgets:pdb"),
    ("autoscaling/v2", True, "HorizontalPodAutoscaler:horizontalpodautoscalers:hpa"),
)  # fmt: skip


def _builtin() -> Iterator[Resource]:
    for group_version, namespaced, rows in _TABLE:
        for row in rows.split():
            kind, plural, short = (*row.split(":"), "")[:3]
            yield Resource(group_version, kind, plural, namespaced, tuple(short.split(",")) if short else ())


_VERY_NEAR: Final = 0.85
_NAME: Final = re.compile(r"[a-z0-9](?:[-.a-z0-9]*[a-z0-9])?")

BUILTIN: Final = tuple(_builtin())


def builtin(word: str) -> Resource | None:
    """The resource of every cluster that a person means by a word."""
    return next((resource for resource in BUILTIN if _means(word.lower(), resource)), None)


def builtin_meant(word: str) -> Resource | None:
    """The resource of every cluster whose name a word nearly has; custom resources may have any kind, so it must be
    very near.
    """
    names = {name.lower(): resource for resource in BUILTIN for name in (resource.kind, resource.plural)}
    close = get_close_matches(word.lower(), names, n=1, cutoff=_VERY_NEAR)
    return names[close[0]] if close else None


def impossible_name(kind: str, name: str) -> str:
    """A sentence when no object of a kind of every cluster can have this name."""
    found = builtin(kind)
    if found is None or found.group == "rbac.authorization.k8s.io" or _NAME.fullmatch(name):
        return ""
    return f"{name!r} cannot be the name of a {found.kind}: names have a-z, 0-9, - and . only"


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
                if _means(word.lower(), resource):
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


def _means(word: str, resource: Resource) -> bool:
    name, _, group = word.partition(".")
    if group and group not in (resource.group, f"{resource.group_version.rpartition('/')[2]}.{resource.group}"):
        return False
    return name in (resource.kind.lower(), resource.plural, *resource.short)


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
