"""What every kind of evidence offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fusion_diff.fewshot.bags import Bag


class Evidence(Protocol):
    """A learned head. Larger values speak more strongly against authenticity; the unit is the head's own.

    Tokens given to a head are standardised (`bags.Scale`).
    """

    name: ClassVar[str]
    one_class: ClassVar[bool]
    """Can be learned from authentic references alone."""
    dense: ClassVar[bool]
    """A micrograph's score is the mean of its highest values (`bags.top_mean`); otherwise the mean of all."""

    @classmethod
    def fit(cls, authentic: Sequence[Bag], others: Sequence[Bag]) -> Self:
        """Learn from authentic bags and, unless `one_class`, bags of every other class."""

    def map(self, tokens: Tensor, residual: Tensor) -> Tensor:
        """Return the evidence (n,) of tokens (n, C) with residuals (n, R)."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors the head consists of."""

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """Rebuild a head from its tensors."""
