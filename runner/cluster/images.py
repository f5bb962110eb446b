"""Images: what builds them, and how they reach the nodes of a cluster.

kubelet looks for `docker.io/library/pythonapp:latest` when a manifest says `pythonapp`; podman calls what it builds
`localhost/pythonapp:latest`. So an image travels as an archive that carries the name kubelet looks for. podman and
buildah write it with `push IMAGE docker-archive:FILE:NAME`, which renames on the way and leaves no tag behind (a podman
that is a remote client, as on macOS, cannot: there it is tag, save, untag).
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.cluster.references import names_registry, qualified
from runner.deadline import Deadline
from runner.errors import CannotStart, StepFailed
from runner.shell import Command, find, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.cluster.guard import Verdict
    from runner.cluster.protocol import Hand, Object

# How long a builder may take to say that it is there.
PROBE_SECONDS = 2.0

BUILDERS = ("docker", "podman", "buildah", "nerdctl")
# They work in a container of their own, which they remove when what they run in it ends, and not when they are ended
# (a remote engine does so when its client is gone).
_LEAVES_FIRST = ("podman", "buildah")

# `docker save` takes a platform since this version of the engine's interface; without it, an image pulled for several
# platforms is saved with references to layers that are not there.
_SAVE_PLATFORM = (1, 48)

# How to call ctr for each thing that runs containers on a node, with the namespace that Kubernetes uses.
CTR: Mapping[str, tuple[str, ...]] = {
    "containerd": ("ctr", "-n", "k8s.io"),
    "k3s": ("k3s", "ctr", "-n", "k8s.io"),
    "k0s": ("k0s", "ctr", "-n", "k8s.io"),
    "microk8s": ("microk8s", "ctr", "-n", "k8s.io"),
    "rke2": ("/var/lib/rancher/rke2/bin/ctr", "-a", "/run/k3s/containerd/containerd.sock", "-n", "k8s.io"),
}
# Without it ctr waits 10 s for a socket that does not exist.
PATIENCE = ("--connect-timeout", "2s")
CTR_HINT = (
    "containerd answers root only, at /run/containerd/containerd.sock unless CONTAINERD_ADDRESS names another socket: "
    "run this with `sudo -E`, or use an image that a registry has"
)


@dataclass(frozen=True, slots=True)
class Builder:
    """What builds and saves images. `why` is the decision in words; `remote` is a podman that talks to an engine
    elsewhere; `one_platform` is a docker that can save a single platform.
    """

    name: str
    version: str = ""
    why: str = ""
    remote: bool = False
    one_platform: bool = False


@dataclass(frozen=True, slots=True)
class _Probe:
    """What a program answered: its version, or why it is of no use."""

    version: str = ""
    why_not: str = ""
    remote: bool = False
    one_platform: bool = False


# --- who builds


def find_builder(preferred: str = "auto") -> Builder:
    """The builder that is asked for, or the first that is ready to work: docker, podman, buildah, nerdctl.

    Raises `CannotStart` with what to install or start.
    """
    refused: list[str] = []
    for name in BUILDERS if preferred == "auto" else (preferred,):
        probe = _probe(name)
        if probe.version:
            why = f"{name} {probe.version}" + (f" ({'; '.join(refused)})" if refused else "")
            return Builder(name, probe.version, why, probe.remote, probe.one_platform)
        refused.append(f"{name} {probe.why_not}")
    if preferred == "auto":
        raise CannotStart(
            f"there is nothing to build images with: {'; '.join(refused)}",
            hint="install podman (`apt-get install podman`, `brew install podman`), or start the engine of docker",
        )
    raise CannotStart(
        f"{refused[0]}, and the builder is to be {preferred}",
        hint=f"install or start {preferred}, or leave the choice to the runner: builder: auto",
    )


def _probe(name: str) -> _Probe:
    """Ask a builder for its version; docker and a remote podman count only if their engine answers."""
    if find(name) is None:
        return _Probe(why_not="is not installed")
    remote = name == "podman" and _podman_is_remote()
    try:
        with Deadline(PROBE_SECONDS) as deadline:
            answer = run(Command(_version_argv(name, remote=remote)), deadline)
    except StepFailed:
        return _Probe(why_not=f"does not answer within {PROBE_SECONDS:g} s")
    except CannotStart as error:
        return _Probe(why_not=f"cannot be started ({error.message})")
    words = answer.stdout.split()
    if answer.code or not words:
        engine = "is installed, but its engine does not answer" if name == "docker" or remote else "fails"
        return _Probe(why_not=engine)
    if name == "docker":
        return _Probe(words[0], one_platform=_numbers(words[1] if len(words) > 1 else "") >= _SAVE_PLATFORM)
    return _Probe(next((word for word in words if re.match(r"v?\d", word)), words[0]), remote=remote)


def _version_argv(name: str, *, remote: bool) -> tuple[str, ...]:
    if name == "docker":
        return ("docker", "version", "--format", "{{.Server.Version}} {{.Client.APIVersion}}")
    if remote:
        return ("podman", "version", "--format", "{{.Server.Version}}")
    return (name, "--version")


def _podman_is_remote() -> bool:
    return sys.platform != "linux" or bool(os.environ.get("CONTAINER_HOST") or os.environ.get("CONTAINER_CONNECTION"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


# --- the commands, pure


def build_argv(
    builder: Builder,
    image: str,
    context: str,
    file: str = "",
    args: Mapping[str, str] | None = None,
    target: str = "",
    platform: str = "",
) -> Command:
    """Build `image` from a folder. `file` is passed on as it is; none means the builder's own default.

    docker gets no provenance attestation, which would make the image an index that `kind load` cannot read: by an
    environment variable, because the classic builder refuses the flag `--provenance`.
    """
    argv = [*_program(builder), "build", "--tag", image]
    if builder.name == "buildah":
        argv += ["--layers", "--force-rm"]  # nothing is cached, and a build that fails leaves its container, without
    if file:
        argv += ["--file", file]
    for name, value in (args or {}).items():
        argv += ["--build-arg", f"{name}={value}"]
    if target:
        argv += ["--target", target]
    if platform:
        argv += ["--platform", platform]
    argv.append(f"./{context}" if context.startswith("-") else context)
    env = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"} if builder.name == "docker" else {}
    return Command(tuple(argv), env=env, leaves_first=builder.name in _LEAVES_FIRST and not builder.remote)


def id_argv(builder: Builder, image: str) -> Command:
    """Print the id of a local image: the digest of its configuration, with or without `sha256:` before it."""
    if builder.name == "buildah":
        return Command(("buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", image))
    return Command((*_program(builder), "image", "inspect", "--format", "{{.Id}}", image))


def save_argv(builder: Builder, image: str, as_name: str, archive: str, platform: str = "") -> tuple[Command, ...]:
    """Write a local image into a new archive, under the name `as_name`; a single command but for a remote podman.

    podman and buildah refuse to write into an archive that exists. `platform` is for docker only.
    """
    if builder.name in ("docker", "nerdctl"):
        choice = ("--platform", platform) if platform and builder.one_platform else ()
        return (Command((*_program(builder), "save", *choice, "--output", archive, as_name)),)
    if not builder.remote:
        return (Command((builder.name, "push", "--quiet", image, f"docker-archive:{archive}:{as_name}")),)
    save = Command(("podman", "save", "--quiet", "--output", archive, as_name))
    if image == as_name:
        return (save,)
    return (Command(("podman", "tag", image, as_name)), save, Command(("podman", "untag", as_name, as_name)))


def import_argv(verdict: Verdict, archive: str) -> Command:
    """Hand an archive to the nodes by the provider's own means; not for `remote`."""
    name = verdict.provider_name
    match verdict.provider, name:
        case "kind", _:
            return Command(("kind", "load", "image-archive", archive, "--name", name))
        case "k3d", _:
            return Command(("k3d", "image", "import", archive, "--cluster", name))
        case "minikube", _:
            return Command(("minikube", "--profile", name, "image", "load", archive))
        case ("desktop", _) | ("node", "docker"):
            return Command(("docker", "load", "--quiet", "--input", archive))
        case "node", "cri-o":
            return Command(("podman", "load", "--quiet", "--input", archive))  # CRI-O and root's podman share a store
        case _:
            return Command((*CTR.get(name, CTR["containerd"]), "images", "import", archive))


