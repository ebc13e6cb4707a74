"""Procedural micrographs and their flaw masks as image files, to try the program without micrographs of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fusion_diff.synthetic.generate import SyntheticMicrograph


def write_micrographs(micrographs: Sequence[SyntheticMicrograph], labels: Sequence[str], folder: Path) -> list[Path]:
    """Write micrographs as 16-bit TIFF files with the pixel size in ImageJ's metadata; return the paths.

    Files are named `<label>-<number>.tif`; older files of those names are replaced.

    Args:
        micrographs: what to write.
        labels: label of each micrograph.
        folder: folder for the files; it is created if needed.
    """
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, (micrograph, label) in enumerate(zip(micrographs, labels, strict=True)):
        path = folder / f"{label}-{index - labels.index(label) + 1:02d}.tif"
        levels = np.rint(np.clip(micrograph.pixels, 0, 1) * 65535).astype(np.uint16)
        per_um = 1 / micrograph.pixel_size_um
        tifffile.imwrite(path, levels, imagej=True, resolution=(per_um, per_um), metadata={"unit": "um"})
        files.append(path)
    return files


def write_marks(micrographs: Sequence[SyntheticMicrograph], files: Sequence[Path]) -> list[Path | None]:
    """Write the flaw mask of each micrograph beside its file; return paths, None where nothing or all is flawed.

    Args:
        micrographs: the micrographs.
        files: file of each, as `write_micrographs` returns them.
    """
    from PIL import Image

    marks: list[Path | None] = []
    for micrograph, file in zip(micrographs, files, strict=True):
        flaw = micrograph.mask > 0
        if flaw.all() or not flaw.any():
            marks.append(None)
            continue
        mark = file.with_name(f"{file.stem}-mark.png")
        Image.fromarray(flaw.astype(np.uint8) * 255).save(mark)
        marks.append(mark)
    return marks
