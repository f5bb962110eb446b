"""Arguments, dispatch, and the one place where exceptions become a message and an exit code."""

from __future__ import annotations

import sys

from runner import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

COMMANDS = ("run", "plan", "validate", "schema", "doctor", "runs", "show", "clean")

# What `validate` and `plan` may use: memory in bytes, seconds of a processor.
MOST_MEMORY = 2 << 30
MOST_SECONDS = 30

DESCRIPTION = """\
runner executes a workflow written in YAML against a Kubernetes cluster: build an image, apply manifests,
wait until ready, forward a port, verify that it answers, delete. It leaves nothing behind.
"""

EXAMPLES = """\
examples:
  runner workflows/pod.yaml                 run a workflow (the same as: runner run workflows/pod.yaml)
  runner plan workflows/pod.yaml            show what it would do; touches nothing
  runner plan --format sh workflows/pod.yaml > pod.sh     the same job as a bash script
  runner validate workflows/                check all workflows of a folder
  runner doctor                             what this machine has, and what is missing
  runner run app.yaml --set tag=dev -n demo --keep-on-failure
  runner runs                               the runs of this machine; runner show ID tells what happened in one
  runner clean --all                        remove what killed runs left

exit codes: 0 passed, 1 a step failed, 2 usage or invalid workflow, 3 cannot start, 4 deadline reached,
5 passed but something could not be removed, 70 bug in runner, 128+N ended by signal N after cleanup
"""


RUNS_EXAMPLES = """\
examples:
  runner runs
  runner runs -o json | jq '.runs[] | select(.status == "crashed")'

The newest is the last, beside the prompt, as in `helm history`.

status: passed, failed, cancelled, not started, running, cleaning (its watchdog removes what is left), crashed;
in JSON as in the report of a run: success, failure, cancelled, error, running, cleaning, crashed
"""

PLAN_EXAMPLES = """\
examples:
  runner plan workflows/pod.yaml
  runner plan workflows/pod.yaml -o json | jq -r '.workflows[].steps[].commands[].line'
  runner plan --format sh workflows/pod.yaml > pod.sh && bash pod.sh

exit codes: 0 the plan is whole, 1 a step cannot be planned (its line begins with !), or the script cannot do the whole
job by itself (stderr says which steps, and what is missing), 2 usage or invalid workflow
"""

SHOW_EXAMPLES = """\
examples:
  runner show                               the last run
  runner show 20261124-02 -v                the run whose id begins so
  runner show 6c49                          or ends so

exit codes: 0 shown, 2 there is no such run
"""

CLEAN_EXAMPLES = """\
examples:
  runner clean                              list what can be removed
  runner clean --run 20261124-021208-6c49   remove what this run left, and what it kept
  runner clean --all                        remove what all dead runs of this machine left
  runner clean --cluster --older-than 2h    also what runs of other machines left in the current context

An object is removed only if it is the very one that the run made. What a run kept on purpose goes only with --run.

exit codes: 0 nothing is left, 2 usage, 3 the cluster of --cluster is refused or does not answer,
5 something could not be removed (the reason stands beside it)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; answers the exit code."""
    try:
        return _main(argv)
    except BrokenPipeError:
        _forget_stdout()
        return 1
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # the reader of stdout left, as `head` does
            _forget_stdout()


