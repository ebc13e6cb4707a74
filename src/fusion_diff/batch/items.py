"""One micrograph of a batch: its path or address, its key, and a local file with its bytes."""

from __future__ import annotations

import errno
import hashlib
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff.dependencies import needed, store_missing
from fusion_diff.errors import BatchError, FetchError, MicrographError, TrustError, machine_fault
from fusion_diff.micrograph.limits import refusal
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FETCH_BYTES = 2**33
"""Largest file fetched from a store (8 GiB)."""
TRIES = 3
PAUSE_S = 1.0
"""Seconds before a file is requested again; twice as long the next time."""

_CHUNK_BYTES = 2**22
_MACHINE_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NOT_THERE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Item:
    """One micrograph of a batch.

    Attributes:
        path: an absolute path on this machine, or an address if it contains `://`.
    """

    path: str

    @property
    def key(self) -> bytes:
        """The key that identifies it: 16 bytes of BLAKE2b of the path, which need not be Unicode."""
        return hashlib.blake2b(self.path.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    @property
    def remote(self) -> bool:
        """Whether it is in a store."""
        return "://" in self.path


def expect_signable(item: Item) -> None:
    """Check that a signature can lie beside an item.

    Raises:
        TrustError: the item is in a store, where signatures are not supported.
    """
    if item.remote:
        raise TrustError(
            f"{printable(item.path)}: it is in a store, where signatures are not supported; copy it and "
            "its signature to this machine, and inspect it there"
        )


def file_system(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it.

    Raises:
        BatchError: the kind of address is unknown, or the address is chained.
        DependencyError: fsspec or the package for this kind of store is not installed.
    """
    core = needed("this batch", "fsspec.core", "batch")
    name = printable(address)
    if "::" in address:
        raise BatchError(f"{name}: a chained address is not supported; give the address of the store itself")
    try:
        store, path = core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        raise store_missing(name, error) from error
    except Exception as error:  # each kind of store has its own errors
        raise BatchError(
            f"{name}: not the address of a store ({printable(error, 200)}); use one such as s3://bucket/folder"
        ) from error
    return store, str(path)


def unreachable(address: str, error: Exception) -> BatchError:
    """Return the error for a store that does not answer."""
    said = printable(error, 300) or type(error).__name__
    return BatchError(
        f"{printable(address)}: the store cannot be reached or refuses to answer ({type(error).__name__}: {said}); "
        "check the address, your credentials and the network, then run the same command again"
    )


@contextmanager
def local_file(item: Item) -> Iterator[Path]:
    """Yield a local file with an item's bytes. A file fetched from a store is removed afterwards.

    Raises:
        MicrographError: the file is larger than `MAX_FETCH_BYTES`.
        FetchError: the store has no such file or denies access, or this machine has no room for it.
        BatchError: the store does not answer.
    """
    if not item.remote:
        yield Path(item.path)
        return
    store, path = file_system(item.path)
    with _storing(Path(tempfile.gettempdir())):
        folder = tempfile.TemporaryDirectory(prefix="fusion-diff-")
    with folder:
        file = Path(folder.name) / "micrograph"
        _fetch(item, store, path, file)
        yield file


def _fetch(item: Item, store: Any, path: str, file: Path) -> None:
    name = printable(item.path)
    for attempt in range(1, TRIES + 1):
        try:
            with store.open(path, "rb") as stream:
                size = 0
                with _storing(file.parent):
                    file.write_bytes(b"")
                while chunk := stream.read(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > MAX_FETCH_BYTES:
                        raise refusal(
                            name,
                            f"the file is larger than {MAX_FETCH_BYTES:,} bytes",
                            "crop it, or copy it to this machine and inspect it there",
                        )
                    with _storing(file.parent), file.open("ab") as copy:
                        copy.write(chunk)
            return
        except MicrographError:
            raise
        except _NOT_THERE as error:
            raise FetchError(
                f"{name}: cannot be read ({printable(error, 200)}); check that it is there and that you may read it"
            ) from error
        except Exception as error:  # each kind of store has its own errors
            if attempt < TRIES:
                time.sleep(PAUSE_S * attempt)
            elif isinstance(fault := machine_fault(error), OSError) and fault.errno in _MACHINE_LIMITS:
                raise FetchError(
                    f"{name}: this machine cannot fetch it ({fault.strerror}); free memory or raise the limit of "
                    "open files"
                ) from error
            elif _knows(store, path):  # the store answers
                raise FetchError(
                    f"{name}: cannot be read ({printable(error, 200)}); upload it to the store again"
                ) from error
            else:
                raise unreachable(item.path, error) from error


def _knows(store: Any, path: str) -> bool:
    try:
        store.info(path)
    except _NOT_THERE:
        return True
    except Exception:
        return False
    return True


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    """Blame a fault in here, also one that shows only as a file is closed, on this machine and not on the store."""
    try:
        yield
    except OSError as error:
        raise FetchError(
            f"{printable(folder)}: a micrograph cannot be stored there while it is inspected ({unwritten(error)}); "
            "free space, or set TMPDIR to another folder"
        ) from error


def unwritten(error: OSError) -> str:
    """Return why something could not be written."""
    return error.strerror or str(error)
