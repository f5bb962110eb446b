"""The view on a terminal: on a real pseudo-terminal, read by a small emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.events import Event
from runner.reports import live
from runner.reports.progress import Row
from runner.reports.terminal import Style
from runner.reports.wording import cells

if TYPE_CHECKING:
    from tests.reports.conftest import MakeEvent

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Emulator:
    """A terminal of a given width, endlessly high; it knows just the codes that the view uses."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        self.cursor = True

    def feed(self, text: str) -> None:
        for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[^\x1b]", text):
            if token.startswith("\x1b"):
                self.control(token[2:-1], token[-1])
            elif token == "\r":
                self.column = 0
            elif token == "\n":
                self.move(self.row + 1, 0)
            else:
                self.put(token)

    def control(self, parameter: str, code: str) -> None:
        if code == "A":
            self.move(self.row - int(parameter), self.column)
        elif code == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif code == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
        elif parameter == "?25":
            self.cursor = code == "h"
        else:
            assert code == "m", (parameter, code)

    def move(self, row: int, column: int) -> None:
        assert row >= 0, "above the first line that was drawn"
        self.row, self.column = row, column
        self.rows.extend([] for _ in range(row + 1 - len(self.rows)))

    def put(self, character: str) -> None:
        if self.column + cells(character) > self.columns:
            self.move(self.row + 1, 0)
        line = self.rows[self.row]
        line.extend(" " * (self.column - len(line)))
        line[self.column : self.column + cells(character)] = [character, *[""] * (cells(character) - 1)]
        self.column += cells(character)

    @property
    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip("\n")


class Terminal:
    """A pseudo-terminal with a thread that reads what is written to it."""

    def __init__(self, columns: int, lines: int = 24) -> None:
        self.master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.resize(columns, lines)
        self.bytes = b""
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def resize(self, columns: int, lines: int = 24) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> None:
        with suppress(OSError):
            while data := os.read(self.master, 65536):
                self.bytes += data

    def close(self) -> str:
        """Everything that was written."""
        self.stream.close()
        self.reader.join()
        os.close(self.master)
        return self.bytes.decode().replace("\r\n", "\n")


