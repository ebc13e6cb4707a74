"""Expansion of files, folders and patterns into a list of image files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from itertools import chain, repeat
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from fusion_diff.counted import counted
from fusion_diff.errors import MicrographError
from fusion_diff.home import expanded
from fusion_diff.printable import printable
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jfif", ".bmp"})
"""Lower-case suffixes of the files in a folder that count as images. The actual format is found on reading."""

_MICROSCOPES = {".czi", ".dm3", ".dm4", ".lsm", ".raw", ".svs"}
_PICTURES = {".avif", ".gif", ".heic", ".heif", ".jp2", ".npy", ".pgm", ".psd", ".webp"}
UNREAD_SUFFIXES = frozenset(_MICROSCOPES | _PICTURES)
"""Suffixes of image and instrument files of unsupported kinds. In a folder they are skipped with a warning."""


_DEEPEST = 256
"""Most parts of a folder's path: the time to tell whether a link led there before grows by the cube of them."""


def discover(paths: Iterable[str | Path] | str | Path) -> list[Path]:
    """Return the image files named by `paths`.

    Args:
        paths: each a file, a folder or a glob pattern; `~` stands for the home folder. A file is taken whatever its
            suffix. A folder is searched with its subfolders for files with one of `IMAGE_SUFFIXES`. In a pattern, `**`
            matches any number of folders. Matched files are filtered by `IMAGE_SUFFIXES` unless the pattern ends in a
            suffix, and matched folders are searched. Searches skip hidden files and folders, and enter a folder once
            even if several links lead to it. Broken links and pipes count as files, so that reading them raises an
            error.

    Returns:
        The files in the order of `paths`, sorted within each, each file once.

    Raises:
        MicrographError: a path does not exist, or a folder or pattern holds no images; the message names it.

    Warns:
        UserWarning: image files of unsupported kinds were skipped.
    """
    found: dict[str, Path] = {}  # by real path, so that two paths to one file count once
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for file in _expand(path):
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _expand(path: str | Path) -> list[Path]:
    name = printable(path)
    try:
        pattern = expanded(os.fspath(path))
        location = Path(pattern)
        if location.is_dir():
            return _some(name, search, str(location), "the folder holds no images")
        if location.exists():
            if not location.is_file():
                raise MicrographError(f"{name}: this is a device or a pipe, not a file; give an image file or a folder")
            return [location]
        if not glob.has_magic(pattern):
            raise MicrographError(f"{name}: there is no such file or folder; check the path")
        return _some(name, match, pattern, "the pattern matches no images")
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
    """Warn of the number of skipped files per suffix of `UNREAD_SUFFIXES`, if there are any."""
    if unread:
        told = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(unread.items()))
        many = counted(unread.total(), "file")
        warn(f"{where}: skipped {many} of unsupported formats ({told}); export them as TIFF or PNG")


def match(pattern: str, unread: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the image files that match a glob pattern as they are found, by the rules of `discover`.

    Args:
        pattern: the pattern.
        unread: counter of skipped files by suffix, for the suffixes in `UNREAD_SUFFIXES`.
    """
    suffix = Path(pattern).suffix
    suffix_given = bool(suffix) and not glob.has_magic(suffix)
    parts = Path(pattern).parts
    for path in _across(parts) if "**" in parts else _globbed(pattern):
        if path.is_dir():
            if "**" not in parts:  # `**` itself matches the files below
                yield from search(path, unread)
        elif suffix_given or path.suffix.lower() in IMAGE_SUFFIXES:
            yield path
        else:
            count_unread(path, unread)


def _globbed(pattern: str) -> Iterator[Path]:
    return map(Path, glob.iglob(pattern))  # noqa: PTH207 (Path.glob takes no absolute patterns)


def _globbed_in(folder: Path, parts: Iterable[str]) -> Iterator[Path]:
    """Return what the parts of a pattern match in a folder. Without parts, this is the folder itself."""
    return _globbed(str(Path(glob.escape(str(folder)), *parts)))


def _across(parts: Sequence[str]) -> Iterator[Path]:
    """Yield what a pattern with `**` matches. If links give several paths to a folder, only one of them is used.

    `glob` would follow looping links up to the system's limit.
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
    """Yield the folders among paths and all folders below them except hidden ones, in the order of `search`."""
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
    # `entry.is_dir` raises for a link that leads to itself; `Path.is_dir` does not.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def search(folder: str | Path, unread: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the image files in a folder and its subfolders as they are found, by the rules of `discover`.

    Args:
        folder: the folder.
        unread: counter of skipped files by suffix, for the suffixes in `UNREAD_SUFFIXES`.

    Raises:
        OSError: a folder cannot be listed. Silently skipping it could leave a whole lot uninspected.
        MicrographError: folders lie in each other too deeply.
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
                elif path.suffix.lower() in IMAGE_SUFFIXES:
                    yield path
                else:
                    count_unread(path, unread)
        folders += _not_entered(below, entered)


def _not_entered(folders: Iterable[Path], entered: set[str]) -> list[Path]:
    """Return the folders that were not entered yet, in reverse order, and mark them as entered.

    Raises:
        MicrographError: one lies too deep.
    """
    kept = []
    for path in sorted(folders):  # sorted, so that of two links to a folder always the same one is used
        if len(path.parts) > _DEEPEST:
            deep = f"folders lie in each other more than {_DEEPEST} deep"
            raise MicrographError(f"{printable(path, 200)}: {deep}; move the images up, or name other folders")
        target = os.path.realpath(path)
        if target not in entered:
            entered.add(target)
            kept.append(path)
    return kept[::-1]


def count_unread(path: PurePath, unread: Counter[str] | None) -> None:
    """Count a file by its suffix if this is in `UNREAD_SUFFIXES` and there is a counter."""
    if unread is not None and (suffix := path.suffix.lower()) in UNREAD_SUFFIXES:
        unread[suffix] += 1


def _leads_nowhere(path: Path) -> bool:
    """Return whether this is a broken link. It is not skipped, because it may stand for a micrograph."""
    return path.is_symlink() and not os.path.exists(path)  # noqa: PTH110 (Path.exists raises where it may not look)
