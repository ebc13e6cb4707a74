"""Unique names for new models and images, and distinct labels for models that share a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion_diff.checkpoint import NAME_LENGTH
from fusion_diff.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from fusion_diff.service.schemas.models import ModelOut
    from fusion_diff.service.tables import Model

ID = r"^[0-9a-f]{32}$"
"""Pattern of the ids of what is recorded."""
_SHOWN = 60
_DIGITS = 8


def free(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number appended if it is taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{printable(name, NAME_LENGTH - 6)} ({number})"
    return found


def model_label(model: Model | ModelOut, models: Iterable[Model | ModelOut]) -> str:
    """Return the label of a model in a list: its name, with the start of its digest if another shares that name."""
    shown = printable(model.name, _SHOWN)
    alike = any(each.name == model.name and each.sha256 != model.sha256 for each in models)
    return f"{shown} · {model.sha256[:_DIGITS]}" if alike else shown
