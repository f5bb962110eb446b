"""Builders, and the ways of an image to the nodes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runner.cluster import images
from runner.cluster.guard import Verdict
from runner.cluster.images import Builder, build_argv, find_builder, id_argv, load, load_script, save_argv
from runner.cluster.references import qualified
from runner.errors import CannotStart, StepFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.runner_cluster.conftest import FakeHand, Fakes

DOCKER, PODMAN, BUILDAH, NERDCTL = (Builder(name) for name in images.BUILDERS)
FAR_PODMAN = Builder("podman", remote=True)
KIND = Verdict(True, "", "kind", "web")
K3D = Verdict(True, "", "k3d", "web")
MINIKUBE = Verdict(True, "", "minikube", "p1")
NODE = Verdict(True, "", "node", "containerd")
DESKTOP = Verdict(True, "", "desktop", "docker-desktop")
REMOTE = Verdict(False, "", "remote")

APP = "docker.io/library/app:latest"
ID = "a" * 64

# --- names


def status(*names: str) -> dict[str, Any]:
    return {"status": {"images": [{"names": list(names), "sizeBytes": 1}]}}


def test_node_has() -> None:
    """Every node must list the name, and the digest when one is asked for."""
    assert images.node_has([status("app@sha256:1", APP)], "app")
    assert images.node_has([status("app@sha256:1", APP)], "app", "sha256:1")
    assert not images.node_has([status("app@sha256:1", APP)], "app", "sha256:2")
    assert not images.node_has([status(APP), status("other")], "app")
    assert not images.node_has([{"status": {}}], "app")
    assert not images.node_has([], "app")


# --- who builds


def test_docker_comes_first(fakes: Fakes) -> None:
    """The builder is docker when its engine answers; whether it saves one platform is known by its interface."""
    fakes.put("docker", 'echo "28.2.2 1.50"')
    fakes.put("podman")
    builder = find_builder()
    assert (builder.name, builder.version, builder.why, builder.one_platform) == (
        "docker",
        "28.2.2",
        "docker 28.2.2",
        True,
    )
    assert fakes.calls == ["docker version --format {{.Server.Version}} {{.Client.APIVersion}}"]


def test_old_docker(fakes: Fakes) -> None:
    """An older docker saves whole images only."""
    fakes.put("docker", 'echo "24.0.7 1.43"')
    assert not find_builder().one_platform


def test_docker_without_engine(fakes: Fakes) -> None:
    """A docker command without its engine is passed over, and the decision says so."""
    fakes.put("docker", 'echo "Cannot connect to the Docker daemon" >&2; echo; exit 1')
    fakes.put("podman", "echo podman version 4.3.1")
    builder = find_builder()
    assert (builder.name, builder.version) == ("podman", "4.3.1")
    assert builder.why == "podman 4.3.1 (docker is installed, but its engine does not answer)"


def test_docker_that_hangs(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not answer in time is none."""
    monkeypatch.setattr(images, "PROBE_SECONDS", 0.2)
    fakes.put("docker", "exec /bin/sleep 30")
    fakes.put("podman", "echo podman version 4.3.1")
    assert "docker does not answer within 0.2 s" in find_builder().why


def test_the_others_in_order(fakes: Fakes) -> None:
    """Also buildah and nerdctl are taken when there is nothing better."""
    fakes.put("nerdctl", "echo nerdctl version 2.0.0")
    assert find_builder().name == "nerdctl"
    fakes.put("buildah", "echo 'buildah version 1.28.2 (image-spec 1.1.0-rc2)'")
    assert (find_builder().name, find_builder().version) == ("buildah", "1.28.2")


def test_preferred_builder(fakes: Fakes) -> None:
    """The builder that is asked for is taken, although another would come first."""
    fakes.put("docker", "echo 28.2.2 1.50")
    fakes.put("buildah", "echo buildah version 1.28.2")
    assert find_builder("buildah").name == "buildah"
    assert fakes.calls == ["buildah --version"]


def test_preferred_builder_is_missing(fakes: Fakes) -> None:
    """A builder that is asked for and cannot work is an error, not a reason to take another."""
    fakes.put("docker", "echo 28.2.2 1.50")
    with pytest.raises(CannotStart) as caught:
        find_builder("podman")
    assert caught.value.message == "podman is not installed, and the builder is to be podman"
    assert "builder: auto" in caught.value.hint


