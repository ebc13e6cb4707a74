"""Turning what a user names (files, folders, patterns) into a list of image files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from itertools import chain, repeat
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from fusion_diff.counted import counted
from fusion_diff.errors import MicrographError
from fusion_diff.printable import printable
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"})
"""Suffixes, in lower case, that make a file in a folder an image; what it really is shows when it is read."""

UNREAD_SUFFIXES = frozenset(
    {".czi", ".dm3", ".dm4", ".gif", ".heic", ".jp2", ".lsm", ".npy", ".pgm", ".raw", ".svs", ".webp"}
)
"""Suffixes of other pictures, and of what instruments save: in a folder they are passed over, which is told."""


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

    Warns:
        UserWarning: pictures of kinds that are not read were passed over.
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
            return _some(name, search, str(location), "the folder holds no images")
        if location.exists():
            if not location.is_file():
                raise MicrographError(f"{name}: this is a device or a pipe, not a file; name an image file or a folder")
            return [location]
        if not glob.has_magic(str(path)):
            raise MicrographError(f"{name}: there is no such file or folder; check the path")
        return _some(name, match, str(path), "the pattern matches no images")
    except (OSError, ValueError) as error:
        if isinstance(error, MicrographError):
            raise
        raise MicrographError(f"{name}: the path cannot be read ({error}); check its permissions") from error


def _some(name: str, look: Callable[[str, Counter[str]], Iterable[Path]], where: str, problem: str) -> list[Path]:
    unread = Counter[str]()
    listed = sorted(look(where, unread))
    warn_of_unread(name, unread)
    if not listed:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise MicrographError(f"{name}: {problem}; images are files ending in {kinds}")
    return listed


def warn_of_unread(where: str, unread: Counter[str]) -> None:
    """Warn of pictures that were passed over, if any were: how many there are of each suffix of `UNREAD_SUFFIXES`."""
    if unread:
        told = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(unread.items()))
        many = counted(unread.total(), "file")
        warn(f"{where}: passed over {many} of kinds that are not read ({told}); export them as TIFF or PNG")


def match(pattern: str, unread: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the image files that a glob pattern names, by the rules of `discover`, as they are found.

    Args:
        pattern: the pattern.
        unread: counts files passed over by suffix, those of `UNREAD_SUFFIXES`.
    """
    suffix = Path(pattern).suffix
    suffix_given = bool(suffix) and not glob.has_magic(suffix)
    parts = Path(pattern).parts
    for path in _across(parts) if "**" in parts else _globbed(pattern):
        if path.is_dir():
            if "**" not in parts:  # `**` reaches the files below by itself
                yield from search(path, unread)
        elif path.is_file() or _leads_nowhere(path):
            if suffix_given or path.suffix.lower() in IMAGE_SUFFIXES:
                yield path
            else:
                count_unread(path, unread)


def _globbed(pattern: str) -> Iterator[Path]:
    return map(Path, glob.iglob(pattern))  # noqa: PTH207 (Path.glob takes no absolute patterns)


def _globbed_in(folder: Path, parts: Iterable[str]) -> Iterator[Path]:
    """What the parts of a pattern match in a folder; none matches the folder itself."""
    return _globbed(str(Path(glob.escape(str(folder)), *parts)))


def _across(parts: Sequence[str]) -> Iterator[Path]:
    """What a pattern with `**` matches; of the paths to one folder that links make, one counts.

    `glob` would follow links that loop for as long as the system lets it.
    """
    pieces: list[list[str]] = [[]]
    for part in parts:
        if part == "**":
            pieces.append([])
        else:
            pieces[-1].append(part)
    if not pieces[-1]:
        pieces[-1].append("*")
    found = _globbed_in(Path(), pieces[0])
    for piece in pieces[1:]:
        found = chain.from_iterable(map(_globbed_in, _folders(found), repeat(piece)))
    names: dict[str, Path] = {}
    for path in found:
        if names.setdefault(os.path.realpath(path.parent), path.parent) == path.parent:
            yield path


def _folders(paths: Iterable[Path]) -> Iterator[Path]:
    """The folders among paths and all below them that are not hidden, in the order of `search`."""
    entered: set[str] = set()
    for path in paths:
        folders = _not_entered([path], entered) if path.is_dir() else []
        while folders:
            folder = folders.pop()
            yield folder
            with os.scandir(folder) as entries:
                below = [Path(entry.path) for entry in entries if not entry.name.startswith(".") and _is_folder(entry)]
            folders += _not_entered(below, entered)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads to itself is an error to `entry` alone.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def search(folder: str | Path, unread: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the image files in a folder and its subfolders, by the rules of `discover`, as they are found.

    Args:
        folder: the folder.
        unread: counts files passed over by suffix, those of `UNREAD_SUFFIXES`.

    Raises:
        OSError: a folder cannot be listed; one that is skipped in silence would be a lot that nobody inspected.
    """
    entered = {os.path.realpath(folder)}
    folders = [Path(folder)]
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
                elif broken or entry.is_file():
                    if path.suffix.lower() in IMAGE_SUFFIXES:
                        yield path
                    else:
                        count_unread(path, unread)
        folders += _not_entered(below, entered)


def _not_entered(folders: Iterable[Path], entered: set[str]) -> list[Path]:
    """Return folders that were not entered yet, noting that they are now, the first to enter at the end."""
    kept = []
    for path in sorted(folders):  # in order, so that of two links to a folder always the same counts
        target = os.path.realpath(path)
        if target not in entered:
            entered.add(target)
            kept.append(path)
    return kept[::-1]


def count_unread(path: PurePath, unread: Counter[str] | None) -> None:
    """Count a file by its suffix, if it is one of `UNREAD_SUFFIXES` and anybody counts."""
    if unread is not None and (suffix := path.suffix.lower()) in UNREAD_SUFFIXES:
        unread[suffix] += 1


def _leads_nowhere(path: Path) -> bool:
    """Tell whether this is a link without a target: not passed over, for it could take the place of a micrograph."""
    return path.is_symlink() and not os.path.exists(path)  # noqa: PTH110 (Path.exists raises where it may not look)
