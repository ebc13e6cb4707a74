"""docs/service.md: its tables and its example are true to the program."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fusion_diff.service.app import create_app
from fusion_diff.service.metrics import Metrics
from fusion_diff.service.routes.inspections import inspect
from fusion_diff.service.schemas.inspections import InspectionEntry, InspectionOut
from fusion_diff.service.settings import Settings


@pytest.fixture(scope="module")
def manual():
    return (Path(__file__).resolve().parents[2] / "docs" / "service.md").read_text(encoding="utf-8")


def test_every_setting_has_a_row_of_its_own_with_its_meaning(manual):
    rows = re.findall(r"^\| `FUSION_DIFF_(\w+)`.*? \| .+? \| (.+) \|$", manual, flags=re.MULTILINE)
    assert sorted(name.lower() for name, _ in rows) == sorted(Settings.model_fields)
    assert all(len(meaning) > 10 for _, meaning in rows)


def test_every_metric_is_explained_and_no_other(manual):
    counted = {each.name for each in Metrics().registry.collect()}
    told = set(re.findall(r"`(fusion_diff_\w+?)(?:_total)?(?:\{\w+\})?`", manual))
    assert told == counted


def test_the_proxy_waits_as_long_as_a_full_queue_takes(manual):
    (waits,) = re.findall(r"proxy_read_timeout (\d+)s;", manual)
    (each,) = re.findall(r"some (\d+)\s+seconds on two cores", manual)
    assert int(waits) >= Settings().queue_length * int(each)


def test_the_example_has_the_fields_of_an_answer(manual):
    (shown,) = re.findall(r"```json\n(.*?)```", manual, flags=re.DOTALL)
    for entry in json.loads(shown)["results"]:
        assert set(entry) == set(InspectionEntry.model_fields)
        assert set(entry["inspection"] or {}) <= set(InspectionOut.model_fields)


def test_the_fields_of_a_request_are_those_that_it_takes(manual):
    told = re.findall(r"^\| `([a-z_]+)` \| .* \| .* \|$", manual, flags=re.MULTILINE)
    assert set(told) - {"read", "inspect", "enrol", "admin"} <= set(inspect.__annotations__)
    assert {"alpha", "pixel_size_um", "model"} <= set(told)


def test_the_table_of_the_api_has_every_operation_and_no_other(manual):
    paths = create_app(Settings(data=Path("unused"), insecure=True)).openapi()["paths"]
    there = {(method.upper(), re.sub(r"\{\w+\}", "{id}", path)) for path, each in paths.items() for method in each}
    told = set()
    (table,) = re.findall(r"\| what \| where \| scope \|\n(.*?)\n\n", manual, flags=re.DOTALL)
    for where in re.findall(r"^\| .+ \| (`.+`) \| .+ \|$", table, flags=re.MULTILINE):
        for methods, ends in re.findall(r"((?:`?[A-Z]+[`, ]+)*)((?:`?/[^`]+`[,; ]*)+)", where):
            stem = ""
            for end in re.findall(r"/[^`]+", ends):
                if end.endswith("…"):
                    told |= {(method, path) for method, path in there if path.startswith(end.removesuffix("…"))}
                    continue
                if end.startswith("/v1/"):
                    stem = "/".join(end.split("/")[:3])
                for method in re.findall(r"[A-Z]+", methods):
                    whole = [path for _, path in there if path.startswith(stem) and path.endswith(end)]
                    told |= {(method, path) for path in whole or [end]}
    assert told == there
