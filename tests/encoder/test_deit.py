"""DeiT: gives the same output as transformers, and reads or refuses published folders."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeiTModel, ViTConfig, ViTModel

from fusion_diff.encoder.deit import LARGEST, DeiT, DeiTShape
from fusion_diff.errors import CheckpointError

TINY = DeiTShape(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=64)


@pytest.fixture
def broken(deit_folder, tmp_path):
    return shutil.copytree(deit_folder, tmp_path / "broken")


@torch.no_grad()
def test_every_block_gives_what_that_of_transformers_gives(deit_folder):
    ours = DeiT.from_published(str(deit_folder)).eval()
    theirs = DeiTModel.from_pretrained(deit_folder, add_pooling_layer=False).eval()
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    after, seen = ours(pixels), theirs(pixel_values=pixels, output_hidden_states=True)
    assert len(after) == ours.shape.num_hidden_layers == 2
    for here, there in zip(after, seen.hidden_states[1:], strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.layernorm(after[-1]), seen.last_hidden_state, rtol=0, atol=1e-6)


@torch.no_grad()
def test_an_exported_one_gives_the_same_for_any_number_of_images():
    torch.manual_seed(0)
    deit = DeiT(TINY).eval()
    program = torch.export.export(
        deit, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: torch.export.Dim("images")},), strict=False
    )
    assert "scaled_dot_product" not in str(program.graph), "written out, for other runtimes"
    pixels = torch.randn(5, 3, 64, 64)
    for exported, here in zip(program.module()(pixels), deit(pixels), strict=True):
        torch.testing.assert_close(exported, here, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_saved_one_is_read_as_it_was(tmp_path):
    torch.manual_seed(0)
    deit, pixels = DeiT(TINY).eval(), torch.randn(1, 3, 64, 64)
    deit.save_pretrained(tmp_path / "tiny")
    again = DeiT.from_published(str(tmp_path / "tiny")).eval()
    assert again.shape == TINY
    assert torch.equal(again(pixels)[-1], deit(pixels)[-1])


def test_a_new_one_has_no_dead_weights():
    torch.manual_seed(0)
    deit = DeiT(TINY)
    for name, value in deit.named_parameters():
        drawn = not name.endswith("bias") and "layernorm" not in name
        assert (float(value.detach().std()) > 0.01) == drawn, name


def test_what_a_configuration_says_beside_the_shape_is_let_be():
    assert DeiTShape.of({"hidden_size": 192, "num_attention_heads": 3, "hidden_dropout_prob": 0.0}) == DeiTShape(
        hidden_size=192, num_attention_heads=3
    )


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("beyond", [0, -1, 1, 2**40, True, "7", 1.5, None])
def test_sizes_beyond_any_published_deit_are_refused(name, beyond):
    value = LARGEST[name] + 1 if beyond == 1 and not isinstance(beyond, bool) else beyond
    with pytest.raises(ValueError, match=rf"{name} is .*, but must be a whole number from 1 to"):
        DeiTShape.of({name: value})


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.*give a folder"):
        DeiT.from_published(str(tmp_path / "nowhere"))


def test_weights_cut_short_are_refused(broken):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"broken: no DeiT with safetensors weights.*give a folder"):
        DeiT.from_published(str(broken))


def test_a_missing_weight_is_not_made_up(broken):
    file = broken / "model.safetensors"
    weights = load_file(file)
    dropped = next(name for name in weights if name.endswith("layer.1.attention.attention.query.weight"))
    del weights[dropped]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights of a DeiT are missing, layers\.1\.attention\.q_proj\.weight"):
        DeiT.from_published(str(broken))


def test_weights_of_another_shape_are_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"intermediate_size": 65}))
    with pytest.raises(CheckpointError, match=r"no DeiT with safetensors weights.*size mismatch"):
        DeiT.from_published(str(broken))


def test_a_gigantic_one_is_refused_before_it_is_made(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2**40}))
    with pytest.raises(CheckpointError, match=r"num_hidden_layers is .*, but must be a whole number from 1 to"):
        DeiT.from_published(str(broken))


def test_a_vit_is_not_taken_for_a_deit(tmp_path):
    shape = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    ViTModel(shape, add_pooling_layer=False).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="a 'vit' and no DeiT"):
        DeiT.from_published(str(tmp_path / "other"))


def test_another_activation_is_not_passed_over(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match="a DeiT with 'relu' in place of 'gelu'"):
        DeiT.from_published(str(broken))


def test_a_pickle_in_place_of_safetensors_is_refused(broken):
    weights = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(weights, broken / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no DeiT with safetensors weights"):
        DeiT.from_published(str(broken))
