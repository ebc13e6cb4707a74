"""The store: images and evidence under the sha256 of their bytes, in a folder or at any fsspec URL.

What is stored is never changed, so storing it twice is storing it once; and its name says nothing of who sent it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_diff.errors import DependencyError, ServiceError
from fusion_diff.printable import printable
from fusion_diff.whole import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGITS = frozenset("0123456789abcdef")


class Store:
    """Keeps bytes by their sha256.

    Raises:
        ServiceError: the URL cannot be used, or what it names does not answer.
        OSError: the folder cannot be made.
        DependencyError: its protocol needs a package that is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        try:
            # What is there is asked of the store itself, since other processes write into it and it may be gone.
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise DependencyError(f"the store's protocol is not installed: {error}") from None
        except ValueError as error:
            raise ServiceError(f"the store's URL cannot be used ({error}); give a folder or an fsspec URL") from None
        self._root = str(root).rstrip("/")
        self._local = isinstance(self._files, LocalFileSystem)
        if self._local:
            self._files.makedirs(self._root, exist_ok=True)
        else:
            self.check()  # and nothing is made: that might be a bucket under a mistyped name

    def put(self, content: bytes) -> str:
        """Store bytes and return their sha256; all of them are there afterwards, or none."""
        sha256 = hashlib.sha256(content).hexdigest()
        place = self._place(sha256)
        if self._files.exists(place):
            return sha256
        self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
        if self._local:
            write_whole(Path(place), content)
        else:
            self._files.pipe_file(place, content)  # an object store shows it whole or not at all
        return sha256

    def put_file(self, file: Path, sha256: str) -> None:
        """Store a file whose sha256 is known. The file itself may be moved away."""
        place = self._place(sha256)
        if self._files.exists(place):
            return
        self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
        if not self._local:
            self._files.put_file(str(file), place)
            return
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
        try:
            file.replace(place)
        except OSError:  # the store is on another disk
            beside, name = tempfile.mkstemp(prefix=".part.", dir=Path(place).parent)
            try:
                with os.fdopen(beside, "wb") as copy, file.open("rb") as stream:
                    while chunk := stream.read(2**20):
                        copy.write(chunk)
                    copy.flush()
                    os.fsync(copy.fileno())
                Path(name).replace(place)
            finally:
                Path(name).unlink(missing_ok=True)

    def get(self, sha256: str) -> bytes:
        """Return what is stored under a digest.

        Raises:
            ServiceError: it is not there, or not what was stored.
        """
        try:
            content: bytes = self._files.cat_file(self._place(sha256))
        except FileNotFoundError:
            raise _gone(sha256) from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ServiceError(f"{sha256}: altered in the store; restore it from a copy")
        return content

    @contextmanager
    def file(self, sha256: str) -> Iterator[Path]:
        """Give what is stored under a digest as a file, to be read and not to be kept.

        Raises:
            ServiceError: it is not there.
        """
        place = self._place(sha256)
        if self._local:
            if not Path(place).is_file():
                raise _gone(sha256)
            yield Path(place)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / sha256
            try:
                self._files.get_file(place, str(copy))
            except FileNotFoundError:
                raise _gone(sha256) from None
            yield copy

    def check(self) -> None:
        """Ask whether the store answers. In a bucket nothing need be there yet: its folders come with their files.

        Raises:
            ServiceError: it does not.
        """
        try:
            try:
                self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                if self._local:
                    raise
                self._files.ls(self._root.partition("/")[0], detail=False)
        except Exception as error:  # each kind of store has errors of its own
            raise ServiceError(
                f"the store at {printable(self._root)} does not answer ({type(error).__name__}: "
                f"{printable(error, 300)}); check that the folder or bucket is there, and its credentials"
            ) from error

    def _place(self, sha256: str) -> str:
        if len(sha256) != 64 or not _DIGITS.issuperset(sha256):
            raise ServiceError(f"{sha256!r:.80} is no sha256 in hexadecimal")
        return f"{self._root}/{sha256[:2]}/{sha256[2:]}"


def _gone(sha256: str) -> ServiceError:
    return ServiceError(f"{sha256}: not in the store; restore it from a copy")


def unpacked(stored: bytes) -> Any:
    """Return the array that `packed` wrote; pickles are refused."""
    import io

    import numpy as np

    return np.load(io.BytesIO(stored), allow_pickle=False)


def packed(array: Any) -> bytes:
    """Return an array as bytes, in NumPy's own format."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
