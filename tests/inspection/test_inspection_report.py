from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion_diff.inspection import draw
from fusion_diff.inspection.policy import NO_POLICY, Policy
from fusion_diff.inspection.report import write_report
from fusion_diff.inspection.run import Outcome, Overruling
from fusion_diff.inspection.verdict_values import measures
from fusion_diff.inspection.wording import number
from fusion_diff.verdict.compared import Compared
from fusion_diff.verdict.reasons import OUT_OF_SCOPE
from fusion_diff.verdict.regions import MAX_REGIONS
from fusion_diff.verdict.result import NearestReference

HOSTILE = "<img src=x onerror=alert(1)>\"'{{7*7}}\u202egpj.tif"


class Page(HTMLParser):
    """Tags and text of an HTML page, as a browser parses it."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def outcomes(make_inspection):
    grey = np.arange(32 * 64).astype(np.uint8).reshape(32, 64)
    return [
        Outcome(Path("in/good.tif"), make_inspection(decision="authentic", score=0.97, regions=()), thumbnail=grey),
        Outcome(Path("in") / HOSTILE, make_inspection(), thumbnail=np.stack([grey] * 3, axis=2)),
        Outcome(Path("in/open.tif"), make_inspection(decision="inconclusive", score=0.4, pixel_size_um=None)),
        Outcome(Path("in/broken<b>.tif"), error="in/broken<b>.tif: cut off after 9 bytes; copy it again"),
    ]


def test_the_report_is_one_file_that_fetches_nothing(outcomes, tmp_path):
    path = write_report(outcomes, tmp_path / "new" / "report")
    assert path == tmp_path / "new" / "report" / "index.html"
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    page = Page(path)
    assert not page.all("link") + page.all("iframe") + page.all("object")
    for _, attrs in page.tags:
        assert not attrs.get("src") or attrs["src"].startswith("data:image/")
        assert not attrs.get("href") or attrs["href"].startswith("#")
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_an_overruling_stands_beside_what_the_model_said(make_inspection, tmp_path):
    when = datetime(2026, 3, 31, 14, 5, tzinfo=UTC)
    overruled = Overruling("not authentic", "Dr. <b>", when, "a crack <i>beside</i> the mark")
    good = make_inspection(decision="authentic", score=0.97, in_scope=False)
    page = Page(write_report([Outcome(Path("a.tif"), good, overruled=overruled)], tmp_path))
    assert "✗ not authentic overruled" in page.text.split("How to read")[0]
    told = "Overruled 2026-03-31 14:05 UTC by Dr. <b> : a crack <i>beside</i> the mark The model said"
    assert told in page.text
    assert "1 ✗ not authentic" in page.text, "counted as it was overruled"
    assert "<i>beside" not in page.source


def test_the_ruling_of_a_policy_stands_beside_each_decision_and_its_rules_are_told(outcomes, tmp_path):
    policy = Policy(minimum_score=0.98, sha256="5e" * 32)
    page = Page(write_report(outcomes, tmp_path, rulings=policy.rule_all(outcomes)))
    head, _, cards = page.text.partition("How to read")
    assert all(sentence in head for sentence in policy.explain())
    assert "5e" * 32 in page.source
    assert "1 ✓ authentic" in head
    assert "By the policy: 1 error, 3 fail" in head
    assert "✓ authentic fail 0.970" in head
    assert "Policy: fail . Its score is 0.970, below the required 0.980." in cards
    assert "policy" not in Page(write_report(outcomes, tmp_path, rulings=NO_POLICY.rule_all(outcomes))).text.lower()


def test_every_picture_can_be_decoded_and_has_words_for_those_who_do_not_see_it(outcomes, tmp_path):
    images = Page(write_report(outcomes, tmp_path)).all("img")
    assert len(images) == 3 + 3 + 2  # one micrograph has no thumbnail
    for image in images:
        Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))).load()
        assert len(image["alt"]) > 10


def test_hostile_names_stay_names(outcomes, tmp_path):
    page = Page(write_report(outcomes, tmp_path, title="<script>alert(2)</script></dl>"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "x" not in [image.get("src") for image in page.all("img")]
    assert "\u202e" not in page.source
    assert "<img src=x onerror=alert(1)>\"'{{7*7}}\\u202egpj.tif" in page.text
    assert "</dl>" in page.text
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_names_that_are_not_utf8_can_be_reported(outcomes, make_inspection, tmp_path):
    name = os.fsdecode(b"caf\xe9.tif")
    page = Page(write_report([Outcome(Path(name), make_inspection()), Outcome(Path(name), error=name)], tmp_path))
    assert page.text.count("caf\\udce9.tif") >= 3


def test_the_gravest_come_first_and_every_link_leads_somewhere(outcomes, tmp_path):
    page = Page(write_report(outcomes, tmp_path))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    classes = [article["class"] for article in page.all("article")]
    assert classes == ["card not-authentic", "card inconclusive", "card authentic"]


def test_headings_step_down_one_level_at_a_time(outcomes, tmp_path):
    levels = [int(tag[1]) for tag, _ in Page(write_report(outcomes, tmp_path)).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_decisions_are_told_in_words_and_signs_and_counted(outcomes, tmp_path):
    text = Page(write_report(outcomes, tmp_path)).text
    for words in ("1 ✓ authentic", "1 ✗ not authentic", "1 ? inconclusive", "1 ! could not be inspected"):
        assert words in text
    assert "in/broken<b>.tif: cut off after 9 bytes; copy it again" in text


def test_a_card_says_all_that_the_inspection_says(outcomes, tmp_path):
    page = Page(write_report(outcomes[1:2], tmp_path))
    for words in (
        "0.031 score: probability of being authentic at even prior odds",
        "One region of 100 µm² departs from the references.",
        "p(authentic) = 0.062: none of the 15 authentic references scored as low as this micrograph",
        "dense +2.5",
        "residual \u22120.50",
        "crack/b.tif crack 0.875",
        "Area, µm²",
        "1 100 16.0 8.00 3.00 2.50",
        "32.0 \u00d7 16.0 µm",
        "threshold 1.50",
        "log-odds",
        "0.25 s",
        "SEM",
    ):
        assert words in page.text
    titles = [code["title"] for code in page.all("code")]
    assert {"0f" * 32, "ab" * 32, "cd" * 32} == set(titles)
    assert "scale bar 5 µm" in " ".join(image["alt"] for image in page.all("img"))


def test_a_card_says_that_a_micrograph_is_out_of_scope(make_inspection, tmp_path):
    inspection = make_inspection(decision="inconclusive", in_scope=False, reasons=(OUT_OF_SCOPE,))
    page = Page(write_report([Outcome(Path("a.tif"), inspection)], tmp_path))
    assert OUT_OF_SCOPE in page.text
    assert page.text.count("? out of scope") == 2, "in the summary and on the card, in place of the decision"
    assert "1 ? inconclusive, 1 out of scope" in page.text
    assert "0.031 to be ignored: out of scope" in page.text
    assert "at even prior odds" not in page.text
    assert '<b class="unsure">0.031</b> <span class="soft">to be ignored' in page.source, "the words are not faded"
    assert [attrs["class"] for attrs in page.all("article")] == ["card inconclusive beyond"]


def test_the_report_says_what_it_compares_with(make_inspection, tmp_path):
    compared = Compared(
        "glaze & co",
        {"glaze & co": 10, "crack": 9},
        7,
        {"authentic": 10, "not authentic": 9},
        {"auroc": 0.875, "macro_f1": 0.75},
        19,
        0.24,
        0.3,
    )
    p_values = {"authentic": 1 / 11, "not authentic": 0.5}
    outcomes = [Outcome(Path("a.tif"), make_inspection(compared_with=compared, p_values=p_values))] * 2
    page = Page(write_report(outcomes, tmp_path))
    top = page.text.partition("Summary")[0]
    for words in (
        "Compared with Model line-7",
        "Authentic class glaze & co",
        "References 10 glaze & co , 9 crack , of 7 specimens",
        "Their pixel size 0.24 to 0.3 µm",
        "AUROC 0.875, macro-F1 0.750",
        "At most 10 % of authentic micrographs are expected to be called not authentic, and at most 10 % of the others "
        "authentic: on average over enrolments, for specimens like the references. Among decided verdicts the share of "
        "errors can be higher.",
    ):
        assert words in top
    assert "if exactly one of the two can be ruled out" in page.text
    assert "not bounded" not in page.text
    assert top.count("Authentic class") == 1
    assert "none of the 10 authentic references scored as low" in page.text


def test_doubts_about_the_references_stand_below_them_and_above_each_score(make_inspection, tmp_path):
    inspection = make_inspection()
    doubted = replace(inspection, compared_with=replace(inspection.compared_with, doubts=("they <mean> nothing",)))
    assert doubted.to_dict()["compared_with"]["doubts"] == ["they <mean> nothing"]
    assert "doubts" not in inspection.to_dict()["compared_with"]
    page = Page(write_report([Outcome(Path("a.tif"), doubted)], tmp_path))
    top, _, cards = page.text.partition("Summary")
    assert "Warning: they <mean> nothing." in top
    assert "Warning: they <mean> nothing. 0.03" in cards
    assert "Warning:" not in Page(write_report([Outcome(Path("a.tif"), inspection)], tmp_path)).text


def test_the_report_names_no_number_of_specimens_where_each_image_counts_as_one(make_inspection, tmp_path):
    page = Page(write_report([Outcome(Path("a.tif"), make_inspection())], tmp_path))
    assert "References 15 sound , 3 crack , each counted as a specimen" in page.text
    assert "18 specimens" not in page.text


def test_authentic_references_alone_bound_one_error_and_the_report_says_so(make_inspection, tmp_path):
    compared = Compared("sound", {"sound": 10}, 10, {"authentic": 10, "not authentic": 0})
    inspection = make_inspection(calibrated=False, p_values={"authentic": 0.5}, compared_with=compared)
    text = Page(write_report([Outcome(Path("a.tif"), inspection)], tmp_path)).text
    top, _, rest = text.partition("Summary")
    for part in (top, rest):
        assert "‘authentic’ means ‘not distinguishable from the references’" in part
        assert "how many others pass is not bounded" in part
    assert "At most 10 % of authentic micrographs are expected to be called not authentic." in top
    assert "of the others" not in top
    assert "exactly one of the two" not in text


def test_scores_that_are_not_calibrated_are_said_to_be_so(make_inspection, tmp_path):
    compared = Compared("sound", {"sound": 1, "crack": 1}, 2, {"authentic": 1, "not authentic": 1})
    inspection = make_inspection(decision="inconclusive", calibrated=False, p_values={}, compared_with=compared)
    text = Page(write_report([Outcome(Path("a.tif"), inspection)], tmp_path)).text
    assert "0.031 score: not calibrated, it only ranks" in text
    assert "calibrated probability" not in text
    assert "at even prior odds" not in text
    assert "scores are not calibrated, and nothing is decided" in text
    assert "no error rate is bounded, since nothing is decided" in text
    assert "at most 10 %" not in text
    assert "p-values" not in text.partition("Micrographs")[2]


def test_parts_and_offset_add_up_to_the_log_odds(make_inspection, tmp_path):
    text = Page(write_report([Outcome(Path("a.tif"), make_inspection(offset=0.25))], tmp_path)).text
    assert "dense +2.5 residual \u22120.50 offset, the same for all +0.25 total +2.2" in text


def test_notes_of_reading_are_told(make_inspection, tmp_path):
    note = "A data bar of 60 rows was cut off <at> the bottom."
    assert note in Page(write_report([Outcome(Path("a.tif"), make_inspection(notes=(note,)))], tmp_path)).text


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        (["/lots/a/1.png", "/lots/b/1.png"], ["a/1.png", "b/1.png"]),
        (["lots/a/1.png", "lots/1.png", "lots/a/b/1.png"], ["a/1.png", "1.png", "a/b/1.png"]),
        (["lots/ab/1.png", "lots/ac/1.png"], ["ab/1.png", "ac/1.png"]),
        (["lots/a/1.png", "lots/a/2.png"], ["1.png", "2.png"]),
        (["/lots/1.png", "lots/1.png"], ["/lots/1.png", "lots/1.png"]),
        (["a.tif"], ["a.tif"]),
    ],
)
def test_files_are_shown_below_the_folder_that_all_have_in_common(make_inspection, tmp_path, paths, shown):
    outcomes = [Outcome(Path(path), make_inspection()) for path in paths]
    page = write_report([*outcomes, Outcome(Path(paths[0]), error="cut off")], tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'<a href="#m\d+"><bdi>(.*?)</bdi>', page) == shown
    assert re.findall(r'<h3 id="t\d+">\d+\. <bdi>(.*?)</bdi>', page) == shown
    assert f"<bdi>{shown[0]}</bdi></td><td>cut off</td>" in page


def test_the_page_of_a_file_is_told_where_one_was_chosen(make_inspection, tmp_path):
    outcomes = [Outcome(Path("a.tif"), make_inspection(page=page)) for page in (None, 1)]
    assert Page(write_report(outcomes, tmp_path)).text.count("Page of the file") == 1


def test_similarities_have_a_heading_and_zero_no_sign(make_inspection, tmp_path):
    nearest = (NearestReference("b.tif", "crack", -0.0003), NearestReference("c.tif", "crack", -0.25))
    text = Page(write_report([Outcome(Path("a.tif"), make_inspection(nearest=nearest))], tmp_path)).text
    assert "Reference Class Similarity b.tif crack 0.000 c.tif crack \u22120.250" in text


def test_without_a_pixel_size_lengths_are_in_pixels(make_inspection, tmp_path):
    (region,) = make_inspection().regions
    region = replace(region, area_um2=None, centroid_x_um=None, centroid_y_um=None)
    inspection = make_inspection(pixel_size_um=None, regions=(region,), reasons=())
    page = Page(write_report([Outcome(Path("a.tif"), inspection)], tmp_path))
    assert "Area, px²" in page.text
    assert "1 400 32 16 3.00 2.50" in page.text
    assert "µm" not in page.text
    assert "scale bar 10 px" in " ".join(image["alt"] for image in page.all("img"))


def test_where_the_list_of_regions_is_full_there_may_be_more(make_inspection, tmp_path):
    (region,) = make_inspection().regions
    full, one_less = (make_inspection(regions=(region,) * count) for count in (MAX_REGIONS, MAX_REGIONS - 1))
    rows = Page(write_report([Outcome(Path("a.tif"), it) for it in (full, one_less)], tmp_path)).text
    summary = rows.partition("How to read")[0]
    assert f"≥ {MAX_REGIONS} 0.25 s" in summary
    assert f" {MAX_REGIONS - 1} 0.25 s" in summary


def test_weak_evidence_has_no_exponent_and_pixels_no_fraction(make_inspection):
    (region,) = make_inspection().regions
    weak = replace(region, area_um2=None, area_px=71, centroid_column=7.4, peak_evidence=0.000159, mean_evidence=-0.5)
    assert [number(value) for value in measures(weak)] == ["71", "7", "16", "0", "\u22120.500"]


def test_all_regions_are_opened_for_print(make_inspection, tmp_path):
    (region,) = make_inspection().regions
    page = Page(write_report([Outcome(Path("a.tif"), make_inspection(regions=(region,) * 11))], tmp_path))
    assert page.all("details")
    assert "beforeprint" in page.source.partition("<script>")[2]


@pytest.mark.parametrize("which", [slice(0, 0), slice(3, 4)])
def test_a_report_without_inspections_can_be_read(outcomes, tmp_path, which):
    page = Page(write_report(outcomes[which], tmp_path))
    assert "Summary" in page.text
    assert not page.all("article")


def test_a_report_that_fails_leaves_the_old_one_as_it_was(outcomes, tmp_path, monkeypatch):
    path = write_report(outcomes[:1], tmp_path)
    before = path.read_bytes()

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(draw, "heat_map", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(outcomes, tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["index.html"]


def test_the_report_says_why_nothing_was_decided_and_what_was_skipped(make_inspection, tmp_path):
    compared = Compared("sound", {"sound": 5, "crack": 5}, 10, {"authentic": 5, "not authentic": 5})
    open_ = [Outcome(Path("a.tif"), make_inspection(decision="inconclusive", compared_with=compared))]
    summary = Page(write_report(open_, tmp_path, notes=["1 file <is> skipped"])).text.partition("Summary")[2]
    assert "Nothing could be decided: alpha 0.1 needs 9 references on each side" in summary
    assert "Note: 1 file <is> skipped" in summary
    overruled = Overruling("not authentic", "Dr. B", datetime(2026, 3, 31, tzinfo=UTC), "a crack")
    for decided in (Outcome(Path("a.tif"), make_inspection()), replace(open_[0], overruled=overruled)):
        assert "could be decided" not in Page(write_report([decided], tmp_path)).text


def test_the_report_explains_the_kinds_of_evidence_that_it_shows_and_no_others(make_inspection, tmp_path):
    shown = make_inspection(contributions={"pooled": 0.5, "novelty": 0.25, "a head of one's own": 0.1})
    text = Page(write_report([Outcome(Path("a.tif"), shown)], tmp_path)).text
    assert "novelty , that parts of it are unlike the authentic references; pooled , its texture as a whole." in text
    assert "suspicion" not in text
