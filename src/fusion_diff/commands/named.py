"""Paths as arguments: an empty one is refused, because Python takes it for the current folder."""

from __future__ import annotations

from pathlib import Path

import typer


def named_path(text: str) -> Path:
    """Return the path in an argument.

    Raises:
        typer.BadParameter: it is empty, as an unset variable of a shell is.
    """
    if not text:
        raise typer.BadParameter("PATH is empty; give a file or a folder, or . for the current folder")
    return Path(text)
