"""The gate between the two paths, and the encoder around it."""

from __future__ import annotations

import pytest
import torch

from fusion_diff.encoder.dual_path import STRIDE, STRUCTURE_WIDTH, ChannelStandardise, DualPathEncoder, GatedFusion
from fusion_diff.encoder.global_path import DISTILLED_CONFIG, GlobalPath
from fusion_diff.encoder.local_path import LocalPath

TINY = DISTILLED_CONFIG | {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def local() -> LocalPath:
    return LocalPath.from_imagenet()


def encoder_of(local: LocalPath, tokens: int = 1) -> DualPathEncoder:
    torch.manual_seed(0)
    return DualPathEncoder(local, GlobalPath.from_config(TINY), condition_width=24, condition_tokens=tokens)


def test_an_untaught_gate_mixes_evenly():
    local, global_ = torch.randn(2, 2, 8, 3, 3)
    torch.testing.assert_close(GatedFusion(8)(local, global_), (local + global_) / 2)


def test_the_gate_is_the_formula_per_token_and_channel():
    torch.manual_seed(0)
    fusion = GatedFusion(4)
    torch.nn.init.normal_(fusion.gate.weight)
    torch.nn.init.normal_(fusion.gate.bias)
    local, global_ = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    fused = fusion(local, global_)
    weight, bias = fusion.gate.weight[:, :, 0, 0], fusion.gate.bias
    for image, row, column in ((0, 0, 0), (1, 2, 4), (0, 1, 3)):
        one, other = local[image, :, row, column], global_[image, :, row, column]
        gate = 1 / (1 + torch.exp(-(weight @ torch.cat([one, other]) + bias)))
        torch.testing.assert_close(fused[image, :, row, column], gate * one + (1 - gate) * other)


def test_a_gate_fully_open_or_shut_returns_one_path():
    fusion = GatedFusion(4)
    local, global_ = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    for bias, expected in ((100.0, local), (-100.0, global_)):
        torch.nn.init.constant_(fusion.gate.bias, bias)
        torch.testing.assert_close(fusion(local, global_), expected)


@pytest.mark.parametrize("tokens", [1, 3])
def test_an_encoding_has_the_promised_shapes(local, tokens):
    encoder = encoder_of(local, tokens)
    encoding = encoder(torch.rand(2, 3, 224, 224))
    side = 224 // STRIDE
    assert encoding.texture.shape == (2, 152, side, side)
    assert encoding.structure.shape == (2, 32, side, side)
    assert encoding.condition.shape == (2, tokens, 24)
    assert encoding.tokens.shape == (2, sum(encoder.paths), side, side)


def test_tokens_are_the_paths_side_by_side(local):
    encoder = encoder_of(local)
    encoding = encoder(torch.rand(1, 3, 224, 224))
    texture, structure = encoding.tokens.split(encoder.paths, dim=1)
    torch.testing.assert_close(texture, encoding.texture)
    torch.testing.assert_close(structure, encoding.structure)


def test_structure_is_projected_to_a_bounded_width(local):
    torch.manual_seed(0)
    wide = TINY | {"hidden_size": 384, "num_attention_heads": 6}
    encoder = DualPathEncoder(local, GlobalPath.from_config(wide), condition_width=24)
    assert encoder.global_path.channels == 384
    assert encoder.paths == (152, STRUCTURE_WIDTH)
    weight = encoder.global_projection.weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(STRUCTURE_WIDTH), rtol=0, atol=1e-5)


def test_gradients_of_the_condition_reach_what_is_adaptable_and_nothing_else(local):
    encoder = encoder_of(local).requires_grad_(False)
    for parameter in encoder.adaptable(adapters=True):
        parameter.requires_grad_(True)
    encoder(torch.rand(2, 3, 224, 224)).condition.square().sum().backward()
    adaptable = {id(parameter) for parameter in encoder.adaptable(adapters=True)}
    reached = {name: p for name, p in encoder.named_parameters() if p.grad is not None}
    assert all(id(parameter) in adaptable for parameter in reached.values())
    moved = {name for name, parameter in reached.items() if float(parameter.grad.abs().max()) > 0}
    for part in ("gate_projections.0", "gate_projections.1", "fusion.gate", "condition_head.1", "condition_head.3"):
        assert f"{part}.weight" in moved
    assert any(".adapter.up." in name for name in moved)
    assert not any(name.startswith("local_path.") or ".block." in name for name in reached)


def test_everything_asked_to_learn_gets_a_gradient(local):
    """A parameter without a gradient would stop data-parallel training."""
    encoder = encoder_of(local).requires_grad_(False)
    for parameter in encoder.adaptable(adapters=True):
        parameter.requires_grad_(True)
    encoder(torch.rand(2, 3, 224, 224)).condition.square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_configuration_builds_the_same_encoder(local):
    encoder = encoder_of(local, tokens=2).eval()
    again = DualPathEncoder.from_config(**encoder.config).eval()
    again.load_state_dict(encoder.own_state() | {f"local_path.{k}": v for k, v in local.state_dict().items()})
    assert again.config == encoder.config
    pixels = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels).tokens, encoder(pixels).tokens)
        torch.testing.assert_close(again(pixels).condition, encoder(pixels).condition)


def test_its_own_state_leaves_the_published_weights_out(local):
    encoder = encoder_of(local)
    own, whole = set(encoder.own_state()), set(encoder.state_dict())
    assert not any(name.startswith("local_path.") for name in own)
    assert whole - own == {f"local_path.{name}" for name in local.state_dict()}
    assert {"local_norm.mean", "global_norm.std"} <= own


def test_measured_channels_come_out_standardised():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(5, 3, 6, 7, generator=generator) * torch.tensor([1.0, 10.0, 0.1])[:, None, None] + 4
    norm = ChannelStandardise(3)
    norm.measure(maps)
    after = norm(maps)
    torch.testing.assert_close(after.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(after.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-4)


def test_a_channel_that_never_changes_gives_finite_numbers():
    norm = ChannelStandardise(2)
    norm.measure(torch.zeros(2, 2, 4, 4))
    assert bool(torch.isfinite(norm(torch.rand(1, 2, 4, 4))).all())
