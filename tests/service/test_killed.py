"""The service as a process: killed without warning in the middle of writes, and told to stop while it works."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from sqlalchemy import select

from fusion_diff.cli import STOPPED, main
from fusion_diff.service import inspection_steps
from fusion_diff.service.database import Database
from fusion_diff.service.settings import Settings
from fusion_diff.service.store import Store
from fusion_diff.service.tables import Inspection
from fusion_diff.trust.ledger_check import check

KILLS = int(os.environ.get("FUSION_DIFF_TEST_KILLS", "3"))
"""How often the service is killed; a benchmark does so more often."""


def serve(environment, words):
    """Run the command. A forked process has the environment of its server, not of the test."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be inherited as ignored
    sys.exit(main(words))


def serve_and_hang(environment, words):
    """Run the command with a model that never says anything."""
    inspection_steps.judge = lambda *_: time.sleep(3600)
    serve(environment, words)


@pytest.fixture(scope="module")
def processes():
    """Makes processes from one that has imported everything already, which takes longer than all that follows."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fusion_diff.model", "fusion_diff.service.app", "httpx2", "pytest", "uvicorn"])
    return context


@pytest.fixture
def started(processes, enrolled_folder, tmp_path, monkeypatch):
    """Runs the command in a process of its own, and gives the process and its address once it is ready."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    @contextlib.contextmanager
    def start(*more, target=serve, **environment):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["serve", "--insecure", "--port", str(port), "--data", str(tmp_path / "data"), *more]
        process = processes.Process(target=target, args=(environment, [*words, "--model", str(enrolled_folder)]))
        process.start()
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 120
            while True:
                assert process.is_alive()
                assert time.monotonic() < deadline
                with contextlib.suppress(httpx2.TransportError):
                    if httpx2.get(f"{address}/readyz").status_code == 200:
                        break
                time.sleep(0.05)
            yield process, address
        finally:
            process.kill()
            process.join()

    return start


def send_until_it_ends(address, contents, accepted):
    """Send micrographs one after the other, remembering each that was accepted."""
    with contextlib.suppress(httpx2.TransportError, StopIteration), httpx2.Client(timeout=60) as client:
        for index, content in enumerate(contents):
            answer = client.post(f"{address}/v1/inspections", files=[("files", (f"{index}.tif", content))])
            accepted.append(answer.json()["results"][0]["inspection"])


def test_a_service_that_is_killed_loses_nothing_that_it_accepted(
    started, database_url, micrograph, exported_ledger, tmp_path
):
    contents = [micrograph("fine", seed) for seed in range(200, 204)] * 1000
    accepted, chance = [], random.Random(0)
    for _ in range(KILLS):
        before = len(accepted)
        with started("--database-url", database_url) as (process, address):
            callers = [
                threading.Thread(target=send_until_it_ends, args=(address, contents, accepted)) for _ in range(3)
            ]
            for caller in callers:
                caller.start()
            while len(accepted) < before + 3:
                assert process.is_alive()
                time.sleep(0.005)
            time.sleep(chance.random() * 0.3)
            process.kill()
            for caller in callers:
                caller.join()

    database, store = Database(database_url), Store(Settings(data=tmp_path / "data").store)
    with database.read() as session:
        kept = {row.id: row for row in session.scalars(select(Inspection))}
    assert len(accepted) >= 3 * KILLS
    for each in accepted:
        row = kept[each["id"]]
        assert (row.sha256, row.score, row.ledger_sequence) == (
            each["file_sha256"],
            each["score"],
            each["ledger_sequence"],
        )
    for row in kept.values():
        assert all(store.get(sha256) for sha256 in (row.sha256, row.evidence_sha256, row.thumbnail_sha256))
    head = exported_ledger(database, tmp_path / "verdicts.jsonl")
    report = check(tmp_path / "verdicts.jsonl", expect=head["hash"])
    assert report.intact, report.breaks
    assert sum(report.decisions.values()) == len(kept)
    made = list((tmp_path / "data").rglob("*"))
    assert made
    assert [each for each in made if each.stat().st_mode & 0o077] == [], "all of it is for its user alone"
    database.close()


def test_a_service_that_is_told_to_stop_answers_what_it_accepted_first(started, micrograph):
    files = [("files", (f"{seed}.tif", micrograph("fine", seed))) for seed in range(210, 218)]
    with started() as (process, address), ThreadPoolExecutor(1) as pool:
        sent = pool.submit(httpx2.post, f"{address}/v1/inspections", files=files, timeout=60)
        with httpx2.Client() as client:
            while "fusion_diff_queue_depth 0.0" in client.get(f"{address}/metrics").text:
                assert not sent.done(), "too fast to be stopped in the middle"
        process.terminate()
        answer = sent.result(60)
        assert [each["problem"] for each in answer.json()["results"]] == [None] * len(files)
        process.join(60)
        assert process.exitcode == 0, "all was done"


def test_a_service_that_is_interrupted_ends_as_other_commands_do(started):
    with started() as (process, _):
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == STOPPED


def test_a_service_whose_model_hangs_does_not_outlive_the_time_to_stop(started, micrograph):
    """It ends by the signal then: the thread that computes would crash at the end of Python."""
    files = {"files": ("a.tif", micrograph("fine", 210))}
    hanging = started(target=serve_and_hang, FUSION_DIFF_DRAIN_SECONDS="0")
    with hanging as (process, address), ThreadPoolExecutor(1) as pool:
        sent = pool.submit(httpx2.post, f"{address}/v1/inspections", files=files, timeout=60)
        with httpx2.Client() as client:
            while "fusion_diff_queue_depth 0.0" in client.get(f"{address}/metrics").text:
                assert not sent.done()
        process.terminate()
        assert sent.result(60).status_code == 503
        process.join(60)
        assert process.exitcode == -signal.SIGTERM


def test_a_service_without_time_to_finish_says_of_each_file_what_became_of_it(
    started, micrograph, exported_ledger, tmp_path
):
    files = [("files", (f"{seed}.tif", micrograph("fine", seed))) for seed in range(210, 218)] * 10
    with started(FUSION_DIFF_DRAIN_SECONDS="0") as (process, address), ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(httpx2.post, f"{address}/v1/inspections", files=files, timeout=60) for _ in range(2)]
        with httpx2.Client() as client:
            while "fusion_diff_inspection_seconds_count 0.0" in client.get(f"{address}/metrics").text:
                assert not any(each.done() for each in sent), "too fast to be stopped in the middle"
        process.terminate()
        accepted = refused = 0
        for answer in (each.result(60) for each in sent):
            assert answer.headers["x-request-id"]
            if answer.status_code == 503:
                assert answer.headers["content-type"] == "application/problem+json"
                refused += len(files)
                continue
            results = answer.json()["results"]
            accepted += sum(each["inspection"] is not None for each in results)
            refused += sum(each["problem"]["status"] == 503 for each in results if each["problem"])
        process.join(60)
        assert process.exitcode == 0
    assert accepted > 0
    assert refused > 0
    assert accepted + refused == 2 * len(files)
    database = Database(Settings(data=tmp_path / "data").database)
    head = exported_ledger(database, tmp_path / "verdicts.jsonl")
    report = check(tmp_path / "verdicts.jsonl", expect=head["hash"])
    assert sum(report.decisions.values()) == accepted, "what is in the ledger was told to who asked"
    database.close()
