"""Looking at a cluster while its API server, or the way to it, fails in every way that it can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from runner import shell
from runner.cluster import observer, patience, pulse
from runner.cluster.http import ApiError, Unreachable
from runner.cluster.patience import Patience, Unanswered
from runner.cluster.protocol import Ref, Selection
from runner.deadline import Deadline
from runner.errors import Cancelled, StepFailed
from tests.runner_cluster import fake_api
from tests.runner_cluster.fake_api import FakeApi
from tests.runner_cluster.test_discovery import widgets

if TYPE_CHECKING:
    from runner.cluster.kubectl import Kubectl
    from tests.runner_cluster.conftest import News

PODS = Selection("pod", selector="")
WATCH = r"watch=1"
NOT_WATCHED = (
    "ask for `get`, `list` and `watch` of pods (of an object that is named `get` suffices); "
    "what this account may do: kubectl auth can-i --list --namespace=default"
)


class Follower:
    """A watch in a thread of its own: what it saw last."""

    def __init__(self, cluster: Kubectl, selection: Selection = PODS) -> None:
        self.deadline = Deadline(20)
        self.names: list[list[str]] = []
        self.error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(cluster, selection), daemon=True)
        self._thread.start()

    def _run(self, cluster: Kubectl, selection: Selection) -> None:
        try:
            for objects in cluster.watch(selection, self.deadline):
                with self._changed:
                    self.names.append([f"{item['metadata']['name']}/{item['metadata']['uid']}" for item in objects])
                    self._changed.notify_all()
        except Cancelled:
            pass
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error
        with self._changed:
            self._changed.notify_all()

    def await_names(self, *names: str) -> None:
        """Wait until exactly these objects are there (`name/uid`)."""
        with self._changed:
            seen = self._changed.wait_for(lambda: self.names and self.names[-1] == list(names), 20)
        assert seen, (self.names, self.error)

    def end(self) -> None:
        self.deadline.cancel("the test is over")
        self._thread.join()


@pytest.fixture
def follow(cluster: Kubectl) -> Iterator[Callable[..., Follower]]:
    followers: list[Follower] = []

    def begin(selection: Selection = PODS) -> Follower:
        followers.append(Follower(cluster, selection))
        return followers[-1]

    yield begin
    for follower in followers:
        follower.end()


def test_all_objects_now_and_after_every_change(api: FakeApi, follow: Callable[..., Follower]) -> None:
    api.put("pods", "a")
    follower = follow()
    follower.await_names("a/uid of a")
    api.await_asked(WATCH)
    api.put("pods", "b")
    follower.await_names("a/uid of a", "b/uid of b")
    api.remove("pods", "a")
    follower.await_names("b/uid of b")
    assert api.asked("GET .*/pods$") == 1


@pytest.mark.parametrize(
    "loss",
    [
        fake_api.reset,
        fake_api.closed,
        fake_api.garbage,
        fake_api.status(429),
        fake_api.status(500),
        fake_api.plain(500, "error trying to reach service: dial tcp 10.0.0.1:6443: connect: connection refused"),
        fake_api.status(503),
        fake_api.event(type="BOOKMARK", object={"metadata": {"resourceVersion": "101"}}),
    ],
)
def test_watch_that_is_lost_goes_on_where_it_was(
    api: FakeApi, follow: Callable[..., Follower], loss: fake_api.Fault
) -> None:
    """What happened meanwhile is told by the history: no second list."""
    api.put("pods", "a")
    api.fault(loss, WATCH, times=3)
    follower = follow()
    follower.await_names("a/uid of a")
    api.remove("pods", "a")
    api.put("pods", "a", metadata={"uid": "another"})
    api.await_asked(WATCH, 4)
    follower.await_names("a/another")
    assert api.asked("GET .*/pods$") == 1


def test_watch_that_is_cut_in_the_middle_of_a_line(api: FakeApi, follow: Callable[..., Follower], news: News) -> None:
    api.put("pods", "a")
    follower = follow()
    follower.await_names("a/uid of a")
    api.await_asked(WATCH)
    api.put("pods", "b")
    follower.await_names("a/uid of a", "b/uid of b")
    api.cut_watches()
    api.remove("pods", "a")
    follower.await_names("b/uid of b")
    assert news.rules == ["connection cut"]


@pytest.mark.parametrize(
    "gone",
    [
        fake_api.status(410, "Expired", "too old resource version"),
        fake_api.event(type="ERROR", object={"code": 410, "reason": "Expired", "message": "too old"}),
        fake_api.status(504, "Timeout", "Too large resource version: 900, current: 7"),
    ],
)
def test_history_that_is_gone_is_replaced_by_a_new_list(
    api: FakeApi, follow: Callable[..., Follower], gone: fake_api.Fault
) -> None:
    """An object that was deleted, and one that was made again under its name, while nobody looked."""

    def lose(handler: Any) -> None:
        api.remove("pods", "a")
        api.remove("pods", "b")
        api.put("pods", "b", metadata={"uid": "second"})
        api.forget()
        gone(handler)

    api.put("pods", "a")
    api.put("pods", "b")
    api.fault(lose, WATCH)
    follow().await_names("b/second")
    assert api.asked("GET .*/pods$") == 2


def test_bookmarks_carry_a_watch_over_a_lost_history(api: FakeApi, follow: Callable[..., Follower]) -> None:
    """A quiet watch knows a newer version than that of its last object."""
    api.put("pods", "a")
    follower = follow()
    follower.await_names("a/uid of a")
    api.await_asked(WATCH)
    api.put("secrets", "other")  # the fake sends a bookmark
    fake_api.await_true(lambda: api.sent == 1)
    api.forget()
    api.cut_watches()
    api.await_asked(WATCH, 2)
    api.put("pods", "b")
    follower.await_names("a/uid of a", "b/uid of b")
    assert api.asked("GET .*/pods$") == 1


@pytest.mark.parametrize(
    "fault",
    [
        fake_api.closed,
        fake_api.status(410),
        fake_api.event(type="BOOKMARK", object={"metadata": {"resourceVersion": "101"}}),
    ],
)
def test_nothing_is_asked_in_a_loop(
    api: FakeApi, follow: Callable[..., Follower], fault: fake_api.Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that ends at once each time: pauses grow to two seconds."""
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.05)
    api.fault(fault, WATCH, times=1000)
    follow()
    api.await_asked(WATCH, 5)
    moments = [moment for moment, _, path in api.requests if "watch=1" in path]
    for number, (before, after) in enumerate(pairwise(moments)):
        assert after - before >= 0.05 * 2**number * 0.75  # shortened by a quarter at most


