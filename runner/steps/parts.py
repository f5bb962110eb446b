"""The manifests of a step as kubectl's commands take them: one part for each phase. Pure, shared by plan and run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.steps import manifests

if TYPE_CHECKING:
    from runner.cluster.protocol import Manifest


@dataclass(frozen=True, slots=True)
class Part:
    """Objects of one phase: `files` when it has all that is in these, else none, and `text` is for standard input."""

    manifests: tuple[Manifest, ...]
    files: tuple[Path, ...] = ()

    @property
    def text(self) -> str:
        """The objects as documents of JSON, which is YAML."""
        return "".join(
            f"---\n{json.dumps(manifest.object, indent=2, ensure_ascii=False)}\n" for manifest in self.manifests
        )

    @property
    def definitions(self) -> tuple[str, ...]:
        """The names of the CustomResourceDefinitions in it."""
        found = (manifest.object for manifest in self.manifests)
        return tuple(item["metadata"]["name"] for item in found if item["kind"] == "CustomResourceDefinition")


def parts(phases: Iterable[tuple[Manifest, ...]], *, altered: bool = False) -> list[Part]:
    """A part for each phase. `altered` objects are not those of their files any more."""
    listed = list(phases)
    homes: dict[str, set[int]] = {}
    for number, phase in enumerate(listed):
        for manifest in phase:
            homes.setdefault(manifest.file, set()).add(number)
    return [Part(phase, () if altered else _files(phase, homes)) for phase in listed]


def _files(phase: Sequence[Manifest], homes: dict[str, set[int]]) -> tuple[Path, ...]:
    names = list(dict.fromkeys(manifest.file for manifest in phase))
    if manifests.INLINE in names or any(len(homes[name]) > 1 for name in names):
        return ()
    return tuple(map(Path, names))
