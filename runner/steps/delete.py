"""Delete objects, by file, by reference or by selector, and wait until they and their dependents are gone.

It deletes exactly what it names, whoever made it. Objects that are not there are no failure, nor are those of a kind
that the cluster does not know any more.

```yaml
- delete: pythonapp/pod.yaml
- delete: {file: [web.yaml, rbac.yaml]}
- delete: pod/pythonapp
- delete: [deployment/web, service/web]
- delete: {target: {kind: pod, selector: app=web}, grace: 5}
```

The objects of files go in the reverse order of `apply`: custom resources first (their controller may have to take a
finalizer away, so it must still run), then the rest, then CustomResourceDefinitions, then namespaces.

With `wait: false` the step ends as soon as the deletion has begun. An object that does not go within the timeout is
named with what holds it (a finalizer, a Pod that does not end, what is left in a namespace) and with what to type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from msgspec import Meta

from runner.errors import StepFailed
from runner.steps import kind, manifests
from runner.steps.kind import Context, Fault, Files, Output, Scene, Target
from runner.steps.parts import Part, parts

if TYPE_CHECKING:
    from runner.cluster.protocol import Manifest, Ref
    from runner.shell import Command

NAME: Final = "delete"
SHORT: Final = "target"
TIMEOUT: Final = "1m"
RETRY: Final = "repeat"
EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {}
OUTPUTS: Final = {"objects": Output("list", "The objects that were there, as `{kind, name, namespace}`.")}


class Args(kind.Args, frozen=True):
    """What to delete: `target` or `file`, one of them."""

    target: Annotated[Target | None, Meta(description="Objects, or a manifest file (`*.yaml`, `*.yml`, `*.json`).")] = (
        None
    )
    file: Annotated[str | tuple[str, ...], Meta(description="Manifest files: their objects are deleted.")] = ()
    ignore_not_found: Annotated[bool, Meta(description="Objects that are not there are no failure.")] = True
    grace: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Seconds that Pods get to end; by default what the Pod says (30)."),
    ] = None
    wait: Annotated[bool, Meta(description="Return only when the objects and their dependents are gone.")] = True


needs_cluster = kind.always_cluster
wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
lasts = kind.no_time
homeless = kind.no_objects


def title(data: Mapping[str, Any]) -> str:
    return kind.target_title(data.get("file") or data.get("target"))


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    target, file = data.get("target"), data.get("file")
    if (target is None) == (file is None):
        yield Fault((), "`delete` needs `target` or `file`, one of them")
    if file is not None:
        yield from manifests.faults(file, files, "file", deleting=True)
    elif isinstance(target, str) and kind.is_file(target):
        yield from manifests.faults(target, files, "target", deleting=True)
    elif isinstance(target, str) and target.endswith("/"):
        yield Fault(("target",), f"{target} is a folder", f"write `delete: {{file: {target}}}` for the files in it")
    elif target is not None:
        yield from kind.target_faults(target, ("target",))
        yield from _not_allowed(target, files)


def _not_allowed(target: Any, files: Files) -> Iterable[Fault]:
    if isinstance(target, Mapping):
        what, name, namespace = (str(target.get(key) or "") for key in ("kind", "name", "namespace"))
        yield from kind.not_allowed(what, name or "…", namespace, files, ("target",), deleting=True)
    else:
        for index, reference in enumerate(target) if isinstance(target, list) else [(-1, target)]:
            what, _, name = str(reference).partition("/")
            place = ("target",) if index < 0 else ("target", index)
            yield from kind.not_allowed(what, name, "", files, place, deleting=True)


def commands(args: Args, scene: Scene) -> tuple[Command, ...]:
    if not _files(args):
        selections = kind.selections(args.target or (), scene.namespace)
        return scene.dialect.delete(selections, args.grace, ignore_not_found=args.ignore_not_found)
    paths = manifests.inside(_files(args), scene)
    try:
        going = _parts(manifests.read(paths), scene)
    except StepFailed:  # of files that a step makes, only the names are known before the run
        return tuple(_delete_file(path, args, scene) for path in reversed(paths))
    return tuple(command for part in going for command in _part_commands(part, args, scene))


def _parts(objects: list[Manifest], scene: Scene) -> list[Part]:
    from runner.cluster import phases

    return parts(phases.going(objects) if scene.dialect.engine == "kubectl" else [tuple(reversed(objects))])


def _part_commands(part: Part, args: Args, scene: Scene) -> tuple[Command, ...]:
    if part.files:
        return tuple(_delete_file(path, args, scene) for path in part.files)
    return (replace(_delete_file("-", args, scene), stdin=part.text),)


def _delete_file(path: Path | Literal["-"], args: Args, scene: Scene) -> Command:
    name = path if isinstance(path, str) else scene.show_path(path)
    return scene.dialect.delete_file(name, scene.namespace, args.grace, ignore_not_found=args.ignore_not_found)


equivalent = kind.no_equivalent


def run(args: Args, context: Context) -> dict[str, Any]:
    existed = [ref for refs, commands_ in _batches(args, context) for ref in _delete(refs, commands_, args, context)]
    return {"objects": [{"kind": ref.kind, "name": ref.name, "namespace": ref.namespace} for ref in existed]}


def _delete(refs: list[Ref], commands_: tuple[Command, ...], args: Args, context: Context) -> list[Ref]:
    return context.cluster.delete(refs, commands_, context, wait=args.wait, ignore_not_found=args.ignore_not_found)


def _batches(args: Args, context: Context) -> Iterator[tuple[list[Ref], tuple[Command, ...]]]:
    """(what goes, the commands for it): one after the other, since what is left of one may need the next."""
    scene = context.scene
    if not _files(args):
        refs = [
            ref
            for selection in kind.selections(args.target or (), context.namespace)
            for ref in context.cluster.expand(selection, context.deadline)
        ]
        yield refs, commands(args, scene)
        return
    for part in _parts(manifests.read(manifests.inside(_files(args), scene)), scene):
        refs = [_named(item, context.namespace) for item in part.manifests]
        yield refs, _part_commands(part, args, scene)


def _files(args: Args) -> str | tuple[str, ...]:
    if args.file:
        return args.file
    return args.target if isinstance(args.target, str) and kind.is_file(args.target) else ()


def _named(item: Manifest, namespace: str) -> Ref:
    from runner.cluster.protocol import Ref

    ref = item.ref
    if not ref.name:
        raise StepFailed(
            f"{item.file}:{item.line}: {manifests.nameless(ref.kind)}",
            hint=manifests.NAMELESS_HINT,
            reason="manifest",
        )
    return Ref(ref.kind, ref.name, ref.namespace or namespace, ref.api_version)
