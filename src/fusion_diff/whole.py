"""Files and folders that appear at their path when they are complete: written beside it, then moved there.

They get the permissions that the umask leaves, as other new files and folders do. The umask itself is not read: asking
for it changes it for all threads.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import stat
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.errors import disk_full
from fusion_diff.home import left_by_file_manager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE_SECONDS = 5.0


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Yield a new, empty file beside `file`, and move it to `file` in one step when the block ends without an error.

    An existing file is replaced. After an error it is unchanged, and the new file is removed.

    Raises:
        OSError: the file cannot be written; the error names `file`.
    """
    part = _beside(file)
    try:
        part.touch(exist_ok=False)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
    try:
        mode = stat.S_IMODE(part.stat().st_mode)
        yield part
        _flush(part)
        part.chmod(mode)  # libraries may have put another file there
        when_free(part.replace, file)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            raise OSError(error.errno, error.strerror, str(file)) from error
        _raise_if_of_the_system(error, file)
        raise


def write_whole(file: Path, content: bytes) -> None:
    """Write a file atomically, see `whole_file`.

    Raises:
        OSError: the file cannot be written; the error names `file`.
    """
    with whole_file(file) as part:
        part.write_bytes(content)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Let errors of the system that name no file, as those of an open one do, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.strerror:
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


def when_free(move: Callable[[Path], object], target: Path) -> None:
    """Move a file or folder to a target by its `rename` or `replace`.

    On Windows, virus scanners and indexers hold for a moment what was just written; they are waited for.

    Raises:
        OSError: it cannot be moved, or is still held after five seconds.
    """
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            move(target)
            return
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > end:
                raise
        time.sleep(0.1)


class WholeFolder:
    """Context manager that creates a folder beside a target and moves it there when the block ends without an error.

    After an error, the target is unchanged and the new folder is removed. A folder takes the place of another in one
    step on Linux, on most file systems. Elsewhere, the old folder is moved aside first: if the process is killed
    between the two steps, the target is missing, and the old folder remains beside it as `.NAME.….old`. A complete
    folder that may not be moved is kept, and the error names it.

    Args:
        target: the target; its parent folders are created.
        replace: whether to replace a target that is not empty; otherwise that is an error.

    Raises:
        OSError: the folder cannot be created or moved.
    """

    def __init__(self, target: Path, *, replace: bool = False) -> None:
        self.target, self._replace = target, replace
        target.parent.mkdir(parents=True, exist_ok=True)
        self.folder = _beside(target)
        self.folder.mkdir()

    def __enter__(self) -> Path:
        """Return the folder to write the files to."""
        return self.folder

    def complete(self) -> None:
        """Write files that depend on all others; called before the folder is moved."""

    def check(self) -> None:
        """Raise an error if the target must not be replaced; called right before the folder is moved."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """Complete the folder and move it into place, or clean up after an error."""
        kept = False
        try:
            if kind is None:
                with naming(self.target):
                    self.complete()
                    for file in self.folder.rglob("*"):
                        if file.is_file():
                            _flush(file)
                self.check()
                try:
                    self._move()
                except PermissionError as refused:
                    kept = True
                    told = f"{refused.strerror}; what was to go there is complete, and kept as {self.folder}"
                    raise PermissionError(refused.errno, told, str(self.target)) from refused
        finally:
            if not kept:
                shutil.rmtree(self.folder, ignore_errors=True)  # the replaced folder, if they were exchanged
        _raise_if_of_the_system(error, self.target)

    def _move(self) -> None:
        if not self._replace:
            with suppress(FileNotFoundError):  # an empty folder is removed; Windows moves nothing onto one
                for file in filter(left_by_file_manager, self.target.iterdir()):
                    file.unlink()
                self.target.rmdir()
            when_free(self.folder.rename, self.target)
        elif not self.target.exists():
            when_free(self.folder.rename, self.target)
        elif not _exchange(self.folder, self.target):
            self._move_in_two_steps()

    def _move_in_two_steps(self) -> None:
        old = self.folder.with_name(self.folder.name + ".old")
        try:
            when_free(self.target.rename, old)
            when_free(self.folder.rename, self.target)
        except BaseException:
            if old.exists() and not self.target.exists():
                when_free(old.rename, self.target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _beside(target: Path) -> Path:
    """Return a new hidden path in the folder of a target."""
    return target.parent / f".{target.name}.{secrets.token_hex(4)}"


def _raise_if_of_the_system(error: BaseException | None, target: Path) -> None:
    """Raise an `OSError` that names the target, for a full disk or an error of safetensors that the system caused."""
    if error is not None and disk_full(error):
        with naming(target):
            raise error
    foreign = type(error).__name__ == "SafetensorError"  # by name: not all installations have it
    if foreign and (met := re.search(r"\(os error (\d+)\)", str(error))):
        raise OSError(int(met[1]), os.strerror(int(met[1])), str(target)) from error


def _flush(file: Path) -> None:
    """Wait until a file is on the disk, so that a power cut does not leave an empty file where an older one was."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths trade places in one step; return False where the system or the file system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # older C libraries lack it
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2 is not None and renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
