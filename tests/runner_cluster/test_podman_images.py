"""How an image reaches podman."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner.cluster.images import Builder
from runner.cluster.podman_images import load
from runner.errors import StepFailed


def test_what_podman_built_needs_no_loading(fakes: Any, hand: Any) -> None:
    fakes.put("podman")
    assert "needs no loading" in load("web", None, hand, Builder("buildah"))
    assert fakes.calls == ["podman image exists web"]


def test_an_image_that_is_not_there(fakes: Any, hand: Any) -> None:
    fakes.put("podman", "exit 1")
    with pytest.raises(StepFailed, match="podman has no image never-built"):
        load("never-built", None, hand, None)


def test_an_archive(fakes: Any, hand: Any) -> None:
    fakes.put("podman")
    assert load("web", Path("/x/app.tar"), hand, None) == "loaded by podman load --input=app.tar"
    assert fakes.calls == ["podman load --input=/x/app.tar"]


@pytest.mark.parametrize("builder", ["docker", "nerdctl"])
def test_an_image_of_another_store_is_handed_over(fakes: Any, hand: Any, builder: str) -> None:
    for program in (builder, "podman"):
        fakes.put(program)
    assert load("web", None, hand, Builder(builder)).startswith("loaded by podman load --input=")
    save, loading, tag = fakes.calls
    assert save.startswith(builder)
    assert save.endswith("docker.io/library/web:latest")
    assert loading.startswith("podman load --input=")
    assert tag == "podman tag docker.io/library/web:latest localhost/web:latest"
