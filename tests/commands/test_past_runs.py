"""`runs`, `show` and `clean` on what stands in run folders; no cluster."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.cli import main
from runner.journal import Dependent, Journal, Place, Undo, leftovers, new_run_id, replay

Answer = Callable[..., tuple[int, str, str]]


@pytest.fixture
def answer(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Run a command on the state of this test; answers the exit code and what it printed."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-cluster"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def answer(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return answer


def made(tmp_path: Path, id_: str, *, end: str = "", uid: str = "u1", **fields: Any) -> Journal:
    """A run that made a Pod, and died unless it has an `end`."""
    journal = Journal(tmp_path / "runner/runs" / id_)
    journal.start(("flow.yaml",), "1.0")
    journal.at(Place(engine="kubectl", context="kind-a", server="https://127.0.0.1:1"))
    record = Undo(id=f"{id_}/1", engine="kubectl", api_version="v1", kind="Pod", name="app", namespace="x", **fields)
    journal.intend(record)
    journal.made(record, uid)
    if end:
        if end == "success":
            journal.undone(record)
        journal.end(end, 0 if end == "success" else 1)
    return journal


def test_runs_lists_all_of_them(answer: Answer, tmp_path: Path) -> None:
    """Those that passed, crashed, keep something, and go on."""
    made(tmp_path, "20260101-000001-aaaa", end="success").close()
    made(tmp_path, "20260101-000002-bbbb").close()
    made(tmp_path, "20260101-000003-cccc", end="failure", keep=True).close()
    alive = made(tmp_path, "20260101-000004-dddd")

    code, out, _ = answer("runs")
    _, text, _ = answer("runs", "-o", "json")
    alive.close()

    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [row[0] for row in rows] == ["ID", *(f"20260101-00000{i}-{c * 4}" for i, c in enumerate("abcd", 1))]
    assert [row[3] for row in rows[1:]] == ["passed", "crashed", "failed", "running"]
    assert rows[2][4:] == ["1", "flow.yaml"]
    assert rows[3][4:] == ["-", "(1", "kept)", "flow.yaml"]
    assert [run["status"] for run in json.loads(text)["runs"]] == ["success", "crashed", "failure", "running"]
    crashed = json.loads(text)["runs"][1]
    assert (crashed["status"], crashed["left"], crashed["code"]) == ("crashed", ["pod/app (namespace x)"], None)
    assert crashed["context"] == "kind-a"


def test_steps_passed_and_something_is_left(answer: Answer, tmp_path: Path) -> None:
    """Every command says what the report of the run said; machines read the status that goes with the exit code."""
    journal = made(tmp_path, "20260101-000001-aaaa")
    journal.end("failure", 5, left=1)
    journal.close()

    assert "  passed, 1 left  1 " in answer("runs")[1]
    assert "20260101-000001-aaaa: passed, 1 left, begun " in answer("show", "last")[1]
    assert "20260101-000001-aaaa  passed, 1 left, begun " in answer("clean")[1]
    assert json.loads(answer("runs", "-o", "json")[1])["runs"][0]["status"] == "failure"


def test_without_any_run(answer: Answer) -> None:
    """Nothing is an answer, too."""
    assert answer("runs")[0] == 0
    assert answer("clean")[:2] == (0, "nothing is left\n")
    code, _, err = answer("show", "last")
    assert (code, "no run is remembered" in err) == (2, True)


def test_show_tells_what_happened(answer: Answer, tmp_path: Path) -> None:
    """Of a crashed run: its events as far as they go, what its watchdog did, what is left and how to remove it."""
    made(tmp_path, "20260101-000002-bbbb").close()
    folder = tmp_path / "runner/runs/20260101-000002-bbbb"
    event = {"schema": 1, "time": "2026-01-01T00:00:02.000Z", "level": "info", "run": "r"}
    (folder / "events.jsonl").write_text(
        json.dumps({**event, "event": "step started", "step": "steps[0]", "name": "apply pod.yaml"}) + '\n{"schema": 1'
    )
    (folder / "watchdog.jsonl").write_text(json.dumps({**event, "event": "watchdog started", "pid": 7}) + "\n")

    code, out, _ = answer("show", "20260101")
    document = json.loads(answer("show", "last", "-o", "json")[1])

    assert code == 0
    assert "apply pod.yaml" in out
    assert "watchdog started" in out
    assert "20260101-000002-bbbb: crashed, begun " in out
    assert "  left: pod/app (namespace x)\n  try: runner clean --run 20260101-000002-bbbb\n" in out
    assert [record["event"] for record in document["events"]] == ["step started", "watchdog started"]


def test_lines_to_type_name_the_state_and_the_cluster(answer: Answer, tmp_path: Path) -> None:
    """As the runs were started; where runs were started in different ways, each has its own line."""
    state = tmp_path / "my state"
    where = f"'--state-dir={state}'"
    for number, place in enumerate(
        (
            Place(engine="kubectl", context="far", server="https://a", named=True),
            Place(engine="kubectl", context="far", server="https://a", named=True, kubeconfig="/k/my file"),
        )
    ):
        journal = Journal(state / f"runs/20260101-00000{number}-aaaa")
        journal.start(("flow.yaml",), "1.0")
        journal.at(place)
        journal.intend(Undo(id="r/1", engine="kubectl", api_version="v1", kind="Pod", name="app"))
        journal.close()
        if not number:
            alone = answer("clean", "--state-dir", str(state))[1]
    both = answer("clean", "--state-dir", str(state))[1]
    shown = answer("show", "last", "--state-dir", str(state))[1]
    unknown = answer("show", "2025", "--state-dir", str(state))[2]

    assert ", on far (https://a)\n" in alone
    assert f"try: runner clean --all {where} --context=far, or runner clean --run ID {where} --context=far" in alone
    second = f"  try: runner clean --run 20260101-000001-aaaa {where} '--kubeconfig=/k/my file' --context=far\n"
    assert f"  try: runner clean --run 20260101-000000-aaaa {where} --context=far\n" in both
    assert second in both
    assert both.endswith("2 objects can be removed; try: the lines above\n")
    assert shown.endswith(second)
    assert f"`runner runs {where}` lists them" in unknown


def test_a_name_must_mean_one_run(answer: Answer, tmp_path: Path) -> None:
    """An unknown or ambiguous one is a usage error that says what to type."""
    for letter in "ab":
        made(tmp_path, f"20260101-00000{letter}-aaaa").close()

    assert "there is no run 2025 in" in answer("show", "2025")[2]
    assert "20260101-00000a-aaaa: crashed" in answer("show", "a-aaaa")[1]
    assert "20260101-00000b-aaaa: crashed" in answer("show")[1]
    assert "may be any of 20260101-00000a-aaaa, 20260101-00000b-aaaa" in answer("clean", "--run", "2026")[2]


def test_clean_without_a_choice_only_lists(answer: Answer, tmp_path: Path) -> None:
    """What would be removed, and what to type; kept objects are named; live runs are left out."""
    made(tmp_path, "20260101-000002-bbbb").close()
    made(tmp_path, "20260101-000003-cccc", end="failure", keep=True).close()
    alive = made(tmp_path, "20260101-000004-dddd")

    code, out, _ = answer("clean")
    document = json.loads(answer("clean", "--all", "--dry-run", "-o", "json")[1])
    named = json.loads(answer("clean", "--run", "20260101-000003-cccc", "--dry-run", "-o", "json")[1])
    alive.close()

    assert code == 0
    assert "  remains: pod/app (namespace x)" in out
    assert "1 object can be removed; try: runner clean --all, or runner clean --run ID" in out
    assert "dddd" not in out
    assert [(case["run"], case["objects"], case["kept"]) for case in document["runs"]] == [
        ("20260101-000002-bbbb", ["pod/app (namespace x)"], []),
        ("20260101-000003-cccc", [], ["pod/app (namespace x)"]),
    ]
    assert document["dry_run"] is True
    assert named["runs"][0]["objects"] == ["pod/app (namespace x)"]


def test_clean_mentions_what_was_kept_on_purpose(answer: Answer, tmp_path: Path) -> None:
    """It is left alone unless its run is named, and its journal, too."""
    made(tmp_path, "20260101-000003-cccc", end="failure", keep=True).close()
    journal = tmp_path / "runner/runs/20260101-000003-cccc/journal.jsonl"
    before = journal.read_text()

    for arguments, sum_ in (((), "nothing is left"), (("--all",), "0 objects removed, 0 left")):
        code, out, _ = answer("clean", *arguments)
        assert code == 0
        assert out.splitlines()[1:] == [
            "  kept: pod/app (namespace x)",
            f"{sum_}; 1 object was kept on purpose, and --run ID removes it",
        ]
    assert journal.read_text() == before


def test_runs_name_files_from_elsewhere_in_full(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path, "20260101-000001-aaaa", end="success").close()
    assert answer("runs")[1].endswith("  flow.yaml\n")
    monkeypatch.chdir("/")
    assert answer("runs")[1].endswith(f"  {tmp_path}/flow.yaml\n")


def test_clean_while_the_watchdog_is_at_work(answer: Answer, tmp_path: Path) -> None:
    """What it removes remains for now, and "nothing is left" stands nowhere beside it; `--all` leaves it to it."""
    journal = made(tmp_path, "20260101-000002-bbbb")
    below = Dependent(api_version="v1", kind="ReplicaSet", name="app-1", namespace="x", uid="u2")
    journal.depends(journal.records[0], [below])
    journal.end("cancelled", 130, left=1, handover=True)

    listed = answer("clean")
    cleaned = answer("clean", "--all")
    journal.close()

    assert listed[0] == cleaned[0] == 0
    assert listed[1].splitlines()[0].endswith(": its watchdog is removing it")
    assert listed[1].splitlines()[1:] == [
        "  remains: pod/app (namespace x), or of it: replicaset/app-1",
        "1 object is left to others, as said above",
    ]
    assert cleaned[1].splitlines()[-1] == "0 objects removed, 0 left; 1 object is left to others, as said above"


def test_clean_leaves_a_live_run_alone(answer: Answer, tmp_path: Path) -> None:
    """Also when it is named."""
    alive = made(tmp_path, new_run_id())
    code, out, _ = answer("clean", "--run", alive.folder.name)
    alive.close()

    assert code == 0
    assert "running, begun" in out
    assert "it is alive" in out
    assert list(replay(alive.folder).records)


def test_clean_without_the_cluster_of_the_run(answer: Answer, tmp_path: Path) -> None:
    """Its context does not exist any more: exit 5, with the reason, and the journal still knows the object."""
    made(tmp_path, "20260101-000002-bbbb").close()

    code, out, _ = answer("clean", "--all")

    assert code == 5
    assert "left: pod/app (namespace x): by your kubeconfig: there is no context kind-a in" in out
    assert "remove it with: kubectl delete pod/app --namespace=x" in out
    past = replay(tmp_path / "runner/runs/20260101-000002-bbbb")
    assert past.end
    assert (past.end.status, past.end.left, len(past.doomed)) == ("crashed", 1, 1)


def test_clean_ends_processes_and_removes_files(answer: Answer, tmp_path: Path) -> None:
    """Of a run that made no object: what it had on this machine, and the copy of the kubeconfig."""
    from runner import orphans

    journal = Journal(tmp_path / "runner/runs/20260101-000002-bbbb")
    journal.start(("flow.yaml",), "1.0")
    folder = Path(journal.make_temporary())
    (journal.folder / "kubeconfig").write_text("secret")
    mark = journal.spawning("sleep")
    with subprocess.Popen(["sleep", "300"], env={**os.environ, orphans.MARK: mark}, start_new_session=True) as child:
        journal.spawned(mark, child.pid, orphans.start_of(child.pid))
        journal.close()
        try:
            code, out, _ = answer("clean", "--older-than", "0.001ms")
            assert child.wait(30) == -15
        finally:
            child.kill()

    assert (code, "0 objects removed, 0 left" in out) == (0, True)
    assert not folder.exists()
    assert not (journal.folder / "kubeconfig").exists()
    assert answer("clean")[1] == "nothing is left\n"


def test_a_wrong_clock_does_not_make_a_run_old(answer: Answer, tmp_path: Path) -> None:
    """A run from the future (the clock was put back) is not older than anything, and neither alive nor dead by it."""
    journal = made(tmp_path, "29990101-000002-bbbb")
    journal._write({"run": {"id": "x", "started": "2999-01-01T00:00:00.000Z", "pid": 1, "host": "h"}})
    journal.close()

    assert answer("clean", "--older-than", "1s")[1] == "0 objects removed, 0 left\n"
    assert "1 object can be removed" in answer("clean")[1]


def test_next_run_tells_of_leftovers(answer: Answer, tmp_path: Path) -> None:
    """In one line, with what to type; those of live runs and kept objects are none."""
    made(tmp_path, "20260101-000002-bbbb").close()
    made(tmp_path, "20260101-000003-cccc", end="failure", keep=True).close()
    alive = made(tmp_path, "20260101-000004-dddd")
    (tmp_path / "flow.yaml").write_text("steps: [{run: 'true'}]")

    code, _, err = answer("run", str(tmp_path / "flow.yaml"))
    found = [past.id for past in leftovers(tmp_path / "runner/runs")]
    alive.close()

    assert code == 0
    assert "the run 20260101-000002-bbbb left 1 object; see and remove: runner clean" in err
    assert found == ["20260101-000002-bbbb"]


@pytest.mark.parametrize("arguments", [("clean", "--older-than", "2 hours"), ("show",), ("clean", "--run")])
def test_usage(answer: Answer, arguments: tuple[str, ...]) -> None:
    """Exit 2, with what was meant."""
    try:
        code = answer(*arguments)[0]
    except SystemExit as error:
        code = int(str(error.code))
    assert code == 2


@pytest.mark.parametrize("command", ["runs", "show", "clean"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"  runner {command}" in capsys.readouterr().out


def test_old_runs_are_forgotten_and_nothing_else(runner: Any, tmp_path: Path) -> None:
    """Of the state folder only run folders go, the oldest first; what somebody else keeps there stays."""
    runs = tmp_path / "mine" / "runs"
    runs.mkdir(parents=True)
    for number in range(60):
        (runs / f"0-photos-{number:02}").mkdir()
        (runs / f"0-photos-{number:02}" / "journal.jsonl").touch()
        old = Journal(runs / f"20200101-0000{number:02}-abcd")
        old.start((), "1.0")
        old.end("success", 0)
        old.close()
    (tmp_path / "flow.yaml").write_text("steps: [{run: 'true'}]")

    assert runner("run", "flow.yaml", "--state-dir", tmp_path / "mine", cwd=tmp_path).returncode == 0
    assert len(list(runs.glob("0-photos-*"))) == 60
    assert len(list(runs.glob("20200101-*"))) == 49
