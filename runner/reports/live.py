"""The view on a terminal while a run goes on. The only door to rich.

What is done scrolls away above for good: steps, warnings, what children of `show: true` steps print. Below it, only
what is going on right now is drawn again and again. So nothing is lost when the terminal is narrow, small, or resized,
the order is that of the run, and a killed run leaves a readable screen.

Everything that touches the terminal happens in one thread of its own, which first imports rich: the run waits neither
for that import nor for a terminal that is slow or was stopped with Ctrl-S.

rich makes the lines; they are put on the screen here rather than by `rich.live`, which erases before it draws (that
flickers over a slow line) and miscounts its rows once the window became narrower.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final, Self, TextIO

from runner.events import Event
from runner.reports.progress import Progress, Row
from runner.reports.terminal import Style, is_terminal, size, write
from runner.reports.wording import cells

TICK_SECONDS: Final = 0.25
PAUSE_SECONDS: Final = 0.03
CLOSE_SECONDS: Final = 2.0

_HIDE_CURSOR: Final = "\x1b[?25l"
_SHOW_CURSOR: Final = "\x1b[?25h"
_ERASE_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"
_STYLES: Final = {"good": "green", "bad": "red", "warn": "yellow", "dim": "dim", "bold": "bold", "": ""}

# From a row, a number of columns, and whether it may be cut to them: the line with its colours, and the columns that
# it takes.
Draw = Callable[[Row, int, bool], tuple[str, int]]


def suits(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody watches this stream on a terminal that can move its cursor; a CI system's is none."""
    capable = environ.get("TERM", "") not in {"", "dumb", "unknown"}
    return capable and is_terminal(stream) and environ.get("CI", "").lower() in {"", "0", "false"}


def make(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Live:
    """A sink that shows what goes on, until `close` is called (or its `with` block ends)."""
    import rich  # noqa: F401, TID251  costs nothing by itself, and tells `log` that rich is in use

    return Live(stream, Style.of(stream, environ), environ)


class Live:
    """The sink. Events only change the picture; the thread draws it, at most every 30 ms and at least every 250 ms."""

    def __init__(self, stream: TextIO, style: Style, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self._environ = environ
        self._style = style
        self._progress = Progress(style)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._screen = Screen()
        self._thread = threading.Thread(target=self._work, name="live view", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._progress.fold(event, time.monotonic())
        self._changed.set()

    def close(self) -> None:
        """Draw what is settled, erase the rest, give the cursor back. Harmless when called again.

        A terminal that takes nothing any more (Ctrl-S, a dead connection) is not waited for.
        """
        self._closing.set()
        self._changed.set()
        self._thread.join(CLOSE_SECONDS)
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        draw = _drawer(self._style)
        try:
            while not self._closing.is_set():
                self._changed.wait(TICK_SECONDS)
                self._changed.clear()
                self._paint(draw)
                self._closing.wait(PAUSE_SECONDS)
        finally:
            self._paint(draw, last=True)

    def _paint(self, draw: Draw, *, last: bool = False) -> None:
        with self._lock:
            settled = self._progress.finished()
            current = [] if last else self._progress.current(time.monotonic())
        text = self._screen.update(settled, current, draw, size(self._stream))
        if last:
            text += self._screen.leave()
        if text:
            write(self._stream, text, self._environ)


class Screen:
    """What has been drawn, and the characters that turn it into what is to be seen next.

    The cursor always rests at the start of the line below the drawn ones.
    """

    def __init__(self) -> None:
        self._drawn: list[tuple[str, int]] = []
        self._columns = 0
        self._hidden = False

    def update(self, settled: Iterable[Row], current: list[Row], draw: Draw, window: os.terminal_size) -> str:
        """The characters to write; none when the picture is the same.

        Lines are overwritten in place and their remainders erased afterwards, in one write, so that nothing flickers.
        They end one column before the edge, where erasing would take the last character away. What is settled is
        never cut; it may take several rows, so that everything below is erased first. The same after a resize, when
        terminals remember which rows they broke, and would join them again.
        """
        columns = max(8, window.columns - 1)
        above = [draw(row, columns, False)[0] + "\n" for row in settled]
        below = [draw(row, columns, True) for row in current[: max(1, window.lines - 2)]]
        resized = bool(self._drawn) and window.columns != self._columns
        if not above and below == self._drawn and not resized:
            return ""
        text = self._to_top(window.columns) + (_ERASE_BELOW if above or resized else "") + "".join(above)
        text += "".join(f"{line}{_ERASE_LINE}\n" for line, _ in below) + _ERASE_BELOW
        if below and not self._hidden:
            text, self._hidden = _HIDE_CURSOR + text, True
        self._drawn, self._columns = below, window.columns
        return text

    def leave(self) -> str:
        """The characters that give the terminal back."""
        return _SHOW_CURSOR if self._hidden else ""

    def _to_top(self, columns: int) -> str:
        """Up to the first drawn line. A window that became narrower has broken long lines into several rows."""
        rows = sum(max(1, -(-taken // max(1, columns))) for _, taken in self._drawn)
        return f"\r\x1b[{rows}A" if rows else "\r"


def _drawer(style: Style) -> Draw:
    """Import rich, and answer the function that makes a row a line."""
    from rich.console import Console  # noqa: TID251  this is the door
    from rich.text import Text  # noqa: TID251

    console = Console(
        force_terminal=True, color_system="standard" if style.colour else None, no_color=not style.colour, width=1000
    )

    def draw(row: Row, columns: int, cut: bool) -> tuple[str, int]:
        line = Text(row.text, _STYLES[row.tone] if row.tone != "good" else "")
        taken = cells(row.right) + 2 if row.right else 0
        room = max(1, columns - 2 - taken)
        if cut:
            line.truncate(room, overflow="ellipsis" if style.unicode else "crop")
        fits = line.cell_len <= room
        gap = " " * (room + 2 - line.cell_len) if fits else "\n" + " " * (room + 4)
        text = Text.assemble((row.sign, _STYLES[row.tone]), " ", line, gap if row.right else "", (row.right, "dim"))
        with console.capture() as capture:
            console.print(text, end="", soft_wrap=True)
        return capture.get(), text.cell_len

    return draw
