"""Purification: the prior repaints a micrograph lightly, and what an attacker wrote into its pixels is painted over.

A perturbation made to move the score is small and finely tuned. Diffusing the micrograph's latents a little and
denoising them again drowns and removes it, while what is really there comes back (DiffPure, Nie et al. 2022). A score
that purification changes more than it changes those of the references is a sign that somebody tuned the micrograph
(as feature squeezing tells, Xu et al. 2018).

No proof goes with either: an attacker who knows of the purification can attack through it, and benchmarks/robustness.py
does. What can be proven is in `trust.certificate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from fusion_diff.diffusion.reconstruction import ReconstructionPath
from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.crossfit import folds, left_out, single_folds
from fusion_diff.fewshot.decision import p_value
from fusion_diff.fewshot.verifier import learner
from fusion_diff.perception import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.diffusion.prior import DiffusionPrior
    from fusion_diff.encoder.fusion import DualPathEncoder, Encoding
    from fusion_diff.enrolment import Enrolment
    from fusion_diff.fewshot.bags import Bag
    from fusion_diff.fewshot.heads import Heads
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.model import DiffusionModel
    from fusion_diff.references import ReferenceSet
    from fusion_diff.result import Inspection

STRENGTH = 0.1
"""How far to diffuse. On real coatings the purified scores still rank as the plain ones do (correlation 0.93)."""
STEPS = 1
NOISE_SEED = 1
FALSE_ALARMS = 0.05
"""Share of untouched micrographs that may be taken for attacked ones."""
WITHHELD = "Inconclusive: it would be authentic, but for that."
PURIFIED = "The score is that of the micrograph after purification by the diffusion prior."


class Purified(nn.Module):
    """An encoder that looks at tiles after the prior has purified them.

    It has the encoder's `tile`, `paths` and forward signature, so whatever takes the one takes the other. Gradients
    flow through the purification as well.

    Args:
        encoder: what looks at the purified tiles.
        prior: the frozen diffusion prior.
        condition: (tokens, condition width), the mean condition of the authentic references.
        strength: how far to diffuse the latents, in (0, 1].
        steps: denoising steps, at least 1.
        noise_seed: what the noise is drawn from, the same for every tile, so that a verdict can be repeated and does
            not depend on a tile's place in a batch. None adds no noise: for tiles that are as noisy already.
    """

    def __init__(
        self,
        encoder: DualPathEncoder,
        prior: DiffusionPrior,
        condition: Tensor,
        *,
        strength: float = STRENGTH,
        steps: int = STEPS,
        noise_seed: int | None = NOISE_SEED,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.prior = prior
        self.condition: Tensor
        self.register_buffer("condition", condition)
        self.strength = strength
        self.steps = steps
        self.noise_seed = noise_seed

    @property
    def tile(self) -> int:
        """Side of a tile in working pixels."""
        return self.encoder.tile

    def purify(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return purified tiles.

        Args:
            pixels: (B, 3, T, T) in [0, 1].
            noise: standard normal, of the shape of the latents or one that expands to it; drawn from `noise_seed`
                where omitted.

        Returns:
            (B, 3, T, T) in [0, 1].
        """
        return self.prior.repaint(
            pixels,
            self.condition,
            strength=self.strength,
            steps=self.steps,
            noise=self.noise_seed if noise is None else noise,
        )

    def forward(self, pixels: Tensor) -> Encoding:
        """Purify and encode tiles (B, 3, T, T) in [0, 1]."""
        encoding: Encoding = self.encoder(self.purify(pixels))
        return encoding


class PurifiedReconstruction(ReconstructionPath):
    """The diffusion path on purified tiles: an attacker must not reach it around the purification either."""

    def __init__(self, path: ReconstructionPath, purified: Purified) -> None:
        super().__init__(path.prior, path.encoder)
        self.purified = purified

    def residual(self, pixels: Tensor, condition: Tensor) -> Tensor:
        """Return how far purified tiles are from their reconstruction, see `ReconstructionPath.residual`."""
        return super().residual(self.purified.purify(pixels), condition)


