"""The interface of all kinds of evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fusion_diff.fewshot.bags import Bag

Paths = tuple[int, ...]
"""Channels of each of the encoder's paths, in their order within a token."""
LearnsFrom = Literal["any", "both", "alone"]
"""When a head is learned: always, only with references of both sides, or only with authentic ones alone."""


class Evidence(Protocol):
    """A head: computes evidence maps from tokens. Larger values mean less authentic.

    Tokens given to a head are standardised (`bags.Scale`). Maps of kinds that a dense reading sums (`readings`) are in
    standard deviations of authentic tokens, so that they can be summed. Maps of other kinds may have any unit.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of evidence that `maps` returns."""

    def maps(self, tokens: Tensor, residual: Tensor) -> dict[str, Tensor]:
        """Return the map (n,) of each kind for tokens (n, C) and residuals (n, R)."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that make up the head."""

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """Rebuild a head from its tensors."""


class LearnedEvidence(Evidence, Protocol):
    """A head that learns from references only."""

    learns_from: ClassVar[LearnsFrom]

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag], paths: Paths) -> Self:
        """Learn from the bags of authentic references and, if the head uses them, of the other classes."""


def units(values: Tensor) -> Tensor:
    """Return the mean and standard deviation (2,) of values of authentic tokens; the latter is at least 1e-3."""
    return torch.stack([values.mean(), values.std().clamp_min(1e-3)])
