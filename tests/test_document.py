"""Reading YAML: plain data with the place of every node, and a message with a place for everything else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from runner import document
from runner.document import Document, Position
from runner.errors import InvalidWorkflow, Problem


def problems(text: str | bytes) -> tuple[Problem, ...]:
    """What is wrong with a text, whether it can be read or not."""
    try:
        return document.loads(text, "w.yaml").problems
    except InvalidWorkflow as error:
        return error.problems


def told(text: str | bytes) -> list[str]:
    """Each problem as `line:column message (hint)`."""
    return [f"{p.line}:{p.column} {p.message}" + (f" ({p.hint})" if p.hint else "") for p in problems(text)]


def load(text: str | bytes) -> Document:
    return document.loads(text, "w.yaml").checked()


def place(found: Position) -> tuple[int, int]:
    return found.line, found.column


# -- data -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        ("text", "text"),
        ("text with spaces", "text with spaces"),
        ("''", ""),
        ('"10"', "10"),
        ("'yes'", "yes"),
        ('"a\\tb\\u00e9"', "a\tbé"),
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-17", -17),
        ("+17", 17),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-1e3", -1000.0),
        ("9223372036854775807", 9223372036854775807),
        ("-", None),
        ("1.2.3", "1.2.3"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("5000:5000", "5000:5000"),
        ("http://localhost:5000/", "http://localhost:5000/"),
        ("2m", "2m"),
        ("1h30m", "1h30m"),
        ("+", "+"),
        (".", "."),
        ("0x", "0x"),
        ("1.", 1.0),
        ("y", "y"),
        ("n", "n"),
        ("nullable", "nullable"),
        ("!!str 010", "010"),
        ("!!int '7'", 7),
    ],
)
def test_scalars_follow_the_core_schema(scalar: str, expected: object) -> None:
    """What looks like text is text, what is a number is a number, and quotes always make text."""
    if scalar == "-":
        assert load("a:\n  -\n").data == {"a": [None]}
        return
    value = load(f"a: {scalar}\n").data["a"]

    assert (value, type(value)) == (expected, type(expected))


def test_block_scalars_are_text() -> None:
    """`|` keeps lines, `>` folds them, `-` strips the end; numbers in them are text."""
    data = load("a: |\n  one\n  two\nb: >-\n  one\n  two\nc: |-\n  010\n").data

    assert data == {"a": "one\ntwo\n", "b": "one two", "c": "010"}


def test_lists_and_maps_in_both_styles() -> None:
    """Flow and block style are the same data; keys keep their order."""
    block = load("b:\n  - 1\n  - x: 2\na: {}\n")
    flow = load('{"b": [1, {x: 2}], "a": {}}')

    assert block.data == flow.data == {"b": [1, {"x": 2}], "a": {}}
    assert list(block.data) == ["b", "a"]


def test_anchor_repeats_a_value() -> None:
    """An alias is its anchor's value; changing one copy does not change the other."""
    data = load("a: &x [1, 2]\nb: *x\n").data
    data["a"].append(3)

    assert data == {"a": [1, 2, 3], "b": [1, 2]}


def test_merge_key_fills_in_what_is_not_there() -> None:
    """`<<` brings keys in; own keys win wherever they stand, and of several maps the first one wins."""
    data = load(
        "x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\none: {<<: *x, a: 9}\ntwo: {a: 9, <<: *x}\nall: {<<: [*x, *y]}\n"
    )

    twice = load("x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nall: {<<: *x, <<: *y}\n")

    assert data.data["one"] == data.data["two"] == {"a": 9, "b": 1}
    assert data.data["all"] == twice.data["all"] == {"a": 1, "b": 1, "c": 2}


def test_merge_of_something_else_is_refused() -> None:
    """Only maps can be merged."""
    assert told("a: &a [1]\nb: {<<: *a}\n") == ["1:8 `<<` merges maps (write `<<: *anchor` of a map)"]


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r"])
def test_line_breaks_of_all_systems(break_: str) -> None:
    """CRLF files have the same data and the same places."""
    loaded = load(break_.join(["a: 1", "b: |", "  x", "  y", "c: [", "  2]", ""]))

    assert loaded.data == {"a": 1, "b": "x\ny\n", "c": [2]}
    assert place(loaded.positions["c", 0]) == (6, 3)
    assert loaded.lines[5] == "  2]"


def test_byte_order_mark_is_skipped() -> None:
    """A UTF-8 BOM, as Windows editors write it, is no content and shifts no column."""
    loaded = load(b"\xef\xbb\xbfname: x\n")

    assert loaded.data == {"name": "x"}
    assert place(loaded.key_positions["name",]) == (1, 1)
    assert loaded.lines == ("name: x", "")


