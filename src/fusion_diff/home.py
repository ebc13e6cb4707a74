"""Paths: those that begin in the home folder, absolute ones, files, folders, and what file managers leave."""

from __future__ import annotations

import os
from pathlib import Path

_LEFT_BY_FILE_MANAGERS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def at_home(path: str | os.PathLike[str]) -> Path:
    """Return a path in which a leading `~` stands for the home folder; unchanged where there is none.

    Raises:
        TypeError: it is not a path.
    """
    return Path(expanded(os.fspath(Path(path))))


def expanded(pattern: str) -> str:
    """Return a path or pattern in which a leading `~` stands for the home folder; the rest of it is as it was."""
    return os.path.expanduser(pattern)  # noqa: PTH111 (Path.expanduser raises where there is no such user)


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path without `..`, following no links but those before a `..`, as the system does."""
    parts = Path(path).parts
    if ".." not in parts:
        return Path(path).absolute()
    behind = len(parts) - parts[::-1].index("..")
    try:
        return Path(os.path.realpath(Path(*parts[:behind])), *parts[behind:])
    except ValueError:  # a NUL; whoever opens the path says what is wrong with it
        return Path(path).absolute()


def is_file(path: Path) -> bool:
    """Return whether a path is a file. A path that is too long or inaccessible gives False instead of an OSError."""
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises there)


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, with errors as in `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112 (likewise)


def left_by_file_manager(path: Path) -> bool:
    """Return whether this is a plain file that Finder or Explorer leaves in folders that somebody looks into."""
    named = path.name in _LEFT_BY_FILE_MANAGERS or path.name.startswith("._")
    return named and path.is_file() and not path.is_symlink()