def push_argv(builder: Builder, image: str) -> Command:
    """Send a local image to the registry that its name names."""
    return Command((*_program(builder), "push", "--quiet", image))


def _program(builder: Builder) -> tuple[str, ...]:
    """For nerdctl with a namespace: containerd keeps what Kubernetes sees in one of its own."""
    return ("nerdctl", "--namespace", "k8s.io") if builder.name == "nerdctl" else (builder.name,)


# --- names and ids, pure


def node_has(nodes: Sequence[Object], image: str, image_id: str = "") -> bool:
    """Whether every node says that it has the image, as far as its status tells: with an id, under that digest too.

    No proof of absence: the status lags by up to a minute and lists the 50 largest images only. It never holds the id
    of an image that came in by an archive; that is asked of the provider, see `load`.
    """
    wanted = qualified(image)
    return bool(nodes) and all(
        any(_is_listed(entry, wanted, image_id) for entry in _status_images(node)) for node in nodes
    )


def _status_images(node: Object) -> list[dict[str, Any]]:
    return node.get("status", {}).get("images") or []


def _is_listed(entry: Mapping[str, Any], wanted: str, image_id: str) -> bool:
    names = entry.get("names") or []
    return wanted in names and (not image_id or any(_hex(name.rpartition("@")[2]) == _hex(image_id) for name in names))


