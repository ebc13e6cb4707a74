"""Batches from a local S3 server over HTTP."""

from __future__ import annotations

import socket
from contextlib import contextmanager

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from fusion_diff.batch import items as items_module
from fusion_diff.batch.run import run_batch
from fusion_diff.batch.sources import check_source, list_source
from fusion_diff.errors import BatchError


@contextmanager
def serving():
    """A server of this process's buckets, and its address."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server, "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@pytest.fixture(scope="module")
def endpoint():
    with serving() as (_, url):
        yield url


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Set the endpoint in the variables of the AWS tools, without this user's credentials."""

    def ask_of(url):
        for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
            monkeypatch.setenv(f"AWS_{name}", url if name == "ENDPOINT_URL" else "us-east-1")
        for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        s3fs.S3FileSystem.clear_instance_cache()

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(items_module, "PAUSE_S", 0)
    yield ask_of
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(endpoint, ask, folder):
    """A client of the server. Its bucket `lots` holds the folder below `line-7`, and a list of two of its files."""
    ask(endpoint)
    client = boto3.client("s3")
    client.create_bucket(Bucket="lots")
    for file in folder.rglob("*.tif"):
        client.upload_file(str(file), "lots", f"line-7/{file.relative_to(folder).as_posix()}")
    client.put_object(Bucket="lots", Key="line-7/list.csv", Body=b"path\ndeeper/spot.tif\ns3://lots/line-7/0.tif\n")
    yield client
    for each in client.list_objects_v2(Bucket="lots").get("Contents", []):
        client.delete_object(Bucket="lots", Key=each["Key"])
    client.delete_bucket(Bucket="lots")


def names(source):
    return sorted(item.path.removeprefix("s3://lots/line-7/") for item in list_source(source))


def test_folders_patterns_lists_and_files_of_a_bucket_are_found(bucket, folder):
    everything = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tif"))
    assert names("s3://lots/line-7") == names("s3://lots/line-7/") == names("s3://lots") == everything
    assert names("s3://lots/line-7/[01].tif") == ["0.tif", "1.tif"]
    assert names("s3://lots/line-7/list.csv") == ["0.tif", "deeper/spot.tif"]
    assert names("s3://lots/line-7/deeper/spot.tif") == ["deeper/spot.tif"]


def test_a_batch_judges_a_bucket_as_it_judges_the_folder_and_goes_on(bucket, folder, tmp_path, engine, read_rows):
    run_batch(str(folder), tmp_path / "here", engine)
    run_batch("s3://lots/line-7/[0-3].tif", tmp_path / "out", engine)
    done = run_batch("s3://lots/line-7", tmp_path / "out", engine)
    assert (done.skipped, done.finished, done.kept) == (4, 7, 11)

    def verdicts(out, root):
        return {
            row["path"].removeprefix(root): (row["file_sha256"], row["score"], row["decision"], row["error"] is None)
            for row in read_rows(out)
        }

    assert verdicts(tmp_path / "out", "s3://lots/line-7/") == verdicts(tmp_path / "here", f"{folder}/")
    (bad,) = [row for row in read_rows(tmp_path / "out") if row["error"]]
    assert bad["error"].startswith("s3://lots/line-7/broken.tif: ")


def test_an_object_that_is_gone_is_an_error_in_its_row(bucket, tmp_path, engine, read_rows):
    bucket.delete_object(Bucket="lots", Key="line-7/deeper/spot.tif")
    run_batch("s3://lots/line-7/list.csv", tmp_path / "out", engine)
    gone, there = sorted(read_rows(tmp_path / "out"), key=lambda row: row["path"], reverse=True)
    assert "s3://lots/line-7/deeper/spot.tif: cannot be read" in gone["error"]
    assert there["decision"] is not None


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("s3://nobodys", "does not exist in the store"),
        ("s3://nobodys/list.csv", "does not exist in the store"),
        ("s3://lots/line-8", "does not exist in the store"),
        ("s3://lots/line-8/*.tif", "contains no images"),
    ],
)
def test_a_bucket_or_folder_that_is_not_there_is_named(bucket, source, says):
    with pytest.raises(BatchError) as caught:
        check_source(source)
    assert str(caught.value).startswith(f"{source}: {says}")


def test_an_endpoint_that_refuses_connections_is_named_before_anything_is_written(ask, tmp_path, engine):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        ask(url)
        with pytest.raises(BatchError, match=r"cannot be reached.*check the address") as caught:
            run_batch("s3://lots/line-7", tmp_path / "out", engine)
    assert str(caught.value).startswith("s3://lots/line-7: ")
    assert url in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_lost_amid_a_run_leaves_what_is_done(bucket, ask, tmp_path, engine, read_rows):
    with serving() as (server, url):
        ask(url)

        def lose(done, total):
            if done.finished == 5:
                server.stop()

        with pytest.raises(BatchError, match=r"cannot be reached.*; 5 rows are kept in"):
            run_batch("s3://lots/line-7", tmp_path / "out", engine, rows=2, progress=lose)
    assert len(read_rows(tmp_path / "out")) == 5
    with serving() as (_, url):
        ask(url)
        assert run_batch("s3://lots/line-7", tmp_path / "out", engine).skipped == 5
    assert len({row["path"] for row in read_rows(tmp_path / "out")}) == 11


def test_a_user_without_credentials_is_told_so(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(BatchError, match=r"s3://lots/line-7: .*credentials"):
        check_source("s3://lots/line-7")
