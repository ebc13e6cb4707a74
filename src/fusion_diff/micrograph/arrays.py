"""Levels of arrays, tensors and Pillow images, for micrographs that were not read from a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_diff.micrograph.limits import refusal
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MODES = frozenset({"1", "L", "LA", "I", "F", "RGB", "RGBA"})  # modes of Pillow whose arrays are grey levels or RGB


def numbers(name: str, pixels: object) -> NDArray[Any]:
    """Return a copy of pixels as an array in row-major order: (H, W), or (H, W, C) with 1, 3 or 4 channels.

    Args:
        name: name in error messages.
        pixels: an array, a nested sequence, a torch tensor of any device, or a Pillow image. Of grey with alpha (LA)
            the alpha is left out.

    Raises:
        MicrographError: they are no image, or an unsupported one.
    """
    if isinstance(pixels, str | bytes | os.PathLike):
        raise refusal(
            name,
            f"expected pixels, got {type(pixels).__name__}",
            "read a file with load_microstructure_data(path), and decode bytes to an array",
        )
    mode = getattr(pixels, "mode", None)
    _check_mode(name, mode)
    array = _as_array(name, pixels)
    parts = pixels if isinstance(pixels, list | tuple) else [pixels]
    masked = sum(np.count_nonzero(part.mask) for part in parts if isinstance(part, np.ma.MaskedArray))
    if masked:  # these values were not measured
        raise refusal(
            name,
            f"{masked:,} of its values are masked",
            "fill them with filled(), or crop the image to its valid part",
        )
    if array.dtype.kind not in "biuf":
        cure = "pass its magnitude" if array.dtype.kind == "c" else "convert it to integers or floating-point numbers"
        raise refusal(name, f"its pixels have dtype {array.dtype}", cure)
    if mode == "LA":
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise refusal(
            name,
            f"it has {array.shape[2]} channels; only 1 (grey), 3 (colour) and 4 (with alpha) are supported",
            "pass one grey or colour image, with the channels last",
        )
    return np.array(array, order="C", copy=True)


def _check_mode(name: str, mode: object) -> None:
    """Refuse a Pillow image whose numbers are neither grey levels nor RGB. An array would no longer show this."""
    if isinstance(mode, str) and mode not in _MODES and not mode.startswith("I;16"):
        said = "palette indices" if mode in ("P", "PA") else "neither grey nor RGB"
        raise refusal(
            name,
            f"its pixels are of mode {mode} ({said})",
            'read the file with load_microstructure_data, or convert the image with convert("RGB")',
        )


def _as_array(name: str, pixels: Any) -> NDArray[Any]:
    try:
        if callable(getattr(pixels, "detach", None)):  # a torch tensor; torch itself is not imported here
            pixels = pixels.detach().cpu()
            if str(pixels.dtype).startswith(("torch.bfloat16", "torch.float8")):  # NumPy has no such types
                pixels = pixels.float()
        return np.asarray(pixels)
    except MemoryError:
        raise
    except Exception as error:  # an object may fail in any way when it is asked for its values
        cure = "convert it to a NumPy array first"
        if isinstance(pixels, list | tuple):
            cure = "give all rows the same number of values"
        elif isinstance(getattr(pixels, "mode", None), str):
            cure = "copy the file again, or export it again from the program that made it"
        raise refusal(
            name, f"its pixels are not an array ({printable(error, 200) or type(error).__name__})", cure
        ) from error
