"""Certificates: a radius within which no change of the working pixels changes the smoothed choice.

Randomized smoothing (Cohen et al. 2019) classifies many noisy copies of a micrograph and takes the majority. If a share
p > 1/2 of all noisy copies falls on one side, the majority stays on that side for every change of the working pixels
shorter than `sigma * Phi^-1(p)`, for any classifier. A classifier that was never trained on noise would fail on noisy
copies, so the diffusion prior denoises each copy first (Carlini et al. 2023, "(Certified!!) adversarial robustness for
free!"). The theorem applies to denoising and scoring together as one classifier, with the noise added to the working
pixels.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral, Real
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from fusion_diff.devices import own_settings
from fusion_diff.diffusion.purification import Purification
from fusion_diff.encoder.dual_path import STRIDE
from fusion_diff.errors import ArgumentError, MicrographError
from fusion_diff.judging import read
from fusion_diff.micrograph import Micrograph
from fusion_diff.micrograph.micrograph import expect_micrograph
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.synthetic import generate

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from fusion_diff.diffusion.prior import DiffusionPrior
    from fusion_diff.model import DiffusionModel

    Pixels = NDArray[np.float32]

Side = Literal["authentic", "not authentic", "abstain"]

FEWEST = 10
"""Fewest samples that are taken. Whether so few can certify anything depends on the confidence."""
SELECTION = 0.2
"""Share of the samples that select the side. The others bound its share, and must be independent of these."""
TEXTURES = 8
"""Number of procedural ceramics on which the noise of latents is measured."""
SEED_BITS = 64
"""Bits of a secret seed."""
MAX_TILES = 12
"""Most tiles of a micrograph; each is scored for every noisy copy."""


@dataclass(frozen=True)
class Certificate:
    """Certificate of a micrograph's smoothed forced choice under small changes of its working pixels.

    The smoothed forced choice is the side that more than half of all noisy, denoised copies score for; a copy is
    authentic at a score of 0.5 or more. Where the enrolment recognises surfaces, that of a copy is recognised before it
    is denoised, as `inspect` with purification does.

    With probability `confidence` over the drawn noise, it is `decision` for the micrograph and for every other whose
    working pixels are less than `radius_l2` away.

    Working pixels are the encoder's input: the micrograph stretched from its contrast range to [0, 1], enlarged where
    it is smaller than a tile, one number per pixel (three in colour). The contrast range (0.5 and 99.5 percentiles)
    counts as fixed: a change of the file that moves it, as one grey level in a few pixels can, reaches all working
    pixels and is not covered.

    The certificate does not cover `inspect`'s score and decision, which are not smoothed. Nor does it show that the
    decision is right: noise can hide a hairline crack, so that a cracked piece is certified as authentic. Compare the
    certified side with the model's own, and ask `inspect` whether the micrograph is in scope at all.

    Attributes:
        decision: certified side; `abstain` where no side has a provable majority.
        radius_l2: Euclidean radius in working pixels; 0 where it abstains.
        sigma: standard deviation of the noise, in working pixels.
        samples: number of noisy copies scored in all.
        votes: number of the `asked` copies that fall on the side.
        asked: number of copies that bound the side's share; the others selected the side.
        bound: lower confidence bound of the side's share among all copies (Clopper and Pearson 1934).
        confidence: probability that the bound holds.
        numbers: number of working pixels times channels, the dimension of the radius.
        seed: seed of the noise, to compute the certificate again.
    """

    decision: Side
    radius_l2: float
    sigma: float
    samples: int
    votes: int
    asked: int
    bound: float
    confidence: float
    numbers: int
    seed: int


@own_settings()
def certify(
    model: DiffusionModel,
    micrograph: Micrograph,
    sigma: float = 0.06,
    samples: int = 200,
    confidence: float = 0.999,
    *,
    seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Certify the smoothed forced choice of a micrograph; see `Certificate` for what that guarantees.

    With 200 samples the radius is at most `1.72 * sigma`, and it grows slowly with more samples.

    Args:
        model: an enrolled model.
        micrograph: one of at most `MAX_TILES` tiles. 224 x 224 pixels, or a smaller square, take one tile.
        sigma: standard deviation of the noise in working pixels. More allows a larger radius but hides fine flaws.
        samples: number of noisy copies, at least 10; each takes as long as an inspection with purification.
        confidence: probability that the certificate holds, in (0, 1).
        seed: seed of the noise; a secret one is drawn if omitted. The confidence is void where whoever chose the
            micrograph knew the seed, and where several seeds are tried and the best certificate is taken.
        progress: called as `progress(done, total)` after each copy is scored.

    Raises:
        EnrolmentError: no references are enrolled.
        MicrographError: it takes more tiles, or is not a `Micrograph`.
        ArgumentError: a number is out of range.
    """
    expect_micrograph(micrograph)
    seed = secrets.randbits(SEED_BITS) if seed is None else seed
    _check(sigma, samples, confidence, seed)
    enrolment = model.expect_enrolled()
    pixels = working_pixels(micrograph, model.encoder.tile)
    denoise = denoising(model.reconstruction.prior, enrolment.condition, sigma, micrograph.channels)

    def against(noisy: Pixels) -> bool:
        return read(model, enrolment, as_micrograph(noisy), purify=denoise).log_odds > 0

    return smooth(against, pixels, sigma=sigma, samples=samples, confidence=confidence, seed=seed, progress=progress)


