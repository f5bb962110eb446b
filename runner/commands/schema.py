"""`runner schema`: the JSON Schema of workflow files, or the reference page; both made from the kinds."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from runner import schema
from runner.commands import reference
from runner.steps import KINDS
from runner.workflow import FileKeys, StepKeys


def run(options: Namespace) -> int:
    sys.stdout.write(reference.page() if options.reference else text())
    return 0


def text() -> str:
    """The schema as it is committed in `schemas/workflow.schema.json`."""
    return json.dumps(schema.compose(FileKeys, StepKeys, tuple(KINDS.values())), indent=2, ensure_ascii=False) + "\n"
