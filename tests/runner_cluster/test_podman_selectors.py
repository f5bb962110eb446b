"""Label selectors."""

from __future__ import annotations

import pytest

from runner.cluster.podman_selectors import matches
from runner.errors import StepFailed


@pytest.mark.parametrize(
    ("selector", "holds"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier!=db", True),
        ("app=web,tier=db", False),
        ("app in (web, api)", True),
        ("app notin (web, api)", False),
        ("app", True),
        ("!app", False),
        ("!old,app", True),
        ("example.com/a-b=c", False),
    ],
)
def test_selectors(selector: str, *, holds: bool) -> None:
    assert matches(selector, {"app": "web"}) is holds


def test_what_is_no_selector_is_said() -> None:
    with pytest.raises(StepFailed, match="is not a label selector"):
        matches("app=(", {})
