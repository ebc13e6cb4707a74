"""A run that is continued holds results of earlier code: none is counted as one of the present code."""

from __future__ import annotations

import json


def store(file, *rows):
    file.parent.mkdir()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_an_ablation_leaves_out_results_of_other_heads_or_readings(call, load, coatings, tmp_path, capsys):
    ablation = load("ablation")
    model = ablation.Bench(ablation.DiffusionModel.from_pretrained(), {}).eyes["shipped"].sha256
    parts = ablation.ROWS[ablation.FULL].parts()
    row = {"set": "ebc_crack", "task": 0, "shots": 10, "row": ablation.FULL, "queries": 80, "model": model}
    row |= {"macro_f1": 0.5, "auroc": 0.5}
    rows = [
        row | parts | {"seed": 0},
        row | parts | {"seed": 1, "heads": parts["heads"][1:]},
        row | parts | {"seed": 2, "readings": [*parts["readings"], "gloss"]},
        row | {"seed": 3},
    ]
    store(tmp_path / "run" / "ablation.jsonl", *(row | {"key": str(row["seed"])} for row in rows))
    assert call("ablation", "--data", coatings, "--out", tmp_path / "run", "--sets", "ebc_crack", "--seeds", 0) == 0
    assert "| 10 | full method | 0.500 / 0.500 (1) |" in capsys.readouterr().out


def test_the_few_shot_table_leaves_out_methods_that_are_no_more_and_counts_them(call, coatings, tmp_path, capsys):
    row = {"task": "ebc_crack/0", "shots": 5, "seed": 0, "model": "", "set": "ebc_crack", "truth": [True, False]}
    store(tmp_path / "run" / "answers.jsonl", row | {"method": "a method of last year", "scores": [1, 0]})
    assert call("fewshot", "--data", coatings, "--out", tmp_path / "run", "--sets", "ebc_crack", "--seeds", 0) == 0
    assert "answers.jsonl: 1 results of other methods, sets or groups are left out" in capsys.readouterr().err
    assert "last year" not in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


def of_two_models(load, **row):
    """Rows of the embedded model, and after them one of another."""
    model = load("fewshot").DiffusionModel.from_pretrained()
    ours = {"poisoning": load("eye").Eye(model).sha256, "robustness": model.sha256}
    return lambda name: [row | {"model": each, "key": each} for each in (ours[name], "another")]


def test_the_table_of_poisoned_references_is_of_the_model_that_is_asked_for(call, load, tmp_path, capsys):
    row = {"set": "ebc_crack", "task": 0, "seed": 0, "poisoned": "0 flipped", "shots": 10, "queries": 120}
    row |= {"tokens": 8192, "bad": [], "references": 4, "findings": [], "truth": [True, False]}
    mine, other = of_two_models(load, **row)("poisoning")
    mine |= {"all": [1.0, -1.0], "dropped": [1.0, -1.0]}
    other |= {"all": [-1.0, 1.0], "dropped": [-1.0, 1.0]}
    store(tmp_path / "run" / "poisoning.jsonl", mine, other)
    assert call("poisoning", "--data", tmp_path, "--out", tmp_path / "run", "--table") == 0
    assert "| ebc_crack | 0 flipped | 1 |  | 0.000 | 1.000 / 1.000 |" in capsys.readouterr().out


def test_the_table_of_attacks_is_of_the_model_that_is_asked_for(call, load, tmp_path, capsys):
    row = {"set": "ebc_crack", "seed": 0, "shots": 10, "image": "A_1.png", "flawed": True}
    clean = {"what": "clean", "odds": {"plain": 1.0, "purified": 1.0}, "limit": 1.0, "false_alarms": 0.1}
    clean |= {"ms": {"plain": 1.0, "purified": 2.0}}
    end = {"what": "finished", "steps": 20, "queries": 100, "eot": 4}
    mine, other = of_two_models(load, **row)("robustness")
    rows = [each | what | {"key": each["key"] + what["what"]} for each in (mine, other) for what in (clean, end)]
    rows[2] |= {"odds": {"plain": -1.0, "purified": -1.0}}
    store(tmp_path / "run" / "attacks.jsonl", *rows)
    words = ["--data", tmp_path, "--out", tmp_path / "run", "--sets", "ebc_crack", "--table"]
    assert call("robustness", *words) == 0
    assert "| clean plain | 1 |" in capsys.readouterr().out
