"""Each kind of evidence detects the flaws it is designed for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fusion_diff.encoder.flaw_detector import FlawDetector
from fusion_diff.fewshot.bags import BANK, Bag
from fusion_diff.fewshot.distance import gaussian
from fusion_diff.fewshot.evidence.multiple_instance import MultipleInstanceEvidence
from fusion_diff.fewshot.evidence.nearest_neighbour import NOVELTY_WEIGHT, NearestNeighbourEvidence
from fusion_diff.fewshot.evidence.novelty import SHRINKAGE, NoveltyEvidence
from fusion_diff.fewshot.evidence.pooled import PooledEvidence
from fusion_diff.fewshot.evidence.reconstruction import ReconstructionEvidence
from fusion_diff.fewshot.evidence.suspicion import FEW_OTHERS
from fusion_diff.fewshot.heads import HEADS
from fusion_diff.fewshot.state import dump, load, on_device
from fusion_diff.fewshot.verifier import Verifier

NO_RESIDUAL = torch.zeros(0, 0)
PATHS = (16,)


def planted(make_bag, *, marked: bool = False, **options):
    direction = torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(9)), dim=0)
    authentic = [make_bag(seed) for seed in range(5)]
    others = [make_bag(100 + s, flawed=8, direction=direction, marked=marked, **options) for s in range(5)]
    return direction, authentic, others


def value(head, tokens: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Return the sum of a head's maps per token, without outliers, whose unit is another."""
    return torch.stack([each for kind, each in head.maps(tokens, residual).items() if kind != "outliers"]).sum(0)


def auroc(head, bag: Bag) -> float:
    return roc_auc_score(bag.mark, value(head, bag.tokens, bag.residual))


@pytest.mark.parametrize("marked", [False, True])
def test_multiple_instance_learning_finds_the_direction_of_a_planted_flaw(make_bag, marked):
    direction, authentic, others = planted(make_bag, marked=marked)
    head = MultipleInstanceEvidence.fit(authentic, others, PATHS)
    learned = head.weights[0].view(-1, 17)[0, :-1]
    assert float(learned @ direction / learned.norm()) > 0.9
    unseen = make_bag(500, flawed=8, direction=direction, marked=True)
    assert auroc(head, unseen) > 0.98
    assert float(value(head, unseen.tokens, NO_RESIDUAL)[unseen.mark].min()) > 0


@pytest.mark.parametrize("paths", [(16,), (6, 10)])
def test_a_detector_that_knows_the_flaw_keeps_learning_off_what_is_stranger(make_bag, paths):
    direction, authentic, others = planted(make_bag)
    speck = torch.nn.functional.normalize(torch.randn(16, generator=torch.Generator().manual_seed(40)), dim=0)
    for bag in others:
        bag.tokens[(bag.tokens @ direction).argsort()[:8]] += 14 * speck
    unseen = make_bag(500, flawed=8, direction=direction, marked=True)
    advised = [replace(bag, suspicion=bag.tokens @ direction) for bag in others]
    assert auroc(MultipleInstanceEvidence.fit(authentic, advised, paths), unseen) > 0.98
    assert auroc(MultipleInstanceEvidence.fit(authentic, others, paths), unseen) < 0.98


def test_a_mark_counts_for_more_than_the_detector(make_bag):
    direction, authentic, others = planted(make_bag, marked=True)
    misled = [replace(bag, suspicion=-(bag.tokens @ direction)) for bag in others]
    left, right = (MultipleInstanceEvidence.fit(authentic, bags, PATHS).weights[0] for bags in (misled, others))
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("kind", [MultipleInstanceEvidence, NearestNeighbourEvidence])
def test_dense_evidence_comes_in_deviations_of_authentic_tokens(make_bag, kind):
    _, authentic, others = planted(make_bag)
    values = torch.cat(
        [value(kind.fit(authentic, others, (16,)), make_bag(s).tokens, NO_RESIDUAL) for s in range(60, 66)]
    )
    assert abs(float(values.mean())) < 0.6
    assert 0.5 < float(values.std()) < 4