def test_no_builder(fakes: Fakes) -> None:
    """Without any builder the error says what is the matter with each, and what to install."""
    fakes.put("docker", "exit 1")
    with pytest.raises(CannotStart) as caught:
        find_builder()
    assert "docker is installed, but its engine does not answer; podman is not installed" in caught.value.message
    assert "apt-get install podman" in caught.value.hint


def test_remote_podman(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A podman that talks to an engine elsewhere counts only if that engine answers."""
    monkeypatch.setenv("CONTAINER_HOST", "ssh://elsewhere")
    fakes.put("podman", "echo 5.2.0")
    assert find_builder().remote
    assert fakes.calls == ["podman version --format {{.Server.Version}}"]
    fakes.put("podman", "exit 125")
    with pytest.raises(CannotStart, match="podman is installed, but its engine does not answer"):
        find_builder()


# --- commands


def test_build_argv() -> None:
    """Each builder is called as a person would; docker's attestation is turned off in a way that old ones accept."""
    options = ("app", "src", "src/Containerfile", {"A": "1", "B": "x y"}, "prod", "linux/arm64")
    rest = (
        "--file",
        "src/Containerfile",
        "--build-arg",
        "A=1",
        "--build-arg",
        "B=x y",
        "--target",
        "prod",
        "--platform",
        "linux/arm64",
        "src",
    )
    assert build_argv(PODMAN, *options).argv == ("podman", "build", "--tag", "app", *rest)
    assert build_argv(BUILDAH, *options).argv == ("buildah", "build", "--tag", "app", "--layers", "--force-rm", *rest)
    assert build_argv(NERDCTL, *options).argv == ("nerdctl", "--namespace", "k8s.io", "build", "--tag", "app", *rest)
    docker = build_argv(DOCKER, *options)
    assert docker.argv == ("docker", "build", "--tag", "app", *rest)
    assert docker.env == {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}


def test_build_argv_without_options() -> None:
    """What is not given is not written, and a folder is never taken for an option."""
    assert build_argv(PODMAN, "app", ".").argv == ("podman", "build", "--tag", "app", ".")
    assert build_argv(PODMAN, "app", "-x").argv[-1] == "./-x"


def test_save_argv() -> None:
    """Every builder writes an archive that carries the wanted name."""
    save = ("save", "--output", "f.tar", APP)
    assert [command.argv for command in save_argv(DOCKER, "app", APP, "f.tar", "linux/amd64")] == [("docker", *save)]
    assert [
        str(command) for command in save_argv(Builder("docker", one_platform=True), "app", APP, "f", "linux/amd64")
    ] == [f"docker save --platform linux/amd64 --output f {APP}"]
    assert [command.argv[:3] for command in save_argv(NERDCTL, "app", APP, "f.tar")] == [
        ("nerdctl", "--namespace", "k8s.io")
    ]
    assert [str(command) for command in save_argv(PODMAN, "app", APP, "f.tar")] == [
        f"podman push --quiet app docker-archive:f.tar:{APP}"
    ]
    assert [str(command) for command in save_argv(BUILDAH, "app", APP, "f.tar")] == [
        f"buildah push --quiet app docker-archive:f.tar:{APP}"
    ]
    assert [str(command) for command in save_argv(FAR_PODMAN, "app", APP, "f.tar")] == [
        f"podman tag app {APP}",
        f"podman save --quiet --output f.tar {APP}",
        f"podman untag {APP} {APP}",
    ]
    assert len(save_argv(FAR_PODMAN, APP, APP, "f.tar")) == 1


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (KIND, "kind load image-archive f.tar --name web"),
        (K3D, "k3d image import f.tar --cluster web"),
        (MINIKUBE, "minikube --profile p1 image load f.tar"),
        (DESKTOP, "docker load --quiet --input f.tar"),
        (NODE, "ctr -n k8s.io images import f.tar"),
        (Verdict(True, "", "node", "k3s"), "k3s ctr -n k8s.io images import f.tar"),
        (Verdict(True, "", "node", "microk8s"), "microk8s ctr -n k8s.io images import f.tar"),
        (Verdict(True, "", "node", "docker"), "docker load --quiet --input f.tar"),
        (Verdict(True, "", "node", "cri-o"), "podman load --quiet --input f.tar"),
    ],
)
def test_import_argv(verdict: Verdict, line: str) -> None:
    """Each provider has its own way in, and it is shown as it will be run."""
    assert str(images.import_argv(verdict, "f.tar")) == line
    assert images.means(verdict) == line.replace("f.tar", "FILE")


