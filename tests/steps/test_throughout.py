"""`verify` that asks more than once: in a row, for a time, while steps run; what it counts and what it says."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runner.errors import Cancelled, StepFailed, TimedOut
from runner.steps import throughout
from tests.steps.servers import FakeContext, Handler, hello, serving
from tests.steps.servers import verified as run


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeContext:
    monkeypatch.setattr(throughout, "PAUSE", 0.005)
    return FakeContext(tmp_path)


class Moody:
    """Answers well, or with 503 while `broken` is set; `asked` waits for so many more asks."""

    def __init__(self) -> None:
        self.broken = threading.Event()
        self._asks = threading.Semaphore(0)

    def __call__(self, handler: Handler) -> None:
        if self.broken.is_set():
            handler.say(503)
        else:
            hello(handler)
        self._asks.release()

    def asked(self, times: int) -> None:
        for _ in range(times):
            assert self._asks.acquire(timeout=20)


def test_consecutive(context: FakeContext) -> None:
    """A bad answer begins the row anew."""
    statuses = iter([503, 200, 500, 200, 200, 200])
    with serving(lambda handler: handler.say(next(statuses))) as server:
        assert run(context, url=server.url, consecutive=3)["attempts"] == 6


def test_consecutive_without_end(tmp_path: Path) -> None:
    """The failure says how far it came."""
    count = iter(range(10000))
    moody = serving(lambda handler: handler.say(200 if next(count) % 2 else 503))
    with moody as server, pytest.raises(TimedOut) as caught:
        run(FakeContext(tmp_path, 0.3), url=server.url, consecutive=2)

    assert "asked " in caught.value.message
    assert "503" in caught.value.details


@pytest.mark.parametrize("attempts", [1, 3])
def test_retry_counts_the_asks(context: FakeContext, attempts: int) -> None:
    """`retry: 1` asks once."""
    context.attempts = attempts
    broken = serving(lambda handler: handler.say(500))
    with broken as server, pytest.raises(StepFailed, match="expected status 2xx, got 500") as caught:
        run(context, url=server.url)

    assert len(server.asked) == attempts
    assert not isinstance(caught.value, TimedOut)


def test_for_a_time(context: FakeContext) -> None:
    """It goes on asking, and tells the report how often and how long the longest gap was."""
    with serving(hello) as server:
        outputs = run(context, url=server.url, throughout="100ms")

    assert outputs["status"] == 200
    assert outputs["attempts"] == len(server.asked) > 2
    (line,) = context.shown
    assert f"asked {outputs['attempts'] - 1} times" in line
    assert "all as expected" in line


def test_for_a_time_ends_with_the_first_failure_too_many(context: FakeContext) -> None:
    """Nothing is waited for in vain; the first failure is shown in full."""
    moody = Moody()

    def break_it() -> None:
        moody.asked(3)
        moody.broken.set()

    with serving(moody) as server:
        threading.Thread(target=break_it, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(StepFailed) as caught:
            run(context, url=server.url, throughout="9s")

    assert time.monotonic() - started < 8
    assert not isinstance(caught.value, TimedOut)
    assert "of them failed" in caught.value.message
    assert "without a good answer at the longest, from " in caught.value.message
    assert "× expected status 2xx, got 503 Service Unavailable" in caught.value.details


def test_while_steps_run(context: FakeContext) -> None:
    """It asks all the time, and once more when they are over."""
    moody = Moody()
    context.nested = lambda: moody.asked(5)
    with serving(moody) as server:
        outputs = run(context, url=server.url, throughout=[{"run": "true"}])

    assert outputs["attempts"] == len(server.asked) >= 6


def test_failures_while_steps_run_are_told_after_them(context: FakeContext) -> None:
    """The steps run to their end, so that the gap is known as a whole."""
    moody, ended = Moody(), []

    def steps() -> None:
        moody.asked(3)
        moody.broken.set()
        moody.asked(4)
        moody.broken.clear()
        moody.asked(3)
        ended.append(True)

    context.nested = steps
    with serving(moody) as server, pytest.raises(StepFailed) as caught:
        run(context, url=server.url, throughout=[{"run": "true"}], max_failures=2)

    assert ended
    assert caught.value.reason == "verify"


def test_some_failures_may_be(context: FakeContext) -> None:
    """Up to `max_failures`; they are told in any case."""
    answers = iter([200, 503, 503])
    with serving(lambda handler: handler.say(next(answers, 200))) as server:
        run(context, url=server.url, throughout="60ms", max_failures=2)

    assert "2 of them failed" in context.shown[0]


def test_state_at_the_end_counts(context: FakeContext) -> None:
    """An ask begins after the steps: what they broke last is seen."""
    moody = Moody()
    context.nested = moody.broken.set
    with serving(moody) as server, pytest.raises(StepFailed, match="failed"):
        run(context, url=server.url, throughout=[{"run": "true"}])


def test_failing_step_ends_the_asking(context: FakeContext) -> None:
    """Its message stands, and the record of the asking with it."""

    def steps() -> None:
        raise StepFailed("the step inside failed", reason="nested")

    context.nested = steps
    with serving(hello) as server, pytest.raises(StepFailed, match="the step inside failed") as caught:
        run(context, url=server.url, throughout=[{"run": "true"}])

    assert caught.value.details.startswith("asked ")
    assert not [thread for thread in threading.enumerate() if thread.name == "asking"]


def test_signal_ends_the_asking(context: FakeContext) -> None:
    """Also in the middle of an ask that hangs."""
    hangs, over = threading.Event(), threading.Event()
    first = iter([hello])

    def hang(handler: Handler) -> None:
        hangs.set()
        over.wait(20)

    def answer(handler: Handler) -> None:
        next(first, hang)(handler)

    def interrupt() -> None:
        hangs.wait(20)
        context.deadline.cancel("SIGINT")

    with serving(answer) as server:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(Cancelled):
            run(context, url=server.url, throughout="9s", request={"timeout": "9s"})
        over.set()


def test_bug_in_the_asking_is_not_lost(context: FakeContext) -> None:
    """It is raised where the step runs."""
    calls: list[Any] = []

    def broken(**variables: Any) -> bool:
        calls.append(variables)
        if len(calls) > 1:
            raise ZeroDivisionError
        return True

    context.evaluate = lambda key, **variables: broken(**variables)  # type: ignore[method-assign]
    with serving(hello) as server, pytest.raises(ZeroDivisionError):
        run(context, url=server.url, that="true", throughout="9s")
