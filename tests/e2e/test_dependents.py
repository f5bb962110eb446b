"""What belongs to the objects of a run, on the real cluster: it goes with them, also when its owner is gone before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.crashes import Site
from tests.e2e.test_cleanup import run_of, runner

pytestmark = pytest.mark.e2e

CRD = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: PLURAL.gTAG.example.test}
spec:
  group: gTAG.example.test
  names: {kind: KIND, plural: PLURAL, singular: SINGULAR}
  scope: SCOPE
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object}}
"""
CUSTOM = "apiVersion: gTAG.example.test/v1\nkind: KIND\nmetadata: {name: w-TAG}\n"
STUBBORN = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-TAG}
spec:
  selector: {matchLabels: {app: web-TAG}}
  template:
    metadata: {labels: {app: web-TAG}}
    spec:
      containers:
      - name: app
        image: pythonapp
        imagePullPolicy: Never
        command: [python3, -c, "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); time.sleep(600)"]
"""
POD_SPEC = {
    "terminationGracePeriodSeconds": 2,
    "containers": [{"name": "a", "image": "pythonapp", "imagePullPolicy": "Never", "command": ["sleep", "600"]}],
}


@pytest.fixture
def site(
    tmp_path: Path, cluster_env: dict[str, str], namespace: str, app_image: str, kubectl: Callable[..., str]
) -> Iterator[Site]:
    site = Site(tmp_path, namespace, cluster_env, kubectl)
    site.env = {**site.env, "KUBECONFIG": _in_namespace(site)}
    yield site
    site.forget()


def _in_namespace(site: Site) -> str:
    """The kubeconfig of the tests, with the namespace of this one."""
    config: dict[str, Any] = json.loads(site.kubectl("config", "view", "--minify", "--raw", "-o", "json"))
    config["contexts"][0]["context"]["namespace"] = site.place
    path = site.folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return str(path)


def define(site: Site, kind: str, scope: str) -> None:
    """`crd.yaml` and `custom.yaml` of a kind."""
    text = CRD.replace("PLURAL", f"{kind.lower()}s").replace("SINGULAR", kind.lower()).replace("SCOPE", scope)
    site.write("crd.yaml", text.replace("KIND", kind))
    site.write("custom.yaml", CUSTOM.replace("KIND", kind))


def own(site: Site, owner: dict[str, Any], kind: str, name: str, **meta: Any) -> dict[str, Any]:
    """An object that somebody makes for another, as operators do; answers it."""
    reference = {key: owner[key] for key in ("apiVersion", "kind")} | {
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": False,
    }
    api_version = "v1" if kind in ("ConfigMap", "Pod") else owner["apiVersion"]
    made = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": f"{name}-{site.tag}", "namespace": site.place, "ownerReferences": [reference], **meta},
        **({"spec": POD_SPEC} if kind == "Pod" else {}),
    }
    path = site.folder / "owned.json"
    path.write_text(json.dumps(made))
    answer: dict[str, Any] = json.loads(site.kubectl("create", "-f", str(path), "-o", "json"))
    return answer


def live(site: Site, *what: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(site.kubectl("get", *what, "-n", site.place, "-o", "json"))
    return answer


SAME_NAME = {
    "Job": """\
apiVersion: batch/v1
kind: Job
metadata: {name: w-TAG}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: a, image: pythonapp, imagePullPolicy: Never, command: [sleep, "600"]}]
""",
    "Service": "apiVersion: v1\nkind: Service\nmetadata: {name: w-TAG}\nspec: {ports: [{port: 80}]}\n",
}


@pytest.mark.parametrize("kind", list(SAME_NAME))
@pytest.mark.parametrize("way", ["calm", "SIGTERM"])
def test_namesakes_of_two_api_groups(site: Site, kind: str, way: str) -> None:
    """A step deletes the one of Kubernetes; that of the other group is still the run's to remove, by its own rules."""
    define(site, kind, "Namespaced")
    site.write("native.yaml", SAME_NAME[kind])
    word = kind.lower()
    last = "sleep 300" if way == "SIGTERM" else f"kubectl get {word}.g{site.tag}.example.test/w-{site.tag}"
    applied = ", ".join(f"{{apply: {name}.yaml}}" for name in ("crd", "custom", "native"))
    site.write("flow.yaml", f"steps: [{applied}, {{delete: {word}/w-TAG}}, {{run: {last}}}]")
    process, _ = site.start()
    if way == "SIGTERM":
        site.await_event("step started", "steps[4]")
        process.send_signal(signal.SIGTERM)
    code = process.wait(60)

    assert code == (143 if way == "SIGTERM" else 0), site.story()
    gone = [record["object"] for record in site.events() if record["event"] == "object deleted"]
    assert f"{word}/w-{site.tag} (namespace {site.place})" in gone, site.story()
    assert site.kubectl("get", f"{word}s,pods", "-n", site.place, "-o", "name") == "", site.story()
    assert site.kubectl("get", "customresourcedefinitions", "-o", "name").count(site.tag) == 0
    assert site.settle() == [], site.story()


