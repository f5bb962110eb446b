"""The language: the keys of a workflow file, and the frozen records that `building` makes of them.

A `Step` holds a template: literals checked, expressions compiled, positions kept. `Step.render` makes the kind's
arguments from it just before the step runs. Nothing here knows of clusters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from runner import expressions, schema
from runner.errors import Problem, StepFailed
from runner.expressions import Expression, Template
from runner.steps.kind import Args, Cel, Duration, Kind, Steps

IDENTIFIER: Final = r"^[a-z_][a-z0-9_]*$"
# A prefix for five more characters.
GENERATED: Final = r"^[a-z0-9][-a-z0-9]{0,57}$"
SECTIONS: Final = ("steps", "on_failure", "finally")
DEFAULT_TIMEOUT: Final = "15m"
MOST_STEPS: Final = 1000
MOST_EXPRESSIONS: Final = 5000
MOST_PROBLEMS: Final = 200
RUN_FACTS: Final = ("id", "namespace", "engine", "context")

Keep = Literal["never", "on_failure", "always"]


# The value is taken as written: no `${{ }}`.
_STATIC: Final = {"x-static": True}

# Where kubectl finds the cluster; only a `run` step may be sent to another one.
PINNED: Final = frozenset({"KUBECONFIG", "KUBERC", "KUBECTL_KUBERC"})
Variable = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", extra_json_schema=_STATIC)]
Identifier = Annotated[str, Meta(pattern=IDENTIFIER, extra_json_schema=_STATIC)]


class InputSpec(Args, frozen=True):
    """One input: a value that can be set from outside."""

    type: Annotated[
        Literal["string", "integer", "number", "boolean", "list", "map"],
        Meta(description="The type of the value.", extra_json_schema=_STATIC),
    ] = "string"
    default: Annotated[Any, Meta(description="The value when nobody sets one.")] = None
    required: Annotated[bool, Meta(description="Somebody must set it.", extra_json_schema=_STATIC)] = False
    enum: Annotated[tuple[Any, ...], Meta(description="The values that are allowed.", extra_json_schema=_STATIC)] = ()
    secret: Annotated[
        bool,
        Meta(
            description="Masked in all output, never accepted on the command line; give it with `env`.",
            extra_json_schema=_STATIC,
        ),
    ] = False
    description: Annotated[str, Meta(description="What it is for.")] = ""
    env: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
            description="The environment variable that sets it.",
            extra_json_schema=_STATIC,
        ),
    ] = ""


class NamespaceSpec(Args, frozen=True):
    """A namespace that exists (`name`), that is made when absent (`create`), or a new one for this run (`generate`)."""

    name: Annotated[str, Meta(description="The namespace's name.")] = ""
    create: Annotated[
        bool, Meta(description="Create it when it is absent, and then delete it at the end.", extra_json_schema=_STATIC)
    ] = False
    generate: Annotated[
        str, Meta(description="A prefix: the run makes a namespace with this prefix and deletes it at the end.")
    ] = ""


class ClusterSpec(Args, frozen=True):
    """Which cluster, or which engine."""

    context: Annotated[
        str, Meta(description="The kubeconfig context; naming one allows clusters that are not local.")
    ] = ""
    engine: Annotated[
        Literal["auto", "kubectl", "podman"], Meta(description="What runs the manifests.", extra_json_schema=_STATIC)
    ] = "auto"
    allow: Annotated[
        tuple[Literal["system_namespaces", "cluster_scoped_delete"], ...],
        Meta(
            description="What is refused otherwise: writes to `kube-system`, `kube-public` and `kube-node-lease` "
            "(`system_namespaces`); deleting objects without a namespace that the run did not make, such as "
            "Namespaces and ClusterRoles (`cluster_scoped_delete`). Commands of `run` steps are not held to it.",
            extra_json_schema=_STATIC,
        ),
    ] = ()


class RetrySpec(Args, frozen=True):
    """How often to try."""

    attempts: Annotated[int, Meta(ge=1, le=1000, description="How often the step is tried in all.")]
    interval: Annotated[Duration, Meta(description="The pause before the next attempt.")] = "1s"
    backoff: Annotated[float, Meta(ge=1, le=10, description="Each pause is this many times the one before.")] = 1.0
    fail_if: Annotated[
        Cel, Meta(description="Do not try again when this holds; `error` has `message`, `reason`, `code`, `output`.")
    ] = ""


class FileKeys(Args, frozen=True, rename={"finally_": "finally"}):
    """The keys at the top of a workflow file."""

    steps: Annotated[Steps, Meta(min_length=1, description="What to do, in order.")]
    name: Annotated[
        str, Meta(description="The workflow's name; by default that of the file.", extra_json_schema=_STATIC)
    ] = ""
    description: Annotated[
        str, Meta(description="What it is for; for documentation and demos.", extra_json_schema=_STATIC)
    ] = ""
    inputs: Annotated[
        dict[Identifier, InputSpec | str | int | float | bool | None],
        Meta(description="Values that can be set from outside: a default, or a map that declares the input."),
    ] = {}
    vars: Annotated[dict[Identifier, Any], Meta(description="Values derived from inputs and earlier vars.")] = {}
    namespace: Annotated[
        str | NamespaceSpec,
        Meta(
            description="Where the objects live: a name, `{name, create: true}` or `{generate: prefix-}`. podman has "
            "no namespaces: there it is ignored, with a warning, and `run.namespace` is `default`."
        ),
    ] = ""
    cluster: Annotated[ClusterSpec, Meta(description="Which cluster, or which engine.")] = ClusterSpec()
    timeout: Annotated[
        Duration,
        Meta(
            description="The deadline of the workflow. Its last fifth (60 s at most) is kept for `finally` and the "
            "cleanup, which hurries (Pods get 1 s to end) when less than 40 s are left."
        ),
    ] = DEFAULT_TIMEOUT
    timeouts: Annotated[dict[str, Duration], Meta(description="Default timeouts by kind: `{wait: 5m}`.")] = {}
    keep: Annotated[
        Keep, Meta(description="Whether what the run made stays at the end.", extra_json_schema=_STATIC)
    ] = "never"
    on_failure: Annotated[Steps, Meta(description="Steps that run after a failure, before `finally`.")] = ()
    finally_: Annotated[Steps, Meta(description="Steps that run at the end, whatever happened.")] = ()


class StepKeys(Args, frozen=True, rename={"if_": "if"}):
    """The keys that every step takes beside its kind."""

    id: Annotated[
        Identifier, Meta(description="A name to refer to the step: letters a-z, digits and _. `steps.<id>.outputs`.")
    ] = ""
    name: Annotated[str, Meta(description="What people see; by default made from the kind and its argument.")] = ""
    description: Annotated[str, Meta(description="For documentation and demos.", extra_json_schema=_STATIC)] = ""
    if_: Annotated[
        Cel | bool,
        Meta(description="Run the step only when this CEL expression holds. Without a status function: success() && …"),
    ] = ""
    namespace: Annotated[str, Meta(description="The namespace of this step.")] = ""
    env: Annotated[
        dict[Variable, str | int | float | bool],
        Meta(description="Environment variables of the children of this step."),
    ] = {}
    timeout: Annotated[Duration, Meta(description="The step's deadline, retries included.")] = ""
    retry: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | RetrySpec,
        Meta(description="Try again when it fails: how often in all, or a map."),
    ] = 1
    continue_on_error: Annotated[
        bool, Meta(description="Report a failure of this step, but do not fail the run.", extra_json_schema=_STATIC)
    ] = False
    show: Annotated[bool, Meta(description="Print what the step's children print.", extra_json_schema=_STATIC)] = False
    keep: Annotated[bool, Meta(description="Leave what this step makes.", extra_json_schema=_STATIC)] = False


class Input(msgspec.Struct, frozen=True):
    """An input as declared. `type` is in CEL's words."""

    name: str
    type: str
    default: Any
    required: bool
    enum: tuple[Any, ...]
    secret: bool
    description: str
    env: str


