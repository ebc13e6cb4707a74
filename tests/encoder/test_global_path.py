"""The global path: a DeiT whose adapters are the identity before training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fusion_diff.encoder.deit import DeiT, DeiTShape
from fusion_diff.encoder.global_path import DISTILLED_CONFIG, MAX_BLOCKS, TILE, GlobalPath, Resample

TINY = DISTILLED_CONFIG | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 112,
}


def test_adapters_start_as_the_identity(deit_folder):
    path = GlobalPath.from_deit(str(deit_folder)).eval()
    bare = DeiT.from_published(str(deit_folder)).eval()
    pixels = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        patches, class_token, distillation_token = path(pixels)
        last = bare((pixels - path.mean) / path.std)[-1]
        summaries = bare.layernorm(last)
    torch.testing.assert_close(class_token, summaries[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(distillation_token, summaries[:, 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(patches.flatten(2).transpose(1, 2), last[:, 2:], rtol=0, atol=1e-6)


def test_only_the_first_blocks_of_a_deep_deit_are_kept(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    DeiT(DeiTShape(num_hidden_layers=12, **shape)).save_pretrained(tmp_path / "deep")
    path = GlobalPath.from_deit(str(tmp_path / "deep"))
    assert path.config["num_hidden_layers"] == len(path.deit.layers) == MAX_BLOCKS == 8
    assert path.token_blocks == [5, 7]


def test_a_taught_adapter_changes_the_tokens():
    torch.manual_seed(0)
    path, pixels = GlobalPath.from_config(TINY).eval(), torch.rand(1, 3, TILE, TILE)
    with torch.no_grad():
        before = path(pixels)[0]
        for parameter in path.adapters():
            parameter.normal_()
        after = path(pixels)[0]
    assert float((after - before).abs().max()) > 1e-3


def test_patches_lie_where_they_were_seen():
    torch.manual_seed(0)
    path = GlobalPath.from_config(TINY).eval()
    pixels = torch.full((1, 3, TILE, TILE), 0.5)
    spot = pixels.clone()
    spot[..., 96:128, 32:64] = 1.0  # row 3, column 1 of the 7 x 7 patches, each 32 pixels of the tile wide
    with torch.no_grad():
        change = (path(spot)[0] - path(pixels)[0]).abs().sum(1)[0]
    assert divmod(int(change.argmax()), 7) == (3, 1)


def test_tokens_are_of_the_sixth_block_and_the_last():
    torch.manual_seed(0)
    path = GlobalPath.from_config(TINY | {"num_hidden_layers": 7}).eval()
    pixels = torch.rand(1, 3, TILE, TILE)
    with torch.no_grad():
        patches = path(pixels)[0]
        shown = path.resample((pixels - path.mean) / path.std)
        after = path.deit(shown)
    assert path.channels == 2 * 32
    meant = torch.cat([after[5][:, 2:], after[6][:, 2:]], dim=2)
    torch.testing.assert_close(patches.flatten(2).transpose(1, 2), meant, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(224, 168), (224, 384), (7, 3)])
def test_resampling_is_antialiased_interpolation(before, after):
    pixels = torch.rand(2, 3, before, before, generator=torch.Generator().manual_seed(0))
    meant = F.interpolate(pixels, size=(after, after), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(Resample(before, after)(pixels), meant, rtol=0, atol=1e-5)


def test_what_is_finer_than_the_reduced_pixels_is_averaged_away():
    stripes = torch.arange(TILE).remainder(2).float().expand(1, 1, TILE, TILE)
    inside = Resample(TILE, 112)(stripes)[..., 2:-2]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.5), rtol=0, atol=1e-5)


def test_a_tile_is_shown_as_it_is_to_a_deit_of_its_size():
    path = GlobalPath.from_config(TINY | {"image_size": TILE, "num_hidden_layers": 1})
    pixels = torch.rand(1, 3, TILE, TILE)
    assert path.resample(pixels) is pixels


def test_shapes_follow_from_the_configuration():
    path = GlobalPath.from_config(TINY)
    patches, class_token, distillation_token = path(torch.rand(2, 3, TILE, TILE))
    assert patches.shape == (2, 32, 7, 7)
    assert class_token.shape == distillation_token.shape == (2, 32)


def test_adapters_are_the_only_parameters_adapters_returns():
    path = GlobalPath.from_config(TINY, bottleneck=5)
    wanted = {id(p) for name, p in path.named_parameters() if "adapter" in name}
    assert {id(p) for p in path.adapters()} == wanted
    assert len(wanted) == 2 * 4  # two blocks, two layers with weight and bias each
    assert sum(p.numel() for p in path.adapters()) == 2 * (32 * 5 + 5 + 5 * 32 + 32)


def test_only_adapters_get_gradients_when_asked():
    path = GlobalPath.from_config(TINY).requires_grad_(False)
    for parameter in path.adapters():
        parameter.requires_grad_(True)
    patches, class_token, _ = path(torch.rand(1, 3, TILE, TILE))
    (patches.square().sum() + class_token.sum()).backward()
    reached = {name for name, p in path.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0}
    assert reached
    assert all(".adapter." in name for name in reached)
    assert sum(".adapter.up." in name for name in reached) == 4


def test_adapters_that_were_never_trained_are_skipped_and_trained_ones_are_not():
    path, pixels = GlobalPath.from_config(TINY).eval(), torch.rand(1, 3, TILE, TILE)
    torch.nn.init.normal_(path.deit.layers[1].adapter.up.weight)
    with torch.no_grad():
        before = path(pixels)
        path.skip_idle_adapters()
        after = path(pixels)
    assert [layer.adapted for layer in path.deit.layers] == [False, True]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(after, before, strict=True))


def test_the_configuration_makes_the_round_trip(deit_folder):
    path = GlobalPath(DeiT.from_published(str(deit_folder)), bottleneck=7).eval()
    again = GlobalPath.from_config(path.config, path.bottleneck).eval()
    again.load_state_dict(path.state_dict())
    assert again.config == path.config
    pixels = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        for ours, theirs in zip(path(pixels), again(pixels), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_the_distilled_shape_is_the_one_built():
    assert GlobalPath.from_config(DISTILLED_CONFIG).config == DISTILLED_CONFIG
