"""Bags of synthetic tokens with a known flaw."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.keypoints import Keypoints


@pytest.fixture
def make_bag() -> Callable[..., Bag]:
    """Return a bag of standard normal tokens, some of them shifted along a direction, optionally marked."""

    def make(
        seed: int,
        *,
        tokens: int = 200,
        channels: int = 16,
        flawed: int = 0,
        direction: torch.Tensor | None = None,
        size: float = 6.0,
        marked: bool = False,
        residuals: int = 0,
        keypoints: Keypoints | None = None,
    ) -> Bag:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(tokens, channels, generator=generator)
        where = torch.randperm(tokens, generator=generator)[:flawed]
        if flawed:
            values[where] += size * (torch.eye(channels)[0] if direction is None else direction)
        mark = torch.zeros(tokens, dtype=torch.bool)
        mark[where] = True
        residual = torch.rand(tokens, residuals, generator=generator)
        residual[where] += 1
        return Bag(values, residual, mark if marked else None, keypoints=keypoints)

    return make
