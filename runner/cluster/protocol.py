"""What steps talk to: the records and the one protocol that `kubectl.py` and `podman.py` implement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runner.errors import StepFailed

if TYPE_CHECKING:
    import socket

    from runner.cluster.images import Builder
    from runner.deadline import Deadline
    from runner.errors import CommandResult
    from runner.journal import Dependent, Undo
    from runner.shell import Command

# An object as the API server (or a manifest) spells it.
Object = dict[str, Any]

# The label that says which run made an object.
RUN_LABEL = "runner/run-id"


def name_suffix() -> str:
    """Five characters, as the API server appends to generateName; chosen here, so that the name can be journalled."""
    import secrets
    import string

    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(5))


def custom_group(object_: Object) -> str:
    """The API group of an object that is a custom resource; empty for one of Kubernetes itself."""
    group = str(object_.get("apiVersion") or "").rpartition("/")[0]
    return group if "." in group and not group.endswith(".k8s.io") else ""


def kind_word(object_: Object) -> str:
    """Its kind as kubectl takes it: that of a custom resource with its group, for others may have the same."""
    kind, group = str(object_["kind"]).lower(), custom_group(object_)
    return f"{kind}.{group}" if group else kind


def selector_of(labels: Mapping[str, str]) -> str:
    """Labels as a selector: `app=web,tier=db`."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def render(objects: Iterable[Object], folder: Path) -> Path:
    """The objects as one private file: documents of JSON, which is YAML."""
    file = folder / "manifests.yaml"
    file.touch(mode=0o600)
    file.write_text("".join(f"---\n{json.dumps(object_, indent=1, default=str)}\n" for object_ in objects))
    return file


@dataclass(frozen=True, slots=True)
class Ref:
    """One object. `kind` is as the user wrote it (`pod`, `po`, `Pod`); `api_version` is known from manifests only."""

    kind: str
    name: str
    namespace: str = ""
    api_version: str = ""

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Objects of one kind: those with these names, or all that a label selector matches."""

    kind: str
    names: tuple[str, ...] = ()
    selector: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        if self.names:
            return ", ".join(f"{self.kind}/{name}" for name in self.names)
        return f"{self.kind} -l {self.selector}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One Kubernetes object from a file, with the place where it stands (`workflows/app/pod.yaml:1`)."""

    object: Object
    file: str
    line: int

    @property
    def ref(self) -> Ref:
        meta = self.object.get("metadata") or {}
        name = str(meta.get("name") or "")
        return Ref(self.object["kind"], name, meta.get("namespace") or "", self.object["apiVersion"])


@dataclass(frozen=True, slots=True)
class Applied:
    """An object after `apply`: `created` when it was absent before, so that it is ours to delete."""

    ref: Ref
    uid: str
    created: bool


@dataclass(frozen=True, slots=True)
class Gone:
    """What came of undoing one record: `why` is empty when the object and its dependents are gone, `found` whether
    there was anything to remove, `hopeless` that trying again cannot help.
    """

    record: Undo
    why: str = ""
    found: bool = True
    hopeless: bool = False
    rest: tuple[Dependent, ...] = ()
    """What is still there, where that is not the object itself."""
    hint: str = ""
    """What to type where deleting it once more does not help."""
    replaced: bool = False
    """Whether the name belongs to another object by now, which is left."""
    stays: bool = False
    """Whether it is left, because others use it by now."""


class RemovingHand(Protocol):
    """What a cluster needs from whoever removes objects."""

    run_id: str

    @property
    def deadline(self) -> Deadline: ...

    def execute(self, command: Command, *, check: bool = True) -> CommandResult:
        """Run a child with the step's environment, logged; with `check`, a non-zero code raises `StepFailed`."""

    def waiting(self, what: str, seconds: float = 0.0) -> None:
        """Say what is waited for; repeated calls with the same words are free, unless it has lasted `seconds`."""


class UndoingHand(RemovingHand, Protocol):
    """What a cluster needs from whoever undoes a run."""

    def depends(self, record: Undo, more: Iterable[Dependent]) -> None:
        """Journal what must go with an object, before its deletion."""


class Hand(RemovingHand, Protocol):
    """What a cluster needs from the step on whose behalf it acts; `steps.kind.Context` is one."""

    allowed: frozenset[str]
    """What the workflow says in `cluster.allow`."""

    lifetime: float
    """How many seconds from now on the run can be alive at most; 0 for what is to be kept."""

    @property
    def folder(self) -> Path:
        """A private folder of the step, for rendered files; it exists."""

    def warn(self, message: str, *, hint: str = "") -> None:
        """A line that the user should read, although nothing failed."""

    def note(self, message: str) -> None:
        """A line about what was done, for who wants to know."""

    def intend(self, ref: Ref) -> Undo:
        """Journal an object that is about to be made; answers the record for `made`."""

    def made(self, record: Undo, uid: str) -> None: ...

    def unmade(self, record: Undo) -> None:
        """It was not made after all."""

    def emit(self, event: str, /, **fields: Any) -> None:
        """An event of the step's, such as `forward restarted`; any thread."""

    def deleted(self, ref: Ref) -> None:
        """A step deleted this object and saw it gone: it needs no undoing any more, if it was ours."""


