"""`runner doctor`: what is installed, which engine and cluster a run would use and why, and what to do about the rest.

It works with nothing installed. Every check has a few seconds, and independent ones go on at the same time.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner import __version__
from runner.cluster import images
from runner.cluster.choose import Choice, engine_of
from runner.cluster.guard import Verdict, judge, refusal
from runner.cluster.kubeconfig import Selected, pin, sources
from runner.deadline import Deadline
from runner.errors import CannotStart, CommandResult, ExitCode, StepFailed
from runner.reports import terminal
from runner.reports.encode import as_json
from runner.reports.wording import harmless
from runner.shell import Command, find
from runner.shell import run as execute

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from runner.cluster.protocol import Object

TOOL_SECONDS = 5.0
SERVER_SECONDS = 7.0

_ABSENT = "not installed"
_SIGNS = {"ok": "✓", "note": "-", "warning": "!", "missing": "✗"}
_CONTAINERS_CONF = (
    """printf '[containers]\\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\\n' >~/containers.conf """
    "&& export CONTAINERS_CONF=~/containers.conf"
)
_REMEDIES = (
    ("rlimit", _CONTAINERS_CONF),
    ("cgroup", 'set `runtime = "runc"` under `[engine]` in ~/.config/containers/containers.conf'),
    ("runc", "install a container runtime: apt-get install runc (or crun)"),
    ("newuidmap", "install uidmap, which containers without root need: apt-get install uidmap"),
    (
        "subuid",
        "give your user ids for containers: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
    ),
)
_CATATONIT = ("/usr/libexec/podman/catatonit", "/usr/local/libexec/podman/catatonit", "/usr/lib/podman/catatonit")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `ok`; `note`: not there, and not needed; `warning`: a run can start, but something
    will be missed; `missing`: no run can start. `hint` says what to install or type.
    """

    name: str
    state: Literal["ok", "note", "warning", "missing"]
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class _Tool:
    """A program: its version and what else there is to say, and why it cannot be used (empty when it can)."""

    text: str
    wrong: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class _Cluster:
    """What is known of the engine and its cluster: no `selected` without one, no `verdict` when it does not answer."""

    engine: str
    selected: Selected | None = None
    verdict: Verdict | None = None
    nodes: tuple[Object, ...] = ()
    error: CannotStart | None = None


def run(options: argparse.Namespace) -> int:
    """Look, print, and answer whether a run could start."""
    findings = diagnose(options.context, options.kubeconfig, options.engine or "auto", options.namespace)
    ready = all(finding.state != "missing" for finding in findings)
    if options.output == "json":
        answer = {"ready": ready, "findings": [asdict(finding) for finding in findings]}
        text = as_json(answer, indent=2) + "\n"
    else:
        text = "".join(f"{harmless(line)}\n" for line in render(findings).splitlines())
    sys.stdout.write(terminal.fit(sys.stdout, text))
    return ExitCode.PASSED if ready else ExitCode.CANNOT_START


def diagnose(
    context: str | None = None, kubeconfig: str | None = None, engine: str = "auto", namespace: str = ""
) -> list[Finding]:
    """Everything that a run would need, in the order in which it would need it; arguments as those of a run."""
    with ThreadPoolExecutor() as pool:
        choice = Choice(engine, kubeconfig or "", context or "")
        cluster_, builder_ = pool.submit(_cluster, choice), pool.submit(_builder)
        kubectl, podman, docker = pool.map(lambda look: look(), (_kubectl, _podman, _docker))
        cluster, builder = cluster_.result(), builder_.result()
    chosen = cluster.engine
    return [
        Finding("runner", "ok", f"{__version__}, Python {platform.python_version()} ({sys.executable})"),
        _tool("kubectl", kubectl, "missing" if chosen == "kubectl" else "note"),
        _tool("podman", podman, "missing" if chosen == "podman" else "note"),
        _tool("docker", docker, "note"),
        _builder_finding(builder),
        _engine_finding(choice, chosen),
        *(_cluster_findings(cluster, builder, namespace, named=bool(context)) if chosen == "kubectl" else ()),
    ]


