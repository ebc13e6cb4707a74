"""Atomic writing of files and folders: written to a temporary path beside the target, then moved in one step."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Yield a new, empty file beside `file`, and move it to `file` when the block ends without an error.

    An existing file is replaced. After an error it is unchanged, and the new file is removed.

    Raises:
        OSError: the file cannot be written; the error names `file`.
    """
    part = ""
    try:
        handle, part = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        os.close(handle)
        yield Path(part)
        with Path(part).open("rb+") as stream:
            os.fsync(stream.fileno())
        Path(part).chmod(0o644)
        Path(part).replace(file)
    except BaseException as error:
        if part:
            Path(part).unlink(missing_ok=True)
        if isinstance(error, OSError) and (not part or error.filename in (None, part)):
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


def write_whole(file: Path, content: bytes) -> None:
    """Write a file atomically, see `whole_file`.

    Raises:
        OSError: the file cannot be written; the error names `file`.
    """
    with whole_file(file) as part:
        part.write_bytes(content)


class WholeFolder:
    """Context manager that creates a folder beside a target and moves it there when the block ends without an error.

    After an error, the target is unchanged and the new folder is removed.

    Args:
        target: the target; its parent folders are created.
        replace: whether to replace a target that is not empty; otherwise that is an error.

    Raises:
        OSError: the folder cannot be created or moved.
    """

    def __init__(self, target: Path, *, replace: bool = False) -> None:
        self.target, self._replace = target, replace
        target.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))

    def __enter__(self) -> Path:
        """Return the folder to write the files to."""
        return self.folder

    def complete(self) -> None:
        """Write files that depend on all others; called before the folder is moved."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete the folder and move it into place, or clean up after an error."""
        try:
            if kind is None:
                self.complete()
                self.folder.chmod(0o755)
                self._move()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)  # no longer there if it was moved

    def _move(self) -> None:
        if not self._replace:
            self.folder.replace(self.target)  # also replaces an empty folder
            return
        old = self.folder.with_name(self.folder.name + ".old")
        try:
            if self.target.exists():
                self.target.rename(old)
            self.folder.rename(self.target)
        except BaseException:
            if old.exists() and not self.target.exists():
                old.rename(self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)