def test_document_markers_around_one_document() -> None:
    """`---`, `...` and comments around a single document are fine."""
    assert load("# hello\n--- # start\na: 1\n...\n# end\n").data == {"a": 1}


# -- places ---------------------------------------------------------------------------------------------------------


def test_every_key_and_value_has_its_place() -> None:
    """Lines and columns count from 1, for block and flow nodes, quoted, block and plain scalars."""
    loaded = load(
        "name: pod\nsteps:\n  - apply: \"a b.yaml\"\n  - run: |\n      echo\n  - {wait: pod/x, env: {A: 'é', B: 2}}\n"
    )
    values = {
        (): (1, 1),
        ("name",): (1, 7),
        ("steps",): (3, 3),
        ("steps", 0): (3, 5),
        ("steps", 0, "apply"): (3, 12),
        ("steps", 1, "run"): (4, 10),
        ("steps", 2): (6, 5),
        ("steps", 2, "wait"): (6, 12),
        ("steps", 2, "env", "A"): (6, 28),
        ("steps", 2, "env", "B"): (6, 36),
    }
    keys = {("name",): (1, 1), ("steps",): (2, 1), ("steps", 1, "run"): (4, 5), ("steps", 2, "env", "B"): (6, 33)}

    assert {path: place(loaded.positions[path]) for path in values} == values
    assert {path: place(loaded.key_positions[path]) for path in keys} == keys
    assert place(loaded.ends["name",]) == (1, 10)


def test_places_of_aliased_and_merged_nodes_are_where_they_are_written() -> None:
    """A problem in a repeated node points to the text that must be changed: the anchor's."""
    loaded = load("x: &x {a: 1}\ny: *x\nz: {<<: *x, b: 2}\n")

    assert place(loaded.positions["y", "a"]) == (1, 11)
    assert place(loaded.positions["z", "a"]) == (1, 11)
    assert place(loaded.positions["z", "b"]) == (3, 16)


def test_problem_stands_at_the_value_or_its_key() -> None:
    """`problem` marks the whole node; a path that leads nowhere falls back to the nearest node above it."""
    loaded = load("steps:\n  - apply: pod.yaml\n")

    value = loaded.problem(("steps", 0, "apply"), "no", hint="do")
    assert value == Problem("w.yaml", 2, 12, "no", "do", "  - apply: pod.yaml", 8)
    key = loaded.problem(("steps", 0, "apply"), "no", at_key=True)
    assert (key.place, key.width) == ("w.yaml:2:5", 5)
    assert loaded.problem(("steps", 0, "nope", 3), "no").place == "w.yaml:2:5"
    assert loaded.problem(("nope",), "no").place == "w.yaml:1:1"


@pytest.mark.parametrize(
    ("text", "sign", "expected"),
    [
        ("a: xy${{ 1 }}", "$", (1, 6)),
        ("a: |\n  one\n  two $\n", "$", (3, 7)),
        ("a: >\n  one\n\n  two $\n", "$", (4, 7)),
        ('a: "x $" # $', "$", (1, 7)),
        (r'a: "\" \n \x41 $"', "$", (1, 16)),
        ("a: 'it''s $'", "$", (1, 11)),
        ("a: one\n  two $", "$", (2, 7)),
    ],
)
def test_place_of_a_character_of_a_scalar(text: str, sign: str, expected: tuple[int, int]) -> None:
    """In the source, whatever the style of the scalar."""
    loaded = load(text)

    assert place(loaded.place(("a",), loaded.data["a"], loaded.data["a"].index(sign))) == expected


