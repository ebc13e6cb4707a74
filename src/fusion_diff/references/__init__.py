"""Labelled reference micrographs: read from a folder, a CSV file or memory, with groups and flaw marks."""

from fusion_diff.references.reference import MAX_REFERENCES, Reference
from fusion_diff.references.set import ReferenceSet

__all__ = ["MAX_REFERENCES", "Reference", "ReferenceSet"]
