"""Weights in safetensors: read without unpickling anything, and stored in a compact form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion_diff.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

COMPACT_FROM = 2**15
"""Matrices with at least this many elements are stored as 8-bit integers."""


def read_tensors(file: Path) -> dict[str, Any]:
    """Read a safetensors file; floating-point tensors are converted to float32.

    The file is not mapped: a model that was checked must not change with its file.

    Raises:
        CheckpointError: the file is missing or not safetensors, for example a renamed pickle.
    """
    from safetensors.torch import load

    try:
        return {k: v.float() if v.is_floating_point() else v for k, v in load(file.read_bytes()).items()}
    except Exception as error:  # safetensors raises a type of its own
        raise CheckpointError(
            f"{file}: not a readable safetensors file ({error}); restore it from its source (pickles are refused)"
        ) from error


def compact(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in the stored form: large matrices as 8-bit integers with a scale per row, the rest in float16.

    Compacting the output of `expand` gives the same bytes again.
    """
    import torch

    stored = {}
    for name, value in state.items():
        value = value.detach().float().cpu()
        if value.ndim < 2 or value.numel() < COMPACT_FROM:
            stored[name] = value.half().contiguous()
            continue
        scale = value.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, *[1] * (value.ndim - 1)) / 127
        stored[f"{name}.int8"] = (value / scale).round().to(torch.int8).contiguous()
        stored[f"{name}.scale"] = scale
    return stored


def expand(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 weights from the output of `compact`.

    Raises:
        KeyError: an integer matrix has no scale.
        ValueError: there is not exactly one scale per row; broadcasting two small tensors could allocate a huge one.
    """
    state = {name: value.float() for name, value in stored.items() if not name.endswith((".int8", ".scale"))}
    for name, value in stored.items():
        if name.endswith(".int8"):
            whole = name.removesuffix(".int8")
            scale = stored[f"{whole}.scale"]
            if scale.shape != (*value.shape[:1], *[1] * (value.ndim - 1)):
                raise ValueError(f"{whole} has shape {tuple(value.shape)} and scales {tuple(scale.shape)}")
            state[whole] = value.float() * scale
    return state
