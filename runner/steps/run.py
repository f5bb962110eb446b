"""Run your own command: a script for bash, or a program with its arguments.

A string is a script for `bash -euo pipefail`; a list is a program and its arguments, without a shell. Values travel in
`env`, never inside a script, and secrets nowhere else: every user of a machine can see the arguments of its programs.
The children see the run's cluster and namespace as kubectl's own defaults, in a kubeconfig of their own: what one of
them changes in it (`kubectl config use-context`, a new cluster) holds for the `run` steps after it, and for no other
step. A run is connected to a cluster when a step
needs one or names kubectl or helm, or when the file or the command line names a cluster or a namespace; otherwise, and
on podman, its children see no kubeconfig. A command of kubectl or helm that asks a cluster would then fail: a run with
such a step does not start, unless the step has an `if`, such as `if: run.engine == "kubectl"`, or a cluster of its own
(KUBECONFIG in `env`); where its failure may be harmless (`continue_on_error`, `|| true`) that is a warning.

Where the words of a command say that kubectl is asked for Secrets (`kubectl get secret db`), the Secrets of the step's
namespace, or of the one that its `-n` names, are read first: their data is masked in what the command prints. Secrets
that a program reads without such words, those of all namespaces (`-A`) or of another cluster, those that the command
itself makes and the records of Helm are not known, and not masked.

```yaml
- run: kubectl get pod
  show: true
- run: [python3, check.py, "--url", "${{ steps.web.outputs.url }}"]
- run: {command: ./make-manifests, generates: [build/app.yaml]}
- run: |
    test "$(curl --silent "$URL")" = Hello
  env: {URL: "${{ steps.web.outputs.url }}"}
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta

from runner.errors import StepFailed
from runner.steps import bounds, kind, matching
from runner.steps.kind import Args as BaseArgs
from runner.steps.kind import Context, Fault, Files, Match, Output, Scene

if TYPE_CHECKING:
    from runner.shell import Command

NAME: Final = "run"
SHORT: Final = "command"
TIMEOUT: Final = "5m"
RETRY: Final = "repeat"
EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {}
OUTPUTS: Final = {
    "stdout": Output("string", "What it printed, without the last newline."),
    "stderr": Output("string", "What it printed to standard error."),
    "code": Output("int", "Its exit code."),
    "json": Output("dyn", "What it printed, parsed, when that is JSON; else null."),
}


class Expect(BaseArgs, frozen=True):
    """What the command must do; without it, end with exit code 0."""

    code: Annotated[int, Meta(ge=0, le=255, description="The exit code.")] = 0
    stdout: Annotated[Match | None, Meta(description="What it must print.")] = None
    stderr: Annotated[Match | None, Meta(description="What it must print to standard error.")] = None


class Args(BaseArgs, frozen=True):
    """What to run."""

    command: Annotated[
        Annotated[str, Meta(min_length=1)] | Annotated[tuple[str, ...], Meta(min_length=1)],
        Meta(description="A script (a string), or a program and its arguments (a list)."),
    ]
    dir: Annotated[str, Meta(description="The working directory; by default the workflow's folder.")] = "."
    stdin: Annotated[
        str | None, Meta(description="What the command reads from standard input; nothing by default.")
    ] = None
    expect: Annotated[Expect, Meta(description="What counts as success.")] = Expect()
    generates: Annotated[
        tuple[str, ...],
        Meta(
            description="Files that it makes, so that later steps may name them.", extra_json_schema={"x-static": True}
        ),
    ] = ()


needs_cluster = kind.never_cluster

_TOOLS: Final = re.compile(r"\b(kubectl|helm)\b")
# A command of kubectl about Secrets, until what ends it in a script, and the namespace that it names.
_OF_SECRETS: Final = re.compile(r"\bkubectl\b[^|;&\n]*?\bsecrets?\b[^|;&\n]*", re.IGNORECASE)
_IN_NAMESPACE: Final = re.compile(r"\s(?:-n[ =]?|--namespace[ =])[\"']?([a-z0-9][a-z0-9-]*)")
fixed_ports = kind.no_ports
lasts = kind.no_time
homeless = kind.no_objects


def wants_cluster(data: Mapping[str, Any]) -> bool:
    return bool(_TOOLS.search(title(data)))


def title(data: Mapping[str, Any]) -> str:
    value = data.get("command", "")
    return value if isinstance(value, str) else " ".join(map(str, value))


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    command = data.get("command")
    if isinstance(command, str) and "${{" in command:
        yield Fault(
            ("command",),
            "an expression in a script is not allowed: its value would become code",
            'put it in `env: {NAME: "${{ … }}"}` and write "$NAME" in the script',
        )
    for index, word in enumerate(command) if isinstance(command, list) else ():
        yield from kind.exposed(word, ("command", index), files)
    if isinstance(command, list):
        yield from _program_faults(command)
    directory = data.get("dir")
    if isinstance(directory, str) and "${{" not in directory:
        path = files.folder / directory
        if outside := bounds.leaves(path, files.root):
            yield Fault(("dir",), outside, bounds.STAY_INSIDE)
        elif not path.is_dir() and directory not in files.made:
            yield Fault(("dir",), f"there is no folder {directory}")
    expect = data.get("expect")
    for stream in ("stdout", "stderr"):
        if isinstance(expect, Mapping) and isinstance(expect.get(stream), Mapping):
            yield from matching.faults(expect[stream], ("expect", stream))


def _program_faults(argv: list[Any]) -> Iterable[Fault]:
    """A whole command line in the place of the program; a path may have spaces."""
    words = argv[0].split() if argv and isinstance(argv[0], str) else []
    if len(words) > 1 and "${{" not in argv[0] and "/" not in words[0]:
        split = ", ".join([*words, *map(str, argv[1:])])
        line = " ".join([*words, *map(str, argv[1:])])
        message = f"there is no program with the name {argv[0]!r}: each word of a list is one argument"
        yield Fault(("command", 0), message, f"write `[{split}]`, or a string: `{line}`")


def commands(args: Args, scene: Scene) -> tuple[Command, ...]:
    from runner.shell import Command

    argv = ("bash", "-euo", "pipefail", "-c", args.command) if isinstance(args.command, str) else args.command
    return (Command(argv, stdin=args.stdin, cwd=scene.inside(args.dir)),)


def secrets_of(command: str | tuple[str, ...]) -> tuple[str, ...]:
    """The namespaces whose Secrets kubectl may print, as far as the words of a command say it; empty for the step's."""
    text = command if isinstance(command, str) else " ".join(command)
    calls = _OF_SECRETS.findall(text.replace("\\\n", " "))
    named = ((match[1] if (match := _IN_NAMESPACE.search(call)) else "") for call in calls)
    return tuple(dict.fromkeys(named))


equivalent = kind.no_equivalent


def run(args: Args, context: Context) -> dict[str, Any]:
    from runner.shell import find

    (command,) = commands(args, context.scene)
    context.conceal(secrets_of(args.command))
    if isinstance(args.command, str) and not find("bash"):
        raise StepFailed("bash is not installed", hint="install bash, or give `command` as a list", reason="tool")
    result = context.execute(command, check=False, lent=True)
    if result.code != args.expect.code:
        raise StepFailed(
            f"{_ended(result.code)}, expected exit code {args.expect.code}"
            if args.expect.code
            else _ended(result.code),
            reason="exit_code",
            result=result,
        )
    for stream, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        wanted: Match | None = getattr(args.expect, stream)
        if wanted and (wrong := matching.differences(wanted, text)):
            raise StepFailed(f"{stream} is not as expected", reason="expect", details="\n".join(wrong), result=result)
    return {
        "stdout": result.stdout.removesuffix("\n"),
        "stderr": result.stderr.removesuffix("\n"),
        "code": result.code,
        "json": matching.parsed(result.stdout),
    }


def _ended(code: int) -> str:
    return f"the command was ended by signal {-code}" if code < 0 else f"the command ended with exit code {code}"
