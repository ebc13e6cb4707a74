"""Content-addressed store of images and evidence: bytes under their sha256, in a folder or at any fsspec URL.

Stored content never changes, so storing it twice has no effect, except that a damaged file is replaced and that its age
begins anew, by which `service-prune` spares what a record is about to name. Its name does not depend on the sender.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff.dependencies import store_missing
from fusion_diff.errors import ServiceError, disk_full
from fusion_diff.printable import printable
from fusion_diff.whole import when_free, whole_file, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

PREFIX = "upload-"
"""Start of the names of files under way, which `uploads.claim` removes if a killed process left them."""
_BLOCK_BYTES = 2**12
_TRIES = 2
"""How often S3 is asked, for 15 seconds at most. By default botocore asks 5 times, and s3fs has it do so 5 times."""
_STORING_SECONDS = 30.0
"""Longest time that S3 has to take something, and a second for each MiB more; nothing else limits a body on its way."""
_DIGITS = frozenset("0123456789abcdef")


class StoreError(ServiceError):
    """A store that is no folder does not answer, or refuses to.

    Attributes:
        retry_after: seconds after which to try again.
    """

    retry_after = 5.0


class Store:
    """Stores bytes under their sha256.

    Args:
        url: a folder or an fsspec URL.
        copies: folder for the files that `file` fetches from an object store; the temporary one if None.

    Raises:
        ServiceError: the URL cannot be used, or the store does not answer.
        OSError: the folder cannot be made.
        DependencyError: the protocol needs a package that is not installed.
    """

    def __init__(self, url: str, copies: Path | None = None) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        try:
            self._s3 = fsspec.utils.get_protocol(url) in ("s3", "s3a")
            limits = _limits() if self._s3 else {}
            # No listings cache: other processes write into the store, and content may disappear.
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **limits)
        except ImportError as error:
            raise store_missing("the store", error) from None
        except ValueError as error:
            raise ServiceError(f"the store's URL cannot be used ({error}); give a folder or an fsspec URL") from None
        self._root = str(root).rstrip("/")
        self._copies = copies
        self._local = isinstance(self._files, LocalFileSystem)
        self._failures = () if self._local else _failures()
        if self._s3:
            self._files.retries = 1  # of s3fs, which takes it no other way
        if self._local:
            self._files.makedirs(self._root, exist_ok=True)
        else:
            self.check()  # nothing is created, because the name of a bucket may be mistyped

    def put(self, content: bytes) -> str:
        """Store bytes atomically, and return their sha256.

        Raises:
            StoreError: the store does not answer.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        place = self._place(sha256)
        if self._local and _renewed(Path(place), sha256):
            return sha256
        with self._told():
            self._make_folder(place)
            if self._local:
                write_whole(Path(place), content)
            else:  # an object store writes atomically
                self._files.pipe_file(place, content, **self._at_most(len(content)))
        return sha256

    def put_file(self, file: Path, sha256: str) -> None:
        """Store a file of known sha256. The file may be moved away.

        Raises:
            StoreError: the store does not answer.
        """
        place = self._place(sha256)
        if self._local and _renewed(Path(place), sha256):
            return
        size = file.stat().st_size
        with self._told():
            self._make_folder(place)
            if not self._local:
                self._files.put_file(str(file), place, **self._at_most(size))
                return
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
        try:
            when_free(file.replace, Path(place))
        except OSError:  # the store is on another disk
            with whole_file(Path(place)) as part:
                shutil.copyfile(file, part)

    def get(self, sha256: str) -> bytes:
        """Return the bytes stored under a digest.

        Raises:
            StoreError: the store does not answer.
            ServiceError: nothing is stored there, or it was altered.
        """
        with self._told(sha256):
            content: bytes = self._files.cat_file(self._place(sha256))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ServiceError(f"{sha256}: the file was altered in the store; restore it from a backup")
        return content

    @contextmanager
    def file(self, sha256: str) -> Iterator[Path]:
        """Give the content of a digest as a file, for reading within the block.

        Raises:
            StoreError: the store does not answer.
            ServiceError: nothing is stored there.
        """
        place = self._place(sha256)
        if self._local:
            if not Path(place).is_file():
                raise _gone(sha256)
            yield Path(place)
            return
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=self._copies) as folder:
            copy = Path(folder) / sha256
            with self._told(sha256):
                self._files.get_file(place, str(copy))
            yield copy

    def remove(self, sha256: str) -> None:
        """Remove what is stored under a digest; it may be gone already.

        Raises:
            StoreError: the store does not answer.
        """
        with self._told(), suppress(FileNotFoundError):
            self._files.rm_file(self._place(sha256))

    def seconds_since_put(self, sha256: str) -> float:
        """Return how long ago the content of a digest was last put; infinite if nothing is stored there.

        Raises:
            StoreError: the store does not answer.
        """
        with self._told(), suppress(FileNotFoundError):
            modified: datetime = self._files.modified(self._place(sha256))
            return time.time() - modified.timestamp()
        return math.inf

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each stored file by its digest; files of other names are passed over.

        Raises:
            ServiceError: the store does not answer.
        """
        self.check()
        found = {}
        with self._told():
            listed = self._files.find(self._root, detail=True)
        for path, about in listed.items():
            sha256 = "".join(path.split("/")[-2:])
            if _is_digest(sha256) and path == self._place(sha256):
                found[sha256] = int(about["size"] or 0)
        return found

    def check(self, *, writing: bool = False) -> None:
        """Check that the store answers. A bucket may be empty, because its folders appear with their files.

        Args:
            writing: whether a folder has to take a file, too; a bucket is not written to.

        Raises:
            ServiceError: the store does not answer.
        """
        try:
            try:
                self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                if self._local:
                    raise
                self._files.ls(self._root.partition("/")[0], detail=False)
            if writing and self._local:
                expect_room(Path(self._root))
        except Exception as error:  # every kind of store raises its own errors
            raise ServiceError(self._silent(error)) from error

    def _make_folder(self, place: str) -> None:
        if not self._s3:  # which has none, and where s3fs would make the bucket
            self._files.makedirs(place.rpartition("/")[0], exist_ok=True)

    def _at_most(self, size: int) -> dict[str, float]:
        """Return the option of fsspec that limits the time to store so many bytes, for S3."""
        return {"timeout": _STORING_SECONDS + size / 2**20} if self._s3 else {}

    @contextmanager
    def _told(self, sha256: str | None = None) -> Iterator[None]:
        """Say that the store does not answer, or that a file is not there, where that is what an error means.

        Args:
            sha256: digest of a file that has to be there.
        """
        try:
            yield
        except Exception as error:
            if sha256 is not None and isinstance(error, FileNotFoundError):
                raise _gone(sha256) from None
            if not isinstance(error, self._failures) or disk_full(error):  # full is this machine's, for a copy
                raise
            raise StoreError(self._silent(error)) from error

    def _silent(self, error: Exception) -> str:
        return (
            f"the store at {printable(self._root)} does not answer ({type(error).__name__}: "
            f"{printable(error, 300)}); check that the folder or bucket is there, its free space, and its "
            "permissions or credentials"
        )

    def _place(self, sha256: str) -> str:
        if not _is_digest(sha256):
            raise ServiceError(f"{sha256!r:.80} is not a hexadecimal SHA-256 digest")
        return f"{self._root}/{sha256[:2]}/{sha256[2:]}"


def _limits() -> dict[str, Any]:
    """Return the option that limits botocore's tries at S3. AWS_MAX_ATTEMPTS and fsspec's settings go first."""
    from fsspec.config import conf

    if "AWS_MAX_ATTEMPTS" in os.environ:
        return {}
    return {"config_kwargs": {"retries": {"total_max_attempts": _TRIES}, **conf.get("s3", {}).get("config_kwargs", {})}}


def _failures() -> tuple[type[Exception], ...]:
    """Return the errors by which a store that is no folder fails, of those libraries for stores that are installed."""
    found: list[type[Exception]] = [OSError]
    for module, name in (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError")):
        with suppress(ImportError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


def expect_room(folder: Path) -> None:
    """Make a small file in a folder, and remove it.

    Raises:
        OSError: the folder is missing, may not be written to, or its disk is full.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix=PREFIX) as file:
        file.write(bytes(_BLOCK_BYTES))
        file.flush()


def _renewed(file: Path, sha256: str) -> bool:
    """Renew the age of a file that is whole and readable; return False for any other."""
    try:
        os.utime(file)
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except OSError:
        return False


def _is_digest(text: str) -> bool:
    return len(text) == 64 and _DIGITS.issuperset(text)


def _gone(sha256: str) -> ServiceError:
    return ServiceError(f"{sha256}: the file is not in the store; restore it from a backup")


def unpacked(stored: bytes) -> Any:
    """Return the array that `packed` wrote. Pickled content is refused."""
    import io

    import numpy as np

    return np.load(io.BytesIO(stored), allow_pickle=False)


def packed(array: Any) -> bytes:
    """Return an array as bytes in NumPy's .npy format."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
