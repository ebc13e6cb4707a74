"""Paths as arguments: an empty one is refused, because Python takes it for the current folder."""

from __future__ import annotations

from pathlib import Path

from fusion_diff.errors import TrustError


def named_path(text: str) -> Path:
    """Return the path in an argument.

    Raises:
        TrustError: it is empty, as an unset variable of a shell is.
    """
    if not text:
        raise TrustError("PATH is empty; give a file or a folder, or . for the current folder")
    return Path(text)