@pytest.mark.parametrize(("kind", "scope"), [("Widget", "Namespaced"), ("Fleet", "Cluster")])
def test_what_a_custom_resource_owns_goes_with_it(site: Site, kind: str, scope: str) -> None:
    """ConfigMaps, Pods and custom resources, two generations of them: the run ends when all are gone."""
    define(site, kind, scope)
    go = "touch ready; until test -e go; do sleep 0.1; done"
    site.write("flow.yaml", f"steps: [{{apply: crd.yaml}}, {{apply: custom.yaml}}, {{run: {go!r}}}]\n")
    process, _ = site.start()
    site.await_event("step started", "steps[2]")
    owner = live(site, f"{kind.lower()}.g{site.tag}.example.test", f"w-{site.tag}")
    child = own(site, owner, "ConfigMap", "child")
    own(site, owner, "Pod", "child")
    if scope == "Namespaced":
        child = own(site, owner, kind, "child")
    own(site, child, "ConfigMap", "grandchild")
    (site.folder / "go").touch()
    code = process.wait(60)
    left = site.kubectl("get", "configmaps,pods", "-n", site.place, "-o", "name")

    assert code == 0, site.story()
    assert left.count("child") == 0, site.story()
    verified = next(record for record in site.events() if record["event"] == "cleanup verified")
    assert (verified["objects"], verified["left"]) == (2, 0)
    assert site.settle() == [], site.story()


def test_what_appears_late_and_stays_is_left(site: Site) -> None:
    """A controller makes something while its resource goes, and it hangs: the verification finds it, exit 5; the
    watchdog goes on with it.
    """
    define(site, "Widget", "Namespaced")
    site.write("custom.yaml", (site.folder / "custom.yaml").read_text().replace("{name", "{finalizers: [a.b/c], name"))
    site.write("flow.yaml", "steps: [{apply: crd.yaml}, {apply: custom.yaml}]\n")
    process, _ = site.start()
    name = f"widget.g{site.tag}.example.test/w-{site.tag}"
    while not any(f"w-{site.tag} to be gone" in str(record.get("waiting_for")) for record in site.events()):
        assert process.poll() is None, site.story()
        time.sleep(0.01)
    own(site, live(site, name), "ConfigMap", "late", finalizers=["example.com/hold"])
    no_finalizers = ("--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    site.kubectl("patch", name, "-n", site.place, *no_finalizers)
    code = process.wait(90)
    output = (site.folder / "output").read_text()
    site.kubectl("patch", f"configmap/late-{site.tag}", "-n", site.place, *no_finalizers)

    assert code == 5, output
    there = f"configmap/late-{site.tag} (namespace {site.place})"
    # The garbage collector hears of a new kind within half a minute; only then does it begin.
    why = ("held by its finalizers: example.com/hold", "and is not being deleted")
    assert any(f"left: {there}: configmap/late-{site.tag} still exists, {words}" in output for words in why), output
    assert f"; widget/w-{site.tag}, to which it belongs, is gone" in output
    assert f"configmap/late-{site.tag} --namespace={site.place}" in output
    assert site.settle() == [], site.story()


def test_second_signal_names_the_pod_that_still_ends(site: Site) -> None:
    """Its Deployment is gone by then: what is named is there, with who removes it and what to type."""
    site.write("web.yaml", STUBBORN)
    site.write("flow.yaml", "steps: [{apply: web.yaml}, {wait: deployment/web-TAG}, {run: sleep 300}]\n")
    process, _ = site.start()
    site.await_event("step started", "steps[2]")
    process.send_signal(signal.SIGINT)
    while not any(str(record.get("waiting_for")).startswith(f"pod/web-{site.tag}") for record in site.events()):
        assert process.poll() is None, site.story()
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    code = process.wait(30)
    output = (site.folder / "output").read_text()

    assert code == 130, output
    (left,) = (line for line in output.splitlines() if line.startswith("  left: "))
    assert left.startswith(f"  left: pod/web-{site.tag}-"), output
    assert left.endswith(f"; deployment/web-{site.tag}, to which it belongs, is gone; not waited for (SIGINT)")
    assert f"remove it with: kubectl delete pod/web-{site.tag}-" in output
    assert "the watchdog goes on removing it for up to 10 min" in output
    assert f"runner clean --run {run_of(site)}" in output
    assert "exit code 130: ended by SIGINT before the cleanup was complete" in output
    assert site.settle() == [], site.story()


def test_orphans_of_a_cleanup_that_died(site: Site) -> None:
    """The Deployment is gone, its Pods are nobody's, and runner and watchdog are dead: `clean` knows them."""
    site.write("web.yaml", STUBBORN)
    site.write("flow.yaml", "steps: [{apply: web.yaml}, {wait: deployment/web-TAG}, {run: sleep 300}]\n")
    process, _ = site.start()
    site.await_event("step started", "steps[2]")
    chosen = ("-n", site.place, "-l", f"app=web-{site.tag}", "-o", "name")
    (replicas,) = site.kubectl("get", "replicasets", *chosen).split()
    site.kubectl("patch", replicas, "-n", site.place, "--type=json", "-p", json.dumps([
        {"op": "add", "path": "/metadata/finalizers", "value": ["example.com/hold"]}]))  # fmt: skip
    process.send_signal(signal.SIGINT)
    going = "--for=jsonpath={.metadata.deletionTimestamp}"
    site.kubectl("wait", replicas, "-n", site.place, going, "--timeout=20s")
    for pid in site.pids():
        os.kill(pid, signal.SIGKILL)
    process.wait()
    site.kubectl("patch", replicas, "-n", site.place, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    site.kubectl("wait", replicas, "-n", site.place, "--for=delete", "--timeout=20s")
    (pod,) = site.kubectl("get", "pods", *chosen).split()
    run = run_of(site)

    listed: subprocess.CompletedProcess[str] = runner(site, "clean")
    cleaned = runner(site, "clean", "--run", run)

    assert f"  remains: deployment/web-{site.tag} (namespace {site.place}), or of it: " in listed.stdout
    assert pod in listed.stdout
    assert (cleaned.returncode, "1 object removed, 0 left" in cleaned.stdout) == (0, True), cleaned.stdout
    assert site.kubectl("get", "pods", *chosen) == ""
    assert site.settle() == [], site.story()
