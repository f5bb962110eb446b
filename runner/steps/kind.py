"""The contract of a step kind, and the types that several kinds share.

A kind is a module that satisfies `Kind`; hooks that it does not need are one-line assignments of the defaults below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args

import msgspec
from msgspec import Meta

from runner.errors import StepFailed
from runner.steps.bounds import (
    STAY_INSIDE,
    UNKNOWN,
    leaves,
    wrong_image,
    wrong_kind,
    wrong_name,
    wrong_namespace,
)

if TYPE_CHECKING:
    from runner.cluster.images import Builder
    from runner.cluster.protocol import Cluster, Dialect, Object, Ref, Selection
    from runner.deadline import Deadline
    from runner.errors import CommandResult
    from runner.journal import Undo
    from runner.shell import Command

_DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
Duration = Annotated[
    str,
    Meta(
        pattern=_DURATION,
        description="A length of time: `500ms`, `30s`, `2m`, `1h30m`.",
    ),
]
Cel = Annotated[str, Meta(description="A CEL expression (bare, without `${{ }}`).", extra_json_schema={"x-cel": True})]

Steps = tuple[Annotated[dict[str, Any], Meta(extra_json_schema={"$ref": "#/$defs/Step"})], ...]
"""A key of this type holds steps: they are built with the step, and run by `Context.run_steps`."""

STEPS_HERE = "# the steps inside it"
"""The line of an `equivalent` in whose place a plan puts the steps that stand inside of the step."""

HIGHEST_PORT = 65535
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(duration: str) -> float:
    """`1h30m` → 5400.0. The text was checked against `Duration`'s pattern."""
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", duration))


def is_duration(text: str) -> bool:
    """Whether `seconds` can read it."""
    return bool(re.fullmatch(_DURATION, text))


