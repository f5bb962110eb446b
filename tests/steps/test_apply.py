"""`apply`: which files a key means, what is wrong with them before the run, and what is applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner.cluster.kubectl import KubectlDialect
from runner.cluster.protocol import Applied, Manifest
from runner.errors import StepFailed
from runner.steps import apply
from runner.steps.bounds import STAY_INSIDE
from runner.steps.kind import Fault, Files, Scene

SPEC = {"containers": [{"name": "app", "image": "app"}]}
ADVICE = "a manifest has apiVersion, kind and metadata.name"


def manifest(name: str, kind: str = "Pod") -> str:
    return f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: other}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with manifests in a folder, of every suffix, and what is none."""
    folder = tmp_path / "repository"
    (folder / "many").mkdir(parents=True)
    (folder / "pod.yaml").write_text(manifest("a"))
    (folder / "many/b.yml").write_text(manifest("b"))
    (folder / "many/a.yaml").write_text(manifest("x") + "---\n" + manifest("y", "Service"))
    (folder / "many/c.json").write_text('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}')
    (folder / "many/notes.txt").write_text("no manifest")
    (folder / "empty").mkdir()
    return folder


def faults(file: Any, folder: Path, *made: str) -> list[Fault]:
    return list(apply.check({"file": file}, Files(folder, folder, frozenset(made))))


def files(file: str | list[str], folder: Path, namespace: str = "") -> list[str]:
    """The files that the commands name, relative to the folder."""
    args = msgspec.convert({"file": file}, apply.Args)
    (command,) = apply.commands(args, Scene(KubectlDialect(), namespace, folder))
    names = (word for word in command.argv if word.startswith("--filename="))
    return [name.removeprefix(f"--filename={folder}/") for name in names]


# -- commands -------------------------------------------------------------------------------------------------------


def test_command(folder: Path) -> None:
    """As a person types it, with the namespace when there is one."""
    args = msgspec.convert({"file": "pod.yaml"}, apply.Args)

    (plain,) = apply.commands(args, Scene(KubectlDialect(), "", folder))
    assert plain.argv == ("kubectl", "apply", "--request-timeout=35s", f"--filename={folder}/pod.yaml")
    (other,) = apply.commands(args, Scene(KubectlDialect(), "demo", folder, show_path=lambda path: path.name))
    assert other.argv == ("kubectl", "apply", "--request-timeout=35s", "--namespace=demo", "--filename=pod.yaml")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pod.yaml", ["pod.yaml"]),
        ("many", ["many/a.yaml", "many/b.yml", "many/c.json"]),
        ("many/", ["many/a.yaml", "many/b.yml", "many/c.json"]),
        ("many/*.yaml", ["many/a.yaml"]),
        ("**/*.y*ml", ["many/a.yaml", "many/b.yml", "pod.yaml"]),
        ("many/*", ["many/a.yaml", "many/b.yml", "many/c.json"]),
        (["pod.yaml", "many/*.json"], ["pod.yaml", "many/c.json"]),
        (["many/b.yml", "many/a.yaml"], ["many/b.yml", "many/a.yaml"]),
        ("made.yaml", ["made.yaml"]),
    ],
)
def test_which_files(file: str | list[str], expected: list[str], folder: Path) -> None:
    """A path, a folder, a glob: sorted; a list: in its order; a file that is not there yet is kept."""
    assert files(file, folder) == expected


def test_titles() -> None:
    """As written."""
    assert apply.title({"file": "a.yaml"}) == "a.yaml"
    assert apply.title({"file": ["a.yaml", "b"]}) == "a.yaml, b"
    assert apply.needs_cluster({"file": "a.yaml"}) is True


