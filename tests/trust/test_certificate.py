"""Certificates: the mathematics against classifiers whose margin is known, and a real run."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import binom, norm

from fusion_diff.errors import ArgumentError, EnrolmentError, MicrographError
from fusion_diff.micrograph import Micrograph
from fusion_diff.micrograph.tiles import Grid
from fusion_diff.model import DiffusionModel
from fusion_diff.perception import perceive
from fusion_diff.references import ReferenceSet
from fusion_diff.synthetic import builtin_samples
from fusion_diff.trust.certificate import (
    FEWEST,
    as_micrograph,
    certified_radius,
    certify,
    fewest_samples,
    lower_bound,
    matching_timestep,
    smooth,
    working_pixels,
)
from fusion_diff.verdict.model_evidence import ModelEvidence

SIGMAS = st.floats(0.02, 1.0)


@given(SIGMAS, st.floats(0.01, 3), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_of_a_half_space_the_radius_is_the_distance_and_never_more(sigma: float, share: float, seed: int) -> None:
    """A half-space's smoothed version is itself, so the true radius is the distance from its border."""
    distance = share * sigma
    point = np.asarray([distance, 0.3, -2.0], dtype=np.float32)
    found = smooth(lambda x: bool(x[0] < 0), point, sigma=sigma, samples=2500, confidence=1 - 1e-7, seed=seed)
    assert found.decision in ("authentic", "abstain")
    assert found.radius_l2 <= distance * (1 + 1e-5)
    # The share of all copies is known here, and with it the radius is the distance.
    assert certified_radius(float(norm.cdf(share)), sigma) == pytest.approx(distance, rel=1e-9)
    # The number of votes six standard deviations below the expected one.
    p = float(norm.cdf(share))
    fewest = int(2000 * (p - 6 * np.sqrt(p * (1 - p) / 2000)))
    least = certified_radius(lower_bound(fewest, 2000, 1 - 1e-7), sigma)
    assert found.radius_l2 >= least
    assert found.decision == "authentic" or least <= 0


@given(st.floats(0.05, 0.5), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_no_point_within_the_radius_has_another_smoothed_side(sigma: float, seed: int) -> None:
    """A slab -1 < x0 < w is not authentic; the exact smoothed share is known anywhere."""
    width = 2.2 * sigma
    found = smooth(
        lambda x: bool(-width < x[0] < width), np.zeros(2, np.float32), sigma=sigma, samples=1500,
        confidence=1 - 1e-7, seed=seed,
    )  # fmt: skip
    assert found.decision == "not authentic"
    for moved in np.linspace(-found.radius_l2, found.radius_l2, 21):
        share = norm.cdf((width - moved) / sigma) - norm.cdf((-width - moved) / sigma)
        assert share > 0.5


@given(st.integers(1, 400), st.data(), st.floats(0.5, 0.9999))
@settings(deadline=None)
def test_the_bound_is_the_share_at_which_so_many_votes_are_just_too_rare(
    count: int, data: st.DataObject, confidence: float
) -> None:
    votes = data.draw(st.integers(0, count))
    bound = lower_bound(votes, count, confidence)
    if votes == 0:
        assert bound == 0
    else:
        assert binom.sf(votes - 1, count, bound) == pytest.approx(1 - confidence, rel=1e-3, abs=1e-9)


@given(SIGMAS)
def test_half_or_less_of_the_copies_certifies_nothing(sigma: float) -> None:
    assert certified_radius(0.5, sigma) == 0
    assert certified_radius(0.4, sigma) < 0
    assert certified_radius(0.0, sigma) == -np.inf


def test_on_the_border_it_abstains() -> None:
    found = smooth(lambda x: bool(x[0] < 0), np.zeros(1, np.float32), sigma=0.1, samples=500, confidence=0.999, seed=0)
    assert (found.decision, found.radius_l2) == ("abstain", 0)


def test_samples_that_pick_the_side_do_not_bound_it() -> None:
    seen: list[int] = []

    def first_fifth_only(_: np.ndarray) -> bool:
        seen.append(1)
        return len(seen) <= 20

    found = smooth(first_fifth_only, np.zeros(1, np.float32), sigma=0.1, samples=100, confidence=0.99, seed=0)
    assert (found.decision, found.votes, found.asked) == ("abstain", 0, 80)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.97, 0.999, 0.999999])
def test_with_the_fewest_samples_votes_of_one_mind_certify_and_with_fewer_they_do_not(confidence: float) -> None:
    def decided(samples: int) -> str:
        return smooth(lambda _: True, np.zeros(1), sigma=0.1, samples=samples, confidence=confidence, seed=0).decision

    fewest = fewest_samples(confidence)
    assert {decided(samples) for samples in range(fewest, fewest + 30)} == {"not authentic"}
    assert {decided(samples) for samples in range(FEWEST, fewest)} <= {"abstain"}


@pytest.mark.parametrize(
    "changed",
    [
        ("sigma", 0),
        ("sigma", np.inf),
        ("sigma", "1"),
        ("samples", 9),
        ("samples", 20.5),
        ("confidence", 1.0),
        ("confidence", None),
        ("seed", -1),
    ],
)
def test_what_cannot_be_asked_is_refused(embedded: DiffusionModel, changed: tuple[str, object]) -> None:
    micrograph = Micrograph.from_array(np.random.default_rng(0).random((224, 224)))
    with pytest.raises(ArgumentError, match=f"{changed[0]} is .*; give an? "):
        certify(embedded, micrograph, **dict([changed]))


