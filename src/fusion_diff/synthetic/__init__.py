"""Procedural micrographs of ceramics with known microstructure, flaws and masks, for training and for the demo."""

from __future__ import annotations

from fusion_diff.synthetic.builtin import (
    BUILTIN_AUTHENTIC,
    BUILTIN_LABELS,
    BUILTIN_MATERIAL,
    builtin_references,
    builtin_samples,
)
from fusion_diff.synthetic.files import write_marks, write_micrographs
from fusion_diff.synthetic.generate import DESCRIPTOR_NAMES, FLAWS, SyntheticMicrograph, generate
from fusion_diff.synthetic.materials import MATERIALS

__all__ = [
    "BUILTIN_AUTHENTIC",
    "BUILTIN_LABELS",
    "BUILTIN_MATERIAL",
    "DESCRIPTOR_NAMES",
    "FLAWS",
    "MATERIALS",
    "SyntheticMicrograph",
    "builtin_references",
    "builtin_samples",
    "generate",
    "write_marks",
    "write_micrographs",
]
