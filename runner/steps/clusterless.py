"""Commands of `run` that nobody answers where there is no cluster. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# What only an API server can answer. Others work without one (`kubectl kustomize`, `helm template`), or may.
_ASKING: Final = {
    "kubectl": re.compile(
        "annotate|api-resources|api-versions|apply|attach|auth|autoscale|cluster-info|cordon|cp|create|debug|delete"
        "|describe|diff|drain|edit|events|exec|explain|expose|get|label|logs|patch|port-forward|proxy|replace|rollout"
        "|run|scale|set|taint|top|uncordon|version|wait"
    ),
    "helm": re.compile("delete|get|history|install|list|ls|rollback|status|test|uninstall|upgrade"),
}
# Flags before the subcommand whose value is a word of its own.
_VALUED: Final = frozenset(
    ("-n", "--namespace", "--context", "--kube-context", "--cluster", "--user", "--as", "--request-timeout", "-v")
)
_OFFLINE: Final = re.compile(r"(^| )(--client|--dry-run=client|--local|--help|-h)\b")
# A cluster of the command's own.
_OWN_CLUSTER: Final = re.compile(r"kubeconfig|--server\b", re.IGNORECASE)
# Where one of these stands, a line of a script may never run, or may fail without harm.
_UNCERTAIN: Final = re.compile(
    r"(?:^|;)\s*(?:if|case|for|while|until|exit|trap|function|set \+\w+)(?:\s|$)|<<|\|\||(?<!>)&|\(\)", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Question:
    """A command that asks a cluster, and whether the step fails for certain when nobody answers."""

    command: str
    certain: bool


def question(data: Mapping[str, Any], env: Mapping[str, Any]) -> Question | None:
    """The first command of a `run`, as written, that asks the cluster of the run."""
    command = data.get("command")
    script = command if isinstance(command, str) else ""
    lines = _lines(script) if script else [[str(word) for word in command or ()]]
    if _OWN_CLUSTER.search(f"{script or ' '.join(lines[0])} {' '.join(env)}"):
        return None
    asking = next(filter(_asks, lines), None)
    if asking is None:
        return None
    expected = data.get("expect")
    fails = not (isinstance(expected, Mapping) and expected.get("code", 0) != 0)
    return Question(" ".join(_short(asking)), fails and not _UNCERTAIN.search(script))


def _lines(script: str) -> list[list[str]]:
    return [_words(line) for line in script.replace("\\\n", " ").splitlines()]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a quotation of several lines
        return line.split()


def _asks(words: Sequence[str]) -> bool:
    asking = _ASKING.get(words[0]) if words else None
    return bool(asking and asking.fullmatch(_subcommand(words)) and not _OFFLINE.search(" ".join(words)))


def _subcommand(words: Sequence[str]) -> str:
    rest = iter(words[1:])
    for word in rest:
        if word in _VALUED:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return ""


def _short(words: Sequence[str]) -> Iterator[str]:
    """The program and its subcommand: enough to find it in a step."""
    yield words[0]
    yield _subcommand(words)