def _hex(image_id: str) -> str:
    return image_id.strip().removeprefix("sha256:")


def archive_images(archive: Path) -> dict[str, str]:
    """The names in an archive as `docker save` writes it, qualified, with the image ids; nothing for other files."""
    import tarfile  # 6 ms: only for those who load

    with suppress(OSError, tarfile.TarError, KeyError, ValueError, TypeError), tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        entries = json.load(manifest) if manifest else []
        return {
            qualified(name): Path(entry["Config"]).name.removesuffix(".json")
            for entry in entries
            for name in entry.get("RepoTags") or []
        }
    return {}


# --- loading


def load(
    image: str,
    archive: Path | None,
    verdict: Verdict,
    hand: Hand,
    builder: Builder | None = None,
    known: dict[str, str] | None = None,
) -> str:
    """Make the nodes know an image, from an archive or else from the local builder; answers in words what was done.

    Nothing is sent when the nodes share the builder's store, or have this very image (by id) under this name; what is
    sent is looked for afterwards. `known` gets the names that the nodes have now, with the ids, where these are known.
    """
    known = {} if known is None else known
    if archive is not None:
        return _from_archive(image, archive, verdict, hand, known)
    builder = builder or find_builder()
    if shares_store(verdict, builder):
        return f"{verdict.provider_name} uses the images of {builder.name} directly"
    image_id, platform = _inspect(builder, image, hand)
    if verdict.provider == "remote":
        return _push(builder, image, hand)
    name = qualified(image)
    if _present({name: image_id}, verdict, hand):
        known[name] = _hex(image_id)
        return f"the nodes have {name} already"
    path = hand.folder / f"{_hex(image_id)[:12]}.tar"
    path.unlink(missing_ok=True)
    hand.waiting(f"{image} to reach the nodes ({means(verdict)})")
    try:
        _save(save_argv(builder, image, name, str(path), platform), hand)
        return _from_archive(image, path, verdict, hand, known, checked=image_id)
    finally:
        path.unlink(missing_ok=True)


