"""Benchmarks are run by hand and seldom: here at least what they import from milpq is there."""

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest


def _imported(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Yield what is imported from milpq: a module, and a name in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "milpq")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "milpq":
            yield from ((node.module, alias.name) for alias in node.names)


IMPORTS = {
    path.name: list(_imported(ast.parse(path.read_text(encoding="utf-8"))))
    for path in sorted((Path(__file__).parents[3] / "benchmarks").glob("*.py"))
}


@pytest.mark.parametrize("script", [name for name, imported in IMPORTS.items() if imported])
def test_what_a_benchmark_imports_exists(script: str) -> None:
    for module, name in IMPORTS[script]:
        found = hasattr(importlib.import_module(module), name) if name else importlib.util.find_spec(module)
        assert found or importlib.util.find_spec(f"{module}.{name}"), f"{script}: {module}.{name}"
