"""Names: none is given twice, and where two are alike nevertheless, something tells them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fusion_diff.printable import printable
from fusion_diff.service.tables import NAME_LENGTH

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_SHOWN = 60
_DIGITS = 8


class Named(Protocol):
    """A model, as a row or as the API shows it."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def sha256(self) -> str:
        """Its digest."""


def free(name: str, taken: Collection[str]) -> str:
    """Return a name, with a number where it is taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{printable(name, NAME_LENGTH - 6)} ({number})"
    return found


def told_apart(model: Named, models: Iterable[Named]) -> str:
    """Return how to show a model among others: with the beginning of its digest where another has its name."""
    shown = printable(model.name, _SHOWN)
    alike = any(each.name == model.name and each.sha256 != model.sha256 for each in models)
    return f"{shown} · {model.sha256[:_DIGITS]}" if alike else shown
