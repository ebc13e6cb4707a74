"""`fusion-diff pretrain`: train a checkpoint from scratch, without labels."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from fusion_diff.commands.options import path_option
from fusion_diff.commands.outputs import expect_folder, model_there
from fusion_diff.commands.terminal import say, stage_progress
from fusion_diff.errors import PretrainingError

PATIENCE = timedelta(days=1)
"""How long processes wait for one another: one of them makes the pool and the lots, in minutes to hours."""


def pretrain_command(
    out: Annotated[
        Path,
        path_option(metavar="DIR", file_okay=False, help="Folder of the run; an interrupted run in it is continued."),
    ],
    recipe: Annotated[
        str, typer.Option(help="Recipe: cpu (under an hour on 2 cores), full (for a GPU) or smoke (a quick test).")
    ] = "cpu",
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Trained prior to use frozen: a Stable Diffusion v1 folder or hub id, or a checkpoint with a prior.",
        ),
    ] = None,
    deit: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Trained DeiT for the global path: a folder or hub id.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Checkpoint whose tokens and flaw detector are kept: only the prior and the condition for it are "
            "trained.",
        ),
    ] = None,
    no_feedback: Annotated[
        bool, typer.Option("--no-feedback", help="Skip the stage `feedback`, for comparison.")
    ] = False,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Train the adapters in the stage `feedback` too, for comparison.")
    ] = False,
    condition_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            max=77,
            metavar="N",
            help="Number of condition tokens per tile that the encoder gives the prior; more than 1 for comparison.",
        ),
    ] = 1,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Precision: no, bf16 or fp16. If omitted, bf16, or no on a CPU, as most compute bf16 far slower."
        ),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Compute on the CPU even if there is a GPU.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="Number of CPU threads.")] = None,
) -> int:
    """Train prior and encoder without labels, and write a checkpoint.

    On several GPUs or hosts: torchrun --nproc_per_node N -m fusion_diff pretrain --out DIR --recipe full
    """
    import torch
    from accelerate import Accelerator, PartialState

    from fusion_diff.pretrain.builtin import enroll_builtin
    from fusion_diff.pretrain.recipe import RECIPES
    from fusion_diff.pretrain.run import CHECKPOINT, pretrain

    if recipe not in RECIPES:
        raise PretrainingError(f"recipe is {recipe!r}; use one of {', '.join(RECIPES)}")
    if precision not in (None, "no", "bf16", "fp16"):
        raise PretrainingError(f"precision is {precision!r}; use no, bf16 or fp16")
    expect_folder("--out", out)
    if threads is not None:
        torch.set_num_threads(threads)
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    if precision is None:
        precision = "no" if state.device.type == "cpu" else "bf16"
    before = model_there(out / CHECKPOINT)
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision)
    with stage_progress(enabled=accelerator.is_main_process) as progress:
        checkpoint = pretrain(
            out,
            replace(RECIPES[recipe], adapters=adapters, condition_tokens=condition_tokens),
            accelerator=accelerator,
            prior=prior,
            deit=deit,
            encoder=encoder,
            feedback=not no_feedback,
            progress=progress,
        )
    if accelerator.is_main_process:
        enroll_builtin(checkpoint)
        if before not in (None, after := model_there(checkpoint)):
            say(f"Replaced the model that was there, sha256 {before}")
        say(f"Checkpoint: {checkpoint}, sha256 {after}")
    return 0
