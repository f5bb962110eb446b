"""Events folded into what a person at a terminal wants to see: what is done, and what is going on right now.

It knows no terminal and no clock of its own: `live` draws what this answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from runner.events import Event
from runner.reports.terminal import Style
from runner.reports.wording import advice, block, count, cure, duration, first_line, harmless, outcome, plain

_CLEANUP: Final = "cleanup"  # no step's key: those have a slash


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the view: a sign, a text, and what stands at the right end."""

    text: str
    sign: str = " "
    right: str = ""
    tone: str = ""


@dataclass(slots=True)
class _Activity:
    """Something that takes time: a step, or the cleanup."""

    name: str
    since: float
    waiting_for: str = ""


@dataclass(slots=True)
class Progress:
    """The state behind the live view. `fold` takes events, a method for each phrase; the others answer rows."""

    style: Style
    _running: dict[str, _Activity] = field(default_factory=dict)
    _finished: list[Row] = field(default_factory=list)
    _several: bool = False
    _steps: int = 0
    _ended: int = 0

    def fold(self, event: Event, now: float) -> None:
        """Take note of an event that arrived at `now` (seconds of a monotonic clock)."""
        if event.name == "command output" and event.level == "debug":
            return
        handler = getattr(self, f"_on_{event.name.replace(' ', '_')}", None)
        if handler:
            handler(event.fields, now)

    def finished(self) -> list[Row]:
        """What is settled since the last call: it stays on the screen for good."""
        rows, self._finished = self._finished, []
        return rows

    def current(self, now: float) -> list[Row]:
        """What is going on at `now`: it is drawn again and again, and leaves no trace."""
        rows: list[Row] = []
        for activity in self._running.values():
            rows.append(Row(activity.name, self.style.sign("▸", ">"), _elapsed(now - activity.since), "bold"))
            if activity.waiting_for:
                rows.append(Row(activity.waiting_for, tone="dim"))
        ahead = self._steps - self._ended - len(self._running)
        if ahead > 0:
            rows.append(Row(f"{count(ahead, 'more step')}", self.style.sign("·", "."), tone="dim"))
        return rows

    def _settle(self, text: str, sign: str = " ", right: str = "", tone: str = "") -> None:
        self._finished.append(Row(text, sign, right, tone))

    def _on_run_started(self, fields: Mapping[str, Any], _: float) -> None:
        files = fields.get("files") or []
        self._several = len(files) > 1
        where = [
            f"{word} {plain(fields[name])}"
            for name, word in (("context", "on"), ("engine", "with"), ("namespace", "in namespace"))
            if fields.get(name)
        ]
        self._settle(harmless(" ".join([plain(files), *where])), tone="dim")

    def _on_workflow_started(self, fields: Mapping[str, Any], _: float) -> None:
        self._steps, self._ended = int(fields.get("steps") or 0), 0
        if self._several:
            self._settle(harmless(plain(fields.get("workflow", ""))), tone="bold")

    def _on_workflow_ended(self, _: Mapping[str, Any], __: float) -> None:
        self._steps = 0
        self._running.clear()

    def _on_step_started(self, fields: Mapping[str, Any], now: float) -> None:
        self._running[_key(fields)] = _Activity(_name(fields), now)

    def _on_step_waiting(self, fields: Mapping[str, Any], _: float) -> None:
        self._wait(_key(fields), first_line(plain(fields.get("waiting_for", ""))))

    def _on_step_retried(self, fields: Mapping[str, Any], _: float) -> None:
        reason = first_line(plain(fields.get("reason", "")))
        self._wait(_key(fields), f"attempt {plain(fields.get('attempt'))}: {reason}")

    def _wait(self, key: str, what: str) -> None:
        activity = self._running.get(key)
        if activity:
            activity.waiting_for = what

    def _on_step_passed(self, fields: Mapping[str, Any], now: float) -> None:
        self._end_step(fields, now, self.style.sign("✓", "+"), "good")

    def _on_step_failed(self, fields: Mapping[str, Any], now: float) -> None:
        self._end_step(fields, now, self.style.sign("✗", "x"), "bad")
        for line in block(plain(fields.get("message", ""))):
            self._settle(line, tone="bad")

    def _on_step_cancelled(self, fields: Mapping[str, Any], now: float) -> None:
        self._end_step(fields, now, "!", "warn")
        self._settle(f"cancelled: {first_line(plain(fields.get('because', '')))}", tone="warn")

    def _on_step_skipped(self, fields: Mapping[str, Any], now: float) -> None:
        because = first_line(plain(fields.get("because", "")))
        name = _name(fields) + (f": {because}" if because else "")
        self._end_step({**fields, "name": name}, now, "-", "dim", "skipped")

    def _end_step(self, fields: Mapping[str, Any], now: float, sign: str, tone: str, right: str = "") -> None:
        self._ended += 1
        activity = self._running.pop(_key(fields), _Activity(_name(fields), now))
        right = right or duration(float(fields.get("seconds", now - activity.since)))
        self._settle(_name(fields), sign, right, tone)

    def _on_command_output(self, fields: Mapping[str, Any], _: float) -> None:
        for line in plain(fields.get("line", "")).splitlines() or [""]:
            self._settle(f"{self.style.bar} {harmless(line)}")

    def _on_note(self, fields: Mapping[str, Any], _: float) -> None:
        self._lines(plain(fields.get("message", "")), "", "")

    def _on_warning(self, fields: Mapping[str, Any], _: float) -> None:
        self._lines(plain(fields.get("message", "")), "!", "warn")
        if fields.get("hint"):
            self._settle(advice(first_line(plain(fields["hint"]))))

    _on_interrupted = _on_deadline_reached = _on_warning

    def _on_forward_restarted(self, fields: Mapping[str, Any], _: float) -> None:
        self._lines(f"forward {plain(fields.get('local', ''))} restarted: {plain(fields.get('why', ''))}", "!", "warn")

    def _on_request_retried(self, fields: Mapping[str, Any], _: float) -> None:
        self._lines(plain(fields.get("reason", "")), "!", "warn")

    def _on_object_left(self, fields: Mapping[str, Any], _: float) -> None:
        self._lines(f"left: {plain(fields.get('object', ''))}: {plain(fields.get('why', ''))}", "!", "bad")
        if fields.get("command"):
            self._settle(harmless(cure(plain(fields["command"]), plain(fields.get("hint", "")))))

    def _lines(self, text: str, sign: str, tone: str) -> None:
        for number, line in enumerate(block(text)):
            self._settle(line, sign if number == 0 and sign else " ", tone=tone)

    def _on_cleanup_started(self, fields: Mapping[str, Any], now: float) -> None:
        self._steps = 0
        number = fields.get("objects")
        what = f": {count(number, 'object')}" if isinstance(number, int) else ""
        self._running[_CLEANUP] = _Activity(f"cleanup{what}", now)

    def _on_cleanup_waiting(self, fields: Mapping[str, Any], _: float) -> None:
        self._wait(_CLEANUP, first_line(plain(fields.get("waiting_for", ""))))

    def _on_cleanup_ended(self, fields: Mapping[str, Any], now: float) -> None:
        activity = self._running.pop(_CLEANUP, _Activity("cleanup", now))
        left, kept = _number_of(fields.get("left")), _number_of(fields.get("kept"))
        deleted = _number_of(fields.get("deleted"))
        seconds = duration(float(fields.get("seconds", now - activity.since)))
        sign, tone = (self.style.sign("✗", "x"), "bad") if left else (self.style.sign("✓", "+"), "good")
        whose = f" of {harmless(plain(fields.get('workflow', '')))}" if self._several else ""
        self._settle(f"cleanup{whose}: {outcome(deleted, left, kept)}", sign, seconds, tone)


def _number_of(thing: Any) -> int:
    """How many: of a number itself, of a list its length."""
    if isinstance(thing, list | tuple):
        return len(thing)
    return thing if isinstance(thing, int) else 0


def _elapsed(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 1 else duration(seconds)


def _key(fields: Mapping[str, Any]) -> str:
    return f"{fields.get('workflow', '')}/{fields.get('step', '')}"


def _name(fields: Mapping[str, Any]) -> str:
    return first_line(plain(fields.get("name") or fields.get("step") or ""))
