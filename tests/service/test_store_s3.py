"""The store in a bucket of a server that speaks S3 over HTTP, on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from datetime import timedelta

import boto3
import fsspec
import pytest
import s3fs
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from fusion_diff.errors import ServiceError
from fusion_diff.service.store import Store, StoreError


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with an empty bucket `lab`, which the AWS tools know, with no account of this machine's user."""
    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*running.get_host_and_port()))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="lab")
    yield running
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.DEFAULT_SESSION = None


@pytest.fixture
def hanging(server, monkeypatch):
    """A server that takes connections and never answers; tells whether it has taken so many, and no more."""
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")

        def take():
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listening.accept()[0])

        threading.Thread(target=take, daemon=True).start()

        def has_taken(count):
            end = time.monotonic() + 60
            while len(taken) < count and time.monotonic() < end:  # those that were made are taken in a moment
                time.sleep(0.01)
            return len(taken) == count

        yield has_taken
        with contextlib.suppress(OSError):  # macOS: not connected
            listening.shutdown(socket.SHUT_RDWR)
    for each in taken:
        each.close()


def empty(bucket):
    for each in boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", []):
        boto3.client("s3").delete_object(Bucket=bucket, Key=each["Key"])


@pytest.mark.parametrize("url", ["s3://lab/blobs", "s3://lab/deep/er/blobs/", "s3://lab"])
def test_an_empty_bucket_is_ready_and_keeps_what_is_put(server, url):
    store = Store(url)
    store.check()
    sha256 = store.put(b"evidence")
    store.check()
    assert store.get(sha256) == b"evidence"
    with store.file(sha256) as path:
        assert path.read_bytes() == b"evidence"
    empty("lab")
    assert store.put(b"evidence") == sha256, "what is no longer there is put again"
    assert store.get(sha256) == b"evidence"
    store._files.pipe_file(store._place(sha256), b"evidenze")
    store.put(b"evidence")
    assert store.get(sha256) == b"evidence", "what is damaged is mended"
    for _ in range(2):
        store.remove(sha256)
        assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="lab")


def test_storing_content_again_renews_its_age_in_a_bucket(server):
    store = Store("s3://lab/blobs")
    sha256 = store.put(b"evidence")
    assert store.seconds_since_put(sha256) < 86_400
    (kept,) = s3_backends["123456789012"]["global"].buckets["lab"].keys.values()
    kept.last_modified -= timedelta(days=2)
    assert store.seconds_since_put(sha256) > 86_400
    store.put(b"evidence")
    assert store.seconds_since_put(sha256) < 86_400


@pytest.mark.parametrize("tries", [None, 1, 3])
def test_a_server_that_hangs_is_asked_few_times_unless_the_user_says_otherwise(hanging, monkeypatch, tries):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.1}})
    if tries is None:
        monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    else:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", str(tries))
    with pytest.raises(ServiceError, match=r"does not answer \(ReadTimeoutError"):
        Store("s3://lab/blobs")
    assert hanging(tries or 2)


def test_what_a_server_that_hangs_is_asked_for_ends_as_an_error_of_the_store(hanging, monkeypatch, tmp_path):
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 0.1}})
    monkeypatch.setattr(Store, "check", lambda _: None)
    monkeypatch.setattr("fusion_diff.service.store._STORING_SECONDS", 2)
    store, sha256 = Store("s3://lab/blobs"), hashlib.sha256(b"evidence").hexdigest()
    (tmp_path / "upload").write_bytes(b"evidence")
    asked = (
        lambda: store.get(sha256),  # first, as it makes the client, for which the others' time may not suffice
        lambda: store.file(sha256).__enter__(),
        lambda: store.put(b"evidence"),
        lambda: store.put_file(tmp_path / "upload", sha256),
    )
    for count, ask in enumerate(asked, start=1):
        with pytest.raises(StoreError):
            ask()
        assert hanging(count)


def test_a_bucket_that_is_not_there_is_named_and_not_made(server):
    with pytest.raises(ServiceError, match=r"mistyped/blobs does not answer .*check that the folder or bucket"):
        Store("s3://mistyped/blobs")
    assert [each["Name"] for each in boto3.client("s3").list_buckets()["Buckets"]] == ["lab"]


def test_a_bucket_that_was_removed_does_not_answer_and_is_not_made_again(server, tmp_path):
    (tmp_path / "upload").write_bytes(b"evidence")
    store = Store("s3://lab/blobs")
    store.put(b"evidence")
    store.check()
    empty("lab")
    boto3.client("s3").delete_bucket(Bucket="lab")
    for ask in (store.check, lambda: store.put(b"evidence"), lambda: store.put_file(tmp_path / "upload", "0" * 64)):
        with pytest.raises(ServiceError, match="does not answer"):
            ask()
    assert boto3.client("s3").list_buckets()["Buckets"] == [], "its name may be mistyped by now"


def test_a_service_with_an_empty_bucket_is_ready_until_the_server_is_gone(server, serve, micrograph):
    with serve(store_url="s3://lab/blobs") as client:
        assert client.get("/readyz").status_code == 200
        answer = client.post("/v1/inspections", files={"files": ("a.tif", micrograph("fine", 170))})
        assert answer.json()["results"][0]["inspection"]
        assert client.get("/readyz").status_code == 200
        server.stop()
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        answer = client.post("/v1/inspections", files={"files": ("b.tif", micrograph("fine", 171))})
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:fusion-diff:problem:store")
        assert answer.headers["retry-after"]
        assert "127.0.0.1" not in answer.text
        assert 'fusion_diff_faults_total{kind="store"} 1.0' in client.get("/metrics").text
    with pytest.raises(ServiceError, match="does not answer"), serve(store_url="s3://lab/blobs"):
        pass