# -- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scalar", "message"),
    [
        ("yes", 'yes is true in YAML 1.1 and text in YAML 1.2 (write true, or "yes" for the text)'),
        ("No", 'No is false in YAML 1.1 and text in YAML 1.2 (write false, or "No" for the text)'),
        ("on", 'on is true in YAML 1.1 and text in YAML 1.2 (write true, or "on" for the text)'),
        ("OFF", 'OFF is false in YAML 1.1 and text in YAML 1.2 (write false, or "OFF" for the text)'),
        ("True", 'True could be text or the value true (write true, or "True" for the text)'),
        ("NULL", 'NULL could be text or the value null (write null, or "NULL" for the text)'),
        ("010", '010 has a leading zero: YAML 1.1 reads it as octal (write 10, or "010" for the text)'),
        ("-0755", '-0755 has a leading zero: YAML 1.1 reads it as octal (write -755, or "-0755" for the text)'),
        ("00", '00 has a leading zero: YAML 1.1 reads it as octal (write 0, or "00" for the text)'),
        ("0x1F", '0x1F is a number in another base (put it in quotes: "0x1F")'),
        ("0o17", '0o17 is a number in another base (put it in quotes: "0o17")'),
        ("0b11", '0b11 is a number in another base (put it in quotes: "0b11")'),
        ("1_000", '1_000 is a number in YAML 1.1 and text in YAML 1.2 (put it in quotes: "1_000")'),
        ("1:30", '1:30 is a number of base 60 in YAML 1.1 (put it in quotes: "1:30")'),
        ("8080:53", '8080:53 is a number of base 60 in YAML 1.1 (put it in quotes: "8080:53")'),
        ("2024-01-01", '2024-01-01 is a date in YAML 1.1 and text in YAML 1.2 (put it in quotes: "2024-01-01")'),
        (
            "2024-01-01T10:00:00Z",
            (
                "2024-01-01T10:00:00Z is a date in YAML 1.1 and text in YAML 1.2 "
                '(put it in quotes: "2024-01-01T10:00:00Z")'
            ),
        ),
        (".inf", '.inf is not a finite number (put it in quotes: ".inf")'),
        ("-.INF", '-.INF is not a finite number (put it in quotes: "-.INF")'),
        (".nan", '.nan is not a finite number (put it in quotes: ".nan")'),
        ("9223372036854775808", "9223372036854775808 is too large for a number (put it in quotes)"),
        ("1e999", "1e999 is too large for a number (put it in quotes)"),
        ("9" * 5000, f"{'9' * 30} is too large for a number (put it in quotes)"),
    ],
)
def test_surprising_scalars_are_refused(scalar: str, message: str) -> None:
    """What YAML 1.1 and 1.2 read differently is refused with both ways to write it, and the whole scalar is marked."""
    assert told(f"a: {scalar}\n") == [f"1:4 {message}"]
    assert problems(f"a: {scalar}\n")[0].width == len(scalar)
    assert told(f'a: "{scalar}"\n') == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", ["3:1 the key `a` stands twice in this map (first on line 1) (remove one)"]),
        ('x: {a: 1, "a": 2}\n', ["1:11 the key `a` stands twice in this map (first on line 1) (remove one)"]),
        ("1: x\n", ['1:1 the key 1 is not text (put it in quotes: "1")']),
        ("true: x\n", ['1:1 the key true is not text (put it in quotes: "true")']),
        ("on: x\n", ['1:1 on is true in YAML 1.1 and text in YAML 1.2 (write true, or "on" for the text)']),
        ("~: x\n", ['1:1 the key ~ is not text (put it in quotes: "~")']),
        ("? [a]\n: x\n", ["1:3 a key must be text, not a list or map (is a `{{ }}` or `${{ }}` without quotes?)"]),
        ("a: {{ b }}\n", ["1:5 a key must be text, not a list or map (is a `{{ }}` or `${{ }}` without quotes?)"]),
    ],
)
def test_keys_are_text_and_stand_once(text: str, expected: list[str]) -> None:
    """A key that stands twice, or is no text, is refused where it stands."""
    assert told(text) == expected


def test_equal_keys_of_different_maps_are_fine() -> None:
    """Only keys of the same map exclude each other."""
    assert load("a: {x: 1}\nb: {x: 2}\nc: [{x: 1}, {x: 2}]\n").problems == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system ['id']\n", "the tag !!python/object/apply:os.system is not allowed"),
        ("a: !!python/name:os.system\n", "the tag !!python/name:os.system is not allowed"),
        ("a: !!binary aGk=\n", "the tag !!binary is not allowed"),
        ("a: !!set {x}\n", "the tag !!set is not allowed"),
        ("a: !vault secret\n", "the tag !vault is not allowed"),
        ("a: !success()\n", "the tag !success() is not allowed"),
        ("a: ! 7\n", "the tag ! is not allowed"),
    ],
)
def test_tags_are_refused(text: str, message: str) -> None:
    """No tag makes anything but data; an unquoted `!` gets the advice to quote it."""
    hint = "an exclamation mark begins a tag in YAML: put the text in quotes"
    assert told(text) == [f"1:4 {message} ({hint})"]


@pytest.mark.parametrize(("opening", "column"), [("[", 65), ("{a: ", 257), ("- ", 129), ("[{a: ", 161)])
def test_depth_is_bounded(opening: str, column: int) -> None:
    """100,000 brackets end with a message before the C parser's recursion, at the bracket that is too deep, or, where
    the C scanner looks further ahead and has a limit of its own, at that.
    """
    (problem,) = told(opening * 100_000)

    assert problem in (f"1:{column} nested deeper than 64 levels", "1:1001 nested deeper than 64 levels")


