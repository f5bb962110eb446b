"""Make the objects of manifests exist, as `kubectl apply` does.

Objects that were absent belong to the run: they carry its id as a label, and are deleted at its end (unless `keep`).
What existed before is updated, and left alone at the end.

```yaml
- apply: pythonapp/pod.yaml
- apply: {file: [rbac.yaml, deployment.yaml]}
- apply: manifests/          # every *.yaml, *.yml and *.json in this folder
- apply: {file: web.yaml, wait: true}
- apply: {kustomize: overlays/demo, images: {pythonapp: "pythonapp:dev"}}
- apply:
    manifest:
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: settings}
      data: {run: "${{ run.id }}"}
```

Manifests come from one of three places. `file` names files, folders, globs, or a list of these. `kustomize` names a
folder with a kustomization.yaml, which `kubectl kustomize` renders. `manifest` holds the objects themselves: a map, a
list of maps, or a text of several documents. A map is the better choice for values from outside: there they stay
values, whatever is in them.

The order of the objects need not matter: namespaces come first, then CustomResourceDefinitions, which are waited for
until the cluster serves them, then the rest as written. What heals by itself is tried again until the step's timeout,
with a line in the log: a namespace without its service account, an admission webhook that does not serve yet, a
namespace or an object of before that is still being deleted, a quota that is not counted yet, an API server that is
busy or away. What cannot succeed (a field that cannot be changed, a permission that is missing) fails at once.

`images` sets image references without templates, by kustomize's rule: an image is known by its name without tag and
digest, in all containers of Pods and of everything that has a Pod template; a new reference without a tag keeps that
of the manifest. An image that no container uses is an error, which lists those that are.

`wait: true` ends the step when all objects are ready, as a `wait` step does, and fails as early. URLs, and
kustomizations that build on them, need `allow_remote: true`. podman runs Pods, Deployments, ConfigMaps, Secrets and
PersistentVolumeClaims; it has no server-side apply. What it ignores (a Service, a readinessProbe, a second replica) is
a warning before anything runs, and what it cannot run at all an error; where only the run knows the objects
(kustomizations, manifests with expressions, files that a step makes), just before they are applied.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import Meta

from runner.errors import StepFailed
from runner.steps import image_faults, kind, kustomize, manifests
from runner.steps.bounds import UNKNOWN
from runner.steps.kind import Context, Fault, Files, Output, Scene
from runner.steps.parts import Part, parts

if TYPE_CHECKING:
    from runner.cluster.protocol import Applied, Manifest, Ref, Selection
    from runner.shell import Command

NAME: Final = "apply"
SHORT: Final = "file"
TIMEOUT: Final = "1m"
RETRY: Final = "repeat"
EXPRESSIONS: Final[Mapping[str, tuple[str, ...]]] = {}
UNAWAITED: Final = "# then it waits until all of these objects are ready"
"""What stands for `wait: true` where podman makes objects that only a run knows."""
OUTPUTS: Final = {"objects": Output("list", "The objects, as `{kind, name, namespace, uid, created}`.")}


class Args(kind.Args, frozen=True):
    """What to apply: `file`, `kustomize` or `manifest`, one of them."""

    file: Annotated[
        str | tuple[str, ...],
        Meta(description="Manifest files: a path, a folder, a glob, or a list of these.", examples=["app/pod.yaml"]),
    ] = ()
    kustomize: Annotated[str, Meta(description="A folder with a kustomization.yaml.")] = ""
    manifest: Annotated[
        dict[str, Any] | tuple[dict[str, Any], ...] | str,
        Meta(description="The objects themselves: a map, a list of maps, or a text of YAML documents."),
    ] = ()
    images: Annotated[
        dict[str, str],
        Meta(description='Image references to set, by the image\'s name: `{pythonapp: "pythonapp:dev"}`.'),
    ] = {}
    server_side: Annotated[bool, Meta(description="Let the API server merge, by who owns which field.")] = False
    allow_remote: Annotated[bool, Meta(description="Allow URLs, and kustomizations that build on them.")] = False
    wait: Annotated[bool, Meta(description="Return only when all objects are ready, as a `wait` step does.")] = False


needs_cluster = kind.always_cluster
wants_cluster = kind.never_cluster
fixed_ports = kind.no_ports
lasts = kind.no_time


def title(data: Mapping[str, Any]) -> str:
    if "manifest" in data:
        return _inline_title(data["manifest"])
    value = data.get("file") or data.get("kustomize") or ""
    return value if isinstance(value, str) else ", ".join(map(str, value))


def _inline_title(value: Any) -> str:
    """`configmap/settings`, as far as it is written so."""
    items = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, Mapping)]
    metas = [(item, item.get("metadata")) for item in items]
    named = [(item.get("kind"), meta.get("name")) for item, meta in metas if isinstance(meta, Mapping)]
    return ", ".join(f"{str(kind_).lower()}/{name}" for kind_, name in named if name) or manifests.INLINE


def homeless(data: Mapping[str, Any], folder: Path) -> Iterable[str]:
    from runner.cluster.resources import BUILTIN

    namespaced = {(resource.group_version, resource.kind) for resource in BUILTIN if resource.namespaced}
    for ref in (item.ref for item in manifests.known(data, folder)):
        if not ref.namespace and (ref.api_version, ref.kind) in namespaced:
            yield str(ref)


def check(data: Mapping[str, Any], files: Files) -> Iterable[Fault]:
    sources = [key for key in ("file", "kustomize", "manifest") if key in data]
    remote = bool(data.get("allow_remote"))
    if len(sources) != 1:
        yield Fault((), "`apply` needs `file`, `kustomize` or `manifest`, one of them")
        return
    if data[sources[0]] == []:
        yield Fault((sources[0],), f"`{sources[0]}` is an empty list: there is nothing to apply", "remove the step")
        return
    faults = [
        *(manifests.faults(data["file"], files, "file", remote=remote) if "file" in data else ()),
        *(kustomize.faults(data["kustomize"], files, "kustomize", remote=remote) if "kustomize" in data else ()),
        *(manifests.inline_faults(data["manifest"], files, "manifest") if "manifest" in data else ()),
    ]
    yield from faults
    if not faults:
        yield from manifests.repeated(data, files)
        yield from image_faults.unused(data, files)
        yield from image_faults.pulled(data, files)


def commands(args: Args, scene: Scene) -> tuple[Command, ...]:
    """One for each phase; a run gives kubectl copies that carry its label in the place of the files."""
    if args.kustomize:
        rendered = kustomize.command(_shown(args.kustomize, scene))
        return (rendered, *scene.dialect.apply(("-",), scene.namespace, server_side=args.server_side))
    manifests.inside([name for name in _listed(args.file) if not manifests.is_remote(name)], scene)
    found: list[Command] = []
    for part in planned_parts(args, scene.folder, scene.dialect.engine):
        names = [scene.show_path(file) for file in part.files] or ["-"]
        made = scene.dialect.apply(names, scene.namespace, server_side=args.server_side)
        found += made if part.files else [replace(command, stdin=part.text) for command in made]
    if found or args.manifest:
        return tuple(found) or _of_unknown(args, scene)
    names = [_shown(name, scene) for name in _listed(args.file)]
    return scene.dialect.apply(names, scene.namespace, server_side=args.server_side)


def _of_unknown(args: Args, scene: Scene) -> tuple[Command, ...]:
    """Inline manifests of which only a run knows how many objects they have; none for those that have no objects."""
    written = args.manifest
    if not isinstance(written, str):
        items = [written] if isinstance(written, Mapping) else written
        written = "".join(f"---\n{json.dumps(item, indent=2, ensure_ascii=False)}\n" for item in items)
    try:
        if not manifests.inline(args.manifest):
            return ()
    except StepFailed:
        if UNKNOWN not in written:
            raise
    if args.images:
        raise StepFailed("its images are set in objects that are not known yet", reason="manifest")
    made = scene.dialect.apply(("-",), scene.namespace, server_side=args.server_side)
    return tuple(replace(command, stdin=written) for command in made)


def planned_parts(args: Args, folder: Path, engine: str) -> list[Part]:
    """The parts of manifests that are known already; none where a step makes the files, kustomize renders them, or the
    network has them.
    """
    from runner.cluster import phases

    if args.kustomize:
        return []
    known = manifests.known(msgspec.to_builtins(args), folder)
    if not known and args.images and args.file:
        raise StepFailed("its images are set in files that are not there yet", reason="manifest")
    listed = _with_images(known, args.images) if known else []
    return parts(
        phases.coming(listed) if engine == "kubectl" else [tuple(listed)][: len(listed)], altered=bool(args.images)
    )


def definitions(args: Args, folder: Path) -> tuple[tuple[str, ...], ...]:
    """For each of kubectl's `commands`, the CustomResourceDefinitions that must be established before the next one."""
    return tuple(part.definitions for part in planned_parts(args, folder, "kubectl"))


