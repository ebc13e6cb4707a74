"""The plan of the house in docs/design.md: it names every module, and imports run downward in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fusion_diff

PACKAGE = Path(fusion_diff.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "design.md"


@pytest.fixture(scope="module")
def storeys() -> dict[str, int]:
    """How far below the roof each module or subpackage lies."""
    rows = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    names = [re.findall(r"`([\w.]+?)(?:\.py|/)`", row) for row in rows]
    return {name: storey for storey, row in enumerate(names) for name in row}


def test_every_module_has_its_place(storeys):
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists())
    }
    assert set(storeys) == there - {"__init__"}


def test_imports_run_downward(storeys):
    upward = []
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE)
        own = place.parts[0].removesuffix(".py")
        if own == "__init__" or file.name == "__main__.py":  # a door, not a storey
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                first, _, rest = node.module.partition(".")
                names = [rest.split(".")[0]] if rest else [alias.name for alias in node.names]
                upward += [
                    f"{place} imports {name}"
                    for name in names
                    if first == "fusion_diff" and storeys.get(name, storeys[own]) < storeys[own]
                ]
    assert upward == ["model.py imports trust"], "in a function; see docs/design.md"


def test_text_has_the_same_line_ends_on_every_system():
    """Many files are digested, or go from one system to another."""
    by_system = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            given = [*call.args, *(option.value for option in call.keywords if option.arg == "mode")]
            modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            writes = name in ("open", "fdopen") and any(re.fullmatch(r"[wax][t+]*", mode) for mode in modes)
            options = {option.arg for option in call.keywords}
            writes |= isinstance(call.func, ast.Attribute) and name == "write_text"
            if writes and "newline" not in options:
                by_system.append(file.name)
    assert by_system == ["printable.py"], "to nowhere, for streams that are closed"
