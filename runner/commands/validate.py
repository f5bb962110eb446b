"""`runner validate`: check workflow files, start nothing, reach nothing."""

from __future__ import annotations

import sys
from argparse import Namespace

from runner.commands import files
from runner.reports import terminal
from runner.reports.wording import harmless


def run(options: Namespace) -> int:
    """Exit 0 when all files are valid; problems are raised as `InvalidWorkflow`."""
    workflows = files.read(options.files, outside=options.allow_outside)
    warnings = [problem for workflow in workflows for problem in workflow.warnings]
    if options.output == "json":
        from runner.reports import json_report

        terminal.write(sys.stdout, json_report.render_problems(warnings))
        return 0
    if warnings:
        from runner.reports import problems

        width = terminal.columns(sys.stderr, problems.WIDTH)
        terminal.write(sys.stderr, problems.render(warnings, width=width))
    for workflow in workflows:
        count = len(workflow.all_steps)
        line = f"{harmless(workflow.file)}: valid, {count} step{'s' if count != 1 else ''}\n"
        sys.stdout.write(terminal.fit(sys.stdout, line))
    return 0
