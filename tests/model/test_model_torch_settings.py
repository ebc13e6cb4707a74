"""What the caller has set for torch does not reach into the model, and is as it was afterwards."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from fusion_diff import devices
from fusion_diff.devices import OwnNumbers, own_settings
from fusion_diff.enrolment import enrolment
from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.trust.poisoning import audit_references


@contextmanager
def double():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "double": double,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "device": lambda: torch.device("meta"),
}


@pytest.mark.filterwarnings("ignore:too few references")
@pytest.mark.parametrize("kind", SETTINGS)
def test_a_model_is_loaded_enrolled_and_asked_as_without_settings(narrow_folder, make_references, draw, kind):
    references, micrograph = make_references({"fine": 2, "coarse": 2}), Micrograph.from_array(draw("fine", 7))

    def scores() -> tuple[object, ...]:
        model = DiffusionModel.from_pretrained(narrow_folder)
        audited = audit_references(model, references)
        dtype = next(model.reconstruction.prior.vae.parameters()).dtype  # loaded by the caller
        enrolment = model.enroll(references, reconstruction=True)
        it = model.inspect(micrograph, purify=True)
        few = enrolment.shots(1).figures  # learned by the caller
        model.to("cpu:0")  # a device by another name, so that what was learned is moved
        return float(model.predict_authenticity(micrograph)), it.score, few, audited, dtype

    expected = scores()
    with SETTINGS[kind]():
        assert scores() == expected
        found = torch.get_default_dtype(), torch.is_autocast_enabled("cpu"), torch.get_default_device().type
    assert found == (
        torch.float64 if kind == "double" else torch.float32,
        kind == "autocast",
        "meta" if kind == "device" else "cpu",
    )


def test_what_was_loaded_and_learned_in_inference_mode_is_of_use_outside(
    narrow_folder, make_references, draw, tmp_path
):
    references, micrograph = make_references({"fine": 2, "coarse": 2}), Micrograph.from_array(draw("fine", 7))
    with torch.inference_mode():
        model = DiffusionModel.from_pretrained(narrow_folder)
        model.enroll(references, reconstruction=True)
        model.to("cpu:0")  # moved in it, too
        scores = [model.inspect(micrograph, purify=purify, shots=shots).score for purify in (0, 1) for shots in (1, 2)]
        assert torch.is_inference_mode_enabled()
    assert not any(value.is_inference() for value in model.encoder.state_dict().values())
    assert not any(value.is_inference() for value in model.reconstruction.prior.state_dict().values())
    assert scores == [
        model.inspect(micrograph, purify=purify, shots=shots).score for purify in (0, 1) for shots in (1, 2)
    ]
    model.to("cpu").save_pretrained(tmp_path / "line-7")
    audit_references(model, references)
    assert model.enroll(references).shots(1).figures == model.enrolment.shots(1).figures


def test_loading_a_model_takes_none_of_the_callers_random_numbers(checkpoint_folder):
    before = torch.get_rng_state()
    model = DiffusionModel.from_pretrained(checkpoint_folder)
    assert model.reconstruction.prior.unet is not None
    assert torch.equal(torch.get_rng_state(), before)
    with OwnNumbers():
        mine = torch.nn.Linear(4, 4).weight
        assert not torch.equal(torch.nn.Linear(4, 4).weight, mine), "they are random all the same"
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_type_comes_back_when_the_last_of_several_threads_is_done():
    def work(number: int) -> torch.dtype:
        with own_settings():
            return torch.zeros(1).dtype

    with double(), ThreadPoolExecutor(4) as pool:
        assert set(pool.map(work, range(200))) == {torch.float32}
        assert torch.get_default_dtype() == torch.float64
    with double(), pytest.raises(RuntimeError), own_settings():
        raise RuntimeError
    assert torch.get_default_dtype() == torch.float32


def test_what_is_set_during_a_call_is_the_callers_and_stays():
    with double():
        with own_settings():
            torch.set_default_dtype(torch.bfloat16)
        assert torch.get_default_dtype() == torch.bfloat16
        with own_settings():
            torch.set_default_dtype(torch.float64)
            with own_settings():
                assert torch.get_default_dtype() == torch.float32
            assert torch.get_default_dtype() == torch.float32, "that of the call around it"
        assert torch.get_default_dtype() == torch.float64


def test_a_generator_of_micrographs_runs_with_the_callers_settings(narrow_folder, make_references, draw):
    model = DiffusionModel.from_pretrained(narrow_folder)
    model.enroll(make_references({"fine": 2, "coarse": 2}))
    found = []

    def micrographs():
        for seed in (7, 8):
            found.append(torch.get_default_dtype())
            yield Micrograph.from_array(draw("fine", seed))

    with double():
        model.predict_authenticity(micrographs())
    assert found == [torch.float64] * 2


forks = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")


@forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking with several threads
def test_a_child_that_is_forked_during_the_calls_of_other_threads_has_the_callers_type_and_no_lock():
    inside, done = threading.Event(), threading.Event()

    def work() -> None:
        with enrolment._LEARNING, own_settings(), devices._SETTINGS.lock:
            inside.set()
            done.wait()

    def child(pipe, own: int) -> None:
        with enrolment._LEARNING:
            before = torch.get_default_dtype()
            with own_settings():
                during = torch.get_default_dtype()
            pipe.send((before, during, torch.get_default_dtype(), devices._SETTINGS.calls == own))

    def forked(own: int):
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=child, args=(there, own))
        process.start()
        try:
            assert here.poll(30), "the child waits for a lock"
            return here.recv()
        finally:
            process.kill()
            process.join()

    with double():
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait()
        try:
            assert forked(0) == (torch.float64, torch.float32, torch.float64, True)
        finally:
            done.set()
            thread.join()
        with own_settings():
            assert forked(1) == (torch.float32, torch.float32, torch.float32, True), "the call goes on in the child"


@forks
def test_a_forked_child_predicts_after_its_parent_has():
    """With threads of its own it would wait for its parent's for ever."""
    script = """
import multiprocessing, warnings
import numpy as np, torch
from fusion_diff import DiffusionModel, Micrograph
warnings.simplefilter("ignore")
torch.set_num_threads(2)
model = DiffusionModel.from_pretrained()
micrograph = Micrograph.from_array(np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8))

def score(_):
    return float(model.predict_authenticity(micrograph)), torch.get_num_threads()

here = score(0)[0]
with multiprocessing.get_context("fork").Pool(1) as pool:
    ((there, threads),) = pool.map_async(score, [0]).get(60)
    assert threads == 1 and abs(there - here) < 1e-4, (here, there, threads)
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