def _forget_stdout() -> None:
    """Send what is still in its buffer nowhere: otherwise the interpreter complains at its end, with code 120."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:  # without argparse: half of the start-up time
        sys.stdout.write(f"runner {__version__}\n")
        return 0
    if arguments and arguments[0] not in (*COMMANDS, "-h", "--help", "--version"):
        arguments.insert(0, "run")
    parser, commands = _parsers()
    if argv is None:
        _mask_tracebacks()
    if argv is None and arguments and arguments[0] in ("validate", "plan"):
        _bound()
    if arguments and arguments[0] in commands:
        # Not by the main parser: only a parser of its own takes options between files.
        options = commands[arguments[0]].parse_intermixed_args(arguments[1:])
        return _guarded(options)
    parser.parse_args(arguments)
    parser.print_help()
    return 2


def _mask_tracebacks() -> None:
    """No exception passes by the masking, also none of a thread."""
    import threading

    sys.excepthook = lambda _, error, __: _report_bug(error)
    threading.excepthook = lambda what: _report_bug(what.exc_value) if what.exc_value else None


def _bound() -> None:
    """Files of strangers are validated and planned: an expression may grow without end, and nothing else stops it."""
    import resource
    import signal

    def out_of_time(*_: object) -> None:
        raise TimeoutError

    for limit, most in ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CPU, MOST_SECONDS)):
        _, hard = resource.getrlimit(limit)
        try:
            resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        except (OSError, ValueError):  # macOS knows no limit of memory
            continue
    signal.signal(signal.SIGXCPU, out_of_time)


def _guarded(options: Namespace) -> int:
    import os

    from runner import confidential, masking
    from runner.errors import MACHINE, CannotStart, ExitCode, InvalidWorkflow, RunnerError, UsageError

    masking.hide(confidential.of_variables(os.environ))
    try:
        code = _dispatch(options)
        try:
            sys.stdout.flush()  # here a full disk has words
        except BrokenPipeError:
            _forget_stdout()
        return code
    except InvalidWorkflow as error:
        _report_problems(error, options)
        return error.code
    except RunnerError as error:
        _report_error(error, options)
        return error.code
    except BrokenPipeError:
        _forget_stdout()
        return 1
    except (MemoryError, TimeoutError) as error:
        what = f"{MOST_MEMORY >> 30} GiB" if isinstance(error, MemoryError) else f"{MOST_SECONDS} s"
        _report_error(UsageError(f"more than {what} would be needed for {' '.join(options.files)}"), options)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in MACHINE:
            _report_bug(error)
            return ExitCode.BUG
        _forget_stdout()
        _report_error(CannotStart(f"this machine refuses: {error}"), options)
        return ExitCode.CANNOT_START
    except Exception as error:  # noqa: BLE001 - whatever is left is a bug
        _report_bug(error)
        return ExitCode.BUG


def _dispatch(options: Namespace) -> int:
    from importlib import import_module

    code: int = import_module(f"runner.commands.{options.command}").run(options)
    return code


def _report_problems(error: object, options: Namespace) -> None:
    from runner.errors import InvalidWorkflow
    from runner.reports import json_report, problems, terminal

    assert isinstance(error, InvalidWorkflow)  # noqa: S101 - for the type checker
    if getattr(options, "output", "text") == "json":
        terminal.write(sys.stdout, json_report.render_problems(error.problems))
    else:
        style = terminal.Style.of(sys.stderr)
        width = terminal.columns(sys.stderr, problems.WIDTH)
        terminal.write(sys.stderr, problems.render(error.problems, style.colour, style.unicode, width))


def _report_error(error: object, options: Namespace) -> None:
    from runner.errors import RunnerError

    assert isinstance(error, RunnerError)  # noqa: S101 - for the type checker
    if getattr(options, "output", "text") == "json":
        from runner.reports import json_report, terminal
        from runner.result import RunResult

        result = RunResult("", (), 0.0, error=error.message, hint=error.hint)
        terminal.write(sys.stdout, json_report.render(result, int(error.code)))
    else:
        from runner.reports.wording import advice

        _say(f"runner: {error.message}" + (f"\n  {advice(error.hint)}" if error.hint else ""))


def _report_bug(error: BaseException) -> None:
    import traceback

    _say("".join(traceback.format_exception(error)))
    _say(f"runner: this is a bug in runner {__version__}; please report it with the lines above")


def _say(text: str) -> None:
    """Lines on stderr that can quote anything: no secret passes, and no character that fools a terminal."""
    from runner.reports import terminal, wording

    terminal.write(sys.stderr, "".join(f"{line}\n" for line in wording.block(text)))


def _parser_class() -> type[ArgumentParser]:
    import argparse

    class Parser(argparse.ArgumentParser):
        """Names the option that it does not know, also where a file is missing, and suggests the one that was meant."""

        given: Sequence[str] = ()

        def parse_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
            self.given = args
            return super().parse_intermixed_args(args, namespace)

        def error(self, message: str) -> NoReturn:
            unknown = next((word for word in self.given if self._is_unknown(word)), "")
            if unknown and message.startswith("the following arguments are required"):
                message = f"unrecognized arguments: {unknown}"
            close = self._close(unknown) if message.startswith("unrecognized") else ""
            super().error(message + (f" (did you mean {close}?)" if close else ""))

        def _is_unknown(self, word: str) -> bool:
            option = word.partition("=")[0] if word.startswith("--") else word[:2]
            return word[:1] == "-" and len(word) > 1 and option not in self._option_string_actions

        def _close(self, unknown: str) -> str:
            from difflib import get_close_matches

            known = [*self._option_string_actions, "--version"]
            return "--version" if unknown == "-V" else next(iter(get_close_matches(unknown, known, n=1)), "")

    return Parser


def _parsers() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of the whole, and that of each command."""
    import argparse

    parser = _parser_class()(
        prog="runner",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"runner {__version__}")
    group = parser.add_subparsers(title="commands", metavar="COMMAND")
    commands: dict[str, ArgumentParser] = {}

    def command(name: str, summary: str, examples: str = "") -> ArgumentParser:
        sub = commands[name] = group.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(command=name)
        return sub

    run = command("run", "Run workflows; `runner FILE` is short for it.")
    _files(run)
    _values(run)
    _cluster(run)
    _running(run)
    _output(run, "print the report as text, or as one JSON object on stdout")
    plan = command("plan", "Show what a run would do. Touches nothing, needs no cluster.", PLAN_EXAMPLES)
    _files(plan)
    _values(plan)
    _cluster(plan)
    _output(plan, "print the plan as text, or as one JSON object")
    plan.add_argument(
        "--format", choices=("table", "sh"), default="table", help="a table, or a bash script that does the same"
    )
    validate = command("validate", "Check workflow files; all problems at once.")
    _files(validate)
    _output(validate, "print problems as text, or as one JSON object")
    schema = command("schema", "Print the JSON Schema of workflow files, for editors.")
    schema.add_argument("--reference", action="store_true", help="print the reference page (Markdown) instead")
    doctor = command("doctor", "Say what this machine has, what a run would use, and what is missing.")
    _cluster(doctor)
    _output(doctor, "print findings as text, or as one JSON object")
    _past(command)
    return parser, commands