def test_shared_stores() -> None:
    """With docker and nerdctl one builds where a desktop's cluster looks; podman does not."""
    assert images.shares_store(DESKTOP, DOCKER)
    assert images.shares_store(DESKTOP, NERDCTL)
    assert not images.shares_store(DESKTOP, PODMAN)
    assert images.shares_store(Verdict(True, "", "node", "docker"), DOCKER)
    assert not images.shares_store(NODE, DOCKER)


# --- loading, with programs that only say what they were asked


def archive(path: Path, *names: str, image_id: str = ID) -> Path:
    """An archive as `docker save` writes it, without the layers."""
    text = json.dumps([{"Config": f"{image_id}.json", "RepoTags": list(names), "Layers": []}]).encode()
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return path


@pytest.fixture
def podman(fakes: Fakes, tmp_path: Path) -> None:
    """A podman that has `app` with the id ID and saves it."""
    ready = archive(tmp_path / "ready.tar", APP)
    fakes.put(
        "podman",
        f"""case "$*" in
        --version) echo podman version 4.3.1 ;;
        "image inspect"*app) echo {ID} ;;
        "image inspect"*) echo "no such image" >&2; exit 125 ;;
        push*docker-archive:*) file=${{4#docker-archive:}}; /bin/cp {ready} "${{file%%:*}}" ;;
        esac""",
    )


def containerd(**images: str) -> str:
    """The script of a ctr that has these images (`app="ID"`): their names, and a manifest with the id for each."""
    rows = "\n".join(
        f"{qualified(name)} application/vnd.oci.image.manifest.v1+json sha256:{index:064} 3.2 KiB linux/amd64 -"
        for index, name in enumerate(images)
    )
    contents = "\n".join(
        f"""*"content get sha256:{index:064}") echo '{json.dumps({"config": {"digest": f"sha256:{image_id}"}})}' ;;"""
        for index, image_id in enumerate(images.values())
    )
    return (
        f"""case "$*" in *" images ls "*) echo 'REF TYPE DIGEST SIZE PLATFORMS LABELS\n{rows}' ;;\n{contents}\nesac"""
    )


def importing(before: str, after: str) -> str:
    """The script of a ctr that answers like `before` until something is imported, and then like `after`."""
    return f"""if [[ $* == *" import "* ]]; then echo done >"$0.imported"
elif [[ -e $0.imported ]]; then {after}
else {before}
fi"""


@pytest.mark.usefixtures("podman")
def test_node_gets_the_image(fakes: Fakes, hand: FakeHand) -> None:
    """Nodes that lack the image get it by an archive under the full name; then they are asked whether they have it, and
    the archive is removed.
    """
    fakes.put("ctr", importing(containerd(), containerd(app=ID)))
    known: dict[str, str] = {}
    told = load("app", None, NODE, hand, known=known)
    file = f"{hand.folder}/{ID[:12]}.tar"
    assert fakes.calls == [
        "podman --version",
        "podman image inspect --format {{.Id}} app",
        f"ctr -n k8s.io --connect-timeout 2s images ls name=={APP}",
        f"podman push --quiet app docker-archive:{file}:{APP}",
        f"ctr -n k8s.io images import {file}",
        f"ctr -n k8s.io --connect-timeout 2s images ls name=={APP}",
        f"ctr -n k8s.io --connect-timeout 2s content get sha256:{0:064}",
    ]
    assert known == {APP: ID}
    assert told == "loaded by ctr -n k8s.io images import aaaaaaaaaaaa.tar"
    assert hand.waits == ["app to reach the nodes (ctr -n k8s.io images import FILE)"]
    assert list(hand.folder.iterdir()) == []


