"""The flaw detector: training on procedural ceramics, and storage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from fusion_diff.encoder.flaw_detector import FILE, FlawDetector
from fusion_diff.errors import CheckpointError
from fusion_diff.fewshot.bags import Scale
from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.perception import encode
from fusion_diff.pretrain.flaws import FlawStage, gather
from fusion_diff.references import ReferenceSet
from fusion_diff.synthetic import generate


def seen(model, seed: int, flaw: str):
    drawn = generate(seed, size=224, material="alumina", flaw=flaw, lot=3)
    mark = drawn.mask > 0
    return encode(Micrograph.from_array(drawn.pixels), model.encoder, mark=mark if mark.any() else None)[0]


def test_the_shipped_detector_finds_flaws_of_a_lot_it_never_saw(model):
    scale = Scale.of([seen(model, seed, "sound").tokens for seed in range(3)])
    found = []
    for seed, flaw in enumerate(("crack", "blowhole", "break", "inclusion"), 10):
        bag = seen(model, seed, flaw)
        found.append(roc_auc_score(bag.mark, model.flaw_detector(scale(bag.tokens))))
    assert np.mean(found) > 0.85, found


def test_it_is_stored_small_and_loads_as_it_was(tmp_path):
    torch.manual_seed(0)
    FlawDetector(408).save(tmp_path)
    first = FlawDetector.load(tmp_path, 408)
    first.save(tmp_path)
    tokens = torch.randn(50, 408)
    torch.testing.assert_close(FlawDetector.load(tmp_path, 408)(tokens), first(tokens))
    assert (tmp_path / FILE).stat().st_size < 60_000
    assert FlawDetector.load(tmp_path / "elsewhere", 408) is None


def test_one_of_another_width_or_damaged_is_refused_by_name(tmp_path):
    FlawDetector(16).save(tmp_path)
    with pytest.raises(CheckpointError, match=FILE):
        FlawDetector.load(tmp_path, 408)
    tensors = load_file(tmp_path / FILE)
    save_file({k: v for k, v in tensors.items() if "bias" not in k}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match=FILE):
        FlawDetector.load(tmp_path, 16)
    save_file(tensors | {"layers.0.bias": torch.full((128,), torch.nan, dtype=torch.half)}, tmp_path / FILE)
    with pytest.raises(CheckpointError, match="not finite"):
        FlawDetector.load(tmp_path, 16)
    (tmp_path / FILE).write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(CheckpointError, match="safetensors"):
        FlawDetector.load(tmp_path, 16)


def test_a_detector_of_no_width_for_very_many_channels_is_refused_before_it_is_made():
    wide = {"layers.0.weight": torch.zeros(0, 2**60)}
    with pytest.raises(ValueError, match="its first weights have shape"):
        FlawDetector.of(wide, 2**60)


def test_a_saved_model_keeps_its_detector_and_one_without_still_enrols(model, tmp_path):
    model.save_pretrained(tmp_path / "with")
    again = DiffusionModel.from_pretrained(tmp_path / "with")
    tokens = torch.randn(20, sum(model.encoder.paths))
    torch.testing.assert_close(again.flaw_detector(tokens), model.flaw_detector(tokens))
    model.flaw_detector = None
    model.save_pretrained(tmp_path / "without")
    bare = DiffusionModel.from_pretrained(tmp_path / "without")
    assert bare.flaw_detector is None
    pixels = [np.random.default_rng(seed).random((64, 64)) for seed in range(4)]
    references = ReferenceSet.from_micrographs(
        [Micrograph.from_array(each) for each in pixels], ["sound"] * 2 + ["crack"] * 2, authentic="sound"
    )
    assert bare.enroll(references).verifier.heads.heads


def test_gathered_tokens_are_of_both_sorts_kept_and_the_same_every_time(model, tmp_path):
    told = []
    tokens, flawed = gather(model.encoder, 1, 0, tmp_path / "a" / "tokens.safetensors", lambda *step: told.append(step))
    assert told == [(1, 1)]
    assert tokens.shape == (len(flawed), sum(model.encoder.paths))
    assert 0.1 < float(flawed.float().mean()) < 0.5
    again = gather(model.encoder, 1, 0, tmp_path / "b" / "tokens.safetensors")
    assert torch.equal(again[0], tokens)
    assert torch.equal(gather(model.encoder, 99, 0, tmp_path / "a" / "tokens.safetensors")[0], tokens), "read, not made"


def test_the_stage_learns_to_tell_tokens_apart():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2000, 16, generator=generator)
    flawed = tokens[:, 0] + tokens[:, 1] > 1.5
    torch.manual_seed(0)
    stage = FlawStage(FlawDetector(16), tokens, flawed)
    optimiser = torch.optim.AdamW(stage.trained.parameters(), lr=1e-2)
    for step in range(150):
        loss = stage.loss(128, np.random.default_rng(step), torch.device("cpu"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert roc_auc_score(flawed, stage.trained(tokens)) > 0.95