def _save(commands: tuple[Command, ...], hand: Hand) -> None:
    """Run the commands of `save_argv`; the third takes a tag away again, whatever happens to the others."""
    try:
        for command in commands[:2]:
            hand.execute(command)
    finally:
        for command in commands[2:]:
            hand.execute(command, check=False)


def shares_store(verdict: Verdict, builder: Builder) -> bool:
    """Whether what this builder makes is on the nodes at once."""
    if verdict.provider == "desktop":
        return builder.name in ("docker", "nerdctl")
    return (verdict.provider, verdict.provider_name, builder.name) == ("node", "docker", "docker")


def means(verdict: Verdict) -> str:
    """How images get to the nodes, in a few words: a command with `FILE` for the archive."""
    return "push to a registry" if verdict.provider == "remote" else str(import_argv(verdict, "FILE"))


def _from_archive(
    image: str, archive: Path, verdict: Verdict, hand: Hand, known: dict[str, str], checked: str = ""
) -> str:
    """`checked` is an id that the nodes do not have, so that they are not asked twice for the same."""
    if verdict.provider == "remote":
        raise StepFailed(
            f"the nodes of this cluster cannot be reached from here to take {archive.name}",
            hint="push the image to a registry that they reach, and name it by that registry in the manifest",
            reason="not_local",
        )
    held = _held(archive)
    if image and held and qualified(image) not in held:
        raise StepFailed(
            f"{archive} does not hold {qualified(image)}, the name that kubelet looks for",
            hint=f"it holds {', '.join(sorted(held))}",
            reason="wrong_image",
        )
    wanted = {qualified(image): held[qualified(image)]} if image and held else held
    if wanted and {_hex(checked)} != set(wanted.values()) and _present(wanted, verdict, hand):
        known.update(wanted)
        return f"the nodes have {', '.join(wanted)} already"
    command = import_argv(verdict, str(archive))
    try:
        hand.execute(command)
    except StepFailed as error:
        error.hint = error.hint or (CTR_HINT if "ctr" in command.argv[:2] else "")
        raise
    _verify(wanted, command, verdict, hand)
    known.update(wanted)
    return f"loaded by {str(command).replace(str(archive), archive.name)}"


def _held(archive: Path) -> dict[str, str]:
    import tarfile

    exists = archive.is_file()
    if not exists or not tarfile.is_tarfile(archive):
        raise StepFailed(
            f"{archive} is no archive of images" if exists else f"there is no file {archive}",
            hint=f"write one with: podman save --output={archive.name} IMAGE (or docker save)",
            reason="archive",
        )
    return archive_images(archive)


def _verify(wanted: Mapping[str, str], command: Command, verdict: Verdict, hand: Hand) -> None:
    """See whether the nodes have what they were given: a tool that ends well may have kept an older image."""
    if not wanted or _arrived(wanted, verdict, hand) is not False:
        return
    names = ", ".join(wanted)
    if verdict.provider == "minikube":
        raise StepFailed(
            f"minikube kept its older {names}",
            hint="it does so while a container uses the image: delete the Pods that run it, then load again",
            reason="stale_image",
        )
    raise StepFailed(
        f"`{' '.join(command.argv[:4])} …` ended well, but the nodes do not have this {names}",
        hint="do all nodes have room for it? kubectl describe nodes",
        reason="stale_image",
    )


def _arrived(wanted: Mapping[str, str], verdict: Verdict, hand: Hand) -> bool | None:
    """Whether the nodes have these images now; None when that cannot be told."""
    program = {"docker": ("docker", "image", "inspect"), "cri-o": ("podman", "image", "exists")}
    name = "docker" if verdict.provider == "desktop" else verdict.provider_name
    if verdict.provider in ("desktop", "node") and name in program:  # these have ids of their own: the name must do
        answers = (hand.execute(Command((*program[name], image)), check=False) for image in wanted)
        return all(answer.code == 0 for answer in answers)
    return _present(wanted, verdict, hand)


