"""The server: connections on which nothing is asked, too many of them, and being told to stop while it starts."""

from __future__ import annotations

import http.client
import queue
import signal
import socket
import threading
import time
from contextlib import contextmanager

import httpx2
import pytest

from fusion_diff.cli import main
from fusion_diff.commands.stopping import TERMINATED
from fusion_diff.model import DiffusionModel
from fusion_diff.service import inspection_steps, serving
from fusion_diff.service.problems import MEDIA_TYPE
from fusion_diff.service.runtime import Service
from fusion_diff.service.settings import Settings


@pytest.fixture
def address(enrolled_folder, tmp_path, monkeypatch):
    """Serves as the command does, in a thread, with less patience; gives the host and port."""
    monkeypatch.setattr(serving, "ASKING_SECONDS", 0.2)
    monkeypatch.setattr(serving, "IDLE_SECONDS", 1)

    @contextmanager
    def serve(**settings):
        given = {"data": tmp_path, "model": str(enrolled_folder), "insecure": True, "port": 0} | settings
        ports = queue.SimpleQueue()
        server = serving.Server(Service.open(Settings(**given)), ports.put)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield "127.0.0.1", ports.get(timeout=60)
        finally:
            server.should_exit = True
            thread.join()

    return serve


def until_closed(connection):
    """Return what comes until the other side closes the connection."""
    connection.settimeout(30)
    found = b""
    while part := connection.recv(2**16):
        found += part
    return found


def until_answered(url, status, seconds=60):
    """Ask until the answer has this status."""
    deadline = time.monotonic() + seconds
    while (last := httpx2.get(url).status_code) != status:
        assert time.monotonic() < deadline, f"{last} and not {status} for {seconds} seconds"
        time.sleep(0.01)


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_on_which_nothing_is_asked_is_closed(address, before, sent):
    with address() as at, socket.create_connection(at) as connection:
        connection.sendall(before + sent)
        assert until_closed(connection).count(b"200 OK") == bool(before)


def test_a_connection_on_which_the_rest_of_a_refused_body_does_not_come_is_closed(address):
    with address(insecure=False) as at, socket.create_connection(at) as connection:
        connection.sendall(b"POST /inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nhalf")
        assert b" 401 " in until_closed(connection)


def test_beside_a_queue_that_may_be_full_there_is_room_for_so_many_connections(address, monkeypatch):
    monkeypatch.setattr(serving, "ASKING_SECONDS", 30)
    monkeypatch.setattr(serving, "_OTHERS", 2)
    with address(queue_length=1) as at:
        host = f"http://{at[0]}:{at[1]}"
        with socket.create_connection(at), socket.create_connection(at):
            until_answered(f"{host}/v1/models", 503)  # once both are accepted
            refused = httpx2.get(f"{host}/v1/models")
            assert refused.headers["content-type"] == MEDIA_TYPE
            assert refused.json()["detail"].startswith("too many connections are open; ")
            for path in ("healthz", "readyz", "metrics"):
                assert httpx2.get(f"{host}/{path}").status_code == 200, "it is not restarted for that"
        until_answered(f"{host}/v1/models", 200)


def test_a_connection_is_kept_after_an_answer_for_longer_than_a_proxy_keeps_it(address, monkeypatch):
    assert serving.IDLE_SECONDS == 1, "of the fixture"
    monkeypatch.undo()
    assert serving.IDLE_SECONDS > 60
    with address() as at, socket.create_connection(at) as connection:
        for pause in (0, 5.5):  # uvicorn itself keeps it for 5 seconds
            time.sleep(pause)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            connection.settimeout(30)
            answer = b""
            while not answer.endswith(b"}"):
                part = connection.recv(2**16)
                assert part, "it is closed"
                answer += part


def test_what_nobody_waits_for_any_more_is_neither_judged_nor_kept(address, micrograph, tmp_path, monkeypatch, caplog):
    judge, begun, go = inspection_steps.judge, threading.Event(), threading.Event()

    def held(*what):
        begun.set()
        assert go.wait(60)
        return judge(*what)

    def until_depth(at, depth):
        deadline = time.monotonic() + 60
        while f"fusion_diff_queue_depth {depth}.0" not in httpx2.get(f"http://{at[0]}:{at[1]}/metrics").text:
            assert time.monotonic() < deadline, depth
            time.sleep(0.01)

    monkeypatch.setattr(inspection_steps, "judge", held)
    with address() as at:
        callers = []
        try:
            for seed in range(140, 143):
                files = [("files", (f"{seed}-{number}.tif", micrograph("fine", seed))) for number in range(2)]
                sent = httpx2.Request("POST", f"http://{at[0]}:{at[1]}/v1/inspections", files=files)
                callers.append(http.client.HTTPConnection(*at))
                callers[-1].request("POST", "/v1/inspections", sent.read(), dict(sent.headers))
                assert begun.wait(60)
            until_depth(at, 6)
            for caller in callers[:2]:
                caller.close()
            until_depth(at, 3)
            assert len(list((tmp_path / "incoming").iterdir())) == 3
        finally:
            go.set()
        assert b'"problem"' in callers[2].getresponse().read()
        callers[2].close()
        until_depth(at, 0)
        kept = httpx2.get(f"http://{at[0]}:{at[1]}/v1/inspections").json()["items"]
    assert [row["name"] for row in kept] == ["142-1.tif", "142-0.tif", "140-0.tif"], "the first had begun"
    assert "fault" not in caplog.messages


def test_a_service_that_is_told_to_stop_while_it_loads_its_model_stops(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def load(*_):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it goes on")

    monkeypatch.setattr(DiffusionModel, "from_pretrained", load)
    assert main(["serve", "--insecure", "--data", str(tmp_path)]) == TERMINATED
    assert signal.getsignal(signal.SIGTERM) == before
