"""Workflows on the real cluster whose log is read while they run, and the manifests that they use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NEVER_READY = ", readinessProbe: {httpGet: {path: /, port: 1}, periodSeconds: 1}"


def pod(name: str, container: str = "", **spec: str) -> str:
    """A manifest; `container` are more keys of its container, `spec` more of the Pod, all in flow style."""
    spec = {"terminationGracePeriodSeconds": "1", **spec}
    more = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    app = f"{{name: app, imagePullPolicy: Never{container}}}"
    app = app.replace("{name: app", "{name: app, image: pythonapp") if "image:" not in container else app
    meta = f"metadata: {{name: {name}, labels: {{app: {name}}}}}"
    return f"apiVersion: v1\nkind: Pod\n{meta}\nspec:\n  containers: [{app}]\n{more}---\n"


def python(code: str) -> str:
    return f", command: [python3, -c, {json.dumps(code)}]"


def workload(kind: str, name: str, container: str = "", **spec: str) -> str:
    """A Deployment, StatefulSet or DaemonSet of one Pod."""
    more = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    app = f"{{name: app, image: pythonapp, imagePullPolicy: Never{container}}}"
    template = f"{{metadata: {{labels: {{app: {name}}}}}, spec: {{containers: [{app}]}}}}"
    selector = f"selector: {{matchLabels: {{app: {name}}}}}"
    head = f"apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}}}"
    return f"{head}\nspec:\n  {selector}\n  template: {template}\n{more}---\n"


def job(name: str, container: str) -> str:
    """A Job that may not fail once."""
    app = f"{{name: app, image: pythonapp, imagePullPolicy: Never{container}}}"
    pod_spec = f"{{restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{app}]}}"
    spec = f"{{backoffLimit: 0, template: {{spec: {pod_spec}}}}}"
    return f"apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def claim(name: str, storage: str, more: str = "") -> str:
    size = "resources: {requests: {storage: 1Mi}}"
    spec = f"{{accessModes: [ReadWriteOnce], storageClassName: {storage}{more}, {size}}}"
    return f"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def autoscaler(name: str, target: str) -> str:
    spec = f"{{maxReplicas: 2, scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {target}}}}}"
    head = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler"
    return f"{head}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def definition(plural: str, group: str, kind: str) -> str:
    """A definition whose objects have a status."""
    return f"""\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {plural}.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{kind: {kind}, plural: {plural}, singular: {plural.removesuffix("s")}}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {{status: {{}}}}
    schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
---
"""


@dataclass
class Files:
    """A folder with a workflow, and how to run it in the namespace of the test."""

    folder: Path
    namespace: str
    env: dict[str, str]
    more: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-m", "runner", "run", "flow.yaml", "-n", self.namespace, "-o", "json", *self.more]

    def start(self, name: str, steps: str, **manifests: str) -> subprocess.Popen[str]:
        """Start a run; its log is stderr."""
        folder = self.folder / name
        folder.mkdir()
        for manifest, text in manifests.items():
            (folder / f"{manifest}.yaml").write_text(text)
        (folder / "flow.yaml").write_text(f"name: {name}\nsteps:\n{steps}")
        env = {**os.environ, **self.env, "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        return subprocess.Popen(self.argv, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)

    @contextmanager
    def run(self, name: str, steps: str, **manifests: str) -> Iterator[subprocess.Popen[str]]:
        """A run that is ended, whatever happens to the test."""
        with self.start(name, steps, **manifests) as child:
            try:
                yield child
            finally:
                child.terminate()


def report(child: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """What a run came to, and the rest of its log."""
    out, log = child.communicate(timeout=120)
    (workflow,) = json.loads(out)["workflows"]
    return workflow, log


def await_log(child: subprocess.Popen[str], words: str) -> None:
    """Read the log until it says this."""
    assert child.stderr
    said = ""
    for line in child.stderr:
        said += line
        if words in line:
            return
    raise AssertionError(f"never said {words!r}:\n{said}")
