"""JSON that every stream can carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.reports.encode import as_json

DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50)
@given(DATA)
def test_round_trip(data: Any) -> None:
    """What is data comes back as it was, and the text is ASCII without control characters."""
    text = as_json(data)
    assert json.loads(text) == data
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks(number: float) -> None:
    """A NaN in a response does not make the whole report invalid."""
    assert json.loads(as_json({"a": [number, 1.5], "b": (number,)})) == {"a": [None, 1.5], "b": [None]}


def test_what_is_no_data_becomes_text() -> None:
    """A path or an odd key is no reason to lose a report."""
    assert json.loads(as_json({"path": Path("/x"), ("a",): 1} | {})) == {"path": "/x", "('a',)": 1}


def test_no_command_to_a_ci_runner() -> None:
    """`##[` anywhere in a line is a command to GitHub and Azure; escaped, it is the same JSON."""
    text = as_json({"line": "##[add-mask]x ##VSO[task]"})
    assert "##[" not in text
    assert "##VSO[" not in text
    assert json.loads(text) == {"line": "##[add-mask]x ##VSO[task]"}