class Args(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of every record that comes from YAML."""


class TargetMap(Args, frozen=True):
    """An object, or several by label selector."""

    kind: Annotated[str, Meta(description="The kind, in any spelling kubectl takes: `pod`, `po`, `deployments.apps`.")]
    name: Annotated[str, Meta(description="The object's name.")] = ""
    selector: Annotated[str, Meta(description="A label selector: `app=web,tier!=db`.")] = ""
    namespace: Annotated[str, Meta(description="The namespace, when it is not the step's.")] = ""


Reference = Annotated[
    str,
    Meta(description="An object as kubectl names it: `pod/pythonapp`.", examples=["pod/pythonapp", "deployment/web"]),
]
Target = Reference | tuple[Reference, ...] | TargetMap


class Match(Args, frozen=True):
    """What a text must satisfy; all given keys must hold."""

    contains: Annotated[str | tuple[str, ...], Meta(description="This text occurs in it; of a list, every one.")] = ()
    matches: Annotated[str, Meta(description="This regular expression is found in it (RE2 syntax).")] = ""
    equals: Annotated[str | None, Meta(description="It is exactly this, white space at the ends aside.")] = None
    json: Annotated[Any, Meta(description="It is JSON that has these values: maps as subsets, lists exactly.")] = (
        msgspec.UNSET
    )


class Output(msgspec.Struct, frozen=True):
    """One output of a kind: its CEL type (`string`, `int`, `double`, `dyn`, …) and what it holds."""

    type: str
    description: str


class Fault(msgspec.Struct, frozen=True):
    """A problem that a kind finds in its own arguments at validation: `path` leads from the kind's value to it."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"


class Files(msgspec.Struct, frozen=True):
    """What a kind may ask about files at validation: `folder` is the workflow's, `root` what its paths may not leave;
    `made` are the paths that earlier `run` steps declare to make, `built` the images that earlier steps build or load.
    """

    folder: Path
    root: Path
    made: frozenset[str] = frozenset()
    built: frozenset[str] = frozenset()
    secret: Callable[[str], str] = lambda _: ""
    """The secret that the expressions in a text insert (`inputs.password`), or an empty text."""
    namespace: str = ""
    """Where the step's objects are as far as the file says it."""
    allowed: frozenset[str] = frozenset()
    """What the workflow says in `cluster.allow`."""
    applies: bool = False
    """Whether the run may have made objects before this step."""


def _no_builder(preferred: str) -> Builder:
    raise StepFailed(f"no image builder was looked for ({preferred})", reason="tool")


class Scene(msgspec.Struct, frozen=True):
    """Where commands are made, the same for plan and run: the engine's dialect, the namespace (may be empty), the
    workflow's folder, and how a path is written (`show_path`). `variable` names the shell variable that holds an output
    of this step in a planned script.
    """

    dialect: Dialect
    namespace: str
    folder: Path
    show_path: Callable[[Path], str] = str
    variable: Callable[[str], str] = lambda output: output
    timeout: float = 60.0
    """The step's, in seconds."""
    patience: float = 60.0
    """The timeout without what the step lasts by intention and what the steps inside it may take."""
    attempts: int = 0
    """What `retry` says; 0 for a kind that polls until its timeout."""
    secret: Callable[[str, str], str] = lambda _, what: f"${what.upper()}"
    """What stands for a secret (its value, what it is) in a plan, which never shows one."""
    builder: Callable[[str], Builder] = _no_builder
    """The image builder of this machine, by preference; found once."""
    root: Path = Path("/")
    """What paths of the workflow may not leave: its repository, unless the user allows it."""

    def path(self, name: str) -> str:
        return self.show_path(self.inside(name))

    def inside(self, name: str) -> Path:
        """A path of the workflow; raises `StepFailed` when it leaves the repository, by a link or an expression too."""
        path = self.folder / name
        if UNKNOWN not in name and (outside := leaves(path, self.root)):
            raise StepFailed(outside, hint=STAY_INSIDE, reason="outside")
        return path


class Forwarded(msgspec.Struct, frozen=True):
    """A forward of the run: the local address that it bound, and the port of the target that it leads to."""

    host: str
    target: Selection
    port: str


class Context(Protocol):
    """What a running step is given. It is also the `Hand` that clusters take."""

    run_id: str
    lifetime: float
    allowed: frozenset[str]
    workflow_folder: Path
    namespace: str

    @property
    def scene(self) -> Scene: ...

    @property
    def folder(self) -> Path: ...

    @property
    def deadline(self) -> Deadline: ...

    @property
    def attempts(self) -> int:
        """What `retry` says, 0 where it says nothing; for kinds whose RETRY is `count`."""

    @property
    def cluster(self) -> Cluster: ...

    def conceal(self, namespaces: Iterable[str]) -> None:
        """Mask the data of the Secrets of these namespaces (an empty one: the step's), where the run has a cluster."""

    def execute(self, command: Command, *, check: bool = True, lent: bool = False) -> CommandResult:
        """As `Hand.execute`; with `lent` for a command of the user's, which gets a kubeconfig that it may change."""

    def observed(self, equivalent: str) -> None:
        """Log the line that the following observation stands for."""

    def waiting(self, what: str, seconds: float = 0.0) -> None: ...

    def warn(self, message: str, *, hint: str = "") -> None: ...

    def note(self, message: str) -> None: ...

    def show(self, text: str) -> None:
        """A line for people, in the log and beside the step in the report."""

    def intend(self, ref: Ref) -> Undo: ...

    def made(self, record: Undo, uid: str) -> None: ...

    def unmade(self, record: Undo) -> None: ...

    def deleted(self, ref: Ref) -> None: ...

    def close_later(self, close: Callable[[], None]) -> None:
        """Call this when the scope of the step ends (forwards, background children), newest first."""

    def evaluate(self, key: str, **variables: Any) -> Any:
        """The bare CEL expression of this key over these variables; raises `expressions.EvaluationError`."""

    def forwarded(self, host: str, port: int) -> Forwarded | None:
        """The forward of this run that listens on a port of this machine, or None."""

    def forwards(self) -> dict[int, Forwarded]:
        """The forwards of this run that a step can see, by their local ports."""

    def bind(self, host: str, port: int, target: Selection, target_port: str) -> None:
        """Tell later steps that a forward of this run listens there, and where it leads."""

    def run_steps(self, key: str) -> None:
        """Run the steps under this key of the arguments, in a scope that ends with them. Raises `StepFailed` when one
        of them failed.
        """

    def emit(self, event: str, /, **fields: Any) -> None: ...


class Kind(Protocol):
    """What the table `KINDS` holds: a module of this shape."""

    __doc__: str | None
    NAME: str
    Args: type[msgspec.Struct]
    SHORT: str
    """The key that a plain string (or list) as the kind's value sets; empty for none."""
    TIMEOUT: str
    OUTPUTS: Mapping[str, Output]
    EXPRESSIONS: Mapping[str, tuple[str, ...]]
    """Keys that hold bare CEL, and the variables they see."""
    RETRY: Literal["repeat", "count", "none"]
    """What `retry` means: run the step again; for kinds that poll by themselves, how often at most, or nothing."""

    def title(self, data: Mapping[str, Any]) -> str:
        """The default name of a step, from its data as written (`pod/pythonapp`)."""

    def needs_cluster(self, data: Mapping[str, Any]) -> bool:
        """Whether it needs a cluster (or podman) to run."""

    def wants_cluster(self, data: Mapping[str, Any]) -> bool:
        """Whether it uses the cluster of the kubeconfig when there is one, although it can do without."""

    def fixed_ports(self, data: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
        """The local (address, port) pairs that it will listen on, as far as they are known before the run."""

    def lasts(self, data: Mapping[str, Any]) -> float:
        """Seconds that it takes by intention, as far as they are known before the run: its timeout comes on top."""

    def homeless(self, data: Mapping[str, Any], folder: Path) -> Iterable[str]:
        """The objects (`pod/web`) that it makes in the step's namespace, as far as they are known before the run."""

    def check(self, data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
        """Faults that the schema cannot see; `data` may hold `${{ }}` strings."""

    def commands(self, args: Any, scene: Scene) -> tuple[Command, ...]:
        """The exact argv of its mutations; pure."""

    def equivalent(self, args: Any, scene: Scene) -> tuple[str, ...]:
        """Lines of bash that its observations stand for; pure."""

    def run(self, args: Any, context: Any) -> dict[str, Any]:
        """Do it; answer the outputs. Raises `StepFailed`."""


def always_cluster(data: Mapping[str, Any]) -> bool:
    """The `needs_cluster` of kinds that talk to the cluster."""
    return True


def never_cluster(data: Mapping[str, Any]) -> bool:
    """The `needs_cluster` of kinds that do not."""
    return False


def no_ports(data: Mapping[str, Any]) -> Iterable[tuple[str, int]]:
    """The `fixed_ports` of kinds that do not listen."""
    return ()


def no_time(data: Mapping[str, Any]) -> float:
    """The `lasts` of kinds that end as soon as they can."""
    return 0.0


def no_objects(data: Mapping[str, Any], folder: Path) -> Iterable[str]:
    """The `homeless` of kinds that make no objects."""
    return ()


def no_faults(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    """The `check` of kinds whose schema says it all."""
    return ()


def no_commands(args: Any, scene: Scene) -> tuple[Command, ...]:
    """The `commands` of kinds that only observe."""
    return ()


def no_equivalent(args: Any, scene: Scene) -> tuple[str, ...]:
    """The `equivalent` of kinds that only mutate."""
    return ()


@cache
def nested_keys(args: type[msgspec.Struct]) -> tuple[str, ...]:
    """The keys of a kind's arguments that may hold steps."""
    return tuple(field.encode_name for field in msgspec.structs.fields(args) if _holds_steps(field.type))


def _holds_steps(annotation: Any) -> bool:
    return annotation == Steps or any(map(_holds_steps, get_args(annotation)))


def not_allowed(
    kind: str, name: str, namespace: str, files: Files, place: tuple[str | int, ...], *, deleting: bool
) -> Iterable[Fault]:
    """Faults of an object that the workflow must say it may change (or delete), as far as the file tells."""
    from runner.cluster import permission

    cluster_scoped = permission.is_cluster_scoped(kind)
    of = "" if cluster_scoped else namespace or files.namespace
    if wrong := permission.missing_for_write(kind, name, of, files.allowed):
        yield Fault(place, wrong, permission.hint(permission.SYSTEM_NAMESPACES))
    elif (
        deleting
        and cluster_scoped
        and not files.applies
        and (wrong := permission.missing_for_delete(kind, name, files.allowed))
    ):
        yield Fault(place, wrong, permission.hint(permission.CLUSTER_SCOPED_DELETE))


def exposed(value: Any, path: tuple[str | int, ...], files: Files) -> Iterable[Fault]:
    """Faults of a text that becomes an argument of a command, where `ps` shows it, and has a secret in it."""
    if isinstance(value, str) and (name := files.secret(value)):
        yield Fault(
            path,
            f"the secret {name} would stand in the command line, where every user of this machine sees it",
            f'give it to the command in `env: {{{name.rpartition(".")[2].upper()}: "${{{{ {name} }}}}"}}`',
        )


def image_faults(data: Mapping[str, Any]) -> Iterable[Fault]:
    """Faults of the key `image` as written."""
    name = data.get("image")
    if isinstance(name, str) and name and "${{" not in name and (wrong := wrong_image(name)):
        yield Fault(("image",), wrong, "write it as in pythonapp, or registry.example/web:dev")


def image(name: str) -> str:
    """The same name; raises `StepFailed` when an expression made one that can be no image's."""
    if wrong := wrong_image(name):
        raise StepFailed(wrong, reason="expression")
    return name


def selections(target: Target, namespace: str) -> tuple[Selection, ...]:
    """The selections that a target means; raises `StepFailed` for what can be no reference."""
    from runner.cluster.protocol import Selection

    if isinstance(target, TargetMap):
        names = (target.name,) if target.name else ()
        _refuse(wrong_kind(target.kind), wrong_namespace(target.namespace), *map(wrong_name, names))
        return (Selection(target.kind, names, target.selector, target.namespace or namespace),)
    references = (target,) if isinstance(target, str) else target
    by_kind: dict[str, list[str]] = {}
    for reference in references:
        kind, slash, name = reference.partition("/")
        if not (kind and slash and name):
            raise StepFailed(f"{reference!r} is not a reference", hint="write kind/name, as in pod/pythonapp")
        _refuse(wrong_kind(kind), wrong_name(name))
        by_kind.setdefault(kind, []).append(name)
    return tuple(Selection(kind, tuple(names), "", namespace) for kind, names in by_kind.items())


def _refuse(*sentences: str) -> None:
    for sentence in filter(None, sentences):
        raise StepFailed(sentence, hint="write kind/name, as in pod/pythonapp", reason="expression")


def target_faults(value: Any, path: tuple[str | int, ...]) -> Iterable[Fault]:
    """Faults of a target as written: a reference must be `kind/name`, a map needs a name or a selector."""
    if isinstance(value, Mapping):
        if bool(value.get("name")) == bool(value.get("selector")):
            yield Fault(path, "a target needs a name or a selector, one of them")
        for key, flaw in (("kind", wrong_kind), ("name", wrong_name), ("namespace", wrong_namespace)):
            text = value.get(key)
            if isinstance(text, str) and text and "${{" not in text and (wrong := flaw(text)):
                yield Fault((*path, key), wrong)
        kind, name = str(value.get("kind", "")), str(value.get("name", ""))
        yield from _of_the_kind(kind, "" if wrong_name(name) else name, (*path, "kind"), (*path, "name"))
        return
    for index, reference in enumerate(value) if isinstance(value, list) else [(-1, value)]:
        if not isinstance(reference, str) or "${{" in reference:
            continue
        place = path if index < 0 else (*path, index)
        kind, _, name = reference.partition("/")
        if not re.fullmatch(r"[^/\s]+/[^/\s]+", reference):
            yield Fault(place, f"{reference!r} is not a reference to an object", "write kind/name, as in pod/pythonapp")
        elif wrong := wrong_kind(kind) or wrong_name(name):
            yield Fault(place, wrong, "write kind/name, as in pod/pythonapp")
        else:
            yield from _of_the_kind(kind, name, place, place)


def _of_the_kind(
    kind: str, name: str, place: tuple[str | int, ...], place_of_name: tuple[str | int, ...]
) -> Iterable[Fault]:
    """A kind of Kubernetes that is misspelt, or a name that none of its objects can have."""
    from runner.cluster.resources import builtin, builtin_meant, impossible_name

    if "${{" in kind + name:
        return
    if name and (wrong := impossible_name(kind, name)):
        yield Fault(place_of_name, wrong)
    elif not builtin(kind) and (meant := builtin_meant(kind)):
        yield Fault(place, f"{kind!r} is no kind of Kubernetes", f"did you mean {meant.kind.lower()}?", "warning")


def target_title(value: Any) -> str:
    """A target (or files) in the default name of a step."""
    if isinstance(value, Mapping):
        return " ".join(str(value[key]) for key in ("kind", "name", "selector") if key in value)
    return value if isinstance(value, str) else ", ".join(map(str, value or ()))


def is_file(text: str) -> bool:
    """A string that ends in .yaml, .yml or .json is a file, anything else a reference; the disk is never asked."""
    return text.endswith((".yaml", ".yml", ".json"))


def object_ref(object_: Object) -> Ref:
    """The reference of a live object."""
    from runner.cluster.protocol import Ref

    meta = object_.get("metadata", {})
    return Ref(object_.get("kind", ""), meta.get("name", ""), meta.get("namespace", ""), object_.get("apiVersion", ""))
