"""Flaw marks: masks drawn on references. They are found next to the images and fitted to the micrograph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.counted import counted
from fusion_diff.errors import MicrographError, ReferenceSetError, TooManyPixelsError, TrustError
from fusion_diff.micrograph import Micrograph
from fusion_diff.micrograph.reading import read_levels
from fusion_diff.micrograph.source import open_source
from fusion_diff.references.folders import image_files, visible_folders
from fusion_diff.references.reference import as_mark, composed, listing
from fusion_diff.warn import warn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion_diff.micrograph.source import Source

MARK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Lossless formats only: JPEG leaves grey noise around a mask, and every non-zero pixel counts as flaw."""
_JPEG = b"\xff\xd8"


def find_marks(folder: Path, images: dict[str, list[Path]]) -> dict[Path, Path]:
    """Return the mark of each image that has one in `folder/<class>/<stem>.*`.

    Args:
        folder: folder of marks, with a folder per class.
        images: the reference files of each class, including the authentic one. Marks on authentic references that are
            not empty are refused later.

    Raises:
        ReferenceSetError: a mark has a lossy format, or two marks or two images share a stem.

    Warns:
        UserWarning: marks belong to no image, for example because of a misspelt name.
    """
    found: dict[Path, Path] = {}
    used: set[Path] = set()
    folders = {composed(inner.name): inner for inner in visible_folders(folder)}
    for label, paths in images.items():
        by_stem: dict[str, list[Path]] = {}
        for mark in image_files(folders.get(label, folder / label)):
            by_stem.setdefault(composed(mark.stem), []).append(mark)
        for path in paths:
            candidates = by_stem.get(composed(path.stem), [])
            if not candidates:
                continue
            if len(candidates) > 1:
                raise ReferenceSetError(f"{path} has {len(candidates)} marks; keep one:{listing(candidates)}")
            mark = candidates[0]
            if mark in used:
                raise ReferenceSetError(
                    f"the mark {mark} fits two images of {label} with the same stem; rename one image and its mark"
                )
            if mark.suffix.lower() not in MARK_SUFFIXES:
                raise ReferenceSetError(
                    f"the mark {mark} is not lossless; save it as PNG or TIFF, not as {mark.suffix}"
                )
            used.add(mark)
            found[path] = mark
    everywhere = [folder, *visible_folders(folder)]
    stray = [path for inner in everywhere for path in image_files(inner) if path not in used]
    if stray:
        many = counted(len(stray), "mark belongs", "marks belong")
        warn(f"{many} to no reference; name each mark <class>/<stem of the image>.png:{listing(stray)}")
    return found


def read_mark(path: Path, micrograph: Micrograph, name: str, sha256: str | None = None) -> NDArray[np.bool_]:
    """Return the mark in an image file as bool of the micrograph's size, true where the pixel is neither black nor
    transparent.

    Args:
        path: the file.
        micrograph: the marked micrograph.
        name: the micrograph's name in error messages.
        sha256: the expected digest of the file's bytes, if known.

    Raises:
        ReferenceSetError: the file cannot be read, is a JPEG, has transparent pixels but is no PNG, or its size differs
            from that of the micrograph with and without the data bar.
        TrustError: the bytes do not have the digest `sha256`.
    """
    try:
        with open_source(path) as source:
            if sha256 is not None and source.sha256 != sha256:
                raise TrustError(f"the mark of {name}: it was altered after it was drawn; restore it from its source")
            source.handle.seek(0)
            if source.handle.read(2) == _JPEG:
                raise ReferenceSetError(f"the mark {path} is not lossless; save it as PNG or TIFF, not as JPEG")
            # Not read as a micrograph, which must have contrast: a mark may have a single level.
            fitting = (micrograph.height + micrograph.data_bar_px) * micrograph.width
            levels, calibration = read_levels(source, 0, fitting)
            flaw = levels != 0 if levels.ndim == 2 else (levels != 0).any(axis=2)
            if calibration.transparent:
                flaw &= _painted(source, f"the mark {path}")
    except TooManyPixelsError as error:  # its own cure, a higher limit, would not help
        raise _unfit((error.height, error.width), micrograph, f"the mark {path}", name) from error
    except MicrographError as error:
        raise ReferenceSetError(f"the mark of {name} cannot be read: {error}") from error
    return fit_mark(flaw, micrograph, f"the mark {path}", name)


def _painted(source: Source, what: str) -> NDArray[np.bool_]:
    """Return where an image with an alpha channel, which has been decoded before, is not fully transparent."""
    import imagecodecs

    data = source.data()
    if data[:4] != b"\x89PNG":
        raise ReferenceSetError(
            f"{what} has transparent pixels, so it is unclear what is flaw: flatten it, white on the flaw and black "
            "elsewhere, or save it as PNG"
        )
    painted: NDArray[np.bool_] = imagecodecs.png_decode(data)[..., -1] > 0
    return painted


def fit_mark(values: Any, micrograph: Micrograph, what: str, name: str) -> NDArray[np.bool_]:
    """Return a mark as bool (height, width) of the micrograph, without the rows of a cropped data bar.

    Args:
        values: 2-D array, non-zero at the flaw.
        micrograph: the marked micrograph.
        what: the mark's name in error messages.
        name: the micrograph's name in error messages.
    """
    mark = as_mark(values, what)
    height, width, bar = micrograph.height, micrograph.width, micrograph.data_bar_px
    if mark.shape not in ((height, width), (height + bar, width)):
        raise _unfit(mark.shape, micrograph, what, name)
    return mark[:height]


def _unfit(shape: tuple[int, ...], micrograph: Micrograph, what: str, name: str) -> ReferenceSetError:
    height, width, bar = micrograph.height, micrograph.width, micrograph.data_bar_px
    cropped = f" ({height + bar}x{width} with its data bar)" if bar else ""
    return ReferenceSetError(
        f"{what} is {shape[0]}x{shape[1]} pixels (height x width), but {name} is {height}x{width}{cropped}; draw the "
        "mark on the micrograph itself"
    )
