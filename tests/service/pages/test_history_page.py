"""The history: filters, pages, charts and the sheet."""

from __future__ import annotations

import csv
import io
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from fusion_diff.checkpoint import EMBEDDED, EMBEDDED_EDGE
from fusion_diff.fewshot.decision import probability
from fusion_diff.model import DiffusionModel
from fusion_diff.service.model_registry import described, enter
from fusion_diff.service.pages import history
from fusion_diff.service.pages.charts import HEIGHT, WIDTH, Scored, drift_chart, score_chart
from fusion_diff.service.pages.sheet import COLUMNS, lines
from fusion_diff.service.pages.trend import FALSE_ALARMS, FEWEST, Baseline
from fusion_diff.service.records import Filter
from fusion_diff.service.reference_level import Level, logit
from fusion_diff.service.tables import now

BAND = '<rect class="band" x='
"""A band in a chart; that of the legend has no place."""

scores = st.floats(0, 1)


@pytest.fixture(scope="module")
def filled(client, micrograph):
    """A service with ten inspections, one of them overruled and one with a name that a spreadsheet would run."""
    files = [
        (
            "files",
            (
                f"{'coarse' if seed % 5 == 4 else 'fine'} {seed}.tif",
                micrograph("coarse" if seed % 5 == 4 else "fine", 200 + seed),
            ),
        )
        for seed in range(9)
    ]
    files.append(("files", ("=1+1.tif", micrograph("fine", 300))))
    done = client.post("/v1/inspections", files=files, data={"alpha": "0.3"}).json()["results"]
    overruled = done[4]["inspection"]["id"]
    body = {"decision": "authentic", "reason": "@SUM(A1) is fine"}
    assert client.post(f"/v1/inspections/{overruled}/overrule", json=body).status_code == 200
    return client


