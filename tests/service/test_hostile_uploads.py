"""What strangers send: it never crashes the service, and every refusal is a problem that says what is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion_diff.references import MAX_REFERENCES

PROBLEM = {"type", "title", "status", "detail", "request_id"}


def png_of(width, height):
    """A PNG whose header claims a size that its few bytes cannot hold."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def tiff_of(pixels):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels)
    return buffer.getvalue()


def gif():
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "GIF")
    return buffer.getvalue()


HOSTILE = {
    "a bomb": png_of(2**31 - 1, 2**31 - 1),
    "a smaller bomb": png_of(30_000, 30_000),
    "no pixels": png_of(0, 0),
    "text": b"<script>alert(1)</script>",
    "a pickle": pickle.dumps(print),
    "a GIF": gif(),
    "a ZIP": b"PK\x03\x04" + bytes(100),
    "a TIFF's first bytes": b"II*\x00\xff\xff\xff\xff",
    "a TIFF in a circle": b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00",
    "too small": tiff_of(np.arange(64, dtype=np.uint8).reshape(8, 8)),
    "one level": tiff_of(np.full((64, 64), 7, np.uint8)),
    "not finite": tiff_of(np.full((64, 64), np.nan, np.float32)),
    "five channels": tiff_of(np.zeros((64, 64, 5), np.uint8)),
}


def results(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def is_problem(answer, *statuses):
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert set(told) == PROBLEM
    assert told["status"] == answer.status_code
    assert answer.headers["x-request-id"] == told["request_id"]
    return told["detail"]


def test_files_that_are_no_micrographs_are_problems_and_the_one_among_them_is_inspected(client, micrograph):
    contents = [*HOSTILE.values(), micrograph("fine", 120)[:3000], b"", micrograph("fine", 120)]
    found = results(client.post("/v1/inspections", files=[("files", ("a.tif", each)) for each in contents]))
    assert len(found) == len(contents)
    *refused, inspected = found
    for each, name in zip(refused, [*HOSTILE, "truncated", "empty"], strict=True):
        assert each["inspection"] is None, name
        assert set(each["problem"]) == PROBLEM
        assert each["problem"]["status"] == 422, name
        assert "a.tif" in each["problem"]["detail"], name
        assert "upload-" not in each["problem"]["detail"], "paths of ours are told to nobody"
    assert inspected["inspection"]["decision"]
    last = [json.loads(line) for line in client.get("/v1/ledger").text.splitlines()][-len(contents) :]
    assert Counter(each.get("decision") is not None for each in last) == {False: len(refused), True: 1}
    assert hashlib.sha256(b"").hexdigest() in {each["file_sha256"] for each in last}, "also the empty one"


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "/etc/passwd", "C:\\Windows\\a.tif", "a\x00b.tif", "\u202egnp.tif", "<b>.tif", "é" * 300],
    ids=["up", "absolute", "drive", "zero byte", "reversed", "markup", "long"],
)
def test_names_are_shown_and_never_used_as_paths(client, name):
    found = results(client.post("/v1/inspections", files=[("files", (name, b"nothing"))]))
    assert found[0]["problem"]["status"] == 422
    assert found[0]["name"].isprintable()
    assert len(found[0]["name"]) <= 255
    folder = client.app.state.service.settings.data
    assert all(file.resolve().is_relative_to(folder.resolve()) for file in folder.rglob("*"))


def test_the_name_of_an_inspected_file_may_be_anything(client, micrograph):
    name = "../\u202e<img src=x onerror=alert(1)>.tif"
    found = results(client.post("/v1/inspections", files=[("files", (name, micrograph("fine", 121)))]))
    it = found[0]["inspection"]
    assert it["name"] == "../\\u202e<img src=x onerror=alert(1)>.tif"
    assert "<img src=x" not in client.get(f"/v1/inspections/{it['id']}/report.html").text


def test_too_many_files_are_refused_as_a_whole(client):
    many = [("files", (f"{index}.tif", b"x")) for index in range(client.app.state.service.settings.max_files + 1)]
    told = is_problem(client.post("/v1/inspections", files=many), 413)
    assert told == "Too many files. Maximum number of files is 256; send them in several requests"
    fields = {f"field{index}": "x" for index in range(MAX_REFERENCES + 100)}
    is_problem(client.post("/v1/inspections", files=many[:1], data=fields), 400)


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"files": [("other", ("a.tif", b"x"))]},
        {"data": {"files": "no file"}},
        {"content": b"--x\r\nnot multipart", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        {"json": {"files": "a.tif"}},
        {"files": [("files", ("a.tif", b"x"))], "data": {"alpha": "2"}},
        {"files": [("files", ("a.tif", b"x"))], "data": {"alpha": "nan"}},
        {"files": [("files", ("a.tif", b"x"))], "data": {"alpha": "1e-320"}},
        {"files": [("files", ("a.tif", b"x"))], "data": {"pixel_size_um": "-1"}},
        {"files": [("files", ("a.tif", b"x"))], "data": {"pixel_size_um": "1e300"}},
        {"files": [("files", ("a.tif", b"x"))], "data": {"model": "../../model"}},
        {"files": [("files", ("a.tif", b"x"))], "headers": {"x-deadline-ms": "soon"}},
    ],
)
def test_requests_that_are_malformed_are_problems_with_a_cure(client, request_):
    is_problem(client.post("/v1/inspections", **request_), 400, 422)