# -- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["pod.yaml", "many", "many/*.yaml", ["pod.yaml", "many"], "${{ inputs.a }}", "m.yaml"])
def test_nothing_is_wrong(file: Any, folder: Path) -> None:
    """Also for a file that an expression names, and one that an earlier step makes."""
    assert faults(file, folder, "m.yaml") == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pood.yaml", Fault(("file",), "there is no file pood.yaml", "did you mean pod.yaml?")),
        ("many/aa.yaml", Fault(("file",), "there is no file many/aa.yaml", "did you mean many/a.yaml?")),
        (
            ["pod.yaml", "x/*.yaml"],
            Fault(
                ("file", 1),
                "there is no file x/*.yaml",
                "a `run` step before that makes it says so with `generates: [x/*.yaml]`",
            ),
        ),
        ("empty", Fault(("file",), "the folder empty has no manifests (*.yaml, *.yml, *.json)")),
        (
            "https://example.org/a.yaml",
            Fault(
                ("file",),
                "https://example.org/a.yaml is a URL: what it holds may change, and nobody has looked at it",
                "download it into the repository, or allow it: `allow_remote: true`",
            ),
        ),
        (
            "../a.yaml",
            Fault(("file",), "a.yaml is outside of the repository of the workflow", STAY_INSIDE),
        ),
    ],
)
def test_wrong_names(file: Any, expected: Fault, folder: Path) -> None:
    """With the place in the list, and a suggestion."""
    assert faults(file, folder) == [expected]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "m.yaml is empty", ""),
        ("# nothing\n---\n", "m.yaml is empty", ""),
        ("- a\n", "m.yaml:1: this is a list, not a Kubernetes object", ADVICE),
        ("a\n", "m.yaml:1: this is a single value, not a Kubernetes object", ADVICE),
        ("a: 1\n", "m.yaml:1: `apiVersion` and `kind` are missing: not a Kubernetes object", ADVICE),
        ("kind: Pod\n", "m.yaml:1: `apiVersion` is missing: not a Kubernetes object", ADVICE),
        ("apiVersion: ''\nkind: Pod\n", "m.yaml:1: `apiVersion` is missing: not a Kubernetes object", ADVICE),
        ("apiVersion: v1\nkind: Pod\n", "m.yaml:1: this Pod has no metadata.name", ADVICE),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: 0}\n",
            "m.yaml:1: metadata.name is not a text: put it in quotes",
            ADVICE,
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: a\n", "m.yaml:1: this Pod has no metadata.name", ADVICE),
        ("apiVersion: v1\nkind: List\n", "m.yaml:1: List has no items", ADVICE),
        ("apiVersion: 1\nkind: Pod\n", "m.yaml:1: `apiVersion` is missing: not a Kubernetes object", ADVICE),
        ("a: [\n", "m.yaml:2:1: a value is missing here", "write the value, or put it in quotes"),
        (
            "a: {{ .Values.x }}\n",
            "m.yaml:1:5: a key must be text, not a list or map",
            "is a `{{ }}` or `${{ }}` without quotes?",
        ),
    ],
)
def test_wrong_contents(text: str, message: str, hint: str, folder: Path) -> None:
    """Found before anything runs, with file and line of the manifest."""
    (folder / "m.yaml").write_text(text)

    assert faults("m.yaml", folder) == [Fault(("file",), message, hint)]


def test_generated_names_and_lists_are_fine(folder: Path) -> None:
    """`generateName` and `kind: List`."""
    (folder / "m.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n---\napiVersion: v1\nkind: PodList\nitems: []\n"
    )
    assert faults("m.yaml", folder) == []


@pytest.mark.parametrize("item", ["1", "[]", "{kind: Pod}", "{apiVersion: v1, kind: Pod}"])
def test_wrong_items_of_a_list(item: str, folder: Path) -> None:
    """What stands in a list is an object, or refused before the run."""
    (folder / "m.yaml").write_text(f"apiVersion: v1\nkind: List\nitems:\n- {item}\n")

    assert len(faults("m.yaml", folder)) == 1


# -- run ------------------------------------------------------------------------------------------------------------


