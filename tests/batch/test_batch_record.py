"""The ledger of a batch: one line for every row, written before the row, also over interrupted runs."""

from __future__ import annotations

import json

import pytest

from fusion_diff.batch.engine import LocalEngine, Settings, failed
from fusion_diff.batch.items import Item
from fusion_diff.batch.parts import ParquetOutput
from fusion_diff.batch.run import run_batch
from fusion_diff.errors import ArgumentError, BatchError, TrustError
from fusion_diff.trust.ledger import Ledger
from fusion_diff.trust.ledger_check import check


@pytest.fixture
def recorded(darkness_model, tmp_path):
    """Runs a batch with the small model and a ledger; returns the lines of the ledger after the header."""
    file = tmp_path / "verdicts.jsonl"

    def run(source):
        with Ledger(file) as ledger:
            run_batch(str(source), tmp_path / "out", LocalEngine(darkness_model, Settings(record=True)), ledger=ledger)
        return lines(file)

    return run


def lines(file):
    return [json.loads(line) for line in file.read_text("ascii").splitlines()[1:]]


def told(entry):
    """What a line and a row both have."""
    return entry.get("file", entry.get("path")), entry["file_sha256"], entry.get("score"), entry.get("decision")


def test_every_row_has_its_line_and_a_resumed_run_adds_those_of_new_rows_alone(
    recorded, folder, tmp_path, read_rows, save_micrograph
):
    found = recorded(folder)
    rows = read_rows(tmp_path / "out")
    assert len(rows) == 11
    assert [told(entry) for entry in found] == [told(row) for row in rows]
    assert {entry["model"]["sha256"] for entry in found} == {"ab" * 32}
    (bad,) = [entry["error"] for entry in found if "error" in entry]
    assert "broken.tif" in bad
    assert found[0]["settings"] == {"alpha": 0.1, "pixel_size_um": None}
    save_micrograph(folder / "later.tif", 0.9)
    again = recorded(folder)
    assert again[:-1] == found
    assert again[-1]["file"] == str(folder / "later.tif")
    assert check(tmp_path / "verdicts.jsonl").intact


@pytest.mark.parametrize("record", [True, False])
def test_a_ledger_and_entries_for_it_go_together(darkness_model, folder, tmp_path, record):
    engine = LocalEngine(darkness_model, Settings(record=record))
    with Ledger(tmp_path / "verdicts.jsonl") as ledger, pytest.raises(ArgumentError, match=f"record={record}"):
        run_batch(str(folder), tmp_path / "out", engine, ledger=None if record else ledger)
    assert not (tmp_path / "out").exists()


def test_what_comes_from_a_store_is_recorded_by_its_address(recorded, store, tmp_path, read_rows):
    found = recorded("failing://line")
    assert [told(entry) for entry in found] == [told(row) for row in read_rows(tmp_path / "out")]
    assert found[0]["file"].startswith("failing:")
    given_up = failed(Item("s3://bucket/a.tif"), Settings(record=True), {"sha256": "ab"}, "lost")
    assert (given_up.entry["file"], given_up.entry["error"]) == ("s3://bucket/a.tif", "lost")
    assert failed(Item("s3://bucket/a.tif"), Settings(), {}, "lost").entry is None


def test_a_micrograph_that_was_given_up_is_not_read_for_the_ledger(tmp_path, monkeypatch):
    (tmp_path / "a.tif").write_bytes(b"much")
    monkeypatch.setattr("fusion_diff.inspection.record.digest", lambda _: pytest.fail("it is read"))
    given_up = failed(Item(str(tmp_path / "a.tif")), Settings(record=True), {"sha256": "ab"}, "lost")
    assert told(given_up.entry) == (str(tmp_path / "a.tif"), None, None, None)


def test_a_run_that_is_stopped_between_ledger_and_rows_writes_both_once(
    recorded, folder, tmp_path, read_rows, monkeypatch
):
    write, stops = ParquetOutput._write_table, iter([KeyboardInterrupt()])

    def stopped(self, file, table):
        for stop in stops:
            raise stop
        write(self, file, table)

    monkeypatch.setattr(ParquetOutput, "_write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        recorded(folder)
    found = recorded(folder)
    assert [told(entry) for entry in found] == [told(row) for row in read_rows(tmp_path / "out")]


def test_rows_that_are_lost_after_their_lines_are_judged_again_and_both_judgements_stand(
    recorded, folder, tmp_path, read_rows, monkeypatch
):
    def full(*_):
        raise BatchError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ParquetOutput, "_write_table", full)
        with pytest.raises(BatchError, match="the disk is full; 0 rows are kept"):
            recorded(folder)
    assert read_rows(tmp_path / "out") == []
    found = recorded(folder)
    assert len(read_rows(tmp_path / "out")) == 11
    assert [told(entry) for entry in found[:11]] == [told(entry) for entry in found[11:]]


def test_no_row_is_written_that_the_ledger_lacks(folder, tmp_path, darkness_model, read_rows, monkeypatch):
    engine = LocalEngine(darkness_model, Settings(record=True))
    with Ledger(tmp_path / "verdicts.jsonl") as ledger:
        (tmp_path / "verdicts.jsonl").rename(tmp_path / "moved.jsonl")
        with pytest.raises(TrustError, match="moved or replaced during the run; start again; 0 rows are kept"):
            run_batch(str(folder), tmp_path / "out", engine, ledger=ledger)

    def full(*_):
        raise OSError(28, "No space left on device")

    with Ledger(tmp_path / "second.jsonl") as ledger:
        monkeypatch.setattr(ledger, "append", full)
        with pytest.raises(BatchError, match=r"second\.jsonl: the ledger cannot be written \(No space left"):
            run_batch(str(folder), tmp_path / "out", engine, ledger=ledger)
    assert read_rows(tmp_path / "out") == []
    assert not list((tmp_path / "out").glob("part-*"))
