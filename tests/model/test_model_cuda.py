"""The model on a CUDA device gives the verdicts that it gives on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.trust.certificate import certify

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

CLOSE = 2e-3
"""Largest difference of scores: the devices round products differently, and distances magnify that."""


def both(micrograph: Micrograph, on_cpu: DiffusionModel, on_cuda: DiffusionModel, **options) -> None:
    ours, theirs = (each.inspect(micrograph, **options) for each in (on_cuda, on_cpu))
    assert ours.score == pytest.approx(theirs.score, abs=CLOSE)
    assert (ours.decision, ours.predicted_class, ours.in_scope) == (
        theirs.decision,
        theirs.predicted_class,
        theirs.in_scope,
    )
    np.testing.assert_allclose(ours.evidence.values, theirs.evidence.values, atol=0.05)
    assert ours.nearest[0].name == theirs.nearest[0].name
    assert ours.attacked == theirs.attacked


@pytest.fixture(scope="module")
def embedded() -> tuple[DiffusionModel, DiffusionModel]:
    return DiffusionModel.from_pretrained(), DiffusionModel.from_pretrained().to("cuda")


def test_the_readme_snippet_computes_on_the_device(embedded, draw):
    on_cpu, on_cuda = embedded
    assert on_cuda.device.type == "cuda"
    assert next(on_cuda.encoder.parameters()).device.type == "cuda"
    micrograph = Micrograph.from_array(draw("fine", 90))
    score = on_cuda.predict_authenticity(micrograph, shots=5)
    assert float(score.item()) == pytest.approx(float(on_cpu.predict_authenticity(micrograph, shots=5)), abs=CLOSE)


@pytest.mark.parametrize("options", [{}, {"shots": 2}, {"purify": True}, {"detect_attacks": True}])
@pytest.mark.parametrize("size", [(240, 260), (600, 500)])
def test_verdicts_are_those_of_the_cpu(embedded, draw, options, size):
    both(Micrograph.from_array(draw("fine", 91, size=size)), *embedded, **options)


def test_enrolling_on_the_device_gives_what_enrolling_on_the_cpu_gives(make_references, draw):
    references = make_references({"fine": 4, "coarse": 4})
    models = [DiffusionModel.from_pretrained(), DiffusionModel.from_pretrained().to("cuda")]
    for model in models:
        model.enroll(references, reconstruction=True, detect_attacks=True)
    assert models[1].enrolment.figures == pytest.approx(models[0].enrolment.figures, abs=0.1)
    for kind in ("fine", "coarse"):
        micrograph = Micrograph.from_array(draw(kind, 92))
        ours, theirs = (each.inspect(micrograph, alpha=0.4) for each in reversed(models))
        assert ours.score == pytest.approx(theirs.score, abs=0.02)
        assert ours.decision == theirs.decision


def test_a_model_saved_from_the_device_loads_anywhere(make_references, draw, tmp_path):
    model = DiffusionModel.from_pretrained().to("cuda")
    model.enroll(make_references({"fine": 3, "coarse": 3}))
    model.save_pretrained(tmp_path / "model")
    both(Micrograph.from_array(draw("fine", 93)), DiffusionModel.from_pretrained(tmp_path / "model"), model)
    back = model.to("cpu")
    both(Micrograph.from_array(draw("coarse", 93)), back, DiffusionModel.from_pretrained(tmp_path / "model").to("cuda"))


def test_a_certificate_is_computed_on_the_device(embedded, draw):
    micrograph = Micrograph.from_array(draw("fine", 94))
    results = [certify(model, micrograph, samples=50, seed=0) for model in embedded]
    assert results[0].decision == results[1].decision
    assert abs(results[0].votes - results[1].votes) <= 2