def smooth(
    against: Callable[[Pixels], bool],
    pixels: Pixels,
    *,
    sigma: float,
    samples: int,
    confidence: float,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Certify the smoothed version of any two-class classifier (Cohen et al. 2019, CERTIFY).

    Args:
        against: returns whether an array like `pixels` is not authentic; must depend on that array alone.
        pixels: the point to certify.
        sigma: standard deviation of the noise.
        samples: number of noisy copies.
        confidence: probability that the certificate holds.
        seed: seed of the noise, which must not depend on the point nor the point on it.
        progress: called as `progress(done, total)` after each copy.
    """
    rng = np.random.default_rng(seed)
    answers = []
    for index in range(samples):
        noise = rng.standard_normal(pixels.shape, dtype=np.float32)
        answers.append(bool(against(pixels + np.float32(sigma) * noise)))
        if progress is not None:
            progress(index + 1, samples)
    first = _selecting(samples)
    side = 2 * sum(answers[:first]) > first
    votes = sum(answer == side for answer in answers[first:])
    bound = lower_bound(votes, samples - first, confidence)
    radius = certified_radius(bound, sigma)
    named: Side = "abstain" if radius <= 0 else "not authentic" if side else "authentic"
    return Certificate(
        named, max(0.0, radius), sigma, samples, votes, samples - first, bound, confidence, pixels.size, seed
    )


def _check(sigma: float, samples: int, confidence: float, seed: int) -> None:
    """Check the numbers of a certificate.

    Raises:
        ArgumentError: one is out of range.
    """
    for name, number, kind, least, most, wanted in (
        ("sigma", sigma, Real, 1e-6, 1e6, "a number above 0"),
        ("samples", samples, Integral, FEWEST, math.inf, f"an integer of at least {FEWEST}"),
        ("confidence", confidence, Real, 1e-6, 1 - 1e-9, "a number between 0 and 1"),
        ("seed", seed, Integral, 0, math.inf, "an integer of at least 0"),
    ):
        if not isinstance(number, kind) or not least <= number <= most:
            raise ArgumentError(f"{name} is {number!r:.40}; give {wanted}")


def fewest_samples(confidence: float) -> int:
    """Return the fewest samples that can certify a side, if all of them fall on it; with fewer, all are in vain."""
    samples = FEWEST
    while lower_bound(asked := samples - _selecting(samples), asked, confidence) <= 0.5:
        samples += 1
    return samples


def _selecting(samples: int) -> int:
    """Return how many of the samples select the side."""
    return round(SELECTION * samples)


def lower_bound(votes: int, count: int, confidence: float) -> float:
    """Return the lower confidence bound of a side's share, given its votes among `count` (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(votes, count, alternative="greater").proportion_ci(confidence, method="exact")
    return float(interval.low)


def certified_radius(share: float, sigma: float) -> float:
    """Return the radius within which a side with at least this share keeps its majority."""
    from scipy.stats import norm

    return float(sigma * norm.ppf(share))


def denoising(prior: DiffusionPrior, condition: Tensor, sigma: float, channels: int = 1) -> Purification:
    """Return the removal of pixel noise of standard deviation `sigma` in one step, adding no noise.

    Args:
        prior: the diffusion prior.
        condition: (tokens, condition width), as in `Purification`.
        sigma: standard deviation of the noise in working pixels.
        channels: 1, or 3 for micrographs in colour, each channel of which has noise of its own.
    """
    strength = (matching_timestep(prior, sigma, channels) + 1) / prior.timesteps
    return Purification(prior, condition, strength, noise_seed=None)


@torch.inference_mode()
def matching_timestep(prior: DiffusionPrior, sigma: float, channels: int = 1) -> int:
    """Return the timestep whose noise equals that of latents under pixel noise of standard deviation `sigma`.

    Noise that is the same in the three channels (`channels` is 1) makes more noise in latents than noise of their own.

    The pixel noise is measured in the latents of procedural ceramics, and compared with the timestep's noise divided by
    `sqrt(alpha_cumprod)` (Carlini et al. 2023, sec. 3). A uniform grey image would not work: the autoencoder normalises
    it and amplifies the noise. The timestep must not depend on the micrograph, as the theorem is about one classifier.
    """
    side = 32 * prior.stride
    device = prior.alphas_cumprod.device
    tiles = np.stack([generate(seed, size=side).pixels for seed in range(TEXTURES)])[:, None]
    noise = np.random.default_rng(0).standard_normal((TEXTURES, channels, side, side), dtype=np.float32)
    clean, noisy = (
        prior.encode(torch.from_numpy(each).expand(-1, 3, -1, -1).to(device))
        for each in (tiles, tiles + np.float32(sigma) * noise)
    )
    levels = ((1 - prior.alphas_cumprod) / prior.alphas_cumprod).sqrt()
    return int((levels - (noisy - clean).std()).abs().argmin())


def working_pixels(micrograph: Micrograph, tile: int) -> Pixels:
    """Return the encoder's input for a micrograph: (H, W) in [0, 1], or (H, W, 3) in colour.

    Raises:
        MicrographError: it takes more than `MAX_TILES` tiles.
    """
    grid = Grid.of(micrograph.height, micrograph.width, tile=tile, stride=STRIDE)
    tiles = list(islice(grid.tiles(), MAX_TILES + 1))
    if len(tiles) > MAX_TILES:
        raise MicrographError(
            f"{micrograph.name}: its {micrograph.height}x{micrograph.width} pixels make more than "
            f"{MAX_TILES} tiles, and every noisy copy needs all of them scored; crop it, for example to "
            f"{tile}x{tile} pixels"
        )
    pixels = np.empty((3, grid.rows * STRIDE, grid.columns * STRIDE), dtype=np.float32)
    for each in tiles:
        top, left = each.top * STRIDE, each.left * STRIDE
        pixels[:, top : top + tile, left : left + tile] = grid.read(micrograph, each)
    return pixels[0] if micrograph.channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, 2))


def as_micrograph(pixels: Pixels) -> Micrograph:
    """Return working pixels (H, W) or (H, W, 3) as a micrograph that is not stretched before encoding.

    Values outside of [0, 1] are clipped when they are read.
    """
    return replace(Micrograph.from_array(pixels, name="working pixels"), given_contrast=(0.0, 1.0))
