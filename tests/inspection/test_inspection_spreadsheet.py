"""CSV for spreadsheets: a golden file, and hostile names."""

from __future__ import annotations

import csv
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.inspection.run import Outcome
from fusion_diff.inspection.spreadsheet import COLUMNS, to_csv, write_csv
from fusion_diff.printable import printable

GOLDEN = Path(__file__).parents[1] / "golden"


def test_csv_is_that_of_the_golden_file(rulings, tmp_path):
    path = write_csv([each.outcome for each in rulings], tmp_path / "new" / "verdicts.csv")
    assert path.read_bytes() == (GOLDEN / "inspection.csv").read_bytes()


def test_authentic_references_alone_leave_a_p_value_empty(make_inspection):
    table = to_csv([Outcome(Path("a.tif"), make_inspection(p_values={"authentic": 0.25}))])
    (row,) = csv.DictReader(table.splitlines())
    assert (row["p_authentic"], row["p_not_authentic"]) == ("0.25", "")


NAMES = st.text(min_size=1).filter(lambda name: "\0" not in name)


@given(st.lists(NAMES | st.sampled_from(["=1+1", "@a", "-b", "+c", "\t=d", "\r=e"])))
def test_every_name_is_one_cell_and_no_formula(names):
    outcomes = [Outcome(Path(name), error=f"{name}: it is cut off") for name in names]
    rows = list(csv.DictReader(to_csv(outcomes).splitlines(keepends=True)))
    assert all(tuple(row) == COLUMNS for row in rows)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row.values())
    assert [row["path"].removeprefix("'") for row in rows] == [printable(Path(n)).removeprefix("'") for n in names]
