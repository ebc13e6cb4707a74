"""Weights come back from their stored form, in single precision and without anything being unpickled."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fusion_diff.errors import CheckpointError
from fusion_diff.weights import COMPACT_FROM, compact, expand, read_tensors


def test_tensors_come_back_as_float32_and_others_as_they_are(tmp_path):
    save_file(
        {"half": torch.tensor([0.5]).half(), "whole": torch.tensor([7]), "flag": torch.tensor([True])},
        tmp_path / "t.safetensors",
    )
    read = read_tensors(tmp_path / "t.safetensors")
    assert read["half"].dtype == torch.float32
    assert read["half"].item() == 0.5
    assert read["whole"].dtype == torch.int64
    assert read["flag"].dtype == torch.bool


def test_a_missing_tensor_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.safetensors"):
        read_tensors(tmp_path / "gone.safetensors")


def test_small_tensors_cannot_be_multiplied_into_a_huge_one():
    stored = {"a.int8": torch.zeros(100_000, 1, dtype=torch.int8), "a.scale": torch.ones(1, 100_000)}
    with pytest.raises(ValueError, match="a has shape"):
        expand(stored)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(128, 300), st.sampled_from([1e-6, 1.0, 1e4]))
def test_large_matrices_are_stored_in_a_byte_a_number_to_half_a_step(seed, columns, size):
    weights = size * torch.randn(256, columns, generator=torch.Generator().manual_seed(seed))
    weights[3] = 0
    stored = compact({"layer.weight": weights, "layer.bias": weights[0]})
    assert stored["layer.weight.int8"].dtype == torch.int8
    state = expand(stored)
    assert set(state) == {"layer.weight", "layer.bias"}
    step = weights.abs().amax(1, keepdim=True) / 127
    assert bool(((state["layer.weight"] - weights).abs() <= 0.501 * step + 1e-20).all())


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 10_000),
    st.sampled_from([(256, 128), (200, 300), (64, 32, 4, 4), (33, 1000), (16, 16), (8, 3, 3, 3), (40_000,), ()]),
    st.lists(st.sampled_from([0.0, 1e-15, 1e-12, 1e-6, 1.0, 1e3, 1e30]), min_size=1, max_size=7),
)
def test_what_was_expanded_compacts_to_the_same_bytes(seed, shape, sizes):
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if len(shape) > 1:  # rows of very different magnitudes, some all zeros
        rows = torch.tensor(sizes).repeat(shape[0])[: shape[0]]
        weights = weights * (rows if weights.numel() >= COMPACT_FROM else rows.clamp_max(1e3)).view(
            -1, *[1] * (len(shape) - 1)
        )
    stored = compact({"w": weights})
    state = expand(stored)
    assert state["w"].shape == weights.shape
    assert bool(state["w"].isfinite().all())
    again = compact(state)
    assert again.keys() == stored.keys()
    for name, value in stored.items():
        assert again[name].dtype == value.dtype
        assert torch.equal(again[name], value), name


def test_a_row_of_zeros_stays_one():
    weights = torch.ones(2, COMPACT_FROM)
    weights[0] = 0
    stored = compact({"w": weights})
    assert bool((stored["w.scale"] > 0).all()), "nothing is divided by zero"
    state = expand(stored)
    assert not state["w"][0].any()
    torch.testing.assert_close(state["w"][1], weights[1])


def test_integers_come_back_from_a_file_as_the_weights_they_stand_for(tmp_path):
    stored = compact({"w": torch.randn(256, 128), "b": torch.randn(7)})
    save_file(stored, tmp_path / "t.safetensors")
    read, expected = expand(read_tensors(tmp_path / "t.safetensors")), expand(stored)
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) and read[name].dtype == torch.float32 for name in expected)


def test_small_matrices_are_kept_in_half_precision():
    stored = compact({"gate.weight": torch.rand(16, 16), "norm.mean": torch.rand(40_000)})
    assert {name: value.dtype for name, value in stored.items()} == dict.fromkeys(stored, torch.float16)
    assert set(expand(stored)) == {"gate.weight", "norm.mean"}


def test_what_was_read_does_not_change_with_its_file(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"exact": torch.ones(3), "whole": torch.ones(3, dtype=torch.int8)}, file)
    found = read_tensors(file)
    with file.open("r+b") as stream:
        stream.write(bytes(file.stat().st_size))
    assert all(value.tolist() == [1, 1, 1] for value in found.values())
