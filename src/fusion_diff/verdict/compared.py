"""Summary of the references of a verdict, and whether a micrograph has their magnification."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from fusion_diff.counted import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.micrograph import Micrograph

SIZE_FACTOR = 1.5
"""Largest ratio of two pixel sizes that count as one magnification."""
_ROUNDING = 1 + 1e-9
BUILTIN = (
    "the references are the built-in procedural ones, so the scores mean nothing for your ware; enrol your own "
    "references"
)
"""The doubt about verdicts without references of the user."""


@dataclass(frozen=True)
class Compared:
    """Summary of the references that a verdict is based on.

    Attributes:
        authentic: the class being verified.
        counts: number of references of each class, the authentic class first.
        specimens: number of specimens among them.
        specimens_by_side: number of specimens of each side, keyed as the p-values are. Each counts once in a p-value.
        figures: cross-fitted `auroc` and `macro_f1`, in [0, 1]; empty where there are none.
        with_pixel_size: number of references with a known pixel size.
        smallest_pixel_um: smallest of these pixel sizes, in µm; None where none is known.
        largest_pixel_um: largest of them, likewise.
        doubts: why the scores are not to be relied on, in sentences; empty where nothing is known against them.
    """

    authentic: str
    counts: dict[str, int]
    specimens: int
    specimens_by_side: dict[str, int]
    figures: dict[str, float] = field(default_factory=dict)
    with_pixel_size: int = 0
    smallest_pixel_um: float | None = None
    largest_pixel_um: float | None = None
    doubts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        authentic: str,
        labels: Sequence[str],
        *,
        specimens: int,
        figures: dict[str, float],
        pixel_sizes_um: Sequence[float | None],
        specimens_by_side: dict[str, int],
        doubts: tuple[str, ...] = (),
    ) -> Self:
        """Summarise references, given the class and pixel size of each."""
        names = sorted(set(labels), key=lambda label: (label != authentic, label))
        sizes = [size for size in pixel_sizes_um if size is not None]
        return cls(
            authentic,
            {name: list(labels).count(name) for name in names},
            specimens,
            specimens_by_side,
            figures,
            len(sizes),
            min(sizes, default=None),
            max(sizes, default=None),
            doubts,
        )

    @property
    def sides(self) -> dict[str, int]:
        """Number of references of each side, keyed as the p-values are."""
        authentic = self.counts.get(self.authentic, 0)
        return {"authentic": authentic, "not authentic": sum(self.counts.values()) - authentic}

    @property
    def of_specimens(self) -> str:
        """How many specimens the references show, as text that follows their number.

        Where each counts as its own, nothing tells whether it is one: groups may not have been given.
        """
        if 1 < self.specimens == sum(self.counts.values()):
            return "each counted as a specimen"
        return f"of {counted(self.specimens, 'specimen')}"

    @property
    def pixel_sizes(self) -> str | None:
        """Range of the references' pixel sizes as text; None where none is known."""
        if self.smallest_pixel_um is None or self.largest_pixel_um is None:
            return None
        low, high = (f"{size:.4g}" for size in (self.smallest_pixel_um, self.largest_pixel_um))
        return f"{low} µm" if low == high else f"{low} to {high} µm"

    def comparable(self, pixel_size_um: float | None) -> bool:
        """Return whether a pixel size is within `SIZE_FACTOR` of the references'; True where either is unknown."""
        if pixel_size_um is None or self.smallest_pixel_um is None or self.largest_pixel_um is None:
            return True
        factor = SIZE_FACTOR * _ROUNDING
        return self.smallest_pixel_um / factor <= pixel_size_um <= self.largest_pixel_um * factor

    def warnings(self) -> tuple[str, ...]:
        """Return warnings, in sentences, about references whose magnification differs or is unknown."""
        lines, total = [], sum(self.counts.values())
        if self.smallest_pixel_um is not None and self.largest_pixel_um is not None:
            if self.largest_pixel_um > self.smallest_pixel_um * SIZE_FACTOR * _ROUNDING:
                lines.append(
                    f"the pixel sizes of the references differ, from {self.pixel_sizes}, but the model "
                    "works in pixels; enrol references of one magnification, or correct the pixel sizes"
                )
            if self.with_pixel_size < total:
                lines.append(
                    f"the pixel size is known for only {self.with_pixel_size} of {total} references, so it cannot "
                    "be checked that all have the same magnification; give it for all"
                )
        return tuple(lines)


def stored_pixel_size(value: object) -> float | None:
    """Check a stored pixel size in µm and return it; None stays None.

    Raises:
        ValueError: it is not a positive, finite number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r:.40} is not a pixel size")
    return float(value)


def same_file(
    names: Sequence[str], files: Sequence[tuple[str | None, int | None]], micrograph: Micrograph
) -> str | None:
    """Return the name of the reference whose file, and page of it, a micrograph is; None if it is none of them.

    Args:
        names: name of each reference.
        files: sha256 and page of the file of each, None where they are unknown or need not be told.
        micrograph: the micrograph.
    """
    same = (micrograph.sha256, micrograph.page)
    return next((name for name, file in zip(names, files, strict=True) if file == same), None)
