"""Which failures of an API server heal by asking again, when to ask, and what is said about it meanwhile."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from runner.cluster.http import ApiError, Unreachable
from runner.deadline import FOREVER, Deadline
from runner.errors import Expired, StepFailed, TimedOut

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0
ANSWER_SECONDS: Final = 5.0
"""How long the first attempt waits for bytes of an answer; each next one twice as long."""
LONGEST_ANSWER: Final = 30.0
_DOUBLINGS: Final = 8
BOUNDED_ATTEMPTS: Final = 6
"""Attempts of a failure that rarely heals: about 1.5 s in all."""
_QUIET_SECONDS: Final = 10.0
"""The same trouble is a warning once in this time; between, it is told with -v only."""
_PERMANENT: Final = re.compile(r"x509: |tls: |getting credentials")
"""Words of kubectl proxy after which another try is pointless."""
_NOBODY: Final = re.compile(r"connection refused|no such host|no route to host")
STABLE_SECONDS: Final = 1.0
"""A watch that lived this long was good."""
NAMEABLE_SECONDS: Final = 1.0
"""A request that was on its way this long when the time was over is the reason why."""

_Answer = TypeVar("_Answer")


class Backoff:
    """Pauses between attempts: each twice the last one, shortened at random, so that many do not come at once."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    def next(self) -> float:
        """Seconds to wait now."""
        pause, self._pause = self._pause, min(LONGEST_PAUSE, self._pause * 2)
        return pause * random.uniform(0.75, 1.0)  # noqa: S311 - it spreads load and hides nothing

    def reset(self) -> None:
        """It works again."""
        self._pause = FIRST_PAUSE


@dataclass(frozen=True, slots=True)
class Rule:
    """Why a failure is worth another attempt: the name that the log shows, and how many in all (0: no limit)."""

    name: str
    attempts: int = 0


_BY_STATUS: Final = {
    410: Rule("expired version"),
    429: Rule("too many requests"),
    500: Rule("internal error", BOUNDED_ATTEMPTS),
    503: Rule("unavailable"),
    504: Rule("timeout in the server"),
}


def rule_of(error: ApiError | Unreachable, *, known: bool = True) -> Rule | None:
    """The rule by which to ask again; None for what does not heal (401, 403, 404, 422, a bad certificate, …).

    A server that is not `known`, because it never answered, is not about to come back when nobody listens there.
    """
    if isinstance(error, Unreachable):
        return Rule(error.reason, BOUNDED_ATTEMPTS if error.reason == "unreadable answer" else 0)
    if error.of_gateway:
        hopeless = _PERMANENT.search(error.message) or (not known and _NOBODY.search(error.message))
        return None if hopeless else Rule("bad gateway")
    return _BY_STATUS.get(error.status)


class Report(Protocol):
    """Where news go: `Events.emit`."""

    def __call__(self, phrase: str, /, *, level: str = "", **fields: Any) -> None: ...


def quiet(phrase: str, /, *, level: str = "", **fields: Any) -> None:
    """Where nobody listens."""


class Unanswered(TimedOut):
    """The deadline came while the API server did not answer, or only with failures; `why` is the last one's words."""

    def __init__(self, message: str, verdict: StepFailed, why: str) -> None:
        super().__init__(f"{message}: {verdict.message}", hint=verdict.hint, reason=verdict.reason)
        self.why = why


