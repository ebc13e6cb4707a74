"""The global path: a DeiT that its adapters leave alone until they are taught, loaded from a folder or refused."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import DeiTConfig, DeiTModel, ViTConfig, ViTModel

from fusion_diff.encoder.global_path import EMBEDDED_CONFIG, MAX_BLOCKS, TILE, GlobalPath, Resample
from fusion_diff.errors import CheckpointError

TINY = EMBEDDED_CONFIG | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 112,
}


@pytest.fixture
def broken(deit_folder, tmp_path):
    return shutil.copytree(deit_folder, tmp_path / "broken")


def test_adapters_start_as_the_identity(deit_folder):
    path = GlobalPath.from_deit(str(deit_folder)).eval()
    bare = DeiTModel.from_pretrained(deit_folder, add_pooling_layer=False).eval()
    pixels = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        patches, class_token, distillation_token = path(pixels)
        seen = bare(pixel_values=(pixels - path.mean) / path.std, output_hidden_states=True)
        expected = seen.last_hidden_state
    torch.testing.assert_close(class_token, expected[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(distillation_token, expected[:, 1], rtol=0, atol=1e-6)
    last = seen.hidden_states[-1][:, 2:]
    torch.testing.assert_close(patches.flatten(2).transpose(1, 2), last, rtol=0, atol=1e-6)


def test_only_the_first_blocks_of_a_deep_deit_are_kept(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    DeiTModel(DeiTConfig(num_hidden_layers=12, **shape)).save_pretrained(tmp_path / "deep")
    path = GlobalPath.from_deit(str(tmp_path / "deep"))
    assert path.config["num_hidden_layers"] == MAX_BLOCKS == 8
    assert path.token_blocks == [5, 7]


def test_a_taught_adapter_changes_the_tokens():
    torch.manual_seed(0)
    path, pixels = GlobalPath(TINY).eval(), torch.rand(1, 3, TILE, TILE)
    with torch.no_grad():
        before = path(pixels)[0]
        for parameter in path.adapters():
            parameter.normal_()
        after = path(pixels)[0]
    assert float((after - before).abs().max()) > 1e-3


def test_patches_lie_where_they_were_seen():
    torch.manual_seed(0)
    path = GlobalPath(TINY).eval()
    pixels = torch.full((1, 3, TILE, TILE), 0.5)
    spot = pixels.clone()
    spot[..., 96:128, 32:64] = 1.0  # row 3, column 1 of the 7 x 7 patches, each 32 pixels of the tile wide
    with torch.no_grad():
        change = (path(spot)[0] - path(pixels)[0]).abs().sum(1)[0]
    assert divmod(int(change.argmax()), 7) == (3, 1)


def test_tokens_are_of_the_sixth_block_and_the_last():
    torch.manual_seed(0)
    path = GlobalPath(TINY | {"num_hidden_layers": 7}).eval()
    pixels = torch.rand(1, 3, TILE, TILE)
    with torch.no_grad():
        patches = path(pixels)[0]
        shown = path.resample((pixels - path.mean) / path.std)
        seen = path.deit(pixel_values=shown, output_hidden_states=True).hidden_states
    assert path.channels == 2 * 32
    meant = torch.cat([seen[6][:, 2:], seen[7][:, 2:]], dim=2)
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
    path = GlobalPath(TINY | {"image_size": TILE, "num_hidden_layers": 1})
    pixels = torch.rand(1, 3, TILE, TILE)
    assert path.resample(pixels) is pixels


def test_shapes_follow_from_the_configuration():
    path = GlobalPath(TINY)
    patches, class_token, distillation_token = path(torch.rand(2, 3, TILE, TILE))
    assert patches.shape == (2, 32, 7, 7)
    assert class_token.shape == distillation_token.shape == (2, 32)


def test_adapters_are_the_only_parameters_adapters_returns():
    path = GlobalPath(TINY, bottleneck=5)
    wanted = {id(p) for name, p in path.named_parameters() if "adapter" in name}
    assert {id(p) for p in path.adapters()} == wanted
    assert len(wanted) == 2 * 4  # two blocks, two layers with weight and bias each
    assert sum(p.numel() for p in path.adapters()) == 2 * (32 * 5 + 5 + 5 * 32 + 32)


def test_only_adapters_get_gradients_when_asked():
    path = GlobalPath(TINY).requires_grad_(False)
    for parameter in path.adapters():
        parameter.requires_grad_(True)
    patches, class_token, _ = path(torch.rand(1, 3, TILE, TILE))
    (patches.square().sum() + class_token.sum()).backward()
    reached = {name for name, p in path.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 0}
    assert reached
    assert all(".adapter." in name for name in reached)
    assert sum(".adapter.up." in name for name in reached) == 4


def test_the_configuration_makes_the_round_trip(deit_folder):
    path = GlobalPath.from_deit(str(deit_folder), bottleneck=7).eval()
    again = GlobalPath(path.config, path.bottleneck).eval()
    again.load_state_dict(path.state_dict())
    assert again.config == path.config
    pixels = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        for ours, theirs in zip(path(pixels), again(pixels), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_the_embedded_shape_is_the_one_built():
    assert GlobalPath(EMBEDDED_CONFIG).config == EMBEDDED_CONFIG


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.*give a folder"):
        GlobalPath.from_deit(str(tmp_path / "nowhere"))


def test_weights_cut_short_are_refused(broken):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="no DeiT checkpoint"):
        GlobalPath.from_deit(str(broken))


def test_a_missing_weight_is_not_made_up(broken):
    file = broken / "model.safetensors"
    weights = load_file(file)
    dropped = next(name for name in weights if name.endswith("layer.1.attention.attention.query.weight"))
    del weights[dropped]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 weights of a DeiT are missing"):
        GlobalPath.from_deit(str(broken))


def test_a_vit_is_not_taken_for_a_deit(tmp_path):
    shape = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    ViTModel(shape, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match="vit"):
        GlobalPath.from_deit(str(tmp_path / "vit"))


def test_a_pickle_in_place_of_safetensors_is_refused(broken):
    weights = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(weights, broken / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no DeiT checkpoint with safetensors"):
        GlobalPath.from_deit(str(broken))
