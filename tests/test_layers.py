"""The layers: imports only point down, and each library has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "runner"

# What a part of the package may import, apart from the standard library and the leaves that everybody may use.
LEAVES = {"errors", "deadline", "masking", "confidential", "process_table"}
ALLOWED = {
    "__main__": {"cli"},
    "cli": {"commands", "reports", "result"},
    "commands": {
        "cli",
        "commands",
        "cleanup",
        "watchdog",
        "orphans",
        "engine",
        "preflight",
        "invocation",
        "steps",
        "cluster",
        "building",
        "inputs",
        "workflow",
        "schema",
        "document",
        "expressions",
        "shell",
        "journal",
        "events",
        "reports",
        "result",
        "signals",
    },
    "preflight": {"invocation", "steps", "cluster", "workflow", "expressions", "shell"},
    "engine": {
        "context",
        "preflight",
        "invocation",
        "cleanup",
        "scope",
        "steps",
        "cluster",
        "workflow",
        "expressions",
        "shell",
        "journal",
        "events",
        "result",
    },
    "context": {
        "invocation",
        "cleanup",
        "scope",
        "steps",
        "cluster",
        "workflow",
        "expressions",
        "shell",
        "journal",
        "result",
    },
    "invocation": {"cluster", "journal"},
    "scope": {"steps"},
    "cleanup": {"cluster", "shell", "journal", "result"},
    "watchdog": {"watchdog", "cleanup", "cluster", "orphans", "journal", "events", "reports", "result"},
    "orphans": {"journal"},
    "steps": {"steps", "cluster", "document", "expressions", "shell", "journal"},
    "cluster": {"cluster", "document", "shell", "journal"},
    "building": {"inputs", "workflow", "document", "schema", "expressions", "steps"},
    "inputs": {"workflow", "expressions"},
    "workflow": {"schema", "expressions", "steps"},
    "schema": {"document", "expressions", "steps"},
    "document": set(),
    "expressions": set(),
    "shell": set(),
    "journal": set(),
    "events": set(),
    "result": set(),
    "signals": set(),
    "reports": {"reports", "events", "result"},
    "deadline": {"errors"},
    "errors": set(),
    "masking": set(),
    "confidential": set(),
}
# `steps` is more than one layer: others know the contract, not the kinds.
ONLY_CONTRACT = {"building", "workflow", "schema", "scope"}
DOORS = {
    "sh": "shell.py",
    "yaml": "document.py",
    "jsonschema": "schema.py",
    "referencing": "schema.py",
    "structlog": "reports/log.py",
    "rich": "reports/live.py",
    "cel_expr_python": "expressions.py",
    "argparse": "cli.py",
}


def test_imports_point_down() -> None:
    """A module imports only what stands below it; the offending arrows are printed."""
    wrong = [
        f"{module} -> {imported}"
        for path in PACKAGE.rglob("*.py")
        for module, imported in _arrows(path)
        if not _may(module, imported)
    ]

    assert wrong == []


def test_kinds_do_not_import_each_other() -> None:
    """A step kind never imports another kind."""
    kinds = {"apply", "build", "delete", "forward", "load", "run", "verify", "wait"}
    wrong = [
        f"{path.name} -> {imported}"
        for path in (PACKAGE / "steps").glob("*.py")
        if path.name != "__init__.py"
        for _, imported in _arrows(path)
        if imported.rpartition(".")[2] in kinds and imported.startswith("steps.")
    ]

    assert wrong == []


def test_each_library_has_one_door() -> None:
    """sh, PyYAML, jsonschema, structlog, rich and CEL are imported in one module each."""
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        for name in _imports(ast.parse(path.read_text()), typing=False)
        if name.split(".")[0] in DOORS and str(path.relative_to(PACKAGE)) != DOORS[name.split(".")[0]]
        if not (name.startswith("argparse") and path.parent.name == "commands")
    ]

    assert wrong == []


def _may(module: str, imported: str) -> bool:
    source, target = module.split(".", maxsplit=1)[0], imported.split(".", maxsplit=1)[0]
    if target in LEAVES or imported in ("", "__version__"):
        return source != "errors"
    if source in ONLY_CONTRACT and target == "steps":
        return imported.startswith(("steps.kind", "steps.bounds"))
    return target in ALLOWED[source]


def _arrows(path: Path) -> Iterator[tuple[str, str]]:
    relative = path.relative_to(PACKAGE).with_suffix("")
    module = ".".join(part for part in relative.parts if part != "__init__")
    for name in _imports(ast.parse(path.read_text()), typing=False):
        if module and (name == "runner" or name.startswith("runner.")):
            yield module, name.removeprefix("runner").removeprefix(".")


def _imports(tree: ast.AST, *, typing: bool) -> Iterator[str]:
    """Imported modules, those for the type checker alone left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not typing:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module in ("runner", "runner.steps", "runner.cluster", "runner.commands", "runner.reports"):
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module
        else:
            yield from _imports(node, typing=typing)