def render(findings: list[Finding]) -> str:
    """The findings as lines for people: a sign, the name, what was found, and under it what to do."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_SIGNS[finding.state]} {finding.name:{width}}  {finding.text}")
        if finding.hint:
            lines.append(f"  {'':{width}}  → {finding.hint}")
    wrong = [finding.name for finding in findings if finding.state == "missing"]
    lines += ["", f"A run cannot start: see {', '.join(wrong)}." if wrong else "A run can start."]
    return "\n".join(lines) + "\n"


# --- tools


def _tool(name: str, tool: _Tool, state: Literal["missing", "note"]) -> Finding:
    """`state` is how bad it is when the tool cannot be used; one that is there but broken is never passed over."""
    if not tool.wrong:
        return Finding(name, "warning" if tool.hint else "ok", tool.text, tool.hint)
    if state == "note" and tool.hint and tool.wrong != _ABSENT:
        return Finding(name, "warning", tool.wrong, tool.hint)
    return Finding(name, state, tool.wrong, tool.hint if state == "missing" else "")


def _kubectl() -> _Tool:
    path = find("kubectl")
    if path is None:
        return _Tool("", _ABSENT, "install it: https://kubernetes.io/docs/tasks/tools/#kubectl")
    answer = _ask("kubectl", "version", "--client", "--output", "json")
    try:
        version = json.loads(answer.stdout)["clientVersion"]["gitVersion"]
    except (ValueError, KeyError, TypeError):
        return _Tool("", f"{path} does not work: {_last_line(answer)}", "install another, or put a working one on PATH")
    if "dispatcher" in version:
        text = f"{version} ({path}), a dispatcher: it starts another kubectl, that of the server's version"
        return _Tool(text, hint="every call takes twice as long; a plain kubectl first on PATH is better")
    return _Tool(f"{version} ({path})")


def _docker() -> _Tool:
    path = find("docker")
    if path is None:
        return _Tool("", _ABSENT)
    answer = _ask("docker", "version", "--format", "{{.Server.Version}}")
    version = answer.stdout.strip()
    if answer.code or not version:
        return _Tool("", f"installed ({path}), but its engine does not answer")
    return _Tool(f"engine {version} ({path})")


def _podman() -> _Tool:
    """The version, and whether a plain container starts: on some machines none does without a setting."""
    path = find("podman")
    if path is None:
        return _Tool("", _ABSENT, "install it: apt-get install podman catatonit (or brew install podman)")
    answer = _ask("podman", "--version")
    version = answer.stdout.strip().removeprefix("podman version ")
    if answer.code or not version:
        return _Tool("", f"{path} does not work: {_last_line(answer)}")
    if sys.platform != "linux":
        return _Tool(f"{version} ({path})")
    started = _start_container()
    if started.code:
        why = _last_line(started)
        return _Tool("", f"{version} ({path}), but a container cannot start: {why}", _remedy(why))
    if not find("catatonit") and not any(Path(place).exists() for place in _CATATONIT):
        return _Tool("", f"{version} ({path}), but catatonit is missing, which Pods need", "apt-get install catatonit")
    return _Tool(f"{version} ({path}), a container starts")


def _start_container() -> CommandResult:
    """Run `true` in a container that needs no image: this machine's own /usr, read-only, in an empty folder."""
    folders = [folder for folder in ("/usr", "/lib", "/lib64", "/bin") if Path(folder).exists()]
    volumes = [word for folder in folders for word in ("--volume", f"{folder}:{folder}:ro")]
    with tempfile.TemporaryDirectory(prefix="runner-doctor-", ignore_cleanup_errors=True) as root:
        options = ("--rm", "--network", "none", "--security-opt", "label=disable", *volumes)
        return _ask("podman", "run", *options, "--rootfs", root, find("true") or "/usr/bin/true")


def _remedy(why: str) -> str:
    return next((remedy for sign, remedy in _REMEDIES if sign in why), "`podman run` must work before a run can start")


def _builder() -> images.Builder | CannotStart:
    try:
        return images.find_builder()
    except CannotStart as error:
        return error


def _builder_finding(builder: images.Builder | CannotStart) -> Finding:
    if isinstance(builder, CannotStart):
        text = f"none, so no `build` step can run: {builder.message.partition(': ')[2]}"
        return Finding("builder", "warning", text, builder.hint)
    return Finding("builder", "ok", builder.why)


# --- the cluster


def _engine_finding(choice: Choice, chosen: str) -> Finding:
    if choice.engine != "auto":
        return Finding("engine", "ok", f"{chosen}, by --engine")
    if chosen == "kubectl":
        return Finding("engine", "ok", "kubectl, because there is a context")
    files = ", ".join(str(path) for path in sources(choice.kubeconfig))
    return Finding("engine", "ok", f"podman, because there is neither a context ({files}) nor a service account")


def _cluster(choice: Choice) -> _Cluster:
    """Choose engine and context as a run would, ask the server for its nodes, and judge whether it is local."""
    engine, selected = "kubectl", None  # podman is chosen without any error
    try:
        engine, selected = engine_of(choice)
        if selected is None:
            return _Cluster(engine)
        nodes = _nodes(selected)
        verdict = judge(selected, lambda: nodes, lambda command: _ask(*command.argv))
        return _Cluster(engine, selected, verdict, tuple(nodes))
    except CannotStart as error:
        return _Cluster(engine, selected, error=error)


