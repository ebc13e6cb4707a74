"""A whole pretraining run: every stage trains, and the result is a model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from fusion_diff.checkpoint import EMBEDDED, read_json, verify
from fusion_diff.diffusion.prior import DiffusionPrior
from fusion_diff.encoder.dual_path import DualPathEncoder
from fusion_diff.encoder.global_path import DISTILLED_CONFIG, GlobalPath
from fusion_diff.encoder.local_path import LocalPath
from fusion_diff.errors import CheckpointError, PretrainingError
from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.pretrain.pool import Pool
from fusion_diff.pretrain.recipe import RECIPES, STAGES
from fusion_diff.pretrain.run import _contained, _measure_channels, pretrain
from fusion_diff.references import ReferenceSet
from fusion_diff.weights import compact, expand

SMOKE = RECIPES["smoke"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def accelerator() -> Accelerator:
    return Accelerator(cpu=True, mixed_precision="no")


@pytest.fixture
def folder(pretraining_run, tmp_path):
    """A folder for a new run with a pool, because generating one takes long."""
    shutil.copytree(pretraining_run / "pool", tmp_path / "run" / "pool")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def references() -> ReferenceSet:
    rng = np.random.default_rng(0)
    images = [rng.random((224, 224)) ** (1 + 3 * (index >= 2)) for index in range(4)]
    micrographs = [Micrograph.from_array(pixels) for pixels in images]
    return ReferenceSet.from_micrographs(micrographs, ["sound"] * 2 + ["crack"] * 2, authentic="sound")


def test_a_run_leaves_a_state_a_log_and_pictures_of_every_stage(pretraining_run):
    for stage in STAGES:
        assert (pretraining_run / stage / "state.safetensors").is_file()
        entries = [json.loads(line) for line in (pretraining_run / stage / "log.jsonl").read_text().splitlines()]
        assert entries[-1]["step"] == SMOKE.stage(stage).steps
        of_tokens = stage in ("distil", "flaws")
        assert (pretraining_run / stage / "samples").exists() != of_tokens, "tokens make no picture"


def test_what_comes_out_is_a_model_that_enrols_and_inspects(pretraining_run, references):
    verify(pretraining_run / "checkpoint")
    model = DiffusionModel.from_pretrained(pretraining_run / "checkpoint")
    assert model.name == pretraining_run.name != EMBEDDED
    assert model.card["pretraining"]["name"] == "smoke"
    assert "    fusion-diff pretrain --recipe smoke --out DIR\n" in model.readme
    assert "The flaw detector learned from 1 lot with flaws" in model.readme
    enrolment = model.enroll(references, reconstruction=True)
    assert "weight of reconstruction" in enrolment.figures
    inspection = model.inspect(references[0].micrograph)
    assert 0 < inspection.score < 1
    assert inspection.nearest[0].name == references[0].name


def test_the_checkpoint_has_the_weights_that_training_ended_with(pretraining_run):
    trained = load_file(pretraining_run / "feedback" / "state.safetensors")
    shipped = load_file(pretraining_run / "checkpoint" / "encoder.safetensors")
    assert shipped
    kept = compact({name: trained[f"weights.{name}"] for name in expand(shipped)})
    assert set(kept) == set(shipped)
    for name, value in shipped.items():
        torch.testing.assert_close(value, kept[name])


def taught_adapters(before, after) -> set[str]:
    """Return the names of the adapters that the last stage changed; fail if it changed a block."""
    backbone = [name for name in before if name.startswith("weights.student.") and ".adapter." not in name]
    assert backbone
    for name in backbone:
        assert torch.equal(before[name], after[name.replace("weights.student.", "weights.global_path.")])
    adapters = [name for name in after if name.startswith("weights.") and ".adapter.up.weight" in name]
    assert adapters
    assert not any(before[name.replace("global_path.", "student.")].any() for name in adapters)
    return {name for name in adapters if after[name].any()}


def test_the_last_stage_leaves_the_tokens_as_they_are(pretraining_run):
    before = load_file(pretraining_run / "distil" / "state.safetensors")
    after = load_file(pretraining_run / "feedback" / "state.safetensors")
    assert taught_adapters(before, after) == set()


def test_the_last_stage_teaches_the_adapters_where_asked(pretraining_run, tmp_path):
    for part in ("pool", "autoencoder", "prior", "distil"):
        shutil.copytree(pretraining_run / part, tmp_path / "run" / part)
    pretrain(tmp_path / "run", replace(SMOKE, adapters=True), accelerator=accelerator())
    before = load_file(tmp_path / "run" / "distil" / "state.safetensors")
    after = load_file(tmp_path / "run" / "feedback" / "state.safetensors")
    assert len(taught_adapters(before, after)) == 8


def test_the_encoder_of_a_checkpoint_keeps_its_tokens_and_detector_and_gets_a_prior_of_its_own(pretraining_run, folder):
    given = pretraining_run / "checkpoint"
    made = pretrain(folder, replace(SMOKE, seed=3, condition_tokens=2), accelerator=accelerator(), encoder=str(given))
    assert (made / "flaw_detector.safetensors").read_bytes() == (given / "flaw_detector.safetensors").read_bytes()
    ours, theirs = (load_file(each / "encoder.safetensors") for each in (made, given))
    kept = {name for name in theirs if name.startswith(("global_", "local_norm"))}
    assert all(torch.equal(ours[name], theirs[name]) for name in kept)
    assert not torch.equal(ours["condition_head.3.bias"][:192], theirs["condition_head.3.bias"])
    unet = "prior/unet/diffusion_pytorch_model.safetensors"
    assert (made / unet).read_bytes() != (given / unet).read_bytes()
    assert not (folder / "distil").exists()
    assert not (folder / "flaws").exists()
    model, before = DiffusionModel.from_pretrained(made), DiffusionModel.from_pretrained(given)
    assert f"that of `{given}`, with bottleneck adapters" in model.readme
    assert f"    fusion-diff pretrain --recipe smoke --encoder {given} --condition-tokens 2 --out DIR\n" in model.readme
    assert f"The flaw detector is that of `{given}`." in model.readme
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = model.encoder(pixels), before.encoder(pixels)
    assert torch.equal(one.tokens, other.tokens)
    assert one.condition.shape == (1, 2, 192)


def test_that_the_references_of_a_given_encoder_are_not_kept_is_said_before_the_run(tmp_path, recwarn):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    model = DiffusionModel.from_pretrained()
    model.enrolment = replace(model.enrolment, builtin=False)
    model.save_pretrained(tmp_path / "line-7")
    for given in (EMBEDDED, str(tmp_path / "line-7")):
        with pytest.raises(PretrainingError, match="other settings"):
            pretrain(tmp_path / "run", SMOKE, accelerator=accelerator(), encoder=given)
        told = [str(each.message) for each in recwarn if "references that are enrolled in it" in str(each.message)]
        assert len(told) == (given != EMBEDDED)


def test_teaching_the_adapters_of_a_given_encoder_changes_its_tokens_and_makes_a_detector_for_them(
    pretraining_run, folder
):
    given = pretraining_run / "checkpoint"
    recipe = replace(SMOKE, adapters=True, feedback=replace(SMOKE.feedback, learning_rate=0.01))
    made = pretrain(folder, recipe, accelerator=accelerator(), prior=str(given), encoder=str(given))
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (DiffusionModel.from_pretrained(each).encoder(pixels) for each in (made, given))
    assert not torch.equal(one.structure, other.structure)
    assert torch.equal(one.texture, other.texture)
    assert (folder / "flaws" / "state.safetensors").is_file()


def test_a_deit_and_an_encoder_are_not_taken_together(folder, deit_folder):
    with pytest.raises(PretrainingError, match="give one of the two"):
        pretrain(folder, SMOKE, accelerator=accelerator(), deit=str(deit_folder), encoder=EMBEDDED)


def test_a_prior_that_a_checkpoint_contains_is_contained_in_the_new_one_too(pretraining_run, folder, deit_folder):
    given = pretraining_run / "checkpoint"
    out = pretrain(folder, SMOKE, accelerator=accelerator(), prior=str(given), deit=str(deit_folder))
    assert not (folder / "autoencoder").exists()
    for part in ("unet", "vae"):
        ours, theirs = (
            load_file(each / "prior" / part / "diffusion_pytorch_model.safetensors") for each in (out, given)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    model = DiffusionModel.from_pretrained(out)
    assert model.card["prior"] == "prior"
    assert f"that of `{given}`, used as it is and contained in this folder" in model.readme
    assert model.reconstruction.prior.stride == 4
    assert read_json(folder / "run.json")["prior"] == str(given)


def test_a_prior_is_contained_only_in_a_checkpoint_that_has_one(
    pretraining_run, checkpoint_folder, stable_diffusion_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert _contained(EMBEDDED) == checkpoint_folder / "prior"
    assert _contained(str(pretraining_run / "checkpoint")) == pretraining_run / "checkpoint" / "prior"
    bare = shutil.copytree(checkpoint_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("prior"))
    for name in (str(bare), "bare", str(stable_diffusion_folder), "CompVis/stable-diffusion-v1-4", "no-such-model"):
        assert _contained(name) is None


def test_a_prior_given_by_its_folder_is_named_and_not_contained(pretraining_run, folder, deit_folder):
    given = str(pretraining_run / "checkpoint" / "prior")
    out = pretrain(folder, SMOKE, accelerator=accelerator(), prior=given, deit=str(deit_folder), feedback=False)
    assert not (out / "prior").exists()
    model = DiffusionModel.from_pretrained(out)
    assert model.card["prior"] == given
    assert "not contained in this folder" in model.readme


def test_the_projection_keeps_the_most_of_the_standardised_tokens_that_so_many_channels_can(pretraining_run):
    pool = Pool.open(pretraining_run / "pool", SMOKE.pool, SMOKE.seed, 1)
    torch.manual_seed(0)
    wide = GlobalPath.from_config(
        DISTILLED_CONFIG | {"num_hidden_layers": 2, "hidden_size": 384, "num_attention_heads": 6}
    ).eval()
    encoder = DualPathEncoder(LocalPath.from_imagenet(), wide, condition_width=8).eval()
    _measure_channels(encoder, pool)
    weight = encoder.global_projection.weight.flatten(1)
    assert weight.shape == (256, 384)
    torch.testing.assert_close(weight @ weight.T, torch.eye(256), rtol=0, atol=1e-4)

    rng = np.random.default_rng(0)
    with torch.no_grad():  # the sample that statistics are measured on
        patches = wide(pool.batch(16, 224, rng)[0])[0]
        tokens = encoder.global_norm(patches).movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(384), rtol=0, atol=1e-2)
    torch.testing.assert_close(tokens.std(0), torch.ones(384), rtol=0, atol=1e-2)
    variances = torch.linalg.svdvals(tokens - tokens.mean(0)).square() / (len(tokens) - 1)
    projected = (tokens @ weight.T).var(0)
    assert float(projected.sum()) == pytest.approx(float(variances[:256].sum()), rel=1e-3)
    assert float(projected.min()) > 5 * float(variances[255]), "no channel stands for a minor component alone"


def test_the_published_weights_of_the_local_path_stay_untouched(pretraining_run):
    after = load_file(pretraining_run / "feedback" / "state.safetensors")
    for name, value in LocalPath.from_imagenet().state_dict().items():
        assert torch.equal(after[f"weights.local_path.{name}"], value), name


def test_latents_of_the_trained_autoencoder_are_scaled_to_unit_variance(pretraining_run):
    prior = DiffusionPrior.from_pretrained(pretraining_run / "checkpoint" / "prior")
    pixels, _ = Pool.open(pretraining_run / "pool", SMOKE.pool, SMOKE.seed, 1).batch(16, 128, np.random.default_rng(5))
    with torch.no_grad():
        assert float(prior.encode(pixels).std()) == pytest.approx(1, abs=0.25)


def test_given_a_prior_and_a_deit_only_the_last_stages_are_run(
    folder, stable_diffusion_folder, deit_folder, references, tmp_path
):
    """The setup of the study: a frozen Stable Diffusion trains a DeiT with adapters."""
    out = pretrain(folder, SMOKE, accelerator=accelerator(), prior=str(stable_diffusion_folder), deit=str(deit_folder))
    assert {path.name for path in folder.iterdir()} == {"pool", "run.json", "feedback", "flaws", "checkpoint"}
    model = DiffusionModel.from_pretrained(out)
    assert model.card["prior"] == str(stable_diffusion_folder)
    assert model.encoder.paths == (152, 32)
    assert model.encoder.condition_width == 32
    assert model.reconstruction.prior.stride == 8
    model.enroll(references, reconstruction=True)
    before = model.predict_authenticity(references[0].micrograph)
    model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "prior").exists()
    torch.testing.assert_close(
        DiffusionModel.from_pretrained(tmp_path / "saved").predict_authenticity(references[0].micrograph), before
    )


def test_a_prior_given_by_a_relative_path_is_found_and_compared_from_everywhere(
    folder, stable_diffusion_folder, deit_folder, references, tmp_path, monkeypatch
):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    (tmp_path / "priors").mkdir()
    prior = shutil.copytree(stable_diffusion_folder, tmp_path / "priors" / "sd")
    monkeypatch.chdir(tmp_path)
    out = pretrain(folder, SMOKE, accelerator=accelerator(), prior="priors/sd", deit=str(deit_folder), feedback=False)
    monkeypatch.chdir("/")
    model = DiffusionModel.from_pretrained(out)
    assert model.card["prior"] == str(prior)
    assert sorted(model.card["prior_sha256"]) == [
        "scheduler/scheduler_config.json",
        *(f"{part}/{file}" for part in ("unet", "vae") for file in ("config.json", WEIGHTS)),
    ]
    model.enroll(references)
    model.save_pretrained(tmp_path / "saved")
    assert DiffusionModel.from_pretrained(tmp_path / "saved").inspect(references[0].micrograph, purify=True).score > 0
    weights = {name: value + 0.01 for name, value in load_file(prior / "unet" / WEIGHTS).items()}
    save_file(weights, prior / "unet" / WEIGHTS, metadata={"format": "pt"})
    again = DiffusionModel.from_pretrained(tmp_path / "saved")
    with pytest.raises(CheckpointError, match=rf"sd/unet/{WEIGHTS}: altered, .* made with the diffusion prior {prior}"):
        again.inspect(references[0].micrograph, purify=True)


def test_without_feedback_the_last_stage_is_left_out(folder, stable_diffusion_folder, deit_folder):
    out = pretrain(
        folder,
        SMOKE,
        accelerator=accelerator(),
        prior=str(stable_diffusion_folder),
        deit=str(deit_folder),
        feedback=False,
    )
    assert not (folder / "feedback").exists()
    model = DiffusionModel.from_pretrained(out)
    assert model.card["pretraining"]["feedback"] is False
    assert not any(parameter.any() for name, parameter in model.encoder.named_parameters() if ".adapter.up." in name)


@pytest.mark.parametrize("settings", [{"feedback": False}, {"prior": "another"}, {"recipe": RECIPES["cpu"]}])
def test_a_folder_with_a_run_of_other_settings_is_refused(pretraining_run, tmp_path, settings):
    (tmp_path / "run").mkdir()
    shutil.copy(pretraining_run / "run.json", tmp_path / "run")
    options = {"recipe": SMOKE, "accelerator": accelerator()} | settings
    with pytest.raises(PretrainingError, match="run with other settings"):
        pretrain(tmp_path / "run", **options)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_damaged_run_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(PretrainingError, match=r"run\.json: damaged"):
        pretrain(tmp_path, SMOKE, accelerator=accelerator())


def test_a_finished_run_is_returned_as_it_is(pretraining_run, tmp_path):
    """Every stage is restored without a step, and the checkpoint is the same."""
    copy = shutil.copytree(pretraining_run, tmp_path / "run")
    shutil.rmtree(copy / "checkpoint")
    steps = []
    pretrain(copy, SMOKE, accelerator=accelerator(), progress=lambda *step: steps.append(step))
    assert steps == []
    for name in ("encoder.safetensors", "prior/unet/diffusion_pytorch_model.safetensors"):
        ours, theirs = load_file(copy / "checkpoint" / name), load_file(pretraining_run / "checkpoint" / name)
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-3)


def test_a_damaged_state_stops_the_run_before_its_stage(pretraining_run, tmp_path):
    copy = shutil.copytree(pretraining_run, tmp_path / "run")
    state = copy / "prior" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(PretrainingError, match=r"prior/state\.safetensors: the saved state is damaged"):
        pretrain(copy, SMOKE, accelerator=accelerator())


@pytest.mark.parametrize("part", ["prior", "deit", "encoder"])
def test_a_prior_or_deit_or_encoder_that_cannot_be_loaded_is_named(folder, stable_diffusion_folder, part):
    options = {"prior": str(stable_diffusion_folder), part: str(folder / "nowhere")}
    with pytest.raises(CheckpointError, match="nowhere"):
        pretrain(folder, SMOKE, accelerator=accelerator(), **options)
