"""The step kinds, as an explicit table. Adding one: its module, its line here, its test."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from runner.steps import apply, build, delete, forward, load, run, verify, wait
from runner.steps.kind import Kind

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {module.NAME: cast("Kind", module) for module in (build, load, apply, wait, forward, verify, delete, run)}
)
