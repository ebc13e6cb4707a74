"""Uploads: copied to files of limited size under generated names, hashed while copying, and read as micrographs."""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff import locks
from fusion_diff.checkpoint import NAME_LENGTH
from fusion_diff.counted import sized
from fusion_diff.errors import (
    FusionDiffError,
    MicrographError,
    NoRoomError,
    ReferenceSetError,
    ServiceError,
    TrustError,
    machine_fault,
)
from fusion_diff.printable import printable
from fusion_diff.service.problems import TooLargeError
from fusion_diff.service.store import PREFIX

if TYPE_CHECKING:
    from typing import BinaryIO

    import numpy as np
    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph

_CHUNK_BYTES = 2**20
_log = logging.getLogger("fusion_diff.service")


@dataclass(frozen=True)
class Upload:
    """A received file.

    Attributes:
        path: temporary path.
        name: the sender's name for it; shown, never opened.
        sha256: digest of its bytes.
    """

    path: Path
    name: str
    sha256: str

    def discard(self) -> None:
        """Remove the file unless it was moved away. One that cannot be removed is left to the next start."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("an upload cannot be removed", exc_info=error)


def shown_name(name: str | None) -> str:
    """Return the sender's name of a file, made printable."""
    return printable(name, NAME_LENGTH) if name else "unnamed"


def receive(stream: BinaryIO, name: str | None, folder: Path, limit: int) -> Upload:
    """Copy an upload into a folder.

    Args:
        stream: the bytes.
        name: the sender's name.
        folder: destination folder.
        limit: most bytes.

    Raises:
        TooLargeError: the upload is larger than `limit`.
        OSError: the file cannot be written.
    """
    shown = shown_name(name)
    digest, size = hashlib.sha256(), 0
    file = tempfile.NamedTemporaryFile(dir=folder, prefix=PREFIX, delete=False)  # noqa: SIM115 - closed below
    path = Path(file.name)
    try:
        with file:
            while chunk := stream.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > limit:
                    raise TooLargeError(
                        f"{shown}: the file is larger than {sized(limit)}; crop it or compress it losslessly"
                    )
                digest.update(chunk)
                file.write(chunk)
    except BaseException:  # also one of the last bytes, which are written as the file is closed
        path.unlink(missing_ok=True)
        raise
    return Upload(path, shown, digest.hexdigest())


def claim(folder: Path) -> BinaryIO:
    """Make the upload folder, and remove files that killed processes left in it.

    Returns:
        An open lock file. Until it is closed, no other process that claims the folder removes files from it.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claimed = folder.with_suffix(".lock").open("ab")
    with suppress(OSError):  # the files may be those of another running process, or the disk has no locks
        locks.hold(claimed.fileno())
        for left in folder.glob(f"{PREFIX}*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    with suppress(OSError):
        locks.share(claimed.fileno())
    return claimed


def renamed(text: object, path: Path, name: str) -> str:
    """Return the text of an error or a warning with the sender's name in place of the temporary path."""
    return str(text).replace(printable(path), name)


def raise_fault(error: FusionDiffError) -> None:
    """Raise the cause of an error about a received file if the cause is a fault of the service; else return.

    Raises:
        OSError: the disk, a share or the machine's limits are at fault, or the received file is gone.
        MemoryError: there is not enough memory.
    """
    fault = machine_fault(error, MemoryError, FileNotFoundError)
    if isinstance(fault, NoRoomError):  # a kind of MicrographError, which would be recorded as the file's
        fault = fault.__cause__ or OSError(errno.ENOSPC, str(fault))
    if fault is not None:
        raise fault


def read(path: Path, name: str, sha256: str, pixel_size_um: float | None, max_pixels: int) -> Micrograph:
    """Read a received or stored micrograph and compare its digest. Errors refer to it by `name`.

    Raises:
        MicrographError: the file cannot be read as a micrograph.
        ServiceError: the file was altered since it was received.
        OSError: the service cannot read the file.
        MemoryError: there is not enough memory.
    """
    from fusion_diff.micrograph import load_microstructure_data

    try:
        return load_microstructure_data(path, pixel_size_um=pixel_size_um, max_pixels=max_pixels, sha256=sha256)
    except TrustError:
        raise _altered(name, sha256) from None
    except FusionDiffError as error:
        raise_fault(error)
        raise MicrographError(renamed(error, path, name)) from error


def read_flaw(
    path: Path, sha256: str, micrograph: Micrograph, name: str, mask_name: str | None = None
) -> NDArray[np.bool_]:
    """Read the flaw mask of a reference and compare its digest.

    Errors refer to the reference by `name`, and to the mask by `mask_name` or its digest.

    Raises:
        ReferenceSetError: the mask cannot be read, or does not fit the micrograph.
        ServiceError: the file was altered since it was received.
        OSError: the service cannot read the file.
        MemoryError: there is not enough memory.
    """
    from fusion_diff.references.marks import read_mark

    try:
        return read_mark(path, micrograph, name, sha256)
    except TrustError:
        raise _altered(f"the flaw mask of {name}", sha256) from None
    except FusionDiffError as error:
        raise_fault(error)
        raise ReferenceSetError(renamed(error, path, mask_name or sha256)) from error


def _altered(name: str, sha256: str) -> ServiceError:
    return ServiceError(
        f"{name}: its file {sha256} was altered in the store, or on its way there; restore it from a backup, or send "
        "it again"
    )
