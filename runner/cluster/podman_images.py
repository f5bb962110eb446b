"""How an image reaches podman, which runs what it built itself and has to be handed everything else."""

from __future__ import annotations

from pathlib import Path

from runner.cluster import images
from runner.cluster.images import Builder
from runner.cluster.protocol import Hand
from runner.cluster.references import qualified
from runner.errors import StepFailed
from runner.shell import Command


def load(image: str, archive: Path | None, hand: Hand, builder: Builder | None) -> str:
    """Make podman know an image; answers in words what was done."""
    if archive is not None:
        return _load_archive(archive, hand)
    if builder is not None and builder.name in ("docker", "nerdctl"):
        return _load_from(builder, image, hand)
    if hand.execute(Command(("podman", "image", "exists", image)), check=False).code:
        raise StepFailed(
            f"podman has no image {image}",
            hint="build it first (a `build` step before this one), or check its name with `podman images`",
            reason="no_image",
        )
    return f"podman runs what it built: {image} needs no loading"


def _load_archive(archive: Path, hand: Hand) -> str:
    hand.execute(Command(("podman", "load", f"--input={archive}")))
    return f"loaded by podman load --input={archive.name}"


def _load_from(builder: Builder, image: str, hand: Hand) -> str:
    name = qualified(image)
    path = hand.folder / "image.tar"
    try:
        for command in images.save_argv(builder, image, name, str(path)):
            hand.execute(command)
        words = _load_archive(path, hand)
    finally:
        path.unlink(missing_ok=True)
    if name.startswith("docker.io/library/"):
        # Where podman looks first for a name without a registry; an image of before may have it.
        hand.execute(Command(("podman", "tag", name, "localhost/" + name.removeprefix("docker.io/library/"))))
    return words
