"""The stage that trains the flaw detector: tokens of procedural flaws, and of what is sound beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.checkpoint import read_tensors
from fusion_diff.fewshot.bags import Scale
from fusion_diff.micrograph import Micrograph
from fusion_diff.perception import encode
from fusion_diff.synthetic import FLAWS, MATERIALS, generate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.encoder.fusion import DualPathEncoder
    from fusion_diff.fewshot.bags import Bag

LOCAL = tuple(flaw for flaw in FLAWS if flaw != "counterfeit")
"""Flaws that have a place."""
SIDE = 224
REFERENCES = 3
"""Sound specimens that tokens of a lot are standardised by."""
OF_A_SOUND, OF_A_FLAWED = 150, 60
"""Tokens taken of a sound specimen, and of either sort of one with a flaw."""
DROPPED = 0.2
FIRST_LOT = 10_000
"""Lots of the built-in task lie below and are never seen; each seed has so many of its own."""


def gather(
    encoder: DualPathEncoder, lots: int, seed: int, file: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Return standardised tokens (n, C) of procedural ceramics, and which of them (n,) are of a flaw.

    Each lot is a ceramic of its own; half of the local flaws, by lot, are shown on it.

    Args:
        encoder: whose tokens.
        lots: how many ceramics.
        seed: of the lots and of what is drawn from them.
        file: where they are kept; read where it is there, as safetensors.
        progress: called with lots done and their number.
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
        partial = file.with_suffix(".partial")
        save_file({"tokens": torch.cat(tokens), "flawed": torch.cat(flawed)}, partial)
        partial.replace(file)
    kept = read_tensors(file)
    return kept["tokens"], kept["flawed"]


def _of_lot(encoder: DualPathEncoder, index: int, seed: int) -> list[tuple[bool, Tensor]]:
    """Return samples of standardised tokens (n, C) of one lot, with whether they are of a flaw."""
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
    """The detector learns to tell the two sorts apart, both weighing alike."""

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
        # Channels left out at random: none of them may be all that a flaw is known by.
        kept = torch.from_numpy(rng.random((count, self.tokens.shape[1])) >= DROPPED) / (1 - DROPPED)
        log_odds = self.trained((self.tokens[chosen] * kept).float().to(device))
        truth = self.flawed[chosen].to(device)
        return F.binary_cross_entropy_with_logits(log_odds, truth, pos_weight=self.balance.to(device))

    def sample(self, device: torch.device) -> None:
        """Tokens make no picture."""
