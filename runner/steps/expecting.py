"""What `verify` expects of an answer, and how it differs when it is not so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from runner.steps import matching
from runner.steps.kind import Match, seconds

if TYPE_CHECKING:
    from runner.steps.asking import Answer
    from runner.steps.verify import Args

Holds = Callable[[Mapping[str, Any]], Any]
"""Evaluates `that` over a response."""


class Try(msgspec.Struct, frozen=True):
    """What came of asking once: what is wrong with it (nothing: it is as expected), and whether it was sent at all;
    `mute`: the other end hung up without a word.
    """

    wrong: tuple[str, ...]
    answer: Answer | None = None
    sent: bool = True
    mute: bool = False


def response(answer: Answer) -> dict[str, Any]:
    """An answer as `response` in expressions, and as outputs."""
    return {
        "status": answer.status,
        "headers": dict(answer.headers),
        "body": answer.body,
        "json": matching.parsed(answer.body),
        "elapsed": answer.elapsed,
    }


def differences(args: Args, answer: Answer, holds: Holds) -> tuple[str, ...]:
    """One entry for each way in which the answer is not as expected; of TCP only the time counts."""
    if args.tcp:
        return tuple(_late(args, answer))
    return (
        *_status(args, answer),
        *_headers(args, answer),
        *matching.differences(args, answer.body),
        *_unheld(args, answer, holds),
        *_late(args, answer),
    )


def _status(args: Args, answer: Answer) -> Iterator[str]:
    wanted = args.status if isinstance(args.status, tuple) else (args.status,)
    got = str(answer.status)
    if not any(got == str(one) or (str(one).endswith("xx") and got[0] == str(one)[0]) for one in wanted):
        yield f"expected status {' or '.join(map(str, wanted))}, got {got} {answer.reason}".rstrip()


def _headers(args: Args, answer: Answer) -> Iterator[str]:
    for name, wanted in args.headers.items():
        value = answer.headers.get(name.lower())
        if value is None:
            yield f"header {name}: expected {f'{wanted!r}' if isinstance(wanted, str) else 'one'}, there is none"
            continue
        match = Match(equals=wanted) if isinstance(wanted, str) else wanted
        yield from (f"header {name}: {difference}" for difference in matching.differences(match, value))


def _unheld(args: Args, answer: Answer, holds: Holds) -> Iterator[str]:
    if not args.that:
        return
    from runner.expressions import EvaluationError

    try:
        if holds(response(answer)) is not True:
            yield f"expected that {args.that}"
    except EvaluationError as error:
        yield f"expected that {args.that}, but {error.message}"


def _late(args: Args, answer: Answer) -> Iterator[str]:
    if args.max_elapsed and answer.elapsed > seconds(args.max_elapsed):
        yield f"expected an answer within {args.max_elapsed}, it took {answer.elapsed:.3f} s"
