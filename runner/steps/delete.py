"""Delete objects, by file or by reference, and wait until they and their dependents are gone.

It deletes exactly what it names, whoever made it. Objects that are not there are no failure.

```yaml
- delete: pythonapp/pod.yaml
- delete: pod/pythonapp
- delete: {target: {kind: pod, selector: app=web}, grace: 5}
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta

from runner.errors import StepFailed
from runner.steps import kind, manifests
from runner.steps.kind import Context, Fault, Files, Output, Scene, Target

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


def title(data: Mapping[str, Any]) -> str:
    return kind.target_title(data.get("file") or data.get("target"))


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    target, file = data.get("target"), data.get("file")
    if (target is None) == (file is None):
        yield Fault((), "`delete` needs `target` or `file`, one of them")
    if file is not None:
        yield from manifests.faults(file, files, "file")
    elif isinstance(target, str) and kind.is_file(target):
        yield from manifests.faults(target, files, "target")
    elif target is not None:
        yield from kind.target_faults(target, ("target",))


def commands(args: Args, scene: Scene) -> tuple[Command, ...]:
    if names := _files(args):
        files = reversed(manifests.inside(names, scene))
        return tuple(
            scene.dialect.delete_file(
                scene.show_path(file), scene.namespace, args.grace, ignore_not_found=args.ignore_not_found
            )
            for file in files
        )
    selections = kind.selections(args.target or (), scene.namespace)
    return scene.dialect.delete(selections, args.grace, ignore_not_found=args.ignore_not_found)


equivalent = kind.no_equivalent


def run(args: Args, context: Context) -> dict[str, Any]:
    existed = context.cluster.delete(
        _refs(args, context),
        commands(args, context.scene),
        context,
        wait=args.wait,
        ignore_not_found=args.ignore_not_found,
    )
    return {"objects": [{"kind": ref.kind, "name": ref.name, "namespace": ref.namespace} for ref in existed]}


def _files(args: Args) -> str | tuple[str, ...]:
    if args.file:
        return args.file
    return args.target if isinstance(args.target, str) and kind.is_file(args.target) else ()


def _refs(args: Args, context: Context) -> list[Ref]:
    """What to delete, in the order of deletion: files last first."""
    if names := _files(args):
        objects = manifests.read(manifests.inside(names, context.scene))
        return [_named(item, context.namespace) for item in reversed(objects)]
    return [
        ref
        for selection in kind.selections(args.target or (), context.namespace)
        for ref in context.cluster.expand(selection, context.deadline)
    ]


def _named(item: Manifest, namespace: str) -> Ref:
    from runner.cluster.protocol import Ref

    ref = item.ref
    if not ref.name:
        raise StepFailed(
            f"{item.file}:{item.line}: the name of this {ref.kind} is generated, so it cannot be deleted by file",
            hint="delete it by label: `delete: {target: {kind: …, selector: …}}`",
            reason="manifest",
        )
    return Ref(ref.kind, ref.name, ref.namespace or namespace, ref.api_version)
