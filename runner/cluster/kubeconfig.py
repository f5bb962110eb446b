"""Which cluster: read and merge kubeconfigs as client-go does, choose a context, and pin it in a copy of the run.

Read here and not by `kubectl config view`, because a spawn costs 45 ms and fails without a context. The rules:
`--kubeconfig` names one file that must exist; `$KUBECONFIG` lists files, those that do not exist are passed over; else
`~/.kube/config`. Of two entries with one name the first file's wins, whole. Paths are relative to their file.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import confidential, masking
from runner.document import read_objects
from runner.errors import CannotStart, InvalidWorkflow
from runner.journal import KUBECONFIG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runner.document import Document

# Where Kubernetes puts the credentials of a Pod.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
IN_POD = "service-account"
"""The name that stands for the context of a Pod's own service account."""

Entry = dict[str, Any]

_LISTS = {"clusters": "cluster", "contexts": "context", "users": "user"}
_CLUSTER_PATHS = ("certificate-authority",)
_USER_PATHS = ("client-certificate", "client-key", "tokenFile")


@dataclass(frozen=True, slots=True)
class Selected:
    """The cluster of a run: one context with what belongs to it. `config` is the minified kubeconfig, every path in it
    absolute; it holds credentials and is not shown. `in_pod` means the service account of the Pod that this runs in.
    """

    context: str
    cluster: str
    server: str
    namespace: str
    user: str
    config: Mapping[str, Any] = field(repr=False)
    in_pod: bool = False


@dataclass(frozen=True, slots=True)
class _Merged:
    """What all files say together; each list by name, and which files were read and which do not exist."""

    clusters: dict[str, Entry]
    contexts: dict[str, Entry]
    users: dict[str, Entry]
    current: str
    extensions: list[Any]
    read: tuple[Path, ...]

    @property
    def files(self) -> str:
        return ", ".join(str(path) for path in self.read) or "any kubeconfig"


def select(kubeconfig: str | None = None, context: str | None = None) -> Selected | None:
    """The context that is asked for, or the current one, or the service account of this Pod; None without any.

    Raises `CannotStart` for a file that cannot be understood, and for a context that does not exist or is not chosen.
    """
    merged = _merge(_existing(kubeconfig))
    if not merged.contexts and not context:
        return _service_account()
    name = context or merged.current
    if not name:
        raise CannotStart(
            f"no context is chosen: {merged.files} has no current-context",
            hint=f"say --context NAME; there {_names(merged.contexts)}. Without a cluster: --engine podman",
        )
    if name not in merged.contexts:
        raise _unknown_context(name, merged, asked=bool(context))
    return _minify(name, merged)


