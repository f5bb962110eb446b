"""A run that is ended in any way, at any moment: 20 s later nothing of it exists, and nothing else was touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.crashes import Kill, Site, random_kills

pytestmark = pytest.mark.e2e


@pytest.fixture
def site(
    tmp_path: Path, cluster_env: dict[str, str], namespace: str, app_image: str, kubectl: Callable[..., str]
) -> Iterator[Site]:
    site = Site(tmp_path, namespace, cluster_env, kubectl)
    yield site
    site.forget()


@pytest.mark.parametrize("kill", random_kills(20), ids=str)
def test_nothing_is_left_of_a_run_that_is_ended(site: Site, kill: Kill) -> None:
    """A seeded sample of the kill matrix; `make soak` has all of it."""
    site.strike(kill)

    assert site.settle() == [], site.story()
