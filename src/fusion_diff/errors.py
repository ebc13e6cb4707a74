"""Every error FusionDiff raises on purpose: each names the thing that is wrong and says what to do about it."""

from __future__ import annotations


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