@pytest.mark.usefixtures("podman")
def test_node_has_it_already(fakes: Fakes, hand: FakeHand) -> None:
    """The same image under the same name is not sent again: three questions, no archive."""
    fakes.put("ctr", containerd(app=ID))
    assert load("app", None, NODE, hand, PODMAN) == f"the nodes have {APP} already"
    assert [call.split()[0] for call in fakes.calls] == ["podman", "ctr", "ctr"]


@pytest.mark.usefixtures("podman")
def test_node_has_it_in_an_index(fakes: Fakes, hand: FakeHand) -> None:
    """An image that came as an index of several platforms is recognised by the configuration of one of them."""
    manifest = json.dumps({"config": {"digest": f"sha256:{ID}"}})
    index = json.dumps({"manifests": [{"digest": f"sha256:{'1' * 64}"}, {"digest": f"sha256:{'2' * 64}"}]})
    fakes.put(
        "ctr",
        f"""case "$*" in *" ls "*) echo "{APP} type sha256:{"0" * 64} 1 KiB" ;;
        *000) echo '{index}' ;; *111) echo broken ;; *222) echo '{manifest}' ;; esac""",
    )
    assert load("app", None, NODE, hand, PODMAN) == f"the nodes have {APP} already"


@pytest.mark.parametrize("script", [containerd(app="b" * 64), containerd(other=ID), "echo; echo x"])
@pytest.mark.usefixtures("podman")
def test_changed_image_is_sent(fakes: Fakes, hand: FakeHand, script: str) -> None:
    """Another image under this name, this image under another name, or an answer that says nothing: not enough."""
    fakes.put("ctr", importing(script, containerd(app=ID)))
    load("app", None, NODE, hand, PODMAN)
    assert any("images import" in call for call in fakes.calls)


@pytest.mark.usefixtures("podman")
def test_node_that_keeps_the_older_image(fakes: Fakes, hand: FakeHand) -> None:
    """An import that ends well is not believed: the node still has another image under this name."""
    fakes.put("ctr", importing(containerd(app="b" * 64), containerd(app="b" * 64)))
    known: dict[str, str] = {}
    with pytest.raises(StepFailed) as caught:
        load("app", None, NODE, hand, PODMAN, known)
    assert caught.value.reason == "stale_image"
    assert caught.value.message == f"`ctr -n k8s.io images …` ended well, but the nodes do not have this {APP}"
    assert known == {}


def test_docker_ids_are_looked_up_in_the_archive(fakes: Fakes, hand: FakeHand, tmp_path: Path) -> None:
    """With containerd's store docker's id is no configuration digest: the archive has it, and the import is spared."""
    ready = archive(tmp_path / "ready.tar", "app:latest")
    fakes.put("docker", f'case $1 in image) echo "sha256:{"9" * 64} linux/amd64" ;; save) /bin/cp {ready} "$5" ;; esac')
    fakes.put("ctr", containerd(app=ID))
    told = load("app", None, NODE, hand, Builder("docker", one_platform=True))
    assert told == f"the nodes have {APP} already"
    assert f"docker save --platform linux/amd64 --output {hand.folder}/999999999999.tar {APP}" in fakes.calls


@pytest.mark.usefixtures("podman")
def test_image_that_is_not_built(hand: FakeHand) -> None:
    """An image that the builder does not have fails with what to do first."""
    with pytest.raises(StepFailed) as caught:
        load("nope", None, NODE, hand, PODMAN)
    assert caught.value.message == "podman has no image nope"
    assert "`build` step" in caught.value.hint
    assert caught.value.result


@pytest.mark.usefixtures("podman")
def test_ctr_without_permission(fakes: Fakes, hand: FakeHand) -> None:
    """When containerd does not let us in the hint says who may and how its socket is named; no archive is left."""
    fakes.put("ctr", "echo 'ctr: failed to dial: permission denied' >&2; exit 1")
    with pytest.raises(StepFailed) as caught:
        load("app", None, NODE, hand, PODMAN)
    assert caught.value.message == "containerd does not answer, so it cannot take the image"
    assert "CONTAINERD_ADDRESS" in caught.value.hint
    assert [call.split()[0] for call in fakes.calls] == ["podman", "ctr"]


