"""The flaw detector: what flaws of procedural ceramics look like in tokens, whatever the ceramic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion_diff.checkpoint import compact, expand, read_tensors
from fusion_diff.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WIDTH = 128
FILE = "flaw_detector.safetensors"


class FlawDetector(nn.Module):
    """A small network that sees one token at a time, standardised by those of sound specimens of the same ceramic.

    It is trained on procedural ceramics, whose flaws are known to the pixel. On real ones it is no judge, but a good
    first guess of where in a micrograph that is not authentic the flaw may be.

    Args:
        channels: of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    @classmethod
    def load(cls, folder: Path, channels: int) -> FlawDetector | None:
        """Return the detector of a checkpoint folder, frozen; None where it has none.

        Raises:
            CheckpointError: its file is damaged or for tokens of other channels.
        """
        if not (folder / FILE).exists():
            return None
        try:
            state = expand(read_tensors(folder / FILE))
            detector = cls.of(state, channels)
            if not all(bool(value.isfinite().all()) for value in state.values()):
                raise ValueError("its weights are not finite")
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder / FILE}: not the flaw detector of this encoder ({error!r:.300}); restore the checkpoint"
            ) from error
        return detector

    @classmethod
    def of(cls, state: Mapping[str, Tensor], channels: int) -> FlawDetector:
        """Return the detector of these weights, frozen.

        Raises:
            ValueError: they are not those of a detector of tokens of so many channels.
            RuntimeError: so are others than the first.
        """
        first = state["layers.0.weight"]
        if first.shape != (WIDTH, channels):  # of no rows it would take no place where it comes from, and much here
            raise ValueError(f"its first weights have shape {tuple(first.shape)}, not {(WIDTH, channels)}")
        detector = cls(channels)
        detector.load_state_dict(state)
        return detector.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write the weights into a checkpoint folder."""
        from safetensors.torch import save_file

        save_file(compact(self.state_dict()), folder / FILE)

    @torch.no_grad()
    def suspicion(self, tokens: Tensor) -> Tensor:
        """Return how much each standardised token (n, C) looks like a flaw, (n,); see `forward`."""
        return self.forward(tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the log-odds (n,) of standardised tokens (n, C) to be of a flaw, as likely as not beforehand."""
        log_odds: Tensor = self.layers(tokens)
        return log_odds[:, 0]
