"""The API server by a kubectl process for each request: the same answers and the same errors as through a proxy."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from runner import shell
from runner.cluster.http import ApiError, Unreachable
from runner.cluster.raw import RawApi
from runner.deadline import Deadline
from runner.errors import Cancelled

if TYPE_CHECKING:
    from tests.conftest import FakeBin


def test_requests(fake_bin: FakeBin) -> None:
    """A GET is `kubectl get --raw`; what a DELETE says goes through standard input."""
    fake_bin.put("kubectl", 'if [ "$1" = delete ]; then cat; else echo \'{"a": true}\'; fi')
    api = RawApi({})
    assert api.get("/api/v1/nodes", Deadline(10)) == {"a": True}
    assert api.text("/log", Deadline(10)) == '{"a": true}\n'
    body = {"kind": "DeleteOptions", "preconditions": {"uid": "1"}}
    assert api.request("DELETE", "/api/v1/pods/a", Deadline(10), body) == body
    assert fake_bin.calls == [
        ["kubectl", "get", "--raw=/api/v1/nodes"],
        ["kubectl", "get", "--raw=/log"],
        ["kubectl", "delete", "--raw=/api/v1/pods/a", "--filename=-"],
    ]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ('Error from server (NotFound): pods "x" not found', 404, 'pods "x" not found'),
        ("Error from server (Conflict): the UID does not match", 409, "the UID does not match"),
        ("Error from server (Expired): too old resource version", 410, "too old resource version"),
        ("Error from server (TooManyRequests): later", 429, "later"),
        ("error: You must be logged in to the server (Unauthorized)", 401, "error: You must be logged in"),
        ("error: unknown flag: --raw", 400, "error: unknown flag"),
    ],
)
def test_answers_that_are_failures(fake_bin: FakeBin, words: str, status: int, message: str) -> None:
    fake_bin.put("kubectl", f"echo '{words}' >&2; exit 1")
    with pytest.raises(ApiError) as caught:
        RawApi({}).get("/", Deadline(10))
    assert caught.value.status == status
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            "The connection to the server h:1 was refused - did you specify the right host or port?",
            "connection refused",
        ),
        ("Unable to connect to the server: EOF", "connection cut"),
    ],
)
def test_no_answers(fake_bin: FakeBin, words: str, reason: str) -> None:
    fake_bin.put("kubectl", f"echo '{words}' >&2; exit 1")
    with pytest.raises(Unreachable) as caught:
        RawApi({}).get("/", Deadline(10))
    assert caught.value.reason == reason


NEW = """\
I0102 03:04:05.000001 7 round_trippers.go:632] "Response" status="%s" headers=<
	Cache-Control: no-cache, private
	Date: Fri, 02 Jan 2026 03:04:05 GMT
	X-Kubernetes-Pf-Flowschema-Uid: 8a1d
 > milliseconds=4
"""
OLD = """\
I0102 03:04:05.000001 7 round_trippers.go:577] Response Headers:
I0102 03:04:05.000001 7 round_trippers.go:580]     Content-Type: application/json
I0102 03:04:05.000001 7 round_trippers.go:580]     Date: Fri, 02 Jan 2026 03:04:05 GMT
"""


@pytest.mark.parametrize(
    ("log", "code"), [(NEW % "200 OK", 0), (NEW % "403 Forbidden" + "Error from server (Forbidden): no", 1), (OLD, 0)]
)
def test_clock(fake_bin: FakeBin, log: str, code: int) -> None:
    """That of the API server, from what kubectl's log says about its answer, whatever that was."""
    fake_bin.put("kubectl", f"echo '{{}}'; cat >&2 <<'END'\n{log}\nEND\nexit {code}")
    assert RawApi({}).time(Deadline(10)) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert fake_bin.calls == [["kubectl", "get", "--raw=/version", "-v=8"]]


def test_no_clock(fake_bin: FakeBin) -> None:
    """No answer, or one without its time."""
    refused = "The connection to the server h:1 was refused - did you specify the right host or port?"
    noise = 'I0102 03:04:05.000001 7 round_trippers.go:632] "Response" status="" headers="" milliseconds=0'
    fake_bin.put("kubectl", f"printf '%s\\n' '{noise}' '{refused}' >&2; exit 1")
    with pytest.raises(Unreachable) as caught:
        RawApi({}).time(Deadline(10))
    assert (caught.value.message, caught.value.reason) == (refused, "connection refused")
    fake_bin.put("kubectl", "echo '{}'")
    with pytest.raises(Unreachable, match="`kubectl get --raw=/version -v=8` does not show when"):
        RawApi({}).time(Deadline(10))


def test_silence(fake_bin: FakeBin) -> None:
    fake_bin.put("kubectl", "exec sleep 60")
    with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
        RawApi({}).request("GET", "/", Deadline(10), within=0.1)
    assert shell.alive() == ()


def test_watch(fake_bin: FakeBin) -> None:
    """Lines as they come; its end and its failure are those of the process."""
    fake_bin.put("kubectl", "echo '{\"n\": 1}'; echo '{\"n\": 2}'; exit $CODE")
    assert list(RawApi({"CODE": "0"}).stream("/", Deadline(10))) == [{"n": 1}, {"n": 2}]
    events = RawApi({"CODE": "1"}).stream("/", Deadline(10))
    assert [next(events), next(events)] == [{"n": 1}, {"n": 2}]
    with pytest.raises(ApiError):
        next(events)


def test_watch_ends_with_the_deadline(fake_bin: FakeBin) -> None:
    """At once, and its process with it."""
    fake_bin.put("kubectl", "echo '{}'; exec sleep 60")
    deadline = Deadline(20)
    events = RawApi({}).stream("/", deadline)
    assert next(events) == {}
    threading.Timer(0.1, deadline.cancel, ("SIGINT",)).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        next(events)
    assert time.monotonic() - started < 15
    assert shell.alive() == ()
