"""Parameter ranges of a `Recipe` for each material, typical of the ware and of its micrographs."""

from __future__ import annotations

from typing import Literal

Finish = Literal["polished", "etched", "fracture"]

OPTICAL = ("ferrite", "glaze")
"""Materials imaged with light instead of electrons."""

# name: (low, high, logarithmic). Limits for all materials, and scale of the descriptor.
LIMITS: dict[str, tuple[float, float, bool]] = {
    "grain_um": (0.2, 100.0, True),
    "grain_px": (4.0, 64.0, True),
    "spread": (0.1, 0.7, False),
    "elongation": (1.0, 6.0, True),
    "porosity": (0.001, 0.25, True),
    "pore_px": (0.8, 10.0, True),
    "glass": (0.0, 0.25, False),
    "second": (0.0, 0.4, False),
    "second_px": (0.8, 12.0, True),
    "second_aspect": (1.0, 10.0, True),
    "second_grey": (-0.4, 0.5, False),
    "matrix": (0.2, 0.8, False),
    "grain_contrast": (0.0, 0.15, False),
    "boundary_contrast": (-0.4, 0.4, False),
    "relief": (0.0, 1.0, False),
    "streaks": (0.0, 0.15, False),
    "shading": (0.0, 0.3, False),
    "edge": (0.0, 0.5, False),
    "noise": (0.004, 0.15, True),
    "blur": (0.3, 1.8, True),
    "contrast": (0.5, 1.4, False),
    "gamma": (0.7, 1.4, False),
    "jitter": (0.0, 0.6, False),
}

COMMON: dict[str, tuple[float, float]] = {
    "grain_um": (0.8, 8.0),
    "grain_px": (6.0, 36.0),
    "spread": (0.2, 0.5),
    "elongation": (1.0, 1.3),
    "porosity": (0.003, 0.06),
    "pore_px": (1.0, 4.0),
    "glass": (0.0, 0.04),
    "second": (0.0, 0.04),
    "second_px": (1.0, 4.0),
    "second_aspect": (1.0, 2.0),
    "second_grey": (-0.2, 0.35),
    "matrix": (0.35, 0.65),
    "grain_contrast": (0.01, 0.07),
    "boundary_contrast": (-0.3, -0.05),
    "relief": (0.3, 1.0),
    "streaks": (0.0, 0.02),
    "shading": (0.0, 0.12),
    "edge": (0.0, 0.35),
    "noise": (0.012, 0.09),
    "blur": (0.35, 1.0),
    "contrast": (0.7, 1.2),
    "gamma": (0.85, 1.2),
    "jitter": (0.0, 0.4),
}

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "alumina": {"second": (0.0, 0.02), "elongation": (1.0, 1.6)},
    "zirconia": {
        "grain_um": (0.5, 1.5),
        "grain_px": (6.0, 24.0),
        "spread": (0.1, 0.3),
        "porosity": (0.001, 0.03),
        "matrix": (0.45, 0.75),
        "second": (0.0, 0.2),
        "second_px": (2.0, 8.0),
        "second_grey": (-0.4, -0.15),  # alumina grains toughened into zirconia look darker
    },
    "silicon_carbide": {
        "grain_um": (1.0, 20.0),
        "elongation": (1.0, 3.0),
        "porosity": (0.005, 0.2),
        "matrix": (0.25, 0.5),
        "second": (0.0, 0.12),
        "second_grey": (0.15, 0.5),
        "streaks": (0.0, 0.05),
        "spread": (0.3, 0.6),
    },
    "silicon_nitride": {
        "grain_um": (0.7, 3.0),
        "grain_px": (8.0, 32.0),
        "elongation": (2.0, 5.0),
        "glass": (0.03, 0.2),
        "boundary_contrast": (0.1, 0.4),  # the rare-earth glass between the grains is bright
        "matrix": (0.25, 0.45),
        "second": (0.0, 0.04),
        "porosity": (0.001, 0.02),
    },
    "barrier_coating": {
        "grain_um": (8.0, 60.0),
        "grain_px": (20.0, 64.0),
        "porosity": (0.01, 0.1),
        "pore_px": (1.5, 6.0),
        "second": (0.0, 0.3),
        "second_px": (1.0, 3.0),
        "second_grey": (0.15, 0.45),
        "matrix": (0.3, 0.6),
        "grain_contrast": (0.0, 0.03),
        "relief": (0.0, 0.3),
        "boundary_contrast": (-0.12, 0.0),
    },
    "ferrite": {
        "grain_um": (2.0, 24.0),
        "grain_px": (5.0, 24.0),
        "porosity": (0.001, 0.04),
        "matrix": (0.3, 0.65),
        "grain_contrast": (0.0, 0.04),
        "boundary_contrast": (-0.15, 0.0),
        "streaks": (0.02, 0.13),
        "shading": (0.05, 0.3),
        "noise": (0.008, 0.04),
        "blur": (0.4, 1.5),
        "relief": (0.0, 0.3),
        "edge": (0.0, 0.05),
        "jitter": (0.0, 0.0),
    },
    "glaze": {
        "grain_um": (20.0, 80.0),
        "grain_px": (16.0, 64.0),
        "porosity": (0.002, 0.05),
        "pore_px": (1.5, 7.0),
        "second": (0.0, 0.25),
        "second_px": (1.0, 4.0),
        "second_aspect": (1.0, 6.0),
        "second_grey": (-0.3, 0.3),
        "grain_contrast": (0.02, 0.12),
        "boundary_contrast": (-0.25, 0.25),
        "streaks": (0.0, 0.03),
        "shading": (0.05, 0.25),
        "noise": (0.006, 0.04),
        "blur": (0.4, 1.4),
        "edge": (0.0, 0.05),
        "jitter": (0.0, 0.0),
        "relief": (0.0, 0.6),
    },
    "porcelain": {
        "grain_um": (8.0, 40.0),
        "grain_px": (12.0, 48.0),
        "porosity": (0.01, 0.12),
        "pore_px": (1.5, 7.0),
        "second": (0.1, 0.35),
        "second_px": (1.0, 4.0),
        "second_aspect": (3.0, 10.0),  # mullite needles
        "second_grey": (0.08, 0.3),
        "grain_contrast": (0.02, 0.08),
    },
}

MATERIALS: tuple[str, ...] = tuple(RANGES)
"""Names of the materials that `generate` supports."""

FINISHES: dict[str, tuple[Finish, ...]] = {
    "alumina": ("polished", "etched", "etched", "fracture"),
    "zirconia": ("polished", "etched", "fracture"),
    "silicon_carbide": ("polished", "etched", "fracture"),
    "silicon_nitride": ("polished", "etched", "fracture"),
    "barrier_coating": ("polished",),
    "ferrite": ("polished",),
    "glaze": ("polished",),
    "porcelain": ("polished", "etched"),
}
"""Possible surface preparations of each material; one is drawn per specimen or lot."""
