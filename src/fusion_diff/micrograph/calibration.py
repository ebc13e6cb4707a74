"""Pixel size and other metadata of an image, as any format gives them, and what a verdict says of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from fusion_diff.printable import printable

_SMALLEST_UM, _LARGEST_UM = 1e-6, 1e4  # 1 pm to 1 cm; values outside have a wrong unit
_LARGEST_ANISOTROPY = 2.0
_ALIKE = 1.01  # largest ratio of two sizes that count as one, allowing for rounded resolutions
_NAME_CHARACTERS = 120
_TURNED = (
    dict.fromkeys((2, 4), "mirrored")
    | dict.fromkeys((3, 6, 8), "turned")
    | dict.fromkeys((5, 7), "turned and mirrored")
)

INCH_UM = 25_400.0
_UNITS_UM = {
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre", "micrometers"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers"), 1e-3),
    **dict.fromkeys(("å", "angstrom", "ångström"), 1e-4),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("in", "inch", "inches"), INCH_UM),
}


@dataclass(frozen=True)
class PixelCalibration:
    """Metadata of an image; None where the file does not give them."""

    sides_um: tuple[float, float] | None = None
    """Width and height of a pixel."""
    size_source: str | None = None
    """What gives them: `Thermo/FEI metadata`, …, or `resolution tags`."""
    doubt: str = ""
    """Why metadata that give pixel sizes do not give that of this image, in a sentence without its full stop."""
    undecided: bool = False
    """Whether metadata give several sizes one of which is right, so that nothing of lower rank is used."""
    instrument: str | None = None
    true_height: int | None = None
    """Rows of micrograph. The rows below are a data bar."""
    transparent: float = 0.0
    """Share of pixels that are not opaque according to the alpha channel, which is dropped."""
    orientation: int = 1
    """Value of the orientation tag, which is not applied; 1 where the image is to be shown as it is stored."""

    @property
    def pixel_size_um(self) -> float | None:
        """One pixel size for both sides; None if they are unknown or too far from square."""
        return None if self.sides_um is None else square_pixel(*self.sides_um)

    @property
    def aspect(self) -> float:
        """Width of a pixel divided by its height; 1 where they are unknown."""
        return 1.0 if self.sides_um is None else self.sides_um[0] / self.sides_um[1]

    def notes(self, given_um: float | None = None) -> tuple[str, ...]:
        """Return sentences on how values differ from those in the file.

        Args:
            given_um: pixel size that the user gave; None if it is taken from the file.
        """
        lines = self._of_the_size() if given_um is None else self._beside(given_um)
        if self.transparent:
            share = max(0.1, 100 * self.transparent)
            lines.append(f"{share:.3g} % of its pixels are fully or partly transparent; the alpha channel was dropped.")
        if way := _TURNED.get(self.orientation):
            lines.append(
                f"The file asks to be shown {way} (orientation {self.orientation}), but it was judged as stored; "
                "verdicts depend on the orientation."
            )
        return tuple(lines)

    def _of_the_size(self) -> list[str]:
        lines, size = [], self.pixel_size_um
        if self.doubt:
            found = "its pixel size is unknown" if size is None else f"{size:.4g} µm is from the {self.size_source}"
            lines.append(f"{self.doubt}; {found}.")
        if self.sides_um is not None and max(self.sides_um) > _ALIKE * min(self.sides_um):
            taken = "too far from square, so the pixel size is unknown; resample to square pixels, or give a pixel size"
            if size is not None:
                taken = (
                    f"not square; {size:.4g} µm is used for both sides, except in areas, centroids and lengths of "
                    "regions, which are right"
                )
            lines.append(f"Its pixels are {self._sides} µm, {taken}.")
        return lines

    def _beside(self, given_um: float) -> list[str]:
        if self.sides_um is None or max(given_um / min(self.sides_um), max(self.sides_um) / given_um) <= _ALIKE:
            return []
        return [f"Its pixel size was given as {given_um:.4g} µm, but the {self.size_source} say {self._sides} µm."]

    @property
    def _sides(self) -> str:
        return " by ".join(dict.fromkeys(f"{side:.4g}" for side in self.sides_um or ()))


def micrometres(unit: Any) -> float | None:
    """Return the length of a unit in µm, or None if it is no unit of length."""
    if not isinstance(unit, str):
        return None
    # ImageJ escapes the micro sign, because TIFF texts are ASCII.
    name = re.sub(r"\\u00b5", "µ", unit.strip().strip("\x00"), flags=re.IGNORECASE).lower()
    return _UNITS_UM.get(name)


def square_pixel(x_um: float | None, y_um: float | None) -> float | None:
    """Return one pixel size for pixels of `x_um` by `y_um`.

    This is the geometric mean, which keeps areas right. Beyond a ratio of 2:1 (a tilted section saved without
    correction, or a typing error) it is None.
    """
    sides = pixel_sides(x_um, y_um)
    if sides is None or max(sides) / min(sides) > _LARGEST_ANISOTROPY:
        return None
    return math.exp(sum(map(math.log, sides)) / 2)


def pixel_sides(x_um: float | None, y_um: float | None) -> tuple[float, float] | None:
    """Return the plausible sides of a pixel. If only one is plausible, it is used for both."""
    sizes = [size for size in (_plausible(x_um), _plausible(y_um)) if size is not None]
    return (sizes[0], sizes[-1]) if sizes else None


def _plausible(size_um: float | None) -> float | None:
    if size_um is None or not math.isfinite(size_um) or not _SMALLEST_UM <= size_um <= _LARGEST_UM:
        return None
    return float(size_um)


def instrument_name(*parts: Any) -> str | None:
    """Join the parts of an instrument's name that are texts, in printable characters and with bounded length."""
    starts = [part[: 10 * _NAME_CHARACTERS] for part in parts if isinstance(part, str)]  # before it is copied
    texts = [printable(" ".join(start.split())) for start in starts]
    return " ".join(text for text in texts if text)[:_NAME_CHARACTERS].strip() or None
