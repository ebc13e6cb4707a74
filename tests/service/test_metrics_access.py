"""What watches over the service: it is told how that is also while the records do not answer, or hang."""

from __future__ import annotations

import asyncio
import json
import logging
import threading

import pytest
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from prometheus_client import generate_latest
from sqlalchemy.exc import OperationalError

from fusion_diff.service import keys, metrics_access
from fusion_diff.service.keys import ANYBODY
from fusion_diff.service.logs import JsonFormatter
from fusion_diff.service.metrics import Metrics
from fusion_diff.service.metrics_access import Watchers
from fusion_diff.service.middleware import LOGGED
from fusion_diff.service.problems import UnauthorizedError, UnavailableError
from fusion_diff.service.routes import health


def refuse():
    raise UnauthorizedError("revoked")


def fail():
    raise OperationalError("SELECT", {}, KeyError("down"))


def ask(watchers, authorization, records, seconds=60.0):
    # A portal, because this thread may have a loop of its own, a browser's.
    with start_blocking_portal() as portal, pytest.MonkeyPatch.context() as patient:
        patient.setattr(metrics_access, "PATIENCE_SECONDS", seconds)
        return portal.call(watchers.caller, authorization, records)


def test_a_key_is_known_for_a_while_when_the_records_do_not_answer():
    watchers, go = Watchers(), threading.Event()
    with pytest.raises(OperationalError):
        ask(watchers, "Bearer a", fail)
    with pytest.raises(UnavailableError):
        ask(watchers, "Bearer a", go.wait, 0)
    assert ask(watchers, "Bearer a", lambda: ANYBODY) is ANYBODY
    assert ask(watchers, "Bearer a", fail) is ANYBODY
    assert ask(watchers, "Bearer a", go.wait, 0) is ANYBODY, "they hang, which is the same"
    with pytest.raises(OperationalError):
        ask(watchers, "Bearer b", fail)
    go.set()


def test_one_key_is_remembered_once_however_its_header_is_written():
    watchers = Watchers()
    for authorization in ("Bearer a", "bearer  a", "BEARER a   "):
        ask(watchers, authorization, lambda: ANYBODY)
    assert len(watchers._known) == 1
    with pytest.raises(OperationalError):
        ask(watchers, "Bearer b", fail)


def test_a_key_that_was_revoked_is_not_known_any_more():
    watchers = Watchers()
    ask(watchers, "Bearer a", lambda: ANYBODY)
    with pytest.raises(UnauthorizedError):
        ask(watchers, "Bearer a", refuse)
    with pytest.raises(OperationalError):
        ask(watchers, "Bearer a", fail)


def test_who_came_with_a_session_is_not_taken_for_everyone_without_a_key():
    watchers = Watchers()
    assert ask(watchers, "", lambda: ANYBODY) is ANYBODY
    with pytest.raises(OperationalError):
        ask(watchers, "", fail)


def test_metrics_are_told_without_the_records_to_who_was_known(serve):
    with serve(insecure=False) as client:
        service = client.app.state.service
        with service.database.write() as session:
            known, other = (keys.new_key(session, "monitor", ["read"]) for _ in range(2))

        def metrics(key):
            return client.get("/metrics", headers={"Authorization": f"Bearer {key}"})

        assert "fusion_diff_database_up 1.0" in metrics(known).text
        service.database.close()
        file = service.settings.data / "records.db"
        kept = file.rename(file.with_suffix(".kept"))
        file.mkdir()
        try:
            assert "fusion_diff_database_up 0.0" in metrics(known).text
            assert metrics(other).status_code == 503
            assert client.get("/v1/models", headers={"Authorization": f"Bearer {known}"}).status_code == 503
        finally:
            file.rmdir()
            kept.rename(file)
        with service.database.write() as session:
            keys.revoke(session, known[4:16])
        assert metrics(known).status_code == 401
        assert "fusion_diff_database_up 1.0" in metrics(other).text


def test_the_process_answers_while_all_threads_wait_for_the_records(client):
    go, waiting = threading.Event(), threading.Semaphore(0)

    def wait():
        waiting.release()
        assert go.wait(60)

    async def hang():
        threads = int(to_thread.current_default_thread_limiter().total_tokens)
        return [asyncio.create_task(to_thread.run_sync(wait)) for _ in range(threads)]

    hanging = client.portal.call(hang)
    try:
        for _ in hanging:
            assert waiting.acquire(timeout=60)
        assert client.get("/healthz").json() == {"status": "ok"}
        assert "fusion_diff_database_up 1.0" in client.get("/metrics").text
    finally:
        go.set()
        client.portal.call(asyncio.wait, hanging)


def test_times_are_told_apart_up_to_those_of_a_full_queue():
    found = generate_latest(Metrics().registry).decode()
    for seconds in (60, 120, 300, 600, 1800):
        assert f'fusion_diff_inspection_seconds_bucket{{le="{seconds}.0"}} 0.0' in found


def test_words_that_are_no_methods_are_counted_as_one(client):
    for word in ("FROB1", "FROB2"):
        for path in ("/healthz", "/sign-in", "/static/main.js"):
            assert client.request(word, path).status_code == 405
    told = client.get("/metrics").text
    assert "FROB" not in told
    assert 'fusion_diff_request_seconds_count{method="other",route="/healthz",status="405"} 2.0' in told


def test_figures_are_written_out_in_a_thread_of_their_own(client, monkeypatch):
    threads = []

    def told(registry):
        threads.append(threading.current_thread())
        return generate_latest(registry)

    monkeypatch.setattr(health, "generate_latest", told)
    loop = client.portal.call(thread_of_the_loop)
    assert "fusion_diff_request_seconds" in client.get("/metrics").text
    assert threads != [loop]


async def thread_of_the_loop():
    """Return where the service answers."""
    return threading.current_thread()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_probe_may_ask_for_the_head_alone(client, path):
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_the_log_says_from_where_a_request_came_and_who_was_not_let_in(serve, caplog):
    with serve(insecure=False) as client, caplog.at_level(logging.INFO, logger="fusion_diff.service"):
        with client.app.state.service.database.write() as session:
            key = keys.new_key(session, "somebody", ["read"])
        client.get("/v1/models", headers={"Authorization": "Bearer wrong"})
        client.post("/sign-in", data={"key": "wrong"}, headers={"HX-Request": "true"})
        client.post("/sign-in", data={"key": key}, follow_redirects=False)
        told = [
            json.loads(JsonFormatter().format(each)) for each in caplog.records if each.name == "fusion_diff.service"
        ]
    assert [each["message"] for each in told] == ["request", "sign-in refused", "request", "request"]
    assert {each["peer"] for each in told} == {"testclient"}
    assert told[0]["status"] == 401
    assert told[1]["request_id"] == told[2]["request_id"]
    assert told[3]["caller"] == key[4:16]
    assert "wrong" not in json.dumps(told)


def test_a_path_is_logged_shortened_however_long_it_is(serve, caplog):
    with serve() as client, caplog.at_level(logging.INFO, logger="fusion_diff.service"):
        assert client.get("/v1/" + "n" * 5000).status_code == 404
    (told,) = [each for each in caplog.records if each.getMessage() == "request"]
    assert told.path == "/v1/" + "n" * (LOGGED - 4)
