"""Which engine a run uses, and the proof that it may: kubectl with a context, podman only when there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner import shell
from runner.cluster import guard, kubeconfig
from runner.cluster.http import ApiError, Unreachable
from runner.deadline import Deadline
from runner.errors import CannotStart, CommandResult, TimedOut
from runner.shell import Command

if TYPE_CHECKING:
    from runner.cluster.kubeconfig import Selected
    from runner.cluster.kubectl import Kubectl
    from runner.cluster.patience import Report
    from runner.cluster.protocol import Cluster, Object

ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for: engine (`auto`, `kubectl`, `podman`), kubeconfig and context (empty: not named)."""

    engine: str = "auto"
    kubeconfig: str = ""
    context: str = ""
    named: bool = True
    """A person named the context, which allows a cluster that is not local."""


def engine_of(choice: Choice) -> tuple[str, Selected | None]:
    """The engine, and the context that it would use. Reads kubeconfigs, starts nothing. Raises `CannotStart`."""
    if choice.engine == "podman":
        return "podman", None
    selected = kubeconfig.select(choice.kubeconfig or None, choice.context or None)
    if selected:
        return "kubectl", selected
    if choice.engine == "kubectl":
        files = ", ".join(map(str, kubeconfig.sources(choice.kubeconfig or None)))
        raise CannotStart(
            f"there is no cluster: no kubeconfig has a current context (looked for in {files})",
            hint="start one (kind create cluster), name one with --context, or use --engine podman",
        )
    return "podman", None


def open_cluster(
    choice: Choice,
    folder: Path,
    report: Report,
    meanwhile: Callable[[], object] = lambda: None,
    parent: Deadline | None = None,
    sockets: Callable[[], str] = str,
) -> Cluster:
    """Connect to the chosen engine; refuses clusters that are not proven local and were not named.

    `folder` is private to the run and holds the pinned kubeconfig, which is left to the caller; `sockets` makes a
    folder for sockets; `meanwhile` is called while the engine's child process starts; `parent` cancels.
    Raises `CannotStart`; nothing is changed.
    """
    _, selected = engine_of(choice)
    with Deadline(ANSWER_SECONDS, parent) as deadline:
        if selected is None:
            from runner.cluster import podman

            if choice.engine == "auto":
                if files := kubeconfig.absent():
                    raise CannotStart(
                        f"there is no kubeconfig: $KUBECONFIG names {files}, which does not exist",
                        hint="correct it; for a run without a cluster say so: --engine podman, or KUBECONFIG=/dev/null",
                    )
                why = "no cluster is configured, so podman runs the manifests (--engine kubectl to insist on a cluster)"
                report("note", message=why)
            return podman.start(folder, deadline, sockets)
        if not shell.find("kubectl"):
            raise CannotStart("kubectl is not installed", hint="install kubectl, or use --engine podman")
        place = sockets()  # first: from now on somebody removes what a killed run leaves, credentials included
        pinned = kubeconfig.pin(selected, folder)
        try:
            cluster = _kubectl(selected, pinned, place, report)
        except BaseException:
            pinned.unlink(missing_ok=True)
            raise
        return _proven(cluster, selected, deadline, meanwhile, named=bool(choice.context and choice.named))


def open_again(folder: Path, report: Report, parent: Deadline, sockets: Callable[[], str], *, named: bool) -> Kubectl:
    """The cluster of a run that is dead, by the kubeconfig that it left in its folder; it must be proven to be local
    anew, unless it is `named` again. Raises `CannotStart`.
    """
    selected = kubeconfig.pinned(folder)
    with Deadline(ANSWER_SECONDS, parent) as deadline:
        cluster = _kubectl(selected, kubeconfig.pinned_path(folder), sockets(), report)
        return _proven(cluster, selected, deadline, named=named)


def reopen(engine: str, folder: Path, deadline: Deadline, sockets: Callable[[], str] = str) -> Cluster:
    """The cluster of a run that ended, by what it left in its folder: it has proven that it may use it."""
    if engine == "podman":
        from runner.cluster import podman

        return podman.start(folder, deadline, sockets)
    from runner.cluster.kubectl import Kubectl

    cluster = Kubectl(kubeconfig.pinned(folder), kubeconfig.pinned_path(folder), sockets())
    try:
        cluster.settle(deadline)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _kubectl(selected: Selected, pinned: Path, sockets: str, report: Report) -> Kubectl:
    from runner.cluster.kubectl import Kubectl

    return Kubectl(selected, pinned, sockets, report)


def _proven(
    cluster: Kubectl,
    selected: Selected,
    deadline: Deadline,
    meanwhile: Callable[[], object] = lambda: None,
    *,
    named: bool,
) -> Kubectl:
    """The cluster, when it answers and may be touched; else it is closed."""
    try:
        meanwhile()
        cluster.settle(deadline)
        cluster.verdict = guard.judge(selected, lambda: _nodes(cluster, selected, deadline), _runner(deadline))
        if not cluster.verdict.local:
            if not named:
                raise guard.refusal(cluster.verdict, selected)
            _ask(cluster, selected, deadline)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _nodes(cluster: Kubectl, selected: Selected, deadline: Deadline) -> list[Object]:
    """The nodes, or none when they may not be listed; `CannotStart` when nobody answers."""
    try:
        return cluster.nodes(deadline)
    except ApiError as error:
        if error.reason in ("Forbidden", "NotFound"):
            return []
        raise _unreachable(selected, error.message) from None
    except (Unreachable, TimedOut) as error:
        raise _unreachable(selected, _why(error)) from None


def _ask(cluster: Kubectl, selected: Selected, deadline: Deadline) -> None:
    """One request to a cluster that was named, so that an unreachable one is found before anything runs."""
    from runner.cluster.observer import PROBE

    try:
        cluster.patiently("GET", PROBE, deadline)
    except (ApiError, Unreachable, TimedOut) as error:
        raise _unreachable(selected, _why(error)) from None


def _why(error: ApiError | Unreachable | TimedOut) -> str:
    from runner.cluster.patience import Unanswered

    return error.why if isinstance(error, Unanswered) else error.message


def _unreachable(selected: Selected, why: str) -> CannotStart:
    return CannotStart(
        f"the cluster of context {selected.context} ({selected.server}) does not answer: {why}",
        hint="is it running? Choose another with --context NAME, or run without a cluster with --engine podman",
    )


def _runner(deadline: Deadline) -> Callable[[Command], CommandResult]:
    return lambda command: shell.run(command, deadline)