@dataclass(frozen=True)
class AttackTest:
    """Tells attacked micrographs by how far purification moves their log-odds.

    Attributes:
        shifts: (n,) how far it moves those of the references, none of which was attacked.
    """

    shifts: tuple[float, ...]

    @classmethod
    def of(cls, model: DiffusionModel, enrolment: Enrolment) -> AttackTest:
        """Return the test of an enrolment.

        Raises:
            EnrolmentError: the references were enrolled without measuring their shifts.
        """
        if not enrolment.shifts:
            raise EnrolmentError(
                f"{model.name} was enrolled without measuring what purification does to its references, so attacks "
                "cannot be told; enrol them again with detect_attacks=True (fusion-diff enroll --detect-attacks)"
            )
        return cls(enrolment.shifts)

    @property
    def false_alarms(self) -> float:
        """Share of untouched micrographs that are taken for attacked: `FALSE_ALARMS`, or more where references are few.

        With n references no smaller share than 1 / (n + 1) can be told.
        """
        return max(FALSE_ALARMS, 1 / (len(self.shifts) + 1))

    @property
    def threshold(self) -> float:
        """The conformal quantile of the references' shifts: what moves further is taken for attacked."""
        rank = int(np.floor(self.false_alarms * (len(self.shifts) + 1) + 1e-9))
        return sorted(self.shifts, reverse=True)[rank - 1]

    def judge(self, shift: float) -> tuple[bool, str]:
        """Return whether a micrograph seems attacked, and why, in a sentence.

        Args:
            shift: log-odds before less log-odds after purification; the sign does not matter.
        """
        shift = abs(shift)
        attacked = p_value(shift, np.asarray(self.shifts)) <= self.false_alarms + 1e-9
        text = "Its pixels may have been tuned to mislead" if attacked else "No sign of pixels tuned to mislead"
        text += f": purification moves its log-odds by {shift:.2f}; more than {self.threshold:.2f} raises the alarm."
        if self.false_alarms > FALSE_ALARMS:
            text += (
                f" With {len(self.shifts)} references false alarms come at {100 * self.false_alarms:.0f} of 100; "
                f"{round(1 / FALSE_ALARMS) - 1} would bring them down to {100 * FALSE_ALARMS:.0f}."
            )
        return attacked, text


@dataclass(frozen=True)
class Defended:
    """A model that is asked for more than a verdict wherever it is asked for one; satisfies `Inspector`."""

    model: DiffusionModel
    purify: bool = False
    detect_attacks: bool = False

    def inspect(self, micrograph: Micrograph, *, alpha: float) -> Inspection:
        """Return the verdict on one micrograph, see `DiffusionModel.inspect`."""
        return self.model.inspect(micrograph, alpha=alpha, purify=self.purify, detect_attacks=self.detect_attacks)


def purified_paths(model: DiffusionModel, enrolment: Enrolment) -> tuple[Purified, PurifiedReconstruction | None]:
    """Return a model's encoder with purification before it, and the diffusion path likewise if a verdict needs it."""
    purified = Purified(model.encoder, model.reconstruction.prior, enrolment.condition)
    needed = enrolment.verifier.needs_residual
    return purified, PurifiedReconstruction(model.reconstruction, purified) if needed else None


def reference_shifts(
    model: DiffusionModel, references: ReferenceSet, enrolment: Enrolment, step: Callable[[], None]
) -> tuple[float, ...]:
    """Return how far purification moves the log-odds of each reference, none of which was attacked.

    Each is scored by heads that learned from the other specimens: those that know it would find its own tokens in their
    banks before purification and not after.

    Args:
        model: whose encoder and prior to use.
        references: the references, in the order of the enrolment.
        enrolment: what was learned from them.
        step: called after each reference.
    """
    verifier = enrolment.verifier
    authentic = np.asarray([label == enrolment.authentic for label in enrolment.labels])
    bags = [replace(bag, label=label) for bag, label in zip(enrolment.bags, enrolment.labels, strict=True)]
    parts = folds(enrolment.groups, authentic) or single_folds(authentic) or []
    judges = [verifier.heads] * len(bags)
    for part, heads in left_out(parts, bags, authentic, learner(authentic, enrolment.paths, enrolment.detector)):
        kept = heads.keep(verifier.fusion.kinds)
        for index in part.tolist():
            judges[index] = kept

    def log_odds(bag: Bag, heads: Heads) -> float:
        return verifier.calibration.log_odds(verifier.fused(heads.maps(bag.tokens, bag.residual))[0])

    purified, painted = purified_paths(model, enrolment)
    plain, towards = (None, None) if painted is None else (model.reconstruction, enrolment.condition)
    shifts = []
    for reference, heads in zip(references, judges, strict=True):
        before, _ = encode(reference.micrograph, model.encoder, reconstruction=plain, towards=towards)
        after, _ = encode(reference.micrograph, purified, reconstruction=painted, towards=towards)
        shifts.append(abs(log_odds(before, heads) - log_odds(after, heads)))
        step()
    return tuple(shifts)
