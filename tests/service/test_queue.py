"""The queue: what it takes and refuses, in which order it works, and that it ends with nothing undone."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import math
import os
import sqlite3
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from fusion_diff.errors import CheckpointError, MicrographError, ServiceError
from fusion_diff.micrograph import source, storage
from fusion_diff.service import inspection_steps, ledger
from fusion_diff.service.database import Database
from fusion_diff.service.inspection_steps import Task
from fusion_diff.service.metrics import Metrics
from fusion_diff.service.problems import BusyError, LateError, UnavailableError
from fusion_diff.service.queue import LAST_SECONDS, Queue
from fusion_diff.service.settings import Settings
from fusion_diff.service.store import Store
from fusion_diff.service.tables import Inspection
from fusion_diff.service.uploads import Upload


class Held:
    """Judges as another model does, but not before it is let go."""

    def __init__(self, model):
        self.name, self.sha256, self.enrolment = model.name, model.sha256, model.enrolment
        self.model, self.begun, self.go, self.seen = model, threading.Semaphore(0), threading.Event(), []

    def inspect(self, micrograph, *, alpha):
        self.begun.release()
        assert self.go.wait(60)
        self.seen.append(micrograph.sha256)
        return self.model.inspect(micrograph, alpha=alpha)


def until(true):
    """Wait until something is true."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def held(darkness_model):
    return Held(darkness_model)


@pytest.fixture
def database(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")
    with database.write() as session:
        ledger.start(session)
    yield database
    database.close()


@pytest.fixture
def make_queue(tmp_path, held, database):
    made = []

    def make(**settings):
        given = Settings(data=tmp_path, **settings)
        made.append(Queue(given, lambda _: held, database, Store(str(tmp_path / "blobs")), Metrics()))
        return made[-1]

    yield make
    held.go.set()
    for queue in made:
        queue.stop(60)
        queue.close()


@pytest.fixture
def make_task(tmp_path, micrograph):
    def make(seed=0, content=None, deadline=None):
        content = micrograph("fine", seed) if content is None else content
        path = tmp_path / f"upload-{time.monotonic_ns()}"
        path.write_bytes(content)
        upload = Upload(path, f"{seed}.tif", hashlib.sha256(content).hexdigest())
        return Task(upload, "model", 0.1, None, "tester", deadline=deadline)

    return make


def count(database):
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Inspection))


def test_what_is_taken_is_judged_in_order_and_recorded(make_queue, make_task, held, database, monkeypatch):
    monkeypatch.setattr("fusion_diff.service.queue.COMMITTED", 2)
    queue = make_queue()
    tasks = [make_task(seed) for seed in range(5)]
    queue.submit(tasks[:2])
    queue.submit(tasks[2:])
    assert queue.depth == 5
    held.go.set()
    rows = [task.future.result(60) for task in tasks]
    assert [row.name for row in rows] == [f"{seed}.tif" for seed in range(5)]
    assert held.seen == [task.upload.sha256 for task in tasks]
    assert [row.ledger_sequence for row in rows] == [1, 2, 3, 4, 5]
    assert count(database) == 5
    assert not any(task.upload.path.exists() for task in tasks)


@pytest.mark.parametrize(("limit", "value"), [("READ_AHEAD", 2), ("READ_AHEAD_BYTES", 64 * 64 * 2 + 1)])
def test_files_are_read_ahead_while_the_model_computes_but_no_more_than_a_few(
    make_queue, make_task, held, monkeypatch, limit, value
):
    monkeypatch.setattr(f"fusion_diff.service.queue.{limit}", value)
    queue = make_queue()
    tasks = [make_task(0), make_task(1, b"nothing"), make_task(2), make_task(3), make_task(4), make_task(5, b"nothing")]
    queue.submit(tasks)
    with pytest.raises(MicrographError):
        tasks[1].future.result(60)  # read while the first is still being judged
    assert not tasks[0].future.done()
    assert not tasks[5].future.done(), "two wait for the model, and the next is not read before one is taken"
    held.go.set()
    with pytest.raises(MicrographError):
        tasks[5].future.result(60)


