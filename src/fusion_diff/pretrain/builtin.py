"""The built-in enrolment: procedural references, so that a fresh installation runs without references of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.perception import thin
from fusion_diff.references import ReferenceSet
from fusion_diff.synthetic import BUILTIN_AUTHENTIC, builtin_references

if TYPE_CHECKING:
    from pathlib import Path

SHOTS = 5
TOKENS = 256
"""Tokens kept of each built-in reference: few, for a small package, but enough to learn again from fewer shots."""


def builtin_reference_set() -> ReferenceSet:
    """Generate the built-in references, `SHOTS` of each class."""
    drawn, labels = builtin_references(SHOTS)
    micrographs = [
        # Without a pixel size: any magnification may be tried out with them.
        Micrograph.from_array(each.pixels, name=f"built-in {label} {index}")
        for index, (each, label) in enumerate(zip(drawn, labels, strict=True))
    ]
    names = [micrograph.name for micrograph in micrographs]
    return ReferenceSet.from_micrographs(micrographs, labels, authentic=BUILTIN_AUTHENTIC, names=names)


def enroll_builtin(checkpoint: Path) -> None:
    """Enrol the built-in references in a checkpoint, marked as built-in, and replace the checkpoint."""
    model = DiffusionModel.from_pretrained(checkpoint)
    model.enroll(builtin_reference_set(), reconstruction=True, detect_attacks=True)
    assert model.enrolment is not None
    bags = tuple(thin(bag, TOKENS) for bag in model.enrolment.bags)
    model.enrolment = replace(model.enrolment, bags=bags, builtin=True)  # learned from all tokens
    model.save_pretrained(checkpoint)
