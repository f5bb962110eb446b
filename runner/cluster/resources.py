"""What a kind is to the API server: its group, its plural, its scope; and the kinds that every cluster has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final


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
    return next((resource for resource in BUILTIN if means(word.lower(), resource)), None)


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


def means(word: str, resource: Resource) -> bool:
    """Whether a word, in lower case, is one for a resource: `po`, `pods`, `pod`, `deployments.apps`."""
    name, _, group = word.partition(".")
    if group and group not in (resource.group, f"{resource.group_version.rpartition('/')[2]}.{resource.group}"):
        return False
    return name in (resource.kind.lower(), resource.plural, *resource.short)
