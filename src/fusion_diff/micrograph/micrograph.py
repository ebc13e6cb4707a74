"""The micrograph: an image with its pixel size and source, at its stored depth."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import storage
from fusion_diff.micrograph.arrays import numbers
from fusion_diff.micrograph.limits import check_sides, refusal
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

GIVEN = "given"
"""Source of a pixel size that the user gave."""
LEAST_SPAN, GREATEST_SPAN = 1e-30, 1e30
"""Range of the difference between the highest and lowest level. Outside it, single precision under- or overflows."""
_LEAST_SHARE = 2**-16
"""Least span of the levels relative to the greatest of them. Of less, single precision would keep few steps."""
_LARGEST_PIXEL_UM = 1e6
_CONTRAST_PIXELS = 2**22
_CONTRAST_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, eq=False, repr=False)
class Micrograph:
    """An image with its pixel size and source; immutable.

    Read one with `load_microstructure_data` or make one with `from_array`. The pixels keep their stored dtype. Those of
    large images are in a temporary file, and `window` converts only the requested part.

    Attributes:
        levels: the stored levels, (H, W) or (H, W, 3), read-only: integer or floating, at the file's full depth. An
            array is not copied here, so do not write to it afterwards; `from_array` copies.
        name: the file's path, or the name given to an array.
        sha256: hexadecimal digest of the file's bytes, or of an array's bytes in row-major order.
        source: the file, None for an array.
        pixel_size_um: side of a pixel in µm, None if unknown. Where pixels are not square it is the geometric mean of
            their sides.
        instrument: name of the microscope, None if unknown.
        data_bar_px: rows of data bar cropped from the bottom.
        notes: sentences on how the file was read and what is uncertain.
        page: page of the file, from 0, if one was requested or it is not the first; else None.
        given_contrast: levels to use as `contrast_range`; None takes them from the pixels.
        pixel_size_source: what gives the pixel size: `given` by the user, metadata such as `OME metadata`, or
            `resolution tags`; None if it is unknown.
        pixel_aspect: width of a pixel divided by its height.

    Raises:
        MicrographError: the pixels are no array of numbers, not finite, without contrast (or with too little beside
            their level for single precision), too small, or neither grey nor colour; the pixel size is not a positive
            number of at most a metre; or `given_contrast` does not increase.
    """

    levels: NDArray[Any]
    name: str
    sha256: str
    source: Path | None = None
    pixel_size_um: float | None = None
    instrument: str | None = None
    data_bar_px: int = 0
    notes: tuple[str, ...] = ()
    page: int | None = None
    given_contrast: tuple[float, float] | None = None
    pixel_size_source: str | None = None
    pixel_aspect: float = 1.0

    def __post_init__(self) -> None:
        """Check the pixels and make them read-only."""
        if not isinstance(self.levels, np.ndarray) or self.levels.dtype.kind not in "biuf":
            raise refusal(self.name, "its levels are not an array of real numbers", "use Micrograph.from_array(pixels)")
        levels = self.levels.view()
        levels.flags.writeable = False
        object.__setattr__(self, "levels", levels)
        if levels.ndim not in (2, 3) or (levels.ndim == 3 and levels.shape[2] != 3):
            raise refusal(
                self.name,
                f"its pixels have shape {levels.shape}, neither (height, width) nor (height, width, 3)",
                "pass one grey or colour image",
            )
        object.__setattr__(self, "pixel_size_um", checked_pixel_size(self.name, self.pixel_size_um))
        check_sides(self.name, self.width, self.height)
        _check_values(self.name, levels)
        if self.given_contrast is not None and not 0 < self.given_contrast[1] - self.given_contrast[0] < math.inf:
            raise refusal(
                self.name, f"given_contrast is {self.given_contrast}", "give two finite levels, the lower first"
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled or copied micrograph, whose levels would be writeable otherwise."""
        self.__dict__.update(state)
        self.levels.flags.writeable = False

    @classmethod
    def from_array(cls, pixels: object, *, pixel_size_um: float | None = None, name: str | None = None) -> Micrograph:
        """Make a micrograph from a copy of an array.

        Unlike a file, an array keeps its data bar, and no note says how it was read.

        Args:
            pixels: array of shape (H, W), (H, W, 1), (H, W, 3), or (H, W, 4), where alpha is the last channel and is
                dropped; any integer, floating or boolean dtype. A nested sequence, a torch tensor and a grey or RGB
                Pillow image are accepted too.
            pixel_size_um: side of a pixel in µm.
            name: its name in errors and reports.

        Returns:
            The micrograph. Its sha256 is that of the given array's bytes in row-major order.

        Raises:
            MicrographError: the pixels are not finite, have no contrast, are too small, have unsupported channels,
                colours or dtype, are masked or have rows of different lengths; or the pixel size is not a positive
                number.
        """
        name = printable(name) if name else "array"
        if isinstance(pixels, Micrograph):
            raise refusal(name, "expected pixels, got Micrograph", "use it as it is, or pass its levels")
        array = numbers(name, pixels)
        digest = hashlib.sha256(array.data).hexdigest()
        # Converted instead of viewed, because Pillow stores true as 255.
        levels = array.astype(np.uint8) if array.dtype == np.bool_ else array
        if levels.ndim == 3:
            levels = levels[..., 0] if levels.shape[2] == 1 else levels[..., :3]
        source = None if pixel_size_um is None else GIVEN
        return cls(levels, name, digest, pixel_size_um=pixel_size_um, pixel_size_source=source)

    @property
    def height(self) -> int:
        """Rows, without the data bar."""
        return int(self.levels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.levels.shape[1])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return 1 if self.levels.ndim == 2 else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, 3)."""
        return self.levels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the stored levels, in this machine's byte order."""
        return self.levels.dtype.newbyteorder("=")

    @property
    def pixels(self) -> NDArray[np.float32]:
        """The whole image as float32, (H, W) or (H, W, 3), in the file's levels, without contrast normalisation.

        8- and 16-bit levels are exact; 32-bit integers are rounded to 24 significant bits. Every access makes a new
        array, except that levels stored as float32 are shared and read-only.
        """
        return self._converted(self.levels)

    def window(self, top: int, left: int, height: int, width: int) -> NDArray[np.float32]:
        """Return part of `pixels` as float32, (height, width) or (height, width, 3).

        Args:
            top: first row.
            left: first column.
            height: rows, at least 1.
            width: columns, at least 1.

        Returns:
            The window. Memory is used for this part only. Levels stored as float32 are shared and read-only.

        Raises:
            MicrographError: the window extends beyond the image, or is not given in integers.
        """
        given = (top, left, height, width)
        try:
            top, left, height, width = map(operator.index, given)
        except TypeError as error:
            raise MicrographError(f"{self.name}: a window cannot be given as {given!r:.80}; give integers") from error
        if top < 0 or left < 0 or height < 1 or width < 1 or top + height > self.height or left + width > self.width:
            raise MicrographError(
                f"{self.name}: the window of {height}x{width} pixels at row {top}, column {left} does not lie within "
                f"the image of {self.height}x{self.width}; clip it to the image"
            )
        converted = self._converted(self.levels[top : top + height, left : left + width])
        storage.release(self.levels)
        return converted

    def display(self) -> NDArray[np.float32]:
        """Return the whole image as `plt.imshow` shows it: float32 in [0, 1], stretched by `contrast_range`."""
        low, high = self.contrast_range
        shown: NDArray[np.float32] = np.clip((self.pixels - np.float32(low)) / np.float32(high - low), 0, 1)
        return shown

    @cached_property
    def contrast_range(self) -> tuple[float, float]:
        """The 0.5 and 99.5 percentiles of the levels over all channels; the first is less than the second.

        They are computed from a regular sub-grid of at most 2**22 pixels. If they coincide (nearly all pixels have one
        level), the minimum and maximum are used. `given_contrast` replaces both values if it is set.
        """
        if self.given_contrast is not None:
            return self.given_contrast
        step = max(1, math.ceil(math.sqrt(self.height * self.width / _CONTRAST_PIXELS)))
        sample = self._converted(storage.sampled(self.levels, step)).astype(np.float64)
        low, high = (float(value) for value in np.percentile(sample, _CONTRAST_PERCENTILES))
        if high - low >= LEAST_SPAN:
            return low, high
        extremes = []
        for rows in storage.bands(self.shape):
            band = self._converted(self.levels[rows])
            extremes.append((float(band.min()), float(band.max())))
            storage.release(self.levels)
        return min(low for low, _ in extremes), max(high for _, high in extremes)

    def __repr__(self) -> str:
        """Return a short description without the pixels."""
        size = "unknown pixel size" if self.pixel_size_um is None else f"{self.pixel_size_um:g} µm/pixel"
        shape = "x".join(map(str, self.shape))
        page = "" if self.page is None else f" page {self.page}"
        return f"<Micrograph {self.name!r}{page} {shape} {self.dtype}, {size}, sha256 {self.sha256[:12]}…>"

    @staticmethod
    def _converted(levels: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(levels.astype(np.float32, copy=False))


def expect_micrograph(sample: object) -> None:
    """Check that `sample` is a micrograph.

    Raises:
        MicrographError: it is not.
    """
    if not isinstance(sample, Micrograph):
        raise MicrographError(
            f"expected a Micrograph, got {type(sample).__name__}; use load_microstructure_data(path) or "
            "Micrograph.from_array(pixels)"
        )


def several(sample: Micrograph | Iterable[Micrograph]) -> tuple[Iterable[Micrograph], bool]:
    """Return what to iterate, and whether that is a single micrograph, or anything else to be refused as one.

    Raises:
        MicrographError: they have no order, as in a set.
    """
    if isinstance(sample, Set | Mapping):
        raise MicrographError(f"expected micrographs in an order, got {type(sample).__name__}; give a list")
    if isinstance(sample, Micrograph | str) or not isinstance(sample, Iterable):
        return [sample], True
    return sample, False


def checked_pixel_size(name: str, pixel_size_um: float | None) -> float | None:
    """Return a user's pixel size as a float, or None.

    Raises:
        MicrographError: it is not a positive number of at most a metre.
    """
    if pixel_size_um is None:
        return None
    try:
        value = math.nan if isinstance(pixel_size_um, bool | np.bool_) else float(pixel_size_um)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 1 / _LARGEST_PIXEL_UM <= value <= _LARGEST_PIXEL_UM:
        raise refusal(
            name,
            f"pixel_size_um is {pixel_size_um!r:.80}",
            f"give the side of a pixel in µm, as a positive number up to {_LARGEST_PIXEL_UM:g}",
        )
    return value


def checked_page(name: str, page: SupportsIndex) -> int:
    """Return the index of a page as an int.

    Raises:
        MicrographError: it is not an integer of at least 0.
    """
    try:
        index = operator.index(page)
    except TypeError:
        index = -1
    if index < 0:
        raise refusal(name, f"page is {page!r}", "give an integer from 0, the first page")
    return index


def _check_values(name: str, levels: NDArray[Any]) -> None:
    """Refuse pixels that float32 cannot hold, or that all have one level. Images are checked band by band."""
    exact = levels.dtype.itemsize < 4 or levels.dtype == np.float32
    low, high = math.inf, -math.inf
    bad, first = 0, (0, 0)
    for rows in storage.bands(levels.shape):
        with np.errstate(over="ignore", invalid="ignore"):  # values that overflow float32 count as infinite
            band = levels[rows].astype(np.float32, copy=False)
        least, greatest = float(band.min()), float(band.max())
        if not (math.isfinite(least) and math.isfinite(greatest)):
            where = np.argwhere(~np.isfinite(band))
            if bad == 0:
                first = (rows.start + int(where[0][0]), int(where[0][1]))
            bad += len(where)
            continue
        storage.release(levels)
        low, high = min(low, least), max(high, greatest)
        if low < high and exact and levels.dtype.kind != "f":
            return  # integers are finite, and the image has contrast
    if bad:
        count = "1 value is" if bad == 1 else f"{bad:,} values are"
        raise refusal(
            name,
            f"{count} NaN or infinite, the first at row {first[0]}, column {first[1]}",
            "replace them, or crop the image to its valid part",
        )
    if high - low > GREATEST_SPAN:
        raise refusal(
            name,
            f"its levels range from {low:g} to {high:g}, too far for single precision",
            "replace the values that stand for missing measurements",
        )
    if not high - low >= LEAST_SPAN:
        raise refusal(
            name, f"every pixel has the level {low:g}: the image has no contrast", "check the exposure or the channel"
        )
    if not exact and high - low < _LEAST_SHARE * max(abs(low), abs(high)):
        raise refusal(
            name,
            f"its levels range from {low:.9g} to {high:.9g}, too little beside their size for single precision",
            "subtract the lowest level from all",
        )