def test_a_full_queue_takes_all_of_a_request_or_nothing(make_queue, make_task, held):
    queue = make_queue(queue_length=3)
    first = [make_task(0), make_task(1)]
    queue.submit(first)
    with pytest.raises(BusyError, match="2 of at most 3 micrographs, and no room for 2 more") as refused:
        queue.submit([make_task(2), make_task(3)])
    assert refused.value.retry_after is not None
    third = make_task(4)
    queue.submit([third])
    assert queue.depth == 3
    held.go.set()
    assert third.future.result(60).name == "4.tif"
    [task.future.result(60) for task in first]


def test_what_cannot_be_judged_in_time_is_not_judged_at_all(make_queue, make_task, held, database):
    queue = make_queue()
    with pytest.raises(LateError):
        queue.submit([make_task(0, deadline=time.monotonic() - 1)])
    first, second = make_task(1), make_task(2, deadline=time.monotonic() + 0.05)
    queue.submit([first, second])
    assert held.begun.acquire(timeout=60)
    time.sleep(0.1)  # the second one's deadline passes while the first is judged
    held.go.set()
    first.future.result(60)
    with pytest.raises(LateError):
        second.future.result(60)
    assert held.seen == [first.upload.sha256]
    assert count(database) == 1
    assert not second.upload.path.exists()


def test_what_nobody_waits_for_any_more_is_not_judged_and_does_not_stay_in_memory(
    make_queue, make_task, held, monkeypatch
):
    read, levels = inspection_steps.read_task, []

    def watched(task, max_pixels):
        micrograph, thumbnail = read(task, max_pixels)
        levels.append(weakref.ref(micrograph.levels))
        return micrograph, thumbnail

    monkeypatch.setattr(inspection_steps, "read_task", watched)
    queue = make_queue()
    first, second = make_task(1), make_task(2)
    queue.submit([first, second])
    assert held.begun.acquire(timeout=60)
    until(lambda: len(levels) == 2)  # else the second would not even be read
    assert second.future.cancel()
    held.go.set()
    first.future.result(60)
    until(lambda: levels[1]() is None)  # and not only once the next file comes
    assert held.seen == [first.upload.sha256]
    queue.stop(60)
    queue.close()
    assert not second.upload.path.exists()


def test_what_was_cancelled_before_it_is_taken_does_not_block_the_queue(make_queue, make_task, held):
    queue, gone, task = make_queue(), make_task(1), make_task(2)
    assert gone.future.cancel()
    held.go.set()
    taking = threading.Thread(target=queue.submit, args=([gone, task],), daemon=True)
    taking.start()
    taking.join(60)
    assert not taking.is_alive()
    assert task.future.result(60).name == "2.tif"
    queue.stop(60)
    queue.close()
    assert queue.depth == 0


def test_a_cancelled_file_that_proves_to_be_no_image_is_removed_as_others_are(make_queue, make_task, held, monkeypatch):
    monkeypatch.setattr("fusion_diff.service.queue.READ_AHEAD", 1)
    queue = make_queue()
    tasks = [make_task(1), make_task(2), make_task(3, b"nothing")]
    queue.submit(tasks)
    assert held.begun.acquire(timeout=60)
    assert tasks[2].future.cancel(), "it is not read before the second is taken"
    held.go.set()
    queue.stop(60)
    queue.close()
    assert not any(task.upload.path.exists() for task in tasks)


def test_what_is_cancelled_while_it_is_read_is_no_fault(make_queue, make_task, held, database, caplog, monkeypatch):
    read = inspection_steps.read_task

    def cancelled(task, max_pixels):
        if task is gone:
            assert task.future.cancel()
            assert not task.upload.path.exists(), "its file is removed at once"
        return read(task, max_pixels)

    monkeypatch.setattr(inspection_steps, "read_task", cancelled)
    queue, gone, task = make_queue(), make_task(1), make_task(2)
    held.go.set()
    queue.submit([gone, task])
    assert task.future.result(60).name == "2.tif"
    assert "fault" not in caplog.messages
    assert count(database) == 1