def test_watch_closed_now_and_then_is_opened_again_at_once(
    api: FakeApi, follow: Callable[..., Follower], news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lived for a while is no failure, however often it happens."""
    monkeypatch.setattr(patience, "STABLE_SECONDS", 0.05)
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.15)

    def close_later(handler: Any) -> None:
        handler.close_connection = True
        handler.begin_stream()
        time.sleep(0.1)
        handler.wfile.write(b"0\r\n\r\n")

    pauses: list[float] = []
    next_pause = patience.Backoff.next

    def remember(backoff: patience.Backoff) -> float:
        pauses.append(next_pause(backoff))
        return pauses[-1]

    monkeypatch.setattr(patience.Backoff, "next", remember)
    api.fault(close_later, WATCH, times=10)
    follow()
    api.await_asked(WATCH, 6)
    assert max(pauses, default=0) <= 0.15
    assert news.rules == []


def test_forbidden_watch_fails_at_once(api: FakeApi, follow: Callable[..., Follower]) -> None:
    api.fault(fake_api.status(403, "Forbidden", 'pods is forbidden: User "x" cannot watch'), WATCH)
    follower = follow()
    follower._thread.join(10)
    assert isinstance(follower.error, StepFailed)
    assert (follower.error.reason, follower.error.hint) == (
        "Forbidden",
        NOT_WATCHED,
    )
    assert api.asked(WATCH) == 1


def test_definition_that_goes_takes_its_objects_along(
    api: FakeApi, follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows the path no more; when it does again, the watch goes on."""
    monkeypatch.setattr(observer, "_VISIT_SECONDS", 0.02)
    api.discovery["/apis"] = widgets()
    api.put("widgets", "a")
    follower = follow(Selection("widget", selector=""))
    follower.await_names("a/uid of a")
    api.fault(fake_api.status(404, "NotFound", "404 page not found"), r"/widgets($|\?)", times=3)
    api.forget()
    api.cut_watches()
    follower.await_names()
    follower.await_names("a/uid of a")


def test_kind_of_every_cluster_that_is_not_found(api: FakeApi, follow: Callable[..., Follower]) -> None:
    """Then it is no API server that answers, or none that could ever be waited for."""
    api.fault(fake_api.status(404, "NotFound", "404 page not found"), r"/pods($|\?)", times=3)
    follower = follow()
    follower._thread.join(10)
    assert "404 page not found" in str(follower.error)


def test_silent_server_is_noticed_by_a_watch(
    api: FakeApi, cluster: Kubectl, news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch in which nothing can come any more: it is reported while the wait goes on, and named at its end."""
    monkeypatch.setattr(pulse, "EVERY_SECONDS", 0.1)
    monkeypatch.setattr(patience, "ANSWER_SECONDS", 0.1)
    cluster.pulse._every = 0.1
    api.fault(fake_api.opened_then_silent, WATCH)
    api.fault(fake_api.silent, "", times=1000)
    api._faults.insert(
        0, ("/pods$", lambda handler: handler.answer(200, {"metadata": {"resourceVersion": "1"}, "items": []}))
    )
    with pytest.raises(Unanswered) as caught:
        list(cluster.watch(PODS, Deadline(1.0)))
    assert news.rules[0] == "no answer"
    assert news.events[0][1]["level"] == "warning"
    assert caught.value.message.startswith(
        "timed out after 1 s: the API server https://10.0.0.1:6443 does not answer: no answer within"
    )
    assert "kubectl --context=dev get --raw=/readyz" in caught.value.hint


def test_silent_watches_share_one_probe(api: FakeApi, cluster: Kubectl, follow: Callable[..., Follower]) -> None:
    """Whether the server is there is asked once for all of them, and stops with the last one."""
    cluster.pulse._every = 0.1
    followers = [follow() for _ in range(5)]
    api.await_asked(WATCH, 5)
    before = api.asked("/version")
    api.await_asked("/version", before + 3)
    assert api.asked(WATCH) == 5
    took = [moment for moment, _, path in api.requests if path == "/version"]
    assert took[-1] - took[-3] > 0.15
    for follower in followers:
        follower.end()


def test_watch_without_bookmarks_is_opened_again(
    api: FakeApi, cluster: Kubectl, follow: Callable[..., Follower], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers, but this watch is dead: it is not trusted for ever."""
    monkeypatch.setattr(pulse, "OVERDUE_SECONDS", 0.2)
    cluster.pulse._every = 0.1
    api.put("pods", "a")
    api.fault(fake_api.opened_then_silent, WATCH)
    follower = follow()
    api.await_asked(WATCH)
    api.put("pods", "b")
    follower.await_names("a/uid of a", "b/uid of b")


# -- single requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (fake_api.reset, "connection cut"),
        (fake_api.garbage, "unreadable answer"),
        (fake_api.status(429), "too many requests"),
        (fake_api.status(500), "internal error"),
        (fake_api.plain(500, "connection refused"), "bad gateway"),
        (fake_api.status(503), "unavailable"),
        (fake_api.status(504), "timeout in the server"),
    ],
)
def test_what_heals_is_asked_again(
    api: FakeApi, cluster: Kubectl, news: News, fault: fake_api.Fault, rule: str
) -> None:
    """And the log says by which rule, loudly the first time."""
    api.put("pods", "a")
    cluster.patience.known = True
    api.fault(fault, times=3)
    live = cluster.get(Ref("pod", "a"), Deadline(20))
    assert live is not None
    assert live["metadata"]["name"] == "a"
    assert news.rules == [rule] * 3
    assert [fields["level"] for _, fields in news.events] == ["warning", "debug", "debug"]
    assert [fields["attempt"] for _, fields in news.events] == [1, 2, 3]


