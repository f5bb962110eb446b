"""How long a kubectl command is tried again: by the table of its complaints, within the step's deadline."""

from __future__ import annotations

import random
import time
from typing import Final

import msgspec

from runner.cluster import kubectl_errors
from runner.cluster.kubectl_errors import Finding
from runner.cluster.protocol import Hand
from runner.errors import CommandResult, Expired, StepFailed, TimedOut

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_GROWTH: Final = 1.6
_SILENT: Final = "kubectl had not ended"
_WHO_IS_SILENT: Final = f"does an admission webhook hang? {kubectl_errors.WEBHOOKS}"


class Insistence:
    """The attempts of one step at one command: asked after each failure, it returns in time for the next attempt."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._since: dict[str, float] = {}
        self._attempts = 0
        self._last: Finding | None = None
        self._result: CommandResult | None = None

    @property
    def failed(self) -> bool:
        """Whether an attempt has failed."""
        return self._last is not None

    def after(self, error: StepFailed) -> None:
        """Pause before the next attempt; or raise what the step fails by, when another attempt is of no use."""
        if isinstance(error, TimedOut):
            raise self.late(error) from None
        result = error.result
        finding = kubectl_errors.classify(result.stderr) if result else None
        if result is None or finding is None:
            raise plain(error) from None
        began = self._since.setdefault(finding.rule.name, time.monotonic())
        hopeless = finding.rule.patience is not None and time.monotonic() - began > finding.rule.patience
        if finding.rule.kind == "permanent" or hopeless:
            raise explained(finding, result) from None
        self._last, self._result = finding, result
        self._retry(finding)

    def pause(self) -> float:
        """Wait before the next look; answers for how long. Raises the deadline's exceptions."""
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * _GROWTH**self._attempts) * random.uniform(0.75, 1.25)  # noqa: S311
        self._attempts += 1
        self._hand.deadline.pause(pause)
        return pause

    def _retry(self, finding: Finding) -> None:
        self._hand.emit(
            "command retried",
            attempt=self._attempts + 1,
            why=finding.sentence,
            rule=finding.rule.name,
            nature=finding.rule.kind,
        )
        try:
            self.pause()
        except TimedOut as error:
            raise self.late(error) from None

    def late(self, error: TimedOut) -> TimedOut:
        """The deadline's words with what stood in the way all the time, if anything did."""
        if self._last is None:
            silent = TimedOut(f"{error.message}: {_SILENT}", reason="timeout", hint=_WHO_IS_SILENT)
            return silent if isinstance(error, Expired) else error
        return TimedOut(
            f"{error.message}: {self._last.sentence}",
            hint=self._last.hint,
            reason=self._last.rule.name,
            result=_in_own_words(self._result) if self._result else None,
        )


def explained(finding: Finding, result: CommandResult) -> StepFailed:
    """A failure by a sentence of ours, with kubectl's own words behind it."""
    return StepFailed(finding.sentence, hint=finding.hint, reason=finding.rule.name, result=_in_own_words(result))


def plain(error: StepFailed) -> StepFailed:
    """A failure that nobody can explain: kubectl's words, without noise."""
    if error.result is not None:
        error.result = _in_own_words(error.result)
    return error


def _in_own_words(result: CommandResult) -> CommandResult:
    return msgspec.structs.replace(result, stderr=kubectl_errors.words(result.stderr) + "\n")
