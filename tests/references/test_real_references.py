"""Reading of the real reference sets."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion_diff.references import ReferenceSet


def test_ebc_crack_groups_by_specimen(shared_data: Path) -> None:
    folder = shared_data / "ebc_crack"
    references = ReferenceSet.from_folder(folder, authentic="sound", groups=r"^([^_]+)_")
    assert references.counts == {label: len(list((folder / label).glob("*.png"))) for label in ("sound", "crack")}
    assert set(references.groups) == {file.name.split("_")[0] for file in folder.glob("*/*.png")}
    labels_of_group = {group: {r.label for r in references if r.group == group} for group in references.specimens}
    assert any(len(labels) == 2 for labels in labels_of_group.values())
    assert references.shots(5).counts == {"sound": 5, "crack": 5}


def test_ferrite_tile_has_its_groups_and_its_marks(shared_data: Path) -> None:
    folder = shared_data / "ferrite_tile"
    with pytest.warns(UserWarning, match=r"exp4_num_352527\.png is empty"):  # the one empty mask of the set
        references = ReferenceSet.from_folder(
            folder / "images", authentic="free", groups=folder / "groups.csv", marks=folder / "masks"
        )
    with (folder / "groups.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {reference.name: reference.group for reference in references} == {row["file"]: row["group"] for row in rows}
    assert references.counts == Counter(row["class"] for row in rows)
    assert references.classes[0] == "free"
    for reference in references:
        if reference.label == "free":
            assert reference.mark is None
            continue
        stored = np.asarray(Image.open(folder / "masks" / Path(reference.name).with_suffix(".png"))) != 0
        assert (reference.mark is None) == (not stored.any())
        if reference.mark is not None:
            np.testing.assert_array_equal(reference.mark, stored)


def test_jun_glaze_groups_by_session(shared_data: Path, tmp_path: Path) -> None:
    for label in ("china5", "china6"):  # an object and its counterfeit; eight views of each are enough here
        (tmp_path / label).mkdir()
        for file in sorted((shared_data / "jun_glaze" / label).glob("*.jpg"))[::8]:
            shutil.copy(file, tmp_path / label)
    references = ReferenceSet.from_folder(tmp_path, authentic="china5", groups=lambda name: name[:2])
    assert references.specimens == ("s1", "s2")
    enrolled = references.subset([index for index, r in enumerate(references) if r.group == "s1"])
    assert enrolled.specimens == ("s1",)
    assert enrolled.classes == ("china5", "china6")
    assert all(reference.micrograph.channels == 3 for reference in references)
