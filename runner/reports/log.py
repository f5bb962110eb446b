"""The structured log on stderr, for people and for machines. The only door to structlog.

structlog filters by level, runs the renderer and writes whole lines under a lock; the renderer is ours, because
structlog's own (`structlog.dev`) imports rich and knows nothing of our events.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from types import ModuleType
from typing import Any, Final, Literal, TextIO

from runner.events import Event, Sink
from runner.reports.encode import as_json
from runner.reports.readable import Readable
from runner.reports.terminal import Style, write

LogFormat = Literal["text", "json"]
Verbosity = Literal[-1, 0, 1]

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LOUDEST: Final[Mapping[int, int]] = {-1: 30, 0: 20, 1: 10}


def make(
    stream: TextIO,
    log_format: LogFormat = "text",
    verbosity: Verbosity = 0,
    environ: Mapping[str, str] = os.environ,
    *,
    reported: bool = False,
) -> Sink:
    """A sink that writes every event at once. `verbosity` -1 shows warnings and errors only, 1 also debug events.

    `reported`: the report for people follows on the same stream.
    """
    structlog = _structlog()
    readable = Readable(Style.of(stream, environ), verbose=verbosity > 0, reported=reported)

    def render(_: Any, __: str, fields: MutableMapping[str, Any]) -> str:
        event: Event = fields["record"]
        return as_json(event.record()) if log_format == "json" else readable(event)

    logger = structlog.wrap_logger(
        structlog.WriteLogger(_Outlet(stream, environ)),
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(_LOUDEST[verbosity]),
        cache_logger_on_first_use=True,
    )

    def sink(event: Event) -> None:
        logger.log(_LEVELS[event.level], event.name, record=event)

    return sink


class _Outlet:
    """The stream as structlog sees it: writing to it never fails, because a log must not end a run."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._environ = environ

    def write(self, text: str) -> int:
        write(self._stream, text, self._environ)
        return len(text)

    def flush(self) -> None:
        """`write` did it."""


def _structlog() -> ModuleType:
    """structlog, imported without rich.

    Importing any part of structlog imports all of it, and `structlog.dev` and `structlog.tracebacks` import rich when
    it is installed: 100 ms for a traceback renderer that is never used. Both take an ImportError for "not installed",
    so rich is hidden from them for the moment, unless the live view has imported it already.
    """
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: TID251  this is the door
    finally:
        if hidden:
            del sys.modules["rich"]
    return structlog