def test_an_upload_that_is_altered_while_it_waits_is_a_fault_of_the_service(make_queue, make_task, database):
    queue, task = make_queue(), make_task()
    task.upload.path.write_bytes(make_task(1).upload.path.read_bytes())
    queue.submit([task])
    error = task.future.exception(60)
    assert isinstance(error, ServiceError)
    assert str(error).startswith(f"0.tif: its file {task.upload.sha256} was altered")
    with database.read() as session:
        assert ledger.head(session)["count"] == 1


def test_a_queue_whose_verdicts_cannot_be_recorded_is_stuck_until_they_are(make_queue, make_task, held, monkeypatch):
    queue, recording, go = make_queue(), threading.Event(), threading.Event()
    put_file = queue._store.put_file

    def hang(*what):
        recording.set()
        assert go.wait(60)
        put_file(*what)

    monkeypatch.setattr(queue._store, "put_file", hang)
    monkeypatch.setattr("fusion_diff.service.queue.STUCK_SECONDS", 0.05)
    held.go.set()
    task = make_task()
    queue.submit([task])
    assert recording.wait(60)
    time.sleep(0.1)
    assert queue.stuck
    go.set()
    task.future.result(60)
    queue.stop(60)
    queue.close()
    assert not queue.stuck


@pytest.mark.parametrize(("step", "name"), [("read_task", "reading a.tif"), ("judge", "judging a.tif")])
def test_a_micrograph_that_hangs_is_not_ready_and_if_that_is_hopeless_not_healthy(
    serve, micrograph, monkeypatch, caplog, step, name
):
    run, begun, go = getattr(inspection_steps, step), threading.Event(), threading.Event()

    def hang(*what):
        begun.set()
        assert go.wait(60)
        return run(*what)

    def statuses():
        return [client.get(path).status_code for path in ("/healthz", "/readyz")]

    monkeypatch.setattr(inspection_steps, step, hang)
    monkeypatch.setattr("fusion_diff.service.queue.SLOWER", 0)
    with serve() as client, ThreadPoolExecutor(1) as pool:
        for hanging, hopeless, expected in [(60, 10, [200, 200]), (0, math.inf, [200, 503]), (0, 0, [503, 503])]:
            begun.clear()
            go.clear()
            monkeypatch.setattr("fusion_diff.service.queue.HANGING_SECONDS", hanging + 1e-9)
            monkeypatch.setattr("fusion_diff.service.queue.HOPELESS", hopeless)
            sent = pool.submit(send, client, micrograph("fine", 150))
            assert begun.wait(60)
            try:
                assert statuses() == expected
            finally:
                go.set()
            assert sent.result().status_code == 200
            assert statuses() == [200, 200]
    assert f"not ready: {name} takes far too long" in caplog.messages


def test_stopping_finishes_what_was_taken_and_takes_no_more(make_queue, make_task, held, database):
    queue = make_queue()
    tasks = [make_task(seed) for seed in range(3)]
    queue.submit(tasks)
    queue.stop(60)
    assert not queue.running
    with pytest.raises(UnavailableError):
        queue.submit([make_task(9)])
    held.go.set()
    queue.close()
    assert all(task.future.done() for task in tasks)
    assert count(database) == 3


def test_stopping_in_a_hurry_refuses_what_was_not_begun(make_queue, make_task, held, database):
    queue = make_queue()
    tasks = [make_task(seed) for seed in range(3)]
    queue.submit(tasks)
    assert held.begun.acquire(timeout=60)
    queue.stop(0)
    queue.stop(60)  # changes nothing
    held.go.set()
    queue.close()
    assert tasks[0].future.result(0).name == "0.tif"
    for task in tasks[1:]:
        with pytest.raises(UnavailableError):
            task.future.result(0)
    assert count(database) == 1


def test_what_takes_longer_to_judge_than_there_is_time_is_refused_and_never_recorded(
    make_queue, make_task, held, database
):
    queue = make_queue()
    tasks = [make_task(seed) for seed in range(3)]
    queue.submit(tasks)
    assert held.begun.acquire(timeout=60)
    queue.stop(-LAST_SECONDS)  # all of the time is over
    for task in tasks:
        with pytest.raises(UnavailableError):
            task.future.result(60)
    held.go.set()
    for thread in queue._threads:
        thread.join()
    assert held.seen == [tasks[0].upload.sha256]
    assert count(database) == 0
    assert not any(task.upload.path.exists() for task in tasks)