@pytest.mark.usefixtures("podman")
def test_import_that_fails(fakes: Fakes, hand: FakeHand) -> None:
    """An import that fails has a hint too, and leaves no archive."""
    fakes.put("ctr", "[[ $* != *import* ]]")
    with pytest.raises(StepFailed) as caught:
        load("app", None, NODE, hand, PODMAN)
    assert "CONTAINERD_ADDRESS" in caught.value.hint
    assert list(hand.folder.iterdir()) == []


@pytest.mark.usefixtures("podman")
def test_missing_ctr(hand: FakeHand) -> None:
    """Without ctr the load cannot be done, and it is said which program is missing."""
    with pytest.raises(CannotStart, match="ctr is not installed"):
        load("app", None, NODE, hand, PODMAN)


@pytest.mark.usefixtures("podman")
def test_kind(fakes: Fakes, hand: FakeHand) -> None:
    """For kind the archive is loaded into the named cluster, unless all its nodes have the image."""
    fakes.put("kind", "case $1 in get) echo web-control-plane; echo web-worker ;; load) echo >$0.loaded ;; esac")
    fakes.put("docker", f"[[ $2 == web-worker && ! -e ${{0%/*}}/kind.loaded ]] && exit\n{containerd(app=ID)}")
    load("app", None, KIND, hand, PODMAN)
    ask = f"ctr -n k8s.io images ls name=={APP}"
    assert fakes.calls[1:] == [
        "kind get nodes --name web",
        f"docker exec web-control-plane {ask}",
        f"docker exec web-control-plane ctr -n k8s.io content get sha256:{0:064}",
        f"docker exec web-worker {ask}",
        f"podman push --quiet app docker-archive:{hand.folder}/{ID[:12]}.tar:{APP}",
        f"kind load image-archive {hand.folder}/{ID[:12]}.tar --name web",
        "kind get nodes --name web",
        *(
            f"docker exec {node} ctr -n k8s.io {words}"
            for node in ("web-control-plane", "web-worker")
            for words in (f"images ls name=={APP}", f"content get sha256:{0:064}")
        ),
    ]


