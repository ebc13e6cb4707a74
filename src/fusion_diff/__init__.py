"""FusionDiff: verify ceramic microstructures from a handful of labelled micrographs.

Names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion_diff import errors as errors
    from fusion_diff import synthetic as synthetic
    from fusion_diff.enrolment import Enrolment
    from fusion_diff.errors import EnrolmentError, FusionDiffError, MicrographError, ReferenceSetError
    from fusion_diff.inspection.draw import draw_evidence
    from fusion_diff.micrograph import Micrograph, load_microstructure_data
    from fusion_diff.model import DiffusionModel
    from fusion_diff.references import Reference, ReferenceSet
    from fusion_diff.verdict.result import EvidenceMap, Inspection, Region

__version__ = "0.1.0"

# Threads of torch that wait for others shall sleep. If they spin, as is their default, and other programs use the
# processors, then work takes several times as long. It is too late where torch was imported before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "DiffusionModel": "model",
    "Enrolment": "enrolment",
    "EnrolmentError": "errors",
    "EvidenceMap": "verdict.result",
    "FusionDiffError": "errors",
    "Inspection": "verdict.result",
    "Micrograph": "micrograph",
    "MicrographError": "errors",
    "Reference": "references",
    "ReferenceSet": "references",
    "ReferenceSetError": "errors",
    "Region": "verdict.result",
    "draw_evidence": "inspection.draw",
    "load_microstructure_data": "micrograph",
}
_MODULES = ("errors", "synthetic")

__all__ = [
    "DiffusionModel",
    "Enrolment",
    "EnrolmentError",
    "EvidenceMap",
    "FusionDiffError",
    "Inspection",
    "Micrograph",
    "MicrographError",
    "Reference",
    "ReferenceSet",
    "ReferenceSetError",
    "Region",
    "draw_evidence",
    "load_microstructure_data",
]


if not TYPE_CHECKING:  # type checkers would take every name for one of the package

    def __getattr__(name: str) -> object:
        if name not in _HOMES and name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            if name in _MODULES:
                return import_module(f"{__name__}.{name}")
            return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith(__name__):
                raise
            from fusion_diff.dependencies import WHOLE
            from fusion_diff.errors import DependencyError

            raise DependencyError(
                f"{name} needs the full FusionDiff, but only its edge package is installed; {WHOLE}"
            ) from error


def __dir__() -> list[str]:
    own = (name for name in globals() if name.startswith("__"))
    return sorted({*own, *__all__, *_MODULES})