def test_depth_of_64_is_allowed() -> None:
    """The limit is where the message says it is."""
    assert load("[" * 64 + "]" * 64).problems == ()
    assert told("[" * 65 + "]" * 65) == ["1:65 nested deeper than 64 levels"]


def test_many_brackets_on_many_lines() -> None:
    """The column and line are those of the first bracket that is too deep."""
    assert told("[\n" * 100_000) == ["65:1 nested deeper than 64 levels"]


@pytest.mark.parametrize("width", [9, 30])
def test_alias_bomb_is_stopped(width: int) -> None:
    """Aliases of aliases unfold to 50,000 values at most, in well under a second."""
    lines = ["a0: &a0 [" + ", ".join(["x"] * width) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, 6)]
    start = time.perf_counter()

    assert [p.message for p in problems("\n".join(lines))] == ["more than 50,000 values, aliases unfolded"]
    assert time.perf_counter() - start < 30


def test_number_of_aliases_is_bounded() -> None:
    """100 aliases are fine, the 101st is refused."""
    assert len(load("a: &a 1\nb: [" + ", ".join(["*a"] * 100) + "]\n").data["b"]) == 100
    assert told("a: &a 1\nb:\n" + "- *a\n" * 101) == ["103:3 more than 100 aliases (write the values out)"]


def test_number_of_values_is_bounded() -> None:
    """Also without aliases."""
    (problem,) = problems("[" + "1, " * 50_000 + "1]")

    assert problem.message == "more than 50,000 values, aliases unfolded"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [*a]\n", "1:8 the alias *a refers to itself (define it with &a)"),
        ("a: &a {b: {c: *a}}\n", "1:15 the alias *a refers to itself (define it with &a)"),
        ("a: *b\nb: &b 1\n", "1:4 the alias *b is not defined before it is used (define it with &b)"),
    ],
)
def test_aliases_refer_to_what_stands_before(text: str, expected: str) -> None:
    """No cycles, no forward references."""
    assert told(text) == [expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: caf\xe9\n", "1:10 byte 0xe9 is not UTF-8 (save the file as UTF-8)"),
        ("ü: ü\n".encode() + b"b: \xff", "2:4 byte 0xff is not UTF-8 (save the file as UTF-8)"),
        ("a: 1\n".encode("utf-16"), "0:0 w.yaml is UTF-16 (save it as UTF-8)"),
        (b"a: 1\nb: x\x00y\n", "2:5 the control character U+0000 is not allowed (remove it)"),
        ('a: "\x1b[31m"\n', "1:5 the control character U+001B is not allowed (remove it)"),
        ("a: \ud800\n", None),
        (b"", "0:0 w.yaml is empty (a workflow begins with `steps:`)"),
        (b"\xef\xbb\xbf", "0:0 w.yaml is empty (a workflow begins with `steps:`)"),
        ("\n# only a comment\n\n", "0:0 w.yaml is empty (a workflow begins with `steps:`)"),
        (
            "a: 1\n---\nb: 2\n",
            "3:1 a second document begins here (a workflow is one document: remove the `---` between them)",
        ),
        (
            "a: 1\n---\n",
            "3:1 a second document begins here (a workflow is one document: remove the `---` between them)",
        ),
        (b"#" * (1024 * 1024 + 1), "0:0 w.yaml is larger than 1 MiB (split it)"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_texts_that_are_no_workflow_at_all(content: str | bytes, expected: str | None) -> None:
    """Wrong encodings, control characters, empty, several documents, too large: one message each, with a place."""
    found = told(content)

    assert len(found) == 1
    assert expected is None or found == [expected]


def test_largest_file_is_read() -> None:
    """Exactly 1 MiB is still read."""
    text = b"a: 1 #"
    assert load(text + b"x" * (1024 * 1024 - len(text))).data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c\n", "1:5 a `:` is not allowed here (put the value in quotes, or check the indentation)"),
        ("a:\n\t- b\n", "2:1 a tab is not allowed for indentation (use spaces)"),
        ("a: @b\n", "1:4 a value cannot begin with this character (put the value in quotes)"),
        ('a: "b\n', "2:1 a quote is not closed (add the missing quote)"),
        ("a: [1, 2\nb: 3\n", "2:2 a list in brackets is not closed or lacks a comma (add `]` or `,`)"),
        ("a: {b: 1\n", "2:1 a map in braces is not closed or lacks a comma (add `}` or `,`)"),
        ("a: 1\n b: 2\n", "2:3 a `:` is not allowed here (put the value in quotes, or check the indentation)"),
        ("- a\nb: 1\n", "2:1 this is not indented like the list before it (check the indentation)"),
        ('a: "\\d"\n', "1:5 an unknown escape in double quotes (use single quotes, or write \\\\)"),
        ("a: !x!y z\n", "1:4 an unknown tag (an exclamation mark begins a tag in YAML: put the text in quotes)"),
        (
            "a: {url: ${{ inputs.x }}}\n",
            '1:10 an expression here must be in quotes (write "${{ … }}": YAML takes the braces for a map)',
        ),
    ],
)
def test_syntax_errors_in_plain_words(text: str, expected: str) -> None:
    """The parser's words become what is wrong, where, and what to do."""
    assert told(text) == [expected]


