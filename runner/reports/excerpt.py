"""A line of a file behind its number, and below it carets that mark what is meant."""

from __future__ import annotations

from runner.reports.terminal import Style
from runner.reports.wording import cells, visible

LIMIT = 120
SHORTEST = 40
"""Of less nobody can make sense."""
MARGIN = 10
"""Columns for the line's number and the signs of a cut."""
TAB = "    "


def excerpt(source: str, line: int, column: int, width: int = 1, *, style: Style, limit: int = LIMIT) -> list[str]:
    """Two lines: the source, cut around the caret when it is long, and the carets under `width` characters.

    `line` and `column` count from 1, characters, not columns of the screen: tabs and wide characters are accounted for.
    """
    source = source.rstrip("\r\n")
    start = min(max(column - 1, 0), len(source))
    marked = _fit(source[start : start + width], limit // 2)
    end = start + len(marked)
    left = _fit(source[max(0, start - limit) : start][::-1], limit // 2)[::-1]
    right = _fit(source[end : end + limit], limit - cells("".join(left + marked)))
    more = style.sign("…", "...")
    head = (more if len(left) < start else "") + "".join(left)
    tail = "".join(marked + right) + (more if end + len(right) < len(source) else "")
    carets = style.paint("bad", "^" * max(1, cells("".join(marked))))
    return [
        f"{line:>5} {style.bar} {head}{tail}".rstrip(),
        f"{'':>5} {style.bar} {' ' * cells(head)}{carets}",
    ]


def _fit(characters: str, limit: int) -> list[str]:
    """As many characters as fit into so many columns, each as it is shown."""
    fitting: list[str] = []
    for character in characters:
        shown = TAB if character == "\t" else visible(character)
        limit -= cells(shown)
        if limit < 0:
            break
        fitting.append(shown)
    return fitting
