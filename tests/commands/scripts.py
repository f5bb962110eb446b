"""Planned scripts, run by bash."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


def executed(folder: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What came of `plan.sh` in this folder; `env` is laid over the environment."""
    return subprocess.run(
        ["bash", "plan.sh"],
        cwd=folder,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
