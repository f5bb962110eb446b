"""The words and commands of podman."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.cluster.podman_dialect import PodmanDialect, kind_of, removal
from runner.cluster.protocol import Object, Selection
from runner.shell import Command


def of_kind(kind: str, name: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def lines(commands: tuple[Command, ...]) -> list[str]:
    return [str(command) for command in commands]


def test_play() -> None:
    assert lines(PodmanDialect().apply(("a b.yaml", "c"), "ns")) == [
        "podman kube play 'a b.yaml'",
        "podman kube play c",
    ]


def test_delete_stops_first_and_ignores_what_is_gone() -> None:
    commands = PodmanDialect().delete((Selection("po", ("a", "b")),), 5)
    assert lines(commands) == [
        "podman pod stop --time=5 --ignore a b",
        "podman pod rm --force --ignore a b",
    ]


def test_delete_a_deployment_names_its_pod_under_old_and_new_names() -> None:
    commands = PodmanDialect().delete((Selection("deployment", ("web",)),), None)
    assert lines(commands)[1] == "podman pod rm --force --ignore web-pod-0 web-pod"


def test_delete_by_label() -> None:
    (line,) = lines(PodmanDialect().delete((Selection("pod", selector="app=web,tier=front"),), 1))
    assert "--filter=label=app=web --filter=label=tier=front" in line
    assert "podman pod stop --time=1" in line


def test_what_podman_does_not_have_needs_no_command() -> None:
    assert PodmanDialect().delete((Selection("service", ("web",)), Selection("configmap", ("c",))), None) == ()


def test_delete_file_names_the_pods_in_it(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(
        "".join(f"---\n{json.dumps(item)}\n" for item in (of_kind("Pod", "one"), of_kind("Deployment", "two")))
    )
    line = str(PodmanDialect().delete_file(str(file), "", 3))
    assert "podman pod stop --time=3 --ignore one two-pod-0 two-pod" in line


def test_delete_file_that_a_step_has_yet_to_make(tmp_path: Path) -> None:
    assert str(PodmanDialect().delete_file("gen/all.yaml", "", None)) == "podman kube down gen/all.yaml"


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("Pod", "web", "podman pod rm --force --ignore web"),
        ("Deployment", "web", "podman pod rm --force --ignore web-pod-0 web-pod"),
        ("PersistentVolumeClaim", "data", "podman volume rm data"),
        ("Volume", "data", "podman volume rm data"),
    ],
)
def test_how_a_person_removes_what_is_left(kind: str, name: str, line: str) -> None:
    assert str(removal(kind, name)) == line


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("po", "Pod"),
        ("deployments.apps", "Deployment"),
        ("PVC", "PersistentVolumeClaim"),
        ("Certificate", "Certificate"),
    ],
)
def test_words_of_kinds(word: str, kind: str) -> None:
    assert kind_of(word) == kind


@pytest.mark.parametrize("until", ["ready", "condition=Ready", "condition=Available"])
def test_a_wait_until_ready(until: str) -> None:
    (line,) = PodmanDialect().wait(Selection("deployment", ("web",)), until, 5)
    assert line.startswith("timeout 5 bash -c")
    assert "^web-pod(-0)?$" in line
    assert "grep -qx Running" in line


@pytest.mark.parametrize(("kind", "until"), [("pod", "jsonpath={.a}=b"), ("service", "create")])
def test_a_wait_that_podman_does_not_have(kind: str, until: str) -> None:
    (line,) = PodmanDialect().wait(Selection(kind, ("web",)), until, 5)
    assert line.startswith(": 'podman has no equivalent")
