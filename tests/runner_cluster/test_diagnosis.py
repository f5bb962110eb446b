"""What is shown of an object that is not as it should be: facts as data, and the same as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from runner.cluster import diagnosis
from runner.cluster.diagnosis import advice, diagnose, events_that_matter, text
from runner.cluster.http import ApiError
from runner.cluster.reasons import Trouble
from runner.deadline import Deadline

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())

NOT_THERE = 'Container image "no-such-image" is not present with pull policy of Never'


class Cluster:
    """Events and logs of the recording."""

    def __init__(self, log: dict[bool, str]) -> None:
        self.log = log
        self.asked: list[dict[str, list[str]]] = []
        self.api: Any = self

    def patiently(self, method: str, path: str, deadline: Deadline) -> Any:
        uid = parse_qs(urlsplit(path).query)["fieldSelector"][0].removeprefix("involvedObject.uid=")
        return {"items": [item for item in RECORDED["events"] if item["involvedObject"]["uid"] == uid]}

    def text(self, path: str, deadline: Deadline) -> str:
        query = parse_qs(urlsplit(path).query)
        self.asked.append(query)
        if ("previous" in query) not in self.log:
            raise ApiError(400, "BadRequest", "previous terminated container not found")
        return self.log["previous" in query]


def facts(name: str, blame: tuple[str, str] = ("", ""), **log: str) -> tuple[dict[str, Any], Cluster]:
    cluster: Any = Cluster({key == "previous": words for key, words in log.items()})
    with Deadline(5) as deadline:
        (found,) = diagnose(cluster, [RECORDED["objects"][name]], deadline, blame)
    return found, cluster


def test_facts_of_a_crash() -> None:
    """Exit code, restarts, deduplicated warnings without noise, and the log of the life that crashed."""
    found, cluster = facts("pod/crash", ("pod/crash", "app"), current="hello\nno database\n")
    (container,) = found["containers"]

    assert (found["object"], found["namespace"], found["state"]) == ("pod/crash", "demo", "Running")
    assert [(event["reason"], event["count"] > 1) for event in found["events"]] == [("BackOff", True)]
    assert (container["exit_code"], container["restarts"] > 1, container["log"]) == (1, True, ["hello", "no database"])
    assert container["log_of_previous"]
    assert cluster.asked[0]["tailLines"] == ["20"]
    lines = text([found]).splitlines()
    assert lines[0] == "pod/crash in namespace demo"
    assert lines[-3:] == ["  last log lines of container app before it crashed:", "    hello", "    no database"]
    assert json.loads(json.dumps(found)) == found


def test_log_that_kubelet_has_removed() -> None:
    """Its apology is no log; the other life is asked for."""
    apology = "failed to try resolving symlinks in path: no such file"
    found, _ = facts("pod/crash", previous=apology, current="no database")
    assert found["containers"][0]["log"] == ["no database"]
    found, _ = facts("pod/crash", previous=apology, current=apology)
    assert found["containers"][0]["log"] == []
    assert "last log lines" not in text([found])


def test_log_between_two_lives_of_a_container() -> None:
    """For a moment kubelet has neither log: it is asked again."""
    cluster: Any = Cluster({})
    asked = cluster.text

    def text_later(path: str, deadline: Deadline) -> str:
        if len(cluster.asked) == 4:
            cluster.log = {True: "no database"}
        return str(asked(path, deadline))

    cluster.text = text_later
    with Deadline(5) as deadline:
        (found,) = diagnose(cluster, [RECORDED["objects"]["pod/crash"]], deadline, ("pod/crash", "app"))
    assert found["containers"][0]["log"] == ["no database"]


def test_log_of_a_life_that_has_just_begun() -> None:
    """It is empty; what was said before the crash is in the other one."""
    found, _ = facts("pod/crash", previous="", current="no database")
    assert found["containers"][0]["log"] == ["no database"]
    found, cluster = facts("pod/crash", previous="", current="")
    assert (found["containers"][0]["log"], len(cluster.asked)) == ([], 2)


@pytest.mark.parametrize(
    ("reason", "hint"),
    [("CrashLoopBackOff", "read its last log lines below"), ("CreateContainerError", "see the events below")],
)
def test_advice_points_only_at_what_is_shown(reason: str, hint: str) -> None:
    found, _ = facts("pod/crash", previous="no database")
    trouble = Trouble(reason, RECORDED["objects"]["pod/crash"])
    assert advice(trouble, [found]) == hint
    assert advice(trouble, []) == ""
    assert advice(trouble, [{**found, "containers": [{"log": []}], "events": []}]) == ""


def test_only_the_log_of_the_container_to_blame() -> None:
    """An init container that fails; the others have nothing to say."""
    found, cluster = facts("pod/init", ("pod/init", "setup"), previous="cannot migrate", current="cannot migrate")

    assert [each["log"] for each in found["containers"]] == [["cannot migrate"], []]
    assert all(query["container"] == ["setup"] for query in cluster.asked)


def test_container_that_never_ran_has_no_log() -> None:
    """It is not asked for; no condition repeats what the containers say."""
    found, cluster = facts("pod/never")

    assert (cluster.asked, found["conditions"]) == ([], [])
    assert text([found]).splitlines() == [
        "pod/never in namespace demo",
        "  phase Pending",
        "  container app: waiting (ErrImageNeverPull), not ready, image no-such-image",
        f"  event ErrImageNeverPull: {NOT_THERE} (x{_count()})",
    ]


def _count() -> int:
    return next(int(item["count"]) for item in RECORDED["events"] if item["reason"] == "ErrImageNeverPull")


@pytest.mark.parametrize("kind", ["ReplicaSet", "DaemonSet", "Job"])
def test_warnings_that_differ_in_a_generated_name_are_one(kind: str) -> None:
    """A quota refuses a Pod of another name each time."""
    events = [
        item for item in RECORDED["events"] if item["involvedObject"]["kind"] == kind and "quota" in item["message"]
    ]
    (only,) = events_that_matter(events)

    assert len(events) > 1
    assert only["count"] == sum(item.get("count", 1) for item in events)
    assert (only["reason"], "exceeded quota" in only["message"]) == ("FailedCreate", True)


def test_warnings_that_differ_only_in_numbers_are_one() -> None:
    """The newest stands for all of them."""
    said = ["probe failed: dial tcp 10.1.2.3:80: refused", "probe failed: dial tcp 10.1.2.14:80: refused", "no route"]
    events = [
        {"type": "Warning", "reason": "Unhealthy", "message": message, "lastTimestamp": f"2026-01-01T00:00:0{second}Z"}
        for second, message in enumerate(said)
    ]
    found = events_that_matter(events)

    assert [(event["message"], event["count"]) for event in found] == [(said[1], 2), (said[2], 1)]


def test_pods_of_the_same_trouble_are_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Deployment whose Pods all crash; another one of them waits for its image."""
    crash, never = RECORDED["objects"]["pod/crash"], RECORDED["objects"]["pod/never"]
    pods = [
        {**pod, "metadata": {**pod["metadata"], "name": name, "uid": name}}
        for name, pod in {"a": crash, "b": crash, "c": never, "d": crash}.items()
    ]
    monkeypatch.setattr(diagnosis, "_pods_of", lambda *_: pods)
    cluster: Any = Cluster({True: "no database"})
    with Deadline(5) as deadline:
        found = list(diagnose(cluster, [RECORDED["objects"]["deployment/deadline"]], deadline, ("pod/b", "app")))

    assert [(each["object"], each["alike"]) for each in found[1:]] == [("pod/b", 2), ("pod/c", 0)]
    assert "pod/b in namespace demo\n  and 2 more Pods like it\n" in text(found)
    assert text(found).count("like it") == 1