def test_paths_learn_one_by_one_and_their_evidence_is_added(make_bag):
    _, authentic, others = planted(make_bag)
    both = MultipleInstanceEvidence.fit(authentic, others, (6, 10))
    tokens = make_bag(500).tokens
    alone = [
        MultipleInstanceEvidence.fit(*([bag.path((6, 10), path) for bag in side] for side in (authentic, others)), (n,))
        for path, n in enumerate((6, 10))
    ]
    expected = value(alone[0], tokens[:, :6], NO_RESIDUAL) + value(alone[1], tokens[:, 6:], NO_RESIDUAL)
    torch.testing.assert_close(value(both, tokens, NO_RESIDUAL), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("paths", [(16,), (6, 10)])
def test_the_units_of_multiple_instance_evidence_are_in_its_coefficients(make_bag, paths):
    _, authentic, others = planted(make_bag)
    others = [replace(bag, label="crack" if index < 3 else "pore") for index, bag in enumerate(others)]
    head = MultipleInstanceEvidence.fit(authentic, others, paths)
    assert [w.shape for w in head.weights] == [(2, channels + 1) for channels in paths]
    seen = torch.cat([bag.tokens for bag in authentic])
    for part, w in zip(seen.split(paths, dim=1), head.weights, strict=True):
        values = part @ w[:, :-1].T + w[:, -1]
        torch.testing.assert_close(values.mean(0), torch.zeros(2), rtol=0, atol=1e-3)
        torch.testing.assert_close(values.std(0), torch.ones(2), rtol=0, atol=1e-3)


def test_the_class_that_fits_a_token_best_speaks_for_it(make_bag):
    _, authentic, others = planted(make_bag)
    pore = torch.eye(16)[3]
    others = [replace(bag, label="crack") for bag in others]
    others += [replace(make_bag(300 + seed, flawed=8, direction=pore), label="pore") for seed in range(4)]
    head = MultipleInstanceEvidence.fit(authentic, others, PATHS)
    tokens = make_bag(500, flawed=8, direction=pore).tokens
    of_each = tokens @ head.weights[0][:, :-1].T + head.weights[0][:, -1]
    torch.testing.assert_close(value(head, tokens, NO_RESIDUAL), of_each.amax(1))
    flaw = of_each.amax(1).topk(8).indices
    assert of_each[flaw].argmax(1).tolist() == [1] * 8, "pore is the second label"


def test_marks_find_a_flaw_too_faint_to_find_without(make_bag):
    direction, authentic, others = planted(make_bag, marked=True, size=2.0)
    blind = [Bag(bag.tokens, bag.residual) for bag in others]
    unseen = make_bag(500, tokens=2000, flawed=80, direction=direction, size=2.0, marked=True)
    with_marks = auroc(MultipleInstanceEvidence.fit(authentic, others, PATHS), unseen)
    assert with_marks > 0.85
    assert with_marks > auroc(MultipleInstanceEvidence.fit(authentic, blind, PATHS), unseen)


def test_a_mark_that_touches_no_token_does_not_stop_learning(make_bag):
    direction, authentic, others = planted(make_bag, marked=True)
    others[0] = Bag(others[0].tokens, others[0].residual, torch.zeros(200, dtype=torch.bool))
    head = MultipleInstanceEvidence.fit(authentic, others, PATHS)
    assert auroc(head, make_bag(500, flawed=8, direction=direction, marked=True)) > 0.98


def test_marks_that_touch_no_token_at_all_are_as_none(make_bag):
    _, authentic, others = planted(make_bag)
    unmarked = MultipleInstanceEvidence.fit(authentic, others, PATHS)
    empty = [Bag(bag.tokens, bag.residual, torch.zeros(200, dtype=torch.bool)) for bag in others]
    torch.testing.assert_close(MultipleInstanceEvidence.fit(authentic, empty, PATHS).weights[0], unmarked.weights[0])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(4, 60), st.integers(1, 20))
def test_novelty_alone_is_the_brute_force_mahalanobis_distance_in_its_units(seed, count, remembered, channels):
    generator = torch.Generator().manual_seed(seed)
    bank, tokens = (torch.randn(n, channels, generator=generator) for n in (remembered, count))
    head = NoveltyEvidence.fit([Bag(bank, NO_RESIDUAL)], [], (channels,))
    precision = gaussian(bank, SHRINKAGE)[1].double()
    apart = (tokens[:, None] - bank[None]).double()
    brute = torch.einsum("nmc,cd,nmd->nm", apart, precision, apart).sqrt().amin(1).float()
    mean, deviation = head.scales[0]
    expected = NOVELTY_WEIGHT * (brute - mean) / deviation
    # Whitening and bank are stored in float16.
    tolerance = NOVELTY_WEIGHT * (0.02 + 0.01 * float(brute.max())) / float(deviation)
    torch.testing.assert_close(value(head, tokens, NO_RESIDUAL), expected, rtol=1e-2, atol=tolerance)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.lists(st.integers(4, 30), min_size=1, max_size=3),
    st.integers(1, 20),
)
def test_beside_others_distances_are_those_to_the_nearest_authentic_token(seed, paths, sizes, remembered):
    generator = torch.Generator().manual_seed(seed)
    authentic, others, tokens = (
        [torch.randn(n, sum(paths), generator=generator) for n in counts] for counts in (sizes, [remembered], [25])
    )
    head = NearestNeighbourEvidence.fit(
        *([Bag(each, NO_RESIDUAL) for each in side] for side in (authentic, others)), tuple(paths)
    )
    found, apart = head.maps(tokens[0], NO_RESIDUAL), tokens[0][:, None] - torch.cat(authentic)
    mean, spread = head.scale
    novelty = NOVELTY_WEIGHT * (apart[..., -paths[-1] :].norm(dim=2).amin(1) - mean) / spread
    loosest = 0.02 * NOVELTY_WEIGHT / float(spread)  # banks are stored in float16
    torch.testing.assert_close(found["novelty"], novelty, rtol=1e-2, atol=loosest)
    torch.testing.assert_close(found["outliers"], apart.norm(dim=2).amin(1), rtol=1e-2, atol=0.02)