def test_a_fault_in_the_model_ends_one_inspection_and_not_the_queue(make_queue, make_task, held):
    queue = make_queue()
    held.go.set()
    sound = held.model
    held.model = None  # an AttributeError, which nobody raises on purpose
    broken = make_task(0)
    queue.submit([broken])
    with pytest.raises(AttributeError):
        broken.future.result(60)
    held.model = sound
    whole = make_task(1)
    queue.submit([whole])
    assert whole.future.result(60).name == "1.tif"


def test_one_that_cannot_be_recorded_does_not_take_the_others_with_it(make_queue, make_task, held, database):
    queue = make_queue()
    tasks = [make_task(seed) for seed in range(3)]
    tasks[1] = Task(**vars(tasks[1]) | {"by": None})  # the database refuses a row that names nobody
    queue.submit(tasks)
    held.go.set()
    assert [tasks[0].future.result(60).name, tasks[2].future.result(60).name] == ["0.tif", "2.tif"]
    assert tasks[1].future.exception(60) is not None
    assert count(database) == 2


def test_a_commit_whose_acknowledgement_is_lost_is_not_repeated(make_queue, make_task, held, database, monkeypatch):
    queue, commit, commits = make_queue(), database.engine.dialect.do_commit, itertools.count()

    def cut(connection):
        commit(connection)
        if next(commits) in (1, 3):
            raise sqlite3.OperationalError("server closed the connection unexpectedly")

    tasks = [make_task(0), make_task(1, b"nothing"), make_task(2), make_task(3)]
    monkeypatch.setattr(database.engine.dialect, "do_commit", cut)
    held.go.set()
    with database.write() as session:  # the first commit, before which nothing can be recorded
        session.connection()
        queue.submit(tasks[:1])
        until(lambda: "recording" in queue._running)
        queue.submit(tasks[1:])
        until(lambda: queue._finished.qsize() == len(tasks) - 1)
    outcomes = [task.future.exception(60) or task.future.result() for task in tasks]
    assert isinstance(outcomes.pop(1), MicrographError)
    assert [row.name for row in outcomes] == ["0.tif", "2.tif", "3.tif"]
    with database.read() as session:
        kept = session.scalars(select(Inspection)).all()
        assert ledger.head(session)["count"] == 5, "the beginning, and a line for each"
    assert {row.id: row.ledger_sequence for row in kept} == {row.id: row.ledger_sequence for row in outcomes}
    assert queue._metrics.faults.labels("database")._value.get() == 2, "both are told"


def test_errors_are_recorded_too(make_queue, make_task, database):
    queue = make_queue()
    broken = make_task(0, b"nothing")
    queue.submit([broken])
    with pytest.raises(MicrographError, match=r"^0\.tif: "):
        broken.future.result(60)
    with database.read() as session:
        head = ledger.head(session)
    line = b"".join(ledger.lines(database, head["count"])).splitlines()[-1]
    assert b'"error":"0.tif: ' in line
    assert broken.upload.sha256.encode() in line


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CheckpointError("/srv/models/line-7: altered"), "checkpoint"),
        (OSError(errno.ENOSPC, "no space"), "disk"),
        (MemoryError(), "memory"),
        (AttributeError("x"), "fault"),
    ],
    ids=["model", "disk", "memory", "program"],
)
def test_a_fault_of_ours_is_logged_under_its_request_and_counted_and_no_line_blames_the_micrograph(
    make_queue, make_task, held, database, caplog, error, kind
):
    class Failing:
        def inspect(self, micrograph, *, alpha):
            raise error

    held.model = Failing()
    held.go.set()
    queue = make_queue()
    task = make_task(0)
    task.request_id = "r1"
    queue.submit([task])
    assert task.future.exception(60) is error
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert (record.request_id, record.exc_info[1]) == ("r1", error)
    assert queue._metrics.faults.labels(kind)._value.get() == 1
    with database.read() as session:
        assert ledger.head(session)["count"] == 1, "the ledger's beginning alone"


