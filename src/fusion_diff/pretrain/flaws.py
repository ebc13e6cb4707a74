"""The stage that trains the flaw detector, on tokens of procedural flaws and of sound surface."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.fewshot.bags import Scale
from fusion_diff.micrograph import Micrograph
from fusion_diff.perception import encode
from fusion_diff.synthetic import FLAWS, MATERIALS, generate
from fusion_diff.weights import read_tensors
from fusion_diff.whole import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.fewshot.bags import Bag

LOCAL = tuple(flaw for flaw in FLAWS if flaw != "counterfeit")
"""Flaws with a location."""
SIDE = 224
"""Side of the generated micrographs in pixels."""
REFERENCES = 3
"""Number of sound specimens that measure the mean and standard deviation for the tokens of a lot."""
OF_A_SOUND, OF_A_FLAWED = 150, 60
"""Tokens sampled from a sound specimen, and from each of the flawed and sound areas of a flawed specimen."""
DROPPED = 0.2
"""Share of channels dropped at random in training."""
FIRST_LOT = 10_000
"""First lot number, and number of lots per seed. The built-in task uses lower lots, which are never trained on."""


def gather(
    encoder: DualPathEncoder, lots: int, seed: int, file: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Return standardised tokens (n, C) of procedural ceramics, and whether each (n,) shows a flaw.

    Each lot is a different ceramic, shown with a random half of the local flaws.

    Args:
        encoder: the encoder.
        lots: number of lots.
        seed: seed of the lots and of sampling.
        file: safetensors file to store the result in; if it exists, it is read instead.
        progress: called with the lots done and their total.
    """
    from safetensors.torch import save_file

    if not file.exists():
        tokens, flawed = [], []
        for index in range(lots):
            for of_a_flaw, found in _of_lot(encoder, index, seed):
                tokens.append(found.half().cpu())
                flawed.append(torch.full((len(found),), of_a_flaw))
            if progress:
                progress(index + 1, lots)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as part:
            save_file({"tokens": torch.cat(tokens), "flawed": torch.cat(flawed)}, part)
    kept = read_tensors(file)
    return kept["tokens"], kept["flawed"]


def _of_lot(encoder: DualPathEncoder, index: int, seed: int) -> list[tuple[bool, Tensor]]:
    """Return samples of standardised tokens (n, C) of one lot, each with whether it shows a flaw."""
    rng = np.random.default_rng([seed, index])
    material, lot = MATERIALS[index % len(MATERIALS)], FIRST_LOT * (1 + seed) + index
    first = int(rng.integers(2**40))

    def look(number: int, flaw: str) -> Bag:
        drawn = generate(first + number, size=SIDE, material=material, flaw=flaw, lot=lot)
        mark = drawn.mask > 0
        return encode(Micrograph.from_array(drawn.pixels), encoder, mark=mark if mark.any() else None)[0]

    def some(tokens: Tensor, count: int) -> Tensor:
        return tokens[rng.permutation(len(tokens))[:count]]

    scale = Scale.of([look(number, "sound").tokens for number in range(REFERENCES)])
    samples = [(False, some(scale(look(REFERENCES, "sound").tokens), OF_A_SOUND))]
    for number, flaw in enumerate(rng.permutation(LOCAL)[: len(LOCAL) // 2].tolist(), REFERENCES + 1):
        bag = look(number, flaw)
        if bag.mark is not None and bool(bag.mark.any()):
            tokens = scale(bag.tokens)
            samples += [(True, some(tokens[bag.mark], OF_A_FLAWED)), (False, some(tokens[~bag.mark], OF_A_FLAWED))]
    return samples


class FlawStage:
    """Trains the detector to classify tokens as flawed or sound, with equal weight for both classes."""

    name = "flaws"

    def __init__(self, detector: FlawDetector, tokens: Tensor, flawed: Tensor) -> None:
        self.trained = detector
        self.tokens = tokens
        self.flawed = flawed.float()
        share = float(self.flawed.mean())
        self.balance = torch.tensor((1 - share) / max(share, 1e-6))

    def loss(self, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        """Return the logistic loss of a batch of tokens."""
        chosen = torch.from_numpy(rng.integers(len(self.tokens), size=count))
        # Dropout of input channels, so that no flaw is recognised by a single channel.
        kept = torch.from_numpy(rng.random((count, self.tokens.shape[1])) >= DROPPED) / (1 - DROPPED)
        log_odds = self.trained((self.tokens[chosen] * kept).float().to(device))
        truth = self.flawed[chosen].to(device)
        return F.binary_cross_entropy_with_logits(log_odds, truth, pos_weight=self.balance.to(device))

    def sample(self, device: torch.device) -> None:
        """Return None: this stage has no image to show."""
