"""The flaw detector: a classifier of tokens trained on flaws of procedural ceramics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fusion_diff.errors import CheckpointError
from fusion_diff.weights import compact, expand, read_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

WIDTH = 128
FILE = "flaw_detector.safetensors"


class FlawDetector(nn.Module):
    """A small network that scores single tokens, standardised by tokens of sound specimens of the same ceramic.

    It is trained on procedural ceramics, whose flaws are known to the pixel. On real micrographs it is not accurate
    enough for a verdict. It gives a good first guess of where the flaw of a reference is.

    Args:
        channels: channels of a token.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    @classmethod
    def load(cls, folder: Path, channels: int) -> FlawDetector | None:
        """Load the detector of a checkpoint folder, frozen; None if the folder has none.

        Raises:
            CheckpointError: its file is damaged, or made for a different number of channels.
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
        """Return the detector with these weights, frozen.

        Raises:
            ValueError: the first weight matrix does not fit a detector for `channels` channels.
            RuntimeError: another weight does not fit.
        """
        first = state["layers.0.weight"]
        if first.shape != (WIDTH, channels):  # a tensor with 0 rows is tiny in a file, but its layer here may be huge
            raise ValueError(f"its first weights have shape {tuple(first.shape)}, not {(WIDTH, channels)}")
        detector = cls(channels)
        detector.load_state_dict(state)
        return detector.eval().requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write the weights into a checkpoint folder."""
        from safetensors.torch import save_file

        save_file(compact(self.state_dict()), folder / FILE)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the log-odds (n,) that standardised tokens (n, C) show a flaw, at a prior of 0.5."""
        log_odds: Tensor = self.layers(tokens)
        return log_odds[:, 0]
