"""What a service refuses to start with, and what it makes that nobody else may read."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from fusion_diff.errors import DeviceError, FusionDiffError, ServiceError
from fusion_diff.service import ledger
from fusion_diff.service.database import Database, take_turn
from fusion_diff.service.runtime import Service, _secret
from fusion_diff.service.sessions import SECRET_BYTES
from fusion_diff.service.settings import Settings, read_settings


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("content", [b"", b"x", b"x" * (SECRET_BYTES - 1), b"x" * (SECRET_BYTES + 1), b"x" * 64])
def test_a_secret_of_sessions_that_could_be_guessed_or_was_cut_off_is_refused(tmp_path, content):
    (tmp_path / "session.key").write_bytes(content)
    with pytest.raises(FusionDiffError, match=r"session\.key"):
        Service.open(Settings(data=tmp_path))
    assert (tmp_path / "session.key").read_bytes() == content


def test_processes_that_start_together_have_one_secret_that_nobody_else_may_read(tmp_path, at_once):
    file, secrets, barrier = tmp_path / "session.key", [], threading.Barrier(8)

    def start():
        barrier.wait()
        secrets.append(_secret(file))

    at_once(*[start] * 8)
    assert len(secrets) == 8
    assert set(secrets) == {file.read_bytes()}
    assert mode(file) == 0o600
    assert list(tmp_path.iterdir()) == [file], "nothing is left beside it"


@pytest.mark.skipif(hasattr(torch, "npu"), reason="there may be an NPU here")
def test_a_service_does_not_start_on_another_device_than_the_one_that_is_named(enrolled_folder, tmp_path):
    with pytest.raises(DeviceError, match="device npu is not available here"):
        Service.open(Settings(data=tmp_path, model=str(enrolled_folder), device="npu"))


def test_the_data_are_for_their_owner_alone(enrolled_folder, tmp_path):
    service = Service.open(Settings(data=tmp_path / "data", model=str(enrolled_folder)))
    assert mode(tmp_path / "data") == 0o700
    for name in ("records.db", "records.db-wal", "session.key"):
        assert mode(tmp_path / "data" / name) == 0o600, name
    service.close()
    (tmp_path / "shared").mkdir(mode=0o755)
    Database(f"sqlite:///{tmp_path / 'shared' / 'records.db'}").close()
    assert mode(tmp_path / "shared" / "records.db") == 0o600
    assert mode(tmp_path / "shared") == 0o755, "what is there stays as it is"


@pytest.mark.parametrize("name", ["DATA", "DATABASE_URL", "STORE_URL", "MODELS_FOLDER", "MODEL", "DEVICE", "HOST"])
@pytest.mark.parametrize("value", ["", " "])
def test_a_variable_that_is_set_to_nothing_is_refused_by_its_name(monkeypatch, name, value):
    monkeypatch.setenv(f"FUSION_DIFF_{name}", value)
    with pytest.raises(ServiceError, match=rf"\(FUSION_DIFF_{name}\): is empty; give it a value, or unset it"):
        read_settings()


@pytest.mark.parametrize("value", ["nginx", "10.0.0.1/8", "10.0.0.0/8,", "127.0.0.1;::1"])
def test_proxies_to_trust_are_addresses_and_networks(value):
    with pytest.raises(ServiceError, match=r"trusted_proxies .*give addresses or networks"):
        read_settings(trusted_proxies=value)


@pytest.mark.parametrize("value", ["", "*", "10.0.0.0/8, ::1", "192.168.1.7"])
def test_proxies_to_trust_may_be_none_some_or_all(value):
    assert read_settings(trusted_proxies=value).trusted_proxies == value


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_records_that_a_newer_version_has_used_are_refused_and_left_as_they_are(database_url):
    Database(database_url).close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(
        ServiceError, match=r"'9999'.*: it was used by a newer version .* install that version, or restore the backup"
    ):
        Database(database_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be looked at" * 100, b"\0" * 4096])
def test_what_is_no_database_is_refused_by_its_name_and_left_as_it_is(tmp_path, content):
    file = tmp_path / "records.db"
    file.write_bytes(content)
    with pytest.raises(ServiceError, match=r"records\.db cannot be opened .*restore it from a backup"):
        Database(f"sqlite:///{file}")
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_records_that_would_be_lost_at_the_end_are_refused(url):
    with pytest.raises(ServiceError, match=r"names no file.*sqlite:///FILE"):
        Database(url)


@pytest.mark.parametrize("name", ["SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_CANTOPEN", "SQLITE_READONLY_DBMOVED"])
def test_an_error_of_the_disk_names_space_and_permissions(tmp_path, monkeypatch, name):
    def full(connection):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = name
        raise OperationalError("BEGIN", {}, error)

    monkeypatch.setattr("fusion_diff.service.database.migrate", full)
    with pytest.raises(ServiceError, match=r"disk I/O error\); check the free space of its disk, and that this user"):
        Database(f"sqlite:///{tmp_path / 'records.db'}")


@pytest.mark.parametrize("name", ["what?", "50%25", "a#b", "a b", "ü"])
def test_the_database_lies_in_the_data_folder_whatever_its_name(tmp_path, name):
    Database(Settings(data=tmp_path / name).database).close()
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "records.db").is_file()


def test_a_silent_postgresql_is_given_up_in_seconds_unless_the_url_says_otherwise(postgresql):
    database = Database(postgresql.replace("/NAME", "/postgres") + "&tcp_user_timeout=20000")
    with database.engine.connect() as connection:
        used = connection.connection.dbapi_connection.info.get_parameters()
    database.close()
    assert {name: used[name] for name in used if name.startswith(("keepalives", "tcp", "connect"))} == {
        "connect_timeout": "5",
        "keepalives_idle": "30",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": "20000",
    }


def test_a_database_of_something_else_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "records.db") as connection:
        connection.execute("CREATE TABLE models (id INTEGER)")
    connection.close()
    with pytest.raises(ServiceError, match=r"records\.db cannot be opened .*is one of this service"):
        Database(f"sqlite:///{tmp_path / 'records.db'}")


def test_processes_that_start_together_begin_one_ledger(database_url, at_once):
    databases, heads, barrier = [Database(database_url) for _ in range(4)], [], threading.Barrier(4)

    def start(database):
        barrier.wait()
        with database.write() as session:
            take_turn(session.connection())
            ledger.start(session)
            heads.append(ledger.head(session))

    at_once(*(partial(start, each) for each in databases))
    assert len(heads) == 4
    assert len({head["hash"] for head in heads}) == 1
    for database in databases:
        database.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of open files")
def test_the_limit_of_open_files_is_raised_as_far_as_the_system_allows():
    code = (
        "import resource\n"
        "from fusion_diff.service.runtime import OPEN_FILES, raise_file_limit\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "raise_file_limit()\n"
        "raised = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "assert raised == (OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES), hard), raised\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
