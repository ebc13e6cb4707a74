"""What a container starts with: the model is verified, and only then does anything run."""

from __future__ import annotations

import http.server
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import typer
from PIL import Image

from fusion_diff.checkpoint import EMBEDDED, verify
from fusion_diff.cli import app
from fusion_diff.trust.keyring import revoke
from fusion_diff.trust.keys import new_key
from fusion_diff.trust.provenance import sign


@pytest.fixture
def start(deploy):
    """Runs the program as a container does; gives (exit code, stdout, stderr)."""

    def run(*words, **environment):
        done = subprocess.run(
            [sys.executable, deploy / "start.py", *map(str, words)],
            capture_output=True,
            encoding="utf-8",
            env=os.environ | environment,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def signed(tmp_path, checkpoint_folder, monkeypatch):
    """A model of one's own, signed; its key lies in a folder as clusters mount them: behind links."""
    monkeypatch.delenv("FUSION_DIFF_KEY_PASSPHRASE", raising=False)
    model = tmp_path / "line-7"
    shutil.copytree(checkpoint_folder, model)
    new_key(tmp_path / "lab.key")
    sign(model, tmp_path / "lab.key")
    mounted = tmp_path / "keys" / "..data"
    mounted.mkdir(parents=True)
    shutil.copy(tmp_path / "lab.key.pub", mounted)
    (tmp_path / "keys" / "lab.pub").symlink_to(mounted / "lab.key.pub")
    return model


def test_the_command_runs_in_its_place_once_the_model_is_verified(start):
    code, out, err = start("policy", "--help")
    assert code == 0
    assert "Usage: fusion-diff policy" in out
    assert err.startswith("Verified: ")
    assert EMBEDDED in err


@pytest.mark.parametrize("how", ["option", "joined", "again", "setting"])
def test_an_altered_model_starts_nothing(start, signed, how):
    (signed / "README.md").write_text("altered", encoding="utf-8")
    words = {"option": ["--model", signed], "joined": [f"--model={signed}"]}
    words["again"] = ["--model", EMBEDDED, *words["joined"]]
    words = words.get(how, [])
    code, out, err = start("batch", "nowhere", *words, FUSION_DIFF_MODEL=str(signed) if how == "setting" else "")
    assert (code, out) == (3, "")
    assert err.startswith("Error: the model cannot be used: ")
    assert "README.md: altered" in err


def test_a_model_has_to_be_signed_where_keys_are_given(start, signed, tmp_path):
    asked = ["--keys", tmp_path / "keys", "policy", "--help"]
    assert start(*asked, FUSION_DIFF_MODEL=str(signed))[0] == 0
    signed.with_name("line-7.sig").unlink()
    code, out, err = start(*asked, FUSION_DIFF_MODEL=str(signed))
    assert (code, out) == (3, "")
    assert "line-7" in err


@pytest.mark.parametrize("linked", [False, True])
def test_a_key_with_its_revocation_beside_the_mounted_link_is_not_trusted(start, signed, tmp_path, linked):
    revocation, mounted = revoke(tmp_path / "lab.key", "lost"), tmp_path / "keys" / "lab.pub.revoked.json"
    mounted.symlink_to(revocation.rename(tmp_path / "revoked")) if linked else revocation.rename(mounted)
    code, out, err = start("--keys", tmp_path / "keys", "policy", "--help", FUSION_DIFF_MODEL=str(signed))
    assert (code, out) == (3, "")
    assert "which was revoked: lost" in err


@pytest.mark.parametrize("how", ["option", "joined", "setting"])
def test_a_signed_model_is_used_as_it_was_signed(deploy, signed, tmp_path, how):
    """What is put into its place once it was verified is not looked at."""
    words = {"option": ["--model", str(signed)], "joined": [f"--model={signed}"], "setting": []}[how]
    Image.fromarray(np.arange(224 * 224, dtype=np.uint8).reshape(224, 224)).save(tmp_path / "new.png")
    command = ["--keys", str(tmp_path / "keys"), "inspect", str(tmp_path / "new.png"), *words]
    environment = {"TMPDIR": str(tmp_path)} | ({"FUSION_DIFF_MODEL": str(signed)} if how == "setting" else {})
    with subprocess.Popen(
        [sys.executable, deploy / "start.py", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | environment,
    ) as started:
        assert started.stderr.readline().startswith("Verified: ")
        shutil.rmtree(signed)  # before the command gets to reading it: its interpreter has yet to start
        out, err = started.communicate()
    assert "new.png" in out, err


@pytest.mark.parametrize("planted", ["link", "broken link", "file"])
def test_what_another_put_in_place_of_the_private_copy_is_not_used(start, signed, tmp_path, planted):
    other, place = tmp_path / "other", tmp_path / "fusion-diff-model"
    shutil.copytree(signed, other / "line-7")
    if planted == "file":
        place.write_text("")
    else:
        place.symlink_to(other if planted == "link" else tmp_path / "nowhere")
    environment = {"FUSION_DIFF_MODEL": str(signed), "TMPDIR": str(tmp_path)}
    code, out, err = start("--keys", tmp_path / "keys", "policy", "--help", **environment)
    assert (code, out) == (3, "")
    assert err.startswith(f"Error: the model cannot be used: {place}: cannot be replaced by the copy")
    assert verify(other / "line-7") == verify(signed)  # nothing was lost, and nothing is left
    assert list(tmp_path.glob("fusion-diff-*")) == [place]
    place.unlink()
    assert start("--keys", tmp_path / "keys", "policy", "--help", **environment)[0] == 0


def test_each_start_replaces_the_private_copy_of_the_last(start, signed, tmp_path):
    environment = {"FUSION_DIFF_MODEL": str(signed), "TMPDIR": str(tmp_path)}
    for _ in range(2):
        assert start("--keys", tmp_path / "keys", "policy", "--help", **environment)[0] == 0
        assert [file.name for file in tmp_path.glob("fusion-diff-*")] == ["fusion-diff-model"]
        (tmp_path / "fusion-diff-model" / "line-7" / "added").write_text("")


@pytest.fixture
def starter(deploy):
    """The program as a module."""
    spec = importlib.util.spec_from_file_location("start", deploy / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "words",
    [
        ["enroll", "refs", "--authentic", "a", "--out", "new", "--base", "MODEL"],
        ["enroll", "refs", "--authentic", "a", "--out", "new", "--base=MODEL"],
        ["export", "MODEL", "--out", "new"],
        ["verify-model", "MODEL", "--golden", "golden"],
    ],
    ids=["enroll", "enroll joined", "export", "verify-model"],
)
def test_commands_that_name_their_model_otherwise_are_held_to_the_keys_too(start, signed, tmp_path, words):
    """A signed default does not open the door to an unsigned model, and a signed one is used as a private copy."""
    default = {"FUSION_DIFF_MODEL": str(signed), "TMPDIR": str(tmp_path)}
    unsigned = shutil.copytree(signed, tmp_path / "line-8")

    def run(model, *more):
        asked = [word.replace("MODEL", str(model)) for word in words]
        return start("--keys", tmp_path / "keys", *asked, *more, **default)

    code, out, err = run(unsigned)
    assert (code, out) == (3, "")
    assert err.startswith("Error: the model cannot be used: ")
    assert "line-8" in err
    code, out, err = run(signed, "--help")
    assert (code, f"Usage: fusion-diff {words[0]}" in out) == (0, True)
    assert err.startswith(f"Verified: {tmp_path / 'fusion-diff-model' / 'line-7'}, ")


def test_the_private_copy_stands_for_the_model_wherever_a_command_names_it(starter, monkeypatch):
    monkeypatch.setenv("FUSION_DIFF_MODEL", "default")
    for given, used in [
        (["enroll", "refs", "--base", "x"], ["enroll", "--base=copy", "refs", "--base", "copy"]),
        (["enroll", "refs"], ["enroll", "--base=copy", "refs"]),
        (["export", "x", "--out", "x"], ["export", "copy", "--out", "x"]),
        (["verify-model", "x", "--golden", "g"], ["verify-model", "copy", "--golden", "g"]),
        (["inspect", "a.tif", "--model=x"], ["inspect", "a.tif", "--model=copy"]),
    ]:
        assert starter.using(given, "copy") == used
        assert os.environ["FUSION_DIFF_MODEL"] == "copy"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", "--out", "new", "MODEL"], "write export MODEL"),
        (["verify-model", "--golden", "g", "MODEL"], "write verify-model MODEL"),
        (["pretrain", "--out", "new", "--prior", "MODEL"], "pretrain uses models"),
        (["demo"], "demo uses models"),
    ],
)
def test_a_command_whose_model_cannot_be_told_is_refused_where_keys_are_given(start, signed, tmp_path, words, says):
    words = [word.replace("MODEL", str(signed)) for word in words]
    code, out, err = start("--keys", tmp_path / "keys", *words, FUSION_DIFF_MODEL=str(signed))
    assert (code, out) == (3, "")
    assert says in err


