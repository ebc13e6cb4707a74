"""The diffusion path at inspection."""

from __future__ import annotations

import pytest
import torch

from fusion_diff.diffusion.prior import DiffusionPrior
from fusion_diff.diffusion.reconstruction import CHANNELS, ReconstructionPath
from fusion_diff.encoder.dual_path import DualPathEncoder
from fusion_diff.encoder.global_path import GlobalPath
from fusion_diff.encoder.local_path import LocalPath


@pytest.fixture(scope="module")
def path(stable_diffusion_folder, deit_folder) -> ReconstructionPath:
    prior = DiffusionPrior.from_pretrained(stable_diffusion_folder)
    torch.manual_seed(0)
    encoder = DualPathEncoder(LocalPath.from_imagenet(), GlobalPath.from_deit(str(deit_folder)), prior.condition_width)
    return ReconstructionPath(prior, encoder.eval())


def tiles(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_stable_diffusion_prior_gives_a_residual_for_every_token(path):
    residual = path.residual(tiles(2), torch.zeros(1, 32))
    assert residual.shape == (2, CHANNELS, 28, 28)
    assert bool(torch.isfinite(residual).all())
    assert float(residual.min()) >= 0
    assert float(residual.max()) > 0


@torch.no_grad()
def test_a_reconstruction_is_the_same_at_every_call_and_place_in_a_batch(path):
    pixels, condition = tiles(3), torch.randn(1, 32)
    together = path.reconstruct(pixels, condition)
    torch.testing.assert_close(path.reconstruct(pixels, condition), together, rtol=0, atol=0)
    torch.testing.assert_close(path.reconstruct(pixels[2:], condition), together[2:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(path.reconstruct(pixels.flip(0), condition).flip(0), together, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_condition_steers_the_reconstruction(path):
    pixels = tiles(1)
    one, other = (path.reconstruct(pixels, torch.full((1, 32), level)) for level in (-5.0, 5.0))
    assert float((one - other).abs().max()) > 1e-3


@torch.no_grad()
def test_the_residual_is_what_reconstruction_changed(path):
    pixels, condition = tiles(1), torch.zeros(1, 32)
    rebuilt = path.reconstruct(pixels, condition)
    blocks = (pixels - rebuilt).abs().mean(1).unfold(1, 8, 8).unfold(2, 8, 8).mean((-1, -2))
    torch.testing.assert_close(path.residual(pixels, condition)[:, 1], blocks)
    norm = path.encoder.local_norm
    texture = (norm(path.encoder.local_path(pixels)[0]) - norm(path.encoder.local_path(rebuilt)[0])).abs().mean(1)
    torch.testing.assert_close(path.residual(pixels, condition)[:, 0], texture)
