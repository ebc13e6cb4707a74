"""The interface of all kinds of evidence."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.fewshot.bags import Bag

Paths = tuple[int, ...]
"""Channels of each of the encoder's paths, in their order within a token."""
LearnsFrom = Literal["any", "both", "alone"]
"""When a head is learned: always, only with references of both sides, or only with authentic ones alone.

With authentic references alone nothing can be proved and all readings weigh the same. So `any` and `alone` are for
heads that are known to help there.
"""


class Evidence(Protocol):
    """A head: computes evidence maps from tokens. Larger values mean less authentic.

    Tokens given to a head are standardised (`bags.Scale`). Maps of kinds that a dense reading sums (`readings`) are in
    standard deviations of authentic tokens, so that they can be summed. Maps of other kinds may have any unit.

    A head sees each token by itself: those of one or several tiles are given in a row, without their places, and none
    can look at its neighbours. Residuals are for `ReconstructionEvidence` alone. They have channels only in enrolments
    with the diffusion path (`reconstruction`), and at inspection only where that head's reading has a weight.
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


@dataclass(eq=False)
class Stored:
    """Base of a head whose fields are its state: each a tensor, or a list of one tensor per path of the encoder."""

    def state(self) -> dict[str, Tensor]:
        """Return each tensor by the name of its field, and those of a list as `name.0`, `name.1` …."""
        state: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                state[name] = value
            else:
                state |= {f"{name}.{path}": each for path, each in enumerate(value)}
        return state

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Self:
        """Rebuild the head from its tensors.

        Raises:
            KeyError: a tensor is missing.
        """
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            paths = sum(key.startswith(f"{name}.") for key in state)
            values[name] = [state[f"{name}.{path}"] for path in range(paths)] if paths else state[name]
        return cls(**values)


def units(values: Tensor) -> Tensor:
    """Return the mean and standard deviation (2,) of values of authentic tokens; the latter is at least 1e-3."""
    return torch.stack([values.mean(), values.std().clamp_min(1e-3)])