def _nodes(selected: Selected) -> list[Object]:
    """The nodes; none when the server answers but does not let us see them."""
    if find("kubectl") is None:
        raise CannotStart("without kubectl nothing is known of the cluster")
    with tempfile.TemporaryDirectory(prefix="runner-doctor-") as folder:
        path = pin(selected, Path(folder))
        argv = ("kubectl", f"--kubeconfig={path}", "get", "nodes", "--output=json", "--request-timeout=5s")
        answer = _ask(*argv, seconds=SERVER_SECONDS, env={"KUBERC": "off", "KUBECTL_KUBERC": "false"})
    if answer.code == 0:
        with suppress(ValueError, KeyError):
            return list(json.loads(answer.stdout)["items"])
    if "(Forbidden)" in answer.stderr:
        return []
    raise CannotStart(
        f"the server {selected.server} cannot be used: {_last_line(answer)}",
        hint=f"see `kubectl --context {selected.context} get nodes`; start the cluster, or choose another one with "
        "--context NAME, or none with --engine podman",
    )


def _cluster_findings(
    cluster: _Cluster, builder: images.Builder | CannotStart, namespace: str, *, named: bool
) -> Iterator[Finding]:
    selected, verdict, error = cluster.selected, cluster.verdict, cluster.error
    if selected:
        used = namespace or selected.namespace
        yield Finding("context", "ok", f"{selected.context} ({selected.server}), namespace {used}")
    if error:
        yield Finding("cluster" if selected else "context", "missing", error.message, error.hint)
    if selected and verdict:
        yield Finding("cluster", "ok", _describe(cluster.nodes))
        yield _guard_finding(verdict, selected, named=named)
        yield _images_finding(verdict, builder)


def _guard_finding(verdict: Verdict, selected: Selected, *, named: bool) -> Finding:
    if verdict.local:
        return Finding("guard", "ok", f"local: {verdict.proof}")
    if named:
        return Finding("guard", "ok", f"not known to be local ({verdict.proof}), but named by --context")
    return Finding("guard", "missing", f"not known to be local: {verdict.proof}", refusal(verdict, selected).hint)


def _describe(nodes: tuple[Object, ...]) -> str:
    """`2 nodes: a (v1.34.1, containerd://1.6.20), b (…)`."""
    if not nodes:
        return "it answers, but does not let us see its nodes"
    infos = [(node["metadata"]["name"], node.get("status", {}).get("nodeInfo", {})) for node in nodes]
    words = [f"{name} ({info.get('kubeletVersion')}, {info.get('containerRuntimeVersion')})" for name, info in infos]
    return f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}: {', '.join(words)}"


def _images_finding(verdict: Verdict, builder: images.Builder | CannotStart) -> Finding:
    """How an image would reach the nodes, and whether what does it is there."""
    if isinstance(builder, images.Builder) and images.shares_store(verdict, builder):
        return Finding("images", "ok", f"{verdict.provider_name} uses the images of {builder.name} directly")
    if verdict.provider == "remote":
        return Finding("images", "warning", "by push: they must be named by a registry that the nodes reach")
    means = images.means(verdict)
    tool = means.split()[0]
    if find(tool) is None:
        return Finding("images", "warning", f"by `{means}`, but {tool} is not installed", f"install {tool}")
    if verdict.provider == "node" and verdict.provider_name in images.CTR:
        answer = _ask(*images.CTR[verdict.provider_name], *images.PATIENCE, "version")
        if answer.code:
            return Finding("images", "warning", f"by `{means}`, but: {_last_line(answer)}", images.CTR_HINT)
    return Finding("images", "ok", f"by `{means}`")


# --- asking


def _ask(*argv: str, seconds: float | None = None, env: dict[str, str | None] | None = None) -> CommandResult:
    """Run a program for a few seconds; never raises: what goes wrong is in the answer."""
    seconds = seconds or TOOL_SECONDS
    try:
        with Deadline(seconds) as deadline:
            return execute(Command(argv, env=env or {}), deadline)
    except StepFailed:
        return CommandResult(argv, -1, "", f"no answer within {seconds:g} s", seconds)
    except CannotStart as error:
        return CommandResult(argv, 127, "", error.message, 0.0)


def _last_line(answer: CommandResult) -> str:
    """The line that says what is wrong: the last one that is no log line of kubectl's."""
    lines = [line for line in (answer.stderr or answer.stdout).splitlines() if line.strip()]
    told = [line for line in lines if not re.match(r"[EWI]\d{4} ", line)] or lines
    return told[-1].strip().removeprefix("Error: ") if told else f"exit code {answer.code}"
