"""docs/api.md names what is there, and all that the tutorials import."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMED = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
IMPORTS = sorted(
    (page.stem, module, name)
    for page in (DOCS / "tutorials").glob("*.md")
    for module, names in re.findall(
        r"^from (fusion_diff[\w.]*) import (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    for name in names.split(", ")
)


def find(dotted: str) -> object:
    """What a full name names: a module, or what a module holds."""
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return import_module(dotted)


@pytest.mark.parametrize("dotted", NAMED)
def test_what_the_page_names_is_there(dotted):
    assert find(dotted).__doc__


@pytest.mark.parametrize(("page", "module", "name"), IMPORTS)
def test_what_a_tutorial_imports_is_on_the_page(page, module, name):
    imported = find(f"{module}.{name}")
    if type(imported).__name__ == "module":  # a tutorial takes some things from it
        assert [each for each in NAMED if each.startswith(f"{imported.__name__}.")]
    else:
        assert [each for each in NAMED if find(each) is imported]
