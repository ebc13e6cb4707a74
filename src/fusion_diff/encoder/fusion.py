"""The dual-path encoder: texture and structure side by side, and a gated mix of them that the prior is told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.checkpoint import bounded_size
from fusion_diff.encoder.global_path import TILE, GlobalPath
from fusion_diff.encoder.local_path import LocalPath

STRIDE = 8
"""Native pixels per token, along each side."""
STRUCTURE_WIDTH = 256
"""Channels that the global path's tokens are projected to."""
GATE_WIDTH = 192
"""Channels of the gated map that conditions are worded from."""
MAX_CONDITION_TOKENS, MAX_CONDITION_WIDTH = 77, 4096
"""As many and as wide as the words of any published latent diffusion model."""


class GatedFusion(nn.Module):
    """Mix two token maps: `g * l + (1 - g) * t` with `g = sigmoid(W [l; t])`, one gate per token and channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2 * width, width, 1)
        nn.init.zeros_(self.gate.weight)  # an even mix until something is learned
        nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]  # a convolution made with its bias

    def forward(self, local: Tensor, global_: Tensor) -> Tensor:
        """Fuse two maps (B, width, h, w) into one."""
        gate = torch.sigmoid(self.gate(torch.cat([local, global_], dim=1)))
        mixed: Tensor = gate * local + (1 - gate) * global_
        return mixed


@dataclass(frozen=True)
class Encoding:
    """What the encoder says of a batch of tiles.

    Attributes:
        texture: (B, 152, h, w) standardised maps of the local path.
        structure: (B, structure width, h, w) projected tokens of the global path, brought to the same grid.
        condition: (B, tokens, condition width) what the diffusion prior is told about each tile.
    """

    texture: Tensor
    structure: Tensor
    condition: Tensor

    @property
    def tokens(self) -> Tensor:
        """(B, C, h, w): what the evidence is learned on, texture beside structure.

        Not the gated mix: each path sees flaws of its own kind, and on real ceramics evidence learned path by path and
        then added up is ahead of evidence learned on a mix (docs/results.md).
        """
        return torch.cat([self.texture, self.structure], dim=1)


class DualPathEncoder(nn.Module):
    """CNN and DeiT, each standardised; gated into one map whose summary words conditions for the prior.

    Args:
        global_config: shape of the DeiT, see `global_path.DISTILLED_CONFIG`.
        condition_width: width of the prior's cross-attention.
        condition_tokens: global tokens handed to the prior. One by default: many local tokens let the prior copy the
            image and teach the encoder nothing (GenHancer, Ma et al. 2025).
        bottleneck: width of the adapters.

    Raises:
        ValueError: a size is larger than anything that is built here.
    """

    def __init__(
        self, global_config: dict[str, Any], condition_width: int, condition_tokens: int = 1, bottleneck: int = 32
    ) -> None:
        super().__init__()
        bounded_size("condition_tokens", condition_tokens, MAX_CONDITION_TOKENS)
        bounded_size("condition_width", condition_width, MAX_CONDITION_WIDTH)
        self._build(LocalPath(), GlobalPath(global_config, bottleneck), condition_width, condition_tokens)

    def _build(self, local: LocalPath, global_: GlobalPath, condition_width: int, condition_tokens: int) -> None:
        self.local_path = local
        self.global_path = global_
        self.tile = TILE
        self.condition_tokens = condition_tokens
        self.condition_width = condition_width
        # Per-channel statistics of the two paths over the pretraining images, so that the gate mixes like with like.
        self.local_norm = ChannelStandardise(local.channels)
        self.global_norm = ChannelStandardise(global_.channels)
        self.global_projection = nn.Conv2d(
            global_.channels, min(STRUCTURE_WIDTH, global_.channels), 1, bias=False
        ).requires_grad_(False)
        nn.init.orthogonal_(self.global_projection.weight.flatten(1))
        projections = [nn.Conv2d(channels, GATE_WIDTH, 1, bias=False) for channels in self.paths]
        for projection in projections:
            nn.init.orthogonal_(projection.weight.flatten(1))
        self.gate_projections = nn.ModuleList(projections)
        self.fusion = GatedFusion(GATE_WIDTH)
        self.condition_head = nn.Sequential(
            nn.LayerNorm(2 * GATE_WIDTH),
            nn.Linear(2 * GATE_WIDTH, 2 * GATE_WIDTH),
            nn.GELU(),
            nn.Linear(2 * GATE_WIDTH, condition_tokens * condition_width),
        )

    @classmethod
    def with_paths(
        cls, local: LocalPath, global_: GlobalPath, condition_width: int, condition_tokens: int = 1
    ) -> DualPathEncoder:
        """Build an encoder around two given paths, for example ImageNet's CNN and a hub DeiT."""
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        encoder._build(local, global_, condition_width, condition_tokens)
        return encoder

    @property
    def paths(self) -> tuple[int, int]:
        """Channels of each path in `Encoding.tokens`."""
        return self.local_path.channels, self.global_projection.out_channels

    @property
    def config(self) -> dict[str, Any]:
        """What the constructor needs to build the same encoder."""
        return {
            "global_config": self.global_path.config,
            "condition_width": self.condition_width,
            "condition_tokens": self.condition_tokens,
            "bottleneck": self.global_path.bottleneck,
        }

    def own_state(self) -> dict[str, Tensor]:
        """Return the weights a checkpoint has to hold: everything but the local path, which its package provides."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("local_path.")}

    def adaptable(self, *, adapters: bool) -> list[nn.Parameter]:
        """Return what stage 1 trains: gate and condition head, and adapters where asked. Backbones stay frozen."""
        parts = (self.gate_projections, self.fusion, self.condition_head)
        own = [p for part in parts for p in part.parameters()]
        return self.global_path.adapters() + own if adapters else own

    def forward(self, pixels: Tensor) -> Encoding:
        """Encode tiles.

        Args:
            pixels: (B, 3, 224, 224) float in [0, 1].

        Returns:
            Token maps at stride 8 and conditions; see `Encoding`.
        """
        with torch.no_grad():
            texture = self.local_norm(self.local_path.texture(pixels))
        patches, _, _ = self.global_path(pixels)
        structure = self.global_projection(self.global_norm(patches))
        structure = F.interpolate(structure, size=texture.shape[-2:], mode="bilinear", align_corners=False)
        return Encoding(texture, structure, self.condition(texture, structure))

    def condition(self, texture: Tensor, structure: Tensor) -> Tensor:
        """Gate the two maps into one and summarise it as conditions (B, tokens, condition width)."""
        local, global_ = self.gate_projections[0](texture), self.gate_projections[1](structure)
        fused = self.fusion(local, global_)
        summary = torch.cat([fused.mean((2, 3)), fused.std((2, 3))], dim=1)
        words: Tensor = self.condition_head(summary)
        return words.view(-1, self.condition_tokens, self.condition_width)


class ChannelStandardise(nn.Module):
    """Subtract a mean and divide by a deviation per channel, both measured once on pretraining images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def measure(self, maps: Tensor) -> None:
        """Take the statistics from maps (N, channels, h, w)."""
        self.mean.copy_(maps.mean((0, 2, 3)))
        self.std.copy_(maps.std((0, 2, 3)).clamp_min(1e-6))

    def forward(self, maps: Tensor) -> Tensor:
        """Standardise maps (B, channels, h, w)."""
        return (maps - self.mean[:, None, None]) / self.std[:, None, None]