def test_a_file_or_a_request_of_more_bytes_than_are_taken_is_refused(serve, micrograph):
    with serve(max_upload_bytes=20_000, max_request_bytes=100_000) as client:
        small, large = micrograph("fine", 122), bytes(30_000)
        files = [("files", ("small.tif", small)), ("files", ("large.tif", large))]
        first, second = results(client.post("/v1/inspections", files=files))
        assert first["inspection"]
        assert second["problem"]["status"] == 413
        assert "large.tif" in second["problem"]["detail"]
        is_problem(client.post("/v1/inspections", files=[("files", ("huge.tif", bytes(200_000)))]), 413)

        def endless():
            yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.tif"\r\n\r\n'
            for _ in range(1000):
                yield bytes(1000)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        is_problem(client.post("/v1/inspections", content=endless(), headers=headers), 413)
        assert list(client.app.state.service.settings.incoming.iterdir()) == []


def test_a_micrograph_of_more_pixels_than_are_taken_is_refused(serve, micrograph):
    with serve(max_pixels=64 * 64) as client:
        files = [("files", ("a.tif", micrograph("fine", 123))), ("files", ("b.tif", micrograph("fine", 123, 65)))]
        first, second = results(client.post("/v1/inspections", files=files))
        assert first["inspection"]
        assert "b.tif" in second["problem"]["detail"]


def test_references_that_are_none_are_problems(client, micrograph):
    body = {"name": "hostile", "authentic": "fine"}
    made = client.post("/v1/reference-sets", json=body).json()["id"]
    assert "is taken" in is_problem(client.post("/v1/reference-sets", json=body), 409)
    at = f"/v1/reference-sets/{made}"
    files = [("files", ("a.tif", each)) for each in HOSTILE.values()]
    refused = client.post(f"{at}/images", files=files, data={"label": "crack"}).json()["results"]
    assert all(each["problem"]["status"] == 422 for each in refused)
    marked = {"files": ("a.tif", micrograph("coarse", 124)), "mark": ("m.png", b"nothing")}
    told = client.post(f"{at}/images", files=marked, data={"label": "crack"}).json()["results"][0]
    assert "the mark" in told["problem"]["detail"]
    assert "m.png: " in told["problem"]["detail"]
    small = io.BytesIO()
    Image.new("L", (40, 40), 255).save(small, "PNG")
    told = client.post(
        f"{at}/images", files=marked | {"mark": ("m.png", small.getvalue())}, data={"label": "crack"}
    ).json()["results"][0]
    assert "40x40" in told["problem"]["detail"]
    assert "the mark m.png is" in told["problem"]["detail"]
    is_problem(client.post(f"{at}/images", files=files, data={"label": "a\nb"}), 422)
    for refused in (client.post(f"{at}/enrol", json={"name": "none"}), client.post(f"{at}/audit")):
        assert "no authentic reference" in is_problem(refused, 409)
    is_problem(client.post(f"{at}/enrol", json={"name": "x", "unknown": 1}), 422)
    for body in (b'{"name": "\\ud800", "authentic": "x"}', b'{"name": "\\u0000", "authentic": "x"}', b"[" * 60_000):
        headers = {"content-type": "application/json"}
        is_problem(client.post("/v1/reference-sets", content=body, headers=headers), 400, 422)


@pytest.mark.parametrize(
    "path", ["nothing", "v1/nothing", "v1/inspections/..%2f..%2fetc%2fpasswd", f"v1/models/{'0' * 32}"]
)
def test_what_is_not_there_is_a_problem(client, path):
    is_problem(client.get(f"/{path}"), 404, 422)


@pytest.mark.parametrize(
    "query",
    [
        "since=0001-01-01T00:00:00%2B14:00",
        "until=soon",
        "limit=0",
        "limit=1e9",
        "decision=fake",
        "cursor=%00",
        "model_sha256=x",
    ],
)
def test_a_search_that_is_malformed_is_a_problem(client, query):
    is_problem(client.get(f"/v1/inspections?{query}"), 400, 422)


def test_a_moment_without_a_zone_is_in_utc(client, micrograph):
    made = client.post("/v1/inspections", files=[("files", ("a.tif", micrograph("fine", 125)))]).json()["results"][0]
    at = made["inspection"]["created"].removesuffix("Z")
    newest = client.get("/v1/inspections", params={"since": at}).json()["items"]
    assert [each["id"] for each in newest] == [made["inspection"]["id"]]
    assert made["inspection"]["id"] not in client.get("/v1/inspections", params={"until": at, "limit": 200}).text


def test_a_way_of_asking_that_is_not_offered_is_a_problem(client):
    is_problem(client.delete("/v1/inspections"), 405)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/inspections", "GET, POST"),
        (f"/v1/reference-sets/{'0' * 32}", "GET, DELETE"),
        (f"/v1/models/{'0' * 32}/retired", "PUT, DELETE"),
        ("/healthz", "GET, HEAD"),
        ("/sign-in", "GET, POST"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "PROPFIND"])
def test_all_ways_of_asking_that_are_offered_are_named(client, method, path, allowed):
    answer = client.request(method, path)
    is_problem(answer, 405)
    assert answer.headers["allow"] == allowed


def test_an_address_with_a_slash_too_many_leads_to_no_other_host(client):
    answer = client.get("/v1/models/", headers={"host": "127.0.0.1"}, follow_redirects=False)
    is_problem(answer, 404)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from([b"", b"II*\x00", b"MM\x00*", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"]),
    rest=st.binary(max_size=300),
    name=st.text(max_size=30),
)
def test_whatever_bytes_are_sent_there_is_an_answer(client, head, rest, name):
    answer = client.post("/v1/inspections", files=[("files", (name or "a", head + rest))])
    assert answer.status_code in (200, 400, 422)
    assert "results" in answer.json() or set(answer.json()) == PROBLEM
