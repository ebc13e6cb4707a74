"""Options that several commands share, so that each is named, checked and explained once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fusion_diff.model import DiffusionModel


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter("must be greater than 0")
    return value


def _fraction(value: float) -> float:
    if not 0 < value < 1:
        raise typer.BadParameter("must lie between 0 and 1")
    return value


PixelSize = Annotated[
    float | None,
    typer.Option(
        "--pixel-size", metavar="UM", callback=_positive, help="Pixel size in µm, in place of what the files say."
    ),
]
Alpha = Annotated[
    float, typer.Option("--alpha", callback=_fraction, help="Error rate among verdicts; smaller abstains more often.")
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, npu, xpu or mps.")]


def load_model(name: str, device: str) -> DiffusionModel:
    """Load a model by name, folder or hub id, onto a device."""
    from fusion_diff.model import DiffusionModel

    return DiffusionModel.from_pretrained(name).to(device)
