"""The first four stages, each with the module it trains, its loss and a sample image (the fifth is in `flaws`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.encoder.dual_path import ChannelStandardise
from fusion_diff.encoder.global_path import TILE
from fusion_diff.encoder.local_path import COARSE_CHANNELS, FINE_CHANNELS, LAST_CHANNELS

if TYPE_CHECKING:
    from fusion_diff.diffusion.prior import DiffusionPrior
    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.encoder.global_path import GlobalPath
    from fusion_diff.encoder.local_path import LocalPath
    from fusion_diff.pretrain.pool import Pool

AUTOENCODER_CROP = 96
CROP = 128
"""Sides in pixels of the crops that the autoencoder and the prior are trained on."""
CONDITION_DROP = 0.15
"""Share of prior samples whose condition is set to zero, so that the prior also works without a condition."""
KL_WEIGHT = 1e-6
PERCEPTUAL_WEIGHT = 0.1


def torch_generator(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    """Return a torch generator on a device, seeded from `rng`."""
    return torch.Generator(device).manual_seed(int(rng.integers(2**62)))


def grid(*rows: Tensor) -> Tensor:
    """Arrange batches (n, 3, H, W) as the rows of one image (3, rows*H, n*W)."""
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)


class AutoencoderStage:
    """Trains the autoencoder with absolute error, a perceptual loss by the CNN and a small KL term."""

    name = "autoencoder"

    def __init__(self, prior: DiffusionPrior, critic: LocalPath, pool: Pool, device: torch.device) -> None:
        self.trained = prior.vae
        self.critic = critic.to(device)
        self.pool = pool
        with torch.no_grad():
            maps, _ = self.critic(pool.batch(16, AUTOENCODER_CROP, np.random.default_rng(0))[0])
        self.standardise = ChannelStandardise(maps.shape[1]).to(device)
        self.standardise.measure(maps)

    def loss(self, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        """Return the reconstruction loss of a batch of crops."""
        pixels = self.pool.batch(count, AUTOENCODER_CROP, rng)[0]
        posterior = self.trained.encode(pixels * 2 - 1).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch_generator(rng, device), device=device)
        rebuilt = self.trained.decode(posterior.mean + posterior.std * noise).sample / 2 + 0.5
        seen, _ = self.critic(rebuilt)
        with torch.no_grad():
            meant, _ = self.critic(pixels)
        perceptual = F.l1_loss(self.standardise(seen), self.standardise(meant))
        divergence: Tensor = posterior.kl().mean()
        return F.l1_loss(rebuilt, pixels) + PERCEPTUAL_WEIGHT * perceptual + KL_WEIGHT * divergence

    def sample(self, device: torch.device) -> Tensor:
        """Return a row of crops above a row of their reconstructions."""
        pixels = self.pool.batch(6, CROP, np.random.default_rng(1))[0]
        rebuilt = self.trained.decode(self.trained.encode(pixels * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
        return grid(pixels, rebuilt)


class DescriptorEmbedding(nn.Module):
    """Embeds procedural descriptors (B, d) as one condition token (B, 1, width), in place of a caption."""

    def __init__(self, descriptors: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(descriptors, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, descriptors: Tensor) -> Tensor:
        """Embed a batch of descriptors."""
        token: Tensor = self.layers(descriptors)
        return token[:, None]


class PriorStage:
    """Trains the denoising U-Net, conditioned on the procedural descriptors."""

    name = "prior"

    def __init__(self, prior: DiffusionPrior, embedding: DescriptorEmbedding, pool: Pool, device: torch.device) -> None:
        self.trained = nn.ModuleDict({"unet": prior.unet, "embedding": embedding})
        self.embedding = embedding
        self.prior = prior.to(device)
        self.pool = pool

    def loss(self, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        """Return the noise-prediction loss of a batch of crops, some without condition."""
        pixels, descriptors = self.pool.batch(count, CROP, rng)
        with torch.no_grad():
            latents = self.prior.encode(pixels).float()
        kept = torch.from_numpy(rng.random(count) >= CONDITION_DROP).to(device)
        condition = self.embedding(descriptors) * kept[:, None, None]
        return self.prior.noise_prediction_loss(latents, condition, torch_generator(rng, device))

    def sample(self, device: torch.device) -> Tensor:
        """Return a row of crops, a row of the same half diffused and denoised, and a row generated from noise."""
        rng = np.random.default_rng(1)
        pixels, descriptors = self.pool.batch(6, CROP, rng)
        condition = self.embedding(descriptors)
        latents = self.prior.encode(pixels).float()
        noise = torch.randn(latents.shape, generator=torch_generator(rng, device), device=device)
        restored = self.prior.denoise(latents, condition, strength=0.5, steps=10, noise=noise)
        invented = self.prior.denoise(latents, condition, strength=1.0, steps=25, noise=noise)
        return grid(pixels, self.prior.decode(restored), self.prior.decode(invented))


class DistilStage:
    """Distils the CNN into the DeiT, token by token; the class token learns to predict the procedural descriptors.

    The distillation token predicts the teacher's pooled features, as in DeiT (Touvron et al. 2021, section 4).
    """

    name = "distil"

    def __init__(self, student: GlobalPath, teacher: LocalPath, pool: Pool, device: torch.device) -> None:
        for parameter in student.adapters():
            parameter.requires_grad_(False)  # they stay the identity until the feedback stage
        targets = COARSE_CHANNELS + LAST_CHANNELS
        self.student = student
        self.trained = nn.ModuleDict(
            {
                "student": student,
                "tokens": nn.Conv2d(student.channels, targets, 1),
                "pooled": nn.Linear(student.width, LAST_CHANNELS),
                "descriptors": nn.Linear(student.width, pool.descriptors.shape[1]),
            }
        )
        self.teacher = teacher.to(device)
        self.pool = pool
        with torch.no_grad():
            seen = self._teach(pool.batch(32, TILE, np.random.default_rng(0))[0])
        self.standardise = ChannelStandardise(targets).to(device)
        self.standardise.measure(seen)

    def _teach(self, pixels: Tensor) -> Tensor:
        texture, last = self.teacher(pixels)
        size = (self.student.shape.grid, self.student.shape.grid)
        coarse = F.interpolate(texture[:, FINE_CHANNELS:], size=size, mode="area")
        return torch.cat([coarse, F.interpolate(last, size=size, mode="bilinear", align_corners=False)], dim=1)

    def loss(self, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        """Return the squared error against the teacher on a batch of tiles, plus that of the descriptors."""
        pixels, descriptors = self.pool.batch(count, TILE, rng)
        with torch.no_grad():
            meant = self.standardise(self._teach(pixels))
        patches, class_token, distillation_token = self.student(pixels)
        tokens = F.mse_loss(self.trained["tokens"](patches), meant)
        pooled = F.mse_loss(self.trained["pooled"](distillation_token), meant[:, COARSE_CHANNELS:].mean((2, 3)))
        described = F.mse_loss(self.trained["descriptors"](class_token), descriptors)
        return tokens + pooled + described

    def sample(self, device: torch.device) -> None:
        """Return None: this stage has no image to show."""


class FeedbackStage:
    """Trains the encoder through its conditions, with the frozen prior's noise-prediction loss.

    This is diffusion feedback after DIVA (Wang et al. 2024), by default with one global token after GenHancer (Ma et
    al. 2025). Without `adapters`, it trains the conditions only and does not change the tokens.
    """

    name = "feedback"

    def __init__(
        self, encoder: DualPathEncoder, prior: DiffusionPrior, pool: Pool, device: torch.device, *, adapters: bool
    ) -> None:
        encoder.requires_grad_(False)
        for parameter in encoder.adaptable(adapters=adapters):
            parameter.requires_grad_(True)
        self.trained = encoder
        self.prior = prior.freeze().to(device)
        self.pool = pool
        # The prior was trained on crops of this size; the encoder takes the whole tile around the crop.
        self.margin = (encoder.tile - CROP) // 2

    def _crop(self, pixels: Tensor) -> Tensor:
        return pixels[..., self.margin : self.margin + CROP, self.margin : self.margin + CROP]

    def loss(self, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        """Return the prior's noise-prediction loss on the middle of each tile, given the encoder's condition."""
        pixels = self.pool.batch(count, self.trained.tile, rng)[0]
        with torch.no_grad():
            latents = self.prior.encode(self._crop(pixels)).float()
        return self.prior.noise_prediction_loss(latents, self.trained(pixels).condition, torch_generator(rng, device))

    def sample(self, device: torch.device) -> Tensor:
        """Return a row of crops, and a row of the same half diffused and denoised given the encoder's condition."""
        rng = np.random.default_rng(1)
        pixels = self.pool.batch(6, self.trained.tile, rng)[0]
        crop = self._crop(pixels)
        condition = self.trained(pixels).condition.float()
        latents = self.prior.encode(crop).float()
        noise = torch.randn(latents.shape, generator=torch_generator(rng, device), device=device)
        restored = self.prior.denoise(latents, condition, strength=0.5, steps=10, noise=noise)
        return grid(crop, self.prior.decode(restored))
