"""Adversarial attacks of robustness.py: with full access to the model, references and gradients, and with less.

The target is the forced choice: a flawed micrograph is to score 0.5 or more, or a sound one less. Attacks change the
working pixels by at most `eps` (`trust.certificate.working_pixels`: grey, stretched to [0, 1]); the contrast range is
fixed.

Gradients pass through the whole computation of a verdict: both paths of the encoder, the maximum over classes of the
multiple-instance evidence, nearest-neighbour distances, pooling of the highest tokens, and the purifier. Clipped token
channels pass gradients as if they were not clipped (Athalye et al. 2018). Success is judged by the product's own
inspection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.fewshot.bags import CLIP
from fusion_diff.fewshot.readings import pool
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.perception import _settle, perceive
from fusion_diff.trust.certificate import as_micrograph
from fusion_diff.verdict.model_evidence import ModelEvidence

if TYPE_CHECKING:
    from fusion_diff.diffusion.purification import Purification
    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.fewshot.verifier import Verifier

Gradient = Callable[[Tensor], tuple[float, Tensor]]
"""Returns the margin of the true side at a point, and its negative gradient."""


def features(encoder: DualPathEncoder, pixels: Tensor) -> Tensor:
    """Return `encoder(pixels).tokens`, with gradients through the local path, too."""
    texture = encoder.local_norm(encoder.local_path.texture(pixels))
    structure = encoder.global_projection(encoder.global_norm(encoder.global_path(pixels)[0]))
    structure = F.interpolate(structure, size=texture.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([texture, structure], dim=1)


class Victim(nn.Module):
    """The log-odds of not being authentic as a differentiable function of working pixels (H, W).

    Args:
        encoder: the dual-path encoder.
        verifier: the verifier learned from the references.
        purify: the purifier, for purified log-odds.
    """

    def __init__(self, encoder: DualPathEncoder, verifier: Verifier, purify: Purification | None = None) -> None:
        super().__init__()
        if verifier.needs_residual:
            raise ValueError("the reconstruction evidence is not attacked here; enrol without it")
        self.encoder = encoder
        self.verifier = verifier
        self.purify = purify

    def tokens(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the tokens (n, C) of working pixels, on the encoder's device."""
        side, pixels = self.encoder.tile, pixels.to(next(self.encoder.parameters()).device)
        grid = Grid.of(*pixels.shape, tile=side, stride=8)
        tiles = list(grid.tiles())
        cut = [pixels[t.top * 8 : t.top * 8 + side, t.left * 8 : t.left * 8 + side] for t in tiles]
        batch = torch.stack(cut)[:, None].expand(-1, 3, -1, -1)
        if self.purify is not None:
            batch = self.purify(batch, noise)
        maps = _settle(features(self.encoder, batch))
        kept = []
        for each, tile in zip(maps, tiles, strict=True):
            rows = slice(tile.rows[0] - tile.top, tile.rows[1] - tile.top)
            columns = slice(tile.columns[0] - tile.left, tile.columns[1] - tile.left)
            kept.append(each[:, rows, columns].flatten(1).T)
        return torch.cat(kept)

    def log_odds(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the log-odds, 0-dimensional."""
        scale = self.verifier.heads.scale
        scaled = (self.tokens(pixels, noise) - scale.mean) / scale.std
        scaled = scaled + (scaled.clamp(-CLIP, CLIP) - scaled).detach()
        nothing = scaled.new_zeros(len(scaled), 0)
        maps = self.verifier.heads.judge(scaled, nothing)
        scores = {name: sum(parts.values()) for name, parts in pool(maps).items()}
        return self.verifier.calibration.log_odds(self.verifier.fusion.fuse(scores))

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits (B, 2), authentic first, of working pixels (B, 1, H, W), for attacks by other packages."""
        odds = torch.stack([self.log_odds(each[0]) for each in batch])
        return torch.stack([torch.zeros_like(odds), odds], dim=1)

    def judge(self, pixels: Tensor) -> float:
        """Return the log-odds as the product computes them."""
        seen = perceive(as_micrograph(pixels.numpy()), self.encoder, purify=self.purify)
        return ModelEvidence.of(*seen, self.verifier).log_odds

    def gradient(self, flawed: bool, draws: int = 0, seed: int = 0) -> Gradient:
        """Return margin and gradient of an image's true side.

        Args:
            flawed: the true side.
            draws: number of purifier noises to average over (Athalye et al. 2018); 0 uses the purifier's own noise.
            seed: seed of these noises.
        """
        sign = 1.0 if flawed else -1.0
        generator = torch.Generator().manual_seed(seed)

        def at(pixels: Tensor) -> tuple[float, Tensor]:
            pixels = pixels.detach().requires_grad_()
            margins, total = [], torch.zeros_like(pixels)
            for _ in range(max(1, draws if self.purify is not None else 1)):
                noise = torch.randn(4, 56, 56, generator=generator) if draws and self.purify is not None else None
                margin = sign * self.log_odds(pixels, noise)
                total += torch.autograd.grad(margin, pixels)[0]
                margins.append(float(margin.detach()))
            return float(np.mean(margins)), -total

        return at


def unnoticed(plain: Gradient, purified: Gradient, limit: float) -> Gradient:
    """Mislead the verdict without an alarm, against `inspect --detect-attacks`.

    The margin is the larger of that of the verdict and the shift under purification beyond its limit, both in log-odds.
    The gradient is that of whatever still fails. A shift is narrowed by the verdict itself only where that is wrong
    already, for otherwise the two would work against each other.
    """

    def at(pixels: Tensor) -> tuple[float, Tensor]:
        (margin, down), (other, along) = plain(pixels), purified(pixels)
        beyond = abs(margin - other) - limit
        nearer = down - along if margin > other else along - down if margin < 0 else along
        largest = max(margin, beyond)
        ways = [way for value, way in ((margin, down), (beyond, nearer)) if value >= min(largest, 0)]
        return largest, sum((way / way.norm().clamp_min(1e-12) for way in ways), start=torch.zeros_like(down))

    return at


@dataclass(frozen=True, eq=False)
class Ball:
    """Pixels in [0, 1] within `eps` of a centre, by the norm `inf` or `2`."""

    centre: Tensor
    norm: str
    eps: float

    def project(self, pixels: Tensor) -> Tensor:
        change = pixels - self.centre
        if self.norm == "inf":
            change = change.clamp(-self.eps, self.eps)
        else:
            change = change * (self.eps / change.norm().clamp_min(self.eps))
        return (self.centre + change).clamp(0, 1)  # the centre lies in [0, 1], so clipping only brings it nearer

    def along(self, direction: Tensor) -> Tensor:
        """Return a step of length 1."""
        return direction.sign() if self.norm == "inf" else direction / direction.norm().clamp_min(1e-12)

    def start(self, seed: int) -> Tensor:
        noise = torch.rand(self.centre.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        return self.project(self.centre + self.eps * (noise if self.norm == "inf" else noise / noise.norm()))


def pgd(gradient: Gradient, ball: Ball, steps: int, *, seed: int = 0, stop: bool = True) -> Tensor:
    """Return the pixels of lowest margin by projected gradient descent from a random start (Madry et al. 2018)."""
    pixels, best = ball.start(seed), (np.inf, ball.centre)
    for _ in range(steps):
        margin, direction = gradient(pixels)
        if margin < best[0]:
            best = margin, pixels
        if stop and margin < 0:
            break
        pixels = ball.project(pixels + 2.5 * ball.eps / steps * ball.along(direction))
    return _better(gradient, best, pixels) if best[0] >= 0 or not stop else best[1]


def apgd(gradient: Gradient, ball: Ball, steps: int, *, seed: int = 0, stop: bool = True) -> Tensor:
    """Auto-PGD (Croce & Hein 2020): uses momentum, and halves the step at the best point if progress stalls."""
    size, pixels = 2 * ball.eps, ball.start(seed)
    margin, direction = gradient(pixels)
    best, best_direction, before = (margin, pixels), direction, pixels
    period, gains, since = max(2, round(0.22 * steps)), 0, 0
    for _ in range(steps - 1):
        if stop and best[0] < 0:
            return best[1]
        moved = ball.project(pixels + size * ball.along(direction))
        following = ball.project(pixels + 0.75 * (moved - pixels) + 0.25 * (pixels - before))
        before, pixels = pixels, following
        previous, (margin, direction) = margin, gradient(pixels)
        gains, since = gains + (margin < previous), since + 1
        if margin < best[0]:
            best, best_direction = (margin, pixels), direction
        if since >= period:
            if gains < 0.75 * since:
                size, pixels, before, direction, margin = size / 2, best[1], best[1], best_direction, best[0]
            period, gains, since = max(2, period - max(1, round(0.03 * steps))), 0, 0
    return best[1]


def _better(gradient: Gradient, best: tuple[float, Tensor], pixels: Tensor) -> Tensor:
    return pixels if gradient(pixels)[0] < best[0] else best[1]


def toolbox(victim: Victim, ball: Ball, flawed: bool, *, black_box: bool, steps: int) -> Tensor:
    """Attack with the Adversarial Robustness Toolbox (Nicolae et al. 2018): its PGD, or its Square Attack.

    Square Attack (Andriushchenko et al. 2020) uses only scores, `steps` of them. In version 1.20.1 its variant for the
    Euclidean norm can divide by zero, so it is used for the norm `inf` only.
    """
    from art.attacks.evasion import ProjectedGradientDescent, SquareAttack
    from art.estimators.classification import PyTorchClassifier

    torch.manual_seed(0)
    np.random.seed(0)
    wrapped = PyTorchClassifier(
        victim, nn.CrossEntropyLoss(), input_shape=(1, *ball.centre.shape), nb_classes=2, clip_values=(0.0, 1.0)
    )
    norm = np.inf if ball.norm == "inf" else 2
    if black_box:
        height, width = ball.centre.shape
        share = min(0.8, (min(height, width) - 1) ** 2 / (height * width))  # its first square has to fit inside
        attack = SquareAttack(
            wrapped, norm=norm, max_iter=steps, eps=ball.eps, p_init=share, nb_restarts=1, verbose=False
        )
    else:
        step = 2.5 * ball.eps / steps
        attack = ProjectedGradientDescent(wrapped, norm, ball.eps, step, max_iter=steps, verbose=False)
    found = attack.generate(ball.centre[None, None].numpy(), np.eye(2, dtype=np.float32)[[int(flawed)]])
    return ball.project(torch.from_numpy(np.ascontiguousarray(found[0, 0])).float())


def probe(encoder: DualPathEncoder, weights: Tensor, flawed: bool) -> Gradient:
    """Return the margin of a linear probe (153,) on the CNN's mean token, as an attacker without the model would."""
    sign = 1.0 if flawed else -1.0

    def at(pixels: Tensor) -> tuple[float, Tensor]:
        pixels = pixels.detach().requires_grad_()
        shown = pixels[None, None].expand(1, 3, -1, -1).to(next(encoder.parameters()).device)
        height, width = (side // 32 * 32 for side in pixels.shape)
        tokens = encoder.local_norm(encoder.local_path.texture(shown[..., :height, :width]))
        margin = sign * (tokens.mean((0, 2, 3)).cpu() @ weights[:-1] + weights[-1])
        return float(margin.detach()), -torch.autograd.grad(margin, pixels)[0]

    return at