def test_the_unit_of_novelty_is_the_distance_between_authentic_references(make_bag):
    authentic, others = [make_bag(seed) for seed in range(2)], [make_bag(50, flawed=10)]
    head = NearestNeighbourEvidence.fit(authentic, others, (6, 10))
    between = torch.cdist(*(bag.tokens[:, 6:] for bag in authentic))
    far = torch.cat([between.amin(1), between.amin(0)])
    torch.testing.assert_close(head.scale, torch.stack([far.mean(), far.std()]), rtol=1e-4, atol=1e-4)


def test_beside_others_only_the_last_path_speaks_of_novelty(make_bag):
    authentic, others = [make_bag(seed) for seed in range(3)], [make_bag(60)]
    head = NearestNeighbourEvidence.fit(authentic, others, (6, 10))
    tokens, moved = make_bag(50).tokens, make_bag(50).tokens
    moved[:, :6] += 100
    novelty, after = (head.maps(each, NO_RESIDUAL)["novelty"] for each in (tokens, moved))
    torch.testing.assert_close(after, novelty)
    moved[:, 6:] += 100
    assert bool((head.maps(moved, NO_RESIDUAL)["novelty"] > novelty + 10).all())


def test_outliers_are_far_from_every_authentic_token_in_all_paths_at_once(make_bag):
    authentic, others = [make_bag(seed) for seed in range(3)], [make_bag(60)]
    head = NearestNeighbourEvidence.fit(authentic, others, (6, 10))
    tokens = make_bag(50).tokens
    apart = torch.cdist(tokens, torch.cat([bag.tokens for bag in authentic])).amin(1)
    torch.testing.assert_close(head.maps(tokens, NO_RESIDUAL)["outliers"], apart, rtol=1e-2, atol=2e-2)


def test_alone_every_path_speaks_of_novelty_and_the_last_with_twice_the_weight(make_bag):
    authentic = [make_bag(seed) for seed in range(3)]
    tokens = make_bag(50).tokens
    both = value(NoveltyEvidence.fit(authentic, [], (6, 10)), tokens, NO_RESIDUAL)
    first, last = (
        value(NoveltyEvidence.fit([bag.path((6, 10), path) for bag in authentic], [], (n,)), part, NO_RESIDUAL)
        for path, (n, part) in enumerate(zip((6, 10), tokens.split((6, 10), dim=1), strict=True))
    )
    torch.testing.assert_close(both, first / NOVELTY_WEIGHT + last)


def test_what_varies_among_authentic_tokens_is_no_novelty_and_what_does_not_is():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4000, 1, generator=generator)
    tokens = shared + 0.1 * torch.randn(4000, 8, generator=generator)  # channels that vary together
    head = NoveltyEvidence.fit([Bag(each, NO_RESIDUAL) for each in tokens.split(500)], [], (8,))
    along, across = torch.ones(1, 8), torch.tensor([[1.0, -1.0] * 4])
    assert float(value(head, along, NO_RESIDUAL)) < 2 < float(value(head, across, NO_RESIDUAL))


def test_a_large_bank_is_thinned_evenly_over_the_references(make_bag):
    bags = [make_bag(0, tokens=6000), make_bag(1, tokens=6000)]
    bank = NearestNeighbourEvidence.fit(bags, bags, PATHS).authentic[0]
    assert len(bank) == BANK
    first = {tuple(token) for token in bags[0].tokens.half().float().tolist()}
    assert 0.45 < sum(tuple(token) in first for token in bank.tolist()) / BANK < 0.55


def test_the_mean_of_the_pooled_map_is_the_score_of_the_mean_token(make_bag):
    authentic = [make_bag(seed) for seed in range(4)]
    others = [Bag(make_bag(50 + seed).tokens * 1.5 + 0.3, NO_RESIDUAL) for seed in range(4)]
    head = PooledEvidence.fit(authentic, others, PATHS)
    for bag in (*authentic, *others):
        score = bag.tokens.mean(0) @ head.weights[:-1] + head.weights[-1]
        torch.testing.assert_close(value(head, bag.tokens, NO_RESIDUAL).mean(), score, rtol=1e-4, atol=1e-4)
        assert (float(score) > 0) == (bag in others)


