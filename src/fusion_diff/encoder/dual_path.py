"""The dual-path encoder: texture and structure as token maps, and a gated mix of both that conditions the prior."""

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
"""Working pixels per token, along each side."""
STRUCTURE_WIDTH = 256
"""Channels that the global path's tokens are projected to."""
GATE_WIDTH = 192
"""Channels of the gated map that conditions are computed from."""
MAX_CONDITION_TOKENS, MAX_CONDITION_WIDTH = 77, 4096
"""Upper limits; no published latent diffusion model exceeds them."""


class GatedFusion(nn.Module):
    """Mix two token maps: `g * l + (1 - g) * t` with `g = sigmoid(W [l; t])`, one gate per token and channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2 * width, width, 1)
        nn.init.zeros_(self.gate.weight)  # an even mix before training
        nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]  # not None: the convolution has a bias

    def forward(self, local: Tensor, global_: Tensor) -> Tensor:
        """Fuse two maps (B, width, h, w) into one."""
        gate = torch.sigmoid(self.gate(torch.cat([local, global_], dim=1)))
        mixed: Tensor = gate * local + (1 - gate) * global_
        return mixed


@dataclass(frozen=True)
class Encoding:
    """The encoder's output for a batch of tiles.

    Attributes:
        texture: (B, 152, h, w) standardised maps of the local path.
        structure: (B, structure width, h, w) projected tokens of the global path, interpolated to the same grid.
        condition: (B, tokens, condition width) condition of the diffusion prior for each tile.
    """

    texture: Tensor
    structure: Tensor
    condition: Tensor

    @property
    def tokens(self) -> Tensor:
        """The tokens that evidence is learned on, (B, C, h, w): texture and structure, concatenated.

        The gated mix is not used. On real ceramics, evidence learned per path and then summed is more accurate than
        evidence learned on the mix (docs/experiments.md).
        """
        return torch.cat([self.texture, self.structure], dim=1)


class DualPathEncoder(nn.Module):
    """CNN and DeiT, each standardised per channel, with a gated mix that is summarised as the prior's condition.

    Args:
        local: the local path.
        global_: the global path.
        condition_width: width of the prior's cross-attention.
        condition_tokens: number of condition tokens. One by default: with many local tokens the prior can copy the
            image, and the encoder learns nothing (GenHancer, Ma et al. 2025).

    Raises:
        ValueError: a size exceeds its limit.
    """

    def __init__(self, local: LocalPath, global_: GlobalPath, condition_width: int, condition_tokens: int = 1) -> None:
        super().__init__()
        bounded_size("condition_tokens", condition_tokens, MAX_CONDITION_TOKENS)
        bounded_size("condition_width", condition_width, MAX_CONDITION_WIDTH)
        self.local_path = local
        self.global_path = global_
        self.tile = TILE
        self.condition_tokens = condition_tokens
        self.condition_width = condition_width
        # Per-channel statistics over the pretraining images, so that the gate mixes both paths on the same scale.
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
    def from_config(
        cls, global_config: dict[str, Any], condition_width: int, condition_tokens: int = 1, bottleneck: int = 32
    ) -> DualPathEncoder:
        """Build with random weights, except for the local path's; the arguments are those in `config`.

        Args:
            global_config: shape of the DeiT, see `global_path.DISTILLED_CONFIG`.
            condition_width: width of the prior's cross-attention.
            condition_tokens: number of condition tokens.
            bottleneck: width of the adapters.

        Raises:
            ValueError: a size exceeds its limit.
        """
        global_ = GlobalPath.from_config(global_config, bottleneck)
        return cls(LocalPath(), global_, condition_width, condition_tokens)

    @property
    def paths(self) -> tuple[int, int]:
        """Channels of each path in `Encoding.tokens`."""
        return self.local_path.channels, self.global_projection.out_channels

    @property
    def config(self) -> dict[str, Any]:
        """The arguments of `from_config` for the same encoder."""
        return {
            "global_config": self.global_path.config,
            "condition_width": self.condition_width,
            "condition_tokens": self.condition_tokens,
            "bottleneck": self.global_path.bottleneck,
        }

    def own_state(self) -> dict[str, Tensor]:
        """Return the weights that a checkpoint stores: all but the local path's, which come from its own package."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("local_path.")}

    def adaptable(self, *, adapters: bool) -> list[nn.Parameter]:
        """Return what the stage `feedback` trains: gate, condition head, optionally adapters; no backbones."""
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
    """Standardise each channel by its mean and standard deviation, measured once on pretraining images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def measure(self, maps: Tensor) -> None:
        """Measure the statistics on maps (N, channels, h, w)."""
        self.mean.copy_(maps.mean((0, 2, 3)))
        self.std.copy_(maps.std((0, 2, 3)).clamp_min(1e-6))

    def forward(self, maps: Tensor) -> Tensor:
        """Standardise maps (B, channels, h, w)."""
        return (maps - self.mean[:, None, None]) / self.std[:, None, None]
