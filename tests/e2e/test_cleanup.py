"""Cleanup against obstacles on the real cluster: each with the message that it gives, and nothing left in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.crashes import Site

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]

MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m-TAG, namespace: PLACE}\n"
HELD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/hold]}\n"
STUBBORN = """\
apiVersion: v1
kind: Pod
metadata: {name: stubborn-TAG, namespace: PLACE}
spec:
  containers:
  - name: app
    image: pythonapp
    imagePullPolicy: Never
    command: [python3, -c, "import time; time.sleep(300)"]
    readinessProbe: {tcpSocket: {port: 1}}
"""
SPEC = "{accessModes: [ReadWriteOnce], storageClassName: '', resources: {requests: {storage: 1Mi}}}"
CLAIM = f"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: data-db-TAG-1}}\nspec: {SPEC}\n"
DATABASE = f"""\
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db-TAG}}
spec:
  selector: {{matchLabels: {{app: db-TAG}}}}
  serviceName: db
  template:
    metadata: {{labels: {{app: db-TAG}}}}
    spec: {{containers: [{{name: app, image: pythonapp, imagePullPolicy: Never}}]}}
  volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {SPEC}}}]
"""
FLOW_OF_CLAIMS = """\
steps:
  - apply: db.yaml
  - run: kubectl create -f hand.yaml
  - wait: {target: pvc/data-db-TAG-0, until: exists}
