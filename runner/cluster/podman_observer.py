"""What podman has, in the shape of Kubernetes, and what happens to it; nothing is changed here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlencode

from runner.cluster.http import Api, ApiError, Unreachable
from runner.cluster.podman_dialect import NAMESPACE, NETWORK, POD_KINDS, VOLUME_KINDS, kind_of
from runner.cluster.podman_manifests import pod_template
from runner.cluster.podman_objects import (
    CRASHES,
    SETTLE_SECONDS,
    deployment_object,
    namespace_object,
    network_object,
    owner_of,
    pod_object,
    ref_of,
    settles,
    volume_object,
)
from runner.cluster.podman_selectors import matches
from runner.cluster.protocol import Object, Ref, Selection
from runner.deadline import Deadline
from runner.errors import StepFailed, TimedOut

API: Final = "/v4.0.0/libpod"
_LISTS: Final = ("/pods/json", "/volumes/json")


@dataclass(frozen=True, slots=True)
class Live:
    """What podman itself keeps for an object; `name` and `status` are podman's own, of the Pod."""

    uid: str
    labels: Mapping[str, str]
    name: str = ""
    status: str = ""


class Observer:
    """Asks podman's service. `known` is what this run applied and podman does not keep, by (kind, name): ConfigMaps for
    the Pods to come, Services for forwards, the specs of Pods.
    """

    def __init__(self, api: Api) -> None:
        self.api = api
        self.namespace = NAMESPACE
        self.known: dict[tuple[str, str], Object] = {}
        self._exits: dict[str, int] = {}

    def get(self, ref: Ref, deadline: Deadline) -> Object | None:
        return next(iter(self._objects(Selection(ref.kind, (ref.name,)), deadline)), None)

    def expand(self, selection: Selection, deadline: Deadline) -> list[Ref]:
        names: Iterable[str] = selection.names
        if not names:
            names = [item["metadata"]["name"] for item in self._objects(selection, deadline)]
        return [ref_of(kind_of(selection.kind), name) for name in names]

    def trouble(self) -> StepFailed | None:
        """Podman is a child of the run: when it does not answer its requests say so."""
        return None

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[Object]]:
        """Reads the state anew after each of podman's events; the events since just before are replayed, so that
        nothing is missed between the reading and the listening.
        """
        last: list[Object] | None = None
        query = urlencode({"stream": "true", "filters": json.dumps({"type": ["container", "pod", "volume"]})})
        while True:
            since = time.time() - 0.5
            settling = any(map(settles, last or ()))
            # No event says that a container stays up: then the state is read again when that is known.
            with deadline.child(SETTLE_SECONDS if settling else None) as part, suppress(TimedOut):
                for _ in self._events(f"{API}/events?{query}&since={since:.3f}", part):
                    objects = self._objects(selection, deadline)
                    if objects != last:
                        last = objects
                        yield objects
                    if any(map(settles, objects)) and not settling:
                        break
                else:
                    part.pause(0.1)  # the service ended: its path() starts it again
            deadline.check()

    def live(self, kind: str, name: str, deadline: Deadline) -> Live | None:
        """What podman keeps for an object; cheaper than the whole object."""
        if kind in POD_KINDS:
            for each, pod in self._pods(kind, deadline):
                if each == name:
                    return Live(pod["Id"], pod.get("Labels") or {}, pod["Name"], pod["Status"])
        elif kind in VOLUME_KINDS and (item := self._ask(f"/volumes/{quote(name)}/json", deadline)):
            return Live(item["CreatedAt"], item.get("Labels") or {})
        elif kind == NETWORK and (item := self._ask(f"/networks/{quote(name)}/json", deadline)):
            return Live(item["created"], item.get("labels") or {})
        return None

    def exists(self, kind: str, name: str, uid: str, deadline: Deadline) -> bool:
        live = self.live(kind, name, deadline)
        return live is not None and live.uid == uid

    def _objects(self, selection: Selection, deadline: Deadline) -> list[Object]:
        kind = kind_of(selection.kind)
        if kind in POD_KINDS:
            return [
                self._object(kind, name, pod, deadline)
                for name, pod in self._pods(kind, deadline)
                if _selects(selection, name, pod.get("Labels"))
            ]
        if kind in VOLUME_KINDS:
            found = [volume_object(kind, item) for item in self._ask("/volumes/json", deadline) or ()]
        elif kind in ("ConfigMap", "Secret", "Service"):
            found = [item for (known, _), item in self.known.items() if known == kind]
        elif kind == NETWORK:
            asked = (self._ask(f"/networks/{quote(name)}/json", deadline) for name in selection.names)
            found = [network_object(item) for item in asked if item]
        elif kind == "Namespace":
            found = [namespace_object(name) for name in selection.names]
        else:
            raise StepFailed(
                f"podman has no {selection.kind}",
                hint="it has pods, deployments, configmaps, secrets and persistentvolumeclaims",
                reason="kind",
            )
        return [item for item in found if _selects(selection, item["metadata"]["name"], item["metadata"].get("labels"))]

    def _pods(self, kind: str, deadline: Deadline) -> Iterator[tuple[str, Object]]:
        """What podman records of Pods, by their names or by those of the Deployments that they stand for."""
        for pod in self._ask("/pods/json", deadline) or ():
            if name := pod["Name"] if kind == "Pod" else owner_of(pod):
                yield name, pod

    def _object(self, kind: str, name: str, pod: Object, deadline: Deadline) -> Object:
        """A Pod or a Deployment, from podman's inspection of the containers."""
        owner = owner_of(pod)
        known = self.known.get(("Deployment", owner) if owner else ("Pod", pod["Name"]))
        spec: Object = (pod_template(known).get("spec") if known else None) or {}
        inits = {f"{pod['Name']}-{item['name']}" for item in spec.get("initContainers") or ()}
        infra: Object = {}
        containers = []
        for item in pod.get("Containers") or ():
            details = self._ask(f"/containers/{item['Id']}/json", deadline)
            if details is None:
                continue  # removed meanwhile; another event follows
            if item["Id"] == pod.get("InfraId"):
                infra = details
            elif details["Name"] not in inits:
                self._learn_exit(details, deadline)
                containers.append(details)
        object_ = pod_object(pod, containers, infra, spec, self._exits, self.namespace)
        return object_ if kind == "Pod" else deployment_object(name, object_)

    def _learn_exit(self, container: Object, deadline: Deadline) -> None:
        """Why a container was started again: its inspection forgets the exit code, podman's events keep it."""
        if container.get("RestartCount", 0) < CRASHES or container["Id"] in self._exits:
            return
        filters = json.dumps({"container": [container["Id"]], "event": ["died"]})
        past = {"stream": "false", "filters": filters, "since": f"{time.time() - 60:.3f}"}
        for _ in self._events(f"{API}/events?{urlencode(past)}", deadline):
            pass

    def _events(self, path: str, deadline: Deadline) -> Iterator[None]:
        """Once at the beginning, then after each event, until the service ends."""
        yield
        with suppress(Unreachable, ApiError):
            for event in self.api.stream(path, deadline):
                if event.get("Action") == "died":
                    code = event["Actor"]["Attributes"].get("containerExitCode", "0")
                    self._exits[event["Actor"]["ID"]] = int(code)
                yield

    def _ask(self, path: str, deadline: Deadline) -> Any:
        """Ask again after a connection that was cut, until the deadline; None for what does not exist."""
        pause = 0.05
        while True:
            try:
                return self.api.get(API + path, deadline)
            except Unreachable:
                pass
            except ApiError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return None
                # What is just being removed is a 500; a list that stumbled over it is asked for again.
                if "no such" not in error.message:
                    raise StepFailed(f"podman: {error.message}", reason="podman") from None
                if path not in _LISTS:
                    return None
            deadline.pause(pause)
            pause = min(2.0, pause * 2)


def _selects(selection: Selection, name: str, labels: Mapping[str, str] | None) -> bool:
    return (not selection.names or name in selection.names) and matches(selection.selector, labels or {})
