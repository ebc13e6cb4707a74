"""Paths that begin in the home folder."""

from __future__ import annotations

import os
from pathlib import Path


def at_home(path: str | os.PathLike[str]) -> Path:
    """Return a path in which a leading `~` stands for the home folder; unchanged where there is none.

    Raises:
        TypeError: it is not a path.
    """
    return Path(os.path.expanduser(Path(path)))  # noqa: PTH111 (Path.expanduser raises where there is no such user)
