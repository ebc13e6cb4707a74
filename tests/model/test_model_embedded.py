"""The model that comes with the package."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fusion_diff import DiffusionModel, ReferenceSet
from fusion_diff.checkpoint import EMBEDDED, verify
from fusion_diff.micrograph import Micrograph
from fusion_diff.pretrain.builtin import TOKENS
from fusion_diff.synthetic import BUILTIN_AUTHENTIC, builtin_references, builtin_samples


def test_it_is_whole_and_under_40_megabytes(checkpoint_folder):
    verify(checkpoint_folder)
    assert sum(file.stat().st_size for file in checkpoint_folder.rglob("*") if file.is_file()) < 40e6


def test_it_loads_by_name_and_is_what_comes_without_one():
    assert DiffusionModel.from_pretrained().sha256 == DiffusionModel.from_pretrained(EMBEDDED).sha256


def test_it_has_a_card_that_says_what_it_was_trained_on(embedded):
    assert embedded.name == EMBEDDED
    assert "procedural" in embedded.readme
    assert embedded.card["pretraining"]["seed"] == 0


def test_its_references_are_thinned_and_what_was_learned_from_all_of_their_tokens_is_kept(embedded):
    enrolment = embedded.enrolment
    assert enrolment.builtin
    assert enrolment.paths == embedded.encoder.paths
    assert {len(bag.tokens) for bag in enrolment.bags} == {TOKENS}
    bank, scale = enrolment.verifier.scope.bank, enrolment.verifier.heads.scale
    kept = torch.cat([scale(bag.tokens)[:, -bank.shape[1] :] for bag in enrolment.bags])
    nearest = torch.cdist(bank, kept).amin(1)
    assert 0.05 < float((nearest < 0.1).float().mean()) < 0.7, "some of what it remembers was kept, and more was not"


def test_its_references_are_in_its_own_scope_and_noise_is_not(embedded):
    drawn, _ = builtin_references(1)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = [embedded.inspect(Micrograph.from_array(pixels)) for pixels in (*(each.pixels for each in drawn), noise)]
    assert [inspection.in_scope for inspection in seen] == [True] * len(drawn) + [False]


def test_its_first_score_warns_that_the_references_are_not_yours():
    drawn, _ = builtin_samples(1)
    model = DiffusionModel.from_pretrained()
    with pytest.warns(UserWarning, match="enrol your own") as caught:
        score = model.predict_authenticity(Micrograph.from_array(drawn[0].pixels), shots=5)
    assert 0 <= score.item() <= 1
    assert caught[0].filename == __file__, "the warning points at the caller's line"


def test_enrolling_one_s_own_ends_the_warning(model, make_references, draw):
    model.enroll(make_references({"fine": 2, "coarse": 2}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.inspect(Micrograph.from_array(draw("fine", 99)))


def test_five_shots_of_a_lot_tell_unseen_specimens_apart_better_than_chance(model):
    def of(drawn):
        return [Micrograph.from_array(each.pixels, pixel_size_um=each.pixel_size_um) for each in drawn]

    figures = []
    for lot in (3, 4):
        references, labels = builtin_references(5, lot=lot)
        model.enroll(ReferenceSet.from_micrographs(of(references), labels, authentic=BUILTIN_AUTHENTIC))
        samples, truths = builtin_samples(6, lot=lot)
        scores = model.predict_authenticity(of(samples)).numpy()
        figures.append(roc_auc_score(np.array(truths) == BUILTIN_AUTHENTIC, scores))
    assert np.mean(figures) > 0.7


def test_it_needs_no_network(tmp_path):
    """Runs in a separate process without network and cache."""
    script = """
import socket, sys
def refuse(*args, **kwargs):
    raise OSError("no network in this test")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import warnings; warnings.simplefilter("ignore")
import numpy as np
from fusion_diff import DiffusionModel, Micrograph
model = DiffusionModel.from_pretrained()
print(float(model.predict_authenticity(Micrograph.from_array(np.random.default_rng(0).random((64, 64))))))
print(model.reconstruction.prior.stride)
"""
    environment = {"HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    score, stride = done.stdout.split()
    assert 0 <= float(score) <= 1
    assert stride == "4"
