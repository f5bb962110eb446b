"""Label selectors: the API server evaluates them, but podman has none. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from runner.errors import StepFailed

_TERM: Final = re.compile(r"\s*(!?[\w./-]+)\s*(?:(==|=|!=)\s*([\w.-]*)|\s(in|notin)\s*\(([^)]*)\))?\s*(?:,|$)")


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector: `app=web,tier!=db,env in (a, b),!old`."""
    position = 0
    while position < len(selector):
        term = _TERM.match(selector, position)
        if not term:
            raise StepFailed(f"{selector!r} is not a label selector", hint="as in app=web,tier!=db", reason="selector")
        if not _holds(term, labels):
            return False
        position = term.end()
    return True


def _holds(term: re.Match[str], labels: Mapping[str, str]) -> bool:
    key, sign, value, within, values = term.groups()
    if within:
        return (labels.get(key) in re.split(r"\s*,\s*", values.strip())) == (within == "in")
    if sign:
        return (labels.get(key) == value) == (sign != "!=")
    return key[1:] not in labels if key.startswith("!") else key in labels
