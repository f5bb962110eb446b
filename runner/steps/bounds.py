"""What may stand in a command line or a URL, and where paths of a workflow may lead.

Names come from files of strangers: `--all` as the name of a Pod would be a flag to `podman pod rm`, and `../x` as a
namespace another URL. These functions answer a sentence when something is wrong, or an empty text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

NAMESPACE: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
# Begins a value that only a run knows, where a plan stands in for it.
UNKNOWN: Final = "\ue000"
_KIND: Final = re.compile(r"[A-Za-z][A-Za-z0-9.-]*")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
STAY_INSIDE: Final = "move it into the repository, or say --allow-outside"
_LONGEST_NAME: Final = 255
"""Bytes; of every usual file system."""


def wrong_kind(kind: str) -> str:
    """A sentence when a word can be no kind: kubectl would take `--all` for a flag."""
    return "" if UNKNOWN in kind or _KIND.fullmatch(kind) else f"{kind!r} cannot be a kind"


def wrong_name(name: str) -> str:
    """A sentence when a text can be no object's name: it would be taken for a flag, or lead to another URL."""
    wrong = name.startswith("-") or name in (".", "..") or re.search(r"[\s/%\x00-\x1f\x7f-\x9f]", name)
    return f"{name!r} cannot be the name of an object" if wrong and UNKNOWN not in name else ""


def wrong_namespace(name: str) -> str:
    """A sentence when a text can be no namespace."""
    good = not name or UNKNOWN in name or re.fullmatch(NAMESPACE, name)
    return "" if good else f"{name!r} cannot be a namespace"


def wrong_image(name: str) -> str:
    """A sentence when a text can be no image's name."""
    return "" if UNKNOWN in name or _IMAGE.fullmatch(name) else f"{name!r} cannot be the name of an image"


def leaves(path: Path, root: Path) -> str:
    """A sentence when a path cannot exist or, its symlinks followed, leads out of the workflow's repository."""
    if wrong := impossible(path):
        return wrong
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return f"{path.name} is a link that leads nowhere"
    return "" if inside else f"{path.name} is outside of the repository of the workflow"


def impossible(path: Path) -> str:
    """A sentence when no file system can have this path."""
    if "\0" in str(path):
        return "a path cannot have a NUL character in it"
    longest = max(path.parts, key=len, default="")
    return f"the name {longest[:30]}… is too long" if len(os.fsencode(longest)) > _LONGEST_NAME else ""
