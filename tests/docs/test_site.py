"""The documentation site: builds without a warning, holds every page, and asks for nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md"))
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]+src=["']?https?:|<link[^>]+href=["']?https?:|@import|fonts\.g"""
)


def test_every_page_stands_in_the_navigation():
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in PAGES if not re.search(rf": {re.escape(page)}$", listed, flags=re.MULTILINE)] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    for name in ("mkdocs", "material", "mkdocstrings"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed; pip install 'fusion-diff[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_holds_every_page_and_those_from_elsewhere(site):
    for page in [*PAGES, "index.md", "security.md", "contributing.md", "changelog.md"]:
        assert (site / page).with_suffix(".html").is_file(), page
    assert "from_pretrained" in (site / "api.html").read_text(encoding="utf-8")
    assert 'href="security.html#models-and-references"' in (site / "trust.html").read_text(encoding="utf-8")


def test_the_site_is_read_without_a_network(site):
    for page in site.rglob("*.html"):
        assert FETCHED.search(page.read_text(encoding="utf-8")) is None, page.name
