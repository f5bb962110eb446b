"""Children of a dead run are ended; nobody else is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from runner import orphans, process_table
from runner.cli import main
from runner.journal import Process


def gone(pid: int) -> bool:
    """No process, or one that nobody buried yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_what_a_child_left_in_its_session_goes_with_it() -> None:
    """Also when the child itself ended long ago."""
    script = "sleep 300 >/dev/null & echo $!"
    child = subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    start = orphans.start_of(child.pid)
    sleeper = int(child.communicate(timeout=30)[0])

    assert start
    assert orphans.end([Process(mark="run/1", pid=child.pid, start=start, program="bash")]) == ["bash"]
    assert orphans.end([Process(mark="run/1", pid=child.pid, start=start, program="bash")]) == []
    assert gone(sleeper)


def test_one_that_ignores_sigterm_is_killed() -> None:
    argv = ["bash", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout
        child.stdout.readline()
        mine = Process(mark="run/1", pid=child.pid, start=orphans.start_of(child.pid), program="bash")
        assert orphans.end([mine]) == ["bash"]
        assert child.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("known", [True, False], ids=["number", "mark"])
def test_a_builder_clears_away(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it starts is ended, one after the other, until it ends by itself; nothing that it says holds it up."""
    monkeypatch.setattr(process_table, "_HELPER_SECONDS", 0.2)
    script = "trap '' TERM; for i in 1 2; do echo $i; sleep 300; done; printf '%0200000d' 1; : >cleared"
    env = {**os.environ, orphans.MARK: "run/7"}
    argv = ["bash", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=tmp_path, env=env, start_new_session=True) as child:
        assert child.stdout
        child.stdout.readline()
        start = orphans.start_of(child.pid)
        mine = Process(mark="run/7", program="bash", leaves_first=True)
        known_as = structs.replace(mine, pid=child.pid, start=start) if known else mine
        assert orphans.end([known_as]) == ["bash"]
        assert child.wait(30) == 0
    assert (tmp_path / "cleared").exists()


def test_a_builder_without_root_is_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for itself in a user namespace, and that is who clears away."""
    monkeypatch.setattr(process_table, "_HELPER_SECONDS", 0.2)
    (tmp_path / "builder.sh").write_text("""\
trap '' TERM
[ -n "$INNER" ] || { INNER=1 bash builder.sh build; exit; }
for i in 1 2; do echo $i; sleep 300; done
: >cleared
""")
    argv = ["bash", "builder.sh", "build"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True) as child:
        assert child.stdout
        child.stdout.readline()
        start = orphans.start_of(child.pid)
        orphans.end([Process(mark="run/7", pid=child.pid, start=start, program="bash", leaves_first=True)])
        assert child.wait(30) == 0
    assert (tmp_path / "cleared").exists()


def test_a_child_of_another_process_is_never_ended() -> None:
    """A process number that was used again belongs to somebody else: its start is another."""
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as stranger:
        try:
            other = Process(mark="run/1", pid=stranger.pid, start="1", program="kubectl")
            assert orphans.end([other]) == []
            assert stranger.poll() is None
            mine = Process(mark="run/1", pid=stranger.pid, start=orphans.start_of(stranger.pid), program="sleep")
            assert orphans.end([mine]) == ["sleep"]
            assert stranger.wait(30) == -signal.SIGTERM
        finally:
            stranger.kill()


def test_a_child_without_a_number_is_known_by_its_mark() -> None:
    """The run died between starting it and writing down its number."""
    env = {**os.environ, orphans.MARK: "run/7"}
    with subprocess.Popen(["sleep", "300"], env=env, start_new_session=True) as child:
        try:
            assert orphans.end([Process(mark="run/8", program="sleep")]) == []
            assert orphans.end([Process(mark="run/7", program="sleep")]) == ["sleep"]
            assert child.wait(30) == -signal.SIGTERM
        finally:
            child.kill()


@pytest.mark.parametrize("apart", ["set -m;", "setsid"], ids=["group", "session"])
def test_what_left_the_group_of_its_child_ends_with_the_run(
    apart: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the step passed long before; a daemon that was started without the mark lives on."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    (tmp_path / "sleep.sh").write_text('echo $$ > "$1"; exec sleep 300')
    both = f"env -u {orphans.MARK} setsid bash sleep.sh daemon & {apart} bash sleep.sh left &"
    (tmp_path / "both.sh").write_text(f"{both} until [ -s daemon ] && [ -s left ]; do sleep 0.01; done")
    script = "bash both.sh >/dev/null 2>&1"
    flow = tmp_path / "flow.yaml"
    flow.write_text(json.dumps({"steps": [{"run": script}]}))
    try:
        assert main(["run", "-q", str(flow)]) == 0
        assert gone(int((tmp_path / "left").read_text()))
        assert not gone(int((tmp_path / "daemon").read_text()))
    finally:
        for name in ("left", "daemon"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((tmp_path / name).read_text()), signal.SIGKILL)
