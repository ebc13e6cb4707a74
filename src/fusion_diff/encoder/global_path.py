"""The global path: a DeiT with bottleneck adapters, for structure that spans the tile.

Its tokens come from middle blocks. The last blocks of a published transformer are specialised to its training task and
transfer worse. A DeiT for images smaller than a tile gets the tile downsampled, and is faster.

Adapters (Houlsby et al. 2019) follow each block. They start as the identity, so training starts from the original
network.
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
"""Side in pixels of the tiles that both paths take."""
MAX_BLOCKS = 8
"""Number of blocks kept of a published DeiT."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue with which DeiT was trained."""
MIDDLE_BLOCK = 6
"""Number of the middle block whose tokens are used with those of the last kept block, counted from 1."""

# The DeiT that `pretrain` distils if none is given: DeiT-tiny with 8 blocks instead of 12, so that a CPU can train it.
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
    """Resize tiles bilinearly, with antialiasing when downsampling.

    Resizing is linear in rows and columns, so it is computed as two products with one matrix. Every runtime computes
    these in the same way.

    Args:
        before: side of the input tiles in pixels.
        after: side of the output in pixels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight: Tensor
        each = torch.eye(before)[None, None]
        weight = F.interpolate(each, size=(after, before), mode="bilinear", antialias=True, align_corners=False)
        self.register_buffer("weight", weight[0, 0], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Resize (B, C, before, before) to (B, C, after, after), in the dtype of the pixels."""
        if self.weight.shape[0] == self.weight.shape[1]:
            return pixels
        with torch.autocast(pixels.device.type, enabled=False):
            resampled: Tensor = self.weight @ pixels @ self.weight.T
        return resampled


class Adapter(nn.Module):
    """A residual bottleneck, `x + up(gelu(down(x)))`; `up` is initialised with zeros."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    @property
    def idle(self) -> bool:
        """Whether the adapter is the identity, as before training."""
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
    """Return the blocks, of `count`, whose tokens are used, counted from 0: the middle one, if kept, and the last."""
    return sorted({min(MIDDLE_BLOCK, count) - 1, count - 1})


class GlobalPath(nn.Module):
    """DeiT with adapters; returns patch tokens as a map, and the two summary tokens.

    Args:
        deit: the DeiT, which becomes part of the path; its first `MAX_BLOCKS` blocks are kept.
        bottleneck: width of the adapters.

    Raises:
        ValueError: the bottleneck exceeds its limit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, deit: DeiT, bottleneck: int = 32) -> None:
        super().__init__()
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
    def from_config(cls, config: dict[str, Any], bottleneck: int = 32) -> GlobalPath:
        """Build with random weights.

        Args:
            config: shape of the DeiT, `MAX_BLOCKS` blocks at most; see `DISTILLED_CONFIG`.
            bottleneck: width of the adapters.

        Raises:
            ValueError: the shape exceeds its limits or is not valid.
        """
        shape = DeiTShape.of(config)
        bounded_size("num_hidden_layers", shape.num_hidden_layers, MAX_BLOCKS)
        return cls(DeiT(shape), bottleneck)

    @classmethod
    def from_deit(cls, name_or_path: str) -> GlobalPath:
        """Build from a published DeiT: a hub id such as `facebook/deit-small-distilled-patch16-224`, or a folder.

        Raises:
            CheckpointError: the weights cannot be found, are not those of a DeiT, or are incomplete.
        """
        return cls(DeiT.from_published(name_or_path))

    @property
    def config(self) -> dict[str, Any]:
        """The shape of the DeiT, with which `from_config` builds the same network."""
        return asdict(self.shape)

    @property
    def width(self) -> int:
        """Channels of each token."""
        return self.shape.hidden_size

    def adapters(self) -> list[nn.Parameter]:
        """Return the parameters of the adapters."""
        return [p for name, p in self.named_parameters() if ".adapter." in name]

    def skip_idle_adapters(self) -> None:
        """Skip adapters that are the identity, in a path that is not trained further."""
        for layer in self.deit.layers:
            assert isinstance(layer, _AdaptedBlock)
            layer.adapted = not layer.adapter.idle

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return patch tokens, class token and distillation token.

        Args:
            pixels: (B, 3, 224, 224) float in [0, 1].

        Returns:
            (B, channels, grid, grid), the patch tokens after the `token_blocks`; (B, width) and (B, width).
        """
        # Standardise before resizing: OpenVINO 2026.4 does not compile a subtraction after the matrix product.
        after = self.deit(self.resample((pixels - self.mean) / self.std))
        patches = torch.cat([after[index][:, SUMMARIES:] for index in self.token_blocks], dim=2)
        summaries = self.deit.layernorm(after[-1][:, :SUMMARIES])
        grid = self.shape.grid
        return patches.transpose(1, 2).reshape(-1, self.channels, grid, grid), summaries[:, 0], summaries[:, 1]