def test_pooled_evidence_sees_a_departure_spread_over_the_whole(make_bag):
    authentic = [make_bag(seed) for seed in range(5)]
    others = [Bag(make_bag(50 + seed).tokens + 0.3, NO_RESIDUAL) for seed in range(5)]
    head = PooledEvidence.fit(authentic, others, PATHS)
    for seed in range(200, 210):
        tokens = make_bag(seed).tokens
        whole, moved = (float(value(head, each, NO_RESIDUAL).mean()) for each in (tokens, tokens + 0.3))
        assert moved > whole


def test_reconstruction_evidence_counts_deviations_from_authentic_residuals(make_bag):
    bags = [make_bag(seed, residuals=2) for seed in range(3)]
    head = ReconstructionEvidence.fit(bags, [], PATHS)
    residual = torch.cat([bag.residual for bag in bags])
    values = value(head, torch.cat([bag.tokens for bag in bags]), residual)
    assert float(values.mean()) == pytest.approx(0, abs=1e-5)
    one_more = value(head, bags[0].tokens, bags[0].residual + residual.std(0))
    torch.testing.assert_close(one_more, value(head, bags[0].tokens, bags[0].residual) + 1, rtol=1e-4, atol=1e-4)
    flawed = make_bag(9, flawed=10, residuals=2, marked=True)
    assert auroc(head, flawed) == 1


@pytest.mark.parametrize("paths", [(16,), (6, 10)])
@pytest.mark.parametrize("kind", HEADS)
def test_a_head_rebuilt_from_its_state_says_the_same(make_bag, kind, paths):
    authentic = [make_bag(seed, residuals=2) for seed in range(3)]
    others = [make_bag(50 + seed, residuals=2, flawed=10) for seed in range(3)]
    head, unseen = kind.fit(authentic, others, paths), make_bag(99, residuals=2, flawed=10)
    again = kind.from_state({name: tensor.clone() for name, tensor in head.state().items()})
    expected = head.maps(unseen.tokens, unseen.residual)
    assert set(expected) == set(head.kinds)
    assert all(values.shape == (200,) for values in expected.values())
    torch.testing.assert_close(again.maps(unseen.tokens, unseen.residual), expected)


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind.learns_from != "both"])
def test_kinds_that_need_no_other_class_learn_without_one(make_bag, kind):
    head = kind.fit([make_bag(seed, residuals=2) for seed in range(3)], [], PATHS)
    flawed = make_bag(99, residuals=2, flawed=10, marked=True)
    assert auroc(head, flawed) > (0.95 if kind in (NoveltyEvidence, ReconstructionEvidence) else 0.5)


@pytest.fixture
def detector():
    """Return a detector whose log-odds increase with the first channel."""
    torch.manual_seed(0)
    detector = FlawDetector(16)
    with torch.no_grad():
        detector.layers[0].weight.zero_()
        detector.layers[0].weight[0, 0] = 1.0
        detector.layers[0].bias.zero_()
        detector.layers[2].weight.zero_()
        detector.layers[2].weight[0, 0] = 1.0
    return detector.requires_grad_(False)


@pytest.mark.parametrize(("others", "speaks"), [(0, True), (1, True), (FEW_OTHERS - 1, True), (FEW_OTHERS, False)])
def test_the_detector_speaks_where_hardly_any_reference_tells_what_to_look_for(make_bag, detector, others, speaks):
    bags = [make_bag(seed) for seed in range(4)] + [make_bag(100 + seed, flawed=10) for seed in range(others)]
    labels = ["sound"] * 4 + ["crack"] * others
    groups = [str(index) for index in range(len(bags))]
    verifier = Verifier.fit(bags, labels, "sound", groups, detector=detector)
    assert ("suspicion" in verifier.heads.heads) is speaks
    without = Verifier.fit(bags, labels, "sound", groups)
    assert "suspicion" not in without.heads.heads


def test_suspicion_finds_the_flaw_and_is_stored_with_what_was_learned(make_bag, detector):
    bags = [make_bag(seed) for seed in range(5)]
    verifier = Verifier.fit(bags, ["sound"] * 5, "sound", list("abcde"), detector=detector)
    shares = {"inside_shares": verifier.inside_shares, "outside_shares": verifier.outside_shares}
    again = load(*dump(verifier), **shares, correspondence=None)
    flawed = make_bag(50, flawed=10, marked=True)
    maps = verifier.heads.maps(flawed.tokens, flawed.residual)
    assert bool(flawed.mark[maps["suspicion"].topk(10).indices].all())
    torch.testing.assert_close(again.heads.maps(flawed.tokens, flawed.residual)["suspicion"], maps["suspicion"])
    moved = on_device(verifier, torch.device("cpu"))
    assert moved.fused(maps) == verifier.fused(maps)
