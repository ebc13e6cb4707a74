"""Scores as tensors, with any number of shots."""

from __future__ import annotations

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fusion_diff.errors import EnrolmentError, MicrographError, ReferenceSetError
from fusion_diff.fewshot.verifier import Verifier
from fusion_diff.micrograph import Micrograph


@pytest.fixture(scope="module")
def samples(draw) -> list[Micrograph]:
    return [Micrograph.from_array(draw(kind, 80 + seed)) for kind in ("fine", "coarse") for seed in range(2)]


def test_one_micrograph_gives_a_score_without_dimensions(enrolled, samples):
    score = enrolled.predict_authenticity(samples[0])
    assert score.shape == ()
    assert score.dtype == torch.float32
    assert score.device.type == "cpu"
    assert 0 <= score.item() <= 1


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_micrographs_give_one_score_each(enrolled, samples, kind):
    scores = enrolled.predict_authenticity(kind(samples))
    assert scores.shape == (4,)
    assert scores[:2].min() > 0.5 > scores[2:].max()
    alone = torch.stack([enrolled.predict_authenticity(sample) for sample in samples])
    torch.testing.assert_close(scores, alone)
    torch.testing.assert_close(enrolled.predict_authenticity(kind(samples[::-1])).flip(0), scores)


def test_a_batch_of_one_keeps_its_dimension_and_of_none_is_empty(enrolled, samples):
    assert enrolled.predict_authenticity(samples[:1]).shape == (1,)
    assert enrolled.predict_authenticity([]).shape == (0,)


def test_the_score_is_the_one_of_the_inspection(enrolled, samples):
    for sample in samples[1:3]:
        assert enrolled.predict_authenticity(sample).item() == pytest.approx(enrolled.inspect(sample).score, abs=1e-6)


def test_shots_are_the_first_references_of_each_class(enrolled, model, make_references, samples):
    model.enroll(make_references({"fine": 2, "coarse": 2}))
    few = enrolled.enrolment.shots(2)
    assert few.counts == {"fine": 2, "coarse": 2}
    for ours, theirs in zip(few.bags, model.enrolment.bags, strict=True):
        torch.testing.assert_close(ours.tokens, theirs.tokens)
    assert 0 < enrolled.predict_authenticity(samples[0], shots=2).item() < 1


def test_all_shots_are_the_same_as_no_limit(enrolled, samples):
    assert enrolled.predict_authenticity(samples[0], shots=5) == enrolled.predict_authenticity(samples[0])


def test_shots_of_one_call_do_not_linger_in_the_next(enrolled, samples):
    before = enrolled.predict_authenticity(samples[2])
    enrolled.predict_authenticity(samples[2], shots=1)
    assert enrolled.predict_authenticity(samples[2]) == before


def test_enrolling_anew_forgets_shots_of_the_old_references(narrow, make_references, samples):
    narrow.enroll(make_references({"fine": 3, "coarse": 3}))
    narrow.predict_authenticity(samples[2], shots=2)
    narrow.enroll(make_references({"fine": 3, "bar": 3}))
    fresh = type(narrow)(
        narrow.encoder,
        "",
        card=narrow.card,
        readme="",
        sha256=narrow.sha256,
        enrolment=narrow.enrolment,
    )
    assert narrow.predict_authenticity(samples[2], shots=2) == fresh.predict_authenticity(samples[2], shots=2)


@pytest.mark.parametrize("shots", [6, np.int64(100)])
def test_more_shots_than_were_enrolled_are_all_of_them_and_a_warning(enrolled, samples, shots):
    with pytest.warns(UserWarning, match=f"shots is {shots}, but no class has more than 5 references") as caught:
        score = enrolled.predict_authenticity(samples[0], shots=shots)
    assert score == enrolled.predict_authenticity(samples[0])
    assert [each.filename for each in caught] == [__file__]