def test_the_timestep_grows_with_the_noise_and_knows_nothing_of_the_micrograph(embedded: DiffusionModel) -> None:
    prior = embedded.reconstruction.prior
    levels = [matching_timestep(prior, sigma) for sigma in (0.03, 0.06, 0.12, 0.25)]
    assert levels == sorted(set(levels))
    assert 0 < levels[0] < levels[-1] < prior.timesteps - 1
    assert matching_timestep(prior, 0.01) < 20  # a uniform grey image would give 300, which regenerates all fine detail


def test_noise_of_colour_is_measured_in_colour(embedded: DiffusionModel) -> None:
    """Noise of three channels partly averages out in the latents, and needs less denoising."""
    prior = embedded.reconstruction.prior
    assert [matching_timestep(prior, 0.06, channels) for channels in (1, 3)] == pytest.approx([139, 84], abs=10)
    samples = builtin_samples(1)[0][0].pixels
    for channels, pixels in ((1, samples), (3, np.dstack([samples] * 3))):
        noise = np.random.default_rng(7).standard_normal(pixels.shape, dtype=np.float32)
        with torch.inference_mode():
            clean, noisy = (
                prior.encode(torch.from_numpy(each.reshape(1, 224, 224, -1)).movedim(-1, 1).expand(-1, 3, -1, -1))
                for each in (pixels, pixels + np.float32(0.06) * noise)
            )
        alpha = prior.alphas_cumprod[matching_timestep(prior, 0.06, channels)]
        assert float((noisy - clean).std()) == pytest.approx(float(((1 - alpha) / alpha).sqrt()), rel=0.5)


@pytest.mark.parametrize("shape", [(224, 224), (160, 160), (160, 160, 3), (301, 230)])
def test_working_pixels_are_what_the_encoder_is_shown(embedded: DiffusionModel, shape: tuple[int, ...]) -> None:
    levels = np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)
    micrograph = Micrograph.from_array(levels)
    pixels = working_pixels(micrograph, 224)
    assert pixels.shape == ((304, 232) if shape == (301, 230) else (224, 224, *shape[2:]))
    grid = Grid.of(*shape[:2], tile=224, stride=8)
    again = Grid.of(*pixels.shape[:2], tile=224, stride=8)
    for tile, same in zip(grid.tiles(), again.tiles(), strict=True):
        assert tile == same
        np.testing.assert_array_equal(again.read(as_micrograph(pixels), same), grid.read(micrograph, tile))

    odds = [
        ModelEvidence.of(*perceive(each, embedded.encoder), embedded.enrolment.verifier).log_odds
        for each in (micrograph, as_micrograph(pixels))
    ]
    assert odds[0] == pytest.approx(odds[1], abs=1e-4)


def test_a_micrograph_of_many_tiles_is_refused_with_a_word_on_what_to_do() -> None:
    wide = Micrograph.from_array(np.random.default_rng(0).random((224, 3000)), name="wide.png")
    with pytest.raises(MicrographError, match=r"wide\.png: its 224x3000 pixels make more than 12 tiles.*crop it"):
        working_pixels(wide, 224)


def test_without_references_nothing_is_certified(model: DiffusionModel) -> None:
    with pytest.raises(EnrolmentError, match="no enrolled references"):
        certify(model, Micrograph.from_array(np.random.default_rng(0).random((224, 224))))


def test_an_array_is_no_micrograph_to_certify(embedded: DiffusionModel) -> None:
    with pytest.raises(MicrographError, match="expected a Micrograph, got ndarray"):
        certify(embedded, np.zeros((224, 224)))


def test_a_surface_that_the_model_recognises_is_recognised_on_noisy_copies(embedded: DiffusionModel) -> None:
    """Certified is the choice of the model, which a recognised surface decides here."""
    grain = gaussian_filter(np.random.default_rng(0).normal(size=(2, 224, 480)), (0, 1, 1)).astype(np.float32)
    micrographs = [Micrograph.from_array(bowl[:, left : left + 224]) for bowl in grain for left in (0, 60, 200)]
    labels, groups = ["sound"] * 3 + ["other"] * 3, [f"view {index}" for index in range(6)]
    model, shown = copy.deepcopy(embedded), Micrograph.from_array(grain[0, :, 130:354])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.enroll(ReferenceSet.from_micrographs(micrographs, labels, authentic="sound", groups=groups))
    it = model.inspect(shown)
    assert (it.recognised is not None, it.predicted_class) == (True, "sound")
    assert certify(model, shown, 0.03, 10, 0.9, seed=0).decision == "authentic"


def test_a_built_in_sample_is_certified_alike_twice_whatever_default_device_is_set(embedded: DiffusionModel) -> None:
    drawn, labels = builtin_samples(1)
    cracked = Micrograph.from_array(drawn[labels.index("counterfeit")].pixels)
    calls: list[tuple[int, int]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = certify(embedded, cracked, 0.05, 12, 0.9, progress=lambda *at: calls.append(at))
        with torch.device("meta"):
            again = certify(embedded, cracked, 0.05, 12, 0.9, seed=found.seed)
    assert found == again
    assert found.seed >= 2**20, "nobody can guess it"
    assert calls == [(index, 12) for index in range(1, 13)]
    assert found.numbers == 224 * 224
    assert found.decision == "not authentic"
    assert 0 < found.radius_l2 <= certified_radius(lower_bound(10, 10, 0.9), 0.05)
    assert torch.is_grad_enabled()
