"""Micrographs: finding image files, and reading them at full depth with their pixel size, within safe limits."""

from fusion_diff.micrograph.discover import discover
from fusion_diff.micrograph.limits import MAX_PIXELS, MIN_SIDE
from fusion_diff.micrograph.micrograph import Micrograph
from fusion_diff.micrograph.reading import load_microstructure_data

__all__ = ["MAX_PIXELS", "MIN_SIDE", "Micrograph", "discover", "load_microstructure_data"]