def test_shots_are_those_of_the_enrolment_that_the_model_has_now(narrow, make_references, samples):
    first = narrow.enroll(make_references({"fine": 3, "coarse": 3}))
    expected = narrow.predict_authenticity(samples[2], shots=2)
    other = copy.copy(narrow)
    narrow.enroll(make_references({"fine": 3, "bar": 3}))
    different = narrow.predict_authenticity(samples[2], shots=2)
    assert different != expected
    narrow.enrolment = first
    assert narrow.predict_authenticity(samples[2], shots=2) == expected
    other.enroll(make_references({"fine": 3, "bar": 3}))
    assert narrow.predict_authenticity(samples[2], shots=2) == expected
    assert other.predict_authenticity(samples[2], shots=2) == different


def test_shots_are_learned_once_whatever_type_and_however_many_threads_ask(narrow, make_references, monkeypatch):
    enrolment = narrow.enroll(make_references({"fine": 3, "coarse": 3}))
    fit, fitted = Verifier.fit, []
    monkeypatch.setattr(Verifier, "fit", lambda *given: (fitted.append(len(given[0])), fit(*given))[1])
    with ThreadPoolExecutor(4) as pool:
        learned = list(pool.map(enrolment.shots, [2, np.int64(2), 2, np.uint8(2)]))
    assert fitted == [4]
    assert len({id(each) for each in learned}) == 1
    assert pickle.loads(pickle.dumps(enrolment)).shots(2).names == learned[0].names


def test_an_inspection_can_use_fewer_shots(enrolled, samples):
    it = enrolled.inspect(samples[0], shots=2)
    assert it.compared_with.counts == {"fine": 2, "coarse": 2}
    assert it.score == pytest.approx(enrolled.predict_authenticity(samples[0], shots=2).item(), abs=1e-6)


@pytest.mark.parametrize(
    "kind", [iter, lambda given: (each for each in given), lambda given: dict(enumerate(given)).values()]
)
def test_any_iterable_of_micrographs_is_a_batch(enrolled, samples, kind):
    assert torch.equal(enrolled.predict_authenticity(kind(samples)), enrolled.predict_authenticity(samples))


@pytest.mark.parametrize("shots", [0, -1, 1.5, "3", True])
def test_shots_that_are_no_whole_number_from_one_are_refused(enrolled, samples, shots):
    enrolled.predict_authenticity(samples[0], shots=1)  # True must not find what 1 left behind
    with pytest.raises(ReferenceSetError, match="whole number"):
        enrolled.predict_authenticity(samples[0], shots=shots)


def test_a_model_without_references_says_to_enrol(model, samples):
    with pytest.raises(EnrolmentError, match=r"model\.enroll"):
        model.predict_authenticity(samples[0])


@pytest.mark.parametrize("wrong", ["sample.tif", "", None, 3, np.zeros((64, 64)), ["sample.tif"], [None]])
def test_what_is_not_a_micrograph_is_refused_with_a_hint(enrolled, wrong):
    with pytest.raises(MicrographError, match="load_microstructure_data"):
        enrolled.predict_authenticity(wrong)


@pytest.mark.parametrize("kind", [set, lambda given: dict.fromkeys(given, 1)])
def test_micrographs_without_an_order_are_refused(enrolled, samples, kind):
    with pytest.raises(MicrographError, match="give a list"):
        enrolled.predict_authenticity(kind(samples))


def test_scores_that_mean_nothing_are_warned_of(enrolled, draw):
    pixels = draw("fine", 60)
    with pytest.warns(UserWarning, match="far.tif: Out of scope: its pixels are 50 µm wide"):
        enrolled.predict_authenticity(Micrograph.from_array(pixels, pixel_size_um=50, name="far.tif"))
    stripes = np.repeat((255 * (np.arange(224) // 16 % 2)).astype(np.uint8)[None], 224, axis=0)
    with pytest.warns(UserWarning, match="Out of scope: as a whole it is unlike every reference"):
        enrolled.predict_authenticity(Micrograph.from_array(stripes))
    with pytest.warns(UserWarning, match="Out of scope") as told:
        enrolled.predict_authenticity([Micrograph.from_array(each) for each in (stripes, pixels, stripes)])
    assert [str(each.message).split(": ")[0] for each in told] == ["array (score [0])", "array (score [2])"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enrolled.predict_authenticity(Micrograph.from_array(pixels, pixel_size_um=0.5))