class Dialect(Protocol):
    """The argv of an engine: pure functions, shared by `plan` and `run`, so that a plan cannot lie.

    Namespaces may be empty: then the engine's own default holds and no flag is written.
    """

    engine: str

    def apply(self, files: Sequence[str], namespace: str, *, server_side: bool = False) -> tuple[Command, ...]: ...

    def delete(
        self, selections: Sequence[Selection], grace: int | None, *, ignore_not_found: bool = True
    ) -> tuple[Command, ...]: ...

    def delete_file(
        self, file: str, namespace: str, grace: int | None, *, ignore_not_found: bool = True
    ) -> Command: ...

    def describe(self, selection: Selection) -> Command:
        """What a person types to see the state of objects."""

    def wait(self, selection: Selection, until: str, timeout: int) -> tuple[str, ...]:
        """The lines of a shell that a `wait` stands for. `until` is `ready`, `complete`, `delete`, `create`, or what
        kubectl calls it.
        """

    def forward(self, target: Selection, ports: Sequence[str], address: str) -> Command:
        """The line that a `forward` stands for."""


class FarEnd(Protocol):
    """The far end of a forward: the ports of a target, wherever it runs now. Ports are named as the user wrote them."""

    def await_answer(self, ports: Sequence[str], hand: Hand) -> str:
        """Return when all these ports answer, with the place where (`pod/web-1`). Says to the hand what it waits for;
        raises `TimedOut`, `Cancelled`, or `StepFailed` when they never will.
        """

    def serve(self, port: str, client: socket.socket, life: Deadline) -> None:
        """Carry one local connection to its end, or to that of `life`."""

    def close(self) -> None: ...


class Cluster(Protocol):
    """A place where manifests run. Methods block until the hand's (or the given) deadline and raise its exceptions;
    what cannot succeed raises `StepFailed` with the sentence, the hint and the details that a reader needs.
    """

    engine: str
    """`kubectl` or `podman`."""
    context: str
    server: str
    """The URL of the API server; empty for podman."""
    namespace: str
    """The namespace that holds when a step names none."""
    images: dict[str, str]
    """The images that this run made known to the nodes, by the names that kubelet looks for, with their ids."""
    environment: dict[str, str | None]
    """Laid over the environment of every child of ours: the pinned KUBECONFIG and the like."""

    def lend(self) -> Mapping[str, str | None]:
        """The same for a child that may do as it likes: what it changes in its kubeconfig changes nothing for us."""

    @property
    def dialect(self) -> Dialect: ...

    def get(self, ref: Ref, deadline: Deadline) -> Object | None:
        """The live object, or None."""

    def check(self, manifests: Sequence[Manifest]) -> tuple[list[str], list[str]]:
        """Before anything runs: (what this engine ignores in them: warnings, what it cannot do at all: errors)."""

    def apply(
        self, manifests: Sequence[Manifest], namespace: str, hand: Hand, *, server_side: bool = False
    ) -> list[Applied]:
        """Make the objects exist. Absent ones are labelled with the run's id, intended before and `made` after."""

    def delete(
        self, refs: Sequence[Ref], commands: Sequence[Command], hand: Hand, *, wait: bool, ignore_not_found: bool
    ) -> list[Ref]:
        """Delete exactly these objects, whoever made them, by executing `commands` (the dialect's, as `plan` shows
        them), and with `wait` return when they and their dependents are gone. Answers those that existed.
        """

    def make_namespace(self, name: str, hand: Hand) -> None:
        """Create a namespace of the run's own; returns when Pods can be created in it."""

    def use_namespace(self, name: str) -> None:
        """Make this the default namespace from now on."""

    def expand(self, selection: Selection, deadline: Deadline) -> list[Ref]:
        """The objects that a selection means now (names are taken at their word)."""

    def watch(self, selection: Selection, deadline: Deadline) -> Iterator[list[Object]]:
        """All matching objects, first as they are now (possibly none), then again after every change.
        Never polls; ends only by the deadline's exceptions.
        """

    def trouble(self) -> StepFailed | None:
        """After a timeout: whether the engine itself does not answer now, with the sentence and the hint; in 2 s."""

    def events(self, namespace: str, name: str, deadline: Deadline) -> Iterator[list[Object]]:
        """As `watch`, the events of a namespace, or of all objects with this name in it. Ends at once where the engine
        keeps none.
        """

    def promises_status(self, object_: Object, deadline: Deadline) -> bool:
        """Whether objects of this kind are custom resources into which a controller writes a status."""

    def diagnose(
        self, objects: Sequence[Object], deadline: Deadline, blame: tuple[str, str] = ("", "")
    ) -> list[dict[str, Any]]:
        """Diagnostics of these objects as plain data: state, the events that matter, containers with their last log
        lines. `blame` is the Pod (`pod/web`) and the container at fault, when they are known. Never raises.
        """

    def explain(self, objects: Sequence[Object], deadline: Deadline) -> str:
        """The same as text for a person. Never raises."""

    def far_end(self, target: Selection, ports: Sequence[str], via: str, local: str, hand: Hand) -> FarEnd:
        """The far end of a forward to ports (numbers or names) of the target. `via` is `port_forward` or `proxy`, and
        `local` what events call it.
        """

    def load(self, image: str, archive: Path | None, hand: Hand, builder: Builder | None = None) -> str:
        """Make an image of a builder (or an archive) known to the nodes, under the name kubelet looks for. Answers in
        words what was done.
        """

    def undo(self, records: Sequence[Undo], hand: UndoingHand, *, hurry: bool) -> Iterator[Gone]:
        """Delete what is ours, newest first, with its dependents. `hurry` (after a signal): fire all deletes at once,
        Pods with a grace of 1 s, owners orphaned before their Pods.
        """

    def what_outlived(self, gone: Sequence[Undo], deadline: Deadline) -> tuple[list[Gone], list[str]]:
        """Dependents of objects that are gone, and that are still there at the deadline (as the `rest`); and the kinds
        that could not be looked through.
        """

    def close(self) -> None:
        """End every child (proxy, forwards) and remove temporary files; harmless twice."""
