"""Kustomizations before the run: what is missing, what leaves the repository, what comes from the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.steps import apply
from runner.steps.kind import Fault, Files

NETWORK = "comes from the network: what it holds may change, and nobody has looked at it"
ALLOW = "download it into the repository, or allow it: `allow_remote: true`"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with a kustomization that builds on another one."""
    folder = tmp_path / "repository"
    for name in ("base", "overlay", "plain", "empty"):
        (folder / name).mkdir(parents=True)
    (folder / "base/kustomization.yaml").write_text("resources: [pod.yaml]\n")
    (folder / "base/pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")
    (folder / "overlay/kustomization.yml").write_text("resources:\n- ../base\nnamePrefix: x-\n")
    (folder / "plain/pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")
    return folder


def faults(folder: Path, name: str = "overlay", *, remote: bool = False) -> list[Fault]:
    data = {"kustomize": name, **({"allow_remote": True} if remote else {})}
    return list(apply.check(data, Files(folder, folder, frozenset({"made"}))))


@pytest.mark.parametrize("name", ["overlay", "base", "./overlay/", "${{ inputs.folder }}", "made"])
def test_nothing_is_wrong(name: str, folder: Path) -> None:
    """Also with one below, one that an expression names, and one that an earlier step makes."""
    assert faults(folder, name) == []


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("nowhere", "there is no folder nowhere", ""),
        ("empty", "the folder empty has no kustomization.yaml", ""),
        ("plain", "the folder plain has no kustomization.yaml", "apply its files: `apply: plain`"),
        ("https://example.test/x", f"the kustomization https://example.test/x {NETWORK}", ALLOW),
        ("github.com/me/x//base?ref=v1", f"the kustomization github.com/me/x//base?ref=v1 {NETWORK}", ALLOW),
        (
            "..",
            ".. is outside of the repository of the workflow",
            "move it into the repository, or say --allow-outside",
        ),
    ],
)
def test_wrong_folders(name: str, message: str, hint: str, folder: Path) -> None:
    """With what to do."""
    assert faults(folder, name) == [Fault(("kustomize",), message, hint)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("resources:\n- pod.yaml\n- gone.yaml\n", "base/kustomization.yaml:3: there is no file gone.yaml"),
        (
            "resources: [https://example.test/a.yaml]\n",
            f"base/kustomization.yaml:1: https://example.test/a.yaml {NETWORK}",
        ),
        ("resources:\n- git@example.test:me/x\n", f"base/kustomization.yaml:2: git@example.test:me/x {NETWORK}"),
        ("bases: [../empty]\n", "the folder empty has no kustomization.yaml"),
        ("resources: [\n", "base/kustomization.yaml:2:1: a value is missing here"),
    ],
)
def test_wrong_contents(content: str, message: str, folder: Path) -> None:
    """Of the kustomization itself and of those that it builds on, with file and line."""
    (folder / "base/kustomization.yaml").write_text(content)

    (fault,) = faults(folder)
    assert fault.message == message


URL = "https://example.test/x"
GENERATOR = "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: g}\nfiles: [a=https://example.test/x]\n"


@pytest.mark.parametrize(
    "content",
    [
        f"generators: [{URL}]",
        f"transformers: [{URL}]",
        f"validators: [{URL}]",
        f"configurations: [{URL}]",
        f"crds: [{URL}]",
        f"openapi: {{path: {URL}}}",
        f"patches: [{{path: {URL}}}]",
        f"patchesStrategicMerge: [{URL}]",
        f"replacements: [{{path: {URL}}}]",
        f"configMapGenerator: [{{name: a, files: [{URL}]}}]",
        f"configMapGenerator: [{{name: a, files: [key={URL}]}}]",
        f"secretGenerator: [{{name: a, envs: [{URL}]}}]",
        "generators:\n- |\n  " + GENERATOR.replace("\n", "\n  "),
        "generators: [generator.yaml]",
    ],
)
def test_everything_that_kustomize_would_fetch(content: str, folder: Path) -> None:
    """Wherever it takes the name of a file; also of a folder that has the name of a URL, and of a generator's file."""
    (folder / "base/https:/example.test/x").mkdir(parents=True)
    (folder / "base/generator.yaml").write_text(GENERATOR)
    (folder / "base/kustomization.yaml").write_text(content)

    (fault,) = faults(folder)
    assert fault.message.endswith(f": {URL} {NETWORK}")
    assert faults(folder, remote=True) == []


@pytest.mark.parametrize("key", ["resources", "components", "generators", "transformers", "validators"])
def test_folders_below_stay_in_the_repository(key: str, folder: Path, tmp_path: Path) -> None:
    """Whatever they are for."""
    (tmp_path / "outside").mkdir()
    (folder / "base/kustomization.yaml").write_text(f"{key}: [../../outside]")

    (fault,) = faults(folder)
    assert fault.message == "outside is outside of the repository of the workflow"


@pytest.mark.parametrize(("source", "count"), [("github.com/me/x", 1), ("example.com/x", 0), ("github.com/a.yaml", 0)])
def test_names_that_exist_here(source: str, count: int, folder: Path) -> None:
    """Kustomize clones a repository of GitHub also where there is a folder of that name."""
    for name in ("github.com/me/x", "example.com/x"):
        (folder / "base" / name).mkdir(parents=True)
        (folder / "base" / name / "kustomization.yaml").write_text("resources: []")
    (folder / "base/github.com/a.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n")
    (folder / "base/kustomization.yaml").write_text(f"resources: [{source}]")

    assert len(faults(folder)) == count


def test_urls_that_nobody_fetches(folder: Path) -> None:
    """They are contents of objects, or names of images."""
    (folder / "base/kustomization.yaml").write_text(
        f"""
        resources: [pod.yaml, ../made]
        commonAnnotations: {{path: {URL}}}
        labels: [{{pairs: {{files: github.com/x}}, fields: [{{path: metadata/labels}}]}}]
        images: [{{name: a, newName: ghcr.io/me/a}}]
        configMapGenerator: [{{name: a, literals: ["url={URL}"], files: [key=pod.yaml]}}]
        secretGenerator: [{{name: a, options: {{labels: {{env: {URL}}}}}}}]
        patches:
        - patch: |
            - {{op: add, path: /metadata/annotations/x, value: {URL}}}
        patchesStrategicMerge:
        - |
          apiVersion: v1
          kind: Pod
          metadata: {{name: a}}
          spec: {{path: {URL}}}
        transformers:
        - |
          apiVersion: builtin
          kind: PrefixTransformer
          metadata: {{name: p, annotations: {{path: {URL}}}}}
          fieldSpecs: [{{path: metadata/name}}]
        """
    )

    assert faults(folder) == []


def test_remote_bases_that_are_allowed(folder: Path) -> None:
    """`allow_remote: true` is the word for it."""
    (folder / "base/kustomization.yaml").write_text("resources: [https://example.test/a.yaml]\n")

    assert faults(folder, remote=True) == faults(folder, "https://example.test/x", remote=True) == []


def test_circle(folder: Path) -> None:
    """Two that build on each other are kustomize's business, and no endless loop here."""
    (folder / "base/kustomization.yaml").write_text("resources: [../overlay]\n")

    assert faults(folder) == []


def test_folder_of_a_kustomization_given_as_files(folder: Path) -> None:
    """`apply: base` would apply the kustomization itself."""
    found = list(apply.check({"file": "base"}, Files(folder, folder)))

    assert [fault.hint for fault in found] == ["say so: `apply: {kustomize: base}`"]
