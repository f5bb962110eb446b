"""The engine `podman`: mutations are podman processes, observation goes through one `podman system service`.

podman runs Pods and Deployments (one Pod each) and feeds them ConfigMaps, Secrets and claims; it knows neither
namespaces nor controllers. The other `podman_*` modules have one part of it each.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from runner import shell
from runner.cluster import diagnosis, ownership, podman_diagnosis, podman_manifests
from runner.cluster.http import Api, ApiError, Unreachable
from runner.cluster.podman_backend import PodmanFarEnd
from runner.cluster.podman_dialect import (
    DEFAULT_NETWORK,
    NETWORK,
    POD_KINDS,
    VOLUME,
    PodmanDialect,
    kind_of,
    removal,
    remove_pods,
)
from runner.cluster.podman_manifests import MANIFEST_LABEL
from runner.cluster.podman_objects import ref_of
from runner.cluster.podman_observer import API, Live, Observer
from runner.cluster.podman_service import RemoteSocket, Service, cannot_start
from runner.cluster.protocol import (
    RUN_LABEL,
    Applied,
    Gone,
    Hand,
    Manifest,
    Object,
    Ref,
    RemovingHand,
    Selection,
    render,
)
from runner.deadline import Deadline
from runner.errors import Cancelled, CannotStart, CommandResult, RunnerError, StepFailed, TimedOut
from runner.journal import Undo
from runner.shell import Command

if TYPE_CHECKING:
    from runner.cluster.images import Builder

__all__ = ["Podman", "PodmanDialect", "removal", "start"]

HURRY_GRACE: Final = 1
_PLAYED: Final = ("Pod", "Deployment", "PersistentVolumeClaim")


def start(folder: Path, deadline: Deadline, sockets: Callable[[], str] = str) -> Podman:
    """The engine, once podman answers. Raises `CannotStart`; nothing is changed."""
    if not shell.find("podman"):
        raise CannotStart(
            "podman is not installed", hint="apt-get install podman catatonit, or brew install podman; or use a cluster"
        )
    remote = sys.platform != "linux" or bool(os.environ.get("CONTAINER_HOST") or os.environ.get("CONTAINER_CONNECTION"))
    service = RemoteSocket(deadline) if remote else Service(sockets())
    try:
        return Podman(service, deadline, folder.parent, remote=remote)
    except BaseException as error:
        service.close()
        if isinstance(error, (ApiError, Unreachable, OSError)):
            raise cannot_start(f"podman does not answer: {error}") from None
        raise


class Podman(Observer):
    """podman on this machine. Implements `protocol.Cluster`."""

    engine = "podman"
    context = "podman"
    server = ""

    def __init__(
        self, service: Service | RemoteSocket, deadline: Deadline, runs: Path, *, remote: bool = False
    ) -> None:
        super().__init__(Api(service.path))
        self._runs = runs
        self._told: set[str] = set()
        self.dialect = PodmanDialect()
        self.images: dict[str, str] = {}  # they are in podman's own store
        # Children of a run on podman see no cluster, which nobody proved to be local.
        self.environment: dict[str, str | None] = {"KUBECONFIG": os.devnull}
        self._service = service
        info = self.api.get(f"{API}/info", deadline)
        # Only a rootful podman on this very machine has Pods whose addresses can be reached from here.
        self.direct = not remote and not info["host"]["security"]["rootless"]

    def lend(self) -> Mapping[str, str | None]:
        return self.environment

    def close(self) -> None:
        self.api.close()
        self._service.close()

    # -- apply --------------------------------------------------------------------------------------------------

    def check(self, manifests: Sequence[Manifest]) -> tuple[list[str], list[str]]:
        """A warning is given once: files are checked before the run, and again with what only the run renders."""
        warnings, errors = podman_manifests.check(manifests)
        new = [words for words in dict.fromkeys(warnings) if words not in self._told]
        self._told.update(new)
        return new, errors

    def apply(
        self, manifests: Sequence[Manifest], namespace: str, hand: Hand, *, server_side: bool = False
    ) -> list[Applied]:
        warnings, errors = self.check(manifests)
        if errors:
            raise StepFailed("\n".join(errors), reason="engine")
        for words in warnings:
            hand.warn(words)
        named = [podman_manifests.named(manifest.object) for manifest in manifests]
        self.known.update({(item["kind"], item["metadata"]["name"]): item for item in named})
        planned = [self._plan(item, hand) for item in named]
        playing = [made for _, made in planned if made]
        records: dict[Ref, Undo] = {}
        if playing:
            self._make_volumes(playing, hand)
            network = self._network(playing, hand)
            records = {ref: hand.intend(ref) for ref, made in planned if made}
            file = render([*self._configs(playing), *playing], hand.folder)
            (command,) = self.dialect.apply((str(file),), namespace)
            self._play(command, {**network, **records}, hand)
            for ref in records:
                self._check_started(ref, hand)
        with Deadline(10) as deadline:
            found = [(ref, self.live(ref.kind, ref.name, deadline)) for ref, _ in planned]
        return [Applied(ref, live.uid if live else "", ref in records) for ref, live in found]

    def _plan(self, object_: Object, hand: Hand) -> tuple[Ref, Object | None]:
        """What podman gets for a manifest, or None when there is nothing to make; fails when podman runs something else
        under its name.
        """
        kind, name = object_["kind"], object_["metadata"]["name"]
        ref = Ref(kind, name, "", object_["apiVersion"])
        if kind not in _PLAYED:
            return ref, None
        live = self.live(kind, name, hand.deadline)
        if live:
            marked = ownership.of_labels(live.labels, live.uid)
            ownership.respect(ref, marked, self._runs, lambda: datetime.now(UTC), hand)
        if live and (kind not in POD_KINDS or _is_made_from(object_, live)):
            return ref, None
        if live:
            if live.labels.get(RUN_LABEL) != hand.run_id:
                raise _occupied(ref, live)
            hand.waiting(f"{ref} of before to end")
            self._delete(ref, live.uid, hand)
        return ref, podman_manifests.adapted(object_, hand.run_id, self.known, direct=self.direct)

    def _configs(self, playing: Iterable[Object]) -> list[Object]:
        """What Pods may want to have beside them."""
        if not any(made["kind"] in POD_KINDS for made in playing):
            return []
        wanted = (item for (kind, _), item in self.known.items() if kind in ("ConfigMap", "Secret"))
        return [podman_manifests.config_of(item) for item in wanted]

    def _network(self, playing: Sequence[Object], hand: Hand) -> dict[Ref, Undo]:
        """The network that podman is about to make, when there is none yet."""
        ref = Ref(NETWORK, DEFAULT_NETWORK)
        needed = any(made["kind"] in POD_KINDS for made in playing)
        return {ref: hand.intend(ref)} if needed and not self.live(NETWORK, DEFAULT_NETWORK, hand.deadline) else {}

    def _make_volumes(self, playing: Sequence[Object], hand: Hand) -> None:
        """Make the volumes that podman would make by itself, so that they carry the run's label."""
        declared = {made["metadata"]["name"] for made in playing if made["kind"] == "PersistentVolumeClaim"}
        needed = {name: claim for made in playing for name, claim in podman_manifests.needed_volumes(made)}
        for name, claim in needed.items():
            if name in declared:
                continue
            live = self.live(VOLUME, name, hand.deadline)
            if live is None:
                ref = Ref(VOLUME, name)
                label = f"--label={RUN_LABEL}={hand.run_id}"
                self._play(Command(("podman", "volume", "create", label, name)), {ref: hand.intend(ref)}, hand)
            elif not claim and RUN_LABEL not in live.labels:
                raise StepFailed(
                    f"there is a volume {name} of somebody else, where podman would write a ConfigMap",
                    hint=f"rename the ConfigMap, or remove the volume: podman volume rm {name}",
                    reason="AlreadyExists",
                )

    def _play(self, command: Command, records: Mapping[Ref, Undo], hand: Hand) -> None:
        """Execute what makes these objects, and write down which of them exist, also after a failure: a failed play
        leaves a Pod behind.
        """
        try:
            hand.execute(command)
        except (Cancelled, TimedOut):
            self._record(records, hand, final=False)
            raise
        except StepFailed as error:
            self._record(records, hand)
            raise podman_diagnosis.explained(error) from None
        self._record(records, hand)

    def _record(self, records: Mapping[Ref, Undo], hand: Hand, *, final: bool = True) -> None:
        """`final` is False when podman was killed: what it was just making may come to light later, by its label."""
        # Not the step's deadline: that may be over, and the journal must know what exists all the same.
        with Deadline(10) as deadline:
            for ref, record in records.items():
                live = self.live(ref.kind, ref.name, deadline)
                if live:
                    hand.made(record, live.uid)
                elif final:
                    hand.unmade(record)

    def _check_started(self, ref: Ref, hand: Hand) -> None:
        """`podman kube play` ends with 0 although a container could not be started."""
        for item in self._objects(Selection(ref.kind, (ref.name,)), hand.deadline):
            for status in item["status"].get("containerStatuses") or ():
                waiting = status["state"].get("waiting")
                ended = status["state"].get("terminated") or {}
                if waiting and waiting["reason"] in ("ContainerCreating", "RunContainerError"):
                    raise StepFailed(
                        f"{ref}: container {status['name']} was not started: {waiting['message'] or 'see below'}",
                        reason="RunContainerError",
                        details=self.explain([item], hand.deadline),
                    )
                if ended.get("exitCode"):
                    hand.warn(f"{ref}: container {status['name']} ended at once, with exit code {ended['exitCode']}")

    # -- delete and undo ----------------------------------------------------------------------------------------

    def delete(
        self, refs: Sequence[Ref], commands: Sequence[Command], hand: Hand, *, wait: bool, ignore_not_found: bool
    ) -> list[Ref]:
        existing: dict[Ref, str] = {}
        for ref in refs:
            kind = kind_of(ref.kind)
            live = self.live(kind, ref.name, hand.deadline)
            if live:
                existing[ref_of(kind, ref.name)] = live.uid
            elif self.known.pop((kind, ref.name), None) is None and not (
                ignore_not_found or kind in podman_manifests.IGNORED
            ):
                raise StepFailed(f"{ref} does not exist", reason="NotFound", hint="ignore_not_found: true allows that")
        # A command may name several objects, of which some are gone: what counts is what exists afterwards.
        for command in commands if existing else ():
            hand.execute(command, check=False)
        for ref, uid in existing.items():
            self._delete(ref, uid, hand)
            self.known.pop((ref.kind, ref.name), None)
        return list(existing)

    def _delete(self, ref: Ref, uid: str, hand: Hand) -> None:
        """See to it that an object is gone: commands name only a part of a file (its Pods, not its claims)."""
        failed = self._end(ref.kind, ref.name, uid, hand)
        if failed:
            raise StepFailed(f"{ref} was not deleted: {_why(failed)}", reason="podman", result=failed)
        hand.deleted(ref)

    def _end(
        self, kind: str, name: str, uid: str, hand: RemovingHand, grace: int | None = None
    ) -> CommandResult | None:
        """Remove exactly this object, if it is there: Pods by their id, volumes have only a name. Answers what podman
        said about one that it left.
        """
        pod = kind in POD_KINDS
        commands = remove_pods((uid,), grace) if pod else self.dialect.delete((Selection(kind, (name,)),), grace)
        result = None
        # Twice: a container that starts again at the wrong moment makes podman give up, and leaves a Pod without any.
        for _ in range(2):
            if not self.exists(kind, name, uid, hand.deadline):
                return None
            for command in commands:
                result = hand.execute(command, check=False)
        return result if self.exists(kind, name, uid, hand.deadline) else None

    def undo(self, records: Sequence[Undo], hand: RemovingHand, *, hurry: bool) -> Iterator[Gone]:
        grace = HURRY_GRACE if hurry else None
        ours: list[tuple[Undo, str]] = []
        for record in reversed(records):
            try:
                uid = self._ours(record, hand)
            except RunnerError as error:
                yield Gone(record, error.message)
                continue
            if uid:
                ours.append((record, uid))
            else:
                yield Gone(record)
        pods = [uid for record, uid in ours if record.kind in POD_KINDS]
        for command in remove_pods(pods, grace) if hurry and pods else ():
            hand.execute(command, check=False)
        for record, uid in ours:
            hand.waiting(f"{record} to end")
            try:
                left = self._end(record.kind, record.name, uid, hand, grace)
            except RunnerError as error:
                yield Gone(record, error.message)
                continue
            if left and record.kind == NETWORK and "being used" in left.stderr:  # by Pods of others
                yield Gone(record, stays=True)
                continue
            yield Gone(record, _why(left) if left else "")

    def what_outlived(self, gone: Sequence[Undo], deadline: Deadline) -> tuple[list[Gone], list[str]]:
        return [], []  # podman knows no owners

    def _ours(self, record: Undo, hand: RemovingHand) -> str:
        """The id of what must go; empty when it is gone, or when something else has the name."""
        live = self.live(record.kind, record.name, hand.deadline)
        if live is None:
            return ""
        # A network has no label; it was not there when the intent was written.
        marked = record.kind == NETWORK or live.labels.get(RUN_LABEL) == hand.run_id
        ours = live.uid == record.uid if record.uid else marked
        return live.uid if ours else ""

    # -- more ---------------------------------------------------------------------------------------------------

    def make_namespace(self, name: str, hand: Hand) -> None:
        """Nothing to make: podman has no namespaces."""

    def use_namespace(self, name: str) -> None:
        """Nothing to choose either: the run says that it is ignored, and stays in the one that all Pods share."""

    def events(self, namespace: str, name: str, deadline: Deadline) -> Iterator[list[Object]]:
        """Podman's own are of another kind; what they say is in the objects."""
        return iter(())

    def promises_status(self, object_: Object, deadline: Deadline) -> bool:
        return False

    def diagnose(
        self, objects: Sequence[Object], deadline: Deadline, blame: tuple[str, str] = ("", "")
    ) -> list[dict[str, Any]]:
        return podman_diagnosis.diagnose(objects, deadline, blame)

    def explain(self, objects: Sequence[Object], deadline: Deadline) -> str:
        return diagnosis.text(self.diagnose(objects, deadline))

    def far_end(self, target: Selection, ports: Sequence[str], via: str, local: str, hand: Hand) -> PodmanFarEnd:
        if via == "proxy":
            raise StepFailed("podman has no API server that passes requests on", hint="leave `via` out")
        return PodmanFarEnd(self, target, direct=self.direct)

    def load(self, image: str, archive: Path | None, hand: Hand, builder: Builder | None = None) -> str:
        from runner.cluster import podman_images

        return podman_images.load(image, archive, hand, builder)


def _is_made_from(object_: Object, live: Live) -> bool:
    """Whether a Pod was made from this very manifest, and started."""
    return live.labels.get(MANIFEST_LABEL) == podman_manifests.manifest_hash(object_) and live.status != "Created"


def _occupied(ref: Ref, live: Live) -> StepFailed:
    left = live.status == "Created"
    why = "exists, but was never started" if left else "exists already, and was not made from this manifest"
    hint = f"delete it in a step before (`delete: {ref}`), or now: podman pod rm --force {live.name}"
    return StepFailed(f"{ref} {why}; podman cannot change it", hint=hint, reason="AlreadyExists")


def _why(left: CommandResult) -> str:
    return podman_diagnosis.last_words(left.stderr) or "podman said that it did, but it is there"
