"""Inspections to print, a small model that really looks at the pixels, and small weights really trained."""

from __future__ import annotations

import copy
import dataclasses
import errno
import itertools
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from fusion_diff.fewshot.decision import Calibration, DecisionRule
from fusion_diff.locks import locked
from fusion_diff.verdict.compared import Compared
from fusion_diff.verdict.regions import find_regions
from fusion_diff.verdict.result import EvidenceMap, Inspection, NearestReference, Region

if TYPE_CHECKING:
    from fusion_diff.fewshot.keypoints import Keypoints
    from fusion_diff.model import DiffusionModel


# How long an example takes says more of what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


COMPARED = Compared("sound", {"sound": 15, "crack": 3}, 18, {"authentic": 15, "not authentic": 3})
"""The references that verdicts made by hand rest on."""


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """Takes back what `serve` sets up: its log goes to a stream that is closed for the next test."""
    before = [(log, log.level) for log in map(logging.getLogger, (None, "fusion_diff", "uvicorn"))]
    yield
    root, _ = before[0]
    root.handlers[:] = [handler for handler in root.handlers if type(handler) is not logging.StreamHandler]
    logging.getLogger("uvicorn.access").disabled = False
    for log, level in before:
        log.setLevel(level)


@pytest.fixture
def make_inspection() -> Callable[..., Inspection]:
    """Returns an inspection made by hand, with any field changed."""
    values = np.full((4, 8), -1, dtype=np.float32)
    values[1:3, 3:5] = 3
    region = Region(4, 20, 24, 24, 16.0, 32.0, 400, 3.0, 2.5, 100.0, 16.0, 8.0, 12.0)
    inspection = Inspection(
        source="line-7/a.tif",
        file_sha256="0f" * 32,
        model_name="line-7",
        model_sha256="ab" * 32,
        references_sha256="cd" * 32,
        score=0.03125,
        decision="not authentic",
        in_scope=True,
        predicted_class="crack",
        p_values={"authentic": 0.0625, "not authentic": 0.75},
        alpha=0.1,
        evidence=EvidenceMap(values, 1 / 8, 32, 64),
        threshold=1.5,
        regions=(region,),
        nearest=(NearestReference("crack/b.tif", "crack", 0.875),),
        contributions={"dense": 2.5, "residual": -0.5},
        reasons=("One region of 100 µm² departs from the references.",),
        height=32,
        width=64,
        pixel_size_um=0.5,
        instrument="SEM",
        seconds=0.25,
        offset=0.125,
        compared_with=COMPARED,
    )

    def make(**changes: Any) -> Inspection:
        return dataclasses.replace(inspection, **changes)

    return make


class ReferencesByHand:
    """The references of the darkness model, enough of each side to decide; satisfies `Enrolled`."""

    labels = ("bright",) * 15 + ("dark",) * 3
    references_sha256 = "cd" * 32
    scope_limit = math.inf
    compared = COMPARED
    verifier = DecisionRule(Calibration(1.0, 0.0), np.arange(15.0), np.arange(3.0), np.ones(15), np.ones(3), 1.0)

    def enrolled_as(self, micrograph: object) -> None:
        return None


