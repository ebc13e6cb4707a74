"""Errors as problems: every typed error has one, and no other error tells what it is."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import shutil
import sqlite3
import tempfile
from importlib.util import find_spec

import pytest
import torch
from prometheus_client import generate_latest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from fusion_diff import errors
from fusion_diff.micrograph import storage
from fusion_diff.service import ledger, problems
from fusion_diff.service.app import create_app
from fusion_diff.service.metrics import FAULTS, Metrics
from fusion_diff.service.settings import Settings
from fusion_diff.service.store import StoreError

TYPED = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FusionDiffError)]
SAID = [kind for kind in TYPED if kind is not errors.CheckpointError]
REFUSED = problems.RefusedError.__subclasses__()


@pytest.mark.parametrize("kind", [*SAID, *REFUSED], ids=lambda kind: kind.__name__)
def test_every_typed_error_is_a_problem_that_says_what_it_says(kind):
    told = problems.problem(kind("a.tif: is broken;\nmend it"), "r1")
    assert 400 <= told.status <= 504
    assert told.detail == "a.tif: is broken; mend it"
    assert told.type == f"urn:fusion-diff:problem:{kind.__name__.removesuffix('Error').lower()}"
    assert told.title
    assert told.request_id == "r1"


def test_every_kind_of_fault_is_counted_from_the_start():
    """A series that begins with its first event does not grow, and no alert on its growth comes."""
    faults = [
        *(kind("x") for kind in [*TYPED, StoreError]),
        KeyError("x"),
        MemoryError("x"),
        OSError(errno.ENOSPC, "x"),
        OperationalError("x", {}, KeyError("x")),
    ]
    told = [problems.problem(each) for each in faults]
    assert {each.type.rpartition(":")[2] for each in told if each.status >= 500} == set(FAULTS)
    found = generate_latest(Metrics().registry).decode()
    for kind in FAULTS:
        assert f'fusion_diff_faults_total{{kind="{kind}"}} 0.0' in found
    for decision in ("authentic", "not authentic", "inconclusive"):
        assert f'fusion_diff_decisions_total{{decision="{decision}"}} 0.0' in found
    for status in {kind.status for kind in REFUSED} | {each.status for each in told}:
        assert f'fusion_diff_refusals_total{{status="{status}"}} 0.0' in found


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError("secret"), 500),
        (MemoryError("secret"), 507),
        (torch.cuda.OutOfMemoryError("secret"), 507),
        (RuntimeError("secret: DefaultCPUAllocator: can't allocate memory"), 507),
        (OSError(errno.EACCES, "secret"), 500),
        (OSError(errno.ENOSPC, "secret"), 507),
        (errors.CheckpointError("/secret/model: altered"), 500),
        (OperationalError("secret", {}, KeyError("secret")), 503),
    ],
)
def test_other_errors_keep_to_themselves_what_they_are(error, status):
    told = problems.problem(error)
    assert told.status == status
    assert "secret" not in told.detail


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "the service's disk is full; free some space"),
        (errno.EDQUOT, "raise the quota, then try again"),
        (errno.EFBIG, "larger than its system allows; raise that limit (ulimit -f), then try again"),
    ],
)
def test_a_limit_on_files_or_users_is_no_full_disk(number, said):
    told = problems.problem(OSError(number, "secret"))
    assert (told.type, told.status) == ("urn:fusion-diff:problem:disk", 507)
    assert said in told.detail
    assert ("disk is full" in told.detail) == (number == errno.ENOSPC)


def test_natural_mistakes_are_told_without_words_of_python_or_patterns(client, micrograph):
    file = {"files": ("a.tif", micrograph("fine", 150))}

    def detail(answer):
        assert answer.headers["content-type"] == problems.MEDIA_TYPE
        return answer.json()["detail"]

    for without in ({"data": {"files": "a.tif"}}, {"files": {"files": (None, "a.tif")}}):
        assert detail(client.post("/v1/inspections", **without)) == (
            "body.files.0: is no file; send it as curl -F files=@FILE does"
        )
    for field, value, said in (
        ("alpha", "0,1", "body.alpha: is no number; write it like 0.1"),
        ("model", "line-7", "body.model: is no id; those in lists and answers have 32 digits, from 0 to f"),
    ):
        assert detail(client.post("/v1/inspections", files=file, data={field: value})) == said
    assert detail(client.post("/v1/reference-sets", json={"names": "line 7", "authentic": "sound"})) == (
        "body.name: is missing; body.names: unknown name; /openapi.json lists those that this takes"
    )
    assert detail(client.get("/v1/inspection")) == (
        "there is nothing at this address; /openapi.json lists those of the API"
    )


def test_a_database_without_room_is_a_full_disk(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("PRAGMA max_page_count=2")
        connection.execute("CREATE TABLE t (x)")
        with pytest.raises(sqlite3.OperationalError) as full:
            connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert problems.problem(OperationalError("secret", {}, full.value)).status == 507


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_takes_no_changes_is_not_ready_and_no_fault_of_the_program(serve, database_url, micrograph):
    """As after a failover to a standby, or when a provider guards a disk that is nearly full."""
    own = make_url(database_url)

    def change(setting):
        engine = create_engine(own.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {own.database} {setting}"))
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
            connection.execute(text(ended), {"name": own.database})
        engine.dispose()

    with serve(database_url=database_url) as client:
        assert client.get("/readyz").status_code == 200
        change("SET default_transaction_read_only = on")
        assert client.get("/readyz").status_code == 503
        answer = send(client, "a.tif", micrograph("fine", 150))
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:fusion-diff:problem:database")
        told = client.get("/metrics").text
        assert "fusion_diff_database_up 0.0" in told
        assert 'fusion_diff_faults_total{kind="database"} 1.0' in told
        change("RESET default_transaction_read_only")
        assert client.get("/readyz").status_code == 200
        assert "fusion_diff_database_up 1.0" in client.get("/metrics").text
        assert send(client, "a.tif", micrograph("fine", 150)).status_code == 200


def send(client, name, content):
    return client.post("/v1/inspections", files=[("files", (name, content))])


def is_logged(caplog, answer):
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    return record.request_id == answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_model_that_is_gone_fails_the_request_and_names_no_path(serve, enrolled_folder, micrograph, tmp_path, caplog):
    folder = shutil.copytree(enrolled_folder, tmp_path / "model")
    with serve(model=str(folder)) as client:
        service = client.app.state.service
        service.shelf._held.clear()
        shutil.rmtree(folder)
        answer = send(client, "a.tif", micrograph("fine", 150))
        assert answer.status_code == 500
        assert answer.headers["content-type"] == problems.MEDIA_TYPE
        assert str(tmp_path) not in answer.text
        assert is_logged(caplog, answer)
        assert 'fusion_diff_faults_total{kind="checkpoint"} 1.0' in client.get("/metrics").text
        broken = [("files", ("a.tif", micrograph("fine", 150))), ("files", ("b.tif", b"nothing"))]
        mixed = client.post("/v1/inspections", files=broken)
        assert [each["problem"]["status"] for each in mixed.json()["results"]] == [500, 422]
        with service.database.read() as session:
            assert ledger.head(session)["count"] == 2, "its beginning, and what is no micrograph"


@pytest.mark.parametrize("at", ["temporary", "incoming"])
def test_no_room_for_what_is_sent_is_a_fault_of_ours_and_not_of_the_request(
    serve, micrograph, tmp_path, caplog, monkeypatch, at
):
    with serve() as client:
        if at == "temporary":
            monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        else:
            shutil.rmtree(client.app.state.service.settings.incoming)
        answer = send(client, "a.tif", bytes(2**17))
        assert answer.status_code == 500
        assert answer.headers["content-type"] == problems.MEDIA_TYPE
        assert "look up the request id in the service's log" in answer.json()["detail"]
        assert is_logged(caplog, answer)
        assert 'fusion_diff_faults_total{kind="fault"} 1.0' in client.get("/metrics").text
        unready = client.get("/readyz")
        assert (unready.status_code, unready.json()["type"]) == (503, "urn:fusion-diff:problem:unavailable")


def test_no_room_to_decode_a_reference_is_a_full_disk_and_no_error_of_the_reference(
    client, micrograph, monkeypatch, no_room
):
    made = client.post("/v1/reference-sets", json={"name": "no room", "authentic": "fine"}).json()["id"]
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 1)
    no_room()
    at = f"/v1/reference-sets/{made}/images"
    answer = client.post(at, files=[("files", ("a.tif", micrograph("fine", 150)))], data={"label": "fine"})
    (entry,) = answer.json()["results"]
    assert entry["problem"]["type"] == "urn:fusion-diff:problem:disk"


def test_a_request_that_is_cut_off_when_the_time_to_stop_is_over_is_told_so(client):
    """The body is still on its way when the server gives up waiting."""
    sent = []

    async def ask():
        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        head = [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=x")]
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/inspections", "headers": head}
        scope |= {"query_string": b"", "root_path": "", "scheme": "http", "client": ("192.0.2.7", 1), "app": client.app}
        task = asyncio.create_task(client.app(scope, receive, send))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    client.portal.call(ask)
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert (start["status"], headers["content-type"]) == (503, problems.MEDIA_TYPE)
    assert json.loads(body["body"])["request_id"] == headers["x-request-id"]


def test_a_refusal_says_when_to_try_again_and_how_to_sign_in():
    assert problems.respond(problems.problem(problems.BusyError("x")), retry_after=0.2).headers["retry-after"] == "1"
    assert problems.respond(problems.problem(problems.UnauthorizedError("x"))).headers["www-authenticate"] == "Bearer"


@pytest.mark.skipif(find_spec("opentelemetry.sdk") is not None, reason="the telemetry extra is installed")
def test_telemetry_without_its_packages_names_what_to_install(tmp_path):
    with pytest.raises(errors.DependencyError, match="part of the extra 'telemetry'"):
        create_app(Settings(data=tmp_path, telemetry=True))
