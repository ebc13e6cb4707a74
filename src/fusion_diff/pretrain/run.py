"""A whole pretraining run, from recipe to checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fusion_diff.checkpoint import Writer, locate, write_json
from fusion_diff.diffusion.prior import DiffusionPrior, embedded_architecture
from fusion_diff.diffusion.prior_source import PRIOR, PriorSource
from fusion_diff.encoder.dual_path import DualPathEncoder
from fusion_diff.encoder.flaw_detector import FlawDetector
from fusion_diff.encoder.global_path import DISTILLED_CONFIG, GlobalPath
from fusion_diff.encoder.local_path import LocalPath, channels_last
from fusion_diff.errors import CheckpointError, PretrainingError
from fusion_diff.home import at_home, is_folder
from fusion_diff.loading import parts_of
from fusion_diff.pretrain.card import write_card
from fusion_diff.pretrain.flaws import FlawStage, gather
from fusion_diff.pretrain.loop import train
from fusion_diff.pretrain.pool import Pool, cores
from fusion_diff.pretrain.stages import (
    CROP,
    AutoencoderStage,
    DescriptorEmbedding,
    DistilStage,
    FeedbackStage,
    PriorStage,
)
from fusion_diff.warn import warn
from fusion_diff.weights import compact
from fusion_diff.whole import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from accelerate import Accelerator

    from fusion_diff.pretrain.loop import Stage
    from fusion_diff.pretrain.recipe import Recipe, StageName

CHECKPOINT = "checkpoint"
"""Folder of the finished model within that of a run."""
MEASURED = 128
"""Number of crops that channel statistics are measured on."""


def pretrain(
    out: Path,
    recipe: Recipe,
    *,
    accelerator: Accelerator,
    prior: str | None = None,
    deit: str | None = None,
    encoder: str | None = None,
    feedback: bool = True,
    progress: Callable[[str, int, int, float], None] | None = None,
) -> Path:
    """Train prior, encoder and flaw detector by a recipe and write a checkpoint, continuing a run in the same folder.

    Args:
        out: folder of the run: pool, one folder per stage with state, log and samples, and `checkpoint`. The checkpoint
            gets the name of this folder.
        recipe: steps, batches and learning rates.
        accelerator: device, processes and precision.
        prior: a trained prior to use frozen, instead of training the embedded one. If it is a folder or hub id, the
            checkpoint refers to it and notes its files' sums. If it is a checkpoint with a prior, that prior is copied.
        deit: folder or hub id of a trained DeiT to use, instead of distilling a small one.
        encoder: a checkpoint whose paths, tokens and flaw detector are kept, instead of making new ones. What makes
            conditions for the prior is trained anew. If the recipe trains the adapters, tokens and detector change.
            Enrolled references are not kept.
        feedback: run the feedback stage; without it, gate and condition head are not trained (for ablation).
        progress: called with stage, step, steps and loss.

    Returns:
        The checkpoint's folder.

    Raises:
        PretrainingError: the run cannot start or continue.
        CheckpointError: the prior, DeiT or encoder given cannot be loaded.

    Warns:
        UserWarning: the encoder given is a checkpoint with references of its own.
    """
    if deit is not None and encoder is not None:
        raise PretrainingError(
            "a DeiT and an encoder were given, but an encoder contains its DeiT; give one of the two"
        )
    given = {"prior": prior, "deit": deit, "encoder": encoder}
    known = parts_of(locate(encoder)) if encoder is not None else None
    references = known["enrolment"] if known is not None else None
    if references is not None and not references.builtin and accelerator.is_main_process:
        warn(f"{encoder}: the references that are enrolled in it are not kept; enrol them again on the new checkpoint")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    device = accelerator.device
    with accelerator.main_process_first():
        _claim(out, {"recipe": recipe.to_dict(), **given, "feedback": feedback})
        contained = _contained(prior) if prior is not None else None
        source = PriorSource.given(prior) if prior is not None and contained is None else None
        report = (lambda done, total: progress("pool", done, total, 0.0)) if progress else None
        pool = Pool.open(out / "pool", recipe.pool, recipe.seed, cores(), report).to(device)
    local = LocalPath.from_imagenet().to(device)
    channels_last(local)

    def run(stage: Stage, name: StageName) -> None:
        train(
            stage, recipe.stage(name), folder=out / name, seed=recipe.seed, accelerator=accelerator, progress=progress
        )

    def build_prior() -> DiffusionPrior:
        if source is not None:
            return DiffusionPrior.from_pretrained(source.folder()).to(device)
        if contained is not None:
            return DiffusionPrior.from_pretrained(contained).to(device)
        built = embedded_architecture().to(device)
        channels_last(built)
        run(AutoencoderStage(built, local, pool, device), "autoencoder")
        built.vae.eval().requires_grad_(False)
        _scale_latents(built, pool)
        embedding = DescriptorEmbedding(pool.descriptors.shape[1], built.condition_width).to(device)
        run(PriorStage(built, embedding, pool, device), "prior")
        return built.freeze()

    def build_encoder(condition_width: int) -> DualPathEncoder:
        if known is not None:
            return _continued(known["encoder"], local, condition_width, recipe.condition_tokens).to(device)
        if deit is not None:
            global_ = GlobalPath.from_deit(deit).to(device)
        else:
            global_ = GlobalPath.from_config(DISTILLED_CONFIG).to(device)
            run(DistilStage(global_, local, pool, device), "distil")
        built = DualPathEncoder(local, global_, condition_width, recipe.condition_tokens).to(device)
        _measure_channels(built, pool)
        return built

    def build_detector() -> FlawDetector:
        kept = known["flaw_detector"] if known is not None and not recipe.adapters else None
        if isinstance(kept, FlawDetector):
            return kept
        with accelerator.main_process_first():
            report = (lambda done, total: progress("lots", done, total, 0.0)) if progress else None
            tokens, flawed = gather(built, recipe.lots, recipe.seed, out / "flaws" / "tokens.safetensors", report)
        detector = FlawDetector(tokens.shape[1]).to(device)
        run(FlawStage(detector, tokens, flawed), "flaws")
        return detector

    trained_prior = build_prior()
    built = build_encoder(trained_prior.condition_width)
    if feedback:
        run(FeedbackStage(built, trained_prior, pool, device, adapters=recipe.adapters), "feedback")
    built.eval()
    detector = build_detector()
    if accelerator.is_main_process:
        _write(out, built.cpu(), detector.cpu(), trained_prior.cpu(), source, recipe, given, feedback)
    accelerator.wait_for_everyone()
    return out / CHECKPOINT


def _contained(prior: str) -> Path | None:
    """Return the folder of the prior within a checkpoint, or None if `prior` is not a checkpoint with a prior."""
    if "/" in prior and not is_folder(at_home(prior)):
        return None  # a hub id
    try:
        folder = locate(prior) / "prior"
    except CheckpointError:
        return None
    return folder if folder.is_dir() else None


def _continued(
    given: DualPathEncoder, local: LocalPath, condition_width: int, condition_tokens: int
) -> DualPathEncoder:
    """Return an encoder with the tokens of a given one, whose conditions are not trained yet."""
    global_ = GlobalPath.from_config(given.global_path.config, given.global_path.bottleneck)
    global_.load_state_dict(given.global_path.state_dict())
    built = DualPathEncoder(local, global_, condition_width, condition_tokens)
    for part in ("local_norm", "global_norm", "global_projection"):
        getattr(built, part).load_state_dict(getattr(given, part).state_dict())
    return built


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Store the settings of the run in `out`, or check that they match those of an earlier run there."""
    claim = json.loads(json.dumps(settings))
    file = out / "run.json"
    if file.exists():
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise PretrainingError(f"{file}: damaged ({error}); choose another folder for a new run") from error
        if known != claim:
            raise PretrainingError(
                f"{out}: holds a run with other settings (listed in {file.name}); choose another folder"
            )
    else:
        with whole_file(file) as part:
            write_json(part, claim)


