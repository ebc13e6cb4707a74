"""A folder of one's own is measured by the protocol of the built-in sets, and draws that cannot be made are told."""

from __future__ import annotations

import json
import re
from shutil import rmtree

import numpy as np
import pytest
from PIL import Image

GROUPS = "^([^_]+)_"


@pytest.fixture
def lab(tmp_path):
    """Four specimens, each with six flawless images and three of either flaw; one scratch has a mark."""
    noise = np.random.default_rng(0)
    for kind, depth in (("fine", 0), ("scratch", 90), ("void", 60)):
        (tmp_path / "lab" / kind).mkdir(parents=True)
        for specimen in "ABCD":
            for number in range(6 if depth == 0 else 3):
                pixels = noise.integers(100, 156, (48, 48))
                pixels[20:28, 8:40] -= depth
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "lab" / kind / f"{specimen}_{number}.png")
    mask = np.zeros((48, 48), np.uint8)
    mask[20:28, 8:40] = 255
    (tmp_path / "lab" / "masks" / "scratch").mkdir(parents=True)
    Image.fromarray(mask).save(tmp_path / "lab" / "masks" / "scratch" / "A_0.png")
    return tmp_path / "lab"


def few_shot(call, lab, *words):
    return call("fewshot", "--folder", lab, "--authentic", "fine", "--out", lab.parent / "run", *words)


def test_a_folder_is_measured_by_its_name_and_skipped_draws_are_counted(call, lab, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib draws the chart; pip install 'fusion-diff[benchmarks]'")
    words = "--shots", 2, 12, 13, "--methods", "nearest mean"
    assert few_shot(call, lab, "--groups", GROUPS, *words, "--seeds", 1) == 0
    page = (lab.parent / "run" / "table.md").read_text(encoding="utf-8")
    method = r"nearest mean, EfficientNet-Lite0"
    assert re.search(rf"^\| lab \| 2 \| {method} \| [01]\.\d\d\d \| [01]\.\d\d\d \| 1 \|$", page, re.MULTILINE)
    assert re.search(rf"^\| lab \| 12 \| {method} ", page, re.MULTILINE)
    assert "\nSkipped, too few specimens: 1 of 1 draws of lab with 13 shots.\n" in page
    assert "nan" not in page
    table = json.loads((lab.parent / "run" / "table.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert [row["draws"] for row in table["rows"]] == [1, 1]
    assert table["skipped"] == [{"set": "lab", "shots": 13, "draws": 1, "skipped": 1}]

    with pytest.warns(UserWarning, match="no groups are given"):
        few_shot(call, lab, *words, "--seeds", 0)
    assert "2 results of other methods, sets or groups are left out" in capsys.readouterr().err


def test_a_name_of_another_unicode_form_is_no_group(load, lab):
    (lab / "fine" / "A_0.png").rename(lab / "fine" / "u\u0308.png")
    with pytest.warns(UserWarning, match="no groups are given"):
        load("own_set").own_set(lab, "fine", None)


def test_images_of_a_folder_are_those_that_enroll_reads(load, lab):
    task = load("own_set").own_set(lab, "fine", GROUPS)
    assert {(image.path.parent.name, image.authentic) for image in task.references} == {
        ("fine", True),
        ("scratch", False),
        ("void", False),
    }
    assert {image.group for image in task.references} == set("ABCD")
    (marked,) = (image for image in task.references if image.marked)
    assert marked.path == lab / "scratch" / "A_0.png"
    assert marked.read_mark(48, 48).sum() == 8 * 32
    assert marked.read().shape == (48, 48)


def test_a_folder_with_nothing_else_than_authentic_images_is_refused(load, lab):
    for other in ("scratch", "void", "masks"):
        rmtree(lab / other)
    own_set = load("own_set")
    with pytest.raises(own_set.ReferenceSetError, match="fine is the only class"):
        own_set.own_set(lab, "fine", GROUPS)


def test_where_the_tuning_seed_has_no_draw_the_next_one_that_has_is_taken(load, coatings):
    fewshot, protocol = load("fewshot"), load("protocol")
    (built_in,) = protocol.SETS["ebc_crack"](coatings)
    assert fewshot.tuning_draw(built_in, 5).seed == fewshot.TUNING_SEED
    images = [protocol.Image(coatings / f"{number}.png", number < 36, str(number)) for number in range(72)]
    single = protocol.Task("single", tuple(images), None)
    assert protocol.draw(single, 18, fewshot.TUNING_SEED) is None
    found = fewshot.tuning_draw(single, 18)
    assert found == protocol.draw(single, 18, found.seed)
    assert not any(protocol.draw(single, 18, seed) for seed in range(fewshot.TUNING_SEED, found.seed))
    assert fewshot.tuning_draw(single, 19) is None


def test_networks_without_a_draw_to_tune_on_are_left_out(call, load, coatings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(load("fewshot"), "TUNING_SEEDS", 0)
    words = "--sets", "ebc_crack", "--shots", 1, "--seeds", 1, "--methods", "ResNet"
    assert call("fewshot", "--data", coatings, "--out", tmp_path / "run", *words) == 0
    assert "ebc_crack, 1 shots: no draw to tune ResNet-18 from scratch on, left out" in capsys.readouterr().err
