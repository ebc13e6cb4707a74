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
            are skipped in searches, and folders are entered once, however many links lead there. Links that lead
            nowhere count as files, so that reading them tells of them.

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
            return _some(name, search(location), "the folder holds no images")
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
    return _some(name, match(str(path)), "the pattern matches no images")


def _some(name: str, files: Iterable[Path], problem: str) -> list[Path]:
    listed = sorted(files)
    if not listed:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise MicrographError(f"{name}: {problem}; images are files ending in {kinds}")
    return listed


def match(pattern: str) -> Iterator[Path]:
    """Yield the image files that a glob pattern names, by the rules of `discover`, as they are found."""
    suffix = Path(pattern).suffix
    suffix_given = bool(suffix) and not glob.has_magic(suffix)
    for match in glob.iglob(pattern, recursive=True):  # noqa: PTH207 (Path.glob takes no absolute patterns)
        path = Path(match)
        if path.is_dir():
            if "**" not in pattern:  # `**` reaches the files below by itself
                yield from search(path)
        elif (path.is_file() or _leads_nowhere(path)) and (suffix_given or path.suffix.lower() in IMAGE_SUFFIXES):
            yield path


def search(folder: Path) -> Iterator[Path]:
    """Yield the image files in a folder and its subfolders, by the rules of `discover`, as they are found.

    Raises:
        OSError: a folder cannot be listed; one that is skipped in silence would be a lot that nobody inspected.
    """
    entered = {os.path.realpath(folder)}
    folders = [folder]
    while folders:
        below = []
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = Path(entry.path)
                broken = entry.is_symlink() and _leads_nowhere(path)
                if not broken and entry.is_dir():
                    below.append(path)
                elif path.suffix.lower() in IMAGE_SUFFIXES and (broken or entry.is_file()):
                    yield path
        kept = []
        for path in sorted(below):  # in order, so that of two links to a folder always the same counts
            target = os.path.realpath(path)
            if target not in entered:
                entered.add(target)
                kept.append(path)
        folders += reversed(kept)


def _leads_nowhere(path: Path) -> bool:
    """Tell whether this is a link without a target: not passed over, for it could take the place of a micrograph."""
    return path.is_symlink() and not os.path.exists(path)  # noqa: PTH110 (Path.exists raises where it may not look)
