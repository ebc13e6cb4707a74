"""The global path: a DeiT with bottleneck adapters, for structure that spans the tile.

Its tokens are those of middle blocks: the last ones of a published transformer serve what it was trained for, and
transfer worse. A DeiT for smaller images than a tile sees it reduced, and is faster.

Adapters: Houlsby et al. 2019, one after each block here, starting as the identity so that an adapted network begins as
the one it adapts.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.checkpoint import bounded_size
from fusion_diff.encoder.deit import SUMMARIES, DeiT, DeiTShape

TILE = 224
"""Side in pixels of the tiles that both paths are shown."""
MAX_BLOCKS = 8
"""Blocks kept of a published DeiT."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in the images that DeiT was published with."""
MIDDLE_BLOCK = 6
"""Its tokens are used beside those of the last block that is kept."""

# What `pretrain` distils where no DeiT is given: DeiT-tiny with 8 blocks instead of 12, so that a CPU can train it.
DISTILLED_CONFIG: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 8,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "patch_size": 16,
    "image_size": 224,
    "layer_norm_eps": 1e-12,
}

MAX_BOTTLENECK = 1024


class Resample(nn.Module):
    """Bring tiles to another size, bilinearly and, where they become smaller, antialiased.

    Resampling is linear in rows and in columns, so it is done as products with one matrix, which every runtime computes
    alike.

    Args:
        before: side of the tiles in pixels.
        after: side they are brought to.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight: Tensor
        each = torch.eye(before)[None, None]
        weight = F.interpolate(each, size=(after, before), mode="bilinear", antialias=True, align_corners=False)
        self.register_buffer("weight", weight[0, 0], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Resample (B, C, before, before) to (B, C, after, after), in the precision of the pixels."""
        if self.weight.shape[0] == self.weight.shape[1]:
            return pixels
        with torch.autocast(pixels.device.type, enabled=False):
            resampled: Tensor = self.weight @ pixels @ self.weight.T
        return resampled


class Adapter(nn.Module):
    """A residual bottleneck, `x + up(gelu(down(x)))`, whose `up` starts at zero."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    @property
    def idle(self) -> bool:
        """Whether it is the identity, as it was before any training."""
        return not bool(self.up.weight.any() or self.up.bias.any())

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens (B, N, width)."""
        adapted: Tensor = x + self.up(F.gelu(self.down(x)))
        return adapted


class _AdaptedBlock(nn.Module):
    """A transformer block followed by its adapter."""

    def __init__(self, block: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.block = block
        self.adapter = Adapter(width, bottleneck)
        self.adapted = True

    def forward(self, tokens: Tensor) -> Tensor:
        after: Tensor = self.block(tokens)
        return self.adapter(after) if self.adapted else after


def token_blocks(count: int) -> list[int]:
    """Return which of so many blocks give the tokens, counted from 0: the middle one, if it is kept, and the last."""
    return sorted({min(MIDDLE_BLOCK, count) - 1, count - 1})


class GlobalPath(nn.Module):
    """DeiT with adapters, returning its patch tokens as a map and its two summary tokens.

    Args:
        config: shape of the DeiT, `MAX_BLOCKS` blocks at most; see `DISTILLED_CONFIG`.
        bottleneck: width of the adapters.

    Raises:
        ValueError: the shape is larger than anything that is built here, or none at all.
    """

    def __init__(self, config: dict[str, Any], bottleneck: int = 32) -> None:
        super().__init__()
        shape = DeiTShape.of(config)
        bounded_size("num_hidden_layers", shape.num_hidden_layers, MAX_BLOCKS)
        self._adopt(DeiT(shape), bottleneck)

    mean: Tensor
    std: Tensor

    def _adopt(self, deit: DeiT, bottleneck: int) -> None:
        shape = replace(deit.shape, num_hidden_layers=min(MAX_BLOCKS, len(deit.layers)))
        bounded_size("bottleneck", bottleneck, MAX_BOTTLENECK)
        self.shape, self.bottleneck = shape, bottleneck
        blocks = list(deit.layers)[: shape.num_hidden_layers]
        deit.layers = nn.ModuleList(_AdaptedBlock(block, shape.hidden_size, bottleneck) for block in blocks)
        self.deit = deit
        self.token_blocks = token_blocks(len(blocks))
        self.channels = len(self.token_blocks) * shape.hidden_size
        self.resample = Resample(TILE, shape.image_size)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_deit(cls, name_or_path: str, bottleneck: int = 32) -> GlobalPath:
        """Start from a published DeiT (a hub id such as `facebook/deit-small-distilled-patch16-224`, or a folder).

        Raises:
            CheckpointError: the checkpoint cannot be found, is of something else or not whole.
        """
        path = cls.__new__(cls)
        nn.Module.__init__(path)
        path._adopt(DeiT.from_published(name_or_path), bottleneck)
        return path

    @property
    def config(self) -> dict[str, Any]:
        """The DeiT shape: what `GlobalPath(config)` needs to build the same network."""
        return asdict(self.shape)

    @property
    def width(self) -> int:
        """Channels of each token."""
        return self.shape.hidden_size

    def adapters(self) -> list[nn.Parameter]:
        """Return the parameters of the adapters alone."""
        return [p for name, p in self.named_parameters() if ".adapter." in name]

    def skip_idle_adapters(self) -> None:
        """Leave out adapters that are the identity, for a path that is not trained any further."""
        for layer in self.deit.layers:
            layer.adapted = not layer.adapter.idle

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return patch tokens, class token and distillation token.

        Args:
            pixels: (B, 3, 224, 224) float in [0, 1].

        Returns:
            (B, channels, grid, grid), the patch tokens after the `token_blocks`; (B, width) and (B, width).
        """
        # In this order: OpenVINO 2026.4 does not compile a subtraction behind the product.
        after = self.deit(self.resample((pixels - self.mean) / self.std))
        patches = torch.cat([after[index][:, SUMMARIES:] for index in self.token_blocks], dim=2)
        summaries = self.deit.layernorm(after[-1][:, :SUMMARIES])
        grid = self.shape.grid
        return patches.transpose(1, 2).reshape(-1, self.channels, grid, grid), summaries[:, 0], summaries[:, 1]
