"""The engine `kubectl`: mutations are kubectl processes, observation goes through one kubectl proxy."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runner.cluster import applying, deletion, diagnosis, removal
from runner.cluster.http import Api
from runner.cluster.observer import Observer
from runner.cluster.patience import Patience, Report, quiet
from runner.cluster.protocol import (
    Applied,
    FarEnd,
    Gone,
    Hand,
    Manifest,
    Object,
    Ref,
    Selection,
    UndoingHand,
)
from runner.cluster.proxy import Proxy
from runner.deadline import Deadline
from runner.errors import CannotStart, RunnerError
from runner.journal import KUBECONFIG, STEPS, Undo
from runner.shell import Command

if TYPE_CHECKING:
    from runner.cluster.guard import Verdict
    from runner.cluster.images import Builder
    from runner.cluster.kubeconfig import Selected


_PATIENCE: Final = "--request-timeout=35s"
"""Of one request: without it kubectl waits for a connection that has gone silent as long as anybody lets it. An
admission webhook may take 30 s.
"""


class KubectlDialect:
    """The argv of kubectl. Pure."""

    engine = "kubectl"

    def apply(self, files: Sequence[str], namespace: str, *, server_side: bool = False) -> tuple[Command, ...]:
        side = ("--server-side",) if server_side else ()
        names = (f"--filename={file}" for file in files)
        return (Command(("kubectl", "apply", _PATIENCE, *side, *_namespaced(namespace), *names)),)

    def delete(
        self, selections: Sequence[Selection], grace: int | None, *, ignore_not_found: bool = True
    ) -> tuple[Command, ...]:
        return tuple(
            Command(
                (
                    "kubectl",
                    "delete",
                    _PATIENCE,
                    *_place(selection),
                    *_deleting(grace, ignore_not_found=ignore_not_found),
                )
            )
            for selection in selections
        )

    def delete_file(self, file: str, namespace: str, grace: int | None, *, ignore_not_found: bool = True) -> Command:
        flags = _deleting(grace, ignore_not_found=ignore_not_found)
        return Command(("kubectl", "delete", _PATIENCE, *_namespaced(namespace), f"--filename={file}", *flags))

    def describe(self, selection: Selection) -> Command:
        return Command(("kubectl", "describe", *_place(selection)))

    def wait(self, selection: Selection, until: str, timeout: int) -> tuple[str, ...]:
        kind, limit = selection.kind.lower().split(".")[0], f"--timeout={timeout}s"
        if until == "ready" and kind in _ROLLED_OUT:
            return _rollouts(selection, limit)
        if until == "ready" and kind in _REPLICATED and selection.names:
            return tuple(_replicated(selection.kind, name, selection.namespace, limit) for name in selection.names)
        known = {"ready": ready_condition, "complete": complete_condition}
        condition = known[until](selection.kind) if until in known else until
        if until == "ready" and kind in _SERVICES and selection.names:
            selection, condition = _endpoints(selection), "jsonpath={.endpoints[0].conditions.ready}=true"
        return (str(Command(("kubectl", "wait", *_place(selection), f"--for={condition}", limit))),)

    def forward(self, target: Selection, ports: Sequence[str], address: str) -> Command:
        return Command(
            (
                "kubectl",
                "port-forward",
                f"--address={address}",
                *_namespaced(target.namespace),
                f"{target.kind}/{target.names[0]}" if target.names else f"{target.kind}/…",
                *ports,
            )
        )


def complete_condition(kind: str) -> str:
    """What `kubectl wait --for=` calls the completion of a kind: a Job has a condition, a Pod a phase."""
    is_pod = kind.lower().split(".")[0] in ("pod", "pods", "po")
    return "jsonpath={.status.phase}=Succeeded" if is_pod else "condition=Complete"


# `Available` is true in the middle of a rollout, and no other condition says that it is over.
_ROLLED_OUT: Final = frozenset(
    {"deployment", "deployments", "deploy", "statefulset", "statefulsets", "sts", "daemonset", "daemonsets", "ds"}
)
_REPLICATED: Final = frozenset(
    {"replicaset", "replicasets", "rs", "replicationcontroller", "replicationcontrollers", "rc"}
)
_SERVICES: Final = frozenset({"service", "services", "svc"})
_READY_CONDITIONS: Final[Mapping[str, str]] = {
    "deployment deployments deploy apiservice apiservices": "condition=Available",
    "job jobs": "condition=Complete",
    "replicaset replicasets rs": "jsonpath={.status.availableReplicas}",
    "replicationcontroller replicationcontrollers rc": "jsonpath={.status.availableReplicas}",
    "crd crds customresourcedefinition customresourcedefinitions": "condition=Established",
    "persistentvolumeclaim persistentvolumeclaims pvc": "jsonpath={.status.phase}=Bound",
    "persistentvolume persistentvolumes pv": "jsonpath={.status.phase}",
    "namespace namespaces ns": "jsonpath={.status.phase}=Active",
    "ingress ingresses ing": "jsonpath={.status.loadBalancer.ingress}",
    "horizontalpodautoscaler horizontalpodautoscalers hpa": "condition=ScalingActive",
    "poddisruptionbudget poddisruptionbudgets pdb": "jsonpath={.status.observedGeneration}",
    # Kinds without a state are ready as soon as they exist.
    "configmap configmaps cm secret secrets serviceaccount serviceaccounts sa service services svc": "create",
    "role roles rolebinding rolebindings networkpolicy networkpolicies netpol": "create",
    "clusterrole clusterroles clusterrolebinding clusterrolebindings storageclass storageclasses sc": "create",
    "priorityclass priorityclasses pc ingressclass ingressclasses runtimeclass runtimeclasses": "create",
    "limitrange limitranges limits resourcequota resourcequotas quota lease leases": "create",
    "endpoints ep endpointslice endpointslices cronjob cronjobs cj": "create",
}
_READY_CONDITION: Final = {word: found for words, found in _READY_CONDITIONS.items() for word in words.split()}


def ready_condition(kind: str) -> str:
    """What `kubectl wait --for=` calls the readiness of a kind, or what comes next to it."""
    return _READY_CONDITION.get(kind.lower().split(".")[0], "condition=Ready")


def _rollouts(selection: Selection, limit: str) -> tuple[str, ...]:
    """One by one: older kubectl takes neither several names nor a selector."""
    status = ("kubectl", "rollout", "status")
    place = _namespaced(selection.namespace)
    if selection.names:
        each = (f"{selection.kind}/{name}" for name in selection.names)
        return tuple(str(Command((*status, one, *place, limit))) for one in each)
    names = Command(("kubectl", "get", *_place(selection), "--output=name"))
    return (f"{names} | {Command(('xargs', '-n1', *status, *place, limit))}",)


def _replicated(kind: str, name: str, namespace: str, limit: str) -> str:
    """As many as are wanted: kubectl compares a field with a text only, so the text is looked up."""
    one = (f"{kind}/{name}", *_namespaced(namespace))
    wanted = Command(("kubectl", "get", *one, "--output=jsonpath={.spec.replicas}"))
    return f'{Command(("kubectl", "wait", *one))} "--for=jsonpath={{.status.availableReplicas}}=$({wanted})" {limit}'


def _endpoints(services: Selection) -> Selection:
    """The EndpointSlices of Services, which say whether somebody answers behind them."""
    label = f"kubernetes.io/service-name in ({','.join(services.names)})"
    return Selection("endpointslice", selector=label, namespace=services.namespace)


def _place(selection: Selection) -> tuple[str, ...]:
    return (*_objects(selection), *_namespaced(selection.namespace))


def _namespaced(namespace: str) -> tuple[str, ...]:
    return (f"--namespace={namespace}",) if namespace else ()


def _deleting(grace: int | None, *, ignore_not_found: bool) -> tuple[str, ...]:
    period = () if grace is None else (f"--grace-period={grace}",)
    return (*period, *(("--ignore-not-found",) if ignore_not_found else ()), "--wait=false")


def _objects(selection: Selection) -> tuple[str, ...]:
    if selection.names:
        return tuple(f"{selection.kind}/{name}" for name in selection.names)
    return (selection.kind, f"--selector={selection.selector}")


class Kubectl(Observer):
    """A cluster behind a pinned kubeconfig. Implements `protocol.Cluster`."""

    engine = "kubectl"

    def __init__(self, selected: Selected, pinned: Path, sockets: str = "", report: Report = quiet) -> None:
        self.context = selected.context
        self.server = selected.server
        self.dialect = KubectlDialect()
        self.environment: dict[str, str | None] = {
            "KUBECONFIG": str(pinned),
            "KUBERC": "off",
            "KUBECTL_KUBERC": "false",
        }
        self.verdict: Verdict
        """Whether the cluster is local and how images reach its nodes; set by whoever judged it."""
        self.images: dict[str, str] = {}
        """The images that were made known to the nodes, with their ids."""
        self._pinned = pinned
        self._lent = pinned.parent / STEPS / KUBECONFIG
        self._lending = threading.Lock()
        self.runs = pinned.parent.parent
        """Where the runs of this machine are remembered."""
        self._proxy = Proxy(self.environment, sockets)
        look = f"is it running? kubectl --context={selected.context} get --raw=/readyz --request-timeout=5s"
        patience = Patience(selected.server, look, report)
        super().__init__(Api(self._proxy.path), patience, selected.namespace or "default")

    def settle(self, deadline: Deadline) -> None:
        """Find out whether the proxy starts; without it each look at the cluster is a kubectl process."""
        try:
            self._proxy.path(deadline)
        except CannotStart as error:
            from runner.cluster.raw import RawApi

            self.api.close()
            self.api = RawApi(self.environment)
            hint = "it works, but slower; kubectl proxy --unix-socket=/tmp/test.sock shows what is wrong"
            message = f"{error.message}; so every look at the cluster is a kubectl process of its own"
            self.patience.report("warning", message=message, hint=hint)

    def lend(self) -> Mapping[str, str | None]:
        with self._lending:
            if not self._lent.exists():
                self._lent.parent.mkdir(mode=0o700, exist_ok=True)
                self._lent.touch(mode=0o600)
                self._lent.write_bytes(self._pinned.read_bytes())
        return {**self.environment, "KUBECONFIG": str(self._lent)}

    # -- changing -----------------------------------------------------------------------------------------------

    def check(self, manifests: Sequence[Manifest]) -> tuple[list[str], list[str]]:
        return [], []

    def apply(
        self, manifests: Sequence[Manifest], namespace: str, hand: Hand, *, server_side: bool = False
    ) -> list[Applied]:
        return applying.apply(self, manifests, namespace, hand, server_side=server_side)

    def delete(
        self, refs: Sequence[Ref], commands: Sequence[Command], hand: Hand, *, wait: bool, ignore_not_found: bool
    ) -> list[Ref]:
        return removal.delete(self, refs, commands, hand, wait=wait, ignore_not_found=ignore_not_found)

    def make_namespace(self, name: str, hand: Hand) -> None:
        """Create a namespace of the run's own, and wait until Pods can be created in it."""
        object_ = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.apply([Manifest(object_, name, 1)], "", hand)
        hand.waiting(f"the service account of namespace {name}")
        accounts = Selection("serviceaccount", ("default",), namespace=name)
        for objects in self.watch(accounts, hand.deadline):
            if objects:
                return

    def use_namespace(self, name: str) -> None:
        """Make this the default, also for kubectl commands that a `run` step starts."""
        self.namespace = name
        config = json.loads(self._pinned.read_text())
        for context in config["contexts"]:
            context["context"]["namespace"] = name
        # In one go: the watchdog may need it at any moment.
        new = self._pinned.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(config))
        new.replace(self._pinned)
        with self._lending:
            self._lent.unlink(missing_ok=True)

    def undo(self, records: Sequence[Undo], hand: UndoingHand, *, hurry: bool) -> Iterator[Gone]:
        return deletion.undo(self, records, hand, hurry=hurry)

    def what_outlived(self, gone: Sequence[Undo], deadline: Deadline) -> tuple[list[Gone], list[str]]:
        return deletion.what_outlived(self, gone, deadline)

    # -- more ---------------------------------------------------------------------------------------------------

    def diagnose(
        self, objects: Sequence[Object], deadline: Deadline, blame: tuple[str, str] = ("", "")
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if not deadline.cancelled:
            with Deadline(3) as short, suppress(RunnerError):  # the step's own may be over
                found.extend(diagnosis.diagnose(self, objects, short, blame))
        return found

    def explain(self, objects: Sequence[Object], deadline: Deadline) -> str:
        return diagnosis.text(self.diagnose(objects, deadline))

    def far_end(self, target: Selection, ports: Sequence[str], via: str, local: str, hand: Hand) -> FarEnd:
        from runner.cluster import targets
        from runner.cluster.gateway import Gateway
        from runner.cluster.portforward import PortForward

        namespace = target.namespace or self.namespace
        if via == "port_forward":
            follower = targets.Follower(targets.pods(self, target, ports))
            return PortForward(follower, namespace, self.environment, local, hand)
        is_service = self.discovery.of_word(target.kind, hand.deadline).kind == "Service"
        follower = targets.Follower((targets.service if is_service else targets.pods)(self, target, ports))
        return Gateway(follower, namespace, self._proxy.path)

    def load(self, image: str, archive: Path | None, hand: Hand, builder: Builder | None = None) -> str:
        from runner.cluster import images

        return images.load(image, archive, self.verdict, hand, builder, self.images)

    def close(self) -> None:
        self.pulse.close()
        self.api.close()
        self._proxy.close()
