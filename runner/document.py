"""YAML text → data with file, line and column of every node; all guards against hostile or surprising YAML.

The only door to PyYAML. Nodes are built from the parser's event stream, which is iterative: depth and aliases are
counted before anything recursive sees them (100,000 `[` end libyaml's composer with SIGSEGV). Scalars follow the core
schema of YAML 1.2; what YAML 1.1 reads otherwise (`on`, `010`, `1:30`, dates) is refused with what to write instead.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, Final

import msgspec
import yaml

from runner.errors import InvalidWorkflow, Problem

MAX_BYTES: Final = 1024 * 1024
MAX_OBJECT_BYTES: Final = 8 * MAX_BYTES
"""Of Kubernetes objects: bundles of definitions have megabytes."""
MAX_DEPTH: Final = 64
TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"
MAX_ALIASES: Final = 100
MAX_NODES: Final = 50_000

# The way to a node: keys of maps and indexes of lists.
Path = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG: Final = "tag:yaml.org,2002:"


# One character of a scalar in quotes, as it is written.
_IN_QUOTES: Final = {
    '"': re.compile(r"\\x..|\\u.{4}|\\U.{8}|\\.|\\$|[^\\]"),
    "'": re.compile(r"''|."),
}
_ANY: Final = re.compile(r".")
_ESCAPED_SPACE: Final = frozenset({"\\n", "\\t", "\\ ", "\\r", "\\", "\\N", "\\_", "\\L", "\\P", "\\v", "\\f"})
_BREAK: Final = re.compile(r"\r\n|\r|\n")


class Position(msgspec.Struct, frozen=True):
    """A place in a file; both count from 1."""

    line: int
    column: int


class Document(msgspec.Struct, frozen=True):
    """One YAML document: its plain data, and where each node stands.

    `positions` has the start of every value, `ends` its end, `key_positions` the start of every key of a map.
    `problems` are those that did not keep it from being read, such as ambiguous scalars: see `checked`.
    """

    file: str
    path: FilePath
    lines: tuple[str, ...]
    data: Any
    positions: Mapping[Path, Position]
    key_positions: Mapping[Path, Position]
    ends: Mapping[Path, Position]
    problems: tuple[Problem, ...] = ()

    def checked(self) -> Document:
        """The same document; raises `InvalidWorkflow` when it has problems."""
        if self.problems:
            raise InvalidWorkflow(self.problems)
        return self

    def problem(
        self, path: Path, message: str, *, hint: str = "", at_key: bool = False, severity: str = "error"
    ) -> Problem:
        """A problem at a node; at the nearest node above it when the path leads to none."""
        path = tuple(path)
        key = self.key_positions.get(path) if at_key else None
        while path not in self.positions and path:
            path = path[:-1]
        start = key or self.positions.get(path) or Position(1, 1)
        width = len(str(path[-1])) if key and path else self._width(path, start)
        return Problem(self.file, start.line, start.column, message, hint, self._line(start.line), width, severity)

    def place(self, path: Path, value: str, offset: int) -> Position:
        """Where a character of the scalar at `path` stands in the file, whatever the scalar's style.

        Folding and indentation change white space only: the n-th other character of the value is that of the source.
        """
        start, end = self.positions.get(tuple(path)), self.ends.get(tuple(path))
        if start is None or end is None:
            return start or Position(1, 1)
        wanted = len("".join(value[:offset].split()))
        found = start
        for number, found in enumerate(self._characters(start, end)):
            if number == wanted:
                return found
        return Position(found.line, found.column + 1)

    def _characters(self, start: Position, end: Position) -> Iterator[Position]:
        """The places of the characters of a scalar that are not white space, in order."""
        sign = self._line(start.line)[start.column - 1 : start.column]
        pattern = _IN_QUOTES.get(sign, _ANY)
        for line in range(start.line + (sign in "|>"), end.line + 1):
            text = self._line(line)
            first = start.column - 1 + (sign in _IN_QUOTES) if line == start.line else 0
            last = end.column - 1 if line == end.line else len(text)
            for match in pattern.finditer(text, first, last):
                if match.group().strip() and match.group() not in _ESCAPED_SPACE:
                    yield Position(line, match.start() + 1)

    def _line(self, number: int) -> str:
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def _width(self, path: Path, start: Position) -> int:
        end = self.ends.get(path)
        return max(1, end.column - start.column) if end and end.line == start.line else 1


def load(path: FilePath, name: str) -> Document:
    """Read a file that holds one document. Raises `InvalidWorkflow` when it cannot be read as YAML; what is wrong with
    single values is in `problems`.
    """
    return loads(_read(path, name), name, path)


def loads(text: str | bytes, name: str, path: FilePath | None = None) -> Document:
    """`load` for text in memory."""
    place = (path or FilePath(name)).absolute()
    source = _Source(name, place, _decoded(text, name))
    roots = list(_nodes(source))
    if len(roots) > 1:
        first = roots[1].start
        source.fail(first, "a second document begins here", "a workflow is one document: remove the `---` between them")
    if not roots:
        source.fail(Position(0, 0), f"{name} is empty", "a workflow begins with `steps:`")
    return _document(roots[0], source, _CORE)


def read_objects(path: FilePath, name: str) -> tuple[Document, ...]:
    """The documents of a file of Kubernetes objects (or a kubeconfig), empty ones left out; scalars as kubectl reads
    them. Raises `InvalidWorkflow`.
    """
    return loads_objects(_read(path, name, MAX_OBJECT_BYTES), name, path)


def loads_objects(text: str | bytes, name: str, path: FilePath | None = None) -> tuple[Document, ...]:
    """`read_objects` for text in memory."""
    source = _Source(name, (path or FilePath(name)).absolute(), _decoded(text, name, MAX_OBJECT_BYTES))
    documents = tuple(_document(root, source, _KUBERNETES) for root in _nodes(source) if not root.is_empty)
    source.raise_problems()
    return documents


# -- text -----------------------------------------------------------------------------------------------------------


def _read(path: FilePath, name: str, limit: int = MAX_BYTES) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        _refuse(name, f"there is no file {name}")
    except IsADirectoryError:
        _refuse(name, f"{name} is a folder")
    except OSError as error:
        _refuse(name, f"{name} cannot be read: {error.strerror}")
    if len(content) > limit:
        _refuse(name, f"{name} is larger than {limit // MAX_BYTES} MiB", "split it")
    return content


def _decoded(text: str | bytes, name: str, limit: int = MAX_BYTES) -> str:
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if len(text) > limit:
        _refuse(name, f"{name} is larger than {limit // MAX_BYTES} MiB", "split it")
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        _refuse(name, f"{name} is UTF-16", "save it as UTF-8")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = _end_of(text[: error.start].decode("utf-8", "replace"))
        byte = text[error.start]
        _refuse(name, f"byte 0x{byte:02x} is not UTF-8", "save the file as UTF-8", at.line, at.column)
    if found := _UNPRINTABLE.search(decoded):
        at = _end_of(decoded[: found.start()])
        sign = f"U+{ord(found.group()):04X}"
        _refuse(name, f"the control character {sign} is not allowed", "remove it", at.line, at.column)
    return decoded


def _end_of(text: str) -> Position:
    lines = _BREAK.split(text)
    return Position(len(lines), len(lines[-1]) + 1)


# What YAML allows is printable; a carriage return is a line break.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")


def _refuse(name: str, message: str, hint: str = "", line: int = 0, column: int = 0) -> Any:
    raise InvalidWorkflow((Problem(name, line, column, message, hint),))


class _Source:
    """A text that is being read, and the problems that were found in it."""

    def __init__(self, name: str, path: FilePath, text: str) -> None:
        self.name = name
        self.path = path
        self.text = text
        self.problems: list[Problem] = []
        self.lines = tuple(_BREAK.split(self.text))
        # The parser takes U+0085, U+2028 and U+2029 for line breaks, editors do not: lines are counted here.
        self._starts = [0, *(found.end() for found in _BREAK.finditer(self.text))]

    def position(self, mark: Any) -> Position:
        line = bisect_right(self._starts, mark.index)
        return Position(line, mark.index - self._starts[line - 1] + 1)

    def add(self, at: Position, message: str, hint: str = "", width: int = 1) -> None:
        source = self.lines[at.line - 1] if 0 < at.line <= len(self.lines) else ""
        self.problems.append(Problem(self.name, at.line, at.column, message, hint, source, width))

    def fail(self, at: Position, message: str, hint: str = "") -> None:
        """A problem after which nothing more can be told."""
        self.add(at, message, hint)
        self.raise_problems()

    def sorted_problems(self) -> tuple[Problem, ...]:
        return tuple(sorted(self.problems, key=lambda problem: (problem.line, problem.column)))

    def raise_problems(self) -> None:
        if self.problems:
            raise InvalidWorkflow(self.sorted_problems())


# -- nodes from events ----------------------------------------------------------------------------------------------


class _Node:
    """A node of the document: a scalar (`text`), a list (`items`), or a map (`items` are keys and values in turn)."""

    __slots__ = ("closed", "end", "items", "kind", "plain", "start", "tag", "text")

    def __init__(self, kind: str, start: Position, end: Position, tag: str | None) -> None:
        self.kind = kind
        self.start = start
        self.end = end
        self.tag = tag
        self.text = ""
        self.plain = False
        self.items: list[_Node] = []
        self.closed = kind == "scalar"

    @property
    def is_empty(self) -> bool:
        return self.kind == "scalar" and self.plain and self.text == ""


def _nodes(source: _Source) -> Iterator[_Node]:
    """The root of each document. Depth, aliases and tags are checked on the way."""
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    aliases = 0
    try:
        for event in yaml.parse(source.text, Loader=_Loader):
            start = source.position(event.start_mark)
            if isinstance(event, yaml.DocumentStartEvent):
                anchors.clear()
                continue
            if isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                node = stack.pop()
                node.closed, node.end = True, source.position(event.end_mark)
            elif isinstance(event, yaml.AliasEvent):
                aliases += 1
                if aliases > MAX_ALIASES:
                    source.fail(start, f"more than {MAX_ALIASES} aliases", "write the values out")
                found = anchors.get(str(event.anchor))
                if found is None or not found.closed:
                    what = "refers to itself" if found else "is not defined before it is used"
                    source.fail(start, f"the alias *{event.anchor} {what}", f"define it with &{event.anchor}")
                    continue
                node = found
            elif isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent):
                node = _opened(event, start, source)
                if event.anchor:
                    anchors[event.anchor] = node
            else:
                continue
            if not isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                if stack:
                    stack[-1].items.append(node)
                if not node.closed:
                    stack.append(node)
                    if len(stack) > MAX_DEPTH:
                        source.fail(start, TOO_DEEP)
            if not stack:
                yield node
    except yaml.YAMLError as error:
        _explain_syntax(error, source)


def _opened(event: Any, start: Position, source: _Source) -> _Node:
    kind = {yaml.ScalarEvent: "scalar", yaml.SequenceStartEvent: "list"}.get(type(event), "map")
    node = _Node(kind, start, source.position(event.end_mark), event.tag)
    if event.tag and event.tag not in _KNOWN_TAGS:
        shown = event.tag.replace(_TAG, "!!")
        hint = "an exclamation mark begins a tag in YAML: put the text in quotes" if shown.startswith("!") else ""
        source.add(start, f"the tag {shown} is not allowed", hint, max(1, len(shown)))
    if kind == "scalar":
        node.text = event.value
        node.plain = event.style in (None, "") and event.implicit[0]
    return node


_KNOWN_TAGS: Final = frozenset(f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


# -- data from nodes ------------------------------------------------------------------------------------------------

# (value, "") for what a scalar is, or (anything, why it is refused and what to write).
Scalar = tuple[Any, str, str]
Rule = Callable[[str], Scalar]


def _document(root: _Node, source: _Source, rule: Rule) -> Document:
    builder = _Builder(source, rule)
    data = builder.value(root, ())
    return Document(
        source.name,
        source.path,
        source.lines,
        data,
        builder.positions,
        builder.key_positions,
        builder.ends,
        source.sorted_problems(),
    )


class _Builder:
    """Makes plain data of nodes; every node's place is noted under its path."""

    def __init__(self, source: _Source, rule: Rule) -> None:
        self.source = source
        self.rule = rule
        self.positions: dict[Path, Position] = {}
        self.key_positions: dict[Path, Position] = {}
        self.ends: dict[Path, Position] = {}
        self.refused: set[int] = set()

    def value(self, node: _Node, path: Path) -> Any:
        if len(self.positions) >= MAX_NODES:
            self.source.fail(node.start, f"more than {MAX_NODES:,} values, aliases unfolded", "write fewer aliases")
        self.positions[path] = node.start
        self.ends[path] = node.end
        if node.kind == "list":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.items)]
        return self._map(node, path) if node.kind == "map" else self._scalar(node)

    def _scalar(self, node: _Node) -> Any:
        if not node.plain:
            return _tagged(node)
        value, wrong, hint = self.rule(node.text)
        if wrong and id(node) not in self.refused:  # an alias brings the same node again
            self.refused.add(id(node))
            self.source.add(node.start, wrong, hint, len(node.text))
        return value

    def _map(self, node: _Node, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        seen: dict[str, Position] = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            if key.plain and key.text == "<<":
                for name, item in self._merge(value, path).items():
                    merged.setdefault(name, item)
                continue
            if key.kind != "scalar":
                hint = "is a `{{ }}` or `${{ }}` without quotes?"
                self.source.add(key.start, "a key must be text, not a list or map", hint)
                continue
            name = self._key(key)
            if name in seen:
                first = seen[name].line
                self.source.add(
                    key.start,
                    f"the key `{name}` stands twice in this map (first on line {first})",
                    "remove one",
                    len(name),
                )
                continue
            seen[name] = self.key_positions[*path, name] = key.start
            result[name] = self.value(value, (*path, name))
        return {**merged, **result} if merged else result

    def _merge(self, node: _Node, path: Path) -> dict[str, Any]:
        """The maps that `<<` brings in; the first one that has a key wins."""
        sources = node.items if node.kind == "list" else [node]
        merged: dict[str, Any] = {}
        for source in sources:
            if source.kind != "map":
                self.source.add(source.start, "`<<` merges maps", "write `<<: *anchor` of a map")
                continue
            for name, item in self._map(source, path).items():
                if name not in merged:
                    merged[name] = item
        return merged

    def _key(self, node: _Node) -> str:
        if node.plain:
            value, wrong, hint = self.rule(node.text)
            if wrong or not isinstance(value, str):
                message = wrong or f"the key {node.text or 'null'} is not text"
                self.source.add(node.start, message, hint or f'put it in quotes: "{node.text}"', max(1, len(node.text)))
        return node.text


def _tagged(node: _Node) -> Any:
    """A scalar in quotes is text, unless a tag says otherwise."""
    if node.tag in (None, "!", f"{_TAG}str") or str(node.tag) not in _KNOWN_TAGS:
        return node.text
    return _CORE(node.text)[0]


_INTEGER: Final = r"[-+]?[0-9]+"
_FLOAT: Final = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_OCTAL: Final = r"[-+]?0[0-9]+"
_OTHER_BASE: Final = r"[-+]?0([xX][0-9a-fA-F_]+|o[0-7]+|b[01_]+)"
_GROUPED: Final = r"[-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?"
_SIXTIES: Final = r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
_DATE: Final = r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?"
_NOT_FINITE: Final = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_OLD_BOOLEANS: Final = {"yes": True, "on": True, "no": False, "off": False}
_BIGGEST: Final = 2**63


def _CORE(text: str) -> Scalar:  # noqa: N802 - a table, written as code
    """A plain scalar of a workflow."""
    if text in ("", "~", "null"):
        return None, "", ""
    if text in ("true", "false"):
        return text == "true", "", ""
    lowered = text.lower()
    if lowered in ("true", "false", "null"):
        return text, f"{text} could be text or the value {lowered}", f'write {lowered}, or "{text}" for the text'
    if lowered in _OLD_BOOLEANS:
        plain = str(_OLD_BOOLEANS[lowered]).lower()
        return text, f"{text} is {plain} in YAML 1.1 and text in YAML 1.2", f'write {plain}, or "{text}" for the text'
    if text[0] not in "+-.0123456789":
        return text, "", ""
    if re.fullmatch(_OCTAL, text):
        ten = int(text)
        return text, f"{text} has a leading zero: YAML 1.1 reads it as octal", f'write {ten}, or "{text}" for the text'
    if re.fullmatch(_INTEGER, text):
        big = len(text) > 20 or abs(int(text)) >= _BIGGEST  # noqa: PLR2004 - digits of 2**64
        return (text, f"{text[:30]} is too large for a number", "put it in quotes") if big else (int(text), "", "")
    for pattern, what in (
        (_OTHER_BASE, "is a number in another base"),
        (_GROUPED, "is a number in YAML 1.1 and text in YAML 1.2"),
        (_SIXTIES, "is a number of base 60 in YAML 1.1"),
        (_DATE, "is a date in YAML 1.1 and text in YAML 1.2"),
        (_NOT_FINITE, "is not a finite number"),
    ):
        if re.fullmatch(pattern, text):
            return text, f"{text} {what}", f'put it in quotes: "{text}"'
    if re.fullmatch(_FLOAT, text):
        value = float(text)
        return (
            (text, f"{text} is too large for a number", "put it in quotes")
            if abs(value) == float("inf")
            else (value, "", "")
        )
    return text, "", ""


def _KUBERNETES(text: str) -> Scalar:  # noqa: N802 - a table, written as code
    """A plain scalar of a manifest, as kubectl's reader (sigs.k8s.io/yaml) takes it: YAML 1.1 booleans and octals."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None, "", ""
    lowered = text.lower()
    if text in (lowered, lowered.upper(), lowered.capitalize()):
        if lowered in ("true", "false"):
            return lowered == "true", "", ""
        if lowered in _OLD_BOOLEANS:
            return _OLD_BOOLEANS[lowered], "", ""
    if text[0] not in "+-.0123456789" or len(text) > 400:  # noqa: PLR2004 - no number is that long
        return text, "", ""
    try:
        if re.fullmatch(r"[-+]?0[0-7]+", text):
            return int(text, 8), "", ""
        if re.fullmatch(_INTEGER, text) and not re.fullmatch(_OCTAL, text):
            return int(text), "", ""
        if re.fullmatch(_OTHER_BASE, text):
            return int(text.replace("_", ""), 0), "", ""
        if re.fullmatch(_FLOAT, text) and not re.fullmatch(_OCTAL, text):
            return float(text), "", ""
    except ValueError:
        pass
    return text, "", ""


# -- syntax errors --------------------------------------------------------------------------------------------------

# What the parser says → (what it means, what to do).
_SYNTAX: Final = (
    (
        "mapping values are not allowed",
        "a `:` is not allowed here",
        "put the value in quotes, or check the indentation",
    ),
    ("found character '\\t'", "a tab is not allowed for indentation", "use spaces"),
    ("found a tab character", "a tab is not allowed for indentation", "use spaces"),
    ("that cannot start any token", "a value cannot begin with this character", "put the value in quotes"),
    ("found unexpected end of stream", "a quote is not closed", "add the missing quote"),
    ("did not find expected ',' or ']'", "a list in brackets is not closed or lacks a comma", "add `]` or `,`"),
    ("did not find expected ',' or '}'", "a map in braces is not closed or lacks a comma", "add `}` or `,`"),
    ("did not find expected '-' indicator", "this is not indented like the list before it", "check the indentation"),
    ("did not find expected key", "this does not fit what stands before it", "check the indentation and the quotes"),
    ("could not find expected ':'", "a key without `:`", "write `key: value`, and check the quotes"),
    ("did not find expected node content", "a value is missing here", "write the value, or put it in quotes"),
    (
        "did not find expected <document start>",
        "this does not belong to the document before it",
        "check the indentation",
    ),
    ("found unknown escape character", "an unknown escape in double quotes", "use single quotes, or write \\\\"),
    ("exceeded maximum nesting depth", TOO_DEEP, ""),  # newer scanners have a limit of their own
    ("undefined tag handle", "an unknown tag", "an exclamation mark begins a tag in YAML: put the text in quotes"),
)


def _explain_syntax(error: yaml.YAMLError, source: _Source) -> None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    at = source.position(mark) if mark else Position(1, 1)
    words = str(getattr(error, "problem", None) or error)
    line = source.lines[at.line - 1] if at.line <= len(source.lines) else ""
    before = source.lines[at.line - 2] if at.line > 1 else ""
    known = (about for sign, *about in _SYNTAX if sign in words)
    message, hint = next(known, (words, ""))
    if line[: at.column].lstrip(" ").startswith("\t"):
        message, hint = "a tab is not allowed for indentation", "use spaces"
    if "${{" in line or ("${{" in before and not line.strip()):
        text = line if "${{" in line else before
        column = text.find("${{") + 1
        at = Position(at.line if text is line else at.line - 1, column)
        message, hint = "an expression here must be in quotes", 'write "${{ … }}": YAML takes the braces for a map'
    source.fail(at, message, hint)
