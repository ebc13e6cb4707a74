"""The training loop of all stages: built on accelerate, resumable, with a log."""

from __future__ import annotations

import json
import math
import os
import time
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fusion_diff.errors import PretrainingError
from fusion_diff.whole import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from accelerate import Accelerator

    from fusion_diff.pretrain.recipe import StageRecipe

SAVE_EVERY_SECONDS = 60.0
LOOK_EVERY = 5
"""Steps between looks at the loss on an accelerator, which has to finish all its work before each."""
LOG_EVERY = 25
SAMPLE_EVERY = 250
WARM_UP = 0.05


class Stage(Protocol):
    """The interface between a stage and the training loop."""

    name: str

    @property
    def trained(self) -> nn.Module:
        """The module that this stage trains; parameters without gradient are not changed."""

    def loss(self, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        """Return the loss of a batch of `count` samples; `rng` is the only source of randomness."""

    def sample(self, device: torch.device) -> Tensor | None:
        """Return an image (3, H, W) in [0, 1] that shows the current state of training, or None."""


class _Loss(nn.Module):
    """A stage as one module, so that data-parallel wrappers can synchronise its forward pass."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.trained = stage.trained
        self.stage = stage

    def forward(self, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        return self.stage.loss(count, rng, device)


def train(
    stage: Stage,
    recipe: StageRecipe,
    *,
    folder: Path,
    seed: int,
    accelerator: Accelerator,
    progress: Callable[[str, int, int, float], None] | None = None,
) -> None:
    """Train a stage to its last step, continuing an interrupted run in `folder`.

    Writes `state.safetensors` (weights and optimiser moments) at least once a minute, `log.jsonl` and `samples/*.png`.
    Batches and noise depend only on (seed, stage, step, process). So a resumed run sees the same data as an
    uninterrupted one.

    Raises:
        PretrainingError: the batch cannot be split evenly among the processes, the state in `folder` belongs to another
            recipe, or the loss or its gradient is no longer finite.
    """
    if recipe.batch % accelerator.num_processes:
        raise PretrainingError(
            f"a batch of {recipe.batch} cannot be split evenly among {accelerator.num_processes} processes; "
            f"use a number of processes that divides {recipe.batch}"
        )
    share = recipe.batch // accelerator.num_processes
    parameters = {name: p for name, p in stage.trained.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(parameters.values(), lr=recipe.learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    folder.mkdir(parents=True, exist_ok=True)
    log_file, state_file = folder / "log.jsonl", folder / "state.safetensors"
    if accelerator.is_main_process:
        _cut_torn_line(log_file)
    step = _restore(state_file, stage.trained, parameters, optimiser, recipe) if state_file.exists() else 0
    if step >= recipe.steps:
        return
    module, optimiser = accelerator.prepare(_Loss(stage).to(accelerator.device), optimiser)
    for state in optimiser.state.values():
        state["step"] = state["step"].cpu()  # `prepare` moved it to the device, which every step would then wait for
    stage_key = int.from_bytes(stage.name.encode()[:8], "big")
    saved = logged = time.monotonic()
    window: list[Tensor] = []
    look_every = 1 if accelerator.device.type == "cpu" else LOOK_EVERY
    while step < recipe.steps:
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        rng = np.random.default_rng([seed, stage_key, step, accelerator.process_index])
        with accelerator.autocast():
            loss = module(share, rng, accelerator.device)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(list(parameters.values()), 1.0)
        optimiser.step()
        # In fp16 a gradient may overflow: that step was left out, and the next ones are scaled less.
        window.append(loss.detach() if optimiser.step_was_skipped else loss.detach() + 0 * norm)
        optimiser.zero_grad()
        step += 1
        if step % look_every and step != recipe.steps:
            continue
        latest = _finite(window[-look_every:], stage.name, step, folder)
        now = time.monotonic()
        if progress and accelerator.is_main_process:
            progress(stage.name, step, recipe.steps, latest)
        if step % LOG_EVERY == 0 or step == recipe.steps:
            rate = len(window) * recipe.batch / max(now - logged, 1e-9)
            entry = {
                "stage": stage.name,
                "step": step,
                "loss": float(torch.stack(window).mean()),
                "samples_per_second": round(rate, 2),
            }
            window, logged = [], now
            if accelerator.is_main_process:
                with log_file.open("a", encoding="utf-8", newline="\n") as log:
                    log.write(json.dumps(entry) + "\n")
        if not accelerator.is_main_process:
            continue
        if step % SAMPLE_EVERY == 0 or step == recipe.steps:
            _write_sample(stage, folder, step, accelerator)
        if now - saved > SAVE_EVERY_SECONDS or step == recipe.steps:
            _save(state_file, stage.trained, parameters, optimiser, recipe, step)
            saved = now
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def _cut_torn_line(file: Path) -> None:
    """Cut off the end of a log that a full disk or a power cut left without a line break."""
    if file.exists():
        content = file.read_bytes()
        os.truncate(file, content.rfind(b"\n") + 1)


def _finite(losses: list[Tensor], stage: str, step: int, folder: Path) -> float:
    """Return the last of the losses of the steps up to `step`, after checking all. One is NaN where its gradient is.

    Raises:
        PretrainingError: one is not finite.
    """
    values = torch.stack(losses).tolist()
    for index, value in enumerate(values, step - len(values) + 1):
        if not math.isfinite(value):
            raise PretrainingError(
                f"{stage}: the loss or its gradient is no longer finite at step {index} (the last good state is in "
                f"{folder}); start a new run with a recipe of a lower learning rate"
            )
    return float(values[-1])


def _schedule(step: int, steps: int) -> float:
    """Return the learning-rate factor: linear warm-up, then cosine decay to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _save(
    file: Path,
    trained: nn.Module,
    parameters: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    recipe: StageRecipe,
    step: int,
) -> None:
    tensors = {f"weights.{name}": value.detach().cpu().contiguous() for name, value in trained.state_dict().items()}
    for name, parameter in parameters.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{key}.{name}"] = value.detach().cpu().contiguous()
    with whole_file(file) as part:  # an interruption leaves the old state or the new one
        save_file(tensors, part, metadata={"step": str(step), "recipe": repr(recipe)})


def _restore(
    file: Path,
    trained: nn.Module,
    parameters: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    recipe: StageRecipe,
) -> int:
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # safetensors raises its own type
        raise PretrainingError(
            f"{file}: the saved state is damaged ({error}); delete it to restart this stage"
        ) from error
    if metadata.get("recipe") != repr(recipe):
        raise PretrainingError(f"{file}: saved by another recipe; choose another folder, or the recipe of that run")
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    try:
        trained.load_state_dict(weights)
        step = int(metadata["step"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise PretrainingError(
            f"{file}: the saved state is not of this stage ({error}); delete it to restart this stage"
        ) from error
    for name, parameter in parameters.items():
        moments = {key: tensors.get(f"optimiser.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if all(value is not None for value in moments.values()):
            optimiser.state[parameter] = moments
    return step


def _write_sample(stage: Stage, folder: Path, step: int, accelerator: Accelerator) -> None:
    from PIL import Image

    with torch.no_grad(), accelerator.autocast():
        picture = stage.sample(accelerator.device)
    if picture is None:
        return
    (folder / "samples").mkdir(exist_ok=True)
    array = (picture.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    Image.fromarray(array).save(folder / "samples" / f"step-{step:06d}.png")