def kustomize_images(args: Args) -> str:
    """`images` as a kustomization has them, on one line; empty without."""
    from runner.cluster import references

    return references.kustomized(args.images) if args.images else ""


def _shown(name: str, scene: Scene) -> str:
    return name if manifests.is_remote(name) else scene.path(name)


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def equivalent(args: Args, scene: Scene) -> tuple[str, ...]:
    """What `wait: true` stands for."""
    if not args.wait:
        return ()
    refs = [item.ref for part in planned_parts(args, scene.folder, scene.dialect.engine) for item in part.manifests]
    found = _selections(refs, scene.namespace)
    lines = (line for selection in found for line in scene.dialect.wait(selection, "ready", int(scene.timeout)))
    return tuple(lines) or _await_unknown(args, scene)


def _await_unknown(args: Args, scene: Scene) -> tuple[str, ...]:
    """Bash with the function `await_ready` of a planned script, which asks the cluster what the manifests have made."""
    from runner.shell import quote

    flags = [
        quote([word for word in command.argv if word.startswith(("--namespace=", "--filename="))])
        for command in commands(args, scene)
        if command.argv[1] != "kustomize"
    ]
    if scene.dialect.engine == "kubectl":
        return tuple(f"await_ready {int(scene.timeout)} {words}" for words in flags)
    return (UNAWAITED,) if flags else ()