def names(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return re.findall(r'href="/inspections/[0-9a-f]{32}"><bdi>([^<]*)</bdi>', answer.text)


def test_filters_find_what_they_say(filled):
    assert len(names(filled.get("/history"))) == 10
    assert names(filled.get("/history?name=COARSE")) == ["coarse 4.tif"]
    assert names(filled.get("/history?overruled=yes")) == ["coarse 4.tif"]
    assert len(names(filled.get("/history?overruled=no&name="))) == 9
    assert names(filled.get("/history?until=2020-01-01")) == []
    today = f"{now():%Y-%m-%d}"
    assert len(names(filled.get(f"/history?since={today}&until={today}&decision=&model="))) == 10
    assert len(names(filled.get("/history?until=9999-12-31"))) == 10, "the last day of the calendar"
    items = filled.get("/v1/inspections").json()["items"]
    assert len(items) == 10
    for decision in ("authentic", "not authentic", "inconclusive"):
        expected = [each["name"] for each in items if (each["overruled"] or each)["decision"] == decision]
        assert names(filled.get("/history", params={"decision": decision})) == expected


def test_pages_follow_one_another_and_keep_their_filters(filled, monkeypatch):
    monkeypatch.setattr(history, "ON_A_PAGE", 4)
    address, seen = "/history?overruled=no", []
    while address:
        answer = filled.get(address)
        seen += names(answer)
        following = re.search(r'rel="next" href="([^"]+)"', answer.text)
        address = following and following[1].replace("&amp;", "&")
        assert "overruled=no" in (address or "overruled=no")
    assert len(seen) == len(set(seen)) == 9


def test_the_sheet_has_every_inspection_found_and_no_formula(filled):
    answer = filled.get("/history/inspections.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="inspections.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert len(rows) == 10
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["name"] == "'=1+1.tif"
    assert [row["overruled_reason"] for row in rows if row["overruled_decision"]] == ["'@SUM(A1) is fine"]
    item = filled.get("/v1/inspections").json()["items"][0]
    assert float(rows[0]["score"]) == item["score"]
    assert all(rows[0][name] == item[name] for name in ("file_sha256", "model_sha256"))
    assert all(rows[0][name] == str(item[name]) for name in ("calibrated", "in_scope"))
    assert len(filled.get("/history/inspections.csv?name=coarse").text.splitlines()) == 2


def test_the_sheet_is_given_a_page_at_a_time(filled, monkeypatch):
    monkeypatch.setattr("fusion_diff.service.pages.sheet._AT_ONCE", 3)
    parts = list(lines(filled.app.state.service.database, Filter()))
    assert [part.count("\r\n") for part in parts] == [1, 3, 3, 3, 1]


def test_charts_show_the_scores_of_the_newest_model_with_limits_and_level(filled):
    answer = filled.get("/history/charts")
    assert answer.text.count("<figure") == 2
    assert answer.text.count('tabindex="-1"') >= 10
    assert "10 scores" in answer.text
    assert 'class="limit"' in answer.text
    assert answer.text.count(BAND) == 2, "the references of the model have a level"
    assert "2 scores" not in answer.text
    few = filled.get("/history/charts?name=coarse").text
    assert "1 score," in few
    assert "All scores of the model are averaged" in few
    drift = re.search(r'class="average" points="([^"]+)"', few)
    assert len(drift[1].split()) == 10, "an average of picked scores is none"
    assert "All scores of the model are averaged" not in answer.text


def test_a_level_is_that_of_the_cross_fitted_authentic_references(filled, enrolled_folder):
    verifier = DiffusionModel.from_pretrained(enrolled_folder).enrolment.verifier
    middle = [logit(probability(verifier.calibration.log_odds(fused))) for fused in verifier.inside]
    assert filled.app.state.service.shelf.default().level["middle"] == pytest.approx(np.median(middle))


def test_the_embedded_model_has_a_level_and_its_edge_version_has_none():
    for name, known in ((EMBEDDED, True), (EMBEDDED_EDGE, False)):
        assert (described(DiffusionModel.from_pretrained(name), name, name).level is not None) == known


def test_models_of_before_levels_were_recorded_have_none_until_a_process_starts_with_them(
    serve, database_url, micrograph, enrolled_folder
):
    with serve(database_url=database_url) as client:
        service = client.app.state.service
        row, _ = service.shelf.save(DiffusionModel.from_pretrained(enrolled_folder), "line 8")
        with service.database.write() as session:
            enter(session, row, None, default=False)
        for model in (service.shelf.default(), row):
            sent = {"files": ("a.tif", micrograph("fine", 200))}
            assert client.post("/v1/inspections", files=sent, data={"model": model.id}).status_code == 200
            assert BAND in client.get(f"/history/charts?model={model.sha256}").text
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE models DROP COLUMN level"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    with serve(database_url=database_url) as client:
        started = client.app.state.service.shelf.default()
        assert BAND in client.get(f"/history/charts?model={started.sha256}").text
        answer = client.get(f"/history/charts?model={row.sha256}")
    assert "1 score;" in answer.text
    assert BAND not in answer.text


def test_what_was_overruled_is_drawn_as_it_is_listed_with_a_mark_of_its_own(filled):
    points = re.findall(
        r'<g class="point ([a-z-]+)"><title>([^<]*)</title>(.*?)</g>', filled.get("/history/charts").text
    )
    marks = {kind: (title, drawn) for kind, title, drawn in points if "coarse 4.tif" in title}
    title, drawn = marks["authentic"]
    assert re.search(r"authentic \(overruled; the model said (not authentic|inconclusive)\)", title)
    assert 'class="ring"' in drawn
    assert sum('class="ring"' in drawn for _, _, drawn in points) == 1


def test_scores_out_of_scope_are_drawn_hollow_and_set_neither_limits_nor_drift(
    serve, database_url, micrograph, foreign
):
    files = [("files", (f"{seed}.tif", micrograph("fine", 200 + seed))) for seed in range(FEWEST)]
    with serve(database_url=database_url) as client:
        client.post("/v1/inspections", files=files, data={"alpha": "0.3"})
        before = client.get("/history/charts").text
        files = [("files", (f"stripes {place}.tif", foreign)) for place in range(2)]
        client.post("/v1/inspections", files=files, data={"alpha": "0.3"})
        after = client.get("/history/charts").text
        only = client.get("/history/charts?name=stripes").text
    average = re.compile(r'class="average" points="([^"]+)"')
    assert average.search(after)[1] == average.search(before)[1]
    assert after.count("Limits provisional (8 of 50 scores).") == 2
    assert "Left out: 2 scores out of scope." in after
    assert len(re.findall(r'<g class="point out-of-scope"><title>stripes [^<]*, out of scope, ', after)) == 2
    assert "0 scores" in only


def test_charts_of_nothing_are_nothing(filled):
    assert filled.get("/history/charts?name=nothing").text.strip() == ""


@given(scores)
def test_logits_are_finite_and_turn_with_the_score(score):
    assert abs(logit(score)) <= math.log(999) + 1e-9
    assert logit(score) == pytest.approx(-logit(1 - score), abs=1e-6)


def test_a_baseline_takes_some_scores_and_is_their_mean_and_moving_range():
    assert Baseline.of([0.0] * (FEWEST - 1)) is None
    found = Baseline.of([1.0, 2.0] * 5)
    assert found is not None
    assert found.mean == pytest.approx(1.5)
    assert found.deviation == pytest.approx(1 / 1.128), "the sample has 0.53, scores that alternate"
    assert found.count == 10
    low, high = found.limits
    assert (low + high) / 2 == pytest.approx(1.5)


@pytest.mark.parametrize("count", [8, 12, 20, 50])
def test_limits_keep_their_promise_however_few_scores_they_come_from(count):
    """Of series without any drift, no more than promised is beyond, and no limit is idle."""
    rng = np.random.default_rng(count)
    single, average, tried = 0, 0, 4000
    for _ in range(tried):
        values = rng.standard_normal(count + 30).tolist()
        found = Baseline.of(values[:count])
        low, high = found.limits
        single += not low <= values[-1] <= high
        average += len(values) - count - 1 in found.beyond(values[count:])
    most = 1.6 * FALSE_ALARMS  # three deviations of the count that is expected
    assert single / tried < most
    assert average / tried < most
    assert single + average > 0 or count == 8, "as few as eight may be alike by chance, so their limits are wide"


def test_images_of_one_specimen_in_a_row_raise_few_false_alarms():
    rng = np.random.default_rng(3)
    single, average, tried = 0, 0, 200
    for _ in range(tried):
        values = (np.repeat(rng.standard_normal(40), 5) + rng.standard_normal(200)).tolist()
        found = Baseline.of(values[:50])
        low, high = found.limits
        single += sum(not low <= value <= high for value in values[50:])
        average += len(found.beyond(values[50:]))
    assert single / tried / 150 < 0.01  # 0.02 with moving ranges alone
    assert average / tried / 150 < 0.03  # 0.12 as if scores were independent


def test_limits_of_many_scores_are_three_deviations():
    low, high = Baseline(0.0, 1.0, 100_000, 0.0).limits
    assert (low, high) == pytest.approx((-3, 3), abs=1e-3)


def test_the_moving_average_sees_a_lasting_shift_that_single_scores_hide():
    steady = [1.0, -1.0] * 25
    found = Baseline.of(steady)
    assert found.beyond(steady) == []
    shifted = [value - 2.5 for value in steady]
    low, high = found.limits
    assert all(low < value < high for value in shifted), "no single score is beyond its limits"
    assert found.beyond(steady + shifted), "their average is"
    assert min(found.beyond(steady + shifted)) >= len(steady)


def test_limits_are_provisional_until_the_baseline_is_full():
    for count, provisional in ((20, True), (50, False)):
        values = [0.6, 0.7] * (count // 2)
        scored = [Scored(f"{place:032x}", "a.tif", now(), value, "authentic") for place, value in enumerate(values)]
        baseline = Baseline.of([logit(value) for value in values])
        single, drift = (chart(scored, baseline, None).summary for chart in (score_chart, drift_chart))
        assert "no drift seen" in drift
        assert ("Limits provisional (20 of 50 scores)." in drift) == provisional
        assert ("Limits provisional" in single) == provisional


@given(st.lists(scores, min_size=1, max_size=300), st.booleans())
def test_charts_keep_every_mark_inside_whatever_the_scores(values, known):
    scored = [Scored(f"{place:032x}", "a.tif", now(), value, "authentic") for place, value in enumerate(values)]
    baseline = Baseline.of([logit(value) for value in values[:50]])
    level = Level(0.5, 1.0, 2.0) if known else None
    single, drift = score_chart(scored, baseline, level), drift_chart(scored, baseline, level)
    assert len(single.points) == min(200, len(values))
    assert (drift is None) == (len(values) < FEWEST)
    for chart in [single] + ([] if drift is None else [drift]):
        heights = [point.y for point in chart.points] + [height for height, _ in chart.ticks]
        heights += [] if chart.band is None else [chart.band.top, chart.band.top + chart.band.height]
        corners = " ".join([chart.line, *chart.limits]).split()
        heights += [float(corner.partition(",")[2]) for corner in corners]
        assert all(0 <= height <= HEIGHT for height in heights)
        assert all(0 <= point.x <= WIDTH for point in chart.points)
        assert chart.ticks
