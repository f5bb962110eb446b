"""Data as JSON that every stream can carry and every parser takes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_COMMAND = re.compile(r"##(vso)?\[", re.IGNORECASE)


def as_json(data: Any, indent: int | None = None) -> str:
    """JSON in pure ASCII: no encoding fails on it, and no control character in it reaches a terminal.

    NaN and infinities, which JSON has no words for, become null; what is no data becomes its text. `##[` is written
    with an escape: GitHub's and Azure's runners would take it for a command anywhere in a line.
    """
    try:
        text = json.dumps(data, indent=indent, allow_nan=False, default=str)
    except (ValueError, TypeError):
        text = json.dumps(_sound(data), indent=indent, allow_nan=False, default=str)
    return _COMMAND.sub(r"##\1\\u005b", text)


def _sound(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {str(key): _sound(item) for key, item in data.items()}
    if isinstance(data, list | tuple | set | frozenset):
        return [_sound(item) for item in data]
    return data
