"""keys, sign, verify, and inspect with signed files, from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.checkpoint import verify as checked
from fusion_diff.errors import TrustError
from fusion_diff.inspection.run import inspect_paths
from fusion_diff.micrograph import load_microstructure_data
from fusion_diff.trust.provenance import sign
from fusion_diff.trust.signed import SignedFiles


@pytest.fixture
def run(call_cli, monkeypatch, tmp_path):
    """Runs the command line in a folder of its own; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FUSION_DIFF_KEY_PASSPHRASE", raising=False)
    return call_cli


@pytest.fixture
def batch(tmp_path, save_micrograph):
    folder = tmp_path / "batch"
    folder.mkdir()
    save_micrograph(folder / "bright.tif", 0.8)
    save_micrograph(folder / "brighter.tif", 0.85)
    return folder


def test_what_was_signed_is_verified_and_what_was_changed_is_refused_file_by_file(run, batch):
    assert run("keys", "new", "K")[0] == 0
    code, out, _ = run("sign", "batch", "--key", "K", "--days", "9")
    assert code == 0
    assert "files: 2, until 20" in out
    code, out, err = run("verify", "batch", "--trusted-key", "K.pub")
    assert (code, err) == (0, "")
    assert "Verified: batch, files: 2, until 20" in out
    (batch / "bright.tif").write_bytes(b"other")
    (batch / "brighter.tif").unlink()
    (batch / "new.tif").write_bytes(b"new")
    code, out, err = run("verify", "batch", "--trusted-key", "K.pub")
    assert (code, out) == (1, "Refused: batch\n")
    lines = err.splitlines()
    assert len(lines) == 3
    wrong = ("it was altered", "it is missing", "it was added")
    for line, name, what in zip(lines, ("bright", "brighter", "new"), wrong, strict=True):
        assert line.startswith("Error: ")
        assert f"{name}.tif: {what}" in line


def test_a_signature_elsewhere_is_named(run, batch):
    run("keys", "new", "K")
    assert run("sign", batch, "--key", "K", "--out", "s.json")[0] == 0
    assert run("verify", batch, "--trusted-key", "K.pub", "--signature", "s.json")[0] == 0
    code, _, err = run("verify", batch, "--trusted-key", "K.pub")
    assert code == 1
    assert "unsigned" in err


@pytest.mark.parametrize("option", ["--trusted-key", "--key"])
def test_verify_takes_the_key_to_trust_by_either_name(run, batch, option):
    run("keys", "new", "K")
    run("sign", "batch", "--key", "K")
    assert run("verify", "batch", option, "K.pub")[0] == 0
    (batch / "bright.tif").write_bytes(b"other")
    assert run("verify", "batch", option, "K.pub")[0] == 1


def test_inspect_reads_what_the_key_to_trust_signed(run, batch, monkeypatch, darkness_model):
    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", lambda *_: darkness_model)
    run("keys", "new", "K")
    run("sign", "batch", "--key", "K")
    assert run("inspect", "batch", "--require-signed", "--trusted-key", "K.pub")[0] == 0
    (batch / "bright.tif").write_bytes(b"other")
    assert run("inspect", "batch", "--require-signed", "--trusted-key", "K.pub")[0] == 3


def test_days_of_a_signature_are_told_apart_from_those_of_a_key(run):
    for words, what in ((["sign"], "signature"), (["keys", "new"], "key"), (["keys", "rotate"], "key")):
        assert f"Number of days that the {what} is valid" in " ".join(run(*words, "--help")[1].replace("│", "").split())


def test_where_a_signature_elsewhere_is_looked_for_is_said(run, batch, tmp_path):
    run("keys", "new", "K")
    expected = (
        f"Note: --require-signed looks for {tmp_path / 'batch.sig'}; only `verify --signature` reads it elsewhere"
    )
    assert expected in run("sign", "batch", "--key", "K", "--out", "s.json")[1]
    for words in ([], ["--out", "batch.sig"]):
        assert "Note" not in run("sign", "batch", "--key", "K", *words)[1]


def test_a_signature_is_not_put_into_the_model_that_it_signs(run, checkpoint_folder, tmp_path):
    shutil.copytree(checkpoint_folder, tmp_path / "model")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    run("keys", "new", "K")
    for out in ("model/x.sig", "link/x.sig"):
        code, _, err = run("sign", "model", "--key", "K", "--out", out)
        assert (code, "x.sig: lies in the folder of a model" in err) == (3, True)
    checked(tmp_path / "model")
    assert run("sign", "model", "--key", "K", "--out", "x.sig")[0] == 0


def test_the_embedded_model_is_said_to_be_unsigned_and_not_to_be_signed_where_it_is(run, batch):
    run("keys", "new", "K")
    run("sign", "batch", "--key", "K")
    code, _, err = run("inspect", "batch", "--require-signed", "--trusted-key", "K.pub")
    assert code == 3
    assert err == (
        f"Error: {EMBEDDED}: the embedded model is unsigned; save it or a model that you enrolled, sign that folder, "
        "and name it as the model\n"
    )


def test_a_name_too_long_for_a_signature_of_its_own_is_covered_by_that_of_the_folder(run, batch):
    longest = batch / f"{'x' * 249}.tif"
    (batch / "bright.tif").rename(longest)
    run("keys", "new", "K")
    run("sign", "batch", "--key", "K")
    assert SignedFiles("K.pub").digest(longest) == load_microstructure_data(longest).sha256
    code, _, err = run("verify", longest, "--trusted-key", "K.pub")
    assert (code, "it is unsigned" in err) == (1, True)


