"""Turning what a user names (files, folders, patterns) into a list of image files."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.errors import MicrographError
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"})
"""Suffixes, in lower case, that make a file in a folder an image; what it really is shows when it is read."""


def discover(paths: Iterable[str | Path] | str | Path) -> list[Path]:
    """Return the image files that `paths` name.

    Args:
        paths: each a file (taken whatever its suffix), a folder (searched with its subfolders for files with one of
            `IMAGE_SUFFIXES`) or a glob pattern (`**` crosses folders; unless the pattern ends in a suffix, the files it
            matches are filtered by `IMAGE_SUFFIXES`, and the folders it matches are searched). Hidden files and folders
            are skipped in searches, and folders are entered once, however many links lead there.

    Returns:
        The files in the order of `paths`, sorted within each, each file once.

    Raises:
        MicrographError: a path does not exist, or a folder or pattern holds no images; the message names it.
    """
    found: dict[str, Path] = {}  # by real path, so that two ways to one file count once
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for file in _expand(path):
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _expand(path: str | Path) -> list[Path]:
    location, name = Path(path), printable(path)
    try:
        if location.is_dir():
            return _some(name, _search(location), "the folder holds no images")
        if location.exists():
            if not location.is_file():
                raise MicrographError(f"{name}: this is a device or a pipe, not a file; name an image file or a folder")
            return [location]
    except (OSError, ValueError) as error:
        if isinstance(error, MicrographError):
            raise
        raise MicrographError(f"{name}: the path cannot be read ({error}); check its permissions") from error
    if not glob.has_magic(str(path)):
        raise MicrographError(f"{name}: there is no such file or folder; check the path")
    return _some(name, _match(str(path)), "the pattern matches no images")


def _some(name: str, files: Iterable[Path], problem: str) -> list[Path]:
    listed = sorted(files)
    if not listed:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise MicrographError(f"{name}: {problem}; images are files ending in {kinds}")
    return listed


def _match(pattern: str) -> Iterator[Path]:
    suffix = Path(pattern).suffix
    suffix_given = bool(suffix) and not glob.has_magic(suffix)
    for match in glob.iglob(pattern, recursive=True):  # noqa: PTH207 (Path.glob takes no absolute patterns)
        path = Path(match)
        if path.is_dir():
            if "**" not in pattern:  # `**` reaches the files below by itself
                yield from _search(path)
        elif path.is_file() and (suffix_given or path.suffix.lower() in IMAGE_SUFFIXES):
            yield path


def _search(folder: Path) -> Iterator[Path]:
    entered = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(folders):
            target = os.path.realpath(os.path.join(parent, name))  # noqa: PTH118
            if not name.startswith(".") and target not in entered:
                entered.add(target)
                kept.append(name)
        folders[:] = kept
        for name in files:
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path