class Retry(msgspec.Struct, frozen=True):
    """How often a step is tried: 0 attempts mean that the kind polls by itself until the step's deadline."""

    attempts: int = 1
    interval: float = 1.0
    backoff: float = 1.0
    fail_if: Expression | None = None


class Step(msgspec.Struct, frozen=True):
    """One step, ready to be rendered. `path` is its stable address: `steps.web` with an id, `steps[2]` without; of a
    step inside of another `steps.web.throughout[0]`. `place` leads to it in the document.
    """

    path: str
    section: str
    place: tuple[str | int, ...]
    line: int
    column: int
    source: str
    id: str
    name: Any
    description: str
    kind: Kind
    condition: Expression | None
    namespace: Any
    env: Mapping[str, Any]
    timeout: float
    patience: float
    """The timeout without what the step lasts by intention and what the steps inside it may take."""
    retry: Retry
    continue_on_error: bool
    show: bool
    keep: bool
    template: Mapping[str, Any]
    expressions: Mapping[str, Expression]
    data: Mapping[str, Any]
    """The step as written."""
    nested: Mapping[str, tuple[Step, ...]] = {}
    """The steps inside it, by the key of its kind that holds them."""

    @property
    def depth(self) -> int:
        """How many steps it stands inside of."""
        return (len(self.place) - 2) // 3  # a section and an index; kind, key and index for each step around it

    def walk(self) -> Iterator[Step]:
        """This step and those inside it, in the order of the file."""
        yield self
        for steps in self.nested.values():
            for step in steps:
                yield from step.walk()

    @property
    def definition(self) -> str:
        """A hash of the step as written: resuming a run compares it."""
        from hashlib import sha256

        return sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()[:16]

    def render(self, values: Mapping[str, Any]) -> Any:
        """The kind's arguments, with every expression replaced by its value.

        Raises `StepFailed` when an expression has no value, or one of the wrong type.
        """
        try:
            data = fill(self.template, values)
        except expressions.EvaluationError as error:
            raise StepFailed(
                f"the expression {error.source} has no value: {error.message}", reason="expression"
            ) from None
        return _converted(data, self.kind)


