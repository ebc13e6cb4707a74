"""Unique names for new models and images, and distinct labels for models that share a name."""

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
        """Name of the model."""

    @property
    def sha256(self) -> str:
        """Digest of the model."""


def free(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number appended if it is taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{printable(name, NAME_LENGTH - 6)} ({number})"
    return found


def told_apart(model: Named, models: Iterable[Named]) -> str:
    """Return the label of a model in a list: its name, with the start of its digest if another shares that name."""
    shown = printable(model.name, _SHOWN)
    alike = any(each.name == model.name and each.sha256 != model.sha256 for each in models)
    return f"{shown} · {model.sha256[:_DIGITS]}" if alike else shown
