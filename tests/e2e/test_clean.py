"""`runner clean` of dead runs on the real cluster: the lines that it is told with work as printed, by which kubeconfig
it goes, and which clusters it leaves alone.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.crashes import Site

pytestmark = pytest.mark.e2e

MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own-TAG, namespace: PLACE}\n"


@pytest.fixture
def site(
    tmp_path: Path, cluster_env: dict[str, str], namespace: str, app_image: str, kubectl: Callable[..., str]
) -> Iterator[Site]:
    site = Site(tmp_path, namespace, cluster_env, kubectl)
    site.write("map.yaml", MAP)
    site.write("flow.yaml", "steps: [{apply: map.yaml}, {run: sleep 300}]\n")
    yield site
    site.forget()


def config(site: Site, name: str, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    """A kubeconfig of the cluster with the context `it's mine`."""
    text = site.kubectl("config", "view", "--minify", "--raw", "--flatten", "-o", "json")
    data: dict[str, Any] = json.loads(text)
    data["contexts"][0]["name"] = data["current-context"] = "it's mine"
    data["clusters"][0]["cluster"] |= cluster
    if user is not None:
        data["users"][0]["user"] = user
    path = site.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def crash(site: Site, *flags: str) -> Path:
    """A run that made its object, and died with its watchdog; answers its folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", "--events", "events", "flow.yaml", *flags],
        cwd=site.folder,
        env=site.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    site.await_event("step started", "steps[1]")
    for pid in site.pids():
        os.kill(pid, signal.SIGKILL)
    process.wait()
    (folder,) = (path.parent for path in site.folder.rglob("journal.jsonl"))
    return folder


def shell(site: Site, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """What a person gets who types this line."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=site.folder,
        env={**site.environment(), "PATH": path, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def exists(site: Site) -> bool:
    return bool(
        site.kubectl("get", "configmap", f"own-{site.tag}", "-n", site.place, "--ignore-not-found", "-o", "name")
    )


def suggested(text: str) -> str:
    """The command after `try: `."""
    (line,) = (line for line in text.splitlines() if "try: runner clean" in line)
    return line.partition("try: ")[2].partition(", or ")[0]


def test_lines_work_as_printed(site: Site) -> None:
    """With --state-dir, --kubeconfig and --context, in folders with spaces; the file may be gone by then: the run's own
    copy is used, and the cluster is named.
    """
    file = config(site, "my configs/its config")
    flags = ("--state-dir", str(site.folder / "my state"), "--kubeconfig", str(file), "--context", "it's mine")
    folder = crash(site, *flags)
    nowhere = str(site.folder / "nowhere")

    site.write("none.yaml", "steps: [{run: 'true'}]")
    told = shell(site, f"runner run none.yaml {shlex.join(flags[:2])}", KUBECONFIG=nowhere)
    listing = told.stderr.partition("see and remove: ")[2].splitlines()[0]
    listed = shell(site, listing, KUBECONFIG=nowhere)
    shown = shell(site, f"runner show {folder.name} {shlex.join(flags[:2])}", KUBECONFIG=nowhere)
    file.unlink()
    removed = shell(site, suggested(shown.stdout), KUBECONFIG=nowhere)

    assert told.returncode == 0
    assert f"remains: configmap/own-{site.tag} (namespace {site.place})" in listed.stdout, told.stderr + listed.stderr
    where = shlex.join((f"--state-dir={site.folder}/my state", f"--kubeconfig={file}", "--context=it's mine"))
    assert suggested(listed.stdout) == f"runner clean --all {where}"
    assert suggested(shown.stdout) == f"runner clean --run {folder.name} {where}"
    assert (removed.returncode, "1 object removed, 0 left" in removed.stdout) == (0, True), removed.stdout
    server = json.loads((site.folder / "events").read_text().splitlines()[0])["context"]
    assert f", on {server} (https://" in removed.stdout
    assert "), by the run's own kubeconfig" in removed.stdout
    assert not exists(site)
    assert not (folder / "kubeconfig").exists()


@pytest.mark.parametrize("broken", ["expired", "gone"])
def test_own_kubeconfig_that_works_no_more(site: Site, broken: str) -> None:
    """Then the user's is taken, where the context means the same server; where it does not, nothing is touched and what
    may have the credentials stays.
    """
    good = config(site, "good")
    folder = crash(site, "--kubeconfig", str(good))
    own = folder / "kubeconfig"
    if broken == "expired":
        own.write_text(config(site, "expired", {"token": "expired"}).read_text())
    else:
        own.unlink()
    good.unlink()
    other = config(site, "other", server="https://127.0.0.1:1")
    refused = shell(site, "runner clean --all", KUBECONFIG=str(other))
    kept = own.exists()
    again = config(site, "again")
    removed = shell(site, "runner clean --all", KUBECONFIG=str(again))

    assert refused.returncode == 5
    (left,) = (line for line in refused.stdout.splitlines() if "left: configmap" in line)
    assert ("by the run's own kubeconfig: " in left and "Unauthorized" in left) is (broken == "expired")
    assert "by your kubeconfig: the context it's mine is another cluster now: it was https://" in left
    assert left.endswith(f"; by {good}: {good} does not exist")
    assert f"--kubeconfig={good}" in refused.stdout
    assert kept is (broken == "expired")
    assert (removed.returncode, "1 object removed, 0 left" in removed.stdout) == (0, True), removed.stdout
    assert "), by your kubeconfig" in removed.stdout
    assert not exists(site)
    assert site.settle() == []


def test_a_cluster_that_is_not_proven_local_must_be_named_again(site: Site) -> None:
    """Also when the run's own kubeconfig is there: the guard holds for whoever writes."""
    server = json.loads(config(site, "good").read_text())["clusters"][0]["cluster"]["server"]
    port = server.rpartition(":")[2]
    named: dict[str, Any] = {"server": f"https://far.example.test:{port}", "tls-server-name": "kubernetes"}
    far = config(site, "far", **named)
    proxied = json.loads(far.read_text())
    folder = crash(site, "--kubeconfig", str(config(site, "good")))
    own = json.loads((folder / "kubeconfig").read_text())
    own["clusters"] = proxied["clusters"]
    (folder / "kubeconfig").write_text(json.dumps(own))
    journal = folder / "journal.jsonl"
    journal.write_text(journal.read_text().replace(server, named["server"]))

    refused = shell(site, "runner clean --all", KUBECONFIG=str(far))

    assert refused.returncode == 5
    assert "the context it's mine is not known to be local: its server https://far.example.test" in refused.stdout
    assert exists(site)
    journal.write_text(journal.read_text().replace(named["server"], server))
    assert shell(site, "runner clean --all", KUBECONFIG=str(site.folder / "good")).returncode == 0
    assert not exists(site)
