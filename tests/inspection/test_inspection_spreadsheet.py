"""CSV for spreadsheets: a golden file, and hostile names."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fusion_diff.inspection.files import write_text
from fusion_diff.inspection.policy import NO_POLICY
from fusion_diff.inspection.run import Outcome
from fusion_diff.inspection.spreadsheet import COLUMNS, HEAD, line, to_csv
from fusion_diff.printable import printable
from fusion_diff.verdict.attacked import PURIFIED, WITHHELD

GOLDEN = Path(__file__).parents[1] / "golden"


def test_csv_is_that_of_the_golden_file(rulings, tmp_path):
    path = write_text(tmp_path / "new" / "verdicts.csv", to_csv(rulings))
    assert path.read_bytes() == (GOLDEN / "inspection.csv").read_bytes()


def test_authentic_references_alone_leave_a_p_value_empty(make_inspection):
    table = to_csv(NO_POLICY.rule_all([Outcome(Path("a.tif"), make_inspection(p_values={"authentic": 0.25}))]))
    (row,) = csv.DictReader(table.removeprefix(HEAD).splitlines())
    assert (row["p_authentic"], row["p_not_authentic"]) == ("0.25", "")


def test_every_outcome_is_a_line_whatever_its_name():
    names = ["=1+1", "\t=d", "a;=cmd|x", "\r\n@b", 'c",d']
    outcomes = [Outcome(Path(name), error=f"{name}: it is cut off") for name in names]
    rows = list(csv.DictReader(io.StringIO(to_csv(NO_POLICY.rule_all(outcomes)).removeprefix(HEAD), newline="")))
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [row["path"].replace("'", "") for row in rows] == [printable(name) for name in names]


@given(st.text(max_size=20))
def test_no_cell_begins_like_a_formula(text):
    (cell,) = next(csv.reader(io.StringIO(line([text]), newline="")))
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell.replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize("sign", "＝＋－＠")
def test_wide_signs_begin_no_formula_either(sign):
    (cell,) = next(csv.reader(io.StringIO(line([f"{sign}1;{sign}2"]), newline="")))
    assert cell == f"'{sign}1;'{sign}2"


@given(st.lists(st.text("ab ;|,\t\n'\"=+-@", max_size=12), min_size=1, max_size=3), st.sampled_from(",;|\t"))
@example(["x;=HYPERLINK(A1).png"], ";")
@example(['x|"=1'], "|")
def test_no_cell_is_a_formula_wherever_a_spreadsheet_divides_the_line(texts, delimiter):
    written = line(["0" * 32, *texts, 0.5])
    cells = [cell for row in csv.reader(io.StringIO(written, newline=""), delimiter=delimiter) for cell in row]
    assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@"))]


def test_the_reason_of_an_inconclusive_verdict_is_why_it_is_open(make_inspection):
    reasons = ("The strongest evidence is against it.", "Inconclusive: it fits both sides.")
    verdicts = [
        make_inspection(decision="inconclusive", reasons=reasons),
        make_inspection(decision="inconclusive", in_scope=False, reasons=("Out of scope: unlike any.", reasons[0])),
        make_inspection(reasons=reasons[:1]),
        make_inspection(reasons=()),
        make_inspection(decision="inconclusive", reasons=(*reasons, PURIFIED, "No sign of pixels tuned to mislead")),
        make_inspection(decision="inconclusive", reasons=(reasons[0], PURIFIED, "They may have been tuned", WITHHELD)),
    ]
    table = to_csv(NO_POLICY.rule_all([Outcome(Path("a.tif"), it) for it in verdicts]))
    told = [row["reason"] for row in csv.DictReader(table.removeprefix(HEAD).splitlines())]
    assert told == [reasons[1], "Out of scope: unlike any.", reasons[0], "", reasons[1], WITHHELD]