@pytest.mark.parametrize("status", [401, 403, 422, 405])
def test_what_does_not_heal_is_not(api: FakeApi, cluster: Kubectl, status: int) -> None:
    api.fault(fake_api.status(status, "Why", "because"))
    with pytest.raises(StepFailed) as caught:
        cluster.get(Ref("pod", "a"), Deadline(20))
    assert (caught.value.message, caught.value.reason) == ("pod/a: because", "Why")
    assert len(api.requests) == 1


def test_absent_object_is_an_answer(api: FakeApi, cluster: Kubectl) -> None:
    assert cluster.get(Ref("pod", "none"), Deadline(20)) is None
    assert len(api.requests) == 1


@pytest.mark.parametrize("fault", [fake_api.status(500, "InternalError", "broken"), fake_api.garbage])
def test_what_rarely_heals_is_asked_a_few_times(api: FakeApi, cluster: Kubectl, fault: fake_api.Fault) -> None:
    api.fault(fault, times=100)
    started = time.monotonic()
    with pytest.raises(StepFailed) as caught:
        cluster.get(Ref("pod", "a"), Deadline(60))
    assert caught.value.message.endswith(" (asked 6 times)")
    assert len(api.requests) == patience.BOUNDED_ATTEMPTS
    assert time.monotonic() - started < 15


