"""The class of a micrograph, decided on its tokens of highest evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusion_diff.fewshot.bags import top_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MAX_TOP_TOKENS = 512


def top_limit(count: int) -> int:
    """Return the number of a micrograph's `count` tokens that decide on its class, `MAX_TOP_TOKENS` at most."""
    return min(top_count(count), MAX_TOP_TOKENS)


def top_tokens(tokens: Tensor, evidence: Tensor) -> Tensor:
    """Return the tokens (k, C) of highest evidence: the top share, 512 at most."""
    return tokens[evidence.topk(top_limit(len(tokens))).indices]


def forced_class(score: float, authentic: str, names: Sequence[str], distances: Sequence[float]) -> str:
    """Return the authentic class if its probability is at least 0.5, else the nearest of the other classes.

    Args:
        score: probability of being authentic.
        authentic: the class being verified.
        names: the other classes; may be empty.
        distances: distance to each of them, or anything that increases with it.
    """
    if score >= 0.5:
        return authentic
    return names[int(np.argmin(distances))] if names else f"not {authentic}"


@dataclass(frozen=True, eq=False)
class ClassHead:
    """Nearest class mean of the tokens of highest evidence (prototypes, Snell et al. 2017).

    Attributes:
        authentic: the authentic class.
        names: the other classes; may be empty.
        prototypes: (classes, C), the mean of each other class.
    """

    authentic: str
    names: tuple[str, ...]
    prototypes: Tensor

    @classmethod
    def fit(
        cls, tokens: Sequence[Tensor], evidence: Sequence[Tensor], labels: Sequence[str], authentic: str
    ) -> ClassHead:
        """Average the tokens of highest evidence of each class.

        Args:
            tokens: standardised tokens (n, C) of each reference.
            evidence: (n,) of each reference.
            labels: class of each reference.
            authentic: the authentic class, which gets no prototype.
        """
        import torch

        names = tuple(sorted(set(labels) - {authentic}))
        means = [top_tokens(each, values).mean(0) for each, values in zip(tokens, evidence, strict=True)]
        prototypes = [
            torch.stack([mean for mean, label in zip(means, labels, strict=True) if label == name]).mean(0)
            for name in names
        ]
        if not prototypes:
            return cls(authentic, names, tokens[0].new_zeros(0, tokens[0].shape[1]))
        return cls(authentic, names, torch.stack(prototypes))

    def predict(self, strongest: Tensor, score: float) -> str:
        """Return the class of a micrograph from its tokens of highest evidence (k, C) and its score."""
        distances = (self.prototypes - strongest.mean(0)).square().sum(1)
        return forced_class(score, self.authentic, self.names, distances.tolist())