def run(args: Args, context: Context) -> dict[str, Any]:
    objects = _with_images(_objects(args, context), args.images)
    applied = context.cluster.apply(objects, context.namespace, context, server_side=args.server_side)
    if args.wait:
        _await_ready(applied, context)
    return {"objects": [_output(item) for item in applied]}


def _await_ready(applied: list[Applied], context: Context) -> None:
    from runner.cluster.waiting import Goal, wait_for

    made = [item.ref for item in applied if item.uid]  # podman makes nothing of a Service
    selections = _selections(made, context.namespace)
    for selection in selections:
        for line in context.scene.dialect.wait(selection, "ready", int(context.scene.timeout)):
            context.observed(line)
    wait_for(context.cluster, selections, Goal(), context)


def _selections(refs: Iterable[Ref], namespace: str) -> list[Selection]:
    """The objects by kind and namespace, so that each kind is watched once."""
    from runner.cluster.protocol import Selection

    names: dict[tuple[str, str], list[str]] = {}
    for ref in refs:
        group = ref.api_version.rpartition("/")[0]
        word = ref.kind.lower() + (f".{group}" if group else "")
        names.setdefault((word, ref.namespace or namespace), []).append(ref.name)
    return [Selection(word, tuple(found), "", place) for (word, place), found in names.items()]


def _output(item: Applied) -> dict[str, Any]:
    ref = item.ref
    return {
        "kind": ref.kind,
        "name": ref.name,
        "namespace": ref.namespace,
        "uid": item.uid,
        "created": item.created,
    }


def _objects(args: Args, context: Context) -> list[Manifest]:
    if args.manifest:
        return manifests.inline(args.manifest)
    if args.kustomize:
        files = Files(context.workflow_folder, context.scene.root)
        for fault in kustomize.faults(args.kustomize, files, "kustomize", remote=args.allow_remote):
            raise StepFailed(fault.message, hint=fault.hint, reason="kustomize")
        return _rendered(_shown(args.kustomize, context.scene), args.kustomize, context)
    found: list[Manifest] = []
    for name in _listed(args.file):
        if manifests.is_remote(name):
            found += _fetched(name, context, allowed=args.allow_remote)
        else:
            found += manifests.read(manifests.inside(name, context.scene))
    return found


def _rendered(folder: str, name: str, context: Context) -> list[Manifest]:
    return manifests.parse(context.execute(kustomize.command(folder)).stdout, f"kustomization {name}")


def _fetched(url: str, context: Context, *, allowed: bool) -> list[Manifest]:
    """What a URL holds: kustomize fetches it, as a resource of a kustomization that has nothing else."""
    if not allowed:
        raise StepFailed(f"{url} is a URL", hint="allow it: `allow_remote: true`", reason="remote")
    folder = context.folder / "remote"
    folder.mkdir(exist_ok=True)
    (folder / "kustomization.yaml").write_text(msgspec.json.encode({"resources": [url]}).decode())
    return _rendered(str(folder), url, context)


def _with_images(objects: list[Manifest], images: Mapping[str, str]) -> list[Manifest]:
    """The objects with other images. Raises `StepFailed` for one that no container uses."""
    if not images:
        return objects
    from runner.cluster import references

    for name in references.unmatched((item.object for item in objects), images):
        message, hint = image_faults.no_such_image(name, objects)
        raise StepFailed(message, hint=hint, reason="image")
    return [replace(item, object=references.with_images(item.object, images)) for item in objects]
