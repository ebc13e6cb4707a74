"""Records on both databases: pages of history, filters, the ledger in the same transaction, and migrations."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select

from fusion_diff.errors import DependencyError, ServiceError
from fusion_diff.service import collecting, ledger, records
from fusion_diff.service.database import Database
from fusion_diff.service.problems import ConflictError, NotFoundError, RefusedError
from fusion_diff.service.records import Filter
from fusion_diff.service.tables import Base, Inspection, LedgerLine
from fusion_diff.trust.ledger_check import check

DECISIONS = ("authentic", "not authentic", "inconclusive")


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    with database.write() as session:
        ledger.start(session)
    yield database
    database.close()


def row(number=0, decision="authentic", name=None, model="ab", created=None):
    return Inspection(
        name=name or f"{number}.tif",
        sha256=f"{number:064x}",
        score=0.5,
        decision=decision,
        alpha=0.1,
        model_sha256=model * 32,
        references_sha256="cd" * 32,
        result={"model_name": "m", "regions": [{"top": number}], "nan": None},
        evidence_sha256="0" * 64,
        evidence_scale=0.125,
        thumbnail_sha256="0" * 64,
        by="tester",
        created=created or datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number),
    )


def add(database, rows):
    with database.write() as session:
        lines = ledger.append(session, [{"decision": each.decision, "file": each.name} for each in rows])
        for each, line in zip(rows, lines, strict=True):
            each.ledger_sequence = line.sequence
            session.add(each)
    return rows


def walk(database, wanted, limit):
    found, cursor = [], None
    while True:
        with database.read() as session:
            rows, cursor = records.page(session, wanted, cursor, limit)
        found += rows
        assert len(rows) <= limit
        if cursor is None:
            return found
        assert len(rows) == limit


def test_the_tables_are_what_the_migrations_make(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_processes_that_open_a_new_database_together_take_turns(database_url, at_once):
    opened, barrier = [], threading.Barrier(4)

    def open_one():
        barrier.wait()
        opened.append(Database(database_url))

    at_once(*[open_one] * 4)
    assert len(opened) == 4
    for each in opened:
        each.check()
        each.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(st.tuples(st.sampled_from(DECISIONS), st.sampled_from(("ab", "cd")), st.integers(0, 5)), max_size=25),
    limit=st.integers(1, 10),
    wanted=st.builds(
        Filter,
        decision=st.none() | st.sampled_from(DECISIONS),
        model_sha256=st.none() | st.just("ab" * 32),
        since=st.none() | st.just(datetime(2026, 1, 1, 2, tzinfo=UTC)),
        until=st.none() | st.just(datetime(2026, 1, 1, 4, tzinfo=UTC)),
        name=st.none() | st.just("LOT_1"),
    ),
)
def test_pages_give_everything_that_passes_once_and_newest_first(database, made, limit, wanted):
    with database.write() as session:
        session.execute(delete(Inspection))
    rows = [
        row(index, decision, f"lot_{hour % 2} {index}.tif", model, datetime(2026, 1, 1, hour, tzinfo=UTC))
        for index, (decision, model, hour) in enumerate(made)
    ]
    add(database, rows)
    expected = [
        each.name
        for each in reversed(rows)
        if (wanted.decision is None or each.decision == wanted.decision)
        and (wanted.model_sha256 is None or each.model_sha256 == wanted.model_sha256)
        and (wanted.since is None or each.created >= wanted.since)
        and (wanted.until is None or each.created < wanted.until)
        and (wanted.name is None or "lot_1" in each.name)
    ]
    assert [each.name for each in walk(database, wanted, limit)] == expected


def test_new_inspections_do_not_move_a_page(database):
    add(database, [row(number) for number in range(6)])
    with database.read() as session:
        first, cursor = records.page(session, Filter(), None, 3)
    add(database, [row(number) for number in range(6, 9)])
    with database.read() as session:
        second, cursor = records.page(session, Filter(), cursor, 3)
    assert [each.name for each in [*first, *second]] == [f"{number}.tif" for number in (5, 4, 3, 2, 1, 0)]
    assert cursor is None


@pytest.mark.parametrize("cursor", ["x", "é", "", "LTE", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "=" * 50])
def test_a_cursor_that_was_not_given_out_is_refused(database, cursor):
    with database.read() as session, pytest.raises(RefusedError, match="cursor"):
        records.page(session, Filter(), cursor, 3)


@pytest.mark.parametrize("name", ["%", "_", "\\", "'"])
def test_a_name_is_looked_for_as_it_is(database, name):
    add(database, [row(0, name=f"a{name}b.tif"), row(1, name="a.tif")])
    assert [each.name for each in walk(database, Filter(name=name), 5)] == [f"a{name}b.tif"]


def test_a_name_is_found_whatever_the_case_of_its_letters_on_sqlite(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")
    with database.write() as session:
        ledger.start(session)
    add(database, [row(0, name="ÖFEN Größe.tif"), row(1, name="a.tif")])
    for name in ("öfen", "Öfen GRÖ", "ÖFEN"):
        assert [each.name for each in walk(database, Filter(name=name), 5)] == ["ÖFEN Größe.tif"]
    database.close()


def test_what_is_kept_comes_back_as_it_was(database):
    made = add(database, [row(3)])[0]
    with database.read() as session:
        kept = records.get_inspection(session, made.id)
        assert (kept.created, kept.result, kept.score) == (made.created, made.result, 0.5)
        with pytest.raises(NotFoundError):
            records.get_inspection(session, "0" * 32)


def test_an_overruled_verdict_is_found_by_either_and_the_ledger_verifies(database, exported_ledger, tmp_path):
    first, second = add(database, [row(0), row(1)])
    with database.write() as session:
        records.overrule(session, first.id, "not authentic", "a  crack\nbeside the mark", "expert")
    with database.write() as session:
        records.overrule(session, first.id, "inconclusive", "or not", "another")
    assert [each.id for each in walk(database, Filter(decision="authentic"), 5)] == [second.id]
    assert [each.id for each in walk(database, Filter(decision="inconclusive"), 5)] == [first.id]
    assert [each.id for each in walk(database, Filter(overruled=True), 5)] == [first.id]
    assert [each.id for each in walk(database, Filter(overruled=False), 5)] == [second.id]
    head = exported_ledger(database, tmp_path / "verdicts.jsonl")
    report = check(tmp_path / "verdicts.jsonl", expect=head["hash"])
    assert report.intact
    assert report.note == ""
    assert report.decisions == {"authentic": 2, "overruled": 2}
    line = (tmp_path / "verdicts.jsonl").read_text().splitlines()[-1]
    assert '"was":"not authentic"' in line
    assert '"reason":"a crack beside the mark"' in (tmp_path / "verdicts.jsonl").read_text()


def test_the_model_s_own_decision_takes_an_overruling_back_and_the_ledger_keeps_both(
    database, exported_ledger, tmp_path
):
    it = add(database, [row(0)])[0]
    with database.write() as session, pytest.raises(ConflictError, match="nothing to overrule"):
        records.overrule(session, it.id, "authentic", "as the model says", "expert")
    for decision, reason in (("not authentic", "a crack"), ("authentic", "a scratch after all")):
        with database.write() as session:
            records.overrule(session, it.id, decision, reason, "expert")
    assert walk(database, Filter(overruled=True), 5) == []
    assert [each.id for each in walk(database, Filter(decision="authentic", overruled=False), 5)] == [it.id]
    with database.read() as session:
        kept = records.get_inspection(session, it.id)
    assert (kept.overruled_reason, kept.overruled_by, kept.overruled_at) == (None, None, None)
    assert [(each["decision"], each["reason"]) for each in kept.overrulings] == [
        ("not authentic", "a crack"),
        ("authentic", "a scratch after all"),
    ]
    exported_ledger(database, tmp_path / "verdicts.jsonl")
    line = (tmp_path / "verdicts.jsonl").read_text().splitlines()[-1]
    assert '"decision":"authentic"' in line
    assert '"was":"not authentic"' in line
    report = check(tmp_path / "verdicts.jsonl")
    assert report.intact
    assert report.decisions == {"authentic": 1, "overruled": 1, "withdrawn": 1}


def test_so_often_is_a_verdict_overruled_and_the_last_one_can_be_taken_back(database, monkeypatch):
    monkeypatch.setattr(records, "MAX_OVERRULINGS", 3)
    (it,) = add(database, [row()])
    with database.write() as session:
        for decision in ("not authentic", "inconclusive", "not authentic"):
            records.overrule(session, it.id, decision, "a crack", "expert")
        with pytest.raises(ConflictError, match="overruled 3 times"):
            records.overrule(session, it.id, "inconclusive", "a crack", "expert")
        assert records.overrule(session, it.id, "authentic", "none", "expert").overruled_decision is None
        with pytest.raises(ConflictError, match="overruled 3 times"):
            records.overrule(session, it.id, "not authentic", "a crack", "expert")


def test_whoever_overrules_at_the_same_moment_is_kept(database, at_once):
    it = add(database, [row(0)])[0]

    def overrule(by):
        with database.write() as session:
            records.overrule(session, it.id, "not authentic", "a crack", by)

    at_once(*(partial(overrule, f"expert {number}") for number in range(4)))
    with database.read() as session:
        kept = records.get_inspection(session, it.id).overrulings
    assert sorted(each["by"] for each in kept) == [f"expert {number}" for number in range(4)]


def test_a_line_that_is_altered_in_the_database_is_found(database, exported_ledger, tmp_path):
    add(database, [row(number) for number in range(3)])
    with database.write() as session:
        line = session.get_one(LedgerLine, 2)
        line.line = line.line.replace("authentic", "not authentic")
    exported_ledger(database, tmp_path / "verdicts.jsonl")
    assert [each.kind for each in check(tmp_path / "verdicts.jsonl").breaks] == ["altered"]


def test_the_row_and_its_line_are_written_together_or_not_at_all(database):
    def half():
        with database.write() as session:
            ledger.append(session, [{"decision": "authentic"}])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    with database.read() as session:
        assert ledger.head(session)["count"] == 1
        assert session.scalar(select(func.count()).select_from(LedgerLine)) == 1
    add(database, [row(0)])
    with database.read() as session:
        assert ledger.head(session)["count"] == 2


def test_writers_that_meet_make_one_chain(database, exported_ledger, tmp_path, at_once):
    def work(first):
        for number in range(5):
            add(database, [row(first + number)])

    at_once(*(partial(work, 10 * index) for index in range(4)))
    head = exported_ledger(database, tmp_path / "verdicts.jsonl")
    assert head["count"] == 21
    assert check(tmp_path / "verdicts.jsonl", expect=head["hash"]).intact
    sequences = [each.ledger_sequence for each in walk(database, Filter(), 100)]
    assert sequences == list(range(20, 0, -1)), "inspections are numbered as they are recorded"


def test_a_ledger_that_was_started_is_not_started_again(database):
    with database.write() as session:
        before = ledger.head(session)
        ledger.start(session)
        assert ledger.head(session) == before


def test_references_are_collected_once_each_under_names_of_their_own(database):
    with database.write() as session:
        made = collecting.new_set(session, "lot", "fine")
        first = collecting.add_image(session, made.id, name="a.tif", label="fine", group=None, sha256="1" * 64)
        second = collecting.add_image(session, made.id, name="a.tif", label="fine", group="A12", sha256="2" * 64)
    assert (first.name, first.group, second.name, second.group) == ("a.tif", "a.tif", "a.tif (2)", "A12")
    with pytest.raises(ConflictError, match=r"as a\.tif"), database.write() as session:
        collecting.add_image(session, made.id, name="b.tif", label="crack", group=None, sha256="1" * 64)
    with pytest.raises(ConflictError, match="is taken by another reference set"), database.write() as session:
        collecting.new_set(session, "lot", "fine")
    with database.write() as session:
        session.delete(collecting.get_image(session, made.id, first.id))
    with database.read() as session:
        assert [each.name for each in collecting.get_set(session, made.id).images] == ["a.tif (2)"]
    with database.write() as session:
        session.delete(collecting.get_set(session, made.id))
    with database.read() as session, pytest.raises(NotFoundError):
        collecting.get_image(session, made.id, second.id)


def test_images_of_one_name_that_are_added_at_the_same_moment_are_all_kept(database, at_once):
    with database.write() as session:
        made = collecting.new_set(session, "lot", "fine")

    def add_image(number):
        with database.write() as session:
            sha256 = str(number) * 64
            collecting.add_image(session, made.id, name="a.tif", label="fine", group=None, sha256=sha256)

    at_once(*(partial(add_image, number) for number in range(8)))
    with database.read() as session:
        kept = sorted(image.name for image in collecting.get_set(session, made.id).images)
    assert kept == sorted(["a.tif", *(f"a.tif ({number})" for number in range(2, 9))])


@pytest.mark.parametrize("url", ["nothing", "mysql://lab:hunter2@db/x", "postgresql://lab:hunter2@127.0.0.1:1/x"])
def test_a_database_that_cannot_be_opened_is_named_without_its_password(url):
    with pytest.raises((ServiceError, DependencyError)) as refused:
        Database(url)
    assert "hunter2" not in str(refused.value)


def test_a_folder_in_the_place_of_the_database_is_an_error(tmp_path):
    with pytest.raises(ServiceError, match="cannot be opened"):
        Database(f"sqlite:///{tmp_path}")
    assert list(tmp_path.iterdir()) == []
