"""The journal: on disk before the mutation, readable by whoever must undo it."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner import journal
from runner.errors import CannotStart, ExitCode
from runner.journal import Journal, Undo, unfinished

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
    assert caught.value.hint == "set XDG_STATE_HOME to a folder that can be written"
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
    """It is kept, however old; one without a journal, or with everything undone, is not needed."""
    record = Undo(id="r/1", engine="kubectl", api_version="v1", kind="Pod", name="a")
    journal = Journal(tmp_path / "run")
    assert not unfinished(tmp_path / "none")
    assert not unfinished(tmp_path / "run")
    journal.intend(record)
    assert unfinished(tmp_path / "run")
    journal.undone(record)
    assert not unfinished(tmp_path / "run")
    journal.close()
    (tmp_path / "run/journal.jsonl").write_text('{"undo": {"id"')
    assert unfinished(tmp_path / "run")
