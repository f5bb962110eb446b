"""A clock that jumps while a run goes on, on the real cluster: nothing is decided by the time of day.

The clock of the runner and its watchdog is moved by libfaketime; that of kubectl and the cluster stays.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.crashes import Site
from tests.e2e.test_cleanup import run_of, runner

pytestmark = pytest.mark.e2e

Kubectl = Callable[..., str]
Jump = Callable[[str], None]

HOLD = "steps: [{apply: own.yaml}, {run: sleep 300}]\n"
OWN = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own-TAG, namespace: PLACE}\n"


@pytest.fixture
def site(
    tmp_path: Path, cluster_env: dict[str, str], namespace: str, app_image: str, kubectl: Kubectl
) -> Iterator[Site]:
    """A site whose runs have a clock that can be moved."""
    site = Site(tmp_path, namespace, {**cluster_env, **_movable(tmp_path / "clock")}, kubectl)
    site.write("own.yaml", OWN)
    yield site
    site.forget()


@pytest.fixture
def jump(site: Site) -> Jump:
    """`jump("+3h")`: from now on it is so much later for the runs of the site."""

    def jump(by: str) -> None:
        new = site.folder / "clock.new"
        new.write_text(by)
        new.replace(site.folder / "clock")

    jump("+0")
    return jump


def _movable(clock: Path) -> dict[str, str]:
    """The environment of a process whose time of day follows a file."""
    faketime = shutil.which("faketime")
    assert faketime, "install faketime: apt-get install faketime"
    lines = subprocess.run([faketime, "-f", "+0", "env"], capture_output=True, text=True, check=True).stdout.split("\n")
    (library,) = (line.partition("=")[2] for line in lines if line.startswith("LD_PRELOAD="))
    settings = {"TIMESTAMP_FILE": str(clock), "NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": library, **{f"FAKETIME_{name}": value for name, value in settings.items()}}


@pytest.mark.parametrize("by", ["+3h", "-3h"])
def test_a_run_passes_and_is_cleaned_up(site: Site, jump: Jump, by: str) -> None:
    """No deadline ends early or late, and figures are seconds that went by."""
    process, _ = site.start()
    site.await_event("step started", "steps[4]")
    jump(by)
    code = process.wait(120)
    (ended,) = (record for record in site.events() if record["event"] == "run ended")
    stamps = [record["time"][:13] for record in site.events()]

    assert (code, site.remains()) == (0, []), site.story()
    assert 0 < ended["seconds"] < 60
    assert len({*stamps}) > 1, "the clock did not jump"
    assert any(record["event"] == "cleanup verified" and record["left"] == 0 for record in site.events())
    assert f"{run_of(site)}: passed" in runner(site, "show", "last").stdout


@pytest.mark.parametrize("by", ["+3h", "-3h"])
def test_the_watchdog_acts_at_once(site: Site, jump: Jump, by: str) -> None:
    """It neither waits for a time of day nor gives up because of one."""
    process, _ = site.start()
    site.await_event("step started", "steps[4]")
    jump(by)
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert site.settle() == [], site.story()
    assert f"{run_of(site)}: crashed" in runner(site, "show", "last").stdout


def test_a_run_from_yesterday_is_alive(site: Site, jump: Jump) -> None:
    """What it holds is neither taken over nor cleaned, on its machine (by its lock) or another (by the API server's
    clock), whatever the clocks of these machines say.
    """
    site.write("flow.yaml", HOLD)
    process, _ = site.start()
    site.await_event("step started", "steps[1]")
    run = run_of(site)
    name = f"configmap/own-{site.tag}"
    elsewhere = {"XDG_STATE_HOME": str(site.folder / "elsewhere")}
    site.write("again.yaml", "steps: [{apply: own.yaml}]")
    answers = {}
    for by in ("+25h", "-25h"):
        jump(by)
        answers[by] = [
            runner(site, "again.yaml", env=elsewhere),
            runner(site, "again.yaml"),
            runner(site, "clean", "--cluster", "--all", env=elsewhere),
            runner(site, "clean", "--older-than", "2h"),
        ]
    there = site.kubectl("get", name, "-n", site.place, "-o", "name")
    jump("+0")
    os.kill(process.pid, signal.SIGTERM)
    code = process.wait(60)

    assert there
    for by, (far, near, cluster, here) in answers.items():
        assert (far.returncode, near.returncode) == (1, 1), (by, far.stderr, near.stderr)
        assert f"{name} belongs to the run {run}, which is still alive (on another machine, until" in far.stdout
        assert f"{name} belongs to the run {run}, which is still alive (process {process.pid})" in near.stdout
        assert f"{run}  of another machine" in cluster.stdout
        assert "it may be alive on another machine until" in cluster.stdout
        assert "removed" not in here.stdout.replace("0 objects removed", "")
    assert (code, site.settle()) == (143, []), site.story()
