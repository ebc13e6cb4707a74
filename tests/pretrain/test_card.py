"""The card of a pretraining run is written whatever its logs went through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusion_diff.pretrain.card import write_card
from fusion_diff.pretrain.recipe import RECIPES

ENTRIES = [json.dumps({"stage": "prior", "loss": loss, "samples_per_second": 3.0}) for loss in (0.75, 0.5, 0.25)]


@pytest.mark.parametrize(
    ("log", "figures"),
    [
        ("\n".join(ENTRIES) + "\n", "0.2500 | 3"),
        ("\n".join([*ENTRIES[:2], ENTRIES[2][:20]]), "0.5000 | 3"),
        ("\n".join([ENTRIES[0], ENTRIES[1][:20] + ENTRIES[2], ""]), "0.7500 | 3"),
        (ENTRIES[0][:20], "unknown | unknown"),
        ("", "unknown | unknown"),
    ],
    ids=["whole", "torn at its end", "torn before a run that went on", "nothing but a torn line", "empty"],
)
def test_what_a_full_disk_tore_in_a_log_is_left_out_of_the_card(tmp_path: Path, log: str, figures: str) -> None:
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "log.jsonl").write_text(log)
    card, recipe = tmp_path / "README.md", RECIPES["cpu"]
    given = dict.fromkeys(("prior", "deit", "encoder"))
    write_card(card, tmp_path, recipe, "x", given, feedback=True, contained=True)
    settings = recipe.stage("prior")
    row = f"| prior | {settings.steps} | {settings.batch} | {settings.learning_rate:g} | {figures} |"
    assert [line for line in card.read_text().splitlines() if line.startswith("| prior")] == [row]
