"""Every error FusionDiff raises on purpose: each names the thing that is wrong and says what to do about it."""

from __future__ import annotations

import errno

_MACHINE_ERRNOS = {
    getattr(errno, name)
    for name in (
        *("EIO", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT"),
        *("ENOTCONN", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
    )
    if hasattr(errno, name)
}
"""Errors of a disk, of this machine's limits and of a network share; the file's content has no part in them."""


class FusionDiffError(Exception):
    """Base of all errors raised on purpose; catch it to handle any of them."""


class MicrographError(FusionDiffError, ValueError):
    """A file or array cannot be used as a micrograph."""


class NoRoomError(MicrographError):
    """A micrograph cannot be decoded for want of room on a disk of this machine; the micrograph may be sound."""


class ReferenceSetError(FusionDiffError, ValueError):
    """A set of references, a mark or a choice of shots cannot be used."""


class EnrolmentError(FusionDiffError, ValueError):
    """The model cannot enrol these references, or was asked for a verdict before it was enrolled."""


class CheckpointError(FusionDiffError, ValueError):
    """A checkpoint is unknown, incomplete, altered or of an unsupported format."""


class PretrainingError(FusionDiffError, ValueError):
    """Pretraining cannot start or resume with these settings."""


class DeviceError(FusionDiffError, ValueError):
    """A device name is not one that can be computed on."""


class TrustError(FusionDiffError, ValueError):
    """A signature, record or set of references cannot be trusted, or the means to tell are missing."""


class ExportError(FusionDiffError, ValueError):
    """A model cannot be exported as asked, or the exported one does not say what the model says."""


class PolicyError(FusionDiffError, ValueError):
    """A policy cannot be read, or asks for what is not known."""


class BatchError(FusionDiffError, ValueError):
    """A batch cannot start or go on: its source, its output or its cluster is not usable; what is done is kept."""


class ServiceError(FusionDiffError, ValueError):
    """The service cannot start with these settings, or cannot answer a request as it was put."""


class DependencyError(FusionDiffError, ImportError):
    """Something that is not part of this installation is needed; the message says what to install."""


def machine_fault(error: BaseException | None, *also: type[BaseException]) -> BaseException | None:
    """Return the error in a chain of causes that lies with this machine or a share, and not with the file.

    Args:
        error: what was raised; its `__cause__`, and that one's, are looked at after it.
        also: further kinds of error that the caller counts among them.

    Returns:
        The first `NoRoomError`, `OSError` of the disk, the machine's limits or the network, or error of one of the
        further kinds; None if there is none. A `MemoryError` does not count, because the file may be too large.
    """
    while error is not None:
        if isinstance(error, (NoRoomError, *also)):
            return error
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS:
            return error
        error = error.__cause__
    return None
