"""A workflow without a run: every step with its commands, and signs for the values that only a run knows.

`plan` renders these records as a table or as a script. The argv come from the same functions that a run executes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from runner.cluster.protocol import Dialect
from runner.confidential import is_secret_name, of_variables
from runner.errors import StepFailed
from runner.expressions import EvaluationError, Expression, Template, text
from runner.shell import Command
from runner.steps.bounds import UNKNOWN
from runner.steps.kind import STEPS_HERE, Scene
from runner.workflow import Step, Workflow

# A value that only a run knows stands between these, in texts and argv.
OPEN: Final = UNKNOWN
CLOSE: Final = "\ue001"
SYMBOL: Final = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")


@dataclass(frozen=True, slots=True)
class Planned:
    """One step: its exact commands, the lines that its observations stand for, and when it runs (`""`: always)."""

    step: Step
    name: str
    commands: tuple[Command, ...] = ()
    equivalent: tuple[str, ...] = ()
    condition: str = ""
    skipped: bool = False
    problem: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    args: Any = None
    namespace: str = ""
    nested: tuple[Planned, ...] = ()
    """The steps inside it."""

    def walk(self) -> Iterator[Planned]:
        """This step and those inside it, in the order of the file."""
        yield self
        for inner in self.nested:
            yield from inner.walk()


def symbol(source: str) -> str:
    return f"{OPEN}{source}{CLOSE}"


def variable_of(step: Step) -> Callable[[str], str]:
    """The name of the shell variable for an output of a step."""
    prefix = step.id or re.sub(r"\W+", "_", step.path).strip("_")
    return lambda output: f"{prefix}_{output}"


def sketch(
    workflow: Workflow, values: Mapping[str, Any], dialect: Dialect, namespace: str, builder: Callable[[str], Any]
) -> list[Planned]:
    """All steps of a workflow in file order. `values` has what is known: inputs (secret ones left out), vars, env."""
    planner = _Planner(workflow, values, dialect, namespace, builder)
    return [planner.step(step) for step in (*workflow.steps, *workflow.on_failure, *workflow.finally_)]


def known_values(workflow: Workflow, inputs: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Values that may stand in a plan: secret inputs are left out, and vars that depend on what only a run knows."""
    values: dict[str, Any] = {
        f"inputs.{name}": value for name, value in inputs.items() if not workflow.inputs[name].secret
    }
    values["env"] = {name: value for name, value in environment.items() if not is_secret_name(name)}
    for name, template in workflow.vars.items():
        filled = draw(template, values)
        if not _has_symbol(filled):
            values[f"vars.{name}"] = filled
    return values


def draw(template: Any, values: Mapping[str, Any]) -> Any:
    """`workflow.fill` that puts a symbol wherever a value is not known yet."""
    if isinstance(template, Template):
        if len(template.parts) == 1:
            return _known(template.parts[0], values)
        return "".join(part if isinstance(part, str) else text(_known(part, values)) for part in template.parts)
    if isinstance(template, Mapping):
        return {key: draw(item, values) for key, item in template.items()}
    if isinstance(template, list):
        return [draw(item, values) for item in template]
    return template


def _known(part: str | Expression, values: Mapping[str, Any]) -> Any:
    if isinstance(part, str):
        return part
    if part.names - {"env"} <= values.keys():
        try:
            return part.evaluate(values)
        except EvaluationError:
            pass
    return symbol(part.source)


def _has_symbol(value: Any) -> bool:
    if isinstance(value, str):
        return OPEN in value
    if isinstance(value, Mapping):
        return any(map(_has_symbol, value.values()))
    return isinstance(value, list) and any(map(_has_symbol, value))


