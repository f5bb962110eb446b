"""A plan as a bash script that does the same job by itself, cleanup included."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner.cluster.protocol import Selection
from runner.commands.sketch import (
    CLOSE,
    OPEN,
    SYMBOL,
    Planned,
    reads_stdin,
    spell,
    symbol,
    symbols,
    unquoted,
    variable_of,
)
from runner.shell import Command, quote
from runner.steps import apply
from runner.steps.kind import STEPS_HERE
from runner.workflow import Workflow

_HEAD = """\
#!/usr/bin/env bash
# {name}: the job of {file} as plain commands. It needs no runner, and can be changed at will.
# Commands without a remark are those that runner executes; lines marked `observe` stand for what runner
# watches through the API. Paths are relative to the folder in which this script was made.
# shellcheck disable=SC2016 # the scripts of `run` steps stand in single quotes
set -euo pipefail

undo=()        # what deletes what this script made, newest last
background=()  # processes that end with the script

cleanup() {{
  status=$?
  trap - EXIT INT TERM
  set +e -E
  trap '((status)) || status=1' ERR  # a step below that fails; the others run all the same
  if ((status != 0 && status < 128)); then on_failure; fi  # not after a signal
  finally
  trap - ERR
  for pid in "${{background[@]}}"; do kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
  for ((i = ${{#undo[@]}} - 1; i >= 0; i--)); do eval "${{undo[i]}}" || status=$((status ? status : 5)); done
  exit "$status"
}}
"""

_TRAPS = """\
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"""

_REMEMBER = """\
# Objects that do not exist yet are deleted at the end.   usage: remember [--namespace=NAME] --filename=FILE…
remember() {
  local name text="" place=()
  [[ " $* " != *" --filename=- "* ]] || text=$(cat)
  if [[ $1 == --namespace=* ]]; then place=("$1"); fi
  while read -r name; do
    undo+=("$(printf '%q ' delete_own "${place[@]}" "$name")")
  done < <(comm -23 \\
    <(kubectl apply --dry-run=client --output=name "$@" <<<"$text" | sort) \\
    <(kubectl get --ignore-not-found --output=name "$@" <<<"$text" | sort))
}

# The objects of a kind that the cluster knows no more are gone.
delete_own() {
  local said
  if said=$(kubectl delete --cascade=foreground --ignore-not-found "$@" 2>&1); then return; fi
  [[ $said == *"doesn't have a resource type"* ]] || { echo "$said" >&2; return 1; }
}
"""

_WITH_IMAGES = """\
# Print the objects of a kustomization with other images.   usage: with_images FOLDER IMAGES
with_images() {
  local folder
  folder=$(mktemp -d)
  printf 'resources: [%s]\\nimages: %s\\n' "$(realpath --relative-to="$folder" "$1")" "$2" >"$folder/kustomization.yaml"
  kubectl kustomize "$folder"
  rm -r "$folder"
}
"""

_RETRY = """\
# usage: retry ATTEMPTS SECONDS COMMAND…
retry() {
  local attempts=$1 pause=$2 n
  shift 2
  for ((n = 1; n < attempts; n++)); do
    "$@" && return
    sleep "$pause"
  done
  "$@"
}
"""

_CANNOT = """\
# What a script cannot do fails, with the reason.   usage: cannot REASON
cannot() {
  echo "$1" >&2
  return 1
}
"""

_FED = """\
# usage: fed TEXT COMMAND…
fed() { "${@:2}" <<<"$1"; }
"""

_EXITS = """\
# Whether a command ends with this code.   usage: exits CODE COMMAND…
exits() {
  local code=0
  "${@:2}" || code=$?
  ((code == $1))
}
"""

_SETTLED = """\
# Wait for the condition Ready of objects that have one; others are ready when they exist.
# usage: settled SECONDS OBJECT… [FLAG…]
settled() {
  [[ ! $(kubectl get "${@:2}" --output='jsonpath={..status.conditions[?(@.type=="Ready")]}') ]] \\
    || kubectl wait "${@:2}" --for=condition=Ready --timeout="$1s"
}
"""

_ANSWERED = """\
# Wait until somebody answers behind Services; those without a selector are ready when they exist.
# usage: answered SECONDS NAME,… [--namespace=NAME]
answered() {
  local name selector
  for name in ${2//,/ }; do
    appear "$1" "service/$name" "${@:3}" || return
    selector=$(kubectl get "service/$name" "${@:3}" --output='jsonpath={.spec.selector}') || return
    [[ $selector ]] || continue
    selector=--selector=kubernetes.io/service-name=$name
    appear "$1" endpointslice "$selector" "${@:3}" || return
    kubectl wait endpointslice "$selector" "${@:3}" \\
      --for='jsonpath={.endpoints[0].conditions.ready}=true' --timeout="$1s" || return
  done
}
"""

_AWAIT_READY = """\
# Wait until the objects of manifests are ready, which only the cluster can name.
# usage: await_ready SECONDS [--namespace=NAME] --filename=FILE…
await_ready() {
  local seconds=$1 objects api kind place name
  shift
  objects=$(kubectl get "$@" --no-headers \\
    --output=custom-columns=:.apiVersion,:.kind,:.metadata.namespace,:.metadata.name) || return
  while read -r api kind place name <&3; do
    if [[ $place == "<none>" ]]; then place=default; fi # of no importance to an object that is in no namespace
    case $kind in
@ARMS@
      *) [[ $api != */* ]] || kind+=.${api%/*} && settled "$seconds" "$kind/$name" --namespace="$place" || return ;;
    esac
  done 3<<<"$objects"
}
"""

_APPEAR = """\
# Returns when these objects exist; `kubectl wait` fails at once without them.   usage: appear SECONDS OBJECT… [FLAG…]
appear() {
  local end=$((SECONDS + $1)) names
  shift
  until names=$(kubectl get --output=name "$@" 2>/dev/null) && [[ $names ]]; do
    if ((SECONDS >= end)); then kubectl get "$@"; return 1; fi
    sleep 0.5
  done
}
"""

_FORWARD = """\
# A port-forward that is started again whenever it dies; returns when it listens.   usage: forward LOCAL COMMAND…
forward() {
  local port=$1
  shift
  (
    child=
    trap 'kill "$child" 2>/dev/null; exit 0' TERM
    while true; do
      "$@" >/dev/null 2>&1 &
      child=$!
      wait "$child" || sleep 0.2
    done
  ) &
  background+=($!)
  local end=$((SECONDS + 30))
  until (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    ((SECONDS < end)) || { echo "nothing listens on port $port: $*" >&2; return 1; }
    sleep 0.1
  done
}
"""

_FREE_PORT = """\
free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}
"""

_AS_EXPECTED = """\
# Ask once; sets `answer` and `code`, curl's own.   usage: as_expected STATUS TEXT curl ARGUMENT…
as_expected() {
  local status=$1 text=$2 got
  shift 2
  code=0
  answer=$("$1" --max-time 5 "${@:2}" --noproxy '*' --silent --show-error --write-out '\\n%{http_code}' \\
    2>&1 </dev/null) || code=$?
  got=${answer##*$'\\n'} answer=${answer%$'\\n'*}
  # shellcheck disable=SC2053 # the status is a pattern
  [[ $code == 0 && $got == $status && $answer == *"$text"* ]]
}
"""

_TCP = """\
# What curl is for HTTP: a bare connection.   usage: tcp OPTION VALUE HOST PORT …
tcp() { (: <"/dev/tcp/$3/$4") 2>&1; }
"""

_VERIFY = """\
# Ask until status (a pattern) and text are as wanted, ASKS times at most (0: as long as there is time; unsent: again
# only when nothing was sent).   usage: verify SECONDS ASKS STATUS TEXT curl ARGUMENT…
verify() {
  local end=$((SECONDS + $1)) asks=$2 asked=0 answer code
  shift 2
  until as_expected "$@"; do
    asked=$((asked + 1))
    # 5, 6 and 7: no connection came about
    if ((SECONDS >= end)) || [[ $asked == "$asks" || ($asks == unsent && $code != [567]) ]]; then
      printf 'not as expected: %s\\n%s\\n' "${*:3}" "$answer" >&2
      return 1
    fi
    sleep 0.2
  done
}
"""

_KEEP_ASKING = """\
# Ask in the background until stop_asking, which fails when more than MAX asks did.
# usage: keep_asking MAX STATUS TEXT curl ARGUMENT…
asking=()  # process, file of failures, MAX of each that goes on
keep_asking() {
  local file most=$1
  shift
  file=$(mktemp)
  (
    trap 'exit 0' TERM
    while true; do
      as_expected "$@" || printf '%s: %s\\n' "$(date +%T)" "$answer" >>"$file"
      sleep 0.05
    done
  ) &
  background+=($!)
  asking+=("$! $file $most")
}
stop_asking() {
  local pid file most failed
  read -r pid file most <<<"${asking[-1]}"
  unset 'asking[-1]'
  kill "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  failed=$(wc -l <"$file")
  cat "$file" >&2
  rm -f "$file"
  ((failed <= most)) || { echo "$failed asks failed, $most may" >&2; return 1; }
}
"""

# Values that whoever runs the script gives, as to a run.
_GIVEN = re.compile(r"inputs\.\w+|env(?:\.\w+|\[[\"']\w+[\"']\])")

# A variable that an observation sets, such as the free port of a forward.
_ASSIGNMENT = re.compile(r"(\w+)=[^ ]*$")

_PIN = """\
# A private copy of the kubeconfig, so that the commands below need no flags.
kubeconfig=$(mktemp)
undo+=("$(printf '%q ' rm -f "$kubeconfig")")
kubectl config view --minify --flatten --raw{context} >"$kubeconfig"
export KUBECONFIG=$kubeconfig
"""


@dataclass(frozen=True, slots=True)
class Gap:
    """What a script does not do as a run does. `stops`: it cannot do the job by itself."""

    line: int
    step: str
    missing: str
    stops: bool = True


def render(
    workflow: Workflow, planned: Sequence[Planned], engine: str, namespace: str, context: str, options: Namespace
) -> tuple[str, list[Gap]]:
    """The whole script, and what is missing in it. `namespace` and `context` may be empty: then the context's own, and
    the current one.
    """
    writer = _Script(workflow, planned, engine, namespace, context, options)
    text = _UNSEEN.sub(_in_octal, "\n".join(writer.lines())) + "\n"
    return text, sorted(writer.gaps, key=lambda gap: gap.line)


class _Script:
    def __init__(
        self,
        workflow: Workflow,
        planned: Sequence[Planned],
        engine: str,
        namespace: str,
        context: str,
        options: Namespace,
    ) -> None:
        self.workflow = workflow
        self.planned = planned
        self.engine = engine
        self.namespace = namespace
        self.context = context
        self.forced_namespace = bool(options.namespace)
        self.kubeconfig = str(options.kubeconfig)
        self.unknown: dict[str, str] = {}
        self.wanted = {source for item in planned for source in symbols(item)}
        self.provided = {name for item in planned for inner in item.walk() for name in _provided(inner)}
        self.gaps: list[Gap] = []

    def lines(self) -> Iterator[str]:
        steps = [line for item in self._of("steps") for line in self._step(item)]
        on_failure = [line for item in self._failing() for line in self._step(item)]
        finally_ = [line for item in self._of("finally") for line in self._step(item)]
        main = _without_unused(steps, "\n".join((*on_failure, *finally_)))
        yield _HEAD.format(name=_comment(self.workflow.name), file=_comment(self.workflow.file))
        yield from self._function("on_failure", on_failure)
        yield from self._function("finally", finally_)
        place = [*self._place(), *self._run_values()]
        unknown = list(self._unknown_values())
        yield from self._helpers("\n".join((*unknown, *place, *main, *on_failure, *finally_)))
        yield _TRAPS
        yield from unknown
        yield from place
        yield from main

    def _of(self, section: str) -> list[Planned]:
        failing = self._failing() if section == "steps" else []
        return [item for item in self.planned if item.step.section == section and item not in failing]

    def _failing(self) -> list[Planned]:
        """The steps of `on_failure`, and those of `steps` that run only after a failure."""
        return [
            item
            for item in self.planned
            if item.step.section == "on_failure" or (item.step.section == "steps" and "failure()" in item.condition)
        ]

    @staticmethod
    def _function(name: str, body: Sequence[str]) -> Iterator[str]:
        if not body:
            yield f"{name}() {{ :; }}"
            return
        yield f"{name}() {{"
        yield from (f"  {line}" if line else line for line in body)
        yield "}"

    def _helpers(self, text: str) -> Iterator[str]:
        if re.search(r"\bcannot '", text):
            yield _CANNOT
        if "remember " in text:
            yield _REMEMBER
        if "with_images " in text:
            yield _WITH_IMAGES
        if "retry " in text:
            yield _RETRY
        if re.search(r"^\s*await_ready ", text, re.MULTILINE):
            yield _await_ready()
        if re.search(r"\bexits \d", text):
            yield _EXITS
        if re.search(r"^\s*(\(cd .*)?(retry \S+ \S+ )?fed ", text, re.MULTILINE):
            yield _FED
        if re.search(r"^\s*(settled|await_ready) ", text, re.MULTILINE):
            yield _SETTLED
        if re.search(r"^\s*(answered|await_ready) ", text, re.MULTILINE):
            yield _ANSWERED
        if re.search(r"^\s*(appear|answered|await_ready) ", text, re.MULTILINE):
            yield _APPEAR
        if re.search(r"^\s*forward ", text, re.MULTILINE):
            yield _FORWARD
        if "$(free_port)" in text:
            yield _FREE_PORT
        if re.search(r"^\s*verify ", text, re.MULTILINE):
            if re.search(r"^\s*verify .* tcp ", text, re.MULTILINE):
                yield _TCP
            yield _AS_EXPECTED
            yield _VERIFY
        if re.search(r"^\s*keep_asking ", text, re.MULTILINE):
            yield _KEEP_ASKING
        if "load_image " in text or "load_archive " in text:
            from runner.cluster import images

            every = (inner for item in self.planned for inner in item.walk())
            builder = next((item for item in every if item.step.kind.NAME == "build"), None)
            preferred = builder.args.builder if builder and builder.args else "auto"
            yield images.load_script(_builder_of(preferred))

    def _unknown_values(self) -> Iterator[str]:
        for source, name in self.unknown.items():
            why = f"{name} is not set: {self._wanted_from(source)}"
            yield f"{name}=${{{name}:-}}"
            yield f"[[ ${name} ]] || cannot {shlex.quote(_comment(why))}"
        for step in self.workflow.all_steps:
            if step.id and f"steps.{step.id}.outcome" in self.wanted:
                yield f"{step.id}_outcome=skipped"

    @staticmethod
    def _wanted_from(source: str) -> str:
        """Who gives a value that is not in the script."""
        if _GIVEN.fullmatch(source):
            return f"export the value of {source}"
        return f"only runner computes {source}, so export its value to go on"

    def _run_values(self) -> Iterator[str]:
        """What a run knows of itself."""
        if "run.id" in self.wanted:
            yield "run_id=$(date +%Y%m%d-%H%M%S)-$(printf '%04x' $((RANDOM * 2)))"
        if self.engine != "kubectl":
            return
        if "run.context" in self.wanted:
            yield "run_context=$(kubectl config current-context)"
        if "run.namespace" in self.wanted and not self.namespace:
            yield "namespace=$(kubectl config view --minify --output 'jsonpath={..namespace}')"
            yield "namespace=${namespace:-default}"

    def _place(self) -> Iterator[str]:
        """The context and the namespace."""
        if self.engine != "kubectl":
            return
        if self.kubeconfig:
            yield f"export KUBECONFIG={shlex.quote(self.kubeconfig)}"
        if self.context or self.namespace:
            yield _PIN.format(context=f" --context={shlex.quote(self.context)}" if self.context else "")
        if not self.namespace:
            return
        wanted = self.workflow.namespace
        if wanted.generate and not self.forced_namespace:
            yield f"namespace={self._quoted(str(wanted.generate))}$(printf '%05x' $((RANDOM * 32)))"
            yield from self._own_namespace('"$namespace"')
            name = '"$namespace"'
        else:
            name = self._quoted(self.namespace)
            if "run.namespace" in self.wanted:
                yield f"namespace={name}"
            if wanted.create and not self.forced_namespace:
                yield f"if ! kubectl get namespace {name} >/dev/null 2>&1; then"
                yield from (f"  {line}" for line in self._own_namespace(name))
                yield "fi"
        yield f"kubectl config set-context --current --namespace={name} >/dev/null"
        yield ""

    @staticmethod
    def _own_namespace(name: str) -> Iterator[str]:
        yield f"kubectl create namespace {name}"
        yield f'undo+=("kubectl delete namespace {name.strip(chr(34))}")'
        yield f"appear 60 serviceaccount/default --namespace={name}  # observe"

    # -- steps --------------------------------------------------------------------------------------------------

    def _step(self, item: Planned) -> Iterator[str]:
        step = item.step
        yield ""
        yield f"# {_comment(item.name)}" + (f"  (line {step.line})" if step.line else "")
        if item.skipped:
            yield f"# skipped: {_comment(item.condition)} is false"
            return
        if item.problem:
            missing = f"cannot be planned: {_comment(item.problem)}"
            goes_on = "the script goes on without it" if step.continue_on_error else "the script stops there"
            if step.section != "steps":
                goes_on = f"`{step.section}` goes on, and the script fails"
            self._miss(item, f"{missing}; {goes_on}")
            place = f"{self.workflow.file}:{step.line}: {_comment(item.name)}"
            yield f"cannot {shlex.quote(f'{place}: {missing}')}{_tolerance(item)}"
            return
        for source in dict.fromkeys(symbols(replace(item, nested=()))):
            name = self._variable(source)
            if source in self.unknown and not _GIVEN.fullmatch(source):
                value = f"${{{{ {_comment(source)} }}}}"
                self._miss(item, f"only runner computes {value}; the script needs the variable {name} for it")
        for missing, stops in _losses(item):
            self._miss(item, missing, stops=stops)
        body = [*self._mutations(item), *self._observations(item)]
        if step.id and f"steps.{step.id}.outcome" in self.wanted:
            body = [f"{step.id}_outcome=failure", *body, f"{step.id}_outcome=success"]
        if item.condition and "failure()" not in item.condition and "always()" not in item.condition:
            name = f"if_{variable_of(step)('').rstrip('_')}"
            self._miss(item, f"runs in any case; {name}=false skips it (if: {_comment(item.condition)})", stops=False)
            yield f"# runs only if (CEL): {_comment(item.condition)}; set {name}=false to skip it"
            yield f"if [[ ${{{name}:-true}} == true ]]; then"
            yield from body
            yield "fi"
        else:
            yield from body

    def _miss(self, item: Planned, missing: str, *, stops: bool = True) -> None:
        self.gaps.append(Gap(item.step.line, spell(item.name), missing, stops))

    def _mutations(self, item: Planned) -> Iterator[str]:
        if item.step.kind.NAME == "apply":
            yield from self._applied(item)
            return
        for command in item.commands:
            yield self._executed(item, command)
            if item.step.kind.NAME == "delete" and command.stdin is not None:  # the next phase waits for this one
                yield from self._gone(item, [command])
        if item.step.kind.NAME == "delete":
            yield from self._gone(item, [command for command in item.commands if command.stdin is None])

    def _executed(self, item: Planned, command: Command, stdin: str = "") -> str:
        """A command with the step's environment, and everything around it: retries, the code that is expected, standard
        input (`stdin`, a word of the shell, or its own), folder, output variables and tolerance.
        """
        line = self._quoted_argv(command.argv)
        repeated = item.step.retry.attempts > 1
        code = getattr(getattr(item.args, "expect", None), "code", 0)
        if command.stdin is not None:
            stdin = self._quoted(command.stdin)
        if item.env:
            wrapped = "env " if repeated or code else ""
            line = wrapped + " ".join(f"{key}={self._quoted(value)}" for key, value in item.env.items()) + " " + line
        if repeated and stdin:  # each attempt reads it from the beginning
            line, stdin = f"fed {stdin} {line}", ""
        if code:
            line = f"exits {code} {line}"
        if repeated:
            line = f"retry {item.step.retry.attempts} {item.step.retry.interval:g} {line}"
        if stdin:
            line += f" <<<{stdin}"
        if command.cwd is not None and _relative(command.cwd) != ".":
            line = f"(cd {self._quoted(_relative(command.cwd))} && {line})"
        output = f"steps.{item.step.id}.outputs.stdout"
        if item.step.id and any(output in source for source in self.wanted):
            line = f"{variable_of(item.step)('stdout')}=$( {line} | tee /dev/stderr)"
        return line + _tolerance(item)

    def _is_ours(self, item: Planned) -> bool:
        return not item.step.keep and self.workflow.keep != "always"

    def _applied(self, item: Planned) -> Iterator[str]:
        """Phase by phase; what goes to more than one command is in a variable."""
        definitions = apply.definitions(item.args, self.workflow.folder) if self.engine == "kubectl" else ()
        variable = variable_of(item.step)("manifest")
        for number, command in enumerate(item.commands):
            if command.argv[1] == "kustomize":
                yield f"{variable}=$({self._rendering(item, command)}){_tolerance(item)}"
                continue
            source = ""
            if reads_stdin(command):
                source = f'"${variable}"'
                if command.stdin is not None:
                    yield f"{variable}={self._quoted(command.stdin)}"
            if self._is_ours(item) and self.engine == "kubectl":
                flags = [word for word in command.argv if word.startswith(("--namespace=", "--filename="))]
                yield f"remember {self._quoted_argv(flags)}" + (f" <<<{source}" if source else "")
            yield self._executed(item, replace(command, stdin=None), source)
            if self._is_ours(item) and self.engine == "podman":  # it plays only what does not exist
                yield f"undo+=({shlex.quote(_played_down(command, source))})"
            if names := definitions[number] if number < len(definitions) else ():
                wanted = [f"customresourcedefinition/{name}" for name in names]
                words = ["kubectl", "wait", "--for=condition=Established", *wanted]
                line = self._quoted_argv([*words, f"--timeout={int(item.step.timeout)}s"])
                yield f"{line}{_tolerance(item)}  # observe"

    def _rendering(self, item: Planned, command: Command) -> str:
        """What prints the objects of a kustomization."""
        images = apply.kustomize_images(item.args)
        argv = ("with_images", command.argv[-1], images) if images else command.argv
        return self._quoted_argv(argv)

    def _gone(self, item: Planned, commands: Sequence[Command]) -> Iterator[str]:
        """Kubectl deletes with --wait=false, and runner watches; here kubectl waits."""
        if self.engine != "kubectl" or not item.args.wait:
            return
        for command in commands:
            words = [word for word in command.argv[2:] if not word.startswith(("--ignore", "--wait", "--grace"))]
            line = self._quoted_argv(
                ["kubectl", "wait", "--for=delete", *words, f"--timeout={int(item.step.timeout)}s"]
            )
            source = "" if command.stdin is None else f" <<<{self._quoted(command.stdin)}"
            yield f"{line}{source}{_tolerance(item)}  # observe"

    def _observations(self, item: Planned) -> Iterator[str]:
        for line in item.equivalent:
            if line == STEPS_HERE:
                for inner in item.nested:
                    yield from self._step(inner)
                yield ""
                continue
            for portable in self._portable(item, line):
                plain = "\n" in line or "#" in line or _ASSIGNMENT.match(line)
                tolerated = item.step.continue_on_error and not line.startswith("#")
                tolerant = f"{portable} || true" if tolerated else portable
                yield self._with_variables(tolerant if plain else f"{tolerant}  # observe")

    @staticmethod
    def _portable(item: Planned, line: str) -> Iterator[str]:
        """A line that waits, after one that waits until there is something to wait for: kubectl before 1.31 does not
        know `--for=create`, and none before 1.33 with a selector.
        """
        if line.startswith("await_ready ") and "--filename=-" in line:
            line = f'{line} <<<"${variable_of(item.step)("manifest")}"'
        timeout = int(item.step.timeout)
        if services := _SERVICES.match(line):
            yield f"answered {timeout} {services['names']}{services['place'] or ''}"
            return
        awaited = _AWAITED.match(line)
        settled = _SETTLING.match(line) if getattr(item.args, "until", "ready") == "ready" else None
        if settled:
            line = f"settled {timeout} {settled['objects']}"
        if awaited and awaited["what"] != "delete":
            yield f"appear {timeout} {awaited['objects']}"
        if not awaited or awaited["what"] != "create":
            yield line

    # -- values that only a run knows -----------------------------------------------------------------------------

    def _variable(self, source: str) -> str:
        """The shell variable that holds the value of an expression."""
        if source in ("run.id", "run.context", "run.namespace") and (self.engine == "kubectl" or source == "run.id"):
            return "namespace" if source == "run.namespace" else source.replace(".", "_")
        if direct := re.fullmatch(r"steps\.(\w+)\.(?:outputs\.)?(\w+)", source):
            name = f"{direct.group(1)}_{direct.group(2)}"
            return name if name in self.provided else self.unknown.setdefault(source, name)
        if port := re.fullmatch(r"steps\.(\w+)\.outputs\.ports\[[\"']([\w-]+)[\"']\]", source):
            name = re.sub(r"\W", "_", f"{port[1]}_ports_{port[2]}")
            return name if name in self.provided else self.unknown.setdefault(source, name)
        if secret := re.fullmatch(r"inputs\.(\w+)", source):
            name = self.workflow.inputs[secret.group(1)].env or secret.group(1).upper()
            self.unknown.setdefault(source, name)
            return name
        if given := re.fullmatch(r"env(?:\.(\w+)|\[[\"'](\w+)[\"']\])", source):
            return self.unknown.setdefault(source, given.group(1) or given.group(2))
        return self.unknown.setdefault(source, f"value_{len(self.unknown) + 1}")

    def _with_variables(self, quoted: str) -> str:
        """Replace symbols inside single quotes (shlex quotes every word that has one) by variables in double quotes."""
        return _spelled(quoted, self._variable)

    def _quoted(self, word: str) -> str:
        return self._with_variables(shlex.quote(word))

    def _quoted_argv(self, argv: Sequence[str]) -> str:
        return self._with_variables(quote(argv))


def _spelled(quoted: str, variable: Callable[[str], str]) -> str:
    """Symbols inside single quotes as variables in double quotes."""
    text = SYMBOL.sub(lambda match: f"'\"${variable(unquoted(match.group(1)))}\"'", quoted)
    text = text.replace("''\"", '"').replace("\"''", '"')
    return re.sub(r"'([A-Za-z0-9@%+=:,./_-]+)'(?=\")", r"\1", text)


def _provided(item: Planned) -> Iterator[str]:
    """The variables that the lines of a step set."""
    if not item.step.id or item.skipped:
        return
    variable = variable_of(item.step)
    yield variable("outcome")
    if not item.problem:
        yield from (own[1] for line in item.equivalent if (own := _ASSIGNMENT.match(line)))
        if item.step.kind.NAME == "run":
            yield variable("stdout")


def _await_ready() -> str:
    """The function `await_ready`, with what waits for each kind of Kubernetes."""
    return _AWAIT_READY.replace("@ARMS@", "\n".join(_arms()))


def _arms() -> Iterator[str]:
    from runner.cluster.kubectl import KubectlDialect
    from runner.cluster.resources import BUILTIN

    ready_at_once = []
    for kind in dict.fromkeys(resource.kind for resource in BUILTIN):
        one = Selection(kind.lower(), (symbol("name"),), namespace=symbol("place"))
        (line,) = (_spelled(line, str) for line in KubectlDialect().wait(one, "ready", 1))
        if "--for=create" in line:
            ready_at_once.append(kind)
        elif kind == "Pod" or "--for=condition=Ready" not in line:
            line = line.replace("--timeout=1s", '--timeout="${seconds}s"')
            if kind == "Service":
                line = 'answered "$seconds" "$name" --namespace="$place"'
            yield f"      {kind}) {line} || return ;;"
    yield f"      {' | '.join(ready_at_once)}) ;;"


def _without_unused(lines: Sequence[str], elsewhere: str) -> list[str]:
    """The lines without assignments of variables that nothing reads."""
    kept = list(lines)
    while True:
        used = set(re.findall(r"\$\{?(\w+)", "\n".join((*kept, elsewhere))))
        fewer = [line for line in kept if not (own := _ASSIGNMENT.match(line)) or own.group(1) in used]
        if len(fewer) == len(kept):
            return kept
        kept = fewer


def _builder_of(preferred: str) -> Any:
    from runner.commands.plan import _builder

    return _builder(preferred)


def _played_down(command: Command, source: str) -> str:
    """The line that removes what podman played; `source`, a word of the shell, for standard input."""
    from runner.cluster.podman_dialect import PodmanDialect

    if source:
        return f"podman kube down - <<<{source}"
    return str(PodmanDialect().delete_file(command.argv[-1], "", None))


def _tolerance(item: Planned) -> str:
    """What stands behind a command that may fail."""
    return " || true" if item.step.continue_on_error else ""


def _losses(item: Planned) -> Iterator[tuple[str, bool]]:
    """(what a script does not do of what a step says, whether it therefore cannot do the job)."""
    retry, args = item.step.retry, item.args
    if item.step.kind.NAME == "wait":
        if args.that:
            yield "`that` is CEL, which kubectl does not know; the script does not wait", True
        if args.fail_if:
            yield "`fail_if` is not looked at by the script", False
        if args.count != "all":
            yield f"the script waits for all, not for `count: {args.count}`", False
    if item.step.kind.NAME == "run":
        for stream in ("stdout", "stderr"):
            if getattr(args.expect, stream):
                yield f"`expect.{stream}` is not checked by the script", False
    if apply.UNAWAITED in item.equivalent:
        yield "podman cannot say what it has made; the script does not wait", True
    if retry.attempts > 1 and retry.backoff != 1:
        yield f"the script pauses {retry.interval:g} s each time, without `retry.backoff`", False
    if retry.attempts > 1 and retry.fail_if:
        yield "`retry.fail_if` is not looked at by the script", False


def _relative(path: Path) -> str:
    import os

    return os.path.relpath(path)


def _comment(text: str) -> str:
    """Text that is safe behind a `#`."""
    spelled = SYMBOL.sub(lambda match: match.group(1), text)
    return _UNSEEN.sub(" ", re.sub(r"\s+", " ", spelled)).replace(OPEN, "").replace(CLOSE, "")


# A line of the dialect's that waits, and for what.
_AWAITED = re.compile(
    r"kubectl (?:wait|rollout status|get) (?P<objects>.*?) ['\"]?--(?:timeout|output|for)=(?P<what>\w*)"
)

# What waits for the endpoints of Services, and for the condition Ready of anything but Pods.
_SERVICES = re.compile(
    r"kubectl wait endpointslice '--selector=kubernetes\.io/service-name in \((?P<names>[^)]*)\)'"
    r"(?P<place> .*?)? '?--for"
)
_SETTLING = re.compile(r"kubectl wait (?!(?:pods?|po)[/ ])(?P<objects>.*?) --for=condition=Ready --timeout")

# Characters that do not show, or change how others show: whoever reads the script must see what it does.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def _in_octal(found: re.Match[str]) -> str:
    """Such a character inside of single quotes, where `shlex` puts it."""
    return "'$'" + "".join(f"\\{byte:03o}" for byte in found[0].encode()) + "''"
