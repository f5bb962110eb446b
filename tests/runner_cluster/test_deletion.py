"""Deleting what is ours, on an API server with its objects in memory: whose it is, what goes with it, what holds it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from runner.cluster import deletion
from runner.cluster.deletion import await_all_gone, undo
from runner.cluster.dependents import family
from runner.cluster.protocol import Gone
from runner.cluster.resources import BUILTIN, Resource
from runner.deadline import Deadline
from runner.errors import TimedOut
from runner.journal import Dependent, Undo
from tests.runner_cluster import fake_api

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from tests.runner_cluster.conftest import FakeHand
    from tests.runner_cluster.fake_api import FakeApi


def resource(kind: str) -> Resource:
    return next(item for item in BUILTIN if item.kind == kind)


def record(kind: str, name: str, uid: str | None = None, namespace: str = "default") -> Undo:
    """The record of an object that the run `test` made; by default the one that the fake has."""
    found = resource(kind)
    place = namespace if found.namespaced else ""
    uid = f"uid of {name}" if uid is None else uid
    return Undo(
        id=f"test/{name}",
        engine="kubectl",
        api_version=found.group_version,
        kind=kind,
        name=name,
        namespace=place,
        uid=uid,
    )


def owned(api: FakeApi, plural: str, name: str, owner: str, **meta: Any) -> None:
    """An object that a controller made for another, as its garbage collector would delete it."""
    api.put(plural, name, metadata={"ownerReferences": [{"uid": f"uid of {owner}"}], **meta})


def collect_garbage(api: FakeApi) -> None:
    """Whenever an object goes, those that it owned go, too."""

    def forever() -> None:
        while not api.over.wait(0.005):
            there = {item["metadata"]["uid"] for item in list(api.objects.values())}
            for (plural, namespace, name), item in list(api.objects.items()):
                owners = item["metadata"].get("ownerReferences") or []
                if owners and not any(owner["uid"] in there for owner in owners):
                    api.remove(plural, name, namespace)

    threading.Thread(target=forever, daemon=True).start()


def undone(cluster: Kubectl, hand: FakeHand, *records: Undo, hurry: bool = False) -> list[Gone]:
    return list(undo(cluster, records, hand, hurry=hurry))


def test_family_is_followed_through_all_generations(api: FakeApi, cluster: Kubectl) -> None:
    """Also when an owner stands behind what it owns; objects of others are not in it."""
    live = api.put("deployments", "web")
    owned(api, "pods", "web-1-a", "web-1")
    owned(api, "replicasets", "web-1", "web")
    owned(api, "pods", "other", "another")
    api.put("pods", "alone")

    members = family(cluster, resource("Deployment"), live, Deadline(10))

    assert [str(member) for member in members] == ["deployment/web", "replicaset/web-1", "pod/web-1-a"]


def test_what_may_not_be_listed_is_left_to_the_garbage_collector(api: FakeApi, cluster: Kubectl) -> None:
    live = api.put("deployments", "web")
    owned(api, "replicasets", "web-1", "web")
    api.fault(fake_api.status(403, "Forbidden"), "GET .*/pods")

    members = family(cluster, resource("Deployment"), live, Deadline(10))

    assert [str(member) for member in members] == ["deployment/web", "replicaset/web-1"]


def test_undo_deletes_newest_first_with_the_uid_as_condition(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    for name in ("a", "b"):
        api.put("configmaps", name)

    gone = undone(cluster, hand, record("ConfigMap", "a"), record("ConfigMap", "b"))

    assert [(item.record.name, item.why, item.found) for item in gone] == [("b", "", True), ("a", "", True)]
    assert [(name, options["preconditions"]) for name, options in api.deletions] == [
        ("configmaps/b", {"uid": "uid of b"}),
        ("configmaps/a", {"uid": "uid of a"}),
    ]
    assert api.objects == {}


def test_dependents_are_waited_for(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    """An owner that is gone is not the end while its Pods are there."""
    collect_garbage(api)
    api.put("deployments", "web")
    owned(api, "replicasets", "web-1", "web")
    owned(api, "pods", "web-1-a", "web-1")

    (gone,) = undone(cluster, hand, record("Deployment", "web"))

    assert gone.why == ""
    assert api.objects == {}
    assert hand.waits == ["deployment/web to be gone", "replicaset/web-1 to be gone", "pod/web-1-a to be gone"]
    assert api.deletions[0][1]["propagationPolicy"] == "Foreground"


def test_object_of_another_under_the_same_name_stays(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    """Ours went, and somebody made one anew: it is not ours. Without a UID the label says whose it is."""
    api.put("configmaps", "new", metadata={"uid": "another"})
    api.put("configmaps", "foreign", metadata={"labels": {"runner/run-id": "other"}})
    api.put("configmaps", "half-made", metadata={"labels": {"runner/run-id": "test"}})

    gone = undone(
        cluster,
        hand,
        record("ConfigMap", "new"),
        record("ConfigMap", "half-made", uid=""),
    )

    assert {(item.record.name, item.why, item.replaced) for item in gone} == {
        ("new", "", True),
        ("half-made", "", False),
    }
    assert {key[2] for key in api.objects} == {"new", "foreign"}


def test_object_that_is_replaced_between_look_and_delete_stays(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    """The precondition of the delete says so: a conflict, which is no failure."""
    api.put("configmaps", "a")

    def replace(handler: Any) -> None:
        api.remove("configmaps", "a")
        api.put("configmaps", "a", metadata={"uid": "another"})
        handler.answer(409, {"reason": "Conflict", "message": "the UID does not match"})

    api.fault(replace, "^DELETE")

    assert [item.why for item in undone(cluster, hand, record("ConfigMap", "a"))] == [""]
    assert ("configmaps", "default", "a") in api.objects


@pytest.mark.parametrize(
    ("meta", "why"),
    [
        (
            {"finalizers": ["example.test/guard"]},
            "configmap/a still exists, held by its finalizers: example.test/guard",
        ),
        (
            {"finalizers": [], "deletionGracePeriodSeconds": 30},
            "configmap/a still exists, ending within its grace period of 30 s",
        ),
    ],
)
def test_what_keeps_an_object(api: FakeApi, cluster: Kubectl, hand: FakeHand, meta: dict[str, Any], why: str) -> None:
    api.put("configmaps", "a", metadata=meta)
    if not meta["finalizers"]:
        api.fault(fake_api.status(404), "^DELETE")
    hand.deadline = Deadline(0.5)
    assert [item.why for item in undone(cluster, hand, record("ConfigMap", "a"))] == [why]


def test_step_that_waits_in_vain_says_what_to_look_at(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    live = api.put("configmaps", "a")
    members = family(cluster, resource("ConfigMap"), live, Deadline(10))
    hand.deadline = Deadline(0.3)
    with pytest.raises(TimedOut) as caught:
        await_all_gone(cluster, members, hand)
    assert caught.value.message == "timed out after 0.3 s: configmap/a still exists, and is not being deleted"
    assert caught.value.hint == "kubectl get configmap/a --namespace=default -o yaml"


@pytest.mark.parametrize(("status", "hopeless"), [(403, True), (500, False)])
def test_refused_deletion(api: FakeApi, cluster: Kubectl, hand: FakeHand, status: int, hopeless: bool) -> None:
    """The reason is kept, and whether trying again can help; the others go."""
    for name in ("a", "b"):
        api.put("configmaps", name)
    api.fault(fake_api.status(status, "Why", "because"), "^DELETE .*/b", times=10)

    gone = {
        item.record.name: item for item in undone(cluster, hand, record("ConfigMap", "a"), record("ConfigMap", "b"))
    }

    assert gone["a"].why == ""
    assert gone["b"].why.startswith("because")
    assert gone["b"].hopeless is hopeless


def test_kind_that_is_gone_takes_its_objects_along(cluster: Kubectl, hand: FakeHand) -> None:
    """Its definition was deleted before."""
    gone = Undo(id="test/1", engine="kubectl", api_version="example.test/v1", kind="Widget", name="w", uid="1")
    assert [item.why for item in undone(cluster, hand, gone)] == [""]


def test_hurry_orphans_controllers_and_ends_pods(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    """Nobody makes Pods anew meanwhile; those that were made at the last moment go, too."""
    selector = {"matchLabels": {"app": "web"}}
    api.put("deployments", "web", spec={"selector": selector})
    owned(api, "replicasets", "web-1", "web", labels={"app": "web"})
    owned(api, "pods", "web-1-a", "web-1", labels={"app": "web"})

    def orphan(handler: Any) -> None:
        """The last Pod was made after the list was taken, and is orphaned with the others."""
        api.put("pods", "late", metadata={"labels": {"app": "web", "pod-template-hash": "1"}})
        api.remove("deployments", "web")
        handler.answer(200, {})

    api.fault(orphan, "^DELETE .*/deployments/web")

    (gone,) = undone(cluster, hand, record("Deployment", "web"), hurry=True)

    assert gone.why == ""
    assert api.objects == {}
    options = dict(api.deletions)
    assert options["replicasets/web-1"]["propagationPolicy"] == "Orphan"
    assert options["pods/web-1-a"]["gracePeriodSeconds"] == 1
    assert options["pods/late"]["gracePeriodSeconds"] == 1


def below(kind: str, name: str) -> Dependent:
    """A dependent as the journal has it."""
    return Dependent(
        api_version=resource(kind).group_version, kind=kind, name=name, namespace="default", uid=f"uid of {name}"
    )


@pytest.mark.parametrize("hurry", [False, True])
def test_dependents_are_written_down_before_their_owner_goes(
    api: FakeApi, cluster: Kubectl, hand: FakeHand, hurry: bool
) -> None:
    """Then nobody else knows them."""
    collect_garbage(api)
    api.put("deployments", "web")
    owned(api, "replicasets", "web-1", "web")
    owned(api, "pods", "web-1-a", "web-1")
    written: list[str] = []

    def note(handler: Any) -> None:
        written.extend(hand.written)
        handler.answer(*api.delete(("deployments", "default", "web"), None))

    api.fault(note, "^DELETE .*/deployments/web")
    undone(cluster, hand, record("Deployment", "web"), hurry=hurry)

    assert written == ["replicaset/web-1 of deployment/web", "pod/web-1-a of deployment/web"]


@pytest.mark.parametrize("hurry", [False, True])
def test_what_outlived_its_owner_goes_by_the_journal(
    api: FakeApi, cluster: Kubectl, hand: FakeHand, hurry: bool
) -> None:
    """The one who deleted the owner died before its Pods: they are orphans by now, and end. Namesakes stay."""
    api.put("replicasets", "web-1")
    api.put("pods", "web-1-a")
    api.put("pods", "web-1-b", metadata={"uid": "another"})
    known = tuple(below(*item) for item in (("ReplicaSet", "web-1"), ("Pod", "web-1-a"), ("Pod", "web-1-b")))
    left = msgspec.structs.replace(record("Deployment", "web"), dependents=known)

    (gone,) = undone(cluster, hand, left, hurry=hurry)

    assert (gone.why, gone.found) == ("", True)
    assert [name for _, _, name in api.objects] == ["web-1-b"]
    assert dict(api.deletions)["pods/web-1-a"].get("gracePeriodSeconds") == (1 if hurry else None)


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_what_is_named_is_what_is_still_there(api: FakeApi, cluster: Kubectl, hand: FakeHand, end: str) -> None:
    """Not the owner that is gone, but its Pod that ends slowly; an owner whose Pods are gone is gone."""
    hand.deadline = Deadline(None if end == "cancelled" else 1)
    api.put("deployments", "web")
    slow = {"ownerReferences": [{"uid": "uid of web"}], "finalizers": ["x"], "deletionGracePeriodSeconds": 30}
    for name in ("a", "b"):
        api.put("pods", name, metadata=slow)
    api.put("deployments", "other")

    def cancel() -> None:
        fake_api.await_true(lambda: "pod/a to be gone" in hand.waits)
        hand.deadline.cancel("SIGINT")

    if end == "cancelled":
        threading.Thread(target=cancel).start()
    gone = undone(cluster, hand, record("Deployment", "web"), record("Deployment", "other"), hurry=True)

    by_name = {item.record.name: item for item in gone}
    because = "; not waited for (SIGINT)" if end == "cancelled" else ""
    assert by_name["web"].why == (
        f"pod/a still exists, held by its finalizers: x; deployment/web, to which it belongs, is gone{because}"
    )
    assert [str(item) for item in by_name["web"].rest] == ["pod/a", "pod/b"]
    assert (by_name["other"].why, by_name["other"].rest) == ("", ())


def test_dependents_that_stay_after_their_owner(api: FakeApi, cluster: Kubectl) -> None:
    """The garbage collector gets the time that there is; what it does not take is told, with the reason."""
    owned(api, "pods", "late", "web")
    owned(api, "pods", "held", "web", deletionTimestamp="now", finalizers=["x"])
    threading.Timer(0.1, lambda: api.remove("pods", "late")).start()

    left, silent = deletion.what_outlived(cluster, [record("Deployment", "web")], Deadline(1))

    (gone,) = left
    assert (gone.record.name, [str(item) for item in gone.rest]) == ("web", ["pod/held"])
    assert gone.why == "pod/held still exists, held by its finalizers: x; deployment/web, to which it belongs, is gone"
    assert "kubectl patch pod/held --namespace=default" in gone.hint
    assert silent == []


def test_silent_server_is_not_waited_for_with_every_object(
    api: FakeApi, cluster: Kubectl, hand: FakeHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One patience for all of them, and the reason with each."""
    monkeypatch.setattr(deletion, "_SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(cluster.patience, "known", True)
    api.fault(fake_api.status(503, "", "starting"), times=100)

    gone = undone(cluster, hand, record("ConfigMap", "a"), record("ConfigMap", "b"))

    assert [item.record.name for item in gone] == ["b", "a"]
    assert {item.why for item in gone} == {
        "timed out after 0.3 s: the API server https://10.0.0.1:6443 answers 503: starting"
    }


FOREIGN = "batch.volcano.test/v1"


@pytest.fixture
def foreign_jobs(api: FakeApi) -> None:
    """A group of somebody else that has a kind Job, and one Job in it."""
    resource = {
        "resource": "jobs",
        "responseKind": {"kind": "Job"},
        "scope": "Namespaced",
        "verbs": ["get", "list", "delete"],
    }
    group = {"metadata": {"name": "batch.volcano.test"}, "versions": [{"version": "v1", "resources": [resource]}]}
    api.discovery["/apis"] = {"kind": "APIGroupDiscoveryList", "items": [group]}
    api.put("jobs", "w", spec={"selector": {"matchLabels": {"app": "w"}}})


@pytest.mark.parametrize("hurry", [False, True])
def test_kind_of_another_group_is_no_controller(
    api: FakeApi, cluster: Kubectl, hand: FakeHand, foreign_jobs: None, hurry: bool
) -> None:
    """A Job of another API group is deleted as every custom resource, never orphaned, and no Pods of others with it."""
    api.put("pods", "of-a-namesake", metadata={"labels": {"app": "w", "controller-uid": "1"}})
    ours = msgspec.structs.replace(record("Job", "w"), api_version=FOREIGN)

    (gone,) = undone(cluster, hand, ours, hurry=hurry)

    assert gone.why == ""
    ((name, options),) = api.deletions
    assert name == "jobs/w"
    assert "propagationPolicy" not in options
    assert api.asked(f"^DELETE /apis/{FOREIGN}/namespaces/default/jobs/w") == 1
    assert [name for _, _, name in api.objects] == ["of-a-namesake"]


def test_kind_of_another_group_may_own_anything(
    api: FakeApi, cluster: Kubectl, hand: FakeHand, foreign_jobs: None
) -> None:
    """Its dependents are not those of the Job of Kubernetes."""
    collect_garbage(api)
    owned(api, "jobs", "part", "w")

    undone(cluster, hand, msgspec.structs.replace(record("Job", "w"), api_version=FOREIGN))

    assert hand.written == ["job/part of job/w"]
    assert "job/part to be gone" in hand.waits


def test_definition_that_goes_while_its_object_is_waited_for(
    api: FakeApi, cluster: Kubectl, hand: FakeHand, foreign_jobs: None
) -> None:
    """After a signal both are deleted at once: what cannot be looked for any more is gone."""
    api.put("jobs", "w", metadata={"finalizers": ["x"]})
    api.fault(fake_api.plain(404, "404 page not found"), "GET .*/jobs.fieldSelector")
    deleted = threading.Event()

    def forget(handler: Any) -> None:
        deleted.set()
        api.remove("jobs", "w")
        handler.answer(200, {})

    api.fault(forget, "^DELETE .*/jobs/w")
    (gone,) = undone(cluster, hand, msgspec.structs.replace(record("Job", "w"), api_version=FOREIGN), hurry=True)

    assert (deleted.is_set(), gone.why, gone.found) == (True, "", True)


def test_signal_before_the_first_deletion(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    """It says what was not done, and not only the signal's name."""
    api.put("configmaps", "a")
    hand.deadline.cancel("SIGINT")
    assert [item.why for item in undone(cluster, hand, record("ConfigMap", "a"))] == [
        "its deletion was not reached before SIGINT"
    ]


def test_server_that_tells_no_version_is_there_all_the_same(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    """A refusal is an answer."""
    api.put("configmaps", "a")
    api.fault(fake_api.status(403, "Forbidden"), "/version")
    assert [item.why for item in undone(cluster, hand, record("ConfigMap", "a"))] == [""]


def test_faults_in_the_middle_are_survived(api: FakeApi, cluster: Kubectl, hand: FakeHand) -> None:
    """A delete that was cut is sent again: it has its precondition."""
    cluster.patience.known = True
    api.put("configmaps", "a")
    for fault in (fake_api.reset, fake_api.status(503), fake_api.status(429), fake_api.plain(500, "EOF")):
        api.fault(fault, "^DELETE")
    assert [item.why for item in undone(cluster, hand, record("ConfigMap", "a"))] == [""]
    assert api.objects == {}


@pytest.mark.parametrize("hurry", [False, True])
def test_claims_of_a_stateful_set_go_with_it(api: FakeApi, cluster: Kubectl, hand: FakeHand, hurry: bool) -> None:
    """Kubernetes leaves what it made by its templates; what was there before it stays, and what a person made."""
    then, before = {"creationTimestamp": "2026-01-02T00:00:00Z"}, {"creationTimestamp": "2026-01-01T00:00:00Z"}
    labels = {"app": "db"}
    templates = [{"metadata": {"name": "data"}}]
    api.put(
        "statefulsets", "db", metadata=then,
        spec={"volumeClaimTemplates": templates, "selector": {"matchLabels": labels}},
    )  # fmt: skip
    api.put("persistentvolumeclaims", "data-db-0", metadata={**then, "labels": labels})
    api.put("persistentvolumeclaims", "data-db-1", metadata={**before, "labels": labels})
    api.put("persistentvolumeclaims", "data-db-2", metadata=then)
    api.put("persistentvolumeclaims", "data-db-x", metadata={**then, "labels": labels})
    api.put("persistentvolumeclaims", "other-db-0", metadata={**then, "labels": labels})

    (gone,) = undone(cluster, hand, record("StatefulSet", "db"), hurry=hurry)

    assert gone.why == ""
    assert [name for _, _, name in api.objects] == ["data-db-1", "data-db-2", "data-db-x", "other-db-0"]


def test_what_keeps_an_object_is_told_while_it_is_waited_for(
    api: FakeApi, cluster: Kubectl, hand: FakeHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when the time is over."""
    monkeypatch.setattr(deletion, "_FIRST_NEWS", 0.1)
    api.put("configmaps", "a", metadata={"finalizers": ["example.com/hold"]})
    thread = threading.Thread(target=lambda: undone(cluster, hand, record("ConfigMap", "a")))
    thread.start()
    fake_api.await_true(lambda: "configmap/a to be gone, held by its finalizers: example.com/hold" in hand.waits)
    api.remove("configmaps", "a")
    thread.join(20)

    assert hand.waits[0] == "configmap/a to be gone"