def _inspect(builder: Builder, image: str, hand: Hand) -> tuple[str, str]:
    """The id and the platform of a local image."""
    command = id_argv(builder, image)
    if builder.one_platform:
        command = Command((*command.argv[:-2], "{{.Id}} {{.Os}}/{{.Architecture}}", image))
    answer = hand.execute(command, check=False)
    words = answer.stdout.split()
    if answer.code or not words:
        raise StepFailed(
            f"{builder.name} has no image {image}",
            hint="build it first (a `build` step before this one), or check its name with "
            f"`{' '.join(_program(builder))} images`",
            reason="no_image",
            result=answer,
        )
    return words[0], words[1] if len(words) > 1 else ""


def _push(builder: Builder, image: str, hand: Hand) -> str:
    if not names_registry(image):
        raise StepFailed(
            f"the nodes must pull {image} from a registry, but its name says none",
            hint="name it by a registry, here and in the manifest: registry.example.com/"
            + image.removeprefix("localhost/"),
            reason="not_local",
        )
    hand.waiting(f"{image} to reach its registry")
    hand.execute(push_argv(builder, image))
    return f"pushed {image}"


# --- what the nodes have


def _present(wanted: Mapping[str, str], verdict: Verdict, hand: Hand) -> bool | None:
    """Whether every node has each of these names with this id; None when that cannot be told."""
    try:
        match verdict.provider:
            case "minikube":
                return _minikube_has(wanted, verdict, hand)
            case "kind" | "k3d":
                answers = [_ctr_has(wanted, (*node, *CTR["containerd"]), hand) for node in _containers(verdict, hand)]
                return None if None in answers or not answers else all(answers)
            case "node" if verdict.provider_name in CTR:
                return _node_has(wanted, CTR[verdict.provider_name], hand)
    except CannotStart:
        pass  # a tool is missing: whoever needs it next says so
    return None


def _node_has(wanted: Mapping[str, str], ctr: tuple[str, ...], hand: Hand) -> bool:
    """The same for this machine's own containerd: one that does not answer now will not take an archive either."""
    has = _ctr_has(wanted, (*ctr, *PATIENCE), hand)
    if has is None:
        raise StepFailed("containerd does not answer, so it cannot take the image", hint=CTR_HINT, reason="containerd")
    return has


def _ctr_has(wanted: Mapping[str, str], ctr: tuple[str, ...], hand: Hand) -> bool | None:
    """Whether containerd has each name, and what it points to has this configuration; None when it does not answer.

    The manifest is read for that: Kubernetes also lists images as `sha256:ID`, but not those that replaced another.
    """
    answer = hand.execute(Command((*ctr, "images", "ls", *(f"name=={name}" for name in wanted))), check=False)
    if answer.code:
        return None
    digests = dict(re.findall(r"^(\S+)\s+\S+\s+(sha256:\w+)", answer.stdout, re.MULTILINE))  # REF TYPE DIGEST …
    return wanted.keys() <= digests.keys() and all(
        _hex(image_id) in _config_digests(digests[name], ctr, hand) for name, image_id in wanted.items()
    )


def _config_digests(digest: str, ctr: tuple[str, ...], hand: Hand, *, nested: bool = True) -> set[str]:
    """The configurations that a manifest names, or those of the manifests in an index."""
    answer = hand.execute(Command((*ctr, "content", "get", digest)), check=False)
    try:
        manifest = json.loads(answer.stdout)
        if "config" in manifest:
            return {_hex(manifest["config"]["digest"])}
        inner = [str(entry["digest"]) for entry in manifest["manifests"]] if nested else []
    except (ValueError, KeyError, TypeError):
        return set()
    return set().union(*(_config_digests(entry, ctr, hand, nested=False) for entry in inner))


