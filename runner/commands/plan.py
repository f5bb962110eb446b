"""`runner plan`: what a run would do, as a table or as a bash script. Touches nothing and needs no cluster."""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from runner.cluster import images
from runner.cluster.choose import Choice, engine_of
from runner.cluster.images import Builder
from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Dialect
from runner.commands import files, plan_json, script
from runner.commands.sketch import SYMBOL, Planned, draw, known_values, objects_given, observed, sketch, spell, symbol
from runner.errors import CannotStart, ExitCode, UsageError
from runner.reports import terminal
from runner.reports.encode import as_json
from runner.reports.wording import count, harmless
from runner.shell import quote
from runner.steps import curl
from runner.steps.bounds import wrong_namespace
from runner.workflow import Workflow


def run(options: Namespace) -> int:
    """Print the plan; problems of the files are raised as in `run`. A plan with a step that cannot be planned, and a
    script that cannot do the whole job by itself, are printed, too, but answer as a step that failed.
    """
    workflows = files.read(options.files, outside=options.allow_outside)
    if options.format == "sh" and len(workflows) > 1:
        raise UsageError("a script is made from one workflow", hint="name one file")
    if options.format == "sh" and options.output == "json":
        raise UsageError("--format sh makes a script, and --output json an object", hint="choose one of them")
    plans = []
    whole = True
    for workflow in workflows:
        values = known_values(workflow, files.values(workflow, options.set, options.values), os.environ)
        dialect = _dialect(options, workflow, values)
        values["run.engine"] = dialect.engine
        namespace = _namespace(options, workflow, values, dialect.engine)
        if dialect.engine == "podman":
            values["run.namespace"] = namespace
        planned = sketch(workflow, values, dialect, namespace, lru_cache(_builder))
        whole &= not any(inner.problem for item in planned for inner in item.walk() if not inner.skipped)
        if options.format == "sh":
            context = options.context or str(draw(workflow.context, values) or "")
            text, gaps = script.render(workflow, planned, dialect.engine, namespace, context, options)
            _warn_of_remarks(text)
            _warn_of_gaps(workflow, gaps)
            whole &= not any(gap.stops for gap in gaps)
        elif options.output == "json":
            plans.append(plan_json.workflow(workflow, planned, dialect.engine, namespace))
            continue
        else:
            text = "".join(f"{harmless(line)}\n" for line in _table(workflow, planned, dialect.engine, namespace))
        sys.stdout.write(terminal.fit(sys.stdout, text))
    if options.output == "json":
        terminal.write(sys.stdout, as_json(plan_json.document(plans), indent=2) + "\n")
    return ExitCode.PASSED if whole else ExitCode.FAILED


def _warn_of_remarks(text: str) -> None:
    """Say on stderr that a script checks less than a run, where it does."""
    remarks = len(re.findall(rf"^\s*{re.escape(curl.REMARK)}", text, re.MULTILINE))
    if remarks:
        what = "expectation of `verify` is a remark" if remarks == 1 else "expectations of `verify` are remarks"
        terminal.write(sys.stderr, f"runner: {remarks} {what} in this script, not checked by it\n")


def _warn_of_gaps(workflow: Workflow, gaps: Sequence[script.Gap]) -> None:
    """Say on stderr what a script does not do, a line for each."""
    for gap in gaps:
        terminal.write(sys.stderr, harmless(f"runner: {workflow.file}:{gap.line}: {gap.step}: {gap.missing}") + "\n")


def _builder(preferred: str) -> Builder:
    """The builder that a run would use; where there is none, the one that was asked for, so that the plan is whole."""
    try:
        return images.find_builder(preferred)
    except CannotStart:
        return Builder("docker" if preferred == "auto" else preferred, "", "none is installed")


def _dialect(options: Namespace, workflow: Workflow, values: Mapping[str, Any]) -> Dialect:
    asked = options.engine if options.engine != "auto" else workflow.engine
    context = options.context or str(draw(workflow.context, values) or "")
    try:
        engine, _ = engine_of(Choice(asked, options.kubeconfig, "" if SYMBOL.search(context) else context))
    except CannotStart:
        engine = "kubectl"
    if engine == "podman":
        from runner.cluster.podman_dialect import PodmanDialect

        return PodmanDialect()
    return KubectlDialect()


def _namespace(options: Namespace, workflow: Workflow, values: Mapping[str, Any], engine: str) -> str:
    wanted = workflow.namespace
    name = str(draw(wanted.name, values) or "")
    if wrong := wrong_namespace(name):
        raise UsageError(f"{workflow.file}: {wrong}")
    if engine == "podman":
        from runner.cluster.podman_dialect import NAMESPACE

        return NAMESPACE
    return str(options.namespace) or (symbol("run.namespace") if wanted.generate else name)


def _table(workflow: Workflow, planned: list[Planned], engine: str, namespace: str) -> Iterator[str]:
    place = spell(namespace) if namespace else "the context's own"
    if namespace == symbol("run.namespace"):
        place = f"a new one, {spell(str(workflow.namespace.generate))}…"
    yield f"{workflow.name} ({workflow.file}): engine {engine}, namespace {place}"
    if workflow.description:
        yield f"  {workflow.description}"
    section = ""
    for number, item in enumerate(planned, 1):
        if item.step.section != section:
            section = item.step.section
            yield f"{section}:"
        yield from _rows(f"{number:3}", item)
    keep = {"never": "deleted at the end, newest first", "on_failure": "deleted at the end unless the run fails"}
    yield f"cleanup: what the run created is {keep.get(workflow.keep, 'kept')}; what existed before is left alone"
    yield "  $ is executed as it stands (apply from a copy that carries the run's label), ~ is watched through the API"


def _rows(number: str, item: Planned) -> Iterator[str]:
    when = (
        f"  [skipped: {item.condition} is false]"
        if item.skipped
        else f"  [if {item.condition}]"
        if item.condition
        else ""
    )
    yield f"{number}  {spell(item.name)}{when}"
    for command in item.commands:
        first, *more = spell(quote(command.argv)).splitlines()
        given = f"  <<< {count(objects, 'object')}" if (objects := objects_given(command)) else ""
        yield f"       $ {first}{given}"
        yield from (f"         {line}" for line in more)
    for line in filter(None, map(observed, item.equivalent)):
        first, *more = spell(line).splitlines()
        yield f"       ~ {first}" + (" …" if more else "")
    if item.problem:
        yield f"       ! {spell(item.problem)}"
    for place, inner in enumerate(item.nested, 1):
        yield from (f"    {line}" for line in _rows(f"{number.strip():>3}.{place}", inner))