ENVIRON = {"TERM": "xterm"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "CI": "false"}, True),
        ({"TERM": "xterm", "CI": "true"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_where_it_suits(environ: dict[str, str], expected: bool) -> None:
    """On a terminal that can move its cursor, outside of CI."""
    terminal = Terminal(80)
    assert live.suits(terminal.stream, environ) is expected
    terminal.close()
    with open(os.devnull, "w") as pipe:  # noqa: PTH123
        assert not live.suits(pipe, environ)


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_a_run(events: list[Event], columns: int) -> None:
    """At the end everything that is settled is there, in its order and uncut, and nothing else."""
    terminal = Terminal(columns)
    with live.make(terminal.stream, ENVIRON) as view:
        for event in events:
            view(event)
            time.sleep(0.01)
    emulator = Emulator(columns)
    emulator.feed(terminal.close())
    text = emulator.text.replace("\n", "")
    places = [
        text.index(part) for part in ("kind-kind", "│ ::error::shown 10%", "✓ Forward the port", "✓ two", "✗ Wait")
    ]
    assert places == sorted(places)
    assert "▸" not in text
    assert "more step" not in text
    assert emulator.cursor


@pytest.mark.parametrize(
    ("row", "cut", "expected"),
    [
        (Row("name", "+", "1.2 s"), True, "+ name       1.2 s"),
        (Row("a long name", "+", "1.2 s"), True, "+ a long n…  1.2 s"),
        (Row("a long name", "+", "1.2 s"), False, "+ a long name\n             1.2 s"),
        (Row("日本語日本語", "+", "1.2 s"), True, "+ 日本語日…  1.2 s"),
        (Row("a name longer than that", "+"), True, "+ a name longer t…"),
        (Row("a name longer than that", "+"), False, "+ a name longer than that"),
    ],
)
def test_a_row(row: Row, cut: bool, expected: str) -> None:
    """The time stands at the right; what is settled is never cut, its time then has a line of its own."""
    text, taken = live._drawer(Style())(row, 18, cut)
    assert text.split("\n") == expected.split("\n")
    assert not cut or taken == cells(text) <= 18


def test_what_goes_on_is_drawn(event: MakeEvent) -> None:
    """The running step with its time, what it waits for, what comes; it never fills the last column."""
    terminal = Terminal(40)
    view = live.make(terminal.stream, ENVIRON)
    view(event("workflow started", workflow="w", steps=3))
    view(event("step started", workflow="w", step="s", name="A name that is longer than the terminal is wide"))
    view(event("step waiting", workflow="w", step="s", waiting_for="日本語 " * 20))
    wait_for(lambda: b"more steps" in terminal.bytes)
    emulator = Emulator(40)
    emulator.feed(terminal.bytes.decode().replace("\r\n", "\n"))
    first, second, third = emulator.text.split("\n")
    assert re.fullmatch(r"▸ A name that is longer than th… +0\.\d s", first)
    assert second.startswith("  日本語 日本語 ")
    assert second.endswith("…")
    assert third == "· 2 more steps"
    assert all(cells(line) <= 39 for line in (first, second, third))
    assert not emulator.cursor
    view.close()
    terminal.close()


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_time_passes_without_events(event: MakeEvent) -> None:
    """Four times a second at most; when the picture is the same, nothing is written."""
    terminal = Terminal(80)
    view = live.make(terminal.stream, ENVIRON)
    view(event("step started", workflow="w", step="s", name="n"))
    started = time.monotonic()
    wait_for(lambda: len(set(re.findall(rb"\d\.\d s", terminal.bytes))) >= 3)
    assert terminal.bytes.count(b"\xe2\x96\xb8") <= 5 * (time.monotonic() - started) + 2
    view(event("step passed", workflow="w", step="s", name="n", seconds=1))
    wait_for(lambda: "✓".encode() in terminal.bytes)
    silent = len(terminal.bytes)
    time.sleep(0.6)
    assert len(terminal.bytes) == silent
    view.close()
    terminal.close()


def test_an_exception_gives_the_cursor_back(event: MakeEvent) -> None:
    """However the block is left."""
    terminal = Terminal(80)

    def run() -> None:
        with live.make(terminal.stream, ENVIRON) as view:
            view(event("step started", workflow="w", step="s", name="n"))
            wait_for(lambda: HIDE_CURSOR.encode() in terminal.bytes)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run()
    text = terminal.close()
    assert text.endswith(SHOW_CURSOR)
    assert text.count(SHOW_CURSOR) == 1


def test_an_exit_without_close_gives_the_cursor_back() -> None:
    """A bug that skips `close` leaves no terminal without a cursor."""
    code = (
        "import os, sys, time; from datetime import datetime, UTC; from runner.events import Event;"
        "from runner.reports import live; view = live.make(sys.stderr, {'TERM': 'xterm'});"
        "view(Event('step started', 'info', 'r', datetime.now(UTC), {'name': 'n'}));"
        "time.sleep(0.8); raise SystemExit(3)"
    )
    terminal = Terminal(80)
    done = subprocess.run([sys.executable, "-c", code], stderr=terminal.stream, check=False)
    text = terminal.close()
    assert done.returncode == 3
    assert HIDE_CURSOR in text
    assert text.endswith(SHOW_CURSOR)


def test_a_stopped_terminal_does_not_stop_the_run(event: MakeEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-S, or a connection that hangs: events pass, and closing takes a bounded time."""
    monkeypatch.setattr(live, "CLOSE_SECONDS", 0.2)
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    view = live.make(stream, ENVIRON)
    start = time.monotonic()
    for number in range(5000):
        view(event("command output", level="info", step="s", line=f"{number} {'x' * 200}"))
    view.close()
    assert time.monotonic() - start < 30
    os.close(reader)
    view._thread.join(10)
    assert not view._thread.is_alive()
    with suppress(OSError):
        stream.close()


def test_making_it_imports_nothing() -> None:
    """The view's own thread imports rich, so that the run need not wait for it."""
    code = (
        "import sys, threading;"
        "threading.Thread.start = lambda self: None; threading.Thread.join = lambda self, timeout: None;"
        "from runner.reports import live; view = live.make(sys.stderr, {});"
        "print('rich.console' in sys.modules);"
        "view._closing.set(); view._work(); print('rich.console' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"
    assert done.stderr == ""


def test_no_colour(events: list[Event]) -> None:
    """NO_COLOR leaves only the cursor's codes."""
    terminal = Terminal(80)
    with live.make(terminal.stream, {**ENVIRON, "NO_COLOR": "1"}) as view:
        for event in events:
            view(event)
    assert not re.search(r"\x1b\[[\d;]*m", terminal.close())


def draw(row: Row, columns: int, cut: bool) -> tuple[str, int]:
    text = row.text[:columns] if cut else row.text
    return text, len(text)


ROWS = st.lists(st.text("abc", max_size=100).map(Row), max_size=4)


@given(st.lists(st.tuples(ROWS, ROWS), max_size=8))
def test_any_sequence_of_pictures(pictures: list[tuple[list[Row], list[Row]]]) -> None:
    """Settled rows stay, what went on is gone, whatever came when; at one width."""
    screen, emulator, settled_rows = live.Screen(), Emulator(50), []
    for settled, current in pictures:
        emulator.feed(screen.update(settled, current, draw, os.terminal_size((50, 24))))
        settled_rows += settled
        wrapped = [row.text[start : start + 50] for row in settled_rows for start in range(0, len(row.text) or 1, 50)]
        expected = "\n".join([*wrapped, *(row.text[:49] for row in current)])
        assert emulator.text == expected.rstrip("\n")


class Reflowing(Emulator):
    """A terminal that breaks its lines again when it gets another width, as nearly all do."""

    def resize(self, columns: int) -> None:
        assert self.column == 0
        above, below = self.rows[: self.row], self.rows[self.row :]
        broken = [line[start : start + columns] for line in above for start in range(0, len(line) or 1, columns)]
        self.rows, self.row, self.columns = [*broken, *below], len(broken), columns


@given(ROWS, st.lists(st.integers(9, 90), min_size=1, max_size=5))
def test_a_window_that_gets_narrower(current: list[Row], widths: list[int]) -> None:
    """Nothing of the old picture remains, and nothing above it is taken away."""
    screen, terminal = live.Screen(), Reflowing(100)
    terminal.feed("prompt $\n")
    for width in sorted([100, *widths], reverse=True):
        terminal.resize(width)
        terminal.feed(screen.update([], current, draw, os.terminal_size((width, 24))))
        expected = ["prompt $", *(row.text[: width - 1] for row in current)]
        assert terminal.text == "\n".join(expected).rstrip("\n")


def test_a_low_window() -> None:
    """What does not fit is not drawn, so that the cursor always finds the top again."""
    screen, emulator = live.Screen(), Emulator(40)
    rows = [Row(f"row {number}") for number in range(20)]
    for _ in range(3):
        emulator.feed(screen.update([], rows, draw, os.terminal_size((40, 6))))
    assert emulator.text.split("\n") == ["row 0", "row 1", "row 2", "row 3"]


def test_the_same_picture_is_not_drawn_again() -> None:
    """No characters, no flicker."""
    screen, rows, window = live.Screen(), [Row("a")], os.terminal_size((40, 24))
    first: Any = screen.update([], rows, draw, window)
    assert first.startswith(HIDE_CURSOR)
    assert "\x1b[K" in first
    assert screen.update([], rows, draw, window) == ""
    assert screen.update([], rows, draw, os.terminal_size((41, 24))).startswith("\r\x1b[1A\x1b[J")
