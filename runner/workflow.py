"""A workflow as frozen records, built from a document that was checked.

A `Step` holds a template: literals checked, expressions compiled, positions kept. `Step.render` makes the kind's
arguments from it just before the step runs. Nothing here knows of clusters; the kinds are handed in.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from runner import expressions, masking, schema
from runner.confidential import is_secret_name
from runner.document import Document, Position, load
from runner.errors import InvalidWorkflow, Problem, StepFailed, UsageError
from runner.expressions import Expression, InvalidExpression, Template
from runner.steps.bounds import NAMESPACE
from runner.steps.kind import Args, Cel, Duration, Fault, Files, Kind, Steps, nested_keys, seconds

IDENTIFIER: Final = r"^[a-z_][a-z0-9_]*$"
# A prefix for five more characters.
_GENERATED: Final = r"^[a-z0-9][-a-z0-9]{0,57}$"
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
            "Namespaces and ClusterRoles (`cluster_scoped_delete`).",
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
        Meta(description="Where the objects live: a name, `{name, create: true}` or `{generate: prefix-}`."),
    ] = ""
    cluster: Annotated[ClusterSpec, Meta(description="Which cluster, or which engine.")] = ClusterSpec()
    timeout: Annotated[Duration, Meta(description="The deadline of the whole run.")] = DEFAULT_TIMEOUT
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


def read(path: Path, name: str, kinds: Mapping[str, Kind]) -> Workflow:
    """Load, check and build one file. Raises `InvalidWorkflow` with every problem that it has."""
    return build(load(path, name), kinds)


def build(document: Document, kinds: Mapping[str, Kind], *, outside: bool = False) -> Workflow:
    """The workflow of a document; its paths may lead out of its repository if `outside`. Raises `InvalidWorkflow` with
    every problem that it has.
    """
    refuse_other_documents(document)
    refuse_excess(document, kinds)
    builder = _Builder(document, kinds, outside=outside)
    builder.problems.extend(schema.check(document, schema.stored(), tuple(kinds)))
    named = {(problem.line, problem.column) for problem in builder.problems}
    builder.problems.extend(item for item in document.problems if (item.line, item.column) not in named)
    workflow = builder.build()
    errors = [problem for problem in builder.problems if problem.severity == "error"]
    if errors or workflow is None:
        raise InvalidWorkflow(tuple(sorted(builder.problems, key=lambda p: (p.line, p.column))))
    return workflow


def refuse_other_documents(document: Document) -> None:
    """A manifest or a playbook given as a workflow gets one message that says so, not forty about its keys."""
    data = document.data
    if isinstance(data, Mapping) and is_manifest(data):
        kind = data["kind"]
        hint = f"write a workflow with the step `- apply: {Path(document.file).name}`, and run that"
        message = f"this is {_a(str(kind))}, not a workflow"
        raise InvalidWorkflow((document.problem(("kind",), message, hint=hint),))
    if not isinstance(data, Mapping):
        what = "a list" if isinstance(data, list) else "a single value"
        hint = "put the steps under `steps:`" if isinstance(data, list) else "it begins with `steps:`"
        raise InvalidWorkflow((document.problem((), f"a workflow is a map, this file is {what}", hint=hint),))


def refuse_excess(document: Document, kinds: Mapping[str, Kind]) -> None:
    """Checking takes time for each step, and a file from a stranger may not take for ever."""
    for number, (path, _) in enumerate(_each_step(document.data, kinds), 1):
        if number > MOST_STEPS:
            message = f"a workflow has at most {MOST_STEPS:,} steps"
            raise InvalidWorkflow((document.problem(path, message, hint="make several workflows of it"),))


def is_manifest(data: Any) -> bool:
    """Whether a document is a Kubernetes object: it has `apiVersion` and `kind`, and no `steps`."""
    return isinstance(data, Mapping) and "apiVersion" in data and "kind" in data and "steps" not in data


def _a(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def repository_of(folder: Path) -> Path:
    """The folder that paths in a workflow may not leave: the git repository, else the working directory above it."""
    for candidate in (folder, *folder.parents):
        if (candidate / ".git").exists():
            return candidate
    here = Path.cwd()
    return here if folder.is_relative_to(here) else folder


class _Builder:
    """Builds a workflow step by step; every step sees the names of those before it."""

    def __init__(self, document: Document, kinds: Mapping[str, Kind], *, outside: bool = False) -> None:
        self.document = document
        self.folder = document.path.parent
        self.root = Path(self.folder.anchor) if outside else repository_of(self.folder)
        self.expressions = 0
        self.secrets: dict[str, str] = {}
        self.namespace = ""
        self.allowed: frozenset[str] = frozenset()
        self.applies = False
        self.kinds = kinds
        self.problems: list[Problem] = []
        self.variables = {"env": "environment", **{f"run.{name}": "string" for name in RUN_FACTS}}
        self.ids: dict[str, tuple[str | int, ...]] = {}
        self.made: set[str] = set()
        self.built: set[str] = set()

    def build(self) -> Workflow | None:
        data = self.document.data
        inputs = self._inputs(data.get("inputs"))
        vars_ = self._vars(data.get("vars"))
        namespace = self._namespace(data.get("namespace"))
        cluster = data.get("cluster") if isinstance(data.get("cluster"), Mapping) else {}
        context = self._template(cluster.get("context", ""), ("cluster", "context"))
        allow = cluster.get("allow")
        self.allowed = frozenset(map(str, allow)) if isinstance(allow, list) else frozenset()
        self.namespace = namespace.name if isinstance(namespace.name, str) else ""
        self.applies = namespace.create or bool(namespace.generate)
        self._check_timeouts(data.get("timeouts"))
        self._collect_ids(data)
        sections = {name: self._list(data.get(name), (name,), name) for name in SECTIONS}
        self._check_ports((step for steps in sections.values() for step in steps), {})
        if any(problem.severity == "error" for problem in self.problems):
            return None
        return Workflow(
            name=data.get("name") or self.document.path.stem,
            description=data.get("description", ""),
            file=self.document.file,
            folder=self.folder,
            root=self.root,
            inputs=inputs,
            vars=vars_,
            namespace=namespace,
            context=context,
            engine=cluster.get("engine", "auto"),
            allowed=self.allowed,
            timeout=seconds(data.get("timeout", DEFAULT_TIMEOUT)),
            keep=data.get("keep", "never"),
            steps=sections["steps"],
            on_failure=sections["on_failure"],
            finally_=sections["finally"],
            warnings=tuple(self.problems),
        )

    # -- values -------------------------------------------------------------------------------------------------

    def _inputs(self, data: Any) -> dict[str, Input]:
        inputs = {}
        for name, value in data.items() if isinstance(data, Mapping) else ():
            spec = value if isinstance(value, Mapping) else {"default": value}
            input_ = self._input(name, spec, shorthand=not isinstance(value, Mapping))
            inputs[name] = input_
            if input_.secret:
                self.secrets[f"inputs.{name}"] = input_.type
            self.variables[f"inputs.{name}"] = input_.type
        return inputs

    def _input(self, name: str, spec: Mapping[str, Any], *, shorthand: bool) -> Input:
        default = spec.get("default")
        declared = spec.get("type")
        type_ = _CEL_TYPES.get(declared, "string") if isinstance(declared, str) else _cel_type(default)
        path: tuple[str, ...] = ("inputs", name) if shorthand else ("inputs", name, "default")
        if default is not None and not _fits(default, type_):
            self._add(path, f"the default of input `{name}` is not {_a(_NAMES[type_])}")
        enum = tuple(spec.get("enum") or ()) if isinstance(spec.get("enum"), list) else ()
        if enum and default is not None and default not in enum:
            self._add(path, f"the default of input `{name}` is not one of its `enum`")
        if spec.get("secret") and default is not None:
            self._add(path, f"input `{name}` is secret and has a default", "give the value by `env` or --values")
        return Input(
            name,
            type_,
            default,
            bool(spec.get("required")),
            enum,
            bool(spec.get("secret")),
            str(spec.get("description", "")),
            str(spec.get("env", "")),
        )

    def _vars(self, data: Any) -> dict[str, Any]:
        vars_ = {}
        for name, value in data.items() if isinstance(data, Mapping) else ():
            vars_[name] = self._template(value, ("vars", name))
            self.variables[f"vars.{name}"] = _template_type(vars_[name])
            if self._secret_in(json.dumps(value, ensure_ascii=False, default=str)):
                self.secrets[f"vars.{name}"] = "dyn"
        return vars_

    def _namespace(self, data: Any) -> Namespace:
        if isinstance(data, str):
            self._check_namespace(data, ("namespace",))
            return Namespace(self._template(data, ("namespace",)))
        if not isinstance(data, Mapping):
            return Namespace()
        if bool(data.get("name")) == bool(data.get("generate")):
            self._add(("namespace",), "a namespace needs `name` or `generate`, one of them")
        self._check_namespace(str(data.get("name", "")), ("namespace", "name"))
        self._check_namespace(str(data.get("generate", "")), ("namespace", "generate"), _GENERATED)
        name, prefix = (self._template(data.get(key, ""), ("namespace", key)) for key in ("name", "generate"))
        return Namespace(name, bool(data.get("create")), prefix)

    def _check_namespace(self, name: str, path: tuple[str | int, ...], pattern: str = NAMESPACE) -> None:
        if name and "${{" not in name and not re.fullmatch(pattern, name):
            hint = "use a-z, 0-9 and hyphens, 63 characters at most"
            self._add(path, f"{name!r} cannot be a namespace", hint)

    def _check_ports(self, steps: Iterable[Step], taken: dict[tuple[str, int], int]) -> None:
        """Forwards live until their list of steps ends, so no two may have the same local port till then."""
        for step in steps:
            for inner in step.nested.values():
                self._check_ports(inner, dict(taken))
            for port in step.kind.fixed_ports(step.template):
                if port in taken:
                    message = f"the step on line {taken[port]} listens on {port[0]}:{port[1]} already"
                    self._add((*step.place, step.kind.NAME), message, "name another local port, or none for a free one")
                taken.setdefault(port, step.line)

    def _check_timeouts(self, data: Any) -> None:
        for name in data if isinstance(data, Mapping) else ():
            if name not in self.kinds:
                hint = _nearest(name, self.kinds) or "kinds: " + ", ".join(self.kinds)
                self._add(("timeouts", name), f"`{name}` is not a kind", hint, at_key=True)

    # -- steps --------------------------------------------------------------------------------------------------

    def _collect_ids(self, data: Mapping[str, Any]) -> None:
        for path, step in _each_step(data, self.kinds):
            id_ = step.get("id")
            if not isinstance(id_, str):
                continue
            place = (*path, "id")
            if id_ in self.ids:
                first = self.document.positions[self.ids[id_]].line
                self._add(place, f"the id `{id_}` is taken by the step on line {first}")
            self.ids.setdefault(id_, place)

    def _list(self, steps: Any, path: tuple[str | int, ...], address: str) -> tuple[Step, ...]:
        """The steps of a list; `path` leads to it in the document, `address` begins the paths of its steps."""
        found = enumerate(steps if isinstance(steps, list) else ())
        built = (self._step((*path, index), address, step) for index, step in found if isinstance(step, Mapping))
        return tuple(step for step in built if step)

    def _step(self, path: tuple[str | int, ...], address: str, data: Mapping[str, Any]) -> Step | None:
        named = [key for key in data if key in self.kinds]
        env = self._map(data.get("env"), (*path, "env"))
        common = {key: self._template(data.get(key, ""), (*path, key)) for key in ("name", "namespace")}
        if isinstance(common["namespace"], str):
            self._check_namespace(common["namespace"], (*path, "namespace"))
        condition = self._condition(data.get("if"), (*path, "if"))
        if len(named) != 1:
            self._declare_outputs(data, None)
            return None
        kind = self.kinds[named[0]]
        for name in PINNED & env.keys() if kind.NAME != "run" else ():
            hint = "choose it with `cluster: {context: …}` or --context"
            self._add((*path, "env", name), f"{name} would send this step to another cluster", hint, at_key=True)
        namespace = common["namespace"] if isinstance(common["namespace"], str) else ""
        arguments, template, compiled = self._arguments(kind, data[kind.NAME], (*path, kind.NAME), namespace)
        faulty = self._has_error_below((*path, kind.NAME), nested_keys(kind.Args))
        retry = self._retry(kind, data.get("retry"), (*path, "retry"))
        id_ = data.get("id", "")
        own = f"{address}.{id_}" if id_ else f"{address}[{path[-1]}]"
        nested = {
            key: self._list(arguments[key], (*path, kind.NAME, key), f"{own}.{key}")
            for key in nested_keys(kind.Args)
            if isinstance(arguments.get(key), list)
        }
        timeout, patience = (0.0, 0.0) if faulty else self._timeout(kind, data, arguments, nested, path)
        self._declare_outputs(data, kind)
        position = self.document.positions[path]
        return Step(
            path=own,
            section=str(path[0]),
            place=path,
            line=position.line,
            column=position.column,
            source=self.document.lines[position.line - 1],
            id=id_,
            name=common["name"] or ("" if faulty else default_name(kind, arguments)),
            description=data.get("description", ""),
            kind=kind,
            condition=condition,
            namespace=common["namespace"],
            env=env,
            timeout=timeout,
            patience=patience,
            retry=retry,
            continue_on_error=bool(data.get("continue_on_error")),
            show=bool(data.get("show")),
            keep=bool(data.get("keep")),
            template=template,
            expressions=compiled,
            data=data,
            nested=nested,
        )

    def _arguments(
        self, kind: Kind, value: Any, path: tuple[str | int, ...], namespace: str
    ) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Expression]]:
        """(the arguments as written with the short form unfolded, their template, their bare CEL compiled)."""
        folded = not isinstance(value, Mapping)
        data = {kind.SHORT: value} if folded and kind.SHORT else value
        if not isinstance(data, Mapping):
            return {}, {}, {}
        compiled = {}
        template: dict[str, Any] = {}
        for key, item in data.items():
            place = path if folded else (*path, key)
            if key in nested_keys(kind.Args) and isinstance(item, list):
                template[key] = item  # steps of their own
            elif key in kind.EXPRESSIONS and isinstance(item, str):
                names = self.variables | dict.fromkeys(kind.EXPRESSIONS[key], "dyn")
                expression = self._bare(item, place, names)
                template[key] = item
                if expression:
                    compiled[key] = expression
            else:
                template[key] = self._template(item, place)
        if not self._has_error_below(path, nested_keys(kind.Args)):
            for fault in kind.check(data, self._files(namespace)):
                self._fault(fault, path, folded=folded)
            self.made.update(str(item) for item in data.get("generates") or ())
            if kind.NAME in ("build", "load") and isinstance(data.get("image"), str):
                self.built.add(data["image"])
        self.applies = self.applies or kind.NAME == "apply"
        return data, template, compiled

    def _files(self, namespace: str) -> Files:
        return Files(
            self.folder,
            self.root,
            frozenset(self.made),
            frozenset(self.built),
            self._secret_in,
            namespace=namespace or self.namespace,
            allowed=self.allowed,
            applies=self.applies,
        )

    def _secret_in(self, text: str) -> str:
        """The first secret that expressions in a text insert: an input, a var made of one, a variable by its name."""
        for piece in expressions.split(text) if expressions.has_expression(text) else ():
            if piece.is_expression:
                found = sorted(expressions.names(piece.source, self.secrets) & self.secrets.keys())
                found += [f"env.{name}" for name in expressions.keys_of("env", piece.source) if is_secret_name(name)]
                if found:
                    return found[0]
        return ""

    def _fault(self, fault: Fault, path: tuple[str | int, ...], *, folded: bool) -> None:
        below = fault.path[1:] if folded else fault.path
        self._add((*path, *below), fault.message, fault.hint, severity=fault.severity)

    def _has_error_below(self, path: tuple[str | int, ...], aside: tuple[str, ...] = ()) -> bool:
        """Whether the schema already complains about this place: a kind's own check may then rely on nothing. What is
        inside the items of the lists `aside` does not count: those are steps of their own.
        """
        if not self.problems:
            return False
        wrong = {(problem.line, problem.column) for problem in self.problems}
        return any(
            (position.line, position.column) in wrong
            for place, position in self._places[path[:2]]
            if place[: len(path)] == path and not (len(place) > len(path) + 1 and place[len(path)] in aside)
        )

    @cached_property
    def _places(self) -> Mapping[tuple[str | int, ...], list[tuple[tuple[str | int, ...], Position]]]:
        """The places of all nodes by the first two keys of their paths: those of one step together."""
        places: dict[tuple[str | int, ...], list[tuple[tuple[str | int, ...], Position]]] = defaultdict(list)
        for positions in (self.document.positions, self.document.key_positions):
            for path, position in positions.items():
                places[path[:2]].append((path, position))
        return places

    def _declare_outputs(self, data: Mapping[str, Any], kind: Kind | None) -> None:
        id_ = data.get("id")
        if not isinstance(id_, str):
            return
        self.variables[f"steps.{id_}.outcome"] = "string"
        if kind is None:  # its kind is wrong and reported; do not complain about its outputs too
            self.variables[f"steps.{id_}.outputs"] = "dyn"
        for name, output in kind.OUTPUTS.items() if kind else ():
            self.variables[f"steps.{id_}.outputs.{name}"] = output.type

    def _timeout(
        self,
        kind: Kind,
        data: Mapping[str, Any],
        arguments: Mapping[str, Any],
        nested: Mapping[str, tuple[Step, ...]],
        path: tuple[str | int, ...],
    ) -> tuple[float, float]:
        """(the timeout as written, else the default of the kind, and what the step and those inside it need by
        themselves; the patience).
        """
        lasts = kind.lasts(arguments)
        if isinstance(own := data.get("timeout"), str):
            if 0 < seconds(own) <= lasts:
                message = f"the timeout of {own} ends this step in any case: it lasts {lasts:g} s by itself"
                self._add((*path, "timeout"), message, f"write more than {lasts:g}s, or leave `timeout` out")
            return seconds(own), seconds(own) - lasts
        timeouts = self.document.data.get("timeouts")
        by_kind = timeouts.get(kind.NAME) if isinstance(timeouts, Mapping) else None
        text = by_kind or kind.TIMEOUT
        inner = sum(step.timeout for steps in nested.values() for step in steps)
        patience = seconds(text) if isinstance(text, str) else 0.0
        return patience + lasts + inner, patience

    def _retry(self, kind: Kind, data: Any, path: tuple[str | int, ...]) -> Retry:
        if data is None:
            return Retry() if kind.RETRY == "repeat" else Retry(0)
        if kind.RETRY == "none":
            self._add(path, f"`{kind.NAME}` takes no `retry`", "it tries by itself until its `timeout`", at_key=True)
        if isinstance(data, int):
            return Retry(data)
        if kind.RETRY == "count":
            message = f"`{kind.NAME}` paces itself, and takes a number for `retry`"
            self._add(path, message, "retry: 1 asks once; without it, it asks again until its `timeout`", at_key=True)
        if not isinstance(data, Mapping) or self._has_error_below(path):
            return Retry()
        fail_if = (
            self._bare(data["fail_if"], (*path, "fail_if"), self.variables | {"error": "dyn"})
            if "fail_if" in data
            else None
        )
        return Retry(data.get("attempts", 1), seconds(data.get("interval", "1s")), data.get("backoff", 1.0), fail_if)

    # -- expressions --------------------------------------------------------------------------------------------

    def _condition(self, source: Any, path: tuple[str | int, ...]) -> Expression | None:
        if isinstance(source, bool):
            source = str(source).lower()
        return self._bare(source, path, self.variables, status=True) if isinstance(source, str) else None

    def _bare(
        self, source: str, path: tuple[str | int, ...], variables: Mapping[str, str], *, status: bool = False
    ) -> Expression | None:
        if expressions.has_expression(source):
            self._add(path, f"`{path[-1]}` is an expression as it stands", "leave out the `${{ }}`")
            return None
        compiled = self._compile(source, path, variables, (source, 0), "bool")
        if compiled and compiled.asks_status and not status:
            self._add(path, "success(), failure(), always() and cancelled() work in `if` only")
        return compiled

    def _map(self, data: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
        return (
            {key: self._template(value, (*path, key)) for key, value in data.items()}
            if isinstance(data, Mapping)
            else {}
        )

    def _template(self, value: Any, path: tuple[str | int, ...]) -> Any:
        """The value with every string that has `${{ }}` compiled."""
        if isinstance(value, Mapping):
            return {key: self._template(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._template(item, (*path, index)) for index, item in enumerate(value)]
        if not expressions.has_expression(value):
            return value
        parts: list[str | Expression] = []
        for piece in expressions.split(value):
            if not piece.is_expression:
                parts.append(piece.source)
                continue
            if not piece.complete:
                start = self.document.place(path, value, piece.offset - 3)
                self._add_at(start, "this `${{` is never closed", "end it with `}}`")
                continue
            compiled = self._compile(piece.source, path, self.variables, (value, piece.offset))
            if compiled and compiled.asks_status:
                lead = len(piece.source) - len(piece.source.lstrip())
                start = self.document.place(path, value, piece.offset + lead)
                self._add_at(start, "success(), failure(), always() and cancelled() work in `if` only")
            if compiled:
                parts.append(compiled)
        return Template(tuple(parts))

    def _compile(
        self,
        source: str,
        path: tuple[str | int, ...],
        variables: Mapping[str, str],
        within: tuple[str, int],
        wanted: str = "",
    ) -> Expression | None:
        """Compile, or add its flaws; `within` is the scalar's value, and the offset of the expression in it."""
        value, offset = within
        self.expressions += 1
        if self.expressions > MOST_EXPRESSIONS:
            message = f"a workflow has at most {MOST_EXPRESSIONS:,} expressions"
            self._add(path, message, "make several workflows of it")
            raise InvalidWorkflow(tuple(self.problems))
        try:
            return expressions.compile(source, variables, wanted=wanted)
        except InvalidExpression as error:
            for flaw in error.flaws:
                before = source.split("\n")[: flaw.line - 1]
                inner = sum(len(line) + 1 for line in before) + flaw.column - 1
                place = self.document.place(path, value, offset + inner)
                self._add_at(place, flaw.message, self._hint(flaw.message, path) or flaw.hint)
        return None

    def _hint(self, message: str, path: tuple[str | int, ...]) -> str:
        """A better hint for `steps.<id>` when the id exists in the file, but not yet or not here."""
        name = re.match(r"`steps\.(\w+)", message)
        place = self.ids.get(name.group(1)) if name else None
        if not place or f"steps.{name.group(1)}.outcome" in self.variables:  # type: ignore[union-attr]
            return ""
        line = self.document.positions[place].line
        if path[: len(place) - 1] == place[:-1]:
            inside = path[len(place) : len(place) + 1]
            return (
                "that is the step around this one" if set(inside) & {*schema.STEP_LISTS} else "that is this step itself"
            )
        return f"the step on line {line} runs later"

    def _add(
        self,
        path: tuple[str | int, ...],
        message: str,
        hint: str = "",
        *,
        at_key: bool = False,
        severity: str = "error",
    ) -> None:
        self._note(self.document.problem(path, message, hint=hint, at_key=at_key, severity=severity))

    def _add_at(self, place: Position, message: str, hint: str = "") -> None:
        lines = self.document.lines
        source = lines[place.line - 1] if place.line <= len(lines) else ""
        self._note(Problem(self.document.file, place.line, place.column, message, hint, source))

    def _note(self, problem: Problem) -> None:
        self.problems.append(problem)
        if len(self.problems) >= MOST_PROBLEMS:
            raise InvalidWorkflow(tuple(self.problems))