class Patience:
    """How to go on asking one API server: by the rules, with one voice for all threads."""

    def __init__(self, server: str, hint: str, report: Report) -> None:
        self.server = server
        self._hint = hint
        self.report = report
        self._lock = threading.Lock()
        self._warned: dict[str, float] = {}
        self.known = False
        """Whether it ever answered."""

    def ask(self, what: str, attempt: Callable[[float], _Answer], deadline: Deadline) -> _Answer:
        """The first answer that is not a failure that heals. `attempt` is given the seconds that its answer may take.

        Raises `ApiError` or `Unreachable` for what does not heal, `Unanswered` and `Cancelled` at the deadline.
        """
        attempts = self.attempts(what, deadline)
        while True:
            try:
                answer = attempt(attempts.begin())
            except (ApiError, Unreachable, Expired) as error:
                attempts.failed(error)
            else:
                self.known = True
                return answer

    def attempts(self, what: str, deadline: Deadline) -> Attempts:
        return Attempts(self, what, deadline)

    def verdict(self, error: ApiError | Unreachable) -> StepFailed:
        """Which server, what came of asking it, what to type."""
        answers = isinstance(error, ApiError) and not error.of_gateway and error.status
        words = f"answers {answers}" if answers else "does not answer"
        return StepFailed(
            f"the API server {self.server} {words}: {error.message}", hint=self._hint, reason="unreachable"
        )

    def tell(self, what: str, rule: Rule, error: ApiError | Unreachable, number: int, pause: float) -> None:
        """Log that something is asked again: aloud the first time, and every ten seconds while it lasts."""
        now = time.monotonic()
        with self._lock:
            aloud = rule.name != "expired version" and now - self._warned.get(rule.name, -FOREVER) > _QUIET_SECONDS
            if aloud:
                self._warned[rule.name] = now
        self.report(
            "request retried",
            level="warning" if aloud else "debug",
            request=what,
            rule=rule.name,
            reason=self.verdict(error).message,
            attempt=number,
            seconds=round(pause, 3),
        )


class Attempts:
    """The attempts of one request, or of one watch, in a row."""

    def __init__(self, patience: Patience, what: str, deadline: Deadline) -> None:
        self._patience = patience
        self._what = what
        self._deadline = deadline
        self._backoff = Backoff()
        self._number = 0
        self._began = 0.0
        self._answered = False
        self._last: ApiError | Unreachable | None = None

    def begin(self) -> float:
        """A new attempt; answers how many seconds it may wait for an answer."""
        self._number += 1
        self._began = time.monotonic()
        self._answered = False
        return min(LONGEST_ANSWER, ANSWER_SECONDS * 2.0 ** min(self._number - 1, _DOUBLINGS))

    def answered(self) -> None:
        """A watch is open: what is silent from now on is not the server."""
        self._answered = True
        self._last = None

    def failed(self, error: ApiError | Unreachable | Expired) -> None:
        """Wait before the next attempt. Raises the error when that is pointless; at the deadline an `Unanswered`."""
        if isinstance(error, Expired):
            raise self._out_of_time(error) from None
        self._forgive()
        if isinstance(error, ApiError) and not error.of_gateway:
            self._patience.known = True
        rule = rule_of(error, known=self._patience.known)
        if rule is None:
            raise error
        if rule.attempts and self._number >= rule.attempts:
            error.message += f" (asked {self._number} times)"
            raise error
        self._last = error
        pause = max(self._backoff.next(), error.retry_after if isinstance(error, ApiError) else 0.0)
        self._patience.tell(self._what, rule, error, self._number, pause)
        self._pause(pause)

    def ended(self) -> None:
        """A watch that the server closed in peace: wait before it is opened again, which costs little."""
        self._forgive()
        self._pause(self._backoff.next())

    def _forgive(self) -> None:
        """After a watch that lived for a while, a failure is the first of a new row."""
        if self._answered and time.monotonic() - self._began > STABLE_SECONDS:
            self._number = 1
            self._backoff.reset()

    def _pause(self, seconds: float) -> None:
        try:
            self._deadline.pause(seconds)
        except Expired as error:
            raise self._out_of_time(error) from None

    def _out_of_time(self, error: Expired) -> TimedOut:
        """The deadline's words, and what the server has to do with it, if it has."""
        took = time.monotonic() - self._began
        last = self._last
        if last is None and took > NAMEABLE_SECONDS and not self._answered:
            last = Unreachable(f"no answer within {took:.0f} s", reason="no answer")
        if last is None:
            return error
        return Unanswered(error.message, self._patience.verdict(last), last.message)
