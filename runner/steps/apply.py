"""Make the objects of manifest files exist, as `kubectl apply` does.

Objects that were absent belong to the run: they carry its id as a label, and are deleted at its end (unless `keep`).
What existed before is updated, and left alone at the end.

```yaml
- apply: pythonapp/pod.yaml
- apply: {file: [rbac.yaml, deployment.yaml]}
- apply: manifests/          # every *.yaml, *.yml and *.json in this folder
```
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta

from runner.steps import kind, manifests
from runner.steps.kind import Context, Fault, Files, Output, Scene

if TYPE_CHECKING:
    from runner.shell import Command

NAME: Final = "apply"
SHORT: Final = "file"
TIMEOUT: Final = "1m"
RETRY: Final = "repeat"
EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {}
OUTPUTS: Final = {"objects": Output("list", "The objects, as `{kind, name, namespace, uid, created}`.")}


class Args(kind.Args, frozen=True):
    """What to apply."""

    file: Annotated[
        str | tuple[str, ...],
        Meta(description="Manifest files: a path, a folder, a glob, or a list of these.", examples=["app/pod.yaml"]),
    ]


needs_cluster = kind.always_cluster
wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
lasts = kind.no_time


def title(data: Mapping[str, Any]) -> str:
    value = data.get("file", "")
    return value if isinstance(value, str) else ", ".join(map(str, value))


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    return manifests.faults(data.get("file"), files, "file")


def commands(args: Args, scene: Scene) -> tuple[Command, ...]:
    names = manifests.inside(args.file, scene)
    return tuple(scene.dialect.apply(scene.show_path(name), scene.namespace) for name in names)


equivalent = kind.no_equivalent


def run(args: Args, context: Context) -> dict[str, Any]:
    objects = manifests.read(manifests.inside(args.file, context.scene))
    applied = context.cluster.apply(objects, context.namespace, context)
    return {
        "objects": [
            {
                "kind": item.ref.kind,
                "name": item.ref.name,
                "namespace": item.ref.namespace,
                "uid": item.uid,
                "created": item.created,
            }
            for item in applied
        ]
    }