def test_keys_are_shown_rotated_and_revoked(run, batch):
    assert run("keys", "new", "old", "--kind", "ecdsa-p256", "--days", "30")[0] == 0
    code, out, _ = run("keys", "show", "old.pub")
    assert code == 0
    assert "Kind: ecdsa-p256\nExpires: 20" in out
    assert out.endswith("Valid\n")
    assert run("keys", "rotate", "old", "new")[0] == 0
    assert "Endorses: " in run("keys", "show", "old.pub")[1]
    run("sign", "batch", "--key", "new")
    assert run("verify", "batch", "--trusted-key", "old.pub")[0] == 0
    assert run("keys", "revoke", "new", "--because", "left in a café")[0] == 0
    code, _, err = run("verify", "batch", "--trusted-key", "old.pub")
    assert code == 1
    assert "revoked: left in a café" in err
    code, out, _ = run("keys", "show", "new.pub")
    assert code == 1
    assert "Not valid" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["keys", "new", "K"], "is not overwritten"),
        (["keys", "new", "L", "--kind", "rsa"], "rsa"),
        (["keys", "new", "L", "--days", "0"], "--days"),
        (["keys", "new", ""], "it names no file"),
        (["keys", "new", "."], "it names no file"),
        (["keys", "new", "/"], "it names no file"),
        (["keys", "rotate", "K", ""], "it names no file"),
        (["keys", "revoke", "K"], "--because"),
        (["keys", "show", "K"], "a private key"),
        (["keys", "nonsense"], "nonsense"),
        (["sign", "batch"], "--key"),
        (["sign", "batch", "--key", "K.pub"], "a public key"),
        (["sign", "missing", "--key", "K"], "missing"),
        (["sign", "", "--key", "K"], "PATH is empty"),
        (["verify", "", "--trusted-key", "K.pub"], "PATH is empty"),
        (["sign", "batch", "--key", "K", "--out", "nowhere/x"], "nowhere/x: cannot be used"),
        (["verify", "batch"], "--trusted-key"),
        (["verify", "batch", "--trusted-key", "missing.pub"], "missing.pub"),
        (["verify", "batch", "--trusted-key", "K"], "a private key"),
        (["verify", "missing", "--trusted-key", "K.pub"], "missing: there is no such file or folder"),
        (["inspect", "batch", "--require-signed"], "go together"),
        (["inspect", "batch", "--trusted-key", "K.pub"], "go together"),
        (["inspect", "batch", "--require-signed", "--trusted-key", "K"], "a private key"),
    ],
)
def test_what_cannot_be_done_exits_with_3_and_tells_no_secret(run, batch, tmp_path, words, says):
    run("keys", "new", "K")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*words)
    assert code == 3
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert (tmp_path / "K").read_text().splitlines()[1] not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_help_imports_no_cryptography():
    program = (
        "import sys; from fusion_diff.cli import main; main(['keys', '--help']); print('cryptography' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    assert "rotate" in done.stdout
    assert done.stdout.endswith("False\n")


def test_inspect_judges_what_is_signed_and_parses_nothing_else(run, batch, tmp_path, monkeypatch, darkness_model):
    asked = []

    def load(name, device, trusted_keys):
        asked.append([str(key) for key in trusted_keys])
        return darkness_model

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", load)
    run("keys", "new", "K")
    words = ["inspect", "batch", "--require-signed", "--trusted-key", "K.pub", "--json", "r.jsonl"]
    code, _, err = run(*words)
    assert code == 3
    assert "bright.tif: it is unsigned" in err
    run("sign", "batch", "--key", "K")
    assert run(*words)[0] == 0
    assert asked == [["K.pub"], ["K.pub"]]

    # These are refused before their first bytes are read: as images they would get another message.
    (batch / "added.png").write_bytes(b"no image")
    (batch / "bright.tif").write_bytes(b"no image")
    code, _, err = run(*words)
    assert code == 3
    records = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [record.get("decision") for record in records] == [None, None, "authentic"]
    assert "added.png: it is not in the signature" in records[0]["error"]
    assert "bright.tif: it was altered after it was signed" in records[1]["error"]
    assert "added.png: it is not in the signature" in err


def test_a_file_swapped_between_the_signature_and_the_reading_is_refused(batch, tmp_path, run, darkness_model):
    run("keys", "new", "K")
    sign(batch, tmp_path / "K")
    signed = SignedFiles(tmp_path / "K.pub")

    def asked_and_swapped(path):
        digest = signed.digest(path)
        path.write_bytes((batch / "brighter.tif").read_bytes())
        return digest

    (outcome,) = inspect_paths(darkness_model, [batch / "bright.tif"], signed_sha256=asked_and_swapped)
    assert outcome.inspection is None
    assert "bright.tif: it was altered after it was signed" in outcome.error


def test_a_micrograph_is_read_where_it_has_the_digest_it_should(batch):
    sha256 = load_microstructure_data(batch / "bright.tif").sha256
    assert load_microstructure_data(batch / "bright.tif", sha256=sha256).sha256 == sha256
    with pytest.raises(TrustError, match=r"bright\.tif: it was altered after it was signed"):
        load_microstructure_data(batch / "bright.tif", sha256="0" * 64)


def test_inspect_loads_only_a_signed_model(run, batch, checkpoint_folder, tmp_path):
    shutil.copytree(checkpoint_folder, tmp_path / "model")
    run("keys", "new", "K")
    run("sign", "batch", "--key", "K")
    words = ["inspect", "batch/bright.tif", "--model", "model", "--require-signed", "--trusted-key", "K.pub"]
    code, out, err = run(*words)
    assert (code, out) == (3, "")
    assert "model: it is unsigned" in err
    run("sign", "model", "--key", "K")
    code, out, err = run(*words)
    assert code in (0, 1, 2)
    assert "1 micrograph:" in out
