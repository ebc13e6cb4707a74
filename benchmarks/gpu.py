"""Latency, throughput and pretraining on an accelerator: python benchmarks/gpu.py --json gpu.json

Everything is compared with what the card does at best: the rate of one large matrix product in the same precision.
Times are the card's own (events), all models in turn; the inspection of a whole micrograph is wall-clock time. FLOPs
are counted by torch. "captured" replays the kernels of one call as a CUDA graph, without Python in between. The ResNets
have random weights, which do not change their speed. Pretraining runs each stage of the full recipe for a few steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from latency import CNNS, OURS, Logits
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetForImageClassification

from fusion_diff import DiffusionModel, Micrograph
from fusion_diff.diffusion.prior import embedded_architecture
from fusion_diff.encoder.global_path import DISTILLED_CONFIG, TILE, GlobalPath
from fusion_diff.encoder.local_path import LocalPath, channels_last
from fusion_diff.export.graph import ScoringGraph
from fusion_diff.export.portable import portable
from fusion_diff.pretrain.builtin import builtin_reference_set
from fusion_diff.pretrain.pool import Pool
from fusion_diff.pretrain.recipe import RECIPES
from fusion_diff.pretrain.stages import (
    AutoencoderStage,
    DescriptorEmbedding,
    DistilStage,
    FeedbackStage,
    PriorStage,
)
from fusion_diff.synthetic import generate

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.pretrain.loop import Stage

    Call = Callable[[], Any]

EDGE = f"{OURS} edge"
MODELS = {OURS: "fusion-diff-v1-ceramic", EDGE: "fusion-diff-v1-ceramic-edge"}
MATRIX = 8192
DEVICE = torch.device("cuda")
WARM_UP = 5
PARTS = ("latency", "throughput", "inspections", "parity", "training")


class Scores(nn.Module):
    """All that a score needs of a batch of tiles, encoder and evidence, as in an exported model."""

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__()
        enrolment, _ = portable(model)
        self.graph = ScoringGraph(model.encoder, enrolment.verifier, enrolment.mean_tokens).to(model.device).eval()

    def forward(self, pixels: Tensor) -> Tensor:
        dense: Tensor = self.graph(pixels, pixels.new_ones(len(pixels), self.graph.side, self.graph.side))[0]
        return dense


def milliseconds(calls: dict[Any, Call], rounds: int) -> dict[Any, list[float]]:
    """Return the card's milliseconds of each call in each round, after a warm-up, all calls in turn."""
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for index in range(rounds + WARM_UP):
        for key, call in calls.items():
            torch.cuda.synchronize()
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begun.record()
            call()
            ended.record()
            torch.cuda.synchronize()
            if index >= WARM_UP:
                times[key].append(begun.elapsed_time(ended))
    return times


def precision(name: str) -> Any:
    return torch.autocast("cuda", torch.bfloat16) if name == "bf16" else nullcontext()


