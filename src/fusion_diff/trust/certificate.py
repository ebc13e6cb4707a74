"""Certificates: a radius within which no change of the pixels, however devised, changes the verdict.

Randomized smoothing (Cohen et al. 2019): ask a classifier about many noisy copies of a micrograph and let the majority
decide. If a share p > 1/2 of all noisy copies is of one side, the majority stays on that side for every change of the
pixels shorter than `sigma * Phi^-1(p)`, whatever the classifier is. Noise would blind a classifier that never saw any,
so the diffusion prior denoises each copy first (Carlini et al. 2023, "(Certified!!) adversarial robustness for
free!"); noise is added to the pixels, and denoising and scoring together are the classifier that the theorem is about.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from fusion_diff.diffusion.purification import Purified, PurifiedReconstruction
from fusion_diff.encoder.fusion import STRIDE
from fusion_diff.errors import MicrographError
from fusion_diff.micrograph import Micrograph
from fusion_diff.micrograph.micrograph import expect_micrograph
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.perception import perceive
from fusion_diff.synthetic import generate
from fusion_diff.verdict.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from fusion_diff.diffusion.prior import DiffusionPrior
    from fusion_diff.encoder.fusion import DualPathEncoder
    from fusion_diff.model import DiffusionModel

    Pixels = NDArray[np.float32]

Side = Literal["authentic", "not authentic", "abstain"]

SELECTION = 0.2
"""Share of the samples that pick the side; the others bound how often it comes up, and must not be the same ones."""
TEXTURES = 8
"""Procedural ceramics that the noise of latents is measured on."""
MAX_TILES = 12
"""Tiles that a micrograph may take: each is scored for every noisy copy."""


@dataclass(frozen=True)
class Certificate:
    """What is certain of a micrograph's forced choice under small changes of its pixels.

    With probability `confidence` over the noise that was drawn: the smoothed forced choice (the side that more than
    half of all noisy, denoised copies score for, `authentic` where a copy scores 0.5 or more) is `decision` for the
    micrograph as it is, and for every other whose working pixels are less than `radius_l2` away from its own.

    Working pixels are what the encoder is shown: the micrograph stretched from its contrast range to [0, 1], enlarged
    where it is smaller than a tile, one number a pixel (three in colour). The contrast range counts as fixed. Nothing
    is said of `inspect`'s score and decision, which are not smoothed, nor of whether the decision is right: noise that
    hides a hairline crack from the smoothed choice lets it certify the cracked as authentic. Compare the two sides.

    Attributes:
        decision: the certified side; `abstain` where no side could be shown to have the majority.
        radius_l2: Euclidean length in working pixels; 0 where it abstains.
        sigma: standard deviation of the noise, in working pixels.
        samples: noisy copies scored in all.
        votes: copies for the side, of the `asked` ones.
        asked: copies that bound the side's share; the others picked it.
        bound: lower confidence bound of its share among all copies (Clopper and Pearson 1934).
        confidence: probability that the bound holds.
        numbers: how many working pixels (times channels) the radius is over.
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


