"""From a checked document to a workflow, with every problem of the file and its place. The kinds are handed in."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from runner import expressions, schema
from runner.confidential import is_secret_name
from runner.document import Document, Position, load
from runner.errors import InvalidWorkflow, Problem
from runner.expressions import Expression, InvalidExpression, Template
from runner.inputs import CEL_TYPES, NAMES, cel_type, fits, nearest, template_type, with_article
from runner.steps.bounds import NAMESPACE
from runner.steps.kind import Fault, Files, Kind, nested_keys, seconds
from runner.workflow import (
    DEFAULT_TIMEOUT,
    GENERATED,
    MOST_EXPRESSIONS,
    MOST_PROBLEMS,
    MOST_STEPS,
    PINNED,
    RUN_FACTS,
    SECTIONS,
    Input,
    Namespace,
    Retry,
    Step,
    Workflow,
    default_name,
)


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
    if problems := not_a_workflow(document):
        raise InvalidWorkflow(problems)
    if not isinstance(data, Mapping):
        what = "a list" if isinstance(data, list) else "a single value"
        hint = "put the steps under `steps:`" if isinstance(data, list) else "it begins with `steps:`"
        raise InvalidWorkflow((document.problem((), f"a workflow is a map, this file is {what}", hint=hint),))


def not_a_workflow(document: Document) -> tuple[Problem, ...]:
    """What to do with a file of Kubernetes instead of running it; nothing for any other."""
    file, data = Path(document.file), document.data
    path: tuple[str, ...] = ()
    if file.stem == "kustomization" and isinstance(data, Mapping) and "steps" not in data:
        what, step = "a kustomization", "- apply: {kustomize: .}"
    elif is_manifest(data):
        path, what, step = ("kind",), with_article(str(data["kind"])), f"- apply: {file.name}"
    else:
        return ()
    hint = f"write a workflow with the step `{step}`, and run that"
    return (document.problem(path, f"this is {what}, not a workflow", hint=hint),)


def refuse_excess(document: Document, kinds: Mapping[str, Kind]) -> None:
    """Checking takes time for each step, and a file from a stranger may not take for ever."""
    for number, (path, _) in enumerate(_each_step(document.data, kinds), 1):
        if number > MOST_STEPS:
            message = f"a workflow has at most {MOST_STEPS:,} steps"
            raise InvalidWorkflow((document.problem(path, message, hint="make several workflows of it"),))


def is_manifest(data: Any) -> bool:
    """Whether a document is a Kubernetes object: it has `apiVersion` and `kind`, and no `steps`."""
    return isinstance(data, Mapping) and "apiVersion" in data and "kind" in data and "steps" not in data


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
        if namespace.generate:
            self._check_keep(step for steps in sections.values() for top in steps for step in top.walk())
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
        type_ = CEL_TYPES.get(declared, "string") if isinstance(declared, str) else cel_type(default)
        path: tuple[str, ...] = ("inputs", name) if shorthand else ("inputs", name, "default")
        if default is not None and not fits(default, type_):
            self._add(path, f"the default of input `{name}` is not {with_article(NAMES[type_])}")
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
            self.variables[f"vars.{name}"] = template_type(vars_[name])
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
        self._check_namespace(str(data.get("generate", "")), ("namespace", "generate"), GENERATED)
        name, prefix = (self._template(data.get(key, ""), ("namespace", key)) for key in ("name", "generate"))
        return Namespace(name, bool(data.get("create")), prefix)

    def _check_namespace(self, name: str, path: tuple[str | int, ...], pattern: str = NAMESPACE) -> None:
        if name and "${{" not in name and not re.fullmatch(pattern, name):
            hint = "use a-z, 0-9 and hyphens, 63 characters at most"
            self._add(path, f"{name!r} cannot be a namespace", hint)

    def _check_keep(self, steps: Iterable[Step]) -> None:
        for step in steps:
            lost = list(step.kind.homeless(step.template, self.folder)) if step.keep and not step.namespace else []
            if lost:
                self._add(
                    (*step.place, "keep"),
                    f"`keep` cannot keep {', '.join(lost)}: the run generates its namespace, and deletes it",
                    "name a namespace (`namespace: demo`), or keep all of a run with --keep",
                )

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
                hint = nearest(name, self.kinds) or "kinds: " + ", ".join(self.kinds)
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
        position = self.document.key_positions[*path, kind.NAME]
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
        wrong = {(problem.line, problem.column) for problem in self.problems if problem.severity == "error"}
        return bool(wrong) and any(
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
