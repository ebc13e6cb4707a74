"""Weights: `weights.read_tensors`."""

from __future__ import annotations

import random

import torch
from common import FindingError, bounded_memory, written
from safetensors.torch import save
from structured import mutate_tensors

from fusion_diff.errors import CheckpointError
from fusion_diff.weights import compact, read_tensors

MAX_LEN = 2**16


def seeds() -> list[bytes]:
    """Return safetensors of several dtypes, and some as they are stored."""
    generator = torch.Generator().manual_seed(0)
    values = {"a": torch.randn(3, 4, generator=generator), "b": torch.arange(5), "c": torch.ones(2, dtype=torch.bool)}
    return [
        save(values),
        save({"d": torch.ones(4, dtype=torch.bfloat16), "e": torch.zeros(0, 3), "f": torch.tensor(1.0)}),
        save(compact({"w": torch.randn(128, 256, generator=generator), "x": torch.ones(3)})),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file, or its values."""
    return mutate_tensors(data, rng)


def check(data: bytes) -> None:
    """Read tensors: floating-point ones come as float32."""
    path = written(data, "weights.safetensors")
    with bounded_memory():
        try:
            tensors = read_tensors(path)
        except CheckpointError as error:
            if str(path) not in str(error):
                raise FindingError("a refusal without the file's name") from error
            return
        if any(value.is_floating_point() and value.dtype != torch.float32 for value in tensors.values()):
            raise FindingError("floating-point tensors that are not float32")