def test_several_problems_at_once_in_order() -> None:
    """Everything that does not keep the file from being read is reported together, by place."""
    text = "b: yes\na: 010\nb: 1\n2: x\nc: [on, !x y]\n"

    assert [(p.line, p.column) for p in problems(text)] == [(1, 4), (2, 4), (3, 1), (4, 1), (5, 5), (5, 9)]
    assert [p.source for p in problems(text)][2:4] == ["b: 1", "2: x"]


def test_problem_of_an_aliased_scalar_is_told_once() -> None:
    """The same text is not reported for every alias of it."""
    assert len(told("a: &a yes\nb: *a\nc: *a\n")) == 1


def test_document_with_problems_is_still_read() -> None:
    """`loads` answers what it could read, `checked` raises."""
    loaded = document.loads("a: yes\nb: 1\n", "w.yaml")

    assert loaded.data == {"a": "yes", "b": 1}
    with pytest.raises(InvalidWorkflow, match="1 problem"):
        loaded.checked()


# -- files ----------------------------------------------------------------------------------------------------------


def test_file_is_read_under_the_name_that_was_given(tmp_path: Path) -> None:
    """Messages have the name as typed; the path is absolute."""
    file = tmp_path / "w.yaml"
    file.write_text("a: 1\n")
    loaded = document.load(file, "../w.yaml")

    assert (loaded.file, loaded.path, loaded.data) == ("../w.yaml", file, {"a": 1})
    assert loaded.problem(("a",), "x").place == "../w.yaml:1:4"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.yaml", "there is no file none.yaml"),
        (".", ". is a folder"),
        ("large.yaml", "large.yaml is larger than 1 MiB"),
    ],
)
def test_files_that_cannot_be_read(name: str, message: str, tmp_path: Path) -> None:
    """No file, a folder, and a file that is not read to its end."""
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(1 << 40)  # sparse: nothing is written

    with pytest.raises(InvalidWorkflow) as caught:
        document.load(tmp_path / name, name)
    assert [p.message for p in caught.value.problems] == [message]


def read_objects(text: str, folder: Path) -> list[Any]:
    file = folder / "m.yaml"
    file.write_text(text)
    return [item.data for item in document.read_objects(file, "m.yaml")]


def test_manifests_are_several_documents_read_as_kubectl_does(tmp_path: Path) -> None:
    """Empty documents are left out; YAML 1.1 booleans and octals are what kubectl takes them for."""
    text = "---\na: yes\nb: 0755\nc: 'no'\n---\n# nothing\n---\n[0x10, 1_000, Off, NULL, 2024-01-01, 1:30, 1e3]\n"

    assert read_objects(text, tmp_path) == [
        {"a": True, "b": 493, "c": "no"},
        [16, "1_000", False, None, "2024-01-01", "1:30", 1000.0],
    ]


def test_manifests_with_problems_are_refused(tmp_path: Path) -> None:
    """The guards hold for manifests too, with the place in the manifest."""
    with pytest.raises(InvalidWorkflow) as caught:
        read_objects("a: 1\n---\nb: 1\nb: !!python/name:os.system\n", tmp_path)

    assert [(p.place, p.message.split(" is ")[0]) for p in caught.value.problems] == [
        ("m.yaml:4:1", "the key `b` stands twice in this map (first on line 3)"),
        ("m.yaml:4:4", "the tag !!python/name:os.system"),
    ]


def test_depth_of_manifests_is_bounded(tmp_path: Path) -> None:
    """A hostile manifest does not crash the process either."""
    with pytest.raises(InvalidWorkflow) as caught:
        read_objects("[" * 100_000, tmp_path)

    assert caught.value.problems[0].message == "nested deeper than 64 levels"