"""
SLEEP = "steps: [{apply: map.yaml}, {run: sleep 300}]\n"


@pytest.fixture
def site(
    tmp_path: Path, cluster_env: dict[str, str], namespace: str, app_image: str, kubectl: Kubectl
) -> Iterator[Site]:
    site = Site(tmp_path, namespace, cluster_env, kubectl)
    site.write("map.yaml", MAP.replace("m-TAG", "own-TAG"))
    yield site
    site.forget()


def runner(site: Site, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Another process on the same machine, with the state of the site."""
    return subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=site.folder,
        env={**site.environment(), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_of(site: Site) -> str:
    (folder,) = (site.folder / "state/runner/runs").iterdir()
    return folder.name


def test_everything_dead_at_once(site: Site) -> None:
    """Runner, children and watchdog: `clean --cluster` finds the objects from any machine, `clean` here all the rest.

    Meanwhile another run that applies the same object says whose it is.
    """
    site.write("flow.yaml", "namespace: {generate: crash-TAG-}\n" + SLEEP)
    process, _ = site.start()
    site.await_event("step started", "steps[1]")
    for pid in site.pids():
        os.kill(pid, signal.SIGKILL)
    process.wait()
    run = run_of(site)
    name = f"configmap/own-{site.tag} (namespace {site.place})"
    mine = site.kubectl("get", "configmap", f"own-{site.tag}", "-n", site.place, "-o", "json")
    meta = {**json.loads(mine)["metadata"], "name": "copy"}
    del meta["uid"], meta["resourceVersion"]
    site.write("copy.json", json.dumps({"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta}))
    site.kubectl("create", "-f", str(site.folder / "copy.json"))

    site.write("again.yaml", "steps: [{apply: map.yaml}]")
    again = runner(site, "again.yaml")
    assert again.returncode == 0
    assert f"configmap/own-{site.tag} was left by the run {run}, which is dead" in again.stderr
    assert f"runner clean --run {run}" in again.stderr
    assert f"the run {run} left 2 objects; see and remove: runner clean" in again.stderr

    elsewhere = {"XDG_STATE_HOME": str(site.folder / "elsewhere")}
    listed = json.loads(runner(site, "clean", "--cluster", "--all", "-o", "json", env=elsewhere).stdout)
    (case,) = (case for case in listed["runs"] if case["run"] == run)
    assert (name in case["objects"], case["removed"]) == (True, [])
    assert "it may be alive on another machine until" in case["held"]
    answer = runner(site, "clean", "--cluster", "--run", run, env=elsewhere)
    assert (answer.returncode, f"removed: {name}" in answer.stdout) == (0, True), answer.stdout + answer.stderr
    assert site.kubectl("get", "configmap", "copy", "-n", site.place, "-o", "name") == "configmap/copy\n"
    assert list(site.in_cluster()) == []

    assert site.remains() != []  # on this machine
    here = runner(site, "clean", "--all")
    assert (here.returncode, "0 objects removed, 0 left" in here.stdout) == (0, True), here.stdout + here.stderr
    assert site.remains() == []
    assert f"{run}: crashed" in runner(site, "show", run).stdout


@pytest.mark.parametrize("who", ["watchdog", "clean"])
def test_daemons_of_a_run_that_is_killed(site: Site, who: str) -> None:
    """What left the session of its command goes, too, whoever cleans up."""
    daemon = "setsid bash -c 'sleep 600 & exec sleep 601' >/dev/null 2>&1 & until pgrep -s $! >/dev/null; do :; done"
    site.write("flow.yaml", f"steps: [{{apply: map.yaml}}, {{run: {json.dumps(daemon)}}}, {{run: sleep 60}}]")
    process, _ = site.start()
    site.await_event("step started", "steps[2]")
    daemons = [pid for pid in site.pids() if "sleep 60" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")]
    assert len(daemons) >= 2
    for pid in site.pids() if who == "clean" else [process.pid]:
        if pid not in daemons:
            os.kill(pid, signal.SIGKILL)
    process.wait()
    if who == "clean":
        assert runner(site, "clean", "--all").returncode == 0

    assert site.settle() == [], site.story()


def test_what_is_kept_goes_by_name(site: Site) -> None:
    """`--keep` leaves it, the next run may update it, and `clean` removes it only when its run is named."""
    site.write("flow.yaml", "steps: [{apply: map.yaml}]")
    kept = runner(site, "--keep", "flow.yaml")
    run = run_of(site)
    again = runner(site, "flow.yaml")
    everything = runner(site, "clean", "--all")
    there = site.kubectl("get", "configmap", f"own-{site.tag}", "-n", site.place, "-o", "name")
    named = runner(site, "clean", "--run", run)

    assert (kept.returncode, again.returncode) == (0, 0), kept.stderr + again.stderr
    assert f"kept: configmap/own-{site.tag} (namespace {site.place})" in kept.stdout
    assert "runner clean" not in again.stderr
    assert "0 objects removed" in everything.stdout
    assert there
    assert (named.returncode, "1 object removed, 0 left" in named.stdout) == (0, True), named.stdout
    assert site.settle() == []


def test_keep_in_a_namespace_that_goes(site: Site) -> None:
    """What is only known in the run is told then, and not called kept; what lives elsewhere is kept."""
    site.write("kustomization.yaml", "resources: [inside.yaml, map.yaml]")
    site.write("inside.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: inside-TAG}\n")
    site.write("flow.yaml", "namespace: {generate: crash-TAG-}\nsteps: [{apply: {kustomize: .}, keep: true}]")
    answer = runner(site, "flow.yaml")

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"configmap/inside-{site.tag} cannot be kept: the run made its namespace crash-{site.tag}-" in answer.stderr
    kept = [line for line in answer.stdout.splitlines() if "kept: " in line]
    assert kept == [f"  kept: configmap/own-{site.tag} (namespace {site.place})"]
    assert "cleanup: 2 objects deleted, 0 left, 1 kept" in answer.stdout
    site.kubectl("delete", "configmap", f"own-{site.tag}", "-n", site.place)
    assert site.settle() == []


def test_second_signal_does_not_wait(site: Site) -> None:
    """Everything is fired within the first second; what was not waited for is named, and goes; `finally` has run."""
    maps = "---\n".join(MAP.replace("m-TAG", f"many-TAG-{number}") for number in range(30))
    site.write("many.yaml", maps + "---\n" + HELD.replace("held", "held-TAG, namespace: PLACE"))
    site.write("flow.yaml", "steps: [{apply: many.yaml}, {run: sleep 300}]\nfinally: [{run: touch finally}]")
    process, _ = site.start()
    site.await_event("step started", "steps[1]")
    process.send_signal(signal.SIGINT)
    while not any(f"held-{site.tag}" in str(record.get("waiting_for")) for record in site.events()):
        time.sleep(0.01)
    alone = f"configmap/held-{site.tag}"
    marked = ("get", alone, "-n", site.place, "-o", "jsonpath={.metadata.deletionTimestamp}")
    while not site.kubectl(*marked):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code = process.wait(30)
    output = (site.folder / "output").read_text()
    site.kubectl("patch", alone, "-n", site.place, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')

    assert code == 130
    assert (site.folder / "finally").exists()
    assert "ending the step and cleaning up for up to 7 s; again: do not wait" in output
    (left,) = (line for line in output.splitlines() if line.startswith(f"  left: {alone} (namespace {site.place}): "))
    assert f"{alone} still exists, held by its finalizers: example.com/hold; not waited for (SIGINT)" in left
    assert site.settle() == [], site.story()


def test_two_runs_at_once(site: Site) -> None:
    """The second one refuses to take over an object of the first, and leaves it as it is."""
    site.write("flow.yaml", SLEEP)
    process, _ = site.start()
    site.await_event("step started", "steps[1]")
    run = run_of(site)

    second = runner(site, "flow.yaml")
    elsewhere = runner(site, "flow.yaml", env={"XDG_STATE_HOME": str(site.folder / "elsewhere")})
    left_alone = runner(site, "clean", "--all")
    exists = site.kubectl("get", "configmap", f"own-{site.tag}", "-n", site.place, "-o", "name")
    process.send_signal(signal.SIGTERM)
    code = process.wait(30)

    where = f"configmap/own-{site.tag} belongs to the run {run}, which is still alive"
    assert second.returncode == 1
    assert f"{where} (process {process.pid})" in second.stdout
    assert "namespace: {generate: demo-}" in second.stdout
    assert f"{where} (on another machine, until" in elsewhere.stdout
    assert "nothing" in left_alone.stdout or "0 objects removed" in left_alone.stdout
    assert (exists, code) == (f"configmap/own-{site.tag}\n", 143)
    assert site.settle() == []


def test_namespace_that_hangs_on_a_finalizer(site: Site) -> None:
    """After a signal the run ends in its budget, says what holds it, and hands over; the watchdog sees it through."""
    site.write("held.yaml", HELD)
    site.write("flow.yaml", "namespace: {generate: crash-TAG-}\nsteps: [{apply: held.yaml}, {run: sleep 300}]\n")
    process, _ = site.start()
    site.await_event("step started", "steps[1]")
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    code = process.wait(30)
    took = time.monotonic() - sent
    output = (site.folder / "output").read_text()
    (made,) = (name for name in site.kubectl("get", "namespaces", "-o", "name").split() if site.tag in name)
    place = made.partition("/")[2]
    site.kubectl("patch", "configmap", "held", "-n", place, "--type=merge", "-p", '{"metadata":{"finalizers":null}}')

    assert (code, took < 20) == (130, True), output  # 7 s, on a machine that has time
    assert f"left: configmap/held (namespace {place}): configmap/held still exists, held by its finalizers: " in output
    assert "example.com/hold" in output
    patch = f"kubectl patch configmap/held --namespace={place} --type=merge --patch="
    assert f"    try: if there is no controller to take them away: {patch}" in output
    assert "the watchdog goes on removing it for up to 10 min; what is left after that:" in output
    assert f"runner clean --run {run_of(site)}" in output
    assert site.settle() == [], site.story()
    assert '"watchdog ended"' in site.story()


def test_third_signal_leaves_at_once_and_says_the_truth(site: Site) -> None:
    """Whatever it was doing; what is left is named, and the watchdog removes it."""
    site.write("flow.yaml", "namespace: {generate: crash-TAG-}\n" + SLEEP)
    process, _ = site.start()
    site.await_event("step started", "steps[1]")
    process.send_signal(signal.SIGINT)
    site.await_event("cleanup started")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # two that come at once are one
    code = process.wait(30)
    output = (site.folder / "output").read_text()

    assert code == 130
    assert "left at once" in output or "the watchdog goes on removing it" in output
    assert f"runner clean --run {run_of(site)}" in output
    assert site.settle() == [], site.story()


def test_what_may_be_made_but_not_deleted(site: Site, tmp_path: Path) -> None:
    """Exit 5, with the permission that is missing; `clean` by somebody who may removes it."""
    kubectl = site.kubectl
    kubectl("create", "serviceaccount", "maker", "-n", site.place)
    verbs = "--verb=get,list,watch,create,patch"
    kubectl("create", "role", "maker", verbs, "--resource=configmaps", "-n", site.place)
    kubectl("create", "rolebinding", "maker", "--role=maker", f"--serviceaccount={site.place}:maker", "-n", site.place)
    token = kubectl("create", "token", "maker", "-n", site.place).strip()
    config = json.loads(kubectl("config", "view", "--minify", "--raw", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "maker").write_text(json.dumps(config))
    context = config["current-context"]
    site.write("flow.yaml", "steps: [{apply: map.yaml}]")

    made = runner(site, "flow.yaml", "--context", context, "--kubeconfig", str(tmp_path / "maker"))
    run = run_of(site)

    assert made.returncode == 5, made.stdout + made.stderr
    assert f"left: configmap/own-{site.tag} (namespace {site.place}): " in made.stdout
    assert 'cannot delete resource "configmaps"' in made.stdout
    who = "try: as an account that may do that"
    assert f"{who}: kubectl delete configmap/own-{site.tag} --namespace={site.place}\n" in made.stdout
    assert f"runner clean --run {run}" in made.stdout
    assert "exit code 5: every step passed, but not everything that the run made could be removed" in made.stdout
    cleaned = runner(site, "clean", "--run", run)
    assert (cleaned.returncode, "1 object removed, 0 left" in cleaned.stdout) == (0, True), cleaned.stdout
    assert site.settle() == []


class Relay:
    """A TCP relay to the API server that can go away: then it cuts what it has, and refuses what comes."""

    def __init__(self, host: str, port: int) -> None:
        self._far = (host, port)
        self._open: list[socket.socket] = []
        self._listen(0)
        self.port = int(self._server.getsockname()[1])

    def _listen(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = server.accept()[0]
                far = socket.create_connection(self._far)
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def go(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open = []

    def come_back(self) -> None:
        self._listen(self.port)


@pytest.fixture
def relay(site: Site, tmp_path: Path) -> Iterator[Relay]:
    """The site's cluster behind a relay; its address is local, and its nodes prove that it is."""
    config: dict[str, Any] = json.loads(site.kubectl("config", "view", "--minify", "--raw", "-o", "json"))
    cluster = config["clusters"][0]["cluster"]
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    relay = Relay(host, int(port or 443))
    cluster.pop("certificate-authority-data", None)
    cluster |= {"server": f"https://127.0.0.1:{relay.port}", "insecure-skip-tls-verify": True}
    (tmp_path / "relayed").write_text(json.dumps(config))
    site.env = {**site.env, "KUBECONFIG": str(tmp_path / "relayed")}
    yield relay
    relay.go()


AWAY = float(os.environ.get("AWAY_SECONDS", "6"))


@pytest.mark.parametrize("way", ["SIGKILL", "calm"])
def test_api_server_away_during_cleanup(site: Site, relay: Relay, way: str) -> None:
    """Whoever cleans up, the run or its watchdog, goes on when it is back; nothing is left."""
    site.write("flow.yaml", "steps: [{apply: map.yaml}, {run: 'touch ready; until test -e go; do sleep 0.1; done'}]\n")
    process, _ = site.start()
    site.await_event("step started", "steps[1]")
    relay.go()
    if way == "SIGKILL":
        process.kill()
    else:
        (site.folder / "go").touch()
    threading.Timer(AWAY, relay.come_back).start()
    code = process.wait(AWAY + 60)

    assert site.settle(AWAY + 20) == [], site.story()
    assert code == (-9 if way == "SIGKILL" else 0), site.story()
    if way == "calm":
        assert any("the API server to answer, for 60 s at most" in line for line in site.log("events.jsonl"))
    else:
        said = [json.loads(line) for line in site.log("watchdog.jsonl")]
        assert said[-1]["event"] == "watchdog ended"
        assert said[-1]["left"] == 0


def test_disk_that_fills_up_during_the_run(site: Site) -> None:
    """What could not be written down is not made: the step fails with the reason; what was made before goes."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare for a small file system of its own")
    state = site.folder / "state"
    state.mkdir()
    # A block for the last lines of the journal stays free: they are about what exists.
    fill = f"dd if=/dev/zero of={state}/filler bs=4k 2>/dev/null || true"
    site.write(
        "flow.yaml", "steps: [{apply: map.yaml}, {run: FILL}, {apply: other.yaml}]".replace("FILL", json.dumps(fill))
    )
    site.write("other.yaml", MAP.replace("m-TAG", "other-TAG"))
    script = f'mount -t tmpfs -o size=1m tmpfs "{state}" && exec "$0" "$@"'
    answer = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, sys.executable, "-m", "runner", "flow.yaml"],
        cwd=site.folder,
        env=site.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "No space left on device" in answer.stdout
    assert "--state-dir" in answer.stdout
    assert site.kubectl("get", "configmaps", "-n", site.place, "-o", "name").count(site.tag) == 3  # the canaries
    assert site.settle() == []


def test_namespaces_end_while_the_next_workflow_runs(site: Site) -> None:
    """Their deletion is started at once and waited for at the end of the whole invocation."""
    for name in ("one", "two"):
        site.write(f"{name}.yaml", "namespace: {generate: crash-TAG-}\nsteps: [{run: kubectl get configmaps}]\n")
    answer = runner(site, "one.yaml", "two.yaml", "--events", "events")

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.count("1 object deleted, 0 left") == 2
    moments = [(record["event"], record.get("workflow")) for record in site.events()]
    assert moments.index(("workflow started", "two")) < moments.index(("cleanup ended", "one"))
    assert next(record for record in site.events() if record["event"] == "cleanup verified")["objects"] == 2
    assert site.settle() == []


def test_the_deadline_leaves_time_to_clean_up(site: Site) -> None:
    """Steps end early enough that a Pod which ignores SIGTERM is gone within the workflow's timeout, or 5 s after."""
    site.write("pod.yaml", STUBBORN)
    site.write("flow.yaml", "timeout: 20s\nsteps: [{apply: pod.yaml}, {wait: pod/stubborn-TAG, timeout: 5m}]\n")
    answer = runner(site, "flow.yaml", "-o", "json")
    report = json.loads(answer.stdout)
    (workflow,) = report["workflows"]

    assert (answer.returncode, workflow["cause"]) == (4, "deadline"), answer.stderr
    assert (workflow["cleanup"]["deleted"], workflow["cleanup"]["left"]) == (1, [])
    assert workflow["steps"][1]["seconds"] < 16 < workflow["seconds"] < 25
    assert "the workflow's timeout is 20 s: the last 4 s of it are for `finally` and the cleanup" in answer.stderr
    assert "cleanup verified" in answer.stderr
    assert list(site.in_cluster()) == []


def test_claims_of_a_stateful_set_go_with_it(site: Site) -> None:
    """Those that its controller made, and not the one of such a name that somebody made in the same second."""
    site.write("db.yaml", DATABASE)
    site.write("hand.yaml", CLAIM)
    site.write("flow.yaml", FLOW_OF_CLAIMS)
    answer = runner(site, "flow.yaml", "-n", site.place, "-o", "json")
    (workflow,) = json.loads(answer.stdout)["workflows"]
    names = site.kubectl("get", "pvc", "-n", site.place, "-o", "name").split()

    assert (answer.returncode, workflow["cleanup"]["left"]) == (0, []), answer.stderr
    assert names == [f"persistentvolumeclaim/data-db-{site.tag}-1"]
