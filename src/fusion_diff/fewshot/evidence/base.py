"""What every kind of evidence offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fusion_diff.fewshot.bags import Bag

Paths = tuple[int, ...]
"""Channels of each of the encoder's paths, in the order in which they stand in a token."""
LearnsFrom = Literal["any", "both", "alone"]
"""A head is learned whatever references there are, only from both sides, or only where authentic ones are alone."""


class Evidence(Protocol):
    """A head: computes a map of evidence from tokens. Larger values mean less authentic.

    Tokens given to a head are standardised (`bags.Scale`). Maps of kinds that a dense reading sums (`readings`) are in
    standard deviations of authentic tokens, so that they can be added. Maps of other kinds may have any unit.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of evidence that its maps are of."""

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the evidence (n,) of each kind of tokens (n, C) with residuals (n, R)."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors the head consists of."""

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """Rebuild a head from its tensors."""


class LearnedEvidence(Evidence, Protocol):
    """A head that learns from references and nothing else."""

    learns_from: ClassVar[LearnsFrom]

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> Self:
        """Learn from authentic bags and those of every other class, if it learns from these."""


def units(values: Tensor) -> Tensor:
    """Return mean and deviation (2,) of what authentic tokens get, the units of a map."""
    return torch.stack([values.mean(), values.std().clamp_min(1e-3)])
