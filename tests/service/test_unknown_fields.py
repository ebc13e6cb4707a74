"""Names in queries and forms that a route does not declare: they are refused, and never left out silently."""

from __future__ import annotations

import pytest

ZEROS = "0" * 32
FILES = [("files", ("a.tif", b"x"))]


def refused(answer):
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()["detail"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Alpha", "form.Alpha: unknown name (did you mean 'alpha'?)"),
        ("pixel_size", "form.pixel_size: unknown name (did you mean 'pixel_size_um'?)"),
        ("specimen", "form.specimen: unknown name; it takes alpha, files, model, pixel_size_um"),
    ],
)
def test_a_misspelt_form_field_is_refused_and_the_nearest_named(client, name, told):
    assert told in refused(client.post("/v1/inspections", files=FILES, data={name: "0.2"}))


def test_a_misspelt_field_beside_references_is_refused(client):
    made = client.post("/v1/reference-sets", json={"name": "declared", "authentic": "fine"}).json()["id"]
    data = {"label": "fine", "specimen": "A12", "pixel_size": "0.5"}
    told = refused(client.post(f"/v1/reference-sets/{made}/images", files=FILES, data=data))
    assert "form.specimen: unknown name" in told
    assert "(did you mean 'pixel_size_um'?)" in told
    assert client.get(f"/v1/reference-sets/{made}").json()["images"] == []


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/v1/inspections?decison=authentic", "query.decison: unknown name (did you mean 'decision'?)"),
        ("GET", f"/v1/jobs/{ZEROS}?wait=1", "query.wait: unknown name; it takes none"),
        ("GET", "/v1/models?retired=1", "it takes none"),
        ("GET", "/v1/ledger?trough=1", "(did you mean 'through'?)"),
        ("PUT", f"/v1/models/{ZEROS}/default?x=1", "it takes none"),
    ],
)
def test_a_misspelt_parameter_of_a_query_is_refused(client, method, path, told):
    assert told in refused(client.request(method, path))


def test_a_form_field_in_the_query_is_told_where_it_belongs(client):
    told = refused(client.post("/v1/inspections?alpha=0.3", files=FILES))
    assert told == "query.alpha: belongs into the form"


def test_who_may_not_ask_is_told_so_and_not_what_may_be_asked(guarded):
    for path in ("/v1/models?x=1", "/v1/ledger?x=1", f"/v1/jobs/{ZEROS}?x=1", "/v1/inspections?x=1"):
        assert guarded.get(path).status_code == 401, path


def test_pages_leave_out_what_links_add(client):
    assert client.get("/?utm_source=mail").status_code == 200
