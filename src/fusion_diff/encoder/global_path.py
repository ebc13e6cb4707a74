"""The global path: a DeiT with bottleneck adapters, for structure that spans the tile.

Its tokens are those of middle blocks: the last ones of a published transformer serve what it was trained for, and
transfer worse. A DeiT for smaller images than a tile sees it reduced, and is faster.

DeiT: Touvron et al. 2021, "Training data-efficient image transformers & distillation through attention". Adapters:
Houlsby et al. 2019, one after each block here, starting as the identity so that an adapted network begins as
the one it adapts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DeiTConfig, DeiTModel

from fusion_diff.checkpoint import bounded_size
from fusion_diff.errors import CheckpointError

TILE = 224
"""Side in pixels of the tiles that both paths are shown."""
MAX_BLOCKS = 8
"""Blocks kept of a published DeiT."""
MIDDLE_BLOCK = 6
"""Its tokens are used beside those of the last block that is kept."""

# The shape that is distilled where no DeiT is given: DeiT-tiny's width with 8 blocks instead of 12, for a CPU.
EMBEDDED_CONFIG: dict[str, Any] = {
    "hidden_size": 192,
    "num_hidden_layers": 8,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "patch_size": 16,
    "image_size": 224,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
}

LARGEST = {
    "hidden_size": 2048,
    "num_hidden_layers": MAX_BLOCKS,
    "num_attention_heads": 64,
    "intermediate_size": 8192,
    "patch_size": 64,
    "image_size": 1024,
}
"""A configuration may come from a stranger: what asks for more than any published DeiT does is refused."""
MAX_PARAMETERS = 2**28
"""Three times DeiT-base; a GiB in float32."""
MAX_PATCHES = 4096
"""Patches of a tile: attention takes their square."""
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

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens (B, N, width)."""
        adapted: Tensor = x + self.up(F.gelu(self.down(x)))
        return adapted


class _AdaptedBlock(nn.Module):
    """A transformer block followed by its adapter; remembers what it gave last."""

    output: Tensor | None = None

    def __init__(self, block: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.block = block
        self.adapter = Adapter(width, bottleneck)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = self.block(hidden_states, *args, **kwargs)
        # transformers before version 5 returned a tuple here
        adapted: Tensor = self.adapter(output[0] if isinstance(output, tuple) else output)
        self.output = adapted
        return adapted


def _shape(config: dict[str, Any], bottleneck: int) -> DeiTConfig:
    if unknown := sorted(set(config) - set(EMBEDDED_CONFIG)):  # a number of labels would make as many names
        raise ValueError(f"{unknown[0]!r:.40} is no part of the shape of a DeiT here")
    for name, most in LARGEST.items():
        bounded_size(name, config.get(name, 1), most)
    shape = DeiTConfig(**config)
    width, patches = shape.hidden_size, (shape.image_size // shape.patch_size) ** 2
    inner = shape.intermediate_size + bounded_size("bottleneck", bottleneck, MAX_BOTTLENECK)
    block = 4 * width**2 + 2 * width * inner
    parameters = shape.num_hidden_layers * block + width * (patches + 3 * shape.patch_size**2)
    for name, value, most in (("patches", patches, MAX_PATCHES), ("parameters", parameters, MAX_PARAMETERS)):
        bounded_size(f"the number of {name}", value, most)
    return shape


def token_blocks(count: int) -> list[int]:
    """Return which of so many blocks give the tokens, counted from 0: the middle one, if it is kept, and the last."""
    return sorted({min(MIDDLE_BLOCK, count) - 1, count - 1})


def _layers(deit: DeiTModel) -> Any:
    return deit.encoder.layer if hasattr(deit, "encoder") else deit.layers


class GlobalPath(nn.Module):
    """DeiT with adapters, returning its patch tokens as a map and its two summary tokens.

    Args:
        config: shape of the DeiT, see `EMBEDDED_CONFIG`; what is left out is as in DeiT-base.
        bottleneck: width of the adapters.

    Raises:
        ValueError: the shape is larger than anything that is built here, or names something else.
    """

    def __init__(self, config: dict[str, Any], bottleneck: int = 32) -> None:
        super().__init__()
        self._adopt(DeiTModel(_shape(config, bottleneck), add_pooling_layer=False), bottleneck)

    mean: Tensor
    std: Tensor

    def _adopt(self, deit: DeiTModel, bottleneck: int) -> None:
        self.deit = deit
        self.bottleneck = bottleneck
        config = deit.config
        layers = _layers(deit)
        del layers[MAX_BLOCKS:]
        config.num_hidden_layers = len(layers)
        for index, block in enumerate(layers):
            layers[index] = _AdaptedBlock(block, config.hidden_size, bottleneck)
        self.token_blocks = token_blocks(len(layers))
        self.width = int(config.hidden_size)
        self.channels = len(self.token_blocks) * self.width
        side = int(config.image_size)
        self.grid = side // int(config.patch_size)
        self.resample = Resample(TILE, side)
        # The statistics DeiT was published with.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_deit(cls, name_or_path: str, bottleneck: int = 32) -> GlobalPath:
        """Start from a published DeiT (a hub id such as `facebook/deit-small-distilled-patch16-224`, or a folder).

        Raises:
            CheckpointError: the checkpoint cannot be found or has no safetensors weights.
        """
        try:
            deit, report = DeiTModel.from_pretrained(
                name_or_path, add_pooling_layer=False, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # transformers, safetensors and the hub client each raise types of their own
            raise CheckpointError(
                f"{name_or_path}: no DeiT checkpoint with safetensors weights could be loaded ({error}); "
                "give a folder holding config.json and model.safetensors, or a hub id reachable from here"
            ) from error
        # transformers draws a weight that is not in the file at random, and only logs it
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(
                f"{name_or_path}: {len(missing)} weights of a DeiT are missing from it, {missing[0]} among them; "
                "give a DeiT (not a ViT), whole"
            )
        path = cls.__new__(cls)
        nn.Module.__init__(path)
        path._adopt(deit, bottleneck)
        return path

    @property
    def config(self) -> dict[str, Any]:
        """The DeiT shape: what `GlobalPath(config)` needs to build the same network."""
        return {key: getattr(self.deit.config, key) for key in EMBEDDED_CONFIG}

    def adapters(self) -> list[nn.Parameter]:
        """Return the parameters of the adapters alone."""
        return [p for name, p in self.named_parameters() if ".adapter." in name]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return patch tokens, class token and distillation token.

        Args:
            pixels: (B, 3, 224, 224) float in [0, 1].

        Returns:
            (B, channels, grid, grid), the patch tokens after the `token_blocks`; (B, width) and (B, width).
        """
        # In this order: OpenVINO 2026.4 does not compile a subtraction behind the product.
        last = self.deit(pixel_values=self.resample((pixels - self.mean) / self.std)).last_hidden_state
        taken = []
        for index, block in enumerate(_layers(self.deit)):
            if index in self.token_blocks:
                assert block.output is not None
                taken.append(block.output[:, 2:])
            block.output = None
        patches = torch.cat(taken, dim=2).transpose(1, 2).reshape(-1, self.channels, self.grid, self.grid)
        return patches, last[:, 0], last[:, 1]
