from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.inspection.ledger_entry import verdict
from fusion_diff.inspection.policy import NO_POLICY, Policy
from fusion_diff.inspection.record import FORMAT, RecordWriter, to_line, to_record
from fusion_diff.inspection.run import Outcome
from fusion_diff.verdict.compared import Compared

GOLDEN = Path(__file__).parents[1] / "golden" / "inspection-2.jsonl"


def test_records_are_those_of_the_golden_file(make_inspection, tmp_path):
    outcomes = [
        Outcome(
            Path("line-7/a.tif"),
            make_inspection(
                offset=0.125,
                compared_with=Compared(
                    "sound",
                    {"sound": 10, "crack": 9},
                    7,
                    {"authentic": 4, "not authentic": 3},
                    {"auroc": 0.875},
                    19,
                    0.24,
                    0.5,
                ),
                notes=("A data bar of 60 rows was cut off at the bottom.",),
            ),
        ),
        Outcome(
            Path("line-7/ü.tif"),
            make_inspection(decision="authentic", score=0.96875, regions=(), nearest=(), pixel_size_um=None),
        ),
        Outcome(Path("line-7/b.tif"), error="line-7/b.tif: the file is cut off; copy it again"),
    ]
    with RecordWriter(tmp_path / "new" / "records.jsonl") as writer:
        for outcome in outcomes:
            writer.write(replace(outcome, judged=datetime(2026, 3, 31, 14, 5, 0, 125000, tzinfo=UTC)))
    assert (tmp_path / "new" / "records.jsonl").read_bytes() == GOLDEN.read_bytes()


def test_the_ruling_of_a_policy_stands_beside_the_decision_it_does_not_change(make_inspection):
    outcomes = [Outcome(Path("a.tif"), make_inspection(decision="authentic", score=0.5)), Outcome(Path("b"), error="b")]
    rulings = Policy(minimum_score=0.75, sha256="5e" * 32).rule_all(outcomes)
    reason = "Its score is 0.500, below the required 0.750."
    for keep in (to_record, partial(verdict, alpha=0.1, pixel_size_um=None)):
        low, failed = (keep(each.outcome, ruling=each) for each in rulings)
        assert low["decision"] == "authentic"
        assert low["policy"] == {"sha256": "5e" * 32, "action": "fail", "reasons": [reason]}
        assert failed["policy"] == {"sha256": "5e" * 32, "action": "error", "reasons": []}
        assert "policy" not in keep(outcomes[0], ruling=NO_POLICY.rule(outcomes[0]))


def test_a_page_is_named_where_one_was_chosen(make_inspection):
    outcomes = [Outcome(Path("stack.tif"), make_inspection(page=page)) for page in (None, 0, 1)]
    records = [json.loads(to_line(outcome)) for outcome in outcomes]
    assert [record.get("page", "absent") for record in records] == ["absent", 0, 1]
    kept = [verdict(outcome, alpha=0.1, pixel_size_um=None) for outcome in outcomes]
    assert [record.get("page", "absent") for record in kept] == ["absent", 0, 1]


def test_an_older_file_stays_until_the_first_line_of_the_new_run(make_inspection, tmp_path):
    path = tmp_path / "records.jsonl"
    outcome = Outcome(Path("a.tif"), make_inspection())
    path.write_text("of an earlier run\n")

    def interrupted_after(lines):
        with RecordWriter(path) as writer:
            for _ in range(lines):
                writer.write(outcome)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_after(0)
    assert path.read_text() == "of an earlier run\n"
    with pytest.raises(KeyboardInterrupt):
        interrupted_after(2)
    assert path.read_text() == 2 * (to_line(outcome) + "\n")
    with RecordWriter(path):
        pass
    assert path.read_text() == ""


def test_a_device_or_a_pipe_is_written_to(make_inspection, tmp_path):
    outcome = Outcome(Path("a.tif"), make_inspection())
    with RecordWriter(os.devnull) as writer:
        writer.write(outcome)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with RecordWriter(tmp_path / "pipe") as writer:
        writer.write(outcome)
    assert os.read(reader, 2**16).decode() == to_line(outcome) + "\n"
    os.close(reader)


def test_what_was_written_stays_when_the_run_is_cut_off(make_inspection, tmp_path):
    path = tmp_path / "records.jsonl"
    writer = RecordWriter(path)
    writer.write(Outcome(Path("a.tif"), make_inspection()))
    assert json.loads(path.read_text())["decision"] == "not authentic"
    writer.close()


def test_a_disk_that_fills_up_leaves_the_lines_before_and_names_the_file_once(make_inspection, tmp_path, room_for):
    path = tmp_path / "records.jsonl"
    outcome = Outcome(Path("a.tif"), make_inspection())
    line = to_line(outcome) + "\n"
    with RecordWriter(path) as writer:
        writer.write(outcome)
        with room_for(len(line) + 50), pytest.raises(OSError, match="File too large") as caught:
            writer.write(outcome)
    assert caught.value.filename == str(path)
    assert path.read_text() == line
    assert writer.lines == 1


def test_numbers_that_json_does_not_know_become_null(make_inspection):
    inspection = make_inspection(
        score=np.float32("nan"), p_values={"authentic": float("inf")}, contributions={"dense": np.float64(0.5)}
    )
    record = json.loads(to_line(Outcome(Path("a.tif"), inspection)), parse_constant=lambda name: 1 / 0)
    assert record["score"] is None
    assert record["p_values"] == {"authentic": None}
    assert record["contributions"] == {"dense": 0.5}


@given(st.text(min_size=1).filter(lambda name: "\0" not in name), st.text())
def test_every_outcome_is_one_line_of_ascii_whatever_the_file_is_called(name, error):
    line = to_line(Outcome(Path(name), error=error))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    record = json.loads(line)
    assert record["format"] == FORMAT
    assert set(record) == {"format", "version", "path", "judged", "error"}
    record["path"].encode("utf-8")
