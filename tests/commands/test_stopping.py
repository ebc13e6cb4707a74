"""SIGTERM ends commands as Ctrl-C does: what is done is kept, and nothing temporary is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from fusion_diff.cli import main
from fusion_diff.commands.stopping import Terminated, heed_sigterm
from fusion_diff.trust.keys import new_key
from fusion_diff.trust.provenance import sign

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM cannot be caught there")


@pytest.fixture
def unheeded():
    """SIGTERM fails the test where no command heeds it, instead of ending pytest."""

    def fail(*_):
        raise AssertionError("SIGTERM would have ended the process")

    before = signal.signal(signal.SIGTERM, fail)
    yield
    assert signal.signal(signal.SIGTERM, before) is fail


@pytest.mark.usefixtures("unheeded")
@pytest.mark.parametrize(
    ("words", "busy"),
    [
        (["inspect", "a.tif"], "fusion_diff.inspection.run.load_inspector"),
        (["validate", "refs", "--authentic", "sound"], "fusion_diff.inspection.run.load_inspector"),
        (["batch", "a.tif", "--out", "o"], "fusion_diff.inspection.run.load_inspector"),
        (["export", "m", "--out", "o"], "fusion_diff.commands.export.load_model"),
        (["enroll", "refs", "--authentic", "sound", "--out", "o"], "fusion_diff.commands.enroll.load_model"),
        (["verify-model", "m", "--golden", "g"], "fusion_diff.commands.verify_model.load_model"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_commands_with_temporary_files_end_in_order(tmp_path, monkeypatch, capsys, save_micrograph, words, busy):
    monkeypatch.chdir(tmp_path)
    save_micrograph(tmp_path / "a.tif", 0.5)
    monkeypatch.setattr(busy, lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9))
    assert main(words) == 143
    assert capsys.readouterr().err == "Stopped.\n"


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where a shell runs the tests in the background and has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_what_a_library_makes_of_an_interrupt_is_no_fault(tmp_path, monkeypatch, capsys, sent, code):
    def busy(*_):
        try:
            os.kill(os.getpid(), sent)
            time.sleep(9)
        except KeyboardInterrupt:
            raise RuntimeError("Failed to export the model") from None

    monkeypatch.setattr("fusion_diff.commands.export.load_model", busy)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert main(["export", "m", "--out", str(tmp_path / "o")]) == code
    assert capsys.readouterr().err == "Stopped.\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("words", [["inspect"], ["batch", "--out", "o"]], ids=lambda words: words[0])
def test_no_private_copy_of_a_signed_model_is_left(checkpoint_folder, tmp_path, save_micrograph, words):
    model, temporary = tmp_path / "model", tmp_path / "temporary"
    shutil.copytree(checkpoint_folder, model)
    temporary.mkdir()
    new_key(tmp_path / "k")
    save_micrograph(tmp_path / "a.tif", 0.5)
    for each in (model, tmp_path / "a.tif"):
        sign(each, tmp_path / "k")
    words = [*words, tmp_path / "a.tif", "--model", model, "--require-signed", "--trusted-key", tmp_path / "k.pub"]
    command = subprocess.Popen(
        [sys.executable, "-m", "fusion_diff", *words],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while command.poll() is None and not list(temporary.rglob("config.json")):
        time.sleep(0.01)
    command.terminate()
    said = command.communicate(timeout=60)[1]
    assert (command.returncode, said.splitlines()[-1:]) == (143, ["Stopped."])
    assert list(temporary.iterdir()) == []


def test_other_threads_cannot_heed_it_and_need_not():
    done = []

    def run():
        with heed_sigterm():
            done.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done == [True]


def test_one_that_the_parent_ignores_stays_ignored():
    """`trap '' TERM` in a shell protects what it starts."""
    program = (
        "import os, signal; from fusion_diff.commands.stopping import heed_sigterm\n"
        "with heed_sigterm(): os.kill(os.getpid(), signal.SIGTERM); print('went on')"
    )
    words = ["sh", "-c", 'trap \'\' TERM; exec "$0" -c "$1"', sys.executable, program]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")


def test_the_first_process_of_a_container_heeds_it_all_the_same(monkeypatch):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: 1)

    def stopped():
        with heed_sigterm():
            os.kill(own, signal.SIGTERM)
            time.sleep(9)

    try:
        with pytest.raises(Terminated):
            stopped()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
