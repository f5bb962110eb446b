"""The journal: on disk before the mutation, readable by whoever must undo it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner import journal
from runner.errors import CannotStart, ExitCode, StepFailed
from runner.journal import Dependent, Journal, Undo, is_alive, replay, unfinished

POD = Undo(id="1", engine="kubectl", api_version="v1", kind="Pod", name="a", namespace="demo", scope="steps[0]")
SERVICE = Undo(id="2", engine="kubectl", api_version="v1", kind="Service", name="a", namespace="demo", keep=True)


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def test_records_are_on_disk_at_once(tmp_path: Path) -> None:
    """Each call has written its line when it returns, before anything is closed; defaults are left out."""
    book = Journal(tmp_path / "run")

    book.intend(POD)
    undo = {"id": "1", "engine": "kubectl", "api_version": "v1", "kind": "Pod", "name": "a"}
    assert lines(tmp_path / "run") == [{"undo": {**undo, "namespace": "demo", "scope": "steps[0]"}}]
    book.made(POD, "uid-1")
    assert lines(tmp_path / "run")[1:] == [{"made": "1", "uid": "uid-1"}]
    book.undone(POD)
    assert lines(tmp_path / "run")[2:] == [{"undone": "1"}]
    book.close()


def test_records_are_what_is_still_there(tmp_path: Path) -> None:
    """In the order in which they were intended, with the UID once there is one; undone ones are gone."""
    book = Journal(tmp_path / "run")
    book.intend(POD)
    book.intend(SERVICE)
    book.made(POD, "uid-1")

    assert list(book.records) == [msgspec.structs.replace(POD, uid="uid-1"), SERVICE]
    for _ in range(2):
        book.undone(POD)
        assert list(book.records) == [SERVICE]
    book.close()


def test_records_survive_the_way_to_disk(tmp_path: Path) -> None:
    """What was intended can be read back as the same record."""
    book = Journal(tmp_path / "run")
    for record in (POD, SERVICE):
        book.intend(record)
    book.close()

    assert [msgspec.convert(line["undo"], Undo) for line in lines(tmp_path / "run")] == [POD, SERVICE]


def test_journal_survives_sigkill(tmp_path: Path) -> None:
    """A process that is killed right after `intend` leaves the whole line."""
    script = (
        "import os, signal, sys, pathlib\n"
        "from runner.journal import Journal, Undo\n"
        "book = Journal(pathlib.Path(sys.argv[1]))\n"
        "book.intend(Undo(id='1', engine='kubectl', api_version='v1', kind='Pod', name='a'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], timeout=30, check=False)

    assert child.returncode == -9
    assert [line["undo"]["name"] for line in lines(tmp_path / "run")] == ["a"]


def test_journal_takes_records_from_many_threads(tmp_path: Path) -> None:
    """No line is torn, no record lost."""
    book = Journal(tmp_path / "run")

    def work(number: int) -> None:
        for index in range(50):
            record = msgspec.structs.replace(POD, id=f"{number}-{index}", name="x" * 500)
            book.intend(record)
            book.made(record, "u")
            if index % 2:
                book.undone(record)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    book.close()

    assert len(lines(tmp_path / "run")) == 4 * 50 * 2 + 4 * 25
    assert len(book.records) == 100
    assert {record.uid for record in book.records} == {"u"}


def test_run_folder_is_private(tmp_path: Path) -> None:
    """It holds output of commands and the run's kubeconfig."""
    Journal(tmp_path / "a" / "run").close()

    assert stat.S_IMODE((tmp_path / "a" / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize("obstacle", ["a file", "the same run"])
def test_folder_that_cannot_be_made(tmp_path: Path, obstacle: str) -> None:
    """Without a journal nothing may be made: the run cannot start."""
    folder = tmp_path / "state" / "run"
    if obstacle == "a file":
        (tmp_path / "state").write_text("")
    else:
        folder.mkdir(parents=True)

    with pytest.raises(CannotStart) as caught:
        Journal(folder)
    reason = "Not a directory" if obstacle == "a file" else "File exists"
    assert caught.value.message == f"the run folder {folder} cannot be written: {reason}"
    assert caught.value.hint == "name a folder that can be written with --state-dir, or set XDG_STATE_HOME"
    assert caught.value.code is ExitCode.CANNOT_START


def test_objects_are_named_as_kubectl_names_them() -> None:
    """What messages show."""
    assert (str(POD), str(SERVICE)) == ("pod/a", "service/a")


def test_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """By XDG: the variable, else ~/.local/state; an empty variable counts as none."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert journal.state_folder() == Path("/somewhere/runner")
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert journal.state_folder() == Path("/home/me/.local/state/runner")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert journal.state_folder() == Path("/home/me/.local/state/runner")


def test_run_ids_are_labels() -> None:
    """Sortable by time, unique, and valid as a label's value."""
    ids = [journal.new_run_id() for _ in range(20)]

    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", id_) for id_ in ids)
    assert len(set(ids)) > 15
    assert [id_[:15] for id_ in ids] == sorted(id_[:15] for id_ in ids)


def test_folder_with_something_to_undo_is_unfinished(tmp_path: Path) -> None:
    """It is kept, however old, as is that of a run that goes on; one with everything undone is not needed."""
    assert not unfinished(tmp_path / "none")
    journal = Journal(tmp_path / "run")
    assert unfinished(tmp_path / "run")
    journal.intend(POD)
    journal.close()
    assert unfinished(tmp_path / "run")
    again = Journal.resume(tmp_path / "run")
    assert again is not None
    again.undone(POD)
    again.close()
    assert not unfinished(tmp_path / "run")


def test_replay_tells_what_is_to_undo(tmp_path: Path) -> None:
    """Everything that a run made and did not undo, and how it ended; reading changes nothing."""
    book = Journal(tmp_path / "run")
    book.start(("a.yaml",), "1.0")
    book.at(journal.Place(engine="kubectl", context="kind-a", server="https://127.0.0.1:6443"))
    book.intend(POD)
    book.made(POD, "uid-1")
    book.intend(SERVICE)
    mark, other = book.spawning("kubectl"), book.spawning("bash")
    book.spawned(mark, 77, "123")
    book.ended(other)
    folder = book.make_temporary()
    before = (tmp_path / "run/journal.jsonl").read_bytes()
    past = replay(tmp_path / "run")
    Path(folder).rmdir()

    assert past.records == {"1": msgspec.structs.replace(POD, uid="uid-1"), "2": SERVICE}
    assert [record.name for record in past.doomed] == ["a"]
    assert past.spared == (SERVICE,)
    assert list(past.children.values()) == [journal.Process(mark=mark, pid=77, start="123", program="kubectl")]
    assert past.temporary == [folder]
    assert past.started
    assert (past.started.files, past.started.version) == (("a.yaml",), "1.0")
    assert past.place
    assert past.place.server == "https://127.0.0.1:6443"
    assert not past.finished
    book.end("cancelled", 143, handover=True)
    assert not replay(tmp_path / "run").finished
    book.end("cancelled", 143, by="watchdog")
    assert replay(tmp_path / "run").finished
    book.close()
    assert (tmp_path / "run/journal.jsonl").read_bytes().startswith(before)


def test_dependents_are_remembered(tmp_path: Path) -> None:
    """Each once, also for whoever goes on with the journal; a journal without such lines has none."""
    pod, other = (Dependent(api_version="v1", kind="Pod", name=name, namespace="demo", uid=name) for name in ("a", "b"))
    book = Journal(tmp_path / "run")
    book.intend(POD)
    assert replay(tmp_path / "run").records["1"].dependents == ()
    book.depends(POD, [pod])
    size = len(lines(tmp_path / "run"))
    book.depends(POD, [pod])
    assert len(lines(tmp_path / "run")) == size
    book.depends(POD, [other])
    book.close()

    again = Journal.resume(tmp_path / "run")
    assert again
    assert [record.dependents for record in again.records] == [(pod, other)]
    again.close()


def test_what_was_undone_too_early_is_there_again(tmp_path: Path) -> None:
    """It is no longer among what is gone, and whoever reads the journal finds it."""
    book = Journal(tmp_path / "run")
    book.intend(POD)
    book.made(POD, "uid-1")
    book.undone(POD)
    (gone,) = book.gone
    book.again(gone)
    book.close()

    assert (book.gone, book.records) == ((), (gone,))
    assert replay(tmp_path / "run").records == {"1": gone}


def test_what_is_spared_depends_on_the_end(tmp_path: Path) -> None:
    """`--keep-on-failure`: a run that crashed did not pass; what stays by decision stays."""
    book = Journal(tmp_path / "run")
    spared = msgspec.structs.replace(POD, spare=True)
    book.intend(spared)
    assert replay(tmp_path / "run").doomed == ()
    book.end("success", 5)
    assert replay(tmp_path / "run").doomed == (spared,)
    book.kept(spared)
    assert replay(tmp_path / "run").doomed == ()
    book.close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_torn_last_line_is_passed_over(tmp_path: Path, cut: int) -> None:
    """A crash in the middle of a line loses that line alone, and whoever goes on writes on a line of its own."""
    book = Journal(tmp_path / "run")
    for record in (POD, SERVICE):
        book.intend(record)
    book.close()
    file = tmp_path / "run/journal.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])

    past = replay(tmp_path / "run")
    again = Journal.resume(tmp_path / "run")
    assert again is not None
    again.undone(POD)
    again.close()

    assert [record.kind for record in past.records.values()] == ["Pod"] + ["Service"] * (cut == 1)
    assert past.torn == (cut > 1)
    assert "1" not in replay(tmp_path / "run").records


def test_full_disk_forbids_to_make_anything(tmp_path: Path) -> None:
    """An intent that is not on the disk is an error; what follows a mutation may be missing."""
    book = Journal(tmp_path / "run")
    book.intend(POD)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, book._file)
    os.close(full)

    with pytest.raises(StepFailed) as caught:
        book.intend(SERVICE)
    assert caught.value.message == (
        f"service/a is not made, because the journal {tmp_path}/run/journal.jsonl cannot be written: "
        "No space left on device"
    )
    assert "free some space, or name another folder with --state-dir" in caught.value.hint
    assert book.records == (POD,)
    book.made(POD, "uid-1")
    book.undone(POD)
    book.close()


def test_nothing_is_written_before_somebody_stands_guard(tmp_path: Path) -> None:
    """The guard is asked before the line is there; an object is not intended when it refuses."""
    asked: list[tuple[bool, str]] = []

    def guard(must_stand: bool) -> None:
        asked.append((must_stand, (tmp_path / "run/journal.jsonl").read_text()))
        if must_stand:
            raise StepFailed("no watchdog")

    book = Journal(tmp_path / "run", guard)
    mark = book.spawning("kubectl")
    with pytest.raises(StepFailed):
        book.intend(POD)

    assert [must for must, _ in asked] == [False, True]
    assert asked[0][1] == ""
    assert [list(line) for line in lines(tmp_path / "run")] == [["child"]]
    assert (mark, book.records) == ("run/1", ())
    book.close()


def test_a_run_is_alive_as_long_as_its_process(tmp_path: Path) -> None:
    """By a lock that the kernel lets go of, not by a process number; nobody else can undo it meanwhile."""
    script = (
        "import sys, pathlib\n"
        "from runner.journal import Journal\n"
        "book = Journal(pathlib.Path(sys.argv[1]))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "run")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        assert is_alive(tmp_path / "run")
        assert Journal.resume(tmp_path / "run") is None
        child.kill()
    assert not is_alive(tmp_path / "run")
    again = Journal.resume(tmp_path / "run")
    assert again is not None
    assert is_alive(tmp_path / "run")
    again.close()
    assert not is_alive(tmp_path / "no-run")


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot be written refuses the run before anything is made."""
    monkeypatch.setattr(os, "open", _refuse)
    with pytest.raises(CannotStart, match="cannot be written: Read-only file system"):
        Journal(tmp_path / "run")


def _refuse(*_: object) -> int:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_what_a_run_began_to_remove_is_not_spared(tmp_path: Path) -> None:
    """`keep: on_failure`, all steps passed, and then the cleanup failed: what is left must go, and is not kept."""
    spared = msgspec.structs.replace(POD, spare=True)
    book = Journal(tmp_path / "run")
    book.intend(spared)
    book.condemned(spared)
    book.end("failure", 5, handover=True)
    book.close()

    assert replay(tmp_path / "run").doomed == (spared,)


def test_a_look_at_a_new_run_does_not_keep_it_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks whether it is alive holds its lock for a moment."""
    looking: list[int] = []
    make = journal._open

    def open_and_look(folder: Path) -> int:
        file = make(folder)
        looking.append(os.open(folder / journal.NAME, os.O_RDONLY))
        fcntl.flock(looking[0], fcntl.LOCK_SH)
        return file

    def leave(_: float) -> None:
        os.close(looking.pop())

    monkeypatch.setattr(journal, "_open", open_and_look)
    monkeypatch.setattr(time, "sleep", leave)
    journal.Journal(tmp_path / "run").close()
    assert not looking


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("read its logs; kubectl logs pod/a", "read its logs; kubectl --context=prod logs pod/a"),
        (
            "kubectl get a | xargs -n1 kubectl delete",
            "kubectl --context=prod get a | xargs -n1 kubectl --context=prod delete",
        ),
        ("update it: kubectl version --client", "update it: kubectl version --client"),
        ("kubectl port-forward is not allowed", "kubectl port-forward is not allowed"),
    ],
)
def test_lines_to_type_mean_the_cluster_of_the_run(hint: str, told: str) -> None:
    """Where it was named; otherwise it is the one that kubectl takes by itself."""
    assert journal.Place(engine="kubectl", context="prod", named=True).told(hint) == told
    assert journal.Place(engine="kubectl", context="prod").told(hint) == hint