def _past(command: Callable[..., ArgumentParser]) -> None:
    """The commands about runs that were."""
    runs = command(
        "runs", "List the runs that this machine remembers, crashed ones included, the newest last.", RUNS_EXAMPLES
    )
    _state(runs)
    _output(runs, "print a table, or one JSON object")
    show = command("show", "Tell what happened in a past run, also in one that was killed.", SHOW_EXAMPLES)
    show.add_argument(
        "run",
        metavar="ID",
        nargs="?",
        default="last",
        help="the run's id, its beginning or its end; without it the last",
    )
    show.add_argument("-v", "--verbose", action="store_true", help="show commands and the output of children too")
    _state(show)
    _output(show, "print events as text, or the run as one JSON object")
    clean = command("clean", "List what earlier runs left, and remove it. Never touches live runs.", CLEAN_EXAMPLES)
    group = clean.add_argument_group("which runs (without any, they are listed only)")
    group.add_argument(
        "--run", action="append", default=[], metavar="ID", help="this one, kept objects included; repeatable"
    )
    group.add_argument("--older-than", default="", metavar="DURATION", help="those begun longer ago, as 2h")
    group.add_argument("--all", action="store_true", help="all that are not alive")
    group.add_argument("--dry-run", action="store_true", help="list only what would be removed")
    group.add_argument(
        "--cluster",
        action="store_true",
        help="also by label in the cluster, for runs of machines that are gone",
    )
    group = clean.add_argument_group("cluster")
    group.add_argument(
        "--context", default="", help="the kubeconfig context; naming one allows clusters that are not local"
    )
    group.add_argument("--kubeconfig", default="", metavar="FILE", help="instead of $KUBECONFIG or ~/.kube/config")
    _state(clean)
    _output(clean, "print text, or one JSON object")


def _files(parser: ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="workflow files, or folders with them")
    parser.add_argument(
        "--allow-outside", action="store_true", help="paths in a workflow may lead out of its repository"
    )


def _values(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("inputs")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="set an input; repeatable")
    group.add_argument(
        "--values", action="append", default=[], metavar="FILE", help="set inputs from a YAML file; repeatable"
    )


def _cluster(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("cluster")
    group.add_argument("-n", "--namespace", default="", help="use this namespace instead of the workflow's")
    group.add_argument(
        "--context", default="", help="the kubeconfig context; naming one allows clusters that are not local"
    )
    group.add_argument(
        "--kubeconfig", default="", metavar="FILE", help="the kubeconfig instead of $KUBECONFIG or ~/.kube/config"
    )
    group.add_argument(
        "--engine", choices=("auto", "kubectl", "podman"), default="auto", help="what runs the manifests"
    )


def _running(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument("--keep", action="store_true", help="leave what the run makes")
    group.add_argument("--keep-on-failure", action="store_true", help="leave it when the run fails")
    group.add_argument(
        "--timeout", default="", metavar="DURATION", help="the deadline of each workflow, its cleanup included, as 10m"
    )
    _state(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="the log on stderr: text or JSON lines"
    )
    group.add_argument("--events", default="", metavar="FILE", help="append every event to this file, as JSON lines")
    volume = group.add_mutually_exclusive_group()
    volume.add_argument(
        "-v", "--verbose", action="store_true", help="show commands and the output of children as it comes"
    )
    volume.add_argument("-q", "--quiet", action="store_true", help="log warnings and errors only")


def _state(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir", default="", metavar="FOLDER", help="where runs are remembered, instead of $XDG_STATE_HOME/runner"
    )


def _output(parser: ArgumentParser, help_: str) -> None:
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help=help_)


if __name__ == "__main__":
    sys.exit(main())