def test_it_is_known_of_every_command_where_its_model_comes_from(starter):
    """A new command is refused where keys are given, until it is known how it names its model."""
    known = {*starter.BY_OPTION, *starter.BY_POSITION, *starter.WITHOUT_MODEL, "enroll"}
    commands = typer.main.get_command(app).commands
    assert known | {"demo", "pretrain"} == set(commands)
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert ("--model" in options) == (name in starter.BY_OPTION), name
        assert ("--base" in options) == (name == "enroll"), name
        assert ("model" in options) == (name in starter.BY_POSITION), name


def test_a_folder_without_keys_trusts_nobody(start, tmp_path):
    code, _, err = start("--keys", tmp_path, "policy", "--help")
    assert code == 3
    assert "no public key" in err


@pytest.mark.parametrize("code", [130, 143])
def test_a_stop_while_the_golden_set_is_scored_accuses_no_model(starter, monkeypatch, capsys, tmp_path, code):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM if code == 143 else signal.SIGINT)
        time.sleep(9)

    monkeypatch.setattr("fusion_diff.commands.verify_model.load_model", stop)
    # what runs in the background may inherit that SIGINT is ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stopped:
            starter.main(["--golden", str(tmp_path), "policy", "--help"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == code
    assert capsys.readouterr().err.splitlines()[1:] == ["Stopped."]


def test_a_golden_set_has_to_be_reproduced(start, checkpoint_folder, tmp_path):
    golden = tmp_path / "golden"
    Image.fromarray(np.arange(224 * 224, dtype=np.uint8).reshape(224, 224)).save(tmp_path / "new.png")
    made = start("verify-model", checkpoint_folder, "--golden", golden, "--make", tmp_path / "new.png")
    assert made[0] == 0, made
    code, _, err = start("--golden", golden, "policy", "--help")
    assert code == 0, err
    assert "does not reproduce" not in err
    scores = golden / "golden.json"
    scores.write_text(re.sub(r'"score": [0-9.e-]+', '"score": 0.123', scores.read_text()))
    code, _, err = start("--golden", golden, "policy", "--help")
    assert code == 3, err
    assert "does not reproduce the scores of this golden set" in err


def test_a_golden_set_that_is_missing_accuses_no_model(start, tmp_path):
    code, _, err = start("--golden", tmp_path / "missing", "policy", "--help")
    assert code == 3
    assert "Error: " in err
    assert "does not reproduce" not in err


@pytest.mark.parametrize("words", [[], ["--help"], ["--keys", "x"]])
def test_without_a_command_it_says_how_it_is_used(start, words):
    code, _, err = start(*words)
    assert code == 3
    assert err.startswith("Usage: start.py")


def test_the_digest_of_the_model_can_be_part_of_the_command(start, signed):
    code, _, err = start("policy", "check", "{model}.toml", FUSION_DIFF_MODEL=str(signed))
    assert code == 3
    assert f"{verify(signed)[:16]}.toml" in err.split("\n", 1)[1]


@pytest.mark.parametrize("words", [["--port", "PORT"], ["--port=PORT"], ["--port", "1", "--port", "PORT"], []])
def test_health_is_what_the_service_of_this_container_answers(start, tmp_path, words):
    class Answer(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_GET(self):
            self.send_response(self.status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_port)
        container = {"TMPDIR": str(tmp_path), "FUSION_DIFF_PORT": "1" if words else port}
        container |= {"http_proxy": "http://127.0.0.1:1", "no_proxy": "", "NO_PROXY": ""}
        # It refuses to listen there without keys, and the other answers in its place.
        refused = ["--insecure", "--host=0.0.0.0"]
        serve = ["serve", *refused, *(word.replace("PORT", port) for word in words)]
        assert start(*serve, **container)[0] == 3
        assert start("healthy", **container)[0] == 0
        Answer.status = 503
        assert start("healthy", **container)[0] == 1
        server.shutdown()
    assert start("healthy", **container)[0] == 1


@pytest.mark.parametrize(
    ("words", "setting", "address"),
    [
        ([], None, "127.0.0.1:8000"),
        ([], "0.0.0.0", "127.0.0.1:8000"),
        (["--host", "::", "--port=81"], "0.0.0.0", "[::1]:81"),
        ([], "10.0.0.7", "10.0.0.7:8000"),
        (["--host=2001:db8::7"], None, "[2001:db8::7]:8000"),
    ],
)
def test_health_is_asked_where_the_service_listens(start, tmp_path, words, setting, address):
    container = {"TMPDIR": str(tmp_path)} | ({} if setting is None else {"FUSION_DIFF_HOST": setting})
    assert start("serve", *words, "--help", **container)[0] == 0
    assert (tmp_path / "fusion-diff-address").read_text() == address


def test_the_address_is_not_written_through_a_link(start, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "fusion-diff-address").symlink_to(tmp_path / "mine")
    assert start("serve", "--help", TMPDIR=str(tmp_path))[0] == 0
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "fusion-diff-address").read_text() == "127.0.0.1:8000"


def test_a_container_that_does_not_serve_is_healthy_while_it_runs(start, tmp_path):
    container = {"TMPDIR": str(tmp_path)}
    assert start("policy", "--help", **container)[0] == 0
    assert start("healthy", **container)[0] == 0
