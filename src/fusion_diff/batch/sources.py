"""Sources of a batch. Micrographs are listed one by one as they are found, never all at once."""

from __future__ import annotations

import glob
import io
import os
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fusion_diff.batch.csv_lists import paths_in_table
from fusion_diff.batch.items import Item, expect_signable, file_system, unreachable
from fusion_diff.batch.parts import HEATMAPS, is_heatmap
from fusion_diff.errors import BatchError, FusionDiffError
from fusion_diff.home import absolute, expanded
from fusion_diff.micrograph.discover import IMAGE_SUFFIXES, count_unread, match, search, warn_of_unread
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fusion_diff.trust.signed import SignedFiles


def list_sources(sources: Iterable[str], out: Path, unread: dict[str, Counter[str]]) -> Iterator[Item]:
    """Yield the micrographs of several sources, one source after the other. A micrograph may be yielded repeatedly.

    Args:
        sources: see `list_source`.
        out: see `list_source`.
        unread: is filled with the counter of skipped files of each source, see `list_source`.

    Raises:
        BatchError: as `list_source`, or a source has no micrographs.
        DependencyError: as `list_source`.
    """
    for source in sources:
        unread[source] = Counter()
        listed = list_source(source, out, unread[source])
        yield expect_images(source, listed, unread[source])
        yield from listed


