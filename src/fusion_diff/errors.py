"""All errors that FusionDiff raises on purpose. Each message names what is wrong and what to do about it."""

from __future__ import annotations

import errno

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a full disk, a user's full share of it, and a file larger than the system or `ulimit -f` allows."""
_MACHINE_ERRNOS = _FULL_ERRNOS | {
    getattr(errno, name)
    for name in (
        *("EIO", "EMFILE", "ENFILE", "ENOMEM"),
        *("ENOTCONN", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
    )
    if hasattr(errno, name)
}
"""Errors of a disk, of this machine's limits or of a network share, which do not depend on a file's content."""
_MEMORY_MESSAGES = (
    "DefaultCPUAllocator: ",
    "std::bad_alloc",
    "MPS backend out of memory",
    "NPU out of memory",
    "can't start new thread",
)
"""Parts of the messages by which alone some errors for a lack of memory can be told: plain RuntimeErrors."""
_CV2_NO_MEMORY = -4


class FusionDiffError(Exception):
    """Base of all errors raised on purpose; catch it to handle any of them."""


class ArgumentError(FusionDiffError, ValueError):
    """An argument of a call lies outside of what is allowed, such as an `alpha` of 2."""


class MicrographError(FusionDiffError, ValueError):
    """A file or array cannot be used as a micrograph."""


class NoRoomError(MicrographError):
    """A micrograph cannot be decoded because the temporary folder is full or unusable; the micrograph may be valid."""


class FetchError(MicrographError):
    """A micrograph cannot be fetched from its store; the fault may lie with the store or this machine."""


class TooManyPixelsError(MicrographError):
    """The header of a file claims more pixels than the limit.

    Attributes:
        width: width that the header claims.
        height: height that the header claims.
    """

    def __init__(self, message: str, width: int = 0, height: int = 0) -> None:
        super().__init__(message)
        self.width, self.height = width, height


class ReferenceSetError(FusionDiffError, ValueError):
    """A set of references, a mark or a choice of shots cannot be used."""


class EnrolmentError(FusionDiffError, ValueError):
    """The model cannot enrol these references, or was asked for a verdict before it was enrolled."""


class CheckpointError(FusionDiffError, ValueError):
    """A checkpoint is unknown, incomplete, altered or of an unsupported format."""


class PretrainingError(FusionDiffError, ValueError):
    """Pretraining cannot start or resume with these settings."""


class DeviceError(FusionDiffError, ValueError):
    """A device name is unknown, or the device is not available."""


class TrustError(FusionDiffError, ValueError):
    """A signature, record or set of references cannot be trusted, or cannot be checked."""


class ExportError(FusionDiffError, ValueError):
    """A model cannot be exported as requested, or the exported model gives other verdicts."""


class PolicyError(FusionDiffError, ValueError):
    """A policy cannot be read, or has an unknown setting."""


class BatchError(FusionDiffError, ValueError):
    """A batch cannot start or continue: its source, output or cluster is not usable. Finished work is kept."""


class ServiceError(FusionDiffError, ValueError):
    """The service cannot start with these settings, or cannot answer a request."""


class DependencyError(FusionDiffError, ImportError):
    """A required package is not installed; the message says how to install it."""

    __str__ = Exception.__str__  # from `args`, as of the others; an ImportError has a copy of its message


def machine_fault(error: BaseException | None, *also: type[BaseException]) -> BaseException | None:
    """Return the error in a chain of causes that is due to this machine or a network share, not to the file.

    Args:
        error: the error raised; the chain is followed through `__cause__`.
        also: further types of error that count as such.

    Returns:
        The first `NoRoomError`, `OSError` of the disk, the machine's limits or the network, or error of a further type;
        None if there is none. A `MemoryError` does not count, because the file may be too large.
    """
    while error is not None:
        if isinstance(error, (NoRoomError, *also)):
            return error
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
            return error
        error = error.__cause__
    return None


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of this machine or of its accelerator.

    These are `MemoryError`, torch's `OutOfMemoryError`, the plain `RuntimeError` of torch's allocator for the CPU, that
    of Python where no thread can be started, and OpenCV's error of that code. Neither torch nor OpenCV is imported, as
    both may be missing.
    """
    if isinstance(error, MemoryError):
        return True
    kinds = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    if ("cv2", "error") in kinds:
        return getattr(error, "code", None) == _CV2_NO_MEMORY
    if ("torch", "OutOfMemoryError") in kinds:
        return True
    return type(error) is RuntimeError and speaks_of_memory(error)


def speaks_of_memory(error: BaseException) -> bool:
    """Return whether the text of an error tells of a lack of memory, for libraries with error classes of their own."""
    return any(message in str(error) for message in _MEMORY_MESSAGES)


def foreseen(error: BaseException) -> bool:
    """Return whether an error is to be told in a sentence; others are faults of the program, and show where."""
    return isinstance(error, FusionDiffError | OSError) or out_of_memory(error)


def disk_full(error: BaseException) -> bool:
    """Return whether an error says that a disk is full, or as full as a limit on users or files lets it be."""
    return isinstance(error, OSError) and error.errno in _FULL_ERRNOS