def test_retry_after_is_honoured(api: FakeApi, cluster: Kubectl) -> None:
    """The server says when it wants to be asked again."""
    api.put("pods", "a")
    api.fault(fake_api.status(429, Retry_After="1"))
    cluster.get(Ref("pod", "a"), Deadline(20))
    (first, _, _), (second, _, _) = api.requests
    assert second - first >= 1


def test_bad_certificate_is_no_passing_fault(api: FakeApi, cluster: Kubectl) -> None:
    cluster.patience.known = True
    api.fault(fake_api.plain(500, "tls: failed to verify certificate: x509: certificate signed by unknown"))
    with pytest.raises(ApiError, match="x509"):
        cluster.nodes(Deadline(20))


def test_server_that_never_answered_is_not_waited_for(api: FakeApi, cluster: Kubectl) -> None:
    """A cluster that is not running is said at once; one that ran a moment ago may come back."""
    refused = fake_api.plain(500, "error trying to reach service: dial tcp: connect: connection refused")
    api.fault(refused)
    with pytest.raises(ApiError, match="connection refused"):
        cluster.nodes(Deadline(20))
    api.fault(fake_api.status(200))
    cluster.patiently("GET", "/version", Deadline(20))
    api.fault(refused, times=3)
    assert cluster.nodes(Deadline(20)) == []


def test_refusal_is_an_answer_too(api: FakeApi, cluster: Kubectl) -> None:
    """A server that refused something is known, and waited for when it restarts."""
    api.fault(fake_api.status(403, "Forbidden"))
    with pytest.raises(ApiError):
        cluster.nodes(Deadline(20))
    api.fault(fake_api.plain(500, "dial tcp: connect: connection refused"), times=3)
    assert cluster.nodes(Deadline(20)) == []


def test_attempts_are_never_too_many() -> None:
    """An hour of failures does not end in one of ours."""
    attempts = Patience("https://10.0.0.1:6443", "", patience.quiet).attempts("watch", Deadline(20))
    assert [attempts.begin() for _ in range(5000)][-1] == patience.LONGEST_ANSWER