@pytest.mark.usefixtures("podman")
def test_kind_with_podman_nodes(fakes: Fakes, hand: FakeHand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes of kind may be podman's containers: then podman is asked, and a present image is not loaded."""
    monkeypatch.setenv("KIND_EXPERIMENTAL_PROVIDER", "nerdctl")
    fakes.put("kind", "echo web-control-plane")
    fakes.put("nerdctl", containerd(app=ID))
    assert "already" in load("app", None, KIND, hand, PODMAN)


@pytest.mark.usefixtures("podman")
def test_k3d(fakes: Fakes, hand: FakeHand) -> None:
    """k3d imports the archive unless its servers and agents have the image; its load balancer is no node."""
    nodes = [{"name": name} for name in ("k3d-web-server-0", "k3d-web-serverlb", "k3d-other-server-0")]
    fakes.put("k3d", f"case $1 in node) echo '{json.dumps(nodes)}' ;; image) echo >$0.loaded ;; esac")
    fakes.put("docker", f"[[ -e ${{0%/*}}/k3d.loaded ]] || exit\n{containerd(app=ID)}")
    load("app", None, K3D, hand, PODMAN)
    assert {tuple(call.split()[:3]) for call in fakes.calls if "exec" in call} == {
        ("docker", "exec", "k3d-web-server-0")
    }
    assert f"k3d image import {hand.folder}/{ID[:12]}.tar --cluster web" in fakes.calls


def put_minikube(fakes: Fakes, *ids: str) -> None:
    """A minikube that lists `app` with the next of these ids at every question."""
    answers = [json.dumps([{"id": image_id, "repoTags": [APP], "repoDigests": [], "size": "1"}]) for image_id in ids]
    count = fakes.log.with_name("asked")
    fakes.put(
        "minikube",
        f"""[[ $* == *" ls "* ]] || exit 0
        echo x >>{count}; mapfile -t asked <{count}
        answers=('{"' '".join(answers)}'); echo "${{answers[${{#asked[@]}} - 1]}}" """,
    )


@pytest.mark.usefixtures("podman")
def test_minikube(fakes: Fakes, hand: FakeHand) -> None:
    """For minikube the archive is loaded, and its list is looked at before and after."""
    put_minikube(fakes, "b" * 64, ID)
    assert "loaded by minikube --profile p1 image load" in load("app", None, MINIKUBE, hand, PODMAN)
    put_minikube(fakes, "", "", ID)
    assert "already" in load("app", None, MINIKUBE, hand, PODMAN)


@pytest.mark.usefixtures("podman")
def test_minikube_that_keeps_the_old_image(fakes: Fakes, hand: FakeHand) -> None:
    """When minikube answers 0 and keeps the old image while it is in use, that is a failure with its reason."""
    put_minikube(fakes, "b" * 64, "b" * 64)
    with pytest.raises(StepFailed, match="kept its older") as caught:
        load("app", None, MINIKUBE, hand, PODMAN)
    assert "delete the Pods" in caught.value.hint


@pytest.mark.usefixtures("podman")
def test_minikube_that_is_not_understood(fakes: Fakes, hand: FakeHand) -> None:
    """A list in another form is no reason to fail: the image is loaded, and believed to be there."""
    fakes.put("minikube", "echo something else")
    assert "loaded by" in load("app", None, MINIKUBE, hand, PODMAN)


def test_desktop(fakes: Fakes, hand: FakeHand) -> None:
    """A desktop application's cluster uses docker's images: nothing is run."""
    assert load("app", None, DESKTOP, hand, DOCKER) == "docker-desktop uses the images of docker directly"
    assert fakes.calls == []


@pytest.mark.usefixtures("podman")
def test_remote(fakes: Fakes, hand: FakeHand) -> None:
    """For nodes elsewhere the image is pushed to the registry in its name."""
    assert load("ghcr.io/me/app", None, REMOTE, hand, PODMAN) == "pushed ghcr.io/me/app"
    assert fakes.calls[-1] == "podman push --quiet ghcr.io/me/app"


@pytest.mark.usefixtures("podman")
def test_remote_without_registry(hand: FakeHand) -> None:
    """A name without a registry cannot reach nodes elsewhere, and the hint says how to name it."""
    with pytest.raises(StepFailed) as caught:
        load("app", None, REMOTE, hand, PODMAN)
    assert caught.value.message == "the nodes must pull app from a registry, but its name says none"
    assert "registry.example.com/app" in caught.value.hint


def test_archive_to_remote(hand: FakeHand, tmp_path: Path) -> None:
    """An archive cannot be handed to nodes elsewhere."""
    with pytest.raises(StepFailed, match=r"to take f\.tar"):
        load("app", archive(tmp_path / "f.tar", APP), REMOTE, hand)


def test_given_archive(fakes: Fakes, hand: FakeHand, tmp_path: Path) -> None:
    """A given archive is imported, or not when the nodes have all that is in it; it is never removed."""
    file = archive(tmp_path / "f.tar", "app:latest", "ghcr.io/me/app:2")
    both = containerd(**{"app": ID, "ghcr.io/me/app:2": ID})
    fakes.put("ctr", importing(containerd(), both))
    assert load("", file, NODE, hand) == "loaded by ctr -n k8s.io images import f.tar"
    fakes.put("ctr", both)
    assert "already" in load("", file, NODE, hand)
    assert file.exists()


def test_archive_with_another_name(hand: FakeHand, tmp_path: Path) -> None:
    """An archive from a plain `podman save` holds localhost/app, which kubelet never finds: refused, with names."""
    with pytest.raises(StepFailed) as caught:
        load("app", archive(tmp_path / "f.tar", "localhost/app:latest"), NODE, hand)
    assert f"does not hold {APP}" in caught.value.message
    assert caught.value.hint == "it holds localhost/app:latest"


def test_archive_of_another_form(fakes: Fakes, hand: FakeHand, tmp_path: Path) -> None:
    """An archive whose names cannot be read (OCI) is left to the provider."""
    file = tmp_path / "f.tar"
    with tarfile.open(file, "w"):
        pass
    fakes.put("ctr", containerd())
    load("app", file, NODE, hand)
    assert fakes.calls == [f"ctr -n k8s.io images import {file}"]


def test_remote_podman_leaves_no_tag(fakes: Fakes, hand: FakeHand) -> None:
    """A remote podman needs a tag for saving, and it is taken away also when saving fails."""
    fakes.put("podman", f"case $1 in image) echo {ID} ;; save) exit 1 ;; esac")
    fakes.put("ctr", containerd())
    with pytest.raises(StepFailed):
        load("app", None, NODE, hand, FAR_PODMAN)
    assert fakes.calls[-1] == f"podman untag {APP} {APP}"


# --- the planned script


@pytest.mark.parametrize("builder", [DOCKER, PODMAN, BUILDAH, NERDCTL, FAR_PODMAN], ids=lambda builder: builder.name)
def test_script_is_clean(builder: Builder) -> None:
    """A shellcheck finds nothing in the function, for any builder."""
    script = f"#!/usr/bin/env bash\nset -euo pipefail\n{load_script(builder)}\nload_image app\n"
    answer = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "-"], input=script, text=True, capture_output=True, check=False
    )
    assert answer.stdout == ""


