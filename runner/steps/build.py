"""Build a container image, and make it known to the cluster's nodes.

The builder is docker, podman, buildah or nerdctl, whichever is there and works. The image reaches the nodes under the
name that kubelet looks for, so `image: pythonapp` with `imagePullPolicy: Never` (or `IfNotPresent`) works.

```yaml
- build: {image: pythonapp, context: pythonapp}
- build: {image: "web:dev", context: ., file: docker/Dockerfile, args: {VERSION: "1.2"}, target: runtime}
```

What is unchanged costs next to nothing: the builder's cache says so, and an image that the nodes have already, by its
id, is not sent again. After it was sent, the nodes are asked whether they really have it under this name. A Pod runs
what it was started with: when `apply` leaves an object as it was whose Pods still run the image of before, a warning
names them and says what to type. Images and build cache stay after a run; they are a cache. A build leaves nothing
else, however it ends: by a failure, its timeout, a signal, or when the runner itself is killed (SIGKILL). podman and
buildah get some seconds then to remove the container in which they worked.

kubelet asks a registry for an image without a tag (or with `:latest`) unless its manifest has an `imagePullPolicy`;
`validate` warns of such an image that is built here. A build that fails ends with what went wrong in the Dockerfile,
and all that the builder printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from runner.steps import bounds, kind
from runner.steps.kind import Args as BaseArgs
from runner.steps.kind import Context, Fault, Files, Output, Scene

if TYPE_CHECKING:
    from runner.shell import Command

NAME: Final = "build"
SHORT: Final = ""
TIMEOUT: Final = "10m"
RETRY: Final = "repeat"
EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {}
OUTPUTS: Final = {
    "image": Output("string", "The image's name, as given."),
    "id": Output("string", "The image's id: the digest of its configuration."),
}


class Args(BaseArgs, frozen=True):
    """What to build."""

    image: Annotated[str, Meta(description="The image's name: `pythonapp`, `registry.example/web:dev`.", min_length=1)]
    context: Annotated[str, Meta(description="The folder that the build sees.")] = "."
    file: Annotated[str, Meta(description="The Dockerfile; by default that in the context.")] = ""
    args: Annotated[dict[str, str], Meta(description="Build arguments (`ARG` in the Dockerfile).")] = {}
    target: Annotated[str, Meta(description="The stage to build.")] = ""
    platform: Annotated[str, Meta(description="The platform: `linux/amd64`.")] = ""
    builder: Annotated[Literal["auto", "docker", "podman", "buildah", "nerdctl"], Meta(description="What builds.")] = (
        "auto"
    )
    load: Annotated[bool, Meta(description="Make the image known to the cluster's nodes.")] = True


def title(data: Mapping[str, Any]) -> str:
    return str(data.get("image", ""))


def needs_cluster(data: Mapping[str, Any]) -> bool:
    return data.get("load", True) is not False


wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
lasts = kind.no_time
homeless = kind.no_objects


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    yield from kind.image_faults(data)
    for name, value in (data.get("args") or {}).items():
        for fault in kind.exposed(value, ("args", name), files):
            yield msgspec.structs.replace(fault, hint="it would stay in the image too: give it when the app starts")
    context = data.get("context", ".")
    if "${{" in context:
        return
    folder = files.folder / context
    if outside := bounds.leaves(folder, files.root):
        yield Fault(("context",), outside, bounds.STAY_INSIDE)
    elif not folder.is_dir():
        if context not in files.made:
            yield Fault(("context",) if "context" in data else (), f"there is no folder {context}")
    else:
        yield from _file_faults(data, files)


def _file_faults(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    context, file = data.get("context", "."), data.get("file", "")
    if "${{" in file:
        return
    if file:
        path = files.folder / file
        if outside := bounds.leaves(path, files.root):
            yield Fault(("file",), outside, bounds.STAY_INSIDE)
        elif not path.is_file() and file not in files.made:
            yield Fault(("file",), f"there is no file {file}", "it is relative to the workflow file")
    elif not any((files.folder / context / name).is_file() for name in ("Dockerfile", "Containerfile")):
        made = {f"{context}/Dockerfile", f"{context}/Containerfile"} & files.made
        if not made:
            yield Fault(
                ("context",) if "context" in data else (), f"there is no Dockerfile in {context}", "name it: `file: …`"
            )


def commands(args: Args, scene: Scene) -> tuple[Command, ...]:
    from runner.cluster import images

    file = scene.path(args.file) if args.file else ""
    return (
        images.build_argv(
            scene.builder(args.builder),
            kind.image(args.image),
            scene.path(args.context),
            file,
            args.args,
            args.target,
            args.platform,
        ),
    )


def equivalent(args: Args, scene: Scene) -> tuple[str, ...]:
    from runner.shell import quote

    return (quote(("load_image", args.image)),) if args.load and scene.dialect.engine == "kubectl" else ()


def run(args: Args, context: Context) -> dict[str, Any]:
    from runner.cluster import build_errors, images

    builder = context.scene.builder(args.builder)
    for command in commands(args, context.scene):
        result = context.execute(command, check=False)
        if result.code:
            raise build_errors.explained(result)
    found = context.execute(images.id_argv(builder, args.image))
    if args.load:
        context.note(context.cluster.load(args.image, None, context, builder))
    return {"image": args.image, "id": found.stdout.strip()}