def _nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean …?`, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(words), n=1)
    return f"did you mean `{close[0]}`?" if close else ""


def _each_step(
    data: Mapping[str, Any], kinds: Mapping[str, Kind]
) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """(the path in the document, the step as written), those inside of others too."""
    for section in SECTIONS:
        yield from _steps_in(data.get(section), (section,), kinds)


def _steps_in(
    steps: Any, path: tuple[str | int, ...], kinds: Mapping[str, Kind]
) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    for index, step in enumerate(steps) if isinstance(steps, list) else ():
        if isinstance(step, Mapping):
            yield (*path, index), step
            for name, value in step.items():
                for key in nested_keys(kinds[name].Args) if name in kinds and isinstance(value, Mapping) else ():
                    yield from _steps_in(value.get(key), (*path, index, name, key), kinds)


def default_name(kind: Kind, data: Mapping[str, Any]) -> str:
    """`apply pythonapp/pod.yaml`: the kind and what it is about."""
    about = kind.title(data) if data else ""
    first = str(about).strip().split("\n", 1)[0]
    return f"{kind.NAME} {first}".strip() if len(first) <= 60 else f"{kind.NAME} {first[:57]}…"  # noqa: PLR2004


_CEL_TYPES: Final = {
    "string": "string",
    "integer": "int",
    "number": "double",
    "boolean": "bool",
    "list": "list",
    "map": "map",
}
_NAMES: Final = {cel: name for name, cel in _CEL_TYPES.items()} | {"dyn": "value"}


def _cel_type(value: Any) -> str:
    for python, cel in ((bool, "bool"), (int, "int"), (float, "double"), (list, "list"), (Mapping, "map")):
        if isinstance(value, python):
            return cel
    return "string"


def _fits(value: Any, type_: str) -> bool:
    return _cel_type(value) == type_ or (type_ == "double" and isinstance(value, int) and not isinstance(value, bool))


def _template_type(value: Any) -> str:
    if isinstance(value, Template):
        only = value.parts[0] if len(value.parts) == 1 else ""
        return (
            only.type
            if isinstance(only, Expression) and only.type in _NAMES
            else "dyn"
            if isinstance(only, Expression)
            else "string"
        )
    return "dyn" if value is None else _cel_type(value)


# -- values from outside ------------------------------------------------------------------------------------------


def input_values(
    inputs: Mapping[str, Input],
    settings: Sequence[str],
    files: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """The value of every input: default < environment < `files` < `settings` (`name=value`), typed by its declaration.

    Raises `UsageError` that names every input that is missing, unknown or of the wrong type.
    """
    faults: list[str] = []
    values: dict[str, Any] = {name: input_.default for name, input_ in inputs.items()}
    for name, input_ in inputs.items():
        if input_.env and input_.env in environment:
            values[name] = _typed(input_, environment[input_.env], f"${input_.env}", faults)
    for file in files:
        for name, value in file.items():
            if _known(name, inputs, "--values", faults):
                values[name] = value
                if not _fits(value, inputs[name].type):
                    faults.append(f"input `{name}` from --values is not {_a(_NAMES[inputs[name].type])}")
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            faults.append(f"--set {setting}: write --set name=value")
        elif _known(name, inputs, "--set", faults):
            if inputs[name].secret:
                faults.append(f"input `{name}` is secret: {_secret_way(inputs[name])}, not with --set")
            else:
                values[name] = _typed(inputs[name], text, "--set", faults)
    faults += _missing(inputs, values)
    if faults:
        raise UsageError("; ".join(faults))
    return values


def _secret_way(input_: Input) -> str:
    return f"give it in the environment as {input_.env}" if input_.env else "give it with --values FILE"


def _known(name: str, inputs: Mapping[str, Input], origin: str, faults: list[str]) -> bool:
    if name in inputs:
        return True
    hint = _nearest(name, inputs) or ("inputs: " + ", ".join(inputs) if inputs else "it declares none")
    faults.append(f"the workflow has no input `{name}` ({origin}); {hint}")
    return False


def _typed(input_: Input, text: str, origin: str, faults: list[str]) -> Any:
    """A text from the environment or the command line as the input's type."""
    try:
        if input_.type == "string":
            return text
        value = json.loads(text)
        if _fits(value, input_.type):
            return float(value) if input_.type == "double" else value
    except (ValueError, RecursionError):
        pass
    shown = "its value" if input_.secret else repr(text)
    faults.append(f"input `{input_.name}` from {origin} must be {_a(_NAMES[input_.type])}, not {shown}")
    return None


def _missing(inputs: Mapping[str, Input], values: Mapping[str, Any]) -> Iterator[str]:
    for name, input_ in inputs.items():
        value = values[name]
        if value is None and input_.required:
            way = _secret_way(input_) if input_.secret else f"--set {name}=…"
            yield f"input `{name}` is required: {way}"
        if input_.enum and value is not None and value not in input_.enum:
            yield f"input `{name}` must be one of {', '.join(map(str, input_.enum))}"
        if input_.secret and value is not None and len(str(value)) < masking.SHORTEST:
            yield f"input `{name}` is secret and shorter than {masking.SHORTEST} characters, which cannot be masked"


def scope_values(workflow: Workflow, inputs: Mapping[str, Any], run: Mapping[str, str]) -> dict[str, Any]:
    """The names that hold before the first step: inputs, vars, env, run. Raises `UsageError`."""
    values: dict[str, Any] = {f"inputs.{name}": value for name, value in inputs.items()}
    values |= {f"run.{name}": value for name, value in run.items()} | {"env": dict(os.environ)}
    for name, template in workflow.vars.items():
        try:
            values[f"vars.{name}"] = fill(template, values)
        except expressions.EvaluationError as error:
            raise UsageError(f"`vars.{name}` has no value: {error.message}") from None
    return values
