"""The verifier: weights of evidence from held-out references, and the verdict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_diff.errors import EnrolmentError
from fusion_diff.fewshot.bags import Bag
from fusion_diff.fewshot.decision import Calibration, decide, probability, shares_of
from fusion_diff.fewshot.figures import auroc
from fusion_diff.fewshot.fusion import DOUBT, WHOLE_SHARE, Fusion
from fusion_diff.fewshot.readings import (
    DEPARTURES,
    FLAW_SHARES,
    MULTIPLE_INSTANCE,
    OUTLIERS,
    POOLED,
    READINGS,
    dense_readings,
    kind_scores,
    kinds_of,
    rank_weights,
    reading_scores,
)
from fusion_diff.fewshot.verifier import BETWEEN, FEW_GROUPS, Verifier


def enrolled(make_bag, inside: int, outside: int, *, residuals: int = 0, groups=None, **flaw) -> Verifier:
    options = {"flawed": 10} | flaw
    bags = [make_bag(seed, residuals=residuals) for seed in range(inside)]
    bags += [make_bag(1000 + seed, residuals=residuals, **options) for seed in range(outside)]
    labels = ["sound"] * inside + ["crack"] * outside
    return Verifier.fit(bags, labels, "sound", groups or [str(i) for i in range(len(bags))])


def log_odds(verifier: Verifier, bag: Bag) -> float:
    fused, _ = verifier.fused(verifier.heads.maps(bag.tokens, bag.residual))
    return verifier.calibration.log_odds(fused)


def weighed(scores, authentic, **options):
    """Return a fusion where every image shows another specimen."""
    return Fusion.fit(scores, authentic, [str(index) for index in range(len(authentic))], **options)


def test_evidence_that_is_noise_gets_no_weight():
    authentic = np.arange(20) < 10
    noise = np.tile(np.random.default_rng(0).normal(size=10), 2)  # the same on both sides
    fusion = weighed({"telling": np.where(authentic, -1.0, 1.0) + 0.1 * noise, "noise": noise}, authentic)
    assert fusion.weight["noise"] == 0
    assert fusion.weight["telling"] == 1
    assert fusion.fuse({"telling": 0.3, "noise": 5.0}) == fusion.fuse({"telling": 0.3})


def test_evidence_that_speaks_the_wrong_way_gets_no_weight():
    authentic = np.arange(20) < 10
    rng = np.random.default_rng(0)
    fusion = weighed(
        {"right": rng.normal(size=20) - 3 * authentic, "wrong": rng.normal(size=20) + 3 * authentic}, authentic
    )
    assert fusion.weight == {"right": 1.0, "wrong": 0.0}


def test_better_evidence_weighs_more():
    rng, authentic = np.random.default_rng(0), np.arange(40) < 20
    scores = {"good": rng.normal(size=40) - 5 * authentic, "fair": rng.normal(size=40) - 2 * authentic}
    weight = weighed(scores, authentic).weight
    assert weight["good"] > weight["fair"] > 0


def test_a_reading_that_was_not_weighed_says_nothing():
    fusion = Fusion({DEPARTURES: 0.5}, {DEPARTURES: 2.0}, {DEPARTURES: 1.0})
    assert fusion.judge({DEPARTURES: {"novelty": 4.5}, "pooled": {"pooled": 9.0}}, 3.0) == (2.0, {DEPARTURES: 6.0})


@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(-1e6, 1e6)), min_size=2, max_size=30),
    st.integers(1, 29),
)
def test_weights_are_shares_and_the_fused_score_is_their_mean(values, inside):
    authentic = np.arange(len(values)) < min(inside, len(values))
    scores = {name: np.array([pair[i] for pair in values]) for i, name in enumerate((DEPARTURES, "b"))}
    fusion = weighed(scores, authentic)
    assert sum(fusion.weight.values()) == pytest.approx(1)
    assert all(weight >= 0 for weight in fusion.weight.values())
    assert all(spread > 0 for spread in fusion.spread.values())
    terms = [fusion.weight[n] * (scores[n] - fusion.centre[n]) / fusion.spread[n] for n in scores]
    assert np.isfinite(fusion.fuse(scores)).all()
    np.testing.assert_allclose(fusion.fuse(scores), np.sum(terms, axis=0), atol=1e-9)
    alone = (scores[DEPARTURES] - fusion.centre[DEPARTURES]) / fusion.spread[DEPARTURES]
    np.testing.assert_allclose(fusion.fuse({DEPARTURES: scores[DEPARTURES]}), alone)


def test_unseen_flaws_are_told_from_sound_ones(make_bag):
    verifier = enrolled(make_bag, 8, 8)
    assert all(probability(log_odds(verifier, make_bag(5000 + s))) > 0.5 for s in range(5))
    assert all(probability(log_odds(verifier, make_bag(6000 + s, flawed=10))) < 0.5 for s in range(5))


def test_flaws_that_have_nothing_in_common_are_both_found(make_bag):
    crack, pore = torch.eye(16)[0], torch.eye(16)[1]
    bags = [make_bag(seed) for seed in range(6)]
    bags += [make_bag(100 + seed, flawed=10, direction=crack) for seed in range(6)]
    bags += [make_bag(200 + seed, flawed=10, direction=pore) for seed in range(6)]
    labels = ["sound"] * 6 + ["crack"] * 6 + ["pore"] * 6
    verifier = Verifier.fit(bags, labels, "sound", [str(index) for index in range(18)])
    for direction in (crack, pore):
        flawed = make_bag(6000, flawed=10, direction=direction, marked=True)
        assert probability(log_odds(verifier, flawed)) < 0.5
        evidence = verifier.evidence(verifier.heads.maps(flawed.tokens, flawed.residual))
        assert int(flawed.mark[evidence.topk(10).indices].sum()) >= 9
    assert probability(log_odds(verifier, make_bag(5000))) > 0.5


def test_with_enough_references_decisions_are_made(make_bag):
    verifier = enrolled(make_bag, 12, 12)
    decisions: dict[bool, list[str]] = {False: [], True: []}
    for seed in range(10):
        for flawed, bag in ((False, make_bag(5000 + seed)), (True, make_bag(6000 + seed, flawed=10))):
            fused, _ = verifier.fused(verifier.heads.maps(bag.tokens, bag.residual))
            decisions[flawed].append(decide(verifier.p_values(fused), 0.2, 12))
    assert decisions[False].count("authentic") >= 6
    assert decisions[True].count("not authentic") >= 6


@given(st.dictionaries(st.sampled_from("abc"), st.floats(-9, 9), min_size=1), st.floats(-9, 9), st.floats(0.1, 5))
def test_contributions_add_up_where_two_readings_share_a_kind(shared, of_its_own, slope):
    fusion = Fusion({"one": 1.0, "two": -2.0}, {"one": 0.5, "two": 4.0}, {"one": 0.25, "two": 0.75})
    fused, parts = fusion.judge({"one": shared, "two": shared | {"d": of_its_own}}, slope)
    assert sum(parts.values()) == pytest.approx(slope * fused, abs=1e-9)


def test_contributions_and_intercept_add_up_to_the_log_odds(make_bag):
    verifier, bag = enrolled(make_bag, 6, 6, residuals=2), make_bag(6001, flawed=10, residuals=2)
    _, contributions = verifier.fused(verifier.heads.maps(bag.tokens, bag.residual))
    total = sum(contributions.values()) + verifier.calibration.intercept
    assert total == pytest.approx(log_odds(verifier, bag), rel=1e-4)


def test_evidence_is_highest_where_the_flaw_is(make_bag):
    verifier, bag = enrolled(make_bag, 8, 8), make_bag(6001, flawed=10, marked=True)
    evidence = verifier.evidence(verifier.heads.maps(bag.tokens, bag.residual))
    assert bool(bag.mark[evidence.topk(10).indices].all())
    assert float(evidence[bag.mark].median()) > verifier.region_threshold > float(evidence[~bag.mark].quantile(0.98))


@pytest.mark.parametrize("size", [6.0, 1.5])
def test_regions_are_rare_on_what_is_authentic_also_where_flaws_are_faint(make_bag, size):
    verifier = enrolled(make_bag, 8, 8, size=size)
    above = [
        (verifier.evidence(verifier.heads.maps(bag.tokens, bag.residual)) > verifier.region_threshold).float().mean()
        for bag in (make_bag(5000 + seed) for seed in range(10))
    ]
    assert float(torch.stack(above).mean()) <= 0.005


def test_labels_that_mean_nothing_are_seen_through(make_bag):
    """A head scored on the references it learned from would separate them without error."""
    told_apart, rejected = [], []
    for repeat in range(12):
        bags = [make_bag(1000 * repeat + seed) for seed in range(20)]
        verifier = Verifier.fit(bags, ["sound"] * 10 + ["crack"] * 10, "sound", [str(i) for i in range(20)])
        told_apart.append((verifier.outside[:, None] > verifier.inside[None]).mean())
        for seed in range(900, 905):
            unseen = make_bag(1000 * repeat + seed)
            fused, _ = verifier.fused(verifier.heads.maps(unseen.tokens, unseen.residual))
            rejected.append(verifier.p_values(fused)["authentic"] <= 0.2)
    assert 0.35 < np.mean(told_apart) < 0.65
    assert np.mean(rejected) < 0.35


def test_only_evidence_with_a_weight_is_kept(make_bag):
    verifier = enrolled(make_bag, 8, 8, residuals=2)
    proven = {name for name, weight in verifier.fusion.weight.items() if weight > 0}
    kept = {kind for head in verifier.heads.heads.values() for kind in head.kinds}
    assert kept == kinds_of(proven) - {"suspicion"}  # no detector was given
    assert set(verifier.fusion.weight) == set(READINGS)
    assert verifier.needs_residual


def separation(values: np.ndarray, authentic: np.ndarray) -> float:
    inside, outside = values[authentic], values[~authentic]
    freedom = len(values) - 2
    within = ((inside - inside.mean()) ** 2).sum() + ((outside - outside.mean()) ** 2).sum()
    return float((outside.mean() - inside.mean()) / np.sqrt(within / freedom))


def test_departures_keep_a_floor_that_others_have_to_earn():
    authentic = np.arange(20) < 10
    noise = np.random.default_rng(0).normal(size=20)
    same, apart = np.tile(noise[:10], 2), noise - 8 * authentic  # the first does not separate the sides
    fusion = weighed({DEPARTURES: same, POOLED: apart}, authentic)
    proven = separation(apart, authentic) - DOUBT * np.sqrt(2 / 10)
    assert fusion.weight[DEPARTURES] == pytest.approx(0.2 / (0.2 + proven))
    assert weighed({DEPARTURES: same, POOLED: same}, authentic).weight == {DEPARTURES: 1.0, POOLED: 0.0}
    against = weighed({DEPARTURES: -apart, POOLED: apart}, authentic)
    assert against.weight == fusion.weight, "the map needs a reading that has a place"


def test_a_difference_of_the_whole_micrograph_outweighs_departures_that_show_nothing():
    """Where grains differ in size, local evidence is noise, and texture sets the references apart by one or two."""
    authentic, weights = np.arange(20) < 10, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = {DEPARTURES: rng.normal(size=20), POOLED: rng.normal(size=20) - 1.5 * authentic}
        weights.append(weighed(scores, authentic).weight[POOLED])
    assert np.mean(weights) > 0.6


def test_doubt_is_of_specimens_and_not_of_their_images():
    authentic = np.arange(20) < 10
    noise = np.random.default_rng(0).normal(size=20)
    scores = {DEPARTURES: np.tile(noise[:10], 2), POOLED: noise - 2.5 * authentic}
    few = Fusion.fit(scores, authentic, list("aaaaabbbbbcccccddddd"))
    proven = separation(scores[POOLED], authentic) - DOUBT
    assert few.weight[POOLED] == pytest.approx(proven / (proven + 1))
    assert few.weight[POOLED] < weighed(scores, authentic).weight[POOLED]


def test_readings_of_local_flaws_weigh_as_they_separate_and_others_have_to_prove_it():
    authentic = np.arange(10) < 5
    apart = np.tile(np.linspace(-1, 1, 5), 2) - 0.7 * authentic  # separated by 0.89 deviations, 0.95 are doubt
    scores = dict.fromkeys((MULTIPLE_INSTANCE, OUTLIERS, POOLED), apart) | {DEPARTURES: 2 * apart + authentic}
    fusion = weighed(scores, authentic)
    assert fusion.weight[OUTLIERS] == fusion.weight[MULTIPLE_INSTANCE] > 0 == fusion.weight[POOLED]

    departures = max(2 / 5, separation(scores[DEPARTURES], authentic))
    proven = separation(scores[OUTLIERS], authentic)
    assert fusion.weight[OUTLIERS] == pytest.approx(proven / (departures + 2 * proven))
    against = weighed(scores | {OUTLIERS: -scores[OUTLIERS]}, authentic)
    assert against.weight[OUTLIERS] == 0


def test_kinds_that_agree_on_a_token_are_added_before_the_strongest_are_taken():
    one, other = torch.zeros(200), torch.zeros(200)
    one[:2], other[100:102] = 5.0, 5.0
    one[50:52], other[50:52] = 4.0, 4.0
    maps = {"multiple-instance": one, "suspicion": other, "pooled": other, "novelty": torch.ones(200)}
    # Sums of the highest 1, 2, 6 and 20 of 200: 9, 9, and then 9 twice and 6 four times, which one kind alone gives.
    scores = reading_scores(maps)
    assert scores[POOLED] == pytest.approx(18 / 200)
    assert scores[DEPARTURES] == pytest.approx((9 + 9 + 42 / 6 + (42 + 14) / 20) / 4)
    parts = kind_scores(maps)[DEPARTURES]
    assert parts["novelty"] == pytest.approx(1)
    assert parts["multiple-instance"] == pytest.approx((4 + 4 + 18 / 6 + 18 / 20) / 4)


@given(st.integers(1, 10_000), st.sampled_from([FLAW_SHARES, FLAW_SHARES[:1]]))
def test_ranks_weigh_as_the_mean_over_shares_of_the_means_of_the_highest_values(count, shares):
    weights = rank_weights(count, shares)
    assert len(weights) <= count
    assert weights.sum() == pytest.approx(1)
    assert (np.diff(weights) <= 0).all()
    values = np.sort(np.random.default_rng(count).normal(size=count))[::-1]
    means = [values[: max(1, round(share * count))].mean() for share in shares]
    assert values[: len(weights)] @ weights == pytest.approx(np.mean(means))


TOKEN_MAPS = st.integers(1, 400).flatmap(
    lambda count: st.tuples(
        st.sets(st.sampled_from(sorted(kinds_of(set(READINGS)))), min_size=1), st.just(count), st.integers(0, 10_000)
    )
)


@settings(deadline=None)
@given(TOKEN_MAPS)
def test_scores_of_kinds_add_up_to_those_of_their_reading(drawn):
    kinds, count, seed = drawn
    generator = torch.Generator().manual_seed(seed)
    maps = {name: 5 * torch.randn(count, generator=generator) for name in sorted(kinds)}
    scores, dense = reading_scores(maps), dense_readings(maps)
    assert set(scores) == {name for name, rule in READINGS.items() if kinds & set(rule.kinds)}
    assert set(dense) == {name for name in scores if READINGS[name].dense}
    for name, score in scores.items():
        values = torch.stack([maps[kind] for kind in READINGS[name].kinds if kind in maps]).sum(0)
        weights = rank_weights(count, READINGS[name].shares) if name in dense else np.full(count, 1 / count)
        highest = values.sort(descending=True).values[: len(weights)].numpy()
        assert score == pytest.approx(float(highest @ weights), abs=1e-4)
        assert sum(kind_scores(maps)[name].values()) == pytest.approx(score, abs=1e-4)
    assert reading_scores({kind: values.numpy() for kind, values in maps.items()}) == pytest.approx(scores, abs=1e-4)
    for name, values in dense.items():
        torch.testing.assert_close(values, sum(maps[kind] for kind in READINGS[name].kinds if kind in maps))


def test_a_texture_that_differs_as_a_whole_is_told_apart_and_named(make_bag):
    shift = torch.full((16,), 0.25)
    bags = [make_bag(seed) for seed in range(8)]
    bags += [Bag(make_bag(100 + seed).tokens + shift, torch.zeros(200, 0)) for seed in range(8)]
    verifier = Verifier.fit(bags, ["ours"] * 8 + ["copy"] * 8, "ours", [str(index) for index in range(16)])
    assert verifier.fusion.weight[POOLED] > 0
    copies = [Bag(make_bag(6000 + seed).tokens + shift, torch.zeros(200, 0)) for seed in range(10)]
    assert np.mean([log_odds(verifier, bag) > 0 for bag in copies]) > 0.8
    assert np.mean([log_odds(verifier, make_bag(5000 + seed)) < 0 for seed in range(10)]) > 0.8
    _, contributions = verifier.fused(verifier.heads.maps(copies[0].tokens, copies[0].residual))
    assert {"multiple-instance", "novelty", POOLED} <= set(contributions)


@pytest.fixture
def calibrated(monkeypatch):
    """The number of authentic and other scores that each calibration was fitted to, in their order."""
    fit, fitted = Calibration.fit, []
    monkeypatch.setattr(Calibration, "fit", lambda *sides: fitted.append([len(side) for side in sides]) or fit(*sides))
    return fitted


def test_of_few_specimens_single_references_set_the_threshold_too(make_bag, calibrated):
    """The p-values still come from whole specimens left out."""
    bags = [make_bag(seed, flawed=10 * (seed >= 8), size=3.0) for seed in range(16)]
    labels = ["sound"] * 8 + ["crack"] * 8
    for specimens in (FEW_GROUPS, FEW_GROUPS + 1):
        verifier = Verifier.fit(bags, labels, "sound", [str(seed % specimens) for seed in range(16)])
        assert (len(verifier.inside), len(verifier.outside)) == (8, 8)
    assert calibrated == [[16, 16], [8, 8]]


def test_each_path_is_learned_by_itself_where_paths_are_told(make_bag):
    bags = [make_bag(seed, flawed=10 * (seed >= 6)) for seed in range(12)]
    labels, groups = ["sound"] * 6 + ["crack"] * 6, [str(index) for index in range(12)]
    apart = Verifier.fit(bags, labels, "sound", groups, (6, 10))
    whole = Verifier.fit(bags, labels, "sound", groups)
    assert [w.shape[1] - 1 for w in apart.heads.heads["multiple-instance"].weights] == [6, 10]
    assert [bank.shape[1] for bank in apart.heads.heads["nearest-neighbour"].authentic] == [6, 10]
    assert [w.shape[1] - 1 for w in whole.heads.heads["multiple-instance"].weights] == [16]
    assert (apart.scope.bank.shape[1], whole.scope.bank.shape[1]) == (10, 16)
    last = apart.heads.scale(torch.cat([bag.tokens for bag in bags]))[:, 6:]
    assert float(torch.cdist(apart.scope.bank, last).amin(1).max()) < 0.02
    assert log_odds(apart, make_bag(6000, flawed=10)) > 0 > log_odds(apart, make_bag(5000))


def test_what_is_unlike_every_reference_is_out_of_scope_whatever_its_class(make_bag):
    verifier = enrolled(make_bag, 6, 6)

    def in_scope(tokens: torch.Tensor) -> bool:
        return float(verifier.scope.distances(verifier.heads.scale(tokens)).mean()) <= verifier.scope.limit

    assert all(in_scope(make_bag(5000 + seed).tokens) for seed in range(5))
    assert all(in_scope(make_bag(6000 + seed, flawed=10).tokens) for seed in range(5))
    assert not any(in_scope(make_bag(5000 + seed).tokens * 3) for seed in range(5))


def test_a_diffusion_path_that_says_nothing_is_not_needed(make_bag):
    bags = [make_bag(seed, flawed=10 * (seed >= 8)) for seed in range(16)]
    same = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    bags = [Bag(bag.tokens, same) for bag in bags]
    verifier = Verifier.fit(bags, ["sound"] * 8 + ["crack"] * 8, "sound", [str(i) for i in range(16)])
    assert not verifier.needs_residual
    assert verifier.fusion.weight["reconstruction"] == 0


def test_without_residuals_there_is_no_reconstruction_evidence(make_bag):
    assert "reconstruction" not in enrolled(make_bag, 4, 4).fusion.weight


def test_authentic_references_alone_suffice(make_bag):
    verifier = enrolled(make_bag, 10, 0, residuals=2)
    assert set(verifier.heads.heads) == {"novelty", "reconstruction"}
    fused, _ = verifier.fused(verifier.heads.maps(*(lambda b: (b.tokens, b.residual))(make_bag(5000, residuals=2))))
    assert set(verifier.p_values(fused)) == {"authentic"}
    assert len(verifier.outside) == 0
    flawed = make_bag(6000, flawed=20, residuals=2)
    assert probability(log_odds(verifier, flawed)) < 0.1
    flawed_p = verifier.p_values(verifier.fused(verifier.heads.maps(flawed.tokens, flawed.residual))[0])
    assert decide(flawed_p, 0.1, 10) == "not authentic"
    typical = [probability(log_odds(verifier, make_bag(5000 + seed, residuals=2))) for seed in range(10)]
    assert np.median(typical) > 0.5


@pytest.mark.parametrize(("inside", "outside"), [(1, 1), (1, 5), (5, 1)])
def test_too_few_references_leave_every_decision_open_and_say_so(make_bag, inside, outside):
    verifier = enrolled(make_bag, inside, outside)
    assert any("too few references to cross-fit" in warning for warning in verifier.warnings)
    for bag in (make_bag(5000), make_bag(6000, flawed=40)):
        fused, _ = verifier.fused(verifier.heads.maps(bag.tokens, bag.residual))
        assert decide(verifier.p_values(fused), 0.5, inside) == "inconclusive"
        assert 0 < probability(verifier.calibration.log_odds(fused)) < 1


def test_one_of_each_still_gives_a_score_in_the_right_direction(make_bag):
    verifier = enrolled(make_bag, 1, 1, flawed=40)
    assert log_odds(verifier, make_bag(6000, flawed=40)) > log_odds(verifier, make_bag(5000))


def test_a_side_from_one_specimen_is_cross_fitted_by_reference_with_a_warning(make_bag):
    verifier = enrolled(make_bag, 4, 4, groups=["a"] * 4 + ["b", "c", "d", "e"])
    assert any("single group" in warning for warning in verifier.warnings)
    assert len(verifier.inside) == len(verifier.outside) == 4


def test_a_set_with_enough_of_everything_has_no_warnings(make_bag):
    assert enrolled(make_bag, 5, 5).warnings == ()


def test_no_authentic_reference_is_an_error(make_bag):
    with pytest.raises(EnrolmentError, match="no reference of the authentic class 'sound'"):
        Verifier.fit([make_bag(0), make_bag(1)], ["crack", "crack"], "sound", ["a", "b"])


def test_one_authentic_reference_and_nothing_else_is_an_error(make_bag):
    with pytest.raises(EnrolmentError, match="one authentic reference alone is not enough"):
        Verifier.fit([make_bag(0)], ["sound"], "sound", ["a"])


def test_fitting_again_gives_the_same_verifier(make_bag):
    first, second = enrolled(make_bag, 5, 5, residuals=2), enrolled(make_bag, 5, 5, residuals=2)
    bag = make_bag(6000, flawed=10, residuals=2)
    assert log_odds(first, bag) == log_odds(second, bag)
    assert first.inside.tolist() == second.inside.tolist()


def test_identical_references_do_not_break_anything(make_bag):
    bag, flawed = make_bag(0), make_bag(1, flawed=10)
    labels, groups = ["sound"] * 3 + ["crack"] * 3, [str(i) for i in range(6)]
    verifier = Verifier.fit([bag] * 3 + [flawed] * 3, labels, "sound", groups)
    assert probability(log_odds(verifier, bag)) > 0.5 > probability(log_odds(verifier, flawed))


@given(st.integers(0, 10_000), st.booleans())
def test_a_difference_of_the_whole_gives_its_readings_their_share_and_leaves_the_others_their_proportions(
    seed, crossfitted
):
    authentic = np.arange(20) < 10
    names = (DEPARTURES, MULTIPLE_INSTANCE, OUTLIERS, POOLED)
    drawn = np.random.default_rng(seed).normal(size=(4, 20)) + 2 * ~authentic
    scores = dict(zip(names, drawn, strict=True))
    said = weighed(scores, authentic, crossfitted=crossfitted, difference="whole").weight
    local = weighed({name: scores[name] for name in names[:3]}, authentic, crossfitted=crossfitted).weight
    assert said == pytest.approx({name: (1 - WHOLE_SHARE) * value for name, value in local.items()} | {POOLED: 0.8})


def test_readings_of_the_whole_that_a_program_adds_have_equal_parts(monkeypatch):
    monkeypatch.setitem(READINGS, "colour", replace(READINGS[POOLED], kinds=("colour",)))
    authentic = np.arange(20) < 10
    scores = {name: np.random.default_rng(0).normal(size=20) for name in (DEPARTURES, POOLED, "colour")}
    said = weighed(scores, authentic, difference="whole").weight
    assert said == pytest.approx({DEPARTURES: 1 - WHOLE_SHARE, POOLED: WHOLE_SHARE / 2, "colour": WHOLE_SHARE / 2})


def test_whoever_says_that_the_whole_differs_sees_less_of_chance_in_single_places(make_bag):
    """A quarter of the channels shifted by 0.15 deviations, which three references a side do not prove."""
    shift = torch.zeros(16)
    shift[:4] = 0.15
    labels, groups = ["ours"] * 3 + ["copy"] * 3, [str(index) for index in range(6)]

    def bag(seed: int, side: int) -> Bag:
        return Bag(make_bag(seed).tokens + side * shift, torch.zeros(200, 0))

    def skill(first: int, difference: str) -> float:
        bags = [bag(first + index, int(index >= 3)) for index in range(6)]
        verifier = Verifier.fit(bags, labels, "ours", groups, difference=difference)
        ours, copies = (
            np.asarray([log_odds(verifier, bag(first + 100 * (side + 1) + index, side)) for index in range(20)])
            for side in (0, 1)
        )
        return auroc(ours, copies)

    sought, said = (np.mean([skill(1000 * n, difference) for n in range(6)]) for difference in ("any", "whole"))
    assert said > sought + 0.1


def test_the_whole_cannot_be_told_from_authentic_references_alone(make_bag):
    with pytest.raises(EnrolmentError, match="add references of another class, or leave it at `any`"):
        Verifier.fit([make_bag(0), make_bag(1)], ["sound"] * 2, "sound", ["a", "b"], difference="whole")


def test_scores_that_are_not_cross_fitted_let_departures_alone_weigh():
    authentic = np.arange(20) < 10
    apart = np.random.default_rng(0).normal(size=20) - 8 * authentic
    assert weighed({DEPARTURES: apart, POOLED: apart}, authentic, crossfitted=False).weight == {
        DEPARTURES: 1.0,
        POOLED: 0.0,
    }


def test_the_threshold_of_one_reference_a_side_lies_between_the_two(make_bag):
    authentic, flawed = make_bag(1), make_bag(100, flawed=10)
    verifier = Verifier.fit([authentic, flawed], ["sound", "crack"], "sound", ["0", "1"])
    (inside, _), (outside, _) = (
        verifier.fused(verifier.heads.maps(bag.tokens, bag.residual)) for bag in (authentic, flawed)
    )
    even = -verifier.calibration.intercept / verifier.calibration.slope
    assert (even - inside) / (outside - inside) == pytest.approx(BETWEEN, rel=1e-3)


def test_neither_the_order_of_references_nor_the_names_of_specimens_change_anything(make_bag):
    bags = [make_bag(seed, tokens=3000, flawed=60 * (seed % 2)) for seed in range(8)]
    labels = ["cracked" if seed % 2 else "sound" for seed in range(8)]
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    verifier = Verifier.fit(bags, labels, "sound", list("bbccaadd"))
    other = Verifier.fit([bags[i] for i in order], [labels[i] for i in order], "sound", ["zzccaadd"[i] for i in order])
    query = make_bag(99, tokens=3000, flawed=20)
    fused, again = (v.fused(v.heads.maps(query.tokens, query.residual))[0] for v in (verifier, other))
    assert again == fused
    assert other.region_threshold == verifier.region_threshold
    assert other.scope.limit == verifier.scope.limit
    # Values per reference are in the order the references were given.
    for name, side in (("inside", "sound"), ("outside", "cracked")):
        scores = dict(zip([i for i in range(8) if labels[i] == side], getattr(verifier, name), strict=True))
        assert getattr(other, name).tolist() == [scores[i] for i in order if labels[i] == side]
    assert other.against.tolist() == verifier.against[order].tolist()
    assert np.flatnonzero(Verifier.fit(bags, ["cracked", *labels[1:]], "sound", list("abcdefgh")).against > 0.5)[0] == 0


def test_a_side_from_one_specimen_counts_once_in_the_threshold(make_bag, calibrated):
    bags = [make_bag(seed, flawed=20 * (seed % 2)) for seed in range(10)]
    verifier = Verifier.fit(bags, ["sound", "cracked"] * 5, "sound", ["A", "B"] * 5)
    assert any("single group" in warning for warning in verifier.warnings)
    assert calibrated == [[5, 5]]


def test_references_are_compared_by_weights_that_have_not_seen_their_specimen():
    """Of readings that are noise, weights favour those that happen to set the references apart."""
    rng, authentic, groups = np.random.default_rng(0), np.arange(12) < 6, list("aabbccddeeff")
    seen, unseen = [], []
    for _ in range(200):
        scores = {name: rng.normal(size=12) for name in (DEPARTURES, MULTIPLE_INSTANCE, OUTLIERS)}
        fused, held_out = Fusion.fit(scores, authentic, groups).fuse(scores), Fusion.held_out(scores, authentic, groups)
        seen.append(auroc(fused[authentic], fused[~authentic]))
        unseen.append(auroc(held_out[authentic], held_out[~authentic]))
        rest = [index for index in range(12) if groups[index] != "b"]
        without = Fusion.fit(
            {name: values[rest] for name, values in scores.items()}, authentic[rest], [groups[index] for index in rest]
        )
        assert held_out[2] == without.fuse({name: values[2] for name, values in scores.items()})
    assert np.mean(seen) > 0.55
    assert abs(np.mean(unseen) - 0.5) < 0.04


def test_where_a_side_has_one_specimen_the_reference_alone_is_unseen():
    authentic, values = np.arange(6) < 3, np.array([0.0, 1, 3, 4, 6, 9])
    held_out = Fusion.held_out({DEPARTURES: values}, authentic, list("aaabcd"))
    rest = [1, 2, 3, 4, 5]
    assert held_out[0] == weighed({DEPARTURES: values[rest]}, authentic[rest]).fuse({DEPARTURES: 0.0})


def test_doubt_is_of_both_sides_however_many_references_each_has():
    authentic, rng = np.arange(18) < 15, np.random.default_rng(0)
    values = rng.normal(size=18) + 3 * ~authentic
    fusion = weighed({DEPARTURES: np.zeros(18), POOLED: values}, authentic)
    proven = separation(values, authentic) - DOUBT * np.sqrt(1 / 15 + 1 / 3)
    assert fusion.weight[POOLED] == pytest.approx(proven / (proven + 1 / 15 + 1 / 3))


def test_each_reference_keeps_the_weight_of_its_specimen(make_bag):
    labels = ["sound"] * 6 + ["crack"] * 6
    groups = list("aaabcdefgghh")
    bags = [make_bag(seed, flawed=10 * (label == "crack")) for seed, label in enumerate(labels)]
    verifier = Verifier.fit(bags, labels, "sound", groups)
    assert verifier.inside_shares.tolist() == shares_of(groups[:6]).tolist()
    assert verifier.outside_shares.tolist() == shares_of(groups[6:]).tolist()