def matrix_rates() -> dict[str, float]:
    """Return the TFLOP/s of one large matrix product, in fp32 and bf16."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x, w = (torch.randn(MATRIX, MATRIX, device=DEVICE, dtype=dtype) for _ in range(2))
        rates[name] = 2 * MATRIX**3 / min(milliseconds({0: partial(torch.matmul, x, w)}, 5)[0]) / 1e9
    return rates


def called(network: nn.Module, tiles: Tensor, name: str) -> Call:
    @torch.inference_mode()
    def call() -> None:
        with precision(name):
            network(tiles)

    return call


def captured(network: nn.Module, tiles: Tensor, name: str) -> Call:
    """Return a replay of the kernels of one call."""
    call, graph = called(network, tiles, name), torch.cuda.CUDAGraph()
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def flops(network: nn.Module, tile: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(tile)
    return int(counter.get_total_flops())


def latency(networks: dict[str, nn.Module], rounds: int) -> list[dict[str, Any]]:
    """Return the milliseconds of one tile, every model in both precisions, called and captured."""
    tile = torch.rand(1, 3, TILE, TILE, device=DEVICE).to(memory_format=torch.channels_last)
    calls = {
        (model, name, how): make(network, tile, name)
        for model, network in networks.items()
        for name in ("fp32", "bf16")
        for how, make in (("called", called), ("captured", captured))
    }
    return [
        {"model": model, "precision": name, "how": how, "min_ms": min(ms), "median_ms": float(np.median(ms))}
        for (model, name, how), ms in milliseconds(calls, rounds).items()
    ]


def throughput(networks: dict[str, nn.Module], peaks: dict[str, float], batches: list[int]) -> list[dict[str, Any]]:
    """Return the tiles per second by batch, their share of the matrix rate, and the greatest memory in use."""
    rows = []
    for model, network in networks.items():
        of_a_tile = flops(network, torch.rand(1, 3, TILE, TILE, device=DEVICE))
        for name in ("fp32", "bf16"):
            for batch in batches:
                tiles = torch.rand(batch, 3, TILE, TILE, device=DEVICE).to(memory_format=torch.channels_last)
                torch.cuda.reset_peak_memory_stats()
                ms = min(milliseconds({0: called(network, tiles, name)}, 5)[0])
                rate = 1000 * batch / ms
                rows.append(
                    {
                        "model": model,
                        "precision": name,
                        "batch": batch,
                        "tiles_per_second": rate,
                        "share_of_peak": rate * of_a_tile / 1e12 / peaks[name],
                        "memory_mb": torch.cuda.max_memory_allocated() / 1e6,
                    }
                )
    return rows


def inspections(models: dict[str, DiffusionModel], rounds: int) -> list[dict[str, Any]]:
    """Return the wall-clock milliseconds of `inspect`, from pixels in memory to the verdict."""
    rows = []
    for side in (TILE, 1024):
        drawn = np.rint(generate(7, size=side, material="alumina", flaw="crack").pixels * 65535).astype(np.uint16)
        for name, model in models.items():
            for path in ("score alone", "purified"):
                times = []
                for _ in range(rounds + 2):
                    begun = time.perf_counter()
                    model.inspect(Micrograph.from_array(drawn), purify=path == "purified")
                    times.append(1000 * (time.perf_counter() - begun))
                ms = times[2:]
                rows.append(
                    {"model": name, "path": path, "side": side, "min_ms": min(ms), "median_ms": float(np.median(ms))}
                )
    return rows


def parity(model: DiffusionModel) -> list[dict[str, Any]]:
    """Return the greatest differences from the CPU on eight procedural micrographs, of scores and of their log-odds."""
    on_cpu = DiffusionModel.from_pretrained(MODELS[OURS])
    drawn = [
        generate(900 + index, size=TILE + 32 * (index % 3), material="alumina", flaw=("sound", "crack")[index % 2])
        for index in range(8)
    ]
    micrographs = [Micrograph.from_array(np.rint(each.pixels * 255).astype(np.uint8)) for each in drawn]
    rows = []
    for path in ("score alone", "purified"):
        scores = np.array(
            [[each.inspect(it, purify=path == "purified").score for it in micrographs] for each in (on_cpu, model)]
        )
        odds = np.log(scores / (1 - scores))
        rows.append({"path": path, "score": np.ptp(scores, axis=0).max(), "log_odds": np.ptp(odds, axis=0).max()})
    return rows


def one_step(stage: Stage, batch: int, accelerator: Accelerator) -> Callable[[int], None]:
    """Return an optimiser step of a stage, as the training loop makes it."""
    parameters = [p for p in stage.trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-5)

    def step(index: int) -> None:
        with accelerator.autocast():
            loss = stage.loss(batch, np.random.default_rng(index), DEVICE)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def training(model: DiffusionModel, peak: float, steps: int, pool: Pool) -> list[dict[str, Any]]:
    """Return samples per second of each stage at the batch of the full recipe, in bf16, and the memory in use."""
    recipe = RECIPES["full"]
    local = LocalPath.from_imagenet().to(DEVICE)
    prior = embedded_architecture().to(DEVICE)
    channels_last(local)
    channels_last(prior)
    embedding = DescriptorEmbedding(pool.descriptors.shape[1], prior.condition_width).to(DEVICE)
    stages: list[Callable[[], Stage]] = [  # the last one freezes the prior, so they are made one by one
        lambda: AutoencoderStage(prior, local, pool, DEVICE),
        lambda: PriorStage(prior, embedding, pool, DEVICE),
        lambda: DistilStage(GlobalPath.from_config(DISTILLED_CONFIG).to(DEVICE), local, pool, DEVICE),
        lambda: FeedbackStage(model.encoder, prior, pool, DEVICE, adapters=False),
    ]
    accelerator = Accelerator(mixed_precision="bf16")
    rows = []
    for make in stages:
        stage = make()
        batch = getattr(recipe, stage.name).batch
        step = one_step(stage, batch, accelerator)
        for index in range(WARM_UP):
            step(index)
        with FlopCounterMode(display=False) as counter:
            step(0)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for index in range(steps):
            step(index)
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - begun) / steps
        rows.append(
            {
                "stage": stage.name,
                "batch": batch,
                "ms_per_step": 1000 * seconds,
                "samples_per_second": batch / seconds,
                "share_of_peak": counter.get_total_flops() / seconds / 1e12 / peak,
                "memory_gb": torch.cuda.max_memory_allocated() / 1e9,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""

    def cell(name: str, value: Any) -> str:
        if name.startswith("share"):
            return f"{value:.0%}"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(cell(name, value) for name, value in row.items()) + " |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128, 256])
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each stage of pretraining")
    parser.add_argument("--pool", type=int, default=256, help="micrographs that pretraining draws from")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device here")
    warnings.simplefilter("ignore")
    models = {OURS: DiffusionModel.from_pretrained(MODELS[OURS]).to(DEVICE)}
    networks: dict[str, nn.Module] = {}
    if set(options.parts) - {"parity", "training"}:  # these two are of the default alone
        models[EDGE] = DiffusionModel.from_pretrained(MODELS[EDGE]).to(DEVICE)
        models[EDGE].enroll(builtin_reference_set())
        networks |= {name: Scores(model) for name, model in models.items()}
        for name, config in CNNS.items():
            networks[name] = Logits(ResNetForImageClassification(config)).to(DEVICE).eval()
            channels_last(networks[name])
    peaks = matrix_rates()
    card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__} | {
        f"matrix_tflops_{name}": rate for name, rate in peaks.items()
    }
    found: dict[str, Any] = {"card": [card]}
    print(table([card]), flush=True)
    for part in options.parts:
        begun = time.perf_counter()
        if part == "latency":
            found[part] = latency(networks, options.rounds)
        elif part == "throughput":
            found[part] = throughput(networks, peaks, options.batches)
        elif part == "inspections":
            found[part] = inspections(models, max(5, options.rounds // 10))
        elif part == "parity":
            found[part] = parity(models[OURS])
        else:
            with tempfile.TemporaryDirectory() as folder:
                pool = Pool.open(Path(folder), options.pool, 0, 8).to(DEVICE)
                found[part] = training(models[OURS], peaks["bf16"], options.steps, pool)
        print(f"\n{part} ({time.perf_counter() - begun:.0f} s)\n\n{table(found[part])}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