class DarknessModel:
    """Takes blocks of 8 by 8 pixels darker than 0.3 of full scale as evidence; satisfies `Inspector`."""

    name = "darkness"
    sha256 = "ab" * 32
    enrolment = ReferencesByHand()

    def inspect(self, micrograph: Any, *, alpha: float) -> Inspection:
        height, width = micrograph.height // 8 * 8, micrograph.width // 8 * 8
        pixels = micrograph.window(0, 0, height, width)
        blocks = pixels.reshape(height // 8, 8, width // 8, 8, -1).mean(axis=(1, 3, 4))
        values = (10 * (0.3 - blocks / np.iinfo(micrograph.dtype).max)).astype(np.float32)
        evidence = EvidenceMap(values, 1 / 8, micrograph.height, micrograph.width)
        score = 1 / (1 + math.exp(float(values.max())))
        return Inspection(
            source=str(micrograph.source),
            file_sha256=micrograph.sha256,
            model_name=self.name,
            model_sha256=self.sha256,
            references_sha256=self.enrolment.references_sha256,
            score=score,
            decision="authentic" if score > 1 - alpha else "not authentic" if score < alpha else "inconclusive",
            in_scope=True,
            predicted_class="bright" if score > 0.5 else "dark",
            p_values={"authentic": score, "not authentic": 1 - score},
            alpha=alpha,
            evidence=evidence,
            threshold=1.0,
            regions=find_regions(evidence, 1.0, pixel_size_um=micrograph.pixel_size_um),
            nearest=(),
            contributions={"darkness": float(values.max())},
            reasons=(),
            height=micrograph.height,
            width=micrograph.width,
            pixel_size_um=micrograph.pixel_size_um,
            instrument=micrograph.instrument,
            seconds=0.01,
            offset=0.0,
            compared_with=COMPARED,
            notes=micrograph.notes,
            page=micrograph.page,
        )


@pytest.fixture
def darkness_model() -> DarknessModel:
    return DarknessModel()


@pytest.fixture
def view() -> Callable[..., Keypoints]:
    """Returns the keypoints of a view of a bowl; views that begin less than 200 apart overlap."""
    import cv2

    from fusion_diff.fewshot.keypoints import Keypoints

    def find(bowl: int, left: int = 0) -> Keypoints:
        noise = np.random.default_rng(bowl).normal(size=(200, 1200)).astype(np.float32)
        glaze = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (2, 4))
        picture = cv2.normalize(glaze, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        return Keypoints.find(picture[:, left : left + 200])

    return find


@pytest.fixture
def save_micrograph() -> Callable[..., None]:
    """Writes a 16-bit TIFF with some noise about a level (of full scale), and perhaps a dark spot."""

    def save(path: Any, level: float, *, spot: bool = False, side: int = 64) -> None:
        import tifffile

        pixels = np.random.default_rng(0).uniform(level - 0.02, level + 0.02, (side, side))
        if spot:
            pixels[16:32, 24:40] = 0.0
        tifffile.imwrite(path, np.rint(65535 * pixels).astype(np.uint16))

    return save


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets reserving space for a temporary file fail from now on, after it has worked `first` times."""

    def fill(code: int = errno.ENOSPC, *, first: int = 0) -> None:
        calls = itertools.count()

        def fails(*_: int) -> None:
            if next(calls) >= first:
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "posix_fallocate", fails, raising=False)

    return fill


@pytest.fixture
def room_for() -> Callable[[int], AbstractContextManager[None]]:
    """Lets no file grow beyond a number of bytes while a block runs, as on a disk that fills up."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Sets the umask, for one test."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.fixture
def call_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line; gives (exit code, stdout, stderr)."""
    from fusion_diff import cli

    def call(*words: object) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def call_with_darkness(monkeypatch: pytest.MonkeyPatch, call_cli: Callable, darkness_model: object) -> Callable:
    """Runs the command line with the darkness model in place of a real one; gives (exit code, stdout, stderr)."""
    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", lambda *_: darkness_model)
    return call_cli


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives a folder that one of the processes of a run builds and all of them read. It must not be changed."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "built"

    def give(name: str, build: Callable[[Path], object]) -> Path:
        folder, built = shared / name, shared / f"{name}.built"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (shared / f"{name}.lock").open("a") as lock, locked(lock.fileno()):
            if not built.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                build(folder)
                built.touch()
        return folder

    return give


@pytest.fixture(scope="session")
def pretraining_run(built_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The folder of a whole pretraining run by the recipe "smoke": every stage really trains, for four steps."""

    def build(out: Path) -> None:
        from accelerate import Accelerator

        from fusion_diff.pretrain.recipe import RECIPES
        from fusion_diff.pretrain.run import pretrain

        pretrain(out, RECIPES["smoke"], accelerator=Accelerator(cpu=True, mixed_precision="no"))

    return built_once("pretraining/run", build)


@pytest.fixture(scope="session")
def checkpoint_folder() -> Path:
    """The embedded checkpoint. Not to be changed: copy it."""
    from fusion_diff.checkpoint import EMBEDDED, locate

    return locate(EMBEDDED)


@pytest.fixture(scope="session")
def embedded(checkpoint_folder: Path) -> DiffusionModel:
    """The embedded model with its built-in references, loaded once. Not to be changed: `copy.deepcopy` it."""
    from fusion_diff.model import DiffusionModel

    return DiffusionModel.from_pretrained(checkpoint_folder)


@pytest.fixture
def model(embedded: DiffusionModel) -> DiffusionModel:
    """A model of one's own with the embedded weights, not enrolled."""
    own = copy.deepcopy(embedded)
    own.enrolment = None
    return own


@pytest.fixture(scope="session")
def stable_diffusion_folder(built_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A prior of random weights in the layout of `CompVis/stable-diffusion-v1-4`, a thousandth of its width.

    It has all of that repository's folders, the scheduler's settings as published, and in the autoencoder the older
    names of the attention weights that the published file has.
    """
    return built_once("stable-diffusion/tiny", _write_stable_diffusion)


def _write_stable_diffusion(folder: Path) -> None:
    import json

    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=512,
    ).save_pretrained(folder / "vae")
    UNet2DConditionModel(
        sample_size=64,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=32,
        norm_num_groups=4,
    ).save_pretrained(folder / "unet")

    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in load_file(weights).items():
        for new, old in older.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[name] = value
    save_file(renamed, weights, metadata={"format": "pt"})

    scheduler = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.2.2",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.2.2",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    # What is not read is there, and is not what it says: reading it would fail.
    for file, content in {
        "model_index.json": index,
        "scheduler/scheduler_config.json": scheduler,
        "text_encoder/config.json": {"architectures": ["CLIPTextModel"]},
        "tokenizer/tokenizer_config.json": {"tokenizer_class": "CLIPTokenizer"},
        "safety_checker/config.json": {"architectures": ["StableDiffusionSafetyChecker"]},
        "feature_extractor/preprocessor_config.json": {"size": 224},
    }.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"not weights")


@pytest.fixture(scope="session")
def deit_folder(built_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A tiny DeiT of random weights, saved as transformers saves it, with a classifier as published ones have."""

    def build(folder: Path) -> None:
        import torch
        from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

        torch.manual_seed(1)
        shape = DeiTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
        DeiTForImageClassificationWithTeacher(shape).save_pretrained(folder)

    return built_once("deit/tiny", build)


@pytest.fixture(scope="session")
def exported_folder(built_once: Callable[[str, Callable[[Path], object]], Path], embedded: DiffusionModel) -> Path:
    """The embedded model with its built-in references, exported for onnxruntime. Not to be changed: copy it."""

    def build(folder: Path) -> None:
        from fusion_diff.export.run import export_model

        export_model(copy.deepcopy(embedded), folder)

    return built_once("exported/model", build)


@pytest.fixture(scope="session")
def narrow_model() -> DiffusionModel:
    """A model whose DeiT has two narrow blocks of random weights, for a fast export; not enrolled. Copy it."""
    import torch

    from fusion_diff.diffusion.prior_source import PriorSource
    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.encoder.local_path import LocalPath
    from fusion_diff.model import DiffusionModel

    shape = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "patch_size": 32,
        "image_size": 224,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-6,
    }
    torch.manual_seed(0)
    encoder = DualPathEncoder.from_config(shape, condition_width=32, bottleneck=4)
    encoder.local_path.load_state_dict(LocalPath.from_imagenet().state_dict())
    card = {"name": "base", "prior": "owner/none", "encoder": encoder.config}
    return DiffusionModel(encoder, PriorSource("owner/none"), card=card, readme="", sha256="ab" * 32, enrolment=None)


@pytest.fixture(scope="session")
def narrow_folder(
    built_once: Callable[[str, Callable[[Path], object]], Path],
    narrow_model: DiffusionModel,
    stable_diffusion_folder: Path,
) -> Path:
    """The narrow model saved with a tiny prior, for tests that learn where the weights are not what matters.

    It learns in a fifth of the time of the embedded model. Not to be changed: copy it.
    """

    def build(folder: Path) -> None:
        from fusion_diff.checkpoint import read_json, seal, write_json

        copy.deepcopy(narrow_model).save_pretrained(folder)
        shutil.copytree(stable_diffusion_folder, folder / "prior")
        write_json(folder / "config.json", read_json(folder / "config.json") | {"prior": "prior"})
        seal(folder)

    return built_once("narrow/base", build)


@pytest.fixture
def narrow(narrow_folder: Path) -> DiffusionModel:
    """A narrow model of one's own, with a prior, not enrolled."""
    from fusion_diff.model import DiffusionModel

    return DiffusionModel.from_pretrained(narrow_folder)