class Stage:
    """A step's context and its cluster in one."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(KubectlDialect(), "", folder)
        self.namespace = "demo"
        self.cluster = self
        self.applied: list[Manifest] = []

    def apply(
        self, manifests: list[Manifest], namespace: str, hand: object, *, server_side: bool = False
    ) -> list[Applied]:
        assert (namespace, hand, server_side) == ("demo", self, False)
        self.applied = list(manifests)
        return [Applied(item.ref, f"uid-{item.ref.name}", created=item.ref.kind == "Pod") for item in manifests]


def test_run(folder: Path) -> None:
    """All objects of all files in order, in one call; outputs say which of them are new."""
    stage: Any = Stage(folder)
    outputs = apply.run(msgspec.convert({"file": ["pod.yaml", "many/a.yaml"]}, apply.Args), stage)

    assert [(item.object["metadata"]["name"], item.line) for item in stage.applied] == [("a", 1), ("x", 1), ("y", 5)]
    assert outputs["objects"][0] == {
        "kind": "Pod",
        "name": "a",
        "namespace": "other",
        "uid": "uid-a",
        "created": True,
    }
    assert [item["created"] for item in outputs["objects"]] == [True, True, False]


def test_lists_are_unfolded(folder: Path) -> None:
    """Each item is an object of its own, with its own line."""
    items = "".join(f"- {{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}\n" for name in "pq")
    (folder / "l.yaml").write_text(f"apiVersion: v1\nkind: List\nitems:\n{items}")
    stage: Any = Stage(folder)
    apply.run(msgspec.convert({"file": "l.yaml"}, apply.Args), stage)

    assert [(item.object["metadata"]["name"], item.line) for item in stage.applied] == [("p", 4), ("q", 5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "`apiVersion` and `kind` are missing: not a Kubernetes object"),
        ("a: [\n", "2:1: a value is missing here"),
        (None, "there is no file "),
    ],
)
def test_file_that_was_generated_wrongly(text: str | None, message: str, folder: Path) -> None:
    """What validation could not see fails the step with a sentence, and nothing is applied."""
    if text:
        (folder / "made.yaml").write_text(text)
    stage: Any = Stage(folder)

    with pytest.raises(StepFailed) as caught:
        apply.run(msgspec.convert({"file": "made.yaml"}, apply.Args), stage)
    assert message in caught.value.message
    assert caught.value.message.count("made.yaml") >= 1
    assert caught.value.reason == "manifest"
    assert stage.applied == []


# -- other sources --------------------------------------------------------------------------------------------------

CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
TEXT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\n"


def lines(data: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """The commands as typed, with what they read."""
    args = msgspec.convert(data, apply.Args)
    scene = Scene(KubectlDialect(), "", folder, show_path=lambda path: str(path.relative_to(folder)))
    return [(str(command), command.stdin or "") for command in apply.commands(args, scene)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "`apply` needs `file`, `kustomize` or `manifest`, one of them"),
        ({"file": "pod.yaml", "manifest": CONFIG}, "`apply` needs `file`, `kustomize` or `manifest`, one of them"),
        ({"manifest": {"kind": "Pod"}}, "`apiVersion` is missing: not a Kubernetes object"),
        ({"manifest": [CONFIG, 1]}, "this is a single value, not a Kubernetes object"),
        ({"manifest": "a: [\n"}, "inline manifest:2:1: a value is missing here"),
        ({"manifest": "# nothing"}, "the manifest is empty"),
        ({"manifest": "a: 1\n"}, "inline manifest:1: `apiVersion` and `kind` are missing: not a Kubernetes object"),
        ({"file": "pod.yaml", "images": {"x": "y:1"}}, "no container uses the image x"),
        ({"file": "pod.yaml", "images": {"x:1": "y:1"}}, "x:1 has a tag or digest"),
    ],
)
def test_wrong_sources(data: dict[str, Any], message: str, folder: Path) -> None:
    """Before anything runs."""
    assert [fault.message for fault in apply.check(data, Files(folder, folder))] == [message]


@pytest.mark.parametrize(
    "data",
    [
        {"manifest": CONFIG},
        {"manifest": [CONFIG, {**CONFIG, "kind": "Secret"}]},
        {"manifest": TEXT},
        {"manifest": "${{ inputs.text }}"},
        {"manifest": {**CONFIG, "data": {"a": "${{ inputs.a }}"}}},
        {"file": "https://example.test/a.yaml", "allow_remote": True},
        {"file": "${{ inputs.file }}", "images": {"x": "y"}},
    ],
)
def test_good_sources(data: dict[str, Any], folder: Path) -> None:
    """A map, a list, a text; what only a run knows is left to it."""
    assert list(apply.check(data, Files(folder, folder))) == []


@pytest.mark.parametrize(
    ("policy", "image", "warned"),
    [
        ("", "app", True),
        ("", "app:latest", True),
        ("", "docker.io/library/app", True),
        ("imagePullPolicy: Always", "app", True),
        ("imagePullPolicy: Never", "app", False),
        ("", "app:dev", False),
        ("", "other", False),
    ],
)
def test_image_that_would_be_pulled(policy: str, image: str, warned: bool, folder: Path) -> None:
    """What is built here is in no registry; the warning names the line of the manifest."""
    (folder / "web.yaml").write_text(
        f"{manifest('web')}spec:\n  containers:\n  - name: app\n    image: {image}\n    {policy}\n"
    )
    found = list(apply.check({"file": "web.yaml"}, Files(folder, folder, built=frozenset({"app"}))))

    assert [fault.severity for fault in found] == ["warning"] * warned
    assert all(fault.message.startswith(f"web.yaml:7: {image} is built here") for fault in found)
    replaced = {"file": "web.yaml", "images": {image.partition(":")[0]: "else:1"}}
    assert list(apply.check(replaced, Files(folder, folder, built=frozenset({"app"})))) == []


@pytest.mark.parametrize(
    ("key", "written", "path", "place"),
    [
        ("manifest", {"spec": SPEC}, ("manifest", "spec", "containers", 0, "image"), ""),
        ("manifest", [{"spec": SPEC}], ("manifest", 0, "spec", "containers", 0, "image"), ""),
        ("kustomize", "over", ("kustomize",), "base/web.yaml:4: "),
    ],
)
def test_image_that_would_be_pulled_of_other_sources(
    key: str, written: Any, path: tuple[Any, ...], place: str, folder: Path
) -> None:
    """In the workflow itself the place is that of the image; kustomizations are followed to their files."""
    head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}}
    if isinstance(written, dict):
        written = {**head, **written}
    elif isinstance(written, list):
        written = [{**head, **written[0]}]
    (folder / "base").mkdir()
    (folder / "base/kustomization.yaml").write_text("resources: [web.yaml]\n")
    (folder / "base/web.yaml").write_text(f"{manifest('web')}spec: {{containers: [{{name: app, image: app}}]}}\n")
    (folder / "over").mkdir()
    (folder / "over/kustomization.yaml").write_text("namespace: demo\nresources: [../base]\n")
    files = Files(folder, folder, built=frozenset({"app"}))

    (found,) = apply.check({key: written}, files)
    assert (found.path, found.severity) == (path, "warning")
    assert found.message.startswith(f"{place}app is built here, but kubelet asks a registry for it: no tag")
    # What a kustomization changes by more than names and labels, it may change there, too.
    (folder / "over/kustomization.yaml").write_text("resources: [../base]\nimages: [{name: app, newTag: '1'}]\n")
    assert list(apply.check({"kustomize": "over"}, files)) == []


def test_commands_of_other_sources(folder: Path) -> None:
    """What kubectl reads from a file is named; what it cannot read from one stands on its standard input."""
    (folder / "all.yaml").write_text(manifest("a") + "---\n" + manifest("n", "Namespace"))
    (folder / "spec.yaml").write_text(manifest("a") + "spec: {containers: [{name: a, image: 'app:1'}]}\n")

    assert lines({"kustomize": "over"}, folder) == [
        ("kubectl kustomize over", ""),
        ("kubectl apply --request-timeout=35s --filename=-", ""),
    ]
    assert lines({"file": "pod.yaml", "server_side": True}, folder) == [
        ("kubectl apply --request-timeout=35s --server-side --filename=pod.yaml", "")
    ]
    assert lines({"file": "https://x.test/a.yaml", "allow_remote": True}, folder) == [
        ("kubectl apply --request-timeout=35s --filename=https://x.test/a.yaml", "")
    ]
    (first, namespace), (second, pod) = lines({"file": "all.yaml"}, folder)
    assert first == second == "kubectl apply --request-timeout=35s --filename=-"
    assert ('"kind": "Namespace"' in namespace, '"kind": "Pod"' in pod) == (True, True)
    ((_, inline),) = lines({"manifest": {**CONFIG, "data": {"a": "\ue000run.id\ue001"}}}, folder)
    assert "\ue000run.id\ue001" in inline
    ((_, changed),) = lines({"file": "spec.yaml", "images": {"app": "app:2"}}, folder)
    assert '"image": "app:2"' in changed


def test_what_wait_stands_for(folder: Path) -> None:
    """A line for each kind; where the objects are not known yet, a question to the cluster."""
    scene = Scene(KubectlDialect(), "", folder, timeout=30)
    args = msgspec.convert({"file": "many/a.yaml", "wait": True}, apply.Args)

    pod, service = apply.equivalent(args, scene)
    assert pod == "kubectl wait pod/x --namespace=other --for=condition=Ready --timeout=30s"
    assert service.startswith("kubectl wait ")
    (words,) = apply.equivalent(msgspec.convert({"kustomize": "over", "wait": True}, apply.Args), scene)
    assert words == "await_ready 30 --filename=-"
    assert apply.equivalent(msgspec.convert({"kustomize": "over"}, apply.Args), scene) == ()


def test_run_with_objects_of_the_workflow(folder: Path) -> None:
    """Maps, lists of objects and texts; other images are set; an image that nobody uses fails the step."""
    stage: Any = Stage(folder)
    apply.run(msgspec.convert({"manifest": {"apiVersion": "v1", "kind": "List", "items": [CONFIG]}}, apply.Args), stage)
    assert [item.object for item in stage.applied] == [CONFIG]
    apply.run(msgspec.convert({"manifest": TEXT}, apply.Args), stage)
    assert [item.ref.name for item in stage.applied] == ["a", "b"]

    (folder / "spec.yaml").write_text(manifest("a") + "spec: {containers: [{name: a, image: 'app:1'}]}\n")
    apply.run(msgspec.convert({"file": "spec.yaml", "images": {"app": "me/app"}}, apply.Args), stage)
    assert stage.applied[0].object["spec"]["containers"][0]["image"] == "me/app:1"
    with pytest.raises(StepFailed) as caught:
        apply.run(msgspec.convert({"file": "spec.yaml", "images": {"x": "y"}}, apply.Args), stage)
    assert (caught.value.message, caught.value.hint) == (
        "no container uses the image x",
        "write one of those in the manifests: app:1",
    )


def test_run_refuses_a_url_that_is_not_allowed(folder: Path) -> None:
    """One that an expression made."""
    with pytest.raises(StepFailed) as caught:
        apply.run(msgspec.convert({"file": "http://x.test/a.yaml"}, apply.Args), Stage(folder))  # type: ignore[arg-type]
    assert "allow_remote" in caught.value.hint