def _containers(verdict: Verdict, hand: Hand) -> list[tuple[str, ...]]:
    """How to run a command in each node of a kind or k3d cluster: `docker exec NODE`."""
    if verdict.provider == "kind":
        engine = os.environ.get("KIND_EXPERIMENTAL_PROVIDER") or ("docker" if find("docker") else "podman")
        answer = hand.execute(Command(("kind", "get", "nodes", "--name", verdict.provider_name)), check=False)
        names = answer.stdout.split() if answer.code == 0 else []
    else:
        engine = "docker"
        answer = hand.execute(Command(("k3d", "node", "list", "-o", "json")), check=False)
        names = _k3d_nodes(answer.stdout, verdict.provider_name)
    return [(engine, "exec", name) for name in names]


def _k3d_nodes(text: str, cluster: str) -> list[str]:
    with suppress(ValueError):
        pattern = re.compile(rf"k3d-{re.escape(cluster)}-(server|agent)-\d+")
        return [node["name"] for node in json.loads(text) if pattern.fullmatch(str(node.get("name")))]
    return []


def _minikube_has(wanted: Mapping[str, str], verdict: Verdict, hand: Hand) -> bool | None:
    """Whether minikube lists each name with its id; None when its answer cannot be understood."""
    command = Command(("minikube", "--profile", verdict.provider_name, "image", "ls", "--format", "json"))
    answer = hand.execute(command, check=False)
    try:
        listed = json.loads(answer.stdout)
        ids = {qualified(tag): _hex(entry["id"]) for entry in listed for tag in entry.get("repoTags") or []}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return all(ids.get(name) == _hex(image_id) for name, image_id in wanted.items())


# --- the same for a planned script


def load_script(builder: Builder) -> str:
    """Bash functions that do what `load` does for the current context: `load_image IMAGE` and `load_archive FILE`."""
    shared = _SHARED if builder.name in ("docker", "nerdctl") else ""
    return _SCRIPT.replace("@SHARED@", shared).replace("@SAVE@", _save_lines(builder))


def _save_lines(builder: Builder) -> str:
    """The commands of `save_argv` over the function's variables."""
    commands = save_argv(builder, "$image", "$name", "$folder/image.tar")
    return "".join(f"  {' '.join(map(_quoted, command.argv))}\n" for command in commands)


def _quoted(word: str) -> str:
    return f'"{word}"' if "$" in word else word


_SHARED = r"""  case $(kubectl config current-context) in
    docker-desktop | rancher-desktop | orbstack | colima*) exit ;; # it uses the builder's images directly
  esac
"""
_SCRIPT = r"""# Make a local image known to the nodes of the current context, under the name that kubelet looks for.
load_image() (
  image=$1
  case $image in
    *.*/* | *:*/* | localhost/*) name=$image ;;
    */*) name=docker.io/$image ;;
    *) name=docker.io/library/$image ;;
  esac
  case ${name##*/} in *:* | *@*) ;; *) name=$name:latest ;; esac
@SHARED@  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
@SAVE@  load_archive "$folder/image.tar"
)

# Hand an archive of images to the nodes of the current context.
load_archive() {
  local look node
  look='{.spec.providerID} {.status.nodeInfo.kubeletVersion} {.metadata.name}'
  look+=' minikube={.metadata.labels.minikube\.k8s\.io/name}'
  node=$(kubectl get nodes --output "jsonpath={range .items[:1]}$look{end}")
  case $(kubectl config current-context):$node in
    docker-desktop:* | rancher-desktop:* | orbstack:* | colima*) docker load --quiet --input "$1" ;;
    *:kind://*) kind load image-archive "$1" --name "$(cut -d/ -f4 <<<"$node")" ;;
    *" minikube="?*) minikube --profile "${node##*=}" image load "$1" ;;
    *" k3d-"*) k3d image import "$1" --cluster "$(sed -E 's/.* k3d-(.+)-(server|agent)-.*/\1/' <<<"$node")" ;;
    *+k3s*) k3s ctr -n k8s.io images import "$1" ;;
    *) ctr -n k8s.io images import "$1" ;; # CONTAINERD_ADDRESS names its socket
  esac
}
"""