def certify(
    model: DiffusionModel,
    micrograph: Micrograph,
    sigma: float = 0.06,
    samples: int = 200,
    confidence: float = 0.999,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Certify the smoothed forced choice of a micrograph, see `Certificate` for what exactly that says.

    With 200 samples at most `1.72 * sigma` can be certified, however clear the case; the radius grows slowly with more.

    Args:
        model: an enrolled model.
        micrograph: of `MAX_TILES` tiles at most; one of 224 x 224 pixels or a smaller square takes one.
        sigma: standard deviation of the noise in working pixels: larger can certify more and sees less.
        samples: noisy copies to score, at least 10; each takes as long as an inspection with purification.
        confidence: probability that the certificate holds, in (0, 1).
        seed: what the noise is drawn from. To whoever may choose the micrograph it should not be known beforehand.
        progress: called as `progress(done, total)` after each copy is scored.

    Raises:
        EnrolmentError: no references are enrolled.
        MicrographError: it takes more tiles, or is something else than a micrograph.
        ValueError: an argument is out of range.
    """
    expect_micrograph(micrograph)
    enrolment = model.expect_enrolled()
    verifier, needed = enrolment.verifier, enrolment.verifier.needs_residual
    pixels = working_pixels(micrograph, model.encoder.tile)
    denoised = denoising(model.encoder, model.reconstruction.prior, enrolment.condition, sigma)
    reconstruction = PurifiedReconstruction(model.reconstruction, denoised) if needed else None

    def against(noisy: Pixels) -> bool:
        grid, parts = perceive(
            as_micrograph(noisy),
            denoised,
            reconstruction=reconstruction,
            towards=enrolment.condition if needed else None,
        )
        return Reading.of(grid, parts, verifier).log_odds > 0

    return smooth(against, pixels, sigma=sigma, samples=samples, confidence=confidence, seed=seed, progress=progress)


def smooth(
    against: Callable[[Pixels], bool],
    pixels: Pixels,
    *,
    sigma: float,
    samples: int,
    confidence: float,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Certify the smoothed version of any classifier with two sides (Cohen et al. 2019, CERTIFY).

    Args:
        against: whether an array like `pixels` is not authentic; must depend on that array alone.
        pixels: the point to certify.
        sigma: standard deviation of the noise.
        samples: noisy copies to ask about.
        confidence: probability that the certificate holds.
        seed: what the noise is drawn from.
        progress: called as `progress(done, total)` after each copy is asked about.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 < sigma < np.inf or samples < 10 or not 0 < confidence < 1:
        raise ValueError(
            f"sigma must be above 0, samples at least 10 and confidence between 0 and 1, not {sigma}, {samples} and "
            f"{confidence}"
        )
    rng = np.random.default_rng(seed)
    answers = []
    for index in range(samples):
        noise = rng.standard_normal(pixels.shape, dtype=np.float32)
        answers.append(bool(against(pixels + np.float32(sigma) * noise)))
        if progress is not None:
            progress(index + 1, samples)
    first = round(SELECTION * samples)
    side = 2 * sum(answers[:first]) > first
    votes = sum(answer == side for answer in answers[first:])
    bound = lower_bound(votes, samples - first, confidence)
    radius = certified_radius(bound, sigma)
    named: Side = "abstain" if radius <= 0 else "not authentic" if side else "authentic"
    return Certificate(named, max(0.0, radius), sigma, samples, votes, samples - first, bound, confidence, pixels.size)


def lower_bound(votes: int, count: int, confidence: float) -> float:
    """Return the share that a side has at least, given its votes among `count` (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(votes, count, alternative="greater").proportion_ci(confidence, method="exact")
    return float(interval.low)


def certified_radius(share: float, sigma: float) -> float:
    """Return how far the pixels may move before a side with at least this share may lose its majority."""
    from scipy.stats import norm

    return float(sigma * norm.ppf(share))


def denoising(encoder: DualPathEncoder, prior: DiffusionPrior, condition: Tensor, sigma: float) -> Purified:
    """Return an encoder that removes pixel noise of deviation `sigma` in one step before it looks, adding none."""
    strength = (matching_timestep(prior, sigma) + 1) / prior.timesteps
    return Purified(encoder, prior, condition, strength=strength, noise_seed=None)


@torch.inference_mode()
def matching_timestep(prior: DiffusionPrior, sigma: float) -> int:
    """Return the timestep at which the prior's latents are as noisy as pixel noise of deviation `sigma` makes them.

    The pixels' noise is measured where it arrives, in the latents of procedural ceramics; dividing by
    `sqrt(alpha_cumprod)` gives the timestep's own (Carlini et al. 2023, sec. 3). An even grey would not do: the
    autoencoder normalises, and so turns the least noise on nothing into much. Nor may it depend on the micrograph: the
    theorem is about one classifier for all of them.
    """
    side = 32 * prior.stride
    device = prior.alphas_cumprod.device
    tiles = np.stack([generate(seed, size=side).pixels for seed in range(TEXTURES)])
    noise = np.random.default_rng(0).standard_normal(tiles.shape, dtype=np.float32)
    clean, noisy = (
        prior.encode(torch.from_numpy(each)[:, None].expand(-1, 3, -1, -1).to(device))
        for each in (tiles, tiles + np.float32(sigma) * noise)
    )
    levels = ((1 - prior.alphas_cumprod) / prior.alphas_cumprod).sqrt()
    return int((levels - (noisy - clean).std()).abs().argmin())


def working_pixels(micrograph: Micrograph, tile: int) -> Pixels:
    """Return all that the encoder is shown of a micrograph: (H, W) in [0, 1], or (H, W, 3) in colour.

    Raises:
        MicrographError: it takes more than `MAX_TILES` tiles.
    """
    grid = Grid.of(micrograph.height, micrograph.width, tile=tile, stride=STRIDE)
    tiles = list(islice(grid.tiles(), MAX_TILES + 1))
    if len(tiles) > MAX_TILES:
        raise MicrographError(
            f"{micrograph.name}: {micrograph.height}x{micrograph.width} pixels take more than {MAX_TILES} tiles, all "
            f"of them scored for every noisy copy; crop it, for example to {tile}x{tile} pixels"
        )
    pixels = np.empty((3, grid.rows * STRIDE, grid.columns * STRIDE), dtype=np.float32)
    for each in tiles:
        top, left = each.top * STRIDE, each.left * STRIDE
        pixels[:, top : top + tile, left : left + tile] = grid.read(micrograph, each)
    return pixels[0] if micrograph.channels == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, 2))


def as_micrograph(pixels: Pixels) -> Micrograph:
    """Return working pixels (H, W) or (H, W, 3) as a micrograph that is shown to the encoder without stretching.

    What lies outside of [0, 1] is clipped when it is read.
    """
    return replace(Micrograph.from_array(pixels, name="working pixels"), given_contrast=(0.0, 1.0))