def test_silence_ends_with_the_callers_deadline(
    api: FakeApi, cluster: Kubectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And names the server; a cancel is felt at once."""
    monkeypatch.setattr(patience, "ANSWER_SECONDS", 0.2)
    api.fault(fake_api.silent, times=100)
    with pytest.raises(Unanswered) as caught:
        cluster.get(Ref("pod", "a"), Deadline(1))
    assert "the API server https://10.0.0.1:6443 does not answer: no answer within" in caught.value.message
    deadline = Deadline(20)
    threading.Timer(0.2, deadline.cancel, ("SIGINT",)).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        cluster.expand(Selection("pod", selector="a=b"), deadline)
    assert time.monotonic() - started < 15


def test_slow_answers_are_given_more_time(api: FakeApi, cluster: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that is only slow is not asked in vain for ever."""
    monkeypatch.setattr(patience, "ANSWER_SECONDS", 0.05)

    def slowly(handler: Any) -> None:
        time.sleep(0.3)
        handler.answer(200, {"items": []})

    api.fault(slowly, times=4)
    assert cluster.nodes(Deadline(20)) == []


def test_trouble(api: FakeApi, cluster: Kubectl) -> None:
    """After a timeout: is it the server?"""
    assert cluster.trouble() is None
    api.fault(fake_api.status(503, "", "starting"))
    trouble = cluster.trouble()
    assert trouble is not None
    assert trouble.message == "the API server https://10.0.0.1:6443 answers 503: starting"


def test_proxy_that_dies_is_replaced_once_for_all(
    api: FakeApi, cluster: Kubectl, follow: Callable[..., Follower]
) -> None:
    """Threads that use it share the new one; nothing that happened meanwhile is missed."""
    api.put("pods", "a")
    followers = [follow() for _ in range(4)]
    for follower in followers:
        follower.await_names("a/uid of a")
    api.await_asked(WATCH, 4)
    (old,) = shell.alive()
    old.stop()
    api.cut_watches()
    api.put("pods", "b")
    for follower in followers:
        follower.await_names("a/uid of a", "b/uid of b")
    assert len(shell.alive()) == 1
    assert cluster._proxy._number == 2


def test_closed_cluster_answers_nobody(cluster: Kubectl) -> None:
    cluster.close()
    with pytest.raises((StepFailed, Unreachable, Exception), match="closed"):
        cluster.nodes(Deadline(5))


# -- few permissions --------------------------------------------------------------------------------------------------


def _may_only_get(api: FakeApi) -> None:
    """Lists and watches are refused, all of them."""
    api.fault(fake_api.status(403, "Forbidden", 'User "x" cannot list resource "pods"'), r"/pods\?", times=1000)


def test_who_may_only_get_looks_at_named_objects_one_by_one(
    api: FakeApi, cluster: Kubectl, news: News, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before they exist and after they are gone; said once, with the permissions that are missing."""
    monkeypatch.setattr(observer, "_VISIT_SECONDS", 0.02)
    _may_only_get(api)
    api.put("pods", "b")
    follower = Follower(cluster, Selection("pod", ("a", "b")))
    follower.await_names("b/uid of b")
    api.put("pods", "a")
    follower.await_names("a/uid of a", "b/uid of b")
    api.remove("pods", "b")
    follower.await_names("a/uid of a")
    follower.deadline.cancel("over")

    (warning,) = (fields for name, fields in news.events if name == "warning")
    assert warning["message"] == "this account may get pods, but not list and watch them: it looks once a second"
    assert "`list` and `watch` of pods" in warning["hint"]


def test_what_a_selector_means_cannot_be_seen_without_a_list(api: FakeApi, cluster: Kubectl) -> None:
    """The missing permissions are named."""
    _may_only_get(api)

    with pytest.raises(StepFailed, match="cannot list") as caught, Deadline(20) as deadline:
        next(iter(cluster.watch(Selection("pod", selector="app=web"), deadline)))
    assert caught.value.hint == NOT_WATCHED


def test_look_without_a_list(api: FakeApi, cluster: Kubectl) -> None:
    """The object is seen all the same; the version is not known then."""
    put = api.put("pods", "a")
    maps = cluster.discovery.of_word("pod", Deadline(20))
    with_list = cluster.look(maps, "default", "a", Deadline(20))
    _may_only_get(api)
    without = cluster.look(maps, "default", "a", Deadline(20))

    assert [seen and seen["metadata"]["uid"] for seen, _ in (with_list, without)] == ["uid of a"] * 2
    assert [version for _, version in (with_list, without)] == [put["metadata"]["resourceVersion"], ""]