class _Planner:
    def __init__(
        self,
        workflow: Workflow,
        values: Mapping[str, Any],
        dialect: Dialect,
        namespace: str,
        builder: Callable[[str], Any],
    ) -> None:
        self.workflow = workflow
        self.values = values
        self.dialect = dialect
        self.namespace = namespace
        self.builder = builder

    def step(self, step: Step) -> Planned:
        name = str(draw(step.name, self.values))
        condition, skipped = self._condition(step)
        namespace = str(draw(step.namespace, self.values) or self.namespace)
        env = {key: self._variable(key, value) for key, value in step.env.items()}
        scene = Scene(
            dialect=self.dialect,
            namespace=namespace,
            folder=self.workflow.folder,
            show_path=_near,
            variable=variable_of(step),
            timeout=step.timeout,
            patience=step.patience,
            attempts=step.retry.attempts,
            secret=lambda value, what: value if OPEN in value else symbol(f"the {what} of {name}"),
            builder=self.builder,
            root=self.workflow.root,
        )
        nested = tuple(self.step(inner) for steps in step.nested.values() for inner in steps)
        try:
            args = _convert(step, draw(step.template, self.values))
            commands = step.kind.commands(args, scene)
            equivalent = step.kind.equivalent(args, scene)
        except StepFailed as error:
            return Planned(step, name, (), (), condition, skipped, error.message, env, nested=nested)
        return Planned(step, name, commands, equivalent, condition, skipped, "", env, args, namespace, nested)

    def _variable(self, name: str, value: Any) -> str:
        """A variable's value; a secret that is written out stays where it is, and whoever runs the plan gives it."""
        drawn = text(draw(value, self.values))
        return symbol(f"env.{name}") if OPEN not in drawn and any(of_variables({name: drawn})) else drawn

    def _condition(self, step: Step) -> tuple[str, bool]:
        """(when it runs, for people; whether it is known now that it does not)."""
        condition = step.condition
        if condition is None:
            return "", False
        if not condition.asks_status and condition.names - {"env"} <= self.values.keys():
            try:
                return ("", False) if condition.evaluate(self.values) is True else (condition.source, True)
            except EvaluationError:
                pass
        return condition.source, False


def _near(path: Path) -> str:
    """A path as a person would type it here."""
    import os

    relative = os.path.relpath(path)
    return relative if not relative.startswith("../..") else str(path)


def _convert(step: Step, data: Mapping[str, Any]) -> Any:
    """The arguments; a symbol where a number is wanted is put in after the conversion."""
    plain = dict(data)
    later: dict[str, Any] = {}
    while True:
        try:
            args = msgspec.convert(plain, step.kind.Args)
        except msgspec.ValidationError as error:
            key = next((key for key in plain if _has_symbol(plain[key]) and f".{key}" in str(error)), None)
            if key is None:
                raise StepFailed(str(error), reason="expression") from None
            later[key] = plain.pop(key)
            continue
        return msgspec.structs.replace(args, **later) if later else args


def symbols(planned: Planned) -> Iterator[str]:
    """The expressions that a planned step leaves to the run."""
    texts = [*planned.equivalent, *planned.env.values(), planned.namespace]
    texts += [word for command in planned.commands for word in (*command.argv, command.stdin or "")]
    for value in texts:
        yield from map(unquoted, SYMBOL.findall(value))
    for inner in planned.nested:
        yield from symbols(inner)


def unquoted(source: str) -> str:
    """An expression out of a line for a shell: `shlex` writes a single quote in a way of its own."""
    return source.replace("'\"'\"'", "'")


def reads_stdin(command: Command) -> bool:
    """Whether its manifests come by standard input."""
    return not {"-", "--filename=-"}.isdisjoint(command.argv)


def objects_given(command: Command) -> int | None:
    """How many objects go to a command's standard input; None when only a run knows."""
    if not reads_stdin(command):
        return 0
    return (command.stdin or "").count("---\n") or None


def observed(line: str) -> str:
    """What an observation stands for, without what a script needs around it: variables, functions with a deadline."""
    if re.match(r"\w+=", line) or line in (STEPS_HERE, "stop_asking"):
        return ""
    if image := re.fullmatch(r"load_image (.*)", line):
        return f"{image[1]} into the nodes, by ctr, kind, k3d, minikube or docker, as the cluster needs it"
    if awaited := re.match(r"await_ready (\d+) ", line):
        return f"every object of these, until it is ready, for {awaited[1]} s at most"
    if kept := re.match(r"keep_asking (\d+) ", line):
        return f"the same again and again meanwhile, of which {kept[1]} may fail"
    return re.sub(r"^(forward \S+|verify \S+ \S+ \S+ ('[^']*'|\S+)) ", "", line)


def spell(text: str) -> str:
    """A text with its signs as the expressions that they stand for."""
    return SYMBOL.sub(lambda match: "${{ " + match.group(1) + " }}", text)
