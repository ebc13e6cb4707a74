"""Where the micrographs of a batch come from: listed as they are found, never all at once."""

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

from fusion_diff.batch.items import Item, expect_signable, file_system, unreachable
from fusion_diff.batch.parts import HEATMAPS, is_heatmap
from fusion_diff.batch.tables import paths_in_table
from fusion_diff.errors import BatchError, FusionDiffError
from fusion_diff.micrograph.discover import IMAGE_SUFFIXES, count_unread, match, search, warn_of_unread
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusion_diff.trust.signed import SignedFiles


def list_source(source: str, out: Path | None = None, unread: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the micrographs that a source names, as they are found and in no particular order.

    Args:
        source: a folder, searched as `discover` does; a glob pattern; a CSV file with a column `path`, whose relative
            paths start at its folder; an image; or the address of a folder, pattern, CSV file or image in a store that
            fsspec knows, such as `s3://bucket/folder`.
        out: the output folder, whose heat maps are passed over where a folder or pattern of this machine holds them.
        unread: counts pictures of other kinds that are passed over in a folder or pattern, by suffix.

    Raises:
        BatchError: there is nothing of that name or it cannot be listed.
        DependencyError: a package for this kind of store is not installed.
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
    """Look for the first micrograph of a source, so that what cannot be used is told before a model is loaded.

    Args:
        source: see `list_source`.
        signed: tells which files are signed, where they have to be.
        out: see `list_source`.

    Raises:
        BatchError: as `list_source`, or there is none.
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
    """Take and return the first micrograph that a source lists.

    Args:
        source: what is listed, for the error.
        listed: the listing, from its start.
        unread: the pictures of other kinds that the listing counted.

    Raises:
        BatchError: as `list_source`, or there is none.
    """
    first = next(listed, None)
    if first is None:
        warn_of_unread(printable(source), unread)
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise BatchError(f"{printable(source)}: it names no images; images are files ending in {kinds}")
    return first


def _of_this_machine(source: str, out: Path | None, unread: Counter[str] | None) -> Iterator[Item]:
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
    """Pass over what a run on this output writes, and nothing else: the output may be the source's own folder."""
    heatmaps = None if out is None else os.path.realpath(out / HEATMAPS)
    for path in files:
        if heatmaps is None or not is_heatmap(path) or os.path.realpath(path.parent.parent) != heatmaps:
            yield path


def _named(cell: str) -> Item | None:
    """What a table names by address, in the one way it is written; None for a path, which starts at the table."""
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
    # Absolute, so that a run from elsewhere knows what is done; without following links, which may change.
    return Item(os.path.abspath(path))  # noqa: PTH100 (Path.absolute keeps `..`)


def _of_a_store(source: str, unread: Counter[str] | None) -> Iterator[Item]:
    store, root = file_system(source)
    try:
        if PurePosixPath(root).suffix.lower() == ".csv" and store.isfile(root):
            folder = source.rpartition("/")[0]
            # Files of most stores read lines of any length only.
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
        raise BatchError(
            f"{printable(source)}: there is nothing of that name in the store; check the address"
        ) from error
    except Exception as error:  # each kind of store has errors of its own
        raise unreachable(source, error) from error


def _matched(store: Any, pattern: str, unread: Counter[str] | None) -> Iterator[Item]:
    """The images that a pattern names in a store, and those below the folders that it names, as `match` finds them."""
    for path, told in store.glob(pattern, detail=True).items():
        if _hidden(path, pattern):
            continue
        if told["type"] == "directory":
            if "**" not in pattern:  # `**` reaches the files below by itself
                yield from _searched(store, path, unread)
        elif _is_image(path, unread):
            yield Item(store.unstrip_protocol(path))


def _hidden(path: str, pattern: str) -> bool:
    """Whether a path leads through something hidden that the pattern does not ask for: to stores a dot is no matter."""
    asked = [part for part in PurePosixPath(pattern).parts if part.startswith(".")]
    hidden = (part for part in PurePosixPath(path).parts if part.startswith("."))
    return not all(any(fnmatchcase(part, each) for each in asked) for part in hidden)


def _searched(store: Any, root: str, unread: Counter[str] | None) -> Iterator[Item]:
    """The images below a folder of a store, folder by folder."""
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