def test_a_file_that_is_gone_before_it_is_read_is_no_fault_of_the_micrograph(make_queue, make_task, held, database):
    queue = make_queue()
    task = make_task(0)
    task.upload.path.unlink()
    queue.submit([task])
    assert isinstance(task.future.exception(60), FileNotFoundError)
    with database.read() as session:
        assert ledger.head(session)["count"] == 1


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, "disk"), (errno.EROFS, "fault")], ids=["full disk", "read-only disk"]
)
def test_no_room_to_decode_is_a_fault_of_the_service(make_queue, make_task, database, monkeypatch, no_room, code, kind):
    monkeypatch.setattr(storage, "IN_MEMORY_BYTES", 1)
    no_room(code)
    queue, task = make_queue(), make_task()
    queue.submit([task])
    error = task.future.exception(60)
    assert (type(error), error.errno) == (OSError, code)
    assert queue._metrics.faults.labels(kind)._value.get() == 1
    with database.read() as session:
        assert ledger.head(session)["count"] == 1


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO])
def test_a_share_or_disk_that_fails_is_no_fault_of_the_micrograph(make_queue, make_task, database, monkeypatch, code):
    def fails(location, name):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(source, "_open_regular", fails)
    queue, task = make_queue(), make_task()
    queue.submit([task])
    assert task.future.exception(60).errno == code
    with database.read() as session:
        assert ledger.head(session)["count"] == 1


def send(client, content, **headers):
    return client.post("/v1/inspections", files=[("files", ("a.tif", content))], headers=headers)


def test_over_http_a_full_queue_is_429_and_a_deadline_504(serve, micrograph):
    with serve(queue_length=2) as client:
        service = client.app.state.service
        late = send(client, micrograph("fine", 130), **{"X-Deadline-Ms": "0"})
        assert (late.status_code, late.headers["content-type"]) == (504, "application/problem+json")
        assert send(client, micrograph("fine", 130), **{"Request-Timeout": "0"}).status_code == 504
        assert send(client, micrograph("fine", 130), **{"X-Deadline-Ms": "60000"}).status_code == 200
        many = [("files", (f"{index}.tif", micrograph("fine", 130))) for index in range(3)]
        assert client.post("/v1/inspections", files=many).status_code == 413, "it would never fit"
        with ThreadPoolExecutor(2) as pool:
            with service.database.write() as session:  # nothing can be recorded while this lasts
                ledger.append(session, [{"decision": "test"}])
                waiting = [pool.submit(send, client, micrograph("fine", 131 + index)) for index in range(2)]
                while service.queue.depth < 2:
                    time.sleep(0.001)
                full = send(client, micrograph("fine", 133))
                assert full.status_code == 429
                assert int(full.headers["retry-after"]) >= 1
                assert full.headers["content-type"] == "application/problem+json"
            assert [each.result().status_code for each in waiting] == [200, 200]
        assert count(service.database) == 3


@pytest.mark.parametrize("thread", ["reading", "recording"])
def test_an_upload_that_cannot_be_removed_ends_no_thread(make_queue, make_task, held, caplog, thread):
    queue, task = make_queue(), make_task()

    def spoil():
        task.upload.path.unlink()
        task.upload.path.mkdir()  # neither read, nor stored, nor removed

    if thread == "reading":
        spoil()
        queue.submit([task])
    else:
        queue.submit([task])
        assert held.begun.acquire(timeout=60)
        spoil()
    held.go.set()
    assert task.future.exception(60) is not None
    assert "an upload cannot be removed" in caplog.messages
    whole = make_task(1)
    queue.submit([whole])
    assert whole.future.result(60).name == "1.tif"
    assert queue.running


def test_a_queue_with_a_thread_that_ended_is_broken_and_only_a_restart_is_asked_for(serve):
    with serve() as client:
        queue = client.app.state.service.queue
        assert not queue.broken
        queue._finished.put(None)  # what ends the recording thread
        queue._threads[-1].join()
        for path in ("/healthz", "/readyz"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "restart the service" in answer.json()["detail"]
        queue.stop(0)
        assert not queue.broken, "it is to end now"
        assert client.get("/healthz").status_code == 200
