"""Hooks of the documentation site (mkdocs.yml): pages that live elsewhere in the repository become part of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

TOP = Path(__file__).resolve().parents[1]
PAGES = {
    "index.md": "README.md",
    "security.md": "SECURITY.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site and the files they are."""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, with links as they are from docs/."""
    for name, source in PAGES.items():
        text = (TOP / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to those files into links to their pages, and links to other files outside docs/ into plain words."""
    known = {source: name for name, source in PAGES.items()}
    up = "../" * page.file.src_uri.count("/")

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        name = target.removeprefix(up).removeprefix("../")
        if name in known:
            return f"[{text}]({up}{known[name]}{anchor})"
        return text if target.startswith(f"{up}../") else found[0]

    return _LINK.sub(link, markdown)