def list_source(source: str, out: Path | None = None, unread: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the micrographs of a source as they are found, in no particular order.

    Args:
        source: a folder, searched like in `discover`; a glob pattern; a CSV file with a column `path` or `file`, whose
            relative paths start at its folder; an image; or the address of any of these in a store that fsspec
            supports, such as `s3://bucket/folder`.
        out: the output folder. Its heat maps are skipped if a local folder or pattern includes them.
        unread: counter of skipped image files of other kinds in a folder or pattern, by suffix.

    Raises:
        BatchError: the source does not exist or cannot be listed.
        DependencyError: the package for this kind of store is not installed.
    """
    source = _without_file(source)
    listed = _of_a_store(source, unread) if "://" in source else _of_this_machine(source, out, unread)
    try:
        yield from listed
    except (OSError, ValueError) as error:
        if isinstance(error, FusionDiffError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        where = error.filename if isinstance(error, OSError) and error.filename else source
        raise BatchError(
            f"{printable(where)}: cannot be listed ({printable(reason)}); check its permissions"
        ) from error


def check_source(source: str, signed: SignedFiles | None = None, out: Path | None = None) -> None:
    """Find the first micrograph of a source, so that an unusable source raises before a model is loaded.

    Args:
        source: see `list_source`.
        signed: the signed files, if signatures are required.
        out: see `list_source`.

    Raises:
        BatchError: as `list_source`, or the source has no micrographs.
        DependencyError: as `list_source`.
        TrustError: the source is in a store, or no trusted signature covers the first micrograph.
    """
    if signed is not None:
        expect_signable(Item(_without_file(source)))
    unread = Counter[str]()
    first = expect_images(source, list_source(source, out, unread), unread)
    if signed is not None:
        expect_signable(first)
        signed.expect_covered(first.path)


def expect_images(source: str, listed: Iterator[Item], unread: Counter[str]) -> Item:
    """Return the first micrograph of a listing.

    Args:
        source: the source, for the error message.
        listed: its listing, from the start.
        unread: the listing's counter of skipped files.

    Raises:
        BatchError: as `list_source`, or the listing is empty.
    """
    first = next(listed, None)
    if first is None:
        warn_of_unread(printable(source), unread)
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BatchError(f"{printable(source)}: contains no images; images are files ending in {kinds}")
    return first


def _of_this_machine(source: str, out: Path | None, unread: Counter[str] | None) -> Iterator[Item]:
    source = expanded(source)
    path = Path(source)
    if path.is_dir():
        yield from map(_local, _without_heatmaps(search(path, unread), out))
    elif path.is_file() and path.suffix.lower() == ".csv":
        with path.open("rb") as stream:
            for cell in paths_in_table(stream, printable(path)):
                yield _named(cell) or _local(path.parent / cell)
    elif path.is_file():
        yield _local(path)
    elif glob.has_magic(source):
        yield from map(_local, _without_heatmaps(match(source, unread), out))
    else:
        raise BatchError(f"{printable(source)}: there is no such file or folder; check the path")


def _without_heatmaps(files: Iterator[Path], out: Path | None) -> Iterator[Path]:
    """Skip the heat maps of this output, and no other file. The output may be the source folder itself."""
    heatmaps = None if out is None else os.path.realpath(out / HEATMAPS)
    for path in files:
        if heatmaps is None or not is_heatmap(path) or os.path.realpath(path.parent.parent) != heatmaps:
            yield path


def _named(cell: str) -> Item | None:
    """Return the item for an address in a table, in normal form; None for a path relative to the table."""
    if "://" not in cell:
        return None
    cell = _without_file(cell)
    return _address(cell) if "://" in cell else _local(Path(cell))


def _without_file(source: str) -> str:
    return url2pathname(urlsplit(source).path) if source.startswith("file://") else source


def _address(address: str) -> Item:
    store, path = file_system(address)
    return Item(store.unstrip_protocol(path))


def _local(path: Path) -> Item:
    # Absolute, so that runs from other folders have the same keys. Links are not resolved because they may change.
    return Item(str(absolute(path)))


def _of_a_store(source: str, unread: Counter[str] | None) -> Iterator[Item]:
    store, root = file_system(source)
    try:
        if PurePosixPath(root).suffix.lower() == ".csv" and store.isfile(root):
            folder = source.rpartition("/")[0]
            # The files of most stores cannot limit the length of a line that they read.
            with io.BufferedReader(store.open(root, "rb")) as stream:
                for cell in paths_in_table(stream, printable(source)):
                    yield _named(cell) or _address(f"{folder}/{cell}")
        elif glob.has_magic(root):
            yield from _matched(store, root, unread)
        elif store.isfile(root):
            yield Item(store.unstrip_protocol(root))
        else:
            yield from _searched(store, root, unread)
    except FusionDiffError:
        raise
    except FileNotFoundError as error:
        raise BatchError(f"{printable(source)}: does not exist in the store; check the address") from error
    except Exception as error:  # each kind of store has its own errors
        raise unreachable(source, error) from error


def _matched(store: Any, pattern: str, unread: Counter[str] | None) -> Iterator[Item]:
    """Yield the images that a pattern matches in a store and those below the folders it matches, like `match`."""
    for path, told in store.glob(pattern, detail=True).items():
        if _hidden(path, pattern):
            continue
        if told["type"] == "directory":
            if "**" not in pattern:  # `**` itself matches the files below
                yield from _searched(store, path, unread)
        elif _is_image(path, unread):
            yield Item(store.unstrip_protocol(path))


def _hidden(path: str, pattern: str) -> bool:
    """Return whether a part of a path is hidden and not named by the pattern. Stores do not treat dots specially."""
    asked = [part for part in PurePosixPath(pattern).parts if part.startswith(".")]
    hidden = (part for part in PurePosixPath(path).parts if part.startswith("."))
    return not all(any(fnmatchcase(part, each) for each in asked) for part in hidden)


def _searched(store: Any, root: str, unread: Counter[str] | None) -> Iterator[Item]:
    """Yield the images below a folder of a store, folder by folder."""
    for folder, _, names in store.walk(root, on_error="raise"):
        hidden = any(part.startswith(".") for part in PurePosixPath(folder[len(root) :].lstrip("/")).parts)
        for name in () if hidden else sorted(names):
            if _is_image(name, unread):
                yield Item(store.unstrip_protocol(f"{folder}/{name}" if folder else name))


def _is_image(path: str, unread: Counter[str] | None) -> bool:
    name = PurePosixPath(path)
    if name.name.startswith("."):
        return False
    count_unread(name, unread)
    return name.suffix.lower() in IMAGE_SUFFIXES