class Namespace(msgspec.Struct, frozen=True):
    """Where objects live; texts may be templates. All empty: the context's own namespace."""

    name: Any = ""
    create: bool = False
    generate: Any = ""


class Workflow(msgspec.Struct, frozen=True):
    """One workflow file, ready to run."""

    name: str
    description: str
    file: str
    folder: Path
    root: Path
    inputs: Mapping[str, Input]
    vars: Mapping[str, Any]
    namespace: Namespace
    context: Any
    engine: str
    allowed: frozenset[str]
    timeout: float
    keep: str
    steps: tuple[Step, ...]
    on_failure: tuple[Step, ...]
    finally_: tuple[Step, ...]
    warnings: tuple[Problem, ...] = ()

    @property
    def all_steps(self) -> tuple[Step, ...]:
        """Every step in the order of the file, those inside of others too."""
        return tuple(inner for step in (*self.steps, *self.on_failure, *self.finally_) for inner in step.walk())


def _converted(data: dict[str, Any], kind: Kind) -> Any:
    """The arguments. A number or boolean that an expression put where text is wanted becomes text."""
    for _ in range(1000):
        try:
            return msgspec.convert(data, kind.Args)
        except msgspec.ValidationError as error:
            path = list(schema.place_of(str(error)))
            words = str(error).split(" - at ", 1)[0]
            if not ("`str`" in words and _make_text(data, path)):
                key = ".".join(map(str, path)) or kind.NAME
                raise StepFailed(f"`{key}` does not fit: {words[:1].lower()}{words[1:]}", reason="expression") from None
    raise AssertionError


def _make_text(data: Any, path: list[str | int]) -> bool:
    """Turn the scalar at this path into text; False when it is none."""
    *way, last = path or [""]
    try:
        for key in way:
            data = data[key]
        if not isinstance(data[last], bool | int | float):
            return False
        data[last] = expressions.text(data[last])
    except (KeyError, IndexError, TypeError):
        return False
    return True


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """A template's data with every expression replaced by its value; raises `EvaluationError`."""
    if isinstance(template, Template):
        return template.render(values)
    if isinstance(template, Mapping):
        return {key: fill(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(item, values) for item in template]
    return template


def default_name(kind: Kind, data: Mapping[str, Any]) -> str:
    """`apply pythonapp/pod.yaml`: the kind and what it is about."""
    about = kind.title(data) if data else ""
    first = str(about).strip().split("\n", 1)[0]
    return f"{kind.NAME} {first}".strip() if len(first) <= 60 else f"{kind.NAME} {first[:57]}…"  # noqa: PLR2004
