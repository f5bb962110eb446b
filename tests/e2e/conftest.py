"""What tests on the real cluster share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.flows import Files


@pytest.fixture
def files(tmp_path: Path, namespace: str, cluster_env: dict[str, str], app_image: str) -> Files:
    return Files(tmp_path, namespace, dict(cluster_env))