def _scale_latents(prior: DiffusionPrior, pool: Pool) -> None:
    """Set the scaling factor that gives latents unit variance, as in Rombach et al. 2022, appendix G."""
    with torch.no_grad():
        pixels = pool.batch(64, CROP, np.random.default_rng(0))[0]
        latents = prior.vae.encode(pixels * 2 - 1).latent_dist.mode()
    prior.vae.register_to_config(scaling_factor=round(1.0 / float(latents.std()), 5))


def _measure_channels(encoder: DualPathEncoder, pool: Pool) -> None:
    """Measure the channel statistics of both paths and the global path's projection, on a sample of the pool.

    The sample has `MEASURED` crops, or about as many as the pool has micrographs if these are fewer.

    The projection keeps the principal components of the standardised tokens and rotates them at random. Otherwise some
    channels would hold only a minor component, which later standardisation would scale up to the size of a major one.
    """
    rng = np.random.default_rng(0)
    textures, patches = [], []
    with torch.no_grad():
        for _ in range(math.ceil(min(MEASURED, len(pool.pixels)) / 16)):
            pixels = pool.batch(16, encoder.tile, rng)[0]
            textures.append(encoder.local_path.texture(pixels))
            patches.append(encoder.global_path(pixels)[0])
    encoder.local_norm.measure(torch.cat(textures))
    encoder.global_norm.measure(torch.cat(patches))
    with torch.no_grad():
        tokens = encoder.global_norm(torch.cat(patches)).movedim(1, -1).flatten(0, 2).cpu()
        _, components = torch.linalg.eigh(torch.cov(tokens.T))
        kept = components[:, -encoder.global_projection.out_channels :]
        turn = torch.randn(kept.shape[1], kept.shape[1], generator=torch.Generator().manual_seed(0))
        mixed, _ = torch.linalg.qr(turn)
        encoder.global_projection.weight.copy_((kept @ mixed).T[..., None, None])


def _write(
    out: Path,
    encoder: DualPathEncoder,
    detector: FlawDetector,
    prior: DiffusionPrior,
    source: PriorSource | None,
    recipe: Recipe,
    given: dict[str, str | None],
    feedback: bool,
) -> None:
    """Write the checkpoint; `source` is where the prior comes from if it is only referred to."""
    from safetensors.torch import save_file

    name = out.resolve().name
    with Writer(out / CHECKPOINT) as draft:
        save_file(compact(encoder.own_state()), draft / "encoder.safetensors")
        detector.save(draft)
        if source is None:
            prior.half().save_pretrained(draft / PRIOR)
        write_json(
            draft / "config.json",
            {
                "name": name,
                "encoder": encoder.config,
                "pretraining": {**recipe.to_dict(), "feedback": feedback},
            }
            | ({"prior": PRIOR} if source is None else source.card),
        )
        write_card(draft / "README.md", out, recipe, name, given, feedback=feedback, contained=source is None)
