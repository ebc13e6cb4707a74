"""Benchmarks call the parts of the program that they take apart as those are called now."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_diff import load_microstructure_data
from fusion_diff.fewshot import verifier as verifying
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.correspondence import CORRESPONDENCE
from fusion_diff.fewshot.readings import POOLED
from fusion_diff.synthetic import builtin_references, builtin_samples, write_micrographs


def test_weights_of_an_ablation_are_fitted_as_the_verifier_asks(load, monkeypatch):
    monkeypatch.setattr(verifying, "Fusion", load("ablation").PooledAlone)
    generator = torch.Generator().manual_seed(0)
    bags = [Bag(torch.randn(40, 8, generator=generator) + index // 3, torch.zeros(40, 0)) for index in range(6)]
    verifier = verifying.Verifier.fit(bags, ["ours"] * 3 + ["copy"] * 3, "ours", list("abcdef"))
    assert verifier.fusion.weight[POOLED] == 1


@pytest.mark.filterwarnings("ignore:this model has its built-in")
def test_what_is_measured_is_what_the_program_says(load, embedded, tmp_path):
    eye, protocol = load("eye"), load("protocol")
    drawn = [*builtin_references(1)[0], *builtin_samples(1)[0][1:]]
    files = write_micrographs(drawn, [str(index) for index in range(len(drawn))], tmp_path)
    said = [embedded.inspect(load_microstructure_data(file)) for file in files]
    assert [CORRESPONDENCE in each.contributions for each in said] == [True] * 3 + [False] * 2
    looked = [eye.Eye(embedded).look(protocol.Image(file, True, "")) for file in files]
    found = eye.answer(embedded.enrolment.verifier, looked)
    assert 1 / (1 + np.exp(found["scores"])) == pytest.approx([each.score for each in said], abs=1e-5)
    assert [p["authentic"] for p in found["p_values"]] == pytest.approx([each.p_values["authentic"] for each in said])


class LearningError(Exception):
    """References would be learned from now."""


def test_references_that_are_attacked_are_learned_as_the_program_asks(load, monkeypatch, tmp_path):
    robustness = load("robustness")
    images = [robustness.Image(tmp_path / f"{side}.png", side == "sound", side) for side in ("sound", "crack")]
    for seed, image in enumerate(images):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(image.path)
    monkeypatch.setattr(robustness, "learn", create_autospec(robustness.learn, side_effect=LearningError))
    with pytest.raises(LearningError):
        robustness.Bench(SimpleNamespace(encoder=None), images)


def test_a_difference_of_the_whole_is_a_method_of_the_few_shot_benchmark(load, monkeypatch):
    fewshot, said = load("fewshot"), []
    methods = SimpleNamespace(
        eye=SimpleNamespace(enrol=lambda references, **options: said.append(options), look=lambda image: image)
    )
    monkeypatch.setattr(fewshot, "answer", lambda verifier, asked: {"scores": asked})
    images = tuple(SimpleNamespace(authentic=index < 2, marked=False) for index in range(4))
    drawn = SimpleNamespace(references=images, queries=images[:1], shots=2)
    for name in (fewshot.OURS, fewshot.WHOLE):
        assert fewshot.Methods.ask(methods, name, drawn) == {"scores": [images[0]]}
    assert [each["difference"] for each in said] == ["any", "whole"]


def test_a_single_draw_has_a_change_and_no_standard_error(load):
    change = load("answers").change
    assert change([0.25], 3) == "+0.250"
    assert change([1.0, -2.0, 0.0, 3.0], 1) == "+0.5 ± 1.0"


@pytest.mark.parametrize(("threads", "clock"), [(1, "processor"), (2, "wall")])
def test_a_latency_says_what_it_was_measured_with(load, threads, clock):
    about = load("latency").measured_with("line-7", "ab" * 32, threads, 30)
    assert (about["checkpoint"], about["checkpoint_sha256"], about["clock"]) == ("line-7", "ab" * 32, clock)
    assert (about["threads"], about["rounds"]) == (threads, 30)
    assert all(about[key] for key in ("date", "machine", "cores", "version", "torch"))
