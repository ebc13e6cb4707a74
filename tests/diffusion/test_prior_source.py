"""Where a prior outside of its checkpoint is looked for, and what it is compared with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import huggingface_hub.constants as hub
import pytest

from fusion_diff.diffusion.prior import DiffusionPrior
from fusion_diff.diffusion.prior_source import PriorSource
from fusion_diff.errors import CheckpointError

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
REVISION = "0" * 40


@pytest.fixture
def prior(stable_diffusion_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Stable Diffusion that a test may change."""
    return shutil.copytree(stable_diffusion_folder, tmp_path / "sd")


@pytest.fixture
def cached(stable_diffusion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the hub's client keeps `owner/sd`; without network."""
    home = tmp_path / "cache" / "models--owner--sd"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(REVISION)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(stable_diffusion_folder, home / "snapshots" / REVISION)


@pytest.mark.parametrize("what", ["altered", "removed", "added"])
def test_what_is_read_of_a_prior_has_to_be_what_the_model_was_made_with(prior: Path, tmp_path: Path, what: str) -> None:
    source = PriorSource.of(tmp_path / "model", PriorSource.given(str(prior)).card)
    assert source.folder() == prior
    file = prior / WEIGHTS
    if what == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    elif what == "removed":
        file.unlink()
    else:
        file = file.with_name("diffusion_pytorch_model.safetensors.index.json")  # preferred to the weights
        file.write_text("{}")
    with pytest.raises(
        CheckpointError, match=rf"{file}: altered, .* made with the diffusion prior {prior}; restore the prior, or make"
    ):
        source.folder()


def test_what_is_not_read_of_a_prior_may_change(prior: Path) -> None:
    source = PriorSource.given(str(prior))
    (prior / "text_encoder").mkdir(exist_ok=True)
    (prior / "text_encoder" / "model.safetensors").write_bytes(b"")
    (prior / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    os.mkfifo(prior / "vae" / "more.json")
    assert source.folder() == prior


def test_a_folder_is_stored_by_its_real_path_and_never_asked_of_a_hub(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "sd").symlink_to(prior)
    card = PriorSource.given("owner/sd").card
    assert card["prior"] == str(prior)
    shutil.rmtree(prior)
    shutil.rmtree(tmp_path / "owner")
    for named in (card, card | {"prior": "owner/sd"}, {"prior": "../owner/sd"}, {"prior": "sd"}, {"prior": "~/sd"}):
        source = PriorSource.of(tmp_path / "model", named)
        with pytest.raises(CheckpointError, match="sd: the diffusion prior no longer exists; restore the folder"):
            source.folder()


@pytest.mark.parametrize("name", ["nowhere", "models/sd", "./sd", "~/sd"])
def test_a_mistyped_folder_is_not_asked_of_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(CheckpointError, match=f"{name}: no such prior; give a folder"):
        PriorSource.given(name)


def test_of_a_hub_id_the_revision_is_kept_and_its_files_are_compared(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = PriorSource.given("owner/sd").card
    assert (card["prior"], card["prior_revision"]) == ("owner/sd", REVISION)
    (cached.parents[1] / "refs" / "main").write_text("1" * 40)  # there is a newer one
    (tmp_path / "owner" / "sd").mkdir(parents=True)  # a folder of that name is not what was meant
    monkeypatch.chdir(tmp_path)
    source = PriorSource.of(tmp_path / "model", card)
    assert source.folder() == cached
    DiffusionPrior.from_pretrained(source.folder())
    (cached / WEIGHTS).write_bytes(b"other")
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}: altered, .* diffusion prior owner/sd; restore the prior"):
        source.folder()


def test_checkpoints_that_noted_no_sums_are_still_served(prior: Path, cached: Path, tmp_path: Path) -> None:
    for name, place in ((str(prior), prior), ("owner/sd", cached)):
        source = PriorSource.of(tmp_path / "model", {"prior": name})
        assert source.card == {"prior": name}
        assert source.folder() == place


@pytest.mark.parametrize("noted", [{"prior_sha256": ["x"]}, {"prior_revision": 7}])
def test_notes_of_a_prior_that_are_none_are_refused(tmp_path: Path, noted: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="prior_sha256 is no table of sums, or prior_revision no text"):
        PriorSource.of(tmp_path / "model", {"prior": "owner/sd"} | noted)
