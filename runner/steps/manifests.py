"""The manifests of a step: which files a key means, what is wrong with them, and the objects in them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs

from runner import confidential, masking
from runner.document import Document, loads_objects, read_objects
from runner.errors import InvalidWorkflow, StepFailed
from runner.expressions import has_expression
from runner.steps.bounds import STAY_INSIDE, UNKNOWN, impossible, leaves, wrong_name, wrong_namespace
from runner.steps.kind import Fault, Files, Scene, not_allowed

if TYPE_CHECKING:
    from runner.cluster.protocol import Manifest

SUFFIXES = (".yaml", ".yml", ".json")
INLINE = "inline manifest"
"""What stands for the file of an object that is written in the workflow itself."""
NAMELESS_HINT = "delete it by label, `delete: {target: {kind: …, selector: …}}`, or leave it to the cleanup"
_ADVICE = "a manifest has apiVersion, kind and metadata.name"


def paths(names: str | Sequence[str], folder: Path) -> list[Path]:
    """The files that names mean, each once: a file, a folder (its manifests, sorted), or a glob. Missing ones are
    kept.
    """
    found: list[Path] = []
    for name in (names,) if isinstance(names, str) else names:
        path = folder / name
        if any(sign in name for sign in "*?["):
            found += sorted(_matching(folder, name)) or [path]
        elif path.is_dir():
            found += sorted(match for match in path.iterdir() if match.suffix in SUFFIXES) or [path]
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def inside(names: str | Sequence[str], scene: Scene) -> list[Path]:
    """`paths` for a step that is about to run; raises `StepFailed` when one of them leaves the repository."""
    for name in (names,) if isinstance(names, str) else names:
        scene.inside(_fixed_part(name))
    found = paths(names, scene.folder)
    for path in found:
        scene.inside(str(path))
    return found


def _matching(folder: Path, pattern: str) -> Iterator[Path]:
    """The manifests that a glob finds. `**` follows no links: they may lead in circles."""
    start = _fixed_part(pattern)
    try:
        matches = (folder / start).glob(Path(pattern).relative_to(start).as_posix())
        yield from (match for match in matches if match.suffix in SUFFIXES)
    except (OSError, ValueError, NotImplementedError):
        return


def _fixed_part(pattern: str) -> str:
    """The folder from which a glob begins to search; of a plain path all of it."""
    parts = Path(pattern).parts
    return str(Path(*takewhile(lambda part: not any(sign in part for sign in "*?["), parts)))


def is_remote(name: str) -> bool:
    """Whether a file is one of the network."""
    return name.startswith(("http://", "https://"))


def faults(
    value: Any, files: Files, key: str, *, remote: bool | None = None, deleting: bool = False
) -> Iterator[Fault]:
    """What is wrong with the files that a key names: missing, outside of the repository, not Kubernetes objects, or
    such that the workflow must allow to write (or delete) them.

    `remote` says whether URLs are allowed; None: they never are.
    """
    names = value if isinstance(value, list) else [value]
    for index, name in enumerate(names):
        place = (key, index) if isinstance(value, list) else (key,)
        if not isinstance(name, str) or has_expression(name) or name in files.made:
            continue
        if not is_remote(name):
            yield from _file_faults(name, files, place, deleting=deleting)
        elif not remote:
            hint = "download it into the repository" + ("" if remote is None else ", or allow it: `allow_remote: true`")
            yield Fault(place, f"{name} is a URL: what it holds may change, and nobody has looked at it", hint)


def repeated(data: Mapping[str, Any], files: Files) -> Iterator[Fault]:
    """Objects that stand in the manifests of one step twice: only the last would be there."""
    key = "file" if "file" in data else "manifest"
    seen: dict[tuple[str, str, str, str], str] = {}
    for item in known(data, files.folder):
        ref = item.ref
        place = f"{item.file if item.file == INLINE else os.path.relpath(item.file, files.folder)}:{item.line}"
        identity = (ref.api_version.rpartition("/")[0], ref.kind, ref.namespace, ref.name)
        if ref.name and (first := seen.setdefault(identity, place)) != place:
            yield Fault(
                (key,), f"{place}: {ref} stands at {first} already", "give it another name, or remove one of them"
            )


def _file_faults(name: str, files: Files, place: tuple[str | int, ...], *, deleting: bool) -> Iterator[Fault]:
    if wrong := impossible(files.folder / name):
        yield Fault(place, wrong)
        return
    if outside := leaves(files.folder / _fixed_part(name), files.root):
        yield Fault(place, outside, STAY_INSIDE)
        return
    for path in paths(name, files.folder):
        if outside := leaves(path, files.root):
            yield Fault(place, outside, STAY_INSIDE)
        elif not path.exists():
            hint = "a `run` step before that makes it says so with `generates: [" + name + "]`"
            yield Fault(place, f"there is no file {name}", _similar(path, name) or hint)
        elif path.is_dir():
            yield Fault(place, f"the folder {name} has no manifests (*.yaml, *.yml, *.json)")
        elif not path.is_file():
            yield Fault(place, f"{name} is not a file that can be read again and again", "write a regular file")
        elif path.stem == "kustomization":
            folder = os.path.relpath(path.parent, files.folder)
            yield Fault(place, f"{name} has a kustomization", f"say so: `apply: {{kustomize: {folder}}}`")
        else:
            yield from _content_faults(path, name, place)
            yield from _object_faults(path, name, place, files, deleting=deleting)


def _similar(path: Path, name: str) -> str:
    from difflib import get_close_matches

    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    close = get_close_matches(path.name, siblings, n=1, cutoff=0.75)
    return f"did you mean {Path(name).parent / close[0]}?" if close else ""


def _content_faults(path: Path, name: str, place: tuple[str | int, ...]) -> Iterator[Fault]:
    try:
        documents = read_objects(path, name)
    except InvalidWorkflow as error:
        for problem in error.problems:
            yield Fault(place, f"{problem.place}: {problem.message}", problem.hint)
        return
    if not documents:
        yield Fault(place, f"{name} is empty")
    for document in documents:
        for sentence, line in _flaws(document):
            yield Fault(place, f"{name}:{line}: {sentence}", _ADVICE)


def _object_faults(
    path: Path, name: str, place: tuple[str | int, ...], files: Files, *, deleting: bool
) -> Iterator[Fault]:
    """What must not, or cannot, be done with the objects of a file."""
    try:
        manifests = read([path])
    except StepFailed:
        return  # told already
    for item in manifests:
        ref = item.ref
        found = [
            *not_allowed(ref.kind, ref.name, ref.namespace, files, place, deleting=deleting),
            *_misspelt(item, place),
        ]
        if deleting and not ref.name:
            found.append(Fault(place, nameless(ref.kind), NAMELESS_HINT))
        yield from (structs.replace(fault, message=f"{name}:{item.line}: {fault.message}") for fault in found)


def _misspelt(item: Manifest, place: tuple[str | int, ...]) -> Iterator[Fault]:
    """A kind that is none of Kubernetes, nearly one, and in one of its groups."""
    from runner.cluster.resources import BUILTIN, builtin_meant

    kind, version = item.ref.kind, item.ref.api_version
    groups = {resource.group for resource in BUILTIN}
    if version.rpartition("/")[0] not in groups or any(resource.kind == kind for resource in BUILTIN):
        return
    if meant := builtin_meant(kind):
        yield Fault(place, f"{kind!r} is no kind of Kubernetes", f"did you mean {meant.kind}?", "warning")


def nameless(what: str) -> str:
    return f"the name of this {what} is generated, so it cannot be deleted by file"


def _flaws(document: Document) -> Iterator[tuple[str, int]]:
    """(why something is not a Kubernetes object, its line), of the document or the items of its list."""
    data = document.data
    if isinstance(data, Mapping) and isinstance(data.get("kind"), str) and "apiVersion" in data and is_list(data):
        found = [(not_an_object(item), line) for item, line in _unfolded(document)]
    else:
        found = [(not_an_object(data), document.positions[()].line)]
    yield from ((sentence, line) for sentence, line in found if sentence)


def not_an_object(data: Any) -> str:
    """A sentence when a document is not a Kubernetes object, or an empty string."""
    if not isinstance(data, Mapping):
        return f"this is {'a list' if isinstance(data, list) else 'a single value'}, not a Kubernetes object"
    missing = [key for key in ("apiVersion", "kind") if not isinstance(data.get(key), str) or not data[key]]
    if missing:
        return f"`{'` and `'.join(missing)}` {'is' if len(missing) == 1 else 'are'} missing: not a Kubernetes object"
    if is_list(data):
        return next(filter(None, map(not_an_object, data["items"])), "")
    if (data["apiVersion"], data["kind"]) == ("v1", "List"):
        return "List has no items"
    meta = data.get("metadata")
    if not isinstance(meta, Mapping) or all(meta.get(key) in (None, "") for key in ("name", "generateName")):
        return f"this {data['kind']} has no metadata.name"
    return next(_metadata_flaws(meta), "")


def is_list(data: Mapping[str, Any]) -> bool:
    """Whether an object stands for those in it. The name alone does not say so: a PrefixList may be one of its own."""
    return data["kind"].endswith("List") and isinstance(data.get("items"), list)


def _metadata_flaws(meta: Mapping[str, Any]) -> Iterator[str]:
    for key, rule in (("name", wrong_name), ("generateName", wrong_name), ("namespace", wrong_namespace)):
        value = "" if meta.get(key) is None else meta[key]
        if not isinstance(value, str):
            yield f"metadata.{key} is not a text: put it in quotes"
        elif value and (wrong := rule(value)):
            yield wrong
    for key in ("labels", "annotations"):
        if not isinstance(meta.get(key) or {}, Mapping):
            yield f"metadata.{key} is not a map"


def inline_faults(value: Any, files: Files, key: str) -> Iterator[Fault]:
    """What is wrong with manifests that stand in the workflow: a map, a list of maps, or a text of documents."""
    faults = list(_inline_faults(value, key))
    yield from faults
    for item in [] if faults else known({key: value}, files.folder):
        ref = item.ref
        yield from not_allowed(ref.kind, ref.name, ref.namespace, files, (key,), deleting=False)
        yield from _misspelt(item, (key, "kind") if isinstance(value, Mapping) else (key,))


def _inline_faults(value: Any, key: str) -> Iterator[Fault]:
    if isinstance(value, str):
        if not has_expression(value):
            yield from _text_faults(value, (key,))
        return
    for index, item in enumerate(value) if isinstance(value, list) else [(-1, value)]:
        place = (key,) if index < 0 else (key, index)
        if not has_expression(item) and (sentence := not_an_object(_as_filled(item))):
            yield Fault(place, sentence, _ADVICE)


def _as_filled(item: Any) -> Any:
    """An object with stand-ins for the metadata that only a run knows."""
    meta = item.get("metadata") if isinstance(item, Mapping) else None
    if has_expression(meta):
        return {**item, "metadata": {"name": UNKNOWN}}
    if not isinstance(meta, Mapping):
        return item
    filled: Mapping[str, Any] = {"labels": {}, "annotations": {}}
    return {
        **item,
        "metadata": {key: filled.get(key, UNKNOWN) if has_expression(value) else value for key, value in meta.items()},
    }


def _text_faults(text: str, place: tuple[str | int, ...]) -> Iterator[Fault]:
    try:
        documents = loads_objects(text, INLINE)
    except InvalidWorkflow as error:
        yield from (Fault(place, f"{problem.place}: {problem.message}", problem.hint) for problem in error.problems)
        return
    if not documents:
        yield Fault(place, "the manifest is empty")
    for document in documents:
        yield from (Fault(place, f"{INLINE}:{line}: {sentence}", _ADVICE) for sentence, line in _flaws(document))


def read(files: Iterable[Path]) -> list[Manifest]:
    """The objects in these files, lists unfolded, in order. Raises `StepFailed` for what validation could not see."""
    return [manifest for path in files for manifest in _manifests(partial(_read, path), str(path))]


def _read(path: Path) -> tuple[Document, ...]:
    if path.exists() and not path.is_file():
        raise StepFailed(f"{path} is not a file that can be read again and again", reason="manifest")
    return read_objects(path, str(path))


def parse(text: str, name: str) -> list[Manifest]:
    """`read` for text in memory, which messages call by this name."""
    return _manifests(partial(loads_objects, text, name), name)


def inline(value: Any) -> list[Manifest]:
    """The objects that stand in the workflow itself, expressions filled in."""
    from runner.cluster.protocol import Manifest

    if isinstance(value, str):
        return parse(value, INLINE)
    items = [value] if isinstance(value, Mapping) else value
    for item in items:
        if sentence := not_an_object(item):
            raise StepFailed(f"{INLINE}: {sentence}", hint=_ADVICE, reason="manifest")
    plain = json.loads(json.dumps(items))
    unfolded = [part for item in plain for part in _flat(item)]
    for item in unfolded:
        masking.hide(confidential.of_object(item))
    return [Manifest(item, INLINE, index) for index, item in enumerate(unfolded, 1)]


def known(data: Mapping[str, Any], folder: Path) -> list[Manifest]:
    """The objects that are known before a run: of files that exist, and inline ones without expressions."""
    names, written = data.get("file"), data.get("manifest")
    try:
        if written and not _has_expression(written):
            return inline(written)
        if not isinstance(names, str | list | tuple | None):  # an expression that stands for all of them
            return []
        listed = [names] if isinstance(names, str) else names or []
        if any(not isinstance(name, str) or has_expression(name) or is_remote(name) for name in listed):
            return []
        return read(paths(listed, folder))
    except StepFailed:
        return []


def _has_expression(value: Any) -> bool:
    """Whether something in it is only known in a run; compiled templates are no plain values."""
    if isinstance(value, Mapping):
        return any(map(_has_expression, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_expression, value))
    return has_expression(value) or not isinstance(value, str | int | float | None)


def _manifests(load: Callable[[], tuple[Document, ...]], name: str) -> list[Manifest]:
    from runner.cluster.protocol import Manifest

    try:
        documents = load()
    except InvalidWorkflow as error:
        problem = error.problems[0]
        raise StepFailed(f"{problem.place}: {problem.message}", hint=problem.hint, reason="manifest") from None
    manifests = []
    for document in documents:
        manifests += [Manifest(item, name, line) for item, line in _objects(document)]
        masking.hide(confidential.of_object(document.data))
    return manifests


def _objects(document: Document) -> Iterator[tuple[dict[str, Any], int]]:
    for sentence, line in _flaws(document):
        raise StepFailed(f"{document.file}:{line}: {sentence}", reason="manifest")
    return _unfolded(document)


def _unfolded(document: Document) -> Iterator[tuple[dict[str, Any], int]]:
    """The objects of a document with their lines, those of a list one by one."""
    if is_list(document.data):
        for index, item in enumerate(document.data["items"]):
            line = document.positions[("items", index)].line
            yield from ((part, line) for part in _flat(item))
    else:
        yield document.data, document.positions[()].line


def _flat(item: Any) -> Iterator[Any]:
    """An object, or what is in a list of them, and in lists in that."""
    if isinstance(item, Mapping) and isinstance(item.get("kind"), str) and is_list(item):
        for part in item["items"]:
            yield from _flat(part)
    else:
        yield item
