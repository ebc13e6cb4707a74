"""Cross-fitting never scores a specimen with heads that learned from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.fewshot.bags import HALVES, compared
from fusion_diff.fewshot.crossfit import HANDFUL, MAX_FOLDS, Arrangement, folds, single_folds

SETS = st.lists(st.tuples(st.integers(0, 11), st.booleans()), min_size=1, max_size=50)


def split(references: list[tuple[int, bool]]) -> tuple[list[str], np.ndarray, list[np.ndarray] | None]:
    groups = [f"g{group}" for group, _ in references]
    authentic = np.array([is_authentic for _, is_authentic in references])
    return groups, authentic, folds(groups, authentic)


@given(SETS)
def test_parts_partition_the_references(references):
    *_, parts = split(references)
    if parts is not None:
        assert len(parts) > 1
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(references)))


@given(SETS)
def test_a_group_is_never_on_both_sides(references):
    groups, _, parts = split(references)
    for part in parts or []:
        inside = {groups[i] for i in part}
        assert inside.isdisjoint(groups[i] for i in set(range(len(groups))) - set(part.tolist()))


@given(SETS)
def test_every_training_part_holds_both_sides(references):
    _, authentic, parts = split(references)
    for part in parts or []:
        rest = np.delete(authentic, part)
        assert rest.any()
        assert authentic.all() or not rest.all()


@given(SETS)
def test_there_is_a_split_wherever_one_is_possible(references):
    groups, authentic, parts = split(references)
    specimens = [{g for g, a in zip(groups, authentic, strict=True) if a == side} for side in (True, False)]
    possible = len(specimens[0]) >= 2 and len(specimens[1]) != 1
    assert (parts is not None) == possible


@given(SETS)
def test_single_references_help_only_where_groups_have_several(references):
    authentic = np.array([is_authentic for _, is_authentic in references])
    alone = folds([str(index) for index in range(len(authentic))], authentic)
    assert (alone is None) == (single_folds(authentic) is None)


@given(st.integers(2, 30), st.integers(0, 30))
def test_single_references_are_spread_evenly(inside, outside):
    if outside == 1:
        return
    authentic = np.arange(inside + outside) < inside
    parts = folds([str(i) for i in range(len(authentic))], authentic)
    assert len(parts) == min(2 * MAX_FOLDS if len(authentic) <= HANDFUL else MAX_FOLDS, max(inside, outside))
    counts = np.array([[authentic[part].sum(), (~authentic[part]).sum()] for part in parts])
    assert (counts.max(0) - counts.min(0) <= 1).all()


def test_the_split_is_the_same_every_time():
    groups, authentic = [f"g{i % 7}" for i in range(30)], np.arange(30) % 3 == 0
    for one, other in zip(folds(groups, authentic), folds(groups, authentic), strict=True):
        assert one.tolist() == other.tolist()


def test_the_only_two_specimens_with_authentic_references_are_not_left_out_together():
    sizes = {"b1": 4, "b2": 4, "b3": 4, "b4": 4, "a1": 3, "a2": 3, "b5": 1}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    authentic = np.array([name.startswith("a") and groups.index(name) == i for i, name in enumerate(groups)])
    assert authentic.sum() == 2
    parts = folds(groups, authentic)
    assert parts is not None
    assert all(authentic[part].sum() < 2 for part in parts)


def test_of_a_handful_of_references_few_are_left_out_at_once():
    for count, most in ((HANDFUL, 2 * MAX_FOLDS), (HANDFUL + 1, MAX_FOLDS)):
        authentic = np.arange(count) % 2 == 0
        assert len(folds([str(i) for i in range(count)], authentic)) == len(single_folds(authentic)) == most


def test_single_references_are_left_out_one_at_a_time():
    assert sorted(part.tolist() for part in single_folds(np.arange(6) < 3)) == [[i] for i in range(6)]


def test_specimens_of_both_sides_are_left_out_one_at_a_time():
    groups, authentic = ["a", "a", "b", "b", "c", "c", "d"], np.array([True, False] * 3 + [True])
    assert [sorted({groups[i] for i in part}) for part in folds(groups, authentic)] == [["a"], ["b"], ["c"], ["d"]]


def test_where_both_sides_have_as_many_one_of_each_is_left_out_at_once():
    authentic = np.arange(10) < 5
    parts = folds([str(i) for i in range(10)], authentic)
    assert [authentic[part].tolist() for part in parts] == [[True, False]] * 5


@pytest.mark.parametrize(("specimens", "told"), [("aabb", False), ("aabbc", True), ("aabc", True), ("aaaa", False)])
def test_heads_of_all_and_of_each_part_s_rest_tell_specimens_apart_or_none_does(make_bag, specimens, told):
    groups = [*specimens, *"xxyyz"]
    labels = ["sound"] * len(specimens) + ["crack"] * 5
    own = Arrangement.of([make_bag(seed) for seed in range(len(labels))], labels, groups, "sound")
    assert own.parts is not None
    assert {bool(bag.group) for bag in own.bags} == {told}
    for part in own.parts:
        rest = np.setdiff1d(np.flatnonzero(own.authentic), part)
        assert not told or len({own.groups[index] for index in rest}) > 1
    assert [labels[index] for index in own.order] == [bag.label for bag in own.bags]


@pytest.mark.parametrize("lone", [True, False])
def test_beside_a_side_of_one_specimen_the_other_side_s_specimens_stay_whole(make_bag, lone):
    labels = ["sound"] * 6 + ["crack"] * 6
    groups = [*"aabbcc", *"zzzzzz"] if lone else [*"zzzzzz", *"aabbcc"]
    own = Arrangement.of([make_bag(seed) for seed in range(12)], labels, groups, "sound")
    assert own.single
    assert sorted(np.concatenate(own.parts).tolist()) == list(range(12))
    several = own.authentic == lone
    for part in own.parts:
        rest = set(range(12)) - set(part.tolist())
        assert {own.groups[i] for i in part if several[i]}.isdisjoint(own.groups[i] for i in rest if several[i])
        assert any(not several[i] for i in rest), "something of the single specimen is learned from"


def test_with_two_authentic_references_distances_are_measured_alike_whether_both_are_there_or_one(make_bag):
    labels, groups = ["sound"] * 2 + ["crack"] * 4, list("abcdef")
    own = Arrangement.of([make_bag(seed) for seed in range(6)], labels, groups, "sound")
    assert {bag.group for bag in own.bags} == {HALVES}
    tokens = [bag.tokens for bag, inside in zip(own.bags, own.authentic, strict=True) if inside]
    both, one = list(compared(tokens, [HALVES] * 2)), list(compared(tokens[:1], [HALVES]))
    assert [len(each) for each, _ in both] == [len(tokens[0]) // 2] * 4
    for (asked, rest), (its, other) in zip(both[:2], one, strict=True):
        assert asked.tolist() == its.tolist()
        assert [each.tolist() for each in rest] == [each.tolist() for each in other]


def test_references_are_arranged_alike_in_whatever_order_they_come(make_bag):
    bags, labels, groups = [make_bag(seed) for seed in range(6)], ["sound", "crack"] * 3, list("abcdef")
    own = Arrangement.of(bags, labels, groups, "sound")
    again = Arrangement.of(bags[::-1], labels[::-1], [f"other {group}" for group in groups[::-1]], "sound")
    assert [bag.tokens.tolist() for bag in own.bags] == [bag.tokens.tolist() for bag in again.bags]
    assert own.groups == again.groups
    assert [part.tolist() for part in own.parts] == [part.tolist() for part in again.parts]