@pytest.mark.parametrize(
    ("context", "node", "call"),
    [
        (
            "x",
            "kind://docker/web/web-control-plane v1.34.0 web-control-plane minikube=",
            "kind load image-archive FILE --name web",
        ),
        ("x", " v1.31.5+k3s1 k3d-my-dev-agent-0 minikube=", "k3d image import FILE --cluster my-dev"),
        ("p1", " v1.34.0 p1 minikube=p1", "minikube --profile p1 image load FILE"),
        ("default", " v1.31.5+k3s1 laptop minikube=", "k3s ctr -n k8s.io images import FILE"),
        ("e2e", " v1.34.1 e2e-node minikube=", "ctr -n k8s.io images import FILE"),
        ("orbstack", " v1.34.1 orbstack minikube=", "docker load --quiet --input FILE"),
    ],
)
def test_script_loads(fakes: Fakes, tmp_path: Path, context: str, node: str, call: str) -> None:
    """The function takes the provider's way in, under the full name, and removes its archive."""
    for tool in ("kind", "k3d", "minikube", "k3s", "ctr", "docker", "podman"):
        fakes.put(tool)
    fakes.put("kubectl", f"case $1 in config) echo {context} ;; get) echo '{node}' ;; esac")
    script = f"set -euo pipefail\n{load_script(PODMAN)}\nload_image me/app:1\n"
    path = f"{fakes.folder}:/usr/bin:/bin"
    subprocess.run(["/bin/bash", "-c", script], check=True, env={"PATH": path, "TMPDIR": str(hand_folder(tmp_path))})
    save, deliver = (call for call in fakes.calls if not call.startswith("kubectl"))
    file = next(word for word in deliver.split() if word.endswith("image.tar"))
    assert save == f"podman push --quiet me/app:1 docker-archive:{file}:docker.io/me/app:1"
    assert deliver == call.replace("FILE", file)
    assert list(hand_folder(tmp_path).iterdir()) == []


def hand_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir(exist_ok=True)
    return folder


def test_script_with_shared_store(fakes: Fakes, tmp_path: Path) -> None:
    """With docker on a desktop's cluster the function does nothing."""
    fakes.put("docker")
    fakes.put("kubectl", "echo docker-desktop")
    script = f"set -euo pipefail\n{load_script(DOCKER)}\nload_image app\n"
    env = {"PATH": f"{fakes.folder}:/usr/bin:/bin", "TMPDIR": str(hand_folder(tmp_path))}
    subprocess.run(["/bin/bash", "-c", script], check=True, env=env)
    assert fakes.calls == ["kubectl config current-context"]


def test_script_loads_archives(fakes: Fakes, tmp_path: Path) -> None:
    """There is a function for an archive too, which keeps it."""
    file = archive(tmp_path / "f.tar", APP)
    fakes.put("ctr")
    fakes.put("kubectl", "case $1 in config) echo e2e ;; esac")
    script = f"set -euo pipefail\n{load_script(PODMAN)}\nload_archive {file}\n"
    subprocess.run(["/bin/bash", "-c", script], check=True, env={"PATH": f"{fakes.folder}:/usr/bin:/bin"})
    assert fakes.calls[-1] == f"ctr -n k8s.io images import {file}"
    assert file.exists()


