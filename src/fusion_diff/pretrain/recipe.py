"""Recipes: steps, batch size and learning rate of each stage of pretraining."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

StageName = Literal["autoencoder", "prior", "distil", "feedback", "flaws"]
STAGES: tuple[StageName, ...] = ("autoencoder", "prior", "distil", "feedback", "flaws")


@dataclass(frozen=True)
class StageRecipe:
    """One stage: optimiser steps, samples per step over all processes, peak learning rate (AdamW, cosine to zero)."""

    steps: int
    batch: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole pretraining run.

    Attributes:
        name: name of the recipe in the model card.
        pool: number of procedural micrographs that crops are taken from.
        seed: seed of the pool, the initial weights, the batches and the noise.
        condition_tokens: number of condition tokens from encoder to prior.
        lots: number of procedural ceramics that the flaw detector learns from.
        adapters: whether feedback trains the adapters, which changes the tokens. Off in all recipes, because it reduced
            accuracy on real ceramics (docs/experiments.md).
        autoencoder: trains the autoencoder, from pixels to latents of a quarter of the side.
        prior: trains the denoising U-Net, conditioned on the procedural descriptors.
        distil: distils the CNN into the DeiT.
        feedback: trains gate and condition head with the frozen prior.
        flaws: trains the flaw detector on tokens of the finished encoder; its batches consist of tokens.
    """

    name: str
    pool: int
    seed: int = 0
    condition_tokens: int = 1
    lots: int
    adapters: bool = False
    autoencoder: StageRecipe
    prior: StageRecipe
    distil: StageRecipe
    feedback: StageRecipe
    flaws: StageRecipe

    def stage(self, name: StageName) -> StageRecipe:
        """Return the recipe of a stage."""
        stage: StageRecipe = getattr(self, name)
        return stage

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, for the checkpoint and for checking a resumed run."""
        return asdict(self)


RECIPES = {
    # Under an hour on 2 cores.
    "cpu": Recipe(
        name="cpu",
        pool=3000,
        lots=300,
        autoencoder=StageRecipe(steps=600, batch=16, learning_rate=1e-3),
        prior=StageRecipe(steps=1500, batch=16, learning_rate=6e-4),
        distil=StageRecipe(steps=1400, batch=16, learning_rate=8e-4),
        feedback=StageRecipe(steps=200, batch=8, learning_rate=5e-4),
        flaws=StageRecipe(steps=2000, batch=512, learning_rate=1e-3),
    ),
    # For a data-centre GPU.
    "full": Recipe(
        name="full",
        pool=20000,
        lots=1000,
        autoencoder=StageRecipe(steps=1500, batch=256, learning_rate=1e-3),
        prior=StageRecipe(steps=2500, batch=1024, learning_rate=1e-3),
        distil=StageRecipe(steps=5000, batch=256, learning_rate=5e-4),
        feedback=StageRecipe(steps=1000, batch=64, learning_rate=5e-4),
        flaws=StageRecipe(steps=5000, batch=4096, learning_rate=1e-3),
    ),
    # A few seconds: a test that every part runs.
    "smoke": Recipe(
        name="smoke",
        pool=8,
        lots=1,
        autoencoder=StageRecipe(steps=4, batch=2, learning_rate=1e-3),
        prior=StageRecipe(steps=4, batch=2, learning_rate=1e-3),
        distil=StageRecipe(steps=4, batch=2, learning_rate=1e-3),
        feedback=StageRecipe(steps=4, batch=2, learning_rate=1e-3),
        flaws=StageRecipe(steps=4, batch=2, learning_rate=1e-3),
    ),
}
