"""Make an image that exists on this machine known to the cluster's nodes.

`build` does this by itself. `load` is for images that something else built or pulled, and for archives
(`docker save`, `podman save`).

```yaml
- load: pythonapp
- load: {archive: build/web.tar}
```

How images reach the nodes is the cluster's matter: kind, k3d and minikube take an archive by their own commands, nodes
that are this machine by `ctr`, Docker Desktop and its kin use the builder's images directly, and for all others the
image is pushed to the registry that its name names. What the nodes have already is not sent again, and afterwards they
are asked whether they have it. An archive must hold the image under the name that kubelet looks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from msgspec import Meta

from runner.steps import bounds, kind
from runner.steps.kind import Args as BaseArgs
from runner.steps.kind import Context, Fault, Files, Output, Scene

NAME: Final = "load"
SHORT: Final = "image"
TIMEOUT: Final = "5m"
RETRY: Final = "repeat"
EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {}
OUTPUTS: Final = {"image": Output("string", "The image's name, or the archive's path.")}


class Args(BaseArgs, frozen=True):
    """What to load: `image` or `archive`, one of them."""

    image: Annotated[str, Meta(description="An image of the local builder.")] = ""
    archive: Annotated[str, Meta(description="An archive of images, as `docker save` and `podman save` write it.")] = ""


def title(data: Mapping[str, Any]) -> str:
    return str(data.get("image") or data.get("archive") or "")


needs_cluster = kind.always_cluster
wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
lasts = kind.no_time
homeless = kind.no_objects


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    yield from kind.image_faults(data)
    image, archive = data.get("image"), data.get("archive")
    if bool(image) == bool(archive):
        yield Fault((), "`load` needs `image` or `archive`, one of them")
    if isinstance(archive, str) and "${{" not in archive and archive not in files.made:
        path = files.folder / archive
        if outside := bounds.leaves(path, files.root):
            yield Fault(("archive",), outside, bounds.STAY_INSIDE)
        elif not path.is_file():
            hint = f"a `run` step before that makes it says so with `generates: [{archive}]`"
            yield Fault(("archive",), f"there is no file {archive}", hint)


commands = kind.no_commands


def equivalent(args: Args, scene: Scene) -> tuple[str, ...]:
    from runner.shell import quote

    words = ("load_image", kind.image(args.image)) if args.image else ("load_archive", scene.path(args.archive))
    return (quote(words),) if scene.dialect.engine == "kubectl" else ()


def run(args: Args, context: Context) -> dict[str, Any]:
    archive = context.scene.inside(args.archive) if args.archive else None
    context.note(context.cluster.load(kind.image(args.image) if args.image else args.archive, archive, context))
    return {"image": args.image or args.archive}