def test_script_fails_when_saving_fails(fakes: Fakes, tmp_path: Path) -> None:
    """When the image cannot be saved the script stops and nothing is loaded."""
    fakes.put("podman", "exit 125")
    fakes.put("ctr")
    fakes.put("kubectl", "case $1 in config) echo e2e ;; esac")
    script = f"set -euo pipefail\n{load_script(PODMAN)}\nload_image app\necho too far\n"
    env = {"PATH": f"{fakes.folder}:/usr/bin:/bin", "TMPDIR": str(hand_folder(tmp_path))}
    answer = subprocess.run(["/bin/bash", "-c", script], check=False, env=env, capture_output=True, text=True)
    assert answer.returncode
    assert answer.stdout == ""
    assert not any(call.startswith("ctr") for call in fakes.calls)


# --- with the real tools


@dataclass
class Built:
    """A tiny image, made by podman from nothing."""

    name: str
    ids: list[str] = field(default_factory=list)

    def build(self, label: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "Dockerfile").write_text(f"FROM scratch\nCOPY Dockerfile /\nLABEL made={label}\n")
            argv = ["podman", "build", "--quiet", "--no-cache", "--tag", self.name, folder]
            self.ids.append(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip())


@pytest.fixture
def built() -> Iterator[Built]:
    """A new image, removed afterwards with all its versions."""
    image = Built(f"runner-test-{uuid.uuid4().hex[:8]}")
    image.build("1")
    yield image
    subprocess.run(["podman", "rmi", "--force", *image.ids], check=True, capture_output=True)


@pytest.mark.podman
@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
@pytest.mark.parametrize("builder", [PODMAN, BUILDAH], ids=lambda builder: builder.name)
def test_real_archive(built: Built, builder: Builder, hand: FakeHand) -> None:
    """An archive by the real podman or buildah holds kubelet's name with the image's id, and leaves no tag behind."""
    if shutil.which(builder.name) is None:
        pytest.skip(f"needs {builder.name}")
    file = hand.folder / "f.tar"
    for command in save_argv(builder, built.name, qualified(built.name), str(file)):
        hand.execute(command)
    image_id = hand.execute(id_argv(builder, built.name)).stdout.strip().removeprefix("sha256:")
    assert images.archive_images(file)[qualified(built.name)] == image_id
    tags = subprocess.run(
        ["podman", "image", "inspect", "--format", "{{.RepoTags}}", built.name],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert tags == f"[localhost/{built.name}:latest]\n"


@pytest.mark.e2e
@pytest.mark.skipif(
    not (os.environ.get("CONTAINERD_ADDRESS") and os.environ.get("KUBECONFIG")),
    reason="needs the cluster of tests/cluster",
)
def test_real_containerd(built: Built, hand: FakeHand) -> None:
    """On the real node an image is loaded once, found by its id the second time, and loaded again when it has changed;
    the function of a planned script does the same.
    """
    name = qualified(built.name)
    try:
        assert load(built.name, None, NODE, hand, PODMAN).startswith("loaded by ctr")
        assert load(built.name, None, NODE, hand, PODMAN) == f"the nodes have {name} already"
        built.build("2")
        assert load(built.name, None, NODE, hand, PODMAN).startswith("loaded by ctr")
        assert load(built.name, None, NODE, hand, PODMAN) == f"the nodes have {name} already"
        built.build("3")
        script = f"set -euo pipefail\n{load_script(PODMAN)}\nload_image {built.name}\n"
        subprocess.run(["bash", "-c", script], check=True, capture_output=True)
        assert load(built.name, None, NODE, hand, PODMAN) == f"the nodes have {name} already"
    finally:
        names = [name, f"localhost/{built.name}:latest", *(f"sha256:{image_id}" for image_id in built.ids)]
        subprocess.run(["ctr", "-n", "k8s.io", "images", "rm", *names], check=False, capture_output=True)
