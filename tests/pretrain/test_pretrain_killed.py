"""Pretraining as a command: killed without warning, continued, and spread over processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fusion_diff.checkpoint import verify
from fusion_diff.weights import expand

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
ARGUMENTS = ["-m", "fusion_diff", "pretrain", "--recipe", "smoke", "--cpu", "--threads", "1"]


@pytest.fixture
def out(pretraining_run, tmp_path) -> Path:
    """A folder for a new run with a pool, because generating one takes long."""
    shutil.copytree(pretraining_run / "pool", tmp_path / "run" / "pool")
    return tmp_path / "run"


def test_a_run_killed_in_the_middle_is_finished_by_the_next_with_the_same_weights(pretraining_run, out):
    command = [sys.executable, *ARGUMENTS, "--out", str(out)]
    with (out / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, env=ENVIRONMENT, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 300
            while not (out / "autoencoder" / "state.safetensors").exists():
                assert process.poll() is None, (out / "output.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert not (out / "checkpoint").exists()
    done_before = (out / "autoencoder" / "state.safetensors").stat().st_mtime_ns

    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Checkpoint: {out / 'checkpoint'}" in done.stdout
    assert (out / "autoencoder" / "state.safetensors").stat().st_mtime_ns == done_before, "what was done was kept"
    verify(out / "checkpoint")
    for name in ("encoder.safetensors", "prior/unet/diffusion_pytorch_model.safetensors"):
        # Expanded: a value halfway between two integers may be rounded either way.
        resumed, uncut = (expand(load_file(run / "checkpoint" / name)) for run in (out, pretraining_run))
        assert resumed.keys() == uncut.keys()
        for key, value in uncut.items():
            if key == "global_projection.weight":
                continue  # the signs of principal components are arbitrary and depend on rounding
            torch.testing.assert_close(resumed[key], value, rtol=1e-2, atol=1e-2, msg=key)


def by_two_processes(folder, script, *words):
    """Run a script by two processes; return how it ended."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [folder / "script.py", *words]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


# Enrolling the built-in references takes as long as all the rest; the run above has done it.
WHOLE = """
import sys
from torch import device, distributed
from fusion_diff import cli
from fusion_diff.pretrain import builtin, run

def pretrain(out, recipe, **options):
    waits = distributed.group.WORLD._get_backend(device("cpu")).options._timeout
    sys.stdout.write("waits " + str(waits) + "\\n")  # at once, not in words between those of the other process
    sys.stdout.flush()
    return whole(out, recipe, **options)

whole, run.pretrain = run.pretrain, pretrain
builtin.enroll_builtin = lambda checkpoint: print(f"enrols {checkpoint}", flush=True)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_train_a_whole_model(out, tmp_path):
    done = by_two_processes(tmp_path, WHOLE, *ARGUMENTS[2:], "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Checkpoint:") == 1, "the main process alone speaks"
    assert done.stdout.count(f"enrols {out / 'checkpoint'}") == 1
    assert done.stdout.count("waits 1 day, 0:00:00") == 2, "however long making the pool takes the other"
    verify(out / "checkpoint")


@pytest.mark.parametrize(
    ("option", "value", "said"), [("--recipe", "large", "cpu, full, smoke"), ("--precision", "int8", "bf16")]
)
def test_an_unknown_recipe_or_precision_is_refused_with_those_there_are(tmp_path, capsys, option, value, said):
    from fusion_diff import cli

    assert cli.main(["pretrain", "--out", str(tmp_path / "run"), "--cpu", option, value]) == 3
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("adapters", [False, True])
def test_what_is_asked_for_on_the_command_line_reaches_the_run(tmp_path, capsys, monkeypatch, adapters):
    from fusion_diff import cli
    from fusion_diff.pretrain import builtin, run

    asked, enrolled = [], []

    def pretrain(out, recipe, **options):
        asked.append((recipe, options))
        (out / "checkpoint" / "manifest.json").write_text("new")
        return out / "checkpoint"

    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "manifest.json").write_text("old")

    monkeypatch.setattr(run, "pretrain", pretrain)
    monkeypatch.setattr(builtin, "enroll_builtin", enrolled.append)
    words = ["pretrain", "--out", str(tmp_path), "--cpu", "--recipe", "smoke"]
    words += ["--prior", "fusion-diff-v1-ceramic", "--deit", "runs/deit", "--no-feedback"]
    assert cli.main(words + ["--adapters"] * adapters) == 0
    ((recipe, options),) = asked
    assert recipe.name == "smoke"
    assert recipe.adapters is adapters
    assert (options["prior"], options["deit"]) == ("fusion-diff-v1-ceramic", "runs/deit")
    assert options["feedback"] is False
    assert options["accelerator"].mixed_precision == "no", "most CPUs compute bf16 far slower"
    assert enrolled == [tmp_path / "checkpoint"]
    old, new = (sha256(text).hexdigest() for text in (b"old", b"new"))
    assert capsys.readouterr().out == (
        f"Replaced the model that was there, sha256 {old}\nCheckpoint: {tmp_path / 'checkpoint'}, sha256 {new}\n"
    )


TOLD = """
import sys
from torch import device, distributed
from fusion_diff import cli
from fusion_diff.errors import PretrainingError
from fusion_diff.pretrain import run

def pretrain(out, recipe, **options):
    waits = distributed.group.WORLD._get_backend(device("cpu")).options._timeout
    sys.stdout.write("waits " + str(waits) + "\\n")  # at once, not in words between those of the other process
    sys.stdout.flush()
    raise PretrainingError("enough")

run.pretrain = pretrain
assert cli.main(["pretrain", "--out", {out!r}, "--cpu", *sys.argv[1:]]) == 3
"""


def test_processes_wait_for_the_one_that_makes_the_pool_with_a_given_precision_too(tmp_path):
    done = by_two_processes(tmp_path, TOLD.format(out=str(tmp_path / "run")), "--precision", "no")
    assert done.stdout.count("waits 1 day, 0:00:00") == 2, done.stderr
