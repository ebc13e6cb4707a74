"""serve and service-keys from the command line: what they refuse, and keys made, listed and revoked."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import sys

import pytest

from fusion_diff.commands.serve import _address
from fusion_diff.service import keys, logs
from fusion_diff.service.database import Database
from fusion_diff.service.serving import Server


def test_keys_are_made_listed_and_revoked(call_cli, tmp_path):
    where = ("--data", tmp_path)
    code, made, err = call_cli("service-keys", "new", "line 7", "--scope", "inspect", "--scope", "read", *where)
    assert (code, err) == (0, f"Note: a new database is made, {tmp_path / 'records.db'}\n")
    key = made.strip()
    assert re.fullmatch(r"fdk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", key)
    code, listed, _ = call_cli("service-keys", "list", *where)
    assert code == 0
    assert f"{key[4:16]}  line 7: inspect, read; made " in listed
    assert key not in listed
    code, out, _ = call_cli("service-keys", "revoke", key[4:16], *where)
    assert (code, out) == (0, f"Revoked: {key[4:16]}, line 7\n")
    assert ", revoked " in call_cli("service-keys", "list", *where)[1]
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")
    with database.read() as session:
        assert keys.caller_of(session, key) is None
    database.close()


def test_a_whole_key_is_revoked_and_never_printed(call_cli, tmp_path):
    where = ("--data", tmp_path)
    key = call_cli("service-keys", "new", "line 7", "--scope", "read", *where)[1].strip()
    secret = key[17:]
    for wrong in (key[:-1], key + "x", secret, "0123"):
        code, out, err = call_cli("service-keys", "revoke", *where, "--", wrong)
        assert code == 3
        assert "no key has this id" in err
        assert secret[:-1] not in out + err
    assert call_cli("service-keys", "revoke", key, *where)[:2] == (0, f"Revoked: {key[4:16]}, line 7\n")


def test_a_name_belongs_to_one_valid_key(call_cli, tmp_path):
    words = ("--scope", "read", "--data", tmp_path)
    key = call_cli("service-keys", "new", "line 7", *words)[1].strip()
    for name in ("line 7", " line 7 "):
        code, out, err = call_cli("service-keys", "new", name, *words)
        assert (code, out) == (3, "")
        assert f"service-keys revoke {key[4:16]}" in err
    assert call_cli("service-keys", "new", "line\u200b 7", *words)[0] == 3
    call_cli("service-keys", "revoke", key, "--data", tmp_path)
    assert call_cli("service-keys", "new", "line 7 ", *words)[0] == 0
    assert call_cli("service-keys", "list", "--data", tmp_path)[1].count("  line 7: read;") == 2


@pytest.mark.parametrize(
    "words", [("service-keys", "list"), ("service-keys", "revoke", "0123"), ("service-prune", "--delete")]
)
def test_no_database_is_made_where_one_should_be(call_cli, tmp_path, words):
    code, _, err = call_cli(*words, "--data", tmp_path / "mistyped")
    assert code == 3
    assert "records.db: there is no such database; check --data" in err
    assert list(tmp_path.iterdir()) == []


def test_a_key_needs_a_scope_that_is_one(call_cli, tmp_path):
    assert call_cli("service-keys", "new", "line 7", "--scope", "everything", "--data", tmp_path)[0] == 3
    assert call_cli("service-keys", "new", "line 7", "--data", tmp_path)[0] == 3
    assert not (tmp_path / "records.db").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--insecure", "--host", "0.0.0.0"), "127.0.0.1 only"),
        (("--model", "no-such-model"), "no such model"),
        (("--database-url", "nothing"), "URL"),
    ],
)
def test_a_service_that_cannot_start_says_why(call_cli, tmp_path, words, told):
    code, _, err = call_cli("serve", "--data", tmp_path / "data", *words)
    assert code == 3
    assert told in err


@pytest.mark.parametrize("words", [("serve", "--insecure"), ("service-keys", "new", "anna", "--scope", "admin")])
def test_a_model_is_not_taken_for_the_data_folder(call_cli, checkpoint_folder, tmp_path, words):
    model = tmp_path / "line-7"
    shutil.copytree(checkpoint_folder, model)
    before = sorted(model.rglob("*"))
    for data in (model, model / "data"):
        code, _, err = call_cli(*words, "--data", data)
        assert code == 3
        assert "lies in the folder of a model" in err
    assert sorted(model.rglob("*")) == before


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
    ],
)
def test_the_address_is_one_that_a_browser_here_can_open(host, address):
    assert _address(host, 8000) == address


def test_a_port_that_is_taken_is_a_failure_and_no_verdict(call_cli, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logs, "configure", lambda: None)  # it is for a whole process
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = call_cli("serve", "--insecure", "--data", tmp_path / "data", "--port", port)
    assert (code, out) == (3, "")
    assert "Open " not in err, "an address that cannot be opened"
    assert f"cannot listen on 127.0.0.1, port {port}; choose another --port" in caplog.text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_address_is_told_on_a_terminal(call_cli, tmp_path, monkeypatch, terminal):
    monkeypatch.setattr(logs, "configure", lambda: None)  # it is for a whole process
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(Server, "run", lambda server: server.listening(4321))  # which says that it never started
    code, _, err = call_cli("serve", "--insecure", "--data", tmp_path / "data")
    assert code == 3
    assert ("Open http://127.0.0.1:4321\n" in err) == terminal, "logs alone where no one looks"


def test_without_its_packages_the_error_names_what_to_install(call_cli, tmp_path, monkeypatch):
    find, absent = importlib.util.find_spec, ("fastapi", "python_multipart")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    for words in (("serve",), ("service-keys", "list")):
        code, _, err = call_cli(*words, "--data", tmp_path)
        assert code == 3
        assert "needs fastapi, python-multipart, which are not installed" in err
        assert "run pip install fastapi python-multipart (part of the extra 'service')" in err


def test_the_command_line_loads_nothing_of_the_service():
    script = "import sys, fusion_diff.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fastapi", "sqlalchemy", "alembic", "pydantic", "uvicorn"} & set(loaded)