def sources(kubeconfig: str | None = None) -> tuple[Path, ...]:
    """The files that are looked at, in the order of precedence, whether they exist or not."""
    if kubeconfig:
        return (Path(kubeconfig).absolute(),)
    listed = [name for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    if not listed:
        return (Path("~/.kube/config").expanduser(),)
    return tuple(dict.fromkeys(Path(name).absolute() for name in listed))


def absent() -> str:
    """The files that $KUBECONFIG names, when none of them exists: it is a mistake, and no word for "no cluster"."""
    named = sources() if os.environ.get("KUBECONFIG") else ()
    return "" if any(path.exists() for path in named) else ", ".join(map(str, named))


def pin(selected: Selected, folder: Path) -> Path:
    """Write the kubeconfig of the run into its private folder, so that `use-context` elsewhere changes nothing.

    It is JSON, which is YAML. An older copy is replaced; the mode is 0600 from the first moment on.
    """
    path = pinned_path(folder)
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(selected.config, file, indent=2)
        file.write("\n")
    return path


def pinned_path(folder: Path) -> Path:
    """Where `pin` puts its copy."""
    return folder / KUBECONFIG


def pinned(folder: Path) -> Selected:
    """What `pin` wrote. Raises `CannotStart` when it is not there any more."""
    try:
        config = json.loads(pinned_path(folder).read_bytes())
    except (OSError, ValueError) as error:
        raise CannotStart(f"the run's kubeconfig {pinned_path(folder)} cannot be read: {error}") from None
    masking.hide(confidential.of_kubeconfig(config))
    context, cluster = config["contexts"][0], config["clusters"][0]
    body = context["context"]
    account = _service_account()
    in_pod = account is not None and all(config[key] == account.config[key] for key in ("clusters", "users"))
    return Selected(
        context["name"],
        cluster["name"],
        cluster["cluster"]["server"],
        str(body.get("namespace") or "default"),
        str(body.get("user") or ""),
        config,
        in_pod,
    )


def _existing(kubeconfig: str | None) -> list[Path]:
    """The files that can be read; one that was named by `--kubeconfig` must exist."""
    files = []
    for path in sources(kubeconfig):
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            if kubeconfig:
                raise CannotStart(f"{kubeconfig} does not exist", hint="--kubeconfig names the file to use") from None
            continue
        except OSError as error:
            raise CannotStart(f"{path} cannot be read: {error.strerror}") from None
        if stat.S_ISCHR(status.st_mode) or (stat.S_ISREG(status.st_mode) and not status.st_size):
            continue  # /dev/null, and what `kind delete cluster` leaves: the same as no file
        files.append(path)
    return files


def _merge(paths: Iterable[Path]) -> _Merged:
    lists: dict[str, dict[str, Entry]] = {key: {} for key in _LISTS}
    current = ""
    extensions: list[Any] = []
    read = []
    for path in paths:
        read.append(path)
        document = _read(path)
        if document is None:
            continue
        for key in _LISTS:
            for name, entry in _entries(document, key, path.parent).items():
                lists[key].setdefault(name, entry)
        current = current or str(document.data.get("current-context") or "")
        extensions = extensions or document.data.get("extensions") or []
    return _Merged(lists["clusters"], lists["contexts"], lists["users"], current, extensions, tuple(read))


def _read(path: Path) -> Document | None:
    """One file; None when nothing stands in it."""
    try:
        documents = read_objects(path, str(path))
    except InvalidWorkflow as error:
        problem = error.problems[0]
        hint = problem.hint or "kubeconfigs come from --kubeconfig, $KUBECONFIG or ~/.kube/config"
        raise CannotStart(f"{problem.place}: {problem.message}", hint=hint) from None
    documents = tuple(document for document in documents if document.data is not None)
    if len(documents) > 1:
        raise _wrong(documents[1], (), "a kubeconfig is one document")
    if documents and not isinstance(documents[0].data, dict):
        raise _wrong(documents[0], (), "this is not a kubeconfig: it must be a map with clusters, contexts and users")
    return documents[0] if documents else None


def _wrong(document: Document, path: tuple[str | int, ...], message: str) -> CannotStart:
    place = document.problem(path, message).place
    return CannotStart(f"{place}: {message}", hint="this kubeconfig cannot be used; kubectl refuses it too")


def _entries(document: Document, key: str, folder: Path) -> dict[str, Entry]:
    """The named entries of one list of a file in `folder`, with absolute paths."""
    inner = _LISTS[key]
    entries: dict[str, Entry] = {}
    listed = document.data.get(key) or []
    if not isinstance(listed, list):
        raise _wrong(document, (key,), f"{key} must be a list")
    for index, item in enumerate(listed):
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise _wrong(document, (key, index), f"{key}[{index}] must be a map with a name")
        body = item.get(inner) or {}
        if not isinstance(body, dict):
            raise _wrong(document, (key, index, inner), f"{key}[{index}].{inner} must be a map")
        if item["name"] in entries:
            raise _wrong(document, (key, index, "name"), f"{key} has two entries with the name {item['name']}")
        entries[item["name"]] = {**item, inner: _absolute(body, inner, folder)}
    return entries


def _absolute(body: Entry, inner: str, folder: Path) -> Entry:
    """The body of an entry with every path in it made absolute against the folder of its file."""
    result = dict(body)
    for key in {"cluster": _CLUSTER_PATHS, "user": _USER_PATHS}.get(inner, ()):
        if isinstance(result.get(key), str) and result[key]:
            result[key] = _path(folder, result[key])
    plugin = result.get("exec")
    if inner == "user" and isinstance(plugin, dict):
        command = plugin.get("command")
        if isinstance(command, str) and os.sep in command:  # otherwise it is looked up on PATH
            result["exec"] = {**plugin, "command": _path(folder, command)}
    return result


def _path(folder: Path, name: str) -> str:
    """Absolute, with its links as they are: what a link points to may change while the run goes on."""
    return os.path.abspath(folder / name)  # noqa: PTH100 - resolve() follows links


def _minify(name: str, merged: _Merged) -> Selected:
    """The record of one context; what it refers to must exist, as for kubectl."""
    context = merged.contexts[name]["context"]
    cluster, user = str(context.get("cluster") or ""), str(context.get("user") or "")
    if cluster not in merged.clusters:
        wrong = f"the cluster {cluster!r}, which does not exist" if cluster else "no cluster"
        raise CannotStart(
            f"the context {name} of {merged.files} names {wrong}", hint=f"there {_names(merged.clusters)}"
        )
    if user and user not in merged.users:
        raise CannotStart(
            f"the context {name} of {merged.files} names the user {user!r}, which does not exist",
            hint=f"there {_names(merged.users)}",
        )
    server = merged.clusters[cluster]["cluster"].get("server")
    if not isinstance(server, str) or not server:
        raise CannotStart(f"the cluster {cluster} of {merged.files} has no server")
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [merged.clusters[cluster]],
        "contexts": [merged.contexts[name]],
        "users": [merged.users[user]] if user else [],
        "current-context": name,
    }
    if merged.extensions:
        config["extensions"] = merged.extensions
    masking.hide(confidential.of_kubeconfig(config))
    return Selected(name, cluster, server, str(context.get("namespace") or "default"), user, config)


def _service_account() -> Selected | None:
    """The cluster that this Pod runs in, when it is one and may talk to its API server."""
    host, token = os.environ.get("KUBERNETES_SERVICE_HOST"), SERVICE_ACCOUNT / "token"
    if not host or not token.is_file():
        return None
    name = IN_POD
    address = f"[{host}]" if ":" in host else host
    server = f"https://{address}:{os.environ.get('KUBERNETES_SERVICE_PORT') or '443'}"
    namespace = "default"
    with suppress(OSError):
        namespace = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or namespace
    cluster: Entry = {"server": server}
    if (SERVICE_ACCOUNT / "ca.crt").is_file():
        cluster["certificate-authority"] = str(SERVICE_ACCOUNT / "ca.crt")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "users": [{"name": name, "user": {"tokenFile": str(token)}}],  # a file: the token is renewed every hour
        "current-context": name,
    }
    masking.hide(confidential.of_kubeconfig(config))
    return Selected(name, name, server, namespace, name, config, in_pod=True)


def _unknown_context(name: str, merged: _Merged, *, asked: bool) -> CannotStart:
    from difflib import get_close_matches

    what = f"there is no context {name}" if asked else f"the current context, {name}, does not exist"
    close = get_close_matches(name, merged.contexts, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return CannotStart(f"{what} in {merged.files}", hint=f"{meant}there {_names(merged.contexts)}")


def _names(entries: Iterable[str]) -> str:
    """`is a`, `are a, b`, `is none`: to follow the word "there"."""
    names = sorted(entries)
    return f"{'are' if len(names) > 1 else 'is'} {', '.join(names) or 'none'}"
