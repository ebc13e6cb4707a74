"""The embedded model for restricted hardware: based on the default model, and complete when saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusion_diff import DiffusionModel, Micrograph, ReferenceSet
from fusion_diff.checkpoint import EMBEDDED, EMBEDDED_EDGE, locate
from fusion_diff.errors import EnrolmentError
from fusion_diff.synthetic import builtin_references, builtin_samples


@pytest.fixture(scope="module")
def enrolled() -> DiffusionModel:
    drawn, labels = builtin_references(2, size=96)
    micrographs = [Micrograph.from_array(each.pixels) for each in drawn]
    model = DiffusionModel.from_pretrained(EMBEDDED_EDGE)
    model.enroll(ReferenceSet.from_micrographs(micrographs, labels, authentic="sound"))
    return model


def test_it_judges_nothing_before_references_are_enrolled():
    with pytest.raises(EnrolmentError, match="no enrolled references"):
        DiffusionModel.from_pretrained(EMBEDDED_EDGE).predict_authenticity(
            Micrograph.from_array(torch.rand(64, 64).numpy())
        )


def test_it_adds_next_to_nothing_to_the_package():
    assert sum(file.stat().st_size for file in locate(EMBEDDED_EDGE).iterdir()) < 2**20


def test_its_encoder_is_half_the_work_of_the_default():
    edge, default = (DiffusionModel.from_pretrained(name).encoder for name in (EMBEDDED_EDGE, EMBEDDED))
    assert edge.tile == default.tile == 224
    assert edge.paths == default.paths

    def work(encoder) -> int:
        config = encoder.global_path.config
        return config["num_hidden_layers"] * (config["image_size"] // config["patch_size"]) ** 2

    assert work(edge) < work(default) / 2


def test_saved_it_contains_the_prior_and_says_the_same(enrolled, tmp_path):
    sample = Micrograph.from_array(builtin_samples(1, size=96)[0][0].pixels)
    before = enrolled.predict_authenticity(sample)
    enrolled.save_pretrained(tmp_path / "line-7")
    again = DiffusionModel.from_pretrained(tmp_path / "line-7")
    torch.testing.assert_close(again.predict_authenticity(sample), before, rtol=0, atol=1e-6)
    prior, copied = locate(EMBEDDED) / "prior", tmp_path / "line-7" / "prior"
    files = [file.relative_to(prior) for file in prior.rglob("*.*")]
    assert Path("unet/config.json") in files
    for file in files:
        assert (copied / file).read_bytes() == (prior / file).read_bytes()


def test_its_diffusion_path_is_that_of_the_default(enrolled):
    ours = enrolled.reconstruction.prior.unet.state_dict()
    for name, value in DiffusionModel.from_pretrained(EMBEDDED).reconstruction.prior.unet.state_dict().items():
        assert torch.equal(ours[name], value), name
