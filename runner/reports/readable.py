"""An event as readable text: `10:15:02 step passed       steps.web   Forward the port  0.21 s`.

One event is one line, whatever its fields hold; what needs more (why a step failed) follows as a block behind bars.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

from runner.events import Event
from runner.reports.terminal import Style
from runner.reports.wording import advice, block, cure, cut, duration, harmless, pad, plain, value

# What is shown of an event: first these fields as they are, in columns; then the others as key=value.
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "run started": ("files",),
    "run ended": ("status", "seconds"),
    "workflow started": ("workflow",),
    "workflow ended": ("workflow", "status", "seconds"),
    "step started": ("step", "name"),
    "step waiting": ("step", "waiting_for", "seconds"),
    "step retried": ("step", "reason"),
    "step passed": ("step", "name", "seconds"),
    "step failed": ("step", "name", "seconds"),
    "step skipped": ("step", "name", "because"),
    "step cancelled": ("step", "name", "seconds", "because"),
    "command started": ("step", "argv"),
    "command retried": ("step", "why"),
    "command ended": ("step", "seconds"),
    "observation": ("step", "equivalent"),
    "object created": ("object",),
    "object deleted": ("object",),
    "object left": ("object", "why"),
    "forward ready": ("step", "local", "target"),
    "forward restarted": ("step", "local", "target", "seconds", "why"),
    "cleanup started": ("workflow",),
    "cleanup waiting": ("workflow", "waiting_for", "seconds"),
    "cleanup ended": ("workflow", "seconds"),
    "cleanup verified": (),
    "watchdog started": (),
    "watchdog ended": (),
    "request retried": ("request", "reason"),
    "interrupted": ("message",),
    "deadline reached": ("message",),
    "warning": ("message",),
    "note": ("message",),
}
# What follows below as a block, in this order: the sentence first, then everything a reader needs to see in full.
_BLOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "step failed": ("place", "message", "hint", "command", "output", "details"),
    "object left": ("hint", "command"),
    "warning": ("hint",),
}
# Texts that may have several lines: the first stands in the line, the others in the block.
_SENTENCES: Final = frozenset({"message", "why", "because", "reason", "waiting_for"})
# For machines, or said elsewhere in the line.
_UNSHOWN: Final = frozenset({"hash", "line", "section", "kind", "run"})
_SUBJECT: Final = 12
_PHRASE: Final = 17
_LONG: Final = 80
_INDENT: Final = " " * len("10:15:02 ")
_STATUS_TONES: Final = {"success": "good", "failure": "bad", "cancelled": "warn"}
_TONES: Final = {"error": "bad", "warning": "warn", "debug": "dim"}


class Readable:
    """Renders events. It remembers whether the run has several workflows, so that steps say whose they are.

    `reported`: the report comes later in the same place, and has everything about a failure; here it is one sentence.
    """

    def __init__(self, style: Style, verbose: bool = False, reported: bool = False) -> None:
        self._style = style
        self._verbose = verbose
        self._reported = reported
        self._several = False

    def __call__(self, event: Event) -> str:
        """The event's lines, without the last newline."""
        if event.name == "run started":
            self._several = len(event.fields.get("files", ())) > 1
        if event.name == "command output":
            return "\n".join(self._output(event))
        return "\n".join([self._line(event), *self._block(event)])

    def _line(self, event: Event) -> str:
        time = event.time.astimezone().strftime("%H:%M:%S")
        phrase = self._style.paint(_tone(event), pad(event.name, _PHRASE))
        rest = [*self._columns(event), " ".join(self._pairs(event))]
        return "  ".join(part for part in (f"{self._style.paint('dim', time)} {phrase}", *rest) if part).rstrip()

    def _columns(self, event: Event) -> Iterator[str]:
        for name in _COLUMNS.get(event.name, ()):
            if name in event.fields:
                text = self._column(name, event.fields)
                yield pad(text, _SUBJECT) if name in {"step", "workflow"} else text

    def _column(self, name: str, fields: Mapping[str, Any]) -> str:
        thing = fields[name]
        if name == "seconds":
            return duration(float(thing))
        if name == "argv" and not isinstance(thing, str):
            return harmless(shlex.join(thing))
        if name == "step" and self._several and "workflow" in fields:
            return harmless(f"{fields['workflow']}/{thing}")
        if name == "target":
            return f"{self._style.sign('→', '->')} {harmless(plain(thing))}"
        if name in _SENTENCES:
            return next(iter(block(plain(thing))), "")
        return harmless(plain(thing))

    def _pairs(self, event: Event) -> Iterator[str]:
        placed = {*_COLUMNS.get(event.name, ()), *_BLOCKS.get(event.name, ())}
        if event.name == "run started":
            yield f"run={value(event.run)}"
        for name, thing in event.fields.items():
            if name not in placed and not self._unshown(event, name, thing):
                yield from _pair(harmless(name), thing)

    def _unshown(self, event: Event, name: str, thing: Any) -> bool:
        """Fields that say nothing to a reader of this line."""
        if name in _UNSHOWN or thing is None or thing in ("", [], {}, ()):
            return True
        if name == "objects" and event.name == "step failed":  # the details say it
            return True
        if name == "workflow":
            return "step" in event.fields
        if name == "outputs":
            return not self._verbose
        return (name == "attempts" and thing == 1) or (event.name == "command ended" and name == "argv")

    def _block(self, event: Event) -> Iterator[str]:
        names = ("message",) if self._reported and event.name == "step failed" else _BLOCKS.get(event.name, ())
        columns = _COLUMNS.get(event.name, ())
        for name in (*columns, *names):
            lines = block(plain(event.fields.get(name) or ""))
            if name in columns:
                lines = lines[1:] if name in _SENTENCES else []
            for line in _marked(name, lines, event):
                yield f"{_INDENT}{self._style.paint('dim', self._style.bar)} {line}".rstrip()

    def _output(self, event: Event) -> Iterator[str]:
        """What a child printed: behind a bar when the step says `show`, behind the step's name with -v."""
        path = str(event.fields.get("step", ""))
        label = "" if event.level == "info" else harmless(path.removeprefix("steps.")) + " "
        bar = "|" if label else self._style.bar
        for line in str(event.fields.get("line", "")).splitlines() or [""]:
            yield f"  {self._style.paint('dim', label + bar)} {harmless(line)}".rstrip()


def _pair(name: str, thing: Any) -> Iterator[str]:
    """`name=value`; of a map, each of its values, and of long ones only the beginning."""
    if isinstance(thing, Mapping):
        for key, item in thing.items():
            yield f"{name}.{harmless(str(key))}={cut(value(item), _LONG)}"
    else:
        yield f"{name}={value(thing)}"


def _marked(name: str, lines: list[str], event: Event) -> list[str]:
    """A block's lines, the first saying what it is where that is not obvious."""
    if name == "hint" and lines:
        return [advice(lines[0]), *lines[1:]]
    if name == "command" and lines and event.name == "object left":
        return [] if event.fields.get("hint") else [cure(lines[0], ""), *lines[1:]]
    if name == "command" and lines:
        return [f"command: {lines[0]}", *lines[1:]]
    return lines


def _tone(event: Event) -> str:
    if event.name == "step passed":
        return "good"
    return _STATUS_TONES.get(str(event.fields.get("status")), _TONES.get(event.level, ""))
