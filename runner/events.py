"""What happens, as it happens: records with a versioned schema, and the bus that hands them to every sink.

An event is a constant phrase with fields. The bus is the choke point: secrets are masked here, once, before any sink
(log, live view, run folder, `--events` file) sees them. What reaches a person by another way, the report and the words
of `cli`, is masked by `terminal.write`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from runner.masking import mask

SCHEMA: Final = 1

# The phrases, and how loud each is. `debug` is what -v shows. `command output` is raised to `info` by `show: true`.
LEVELS: Final[Mapping[str, str]] = {
    "run started": "info",  # run, version, files, engine, context, namespace
    "run ended": "info",  # status, code, seconds
    "workflow started": "info",  # workflow, file, steps (how many), namespace
    "workflow ended": "info",  # workflow, status, seconds
    "step started": "info",  # workflow, step, name, kind, line, hash
    "step waiting": "info",  # workflow, step, waiting_for, seconds (when it is said again); debug amid many changes
    "step retried": "warning",  # workflow, step, attempt, reason, seconds
    "step passed": "info",  # workflow, step, name, kind, seconds, attempts, outputs
    "step failed": "error",  # workflow, step, name, kind, seconds, reason, message, hint
    "step skipped": "info",  # workflow, step, name, kind, because
    "step cancelled": "warning",  # workflow, step, name, kind, seconds, because
    "command started": "debug",  # step, argv, cwd
    "command output": "debug",  # step, stream, line
    "command retried": "warning",  # step, attempt, why, rule, nature (transient or converging)
    "command ended": "debug",  # step, argv, code, seconds
    "observation": "debug",  # step, equivalent (the kubectl line that it stands for)
    "object created": "debug",  # object, uid
    "object deleted": "debug",  # object
    "object left": "error",  # object, why, command, hint (where the command does not help)
    "forward ready": "info",  # step, local, target, pod
    "forward restarted": "warning",  # step, local, target (the new Pod), seconds, why
    "cleanup started": "info",  # workflow, objects (how many)
    "cleanup waiting": "info",  # workflow, waiting_for, seconds (when it is said again)
    "cleanup ended": "info",  # workflow, deleted, left, kept, seconds
    "cleanup verified": "info",  # objects (how many), left
    "watchdog started": "info",  # pid, objects (how many), handover
    "watchdog ended": "info",  # left (how many), kept, children (that it ended)
    "request retried": "warning",  # request, rule, reason, attempt, seconds (until the next one)
    "interrupted": "warning",  # signal, message
    "deadline reached": "warning",  # workflow, message
    "warning": "warning",  # message, hint
    "note": "info",  # message
}


@dataclass(frozen=True, slots=True)
class Event:
    """`time` is UTC; `fields` hold only JSON values. `run` is the run's id."""

    name: str
    level: str
    run: str
    time: datetime
    fields: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The JSON form: one flat object, `schema` first."""
        stamp = self.time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "schema": SCHEMA,
            "time": stamp,
            "level": self.level,
            "event": self.name,
            "run": self.run,
            **self.fields,
        }


Sink = Callable[[Event], None]


class Events:
    """The bus of one run. `emit` may be called from any thread; sinks are called one event at a time, in order.

    What is emitted before there is a sink is kept for those that come.
    """

    def __init__(self, run: str, sinks: tuple[Sink, ...] = ()) -> None:
        self.run = run
        self._sinks = list(sinks)
        self._lock = threading.RLock()
        self._early: list[Event] = []

    def add(self, sink: Sink) -> None:
        with self._lock:
            for event in self._early:
                sink(event)
            self._sinks.append(sink)

    def emit(self, phrase: str, /, *, level: str = "", **fields: Any) -> None:
        event = Event(phrase, level or LEVELS[phrase], self.run, datetime.now(UTC), mask(fields))
        with self._lock:
            if not self._sinks:
                self._early.append(event)
            for sink in self._sinks:
                sink(event)
