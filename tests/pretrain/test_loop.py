"""The training loop: an interrupted run gives the same result as an uninterrupted one."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from fusion_diff.errors import PretrainingError
from fusion_diff.pretrain import loop
from fusion_diff.pretrain.loop import train
from fusion_diff.pretrain.recipe import StageRecipe

RECIPE = StageRecipe(steps=30, batch=4, learning_rate=1e-2)


class Regression:
    """A small stage: learns the sum of its inputs."""

    name = "regression"

    def __init__(self, *, poisoned_at: int | None = None, steep: bool = False) -> None:
        torch.manual_seed(0)
        self.trained = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1), nn.Linear(1, 1))
        self.trained[3].requires_grad_(False)
        self.batches: list[int] = []
        self.poisoned_at, self.steep = poisoned_at, steep

    def loss(self, count: int, rng: np.random.Generator, device: torch.device) -> Tensor:
        self.batches.append(count)
        x = torch.from_numpy(rng.normal(size=(count, 6))).float()
        error = (self.trained[:3](x) - x.sum(1, keepdim=True)).square().mean()
        if len(self.batches) != self.poisoned_at:
            return error
        return error + (error - error).sqrt() if self.steep else error * math.nan  # a root is infinitely steep at 0

    def sample(self, device: torch.device) -> Tensor:
        return torch.full((3, 4, 5), 2.0)


def run(folder: Path, stage: Regression | None = None, **options) -> Regression:
    stage = stage or Regression()
    defaults = {"seed": 0, "accelerator": Accelerator(cpu=True, mixed_precision="no")}
    train(stage, options.pop("recipe", RECIPE), folder=folder, **(defaults | options))
    return stage


def weights(stage: Regression) -> Tensor:
    return torch.cat([value.flatten() for value in stage.trained.state_dict().values()])


class CutError(Exception):
    """Simulates a power failure."""


def cut_at(wanted: int):
    def progress(stage: str, step: int, steps: int, loss: float) -> None:
        if step == wanted:
            raise CutError

    return progress


@pytest.fixture
def saving_every_step(monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)


def test_training_lowers_the_loss(tmp_path):
    losses = []
    run(tmp_path, recipe=StageRecipe(200, 8, 1e-2), progress=lambda *step: losses.append(step[3]))
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:20])


@pytest.mark.parametrize("cuts", [[2], [15], [30], [7, 8, 22]])
def test_a_run_cut_off_ends_where_an_uncut_one_does(tmp_path, saving_every_step, cuts):
    uncut = run(tmp_path / "uncut")
    for step in cuts:
        with pytest.raises(CutError):
            run(tmp_path / "cut", progress=cut_at(step))
    resumed = run(tmp_path / "cut")
    assert len(resumed.batches) == 30 - cuts[-1] + 1, "it went on from the last state, one step before the cut"
    torch.testing.assert_close(weights(resumed), weights(uncut), rtol=0, atol=0)


def test_a_run_cut_off_before_its_first_state_begins_again(tmp_path):
    uncut = run(tmp_path / "uncut")
    with pytest.raises(CutError):
        run(tmp_path / "cut", progress=cut_at(5))
    resumed = run(tmp_path / "cut")
    assert len(resumed.batches) == 30
    assert torch.equal(weights(resumed), weights(uncut))


def test_a_state_half_written_by_a_kill_is_passed_over(tmp_path, saving_every_step):
    uncut = run(tmp_path / "uncut")
    with pytest.raises(CutError):
        run(tmp_path / "cut", progress=cut_at(10))
    state = (tmp_path / "cut" / "state.safetensors").read_bytes()
    (tmp_path / "cut" / ".state.safetensors.cut").write_bytes(state[: len(state) // 2])
    assert torch.equal(weights(run(tmp_path / "cut")), weights(uncut))


@pytest.mark.skipif(sys.platform == "win32", reason="files have no limit of size there")
def test_a_disk_that_fills_up_is_an_error_of_the_system_and_the_last_state_is_kept(tmp_path, saving_every_step):
    import resource

    uncut, state = run(tmp_path / "uncut"), tmp_path / "cut" / "state.safetensors"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full_at_ten(stage: str, step: int, steps: int, loss: float) -> None:
        if step == 10:
            resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size // 2, limits[1]))

    try:
        with pytest.raises(OSError, match="File too large") as caught:
            run(tmp_path / "cut", progress=full_at_ten)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(state))
    assert [file.name for file in state.parent.glob("*state*")] == [state.name]
    resumed = run(tmp_path / "cut")
    assert len(resumed.batches) == 30 - 9
    assert torch.equal(weights(resumed), weights(uncut))


def test_a_finished_stage_is_restored_without_a_step(tmp_path):
    done = run(tmp_path)
    again = Regression()
    nn.init.zeros_(again.trained[0].weight)
    run(tmp_path, again)
    assert again.batches == []
    assert torch.equal(weights(again), weights(done))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    first, same, other = (run(tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2)))
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))


def test_what_is_frozen_stays_as_it_was(tmp_path):
    before = Regression().trained[3].weight.clone()
    assert torch.equal(run(tmp_path).trained[3].weight, before)


@pytest.mark.parametrize(
    "other", [StageRecipe(60, 4, 1e-2), StageRecipe(30, 2, 1e-2), StageRecipe(30, 4, 1e-3), StageRecipe(10, 4, 1e-2)]
)
def test_a_state_of_another_recipe_is_refused(tmp_path, other):
    run(tmp_path)
    with pytest.raises(PretrainingError, match="saved by another recipe"):
        run(tmp_path, recipe=other)


@pytest.mark.parametrize("harm", ["empty", "cut short", "not safetensors", "another stage's", "without a step"])
def test_a_damaged_state_is_refused_and_named(tmp_path, harm):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    run(tmp_path)
    file = tmp_path / "state.safetensors"
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    content, tensors = file.read_bytes(), load_file(file)
    if harm == "empty":
        file.write_bytes(b"")
    elif harm == "cut short":
        file.write_bytes(content[:-1])
    elif harm == "not safetensors":
        torch.save(tensors, file)
    elif harm == "another stage's":
        save_file({"weights.conv": torch.zeros(3)}, file, metadata=metadata)
    else:
        save_file(tensors, file, metadata={"recipe": metadata["recipe"]})
    with pytest.raises(PretrainingError, match=r"state\.safetensors: the saved state is (damaged|not of this stage)"):
        run(tmp_path)


@pytest.mark.parametrize("steep", [False, True])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    tmp_path, saving_every_step, steep
):
    told = r"regression: the loss or its gradient is no longer finite at step 12.*lower learning rate"
    with pytest.raises(PretrainingError, match=told):
        run(tmp_path, Regression(poisoned_at=12, steep=steep))
    uncut = run(tmp_path / "uncut")
    assert torch.equal(weights(run(tmp_path)), weights(uncut)), "the step that failed left no trace"


def test_the_log_tells_the_mean_loss_of_every_25_steps_and_the_last(tmp_path):
    losses = []
    run(tmp_path, progress=lambda *step: losses.append(step[3]))
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [25, 30]
    assert entries[0]["loss"] == pytest.approx(np.mean(losses[:25]))
    assert entries[1]["loss"] == pytest.approx(np.mean(losses[25:]))
    assert all(entry["stage"] == "regression" and entry["samples_per_second"] > 0 for entry in entries)


def test_a_line_of_the_log_torn_by_a_full_disk_is_cut_off_when_the_run_goes_on(tmp_path):
    log = tmp_path / "log.jsonl"
    with pytest.raises(CutError):
        run(tmp_path, progress=cut_at(27))
    whole = log.read_bytes()
    assert whole.count(b"\n") == 1
    log.write_bytes(whole + whole[:40])
    run(tmp_path)
    assert log.read_bytes().startswith(whole)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [25, 25, 30]


def test_a_sample_is_drawn_at_the_end_and_clipped(tmp_path):
    run(tmp_path)
    picture = np.asarray(Image.open(tmp_path / "samples" / "step-000030.png"))
    assert picture.shape == (4, 5, 3)
    assert (picture == 255).all()


def test_progress_is_told_every_step(tmp_path):
    told = []
    run(tmp_path, progress=lambda *step: told.append(step[:3]))
    assert told == [("regression", step, 30) for step in range(1, 31)]


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rates = [loop._schedule(step, 200) for step in range(200)]
    assert rates[:11] == pytest.approx([*np.arange(1, 11) / 10, 1.0])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert [loop._schedule(0, 1)] == [1.0]


TWO_PROCESSES = """
import sys
sys.path.insert(0, {folder!r})
from pathlib import Path
import torch
from accelerate import Accelerator
from test_loop import Regression, weights
from fusion_diff.errors import PretrainingError
from fusion_diff.pretrain.loop import train
from fusion_diff.pretrain.recipe import StageRecipe
accelerator = Accelerator(cpu=True, mixed_precision="no")
assert accelerator.num_processes == 2
stage = Regression()
try:
    train(stage, StageRecipe(5, 3, 1e-2), folder=Path({out!r}) / "odd", seed=0, accelerator=accelerator)
except PretrainingError as error:
    assert "cannot be split evenly among 2 processes" in str(error)
else:
    raise AssertionError("a batch of 3 was shared by 2 processes")
train(stage, StageRecipe(5, 4, 1e-2), folder=Path({out!r}) / "even", seed=0, accelerator=accelerator)
assert stage.batches == [2] * 5
torch.save(weights(stage), Path({out!r}) / f"{{accelerator.process_index}}.pt")
"""


def test_two_processes_share_each_batch_and_end_with_the_same_weights(tmp_path):
    """They also equal those of one process with the mean of both gradients."""
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES.format(folder=str(Path(__file__).parent), out=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in range(2))
    assert torch.equal(first, second)

    class Both(Regression):
        def loss(self, count, rng, device):
            step = len(self.batches) // 2
            key = int.from_bytes(self.name.encode()[:8], "big")
            halves = [super(Both, self).loss(2, np.random.default_rng([0, key, step, p]), device) for p in range(2)]
            return (halves[0] + halves[1]) / 2

    alone = run(tmp_path / "alone", Both(), recipe=StageRecipe(5, 4, 1e-2))
    torch.testing.assert_close(first, weights(alone), rtol=1e-5, atol=1e-6)
