"""The prior: published equations, comparison with diffusers' own sampler, and folders to read or refuse."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion_diff.checkpoint import MAX_JSON_BYTES
from fusion_diff.diffusion.prior import DiffusionPrior, embedded_architecture
from fusion_diff.errors import CheckpointError


@pytest.fixture
def folder(stable_diffusion_folder, tmp_path):
    """A copy of the tiny Stable Diffusion that a test may break."""
    return shutil.copytree(stable_diffusion_folder, tmp_path / "tiny")


@pytest.fixture(scope="module")
def prior(stable_diffusion_folder) -> DiffusionPrior:
    return DiffusionPrior.from_pretrained(stable_diffusion_folder)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def predicting(prediction_type: str) -> DiffusionPrior:
    """A small prior with random weights that predicts the noise or the velocity."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    return DiffusionPrior(vae, unet, DDIMScheduler(prediction_type=prediction_type, clip_sample=False)).freeze()


def test_a_folder_in_the_stable_diffusion_layout_loads(prior):
    assert prior.stride == 8
    assert prior.condition_width == 32
    assert prior.timesteps == 1000
    assert not prior.training
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_a_loaded_prior_does_not_change_with_its_files(prior, tmp_path):
    prior.save_pretrained(tmp_path)
    loaded = DiffusionPrior.from_pretrained(tmp_path)
    for file in tmp_path.glob("*/*.safetensors"):
        with file.open("r+b") as stream:
            stream.write(bytes(file.stat().st_size))
    for name, value in prior.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, msg=name)


def test_the_published_older_names_of_attention_weights_are_understood(prior, stable_diffusion_folder):
    stored = load_file(stable_diffusion_folder / "vae" / "diffusion_pytorch_model.safetensors")
    attention = prior.vae.encoder.mid_block.attentions[0]
    for old, layer in (("query", attention.to_q), ("proj_attn", attention.to_out[0])):
        torch.testing.assert_close(layer.weight, stored[f"encoder.mid_block.attentions.0.{old}.weight"])


def test_the_noise_levels_are_those_of_stable_diffusion(prior):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(prior.alphas_cumprod, torch.cumprod(1 - betas, 0).float(), rtol=1e-4, atol=1e-6)


def test_a_tile_goes_through_and_comes_back_in_range(prior):
    pixels = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        latents = prior.encode(pixels)
        restored = prior.denoise(latents, torch.zeros(2, 1, 32), strength=0.3, steps=2, noise=normal(*latents.shape))
        back = prior.decode(restored)
    assert latents.shape == restored.shape == (2, 4, 28, 28)
    assert back.shape == pixels.shape
    assert float(back.min()) >= 0
    assert float(back.max()) <= 1


def test_latents_are_scaled_by_the_published_factor(prior):
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        bare = prior.vae.encode(pixels * 2 - 1).latent_dist.mean
        torch.testing.assert_close(prior.encode(pixels), 0.18215 * bare)
        shown = prior.vae.decode(bare).sample
        torch.testing.assert_close(prior.decode(0.18215 * bare), (shown / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-5)


def test_noise_is_added_as_diffusers_adds_it(prior):
    latents, noise = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    timesteps = torch.tensor([0, 499, 999])
    expected = prior.scheduler.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(prior.add_noise(latents, noise, timesteps), expected)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_denoising_takes_the_steps_of_the_ddim_scheduler(prediction_type):
    prior = predicting(prediction_type)
    latents, noise, condition = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1), normal(2, 3, 12, seed=2)
    # strength 0.401 begins at timestep 400: four steps of 100, the last to the clean latents
    ours = prior.denoise(latents, condition, strength=0.401, steps=4, noise=noise)
    oracle = DDIMScheduler.from_config(prior.scheduler.config, set_alpha_to_one=True)
    x = oracle.add_noise(latents, noise, torch.tensor([400, 400]))
    for timestep in (400, 300, 200, 100):
        oracle.set_timesteps(10 if timestep > 100 else 1)
        with torch.no_grad():
            output = prior.unet(x, timestep, encoder_hidden_states=condition).sample
        x = oracle.step(output, timestep, x, eta=0.0).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


class KnowsTheLatents(nn.Module):
    """The perfect predictor for one image: returns the noise or velocity that was added to `latents`."""

    def __init__(self, prior: DiffusionPrior, latents: Tensor) -> None:
        super().__init__()
        self.config, self.scheduler = prior.unet.config, prior.scheduler
        self.latents = latents

    def forward(self, x: Tensor, timestep: int, encoder_hidden_states: Tensor) -> object:
        alpha = self.scheduler.alphas_cumprod[timestep]
        noise = (x - alpha.sqrt() * self.latents) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * self.latents
        epsilon = self.scheduler.config.prediction_type == "epsilon"
        return type("Output", (), {"sample": noise if epsilon else velocity})


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("strength", "steps"), [(0.3, 1), (0.5, 10), (1.0, 25), (0.0001, 1)])
def test_a_perfect_predictor_recovers_the_latents(prediction_type, strength, steps):
    prior, latents = predicting(prediction_type), normal(2, 4, 8, 8)
    perfect = DiffusionPrior(prior.vae, KnowsTheLatents(prior, latents), prior.scheduler)
    restored = perfect.denoise(
        latents, torch.zeros(2, 1, 12), strength=strength, steps=steps, noise=normal(2, 4, 8, 8, seed=1)
    )
    torch.testing.assert_close(restored, latents, rtol=0, atol=1e-3)


def test_the_weaker_the_noise_the_more_of_the_micrograph_is_left(prior):
    latents, noise = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1)
    errors = []
    for strength in (0.01, 0.2, 0.5):
        with torch.no_grad():
            restored = prior.denoise(latents, torch.zeros(1, 1, 32), strength=strength, steps=1, noise=noise)
        errors.append(float((restored - latents).square().mean()))
    assert errors == sorted(errors)


@pytest.mark.parametrize(("strength", "steps"), [(0.0, 1), (1.1, 1), (-0.5, 1), (0.5, 0)])
def test_a_strength_or_steps_out_of_range_are_refused(prior, strength, steps):
    latents = normal(1, 4, 8, 8)
    with pytest.raises(ValueError, match="strength must lie"):
        prior.denoise(latents, torch.zeros(1, 1, 32), strength=strength, steps=steps, noise=latents)


def test_the_loss_of_a_frozen_prior_gives_gradients_to_the_condition_alone(prior):
    condition = normal(2, 1, 32).requires_grad_(True)
    loss = prior.noise_prediction_loss(normal(2, 4, 8, 8), condition, torch.Generator().manual_seed(0))
    loss.backward()
    assert float(condition.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_the_loss_of_a_prior_in_training_reaches_the_unet():
    prior = predicting("epsilon")
    prior.unet.requires_grad_(True)
    prior.noise_prediction_loss(normal(2, 4, 8, 8), normal(2, 1, 12)).backward()
    assert all(parameter.grad is not None for parameter in prior.unet.parameters())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_the_error_of_the_prediction(prediction_type):
    prior, latents, condition = predicting(prediction_type), normal(3, 4, 8, 8), normal(3, 1, 12)
    with torch.no_grad():
        loss = prior.noise_prediction_loss(latents, condition, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(1000, (3,), generator=generator)
    target = noise if prediction_type == "epsilon" else prior.scheduler.get_velocity(latents, noise, timesteps)
    with torch.no_grad():
        noised = prior.scheduler.add_noise(latents, noise, timesteps)
        predicted = prior.unet(noised, timesteps, encoder_hidden_states=condition).sample
    torch.testing.assert_close(loss, (predicted - target).square().mean())


def test_a_seeded_loss_repeats(prior):
    def loss(seed: int) -> float:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            return float(prior.noise_prediction_loss(normal(2, 4, 8, 8), torch.zeros(2, 1, 32), generator))

    assert loss(1) == loss(1) != loss(2)


def test_saving_and_loading_returns_the_same_prior(prior, tmp_path):
    prior.save_pretrained(tmp_path / "saved")
    again = DiffusionPrior.from_pretrained(tmp_path / "saved")
    for name, value in prior.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.scheduler.config.prediction_type == prior.scheduler.config.prediction_type
    torch.testing.assert_close(again.alphas_cumprod, prior.alphas_cumprod)
    latents = normal(1, 4, 8, 8)
    with torch.no_grad():
        first, second = (
            p.decode(p.denoise(latents, torch.zeros(1, 1, 32), strength=0.5, steps=2, noise=latents))
            for p in (prior, again)
        )
    torch.testing.assert_close(first, second)


def test_a_prior_saved_in_half_precision_loads(prior, tmp_path):
    DiffusionPrior(prior.vae, prior.unet, prior.scheduler).save_pretrained(tmp_path / "half")
    for part in ("vae", "unet"):
        file = tmp_path / "half" / part / "diffusion_pytorch_model.safetensors"
        save_file({name: value.half() for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    loaded = DiffusionPrior.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_a_prior_in_several_files_of_weights_loads_and_from_no_others(prior, folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    prior.vae.save_pretrained(folder / "vae", max_shard_size="100KB")
    index = folder / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    again = DiffusionPrior.from_pretrained(folder)
    for name, value in prior.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    written = json.loads(index.read_text())
    shards = set(written["weight_map"].values())
    assert len(shards) > 1
    (folder / next(iter(shards))).write_bytes((folder / "vae" / next(iter(shards))).read_bytes())
    index.write_text(json.dumps({"weight_map": {name: f"../{file}" for name, file in written["weight_map"].items()}}))
    with pytest.raises(CheckpointError, match="names other files than weights"):
        DiffusionPrior.from_pretrained(folder)


def test_a_network_with_numbers_that_no_file_holds_is_refused(folder):
    """They would be missing where the prior is used."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["down_block_types"][0] = "KDownBlock2D"
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="the unet has blocks of a kind that is not supported"):
        DiffusionPrior.from_pretrained(folder)


def test_loading_in_several_threads_leaves_the_networks_of_other_threads_alone(stable_diffusion_folder):
    registers, initialises = nn.Module.register_parameter, nn.init.kaiming_uniform_
    loading, disturbed = threading.Event(), []

    def build() -> None:
        while True:
            last = loading.is_set()
            layer = nn.Linear(2, 2)
            disturbed.append(layer.weight.is_meta or nn.init.kaiming_uniform_ is not initialises)
            if last:
                return

    with ThreadPoolExecutor(4) as pool:
        other = pool.submit(build)
        for loaded in pool.map(DiffusionPrior.from_pretrained, [stable_diffusion_folder] * 6):
            assert not any(parameter.is_meta for parameter in loaded.parameters())
        loading.set()
        other.result()
    assert not any(disturbed)
    assert nn.Module.register_parameter is registers


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.file,)


@pytest.mark.parametrize("part", ["vae", "unet"])
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"])
def test_a_pickle_in_place_of_safetensors_is_refused_and_not_run(folder, tmp_path, part, name):
    (folder / part / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Trap(str(tmp_path / "sprung"))}, folder / part / name)
    with pytest.raises(CheckpointError, match="safetensors weights"):
        DiffusionPrior.from_pretrained(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("part", ["vae", "unet"])
@pytest.mark.parametrize("kept", [0, 4, 0.5, -1])
def test_weights_cut_short_are_refused(folder, part, kept):
    file = folder / part / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="cannot be loaded as a diffusion prior"):
        DiffusionPrior.from_pretrained(folder)


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_a_weight_that_is_missing_from_its_file_is_not_made_up(folder, part):
    file = folder / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("conv_out.weight"))
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 weights are missing from its files, such as {name}"):
        DiffusionPrior.from_pretrained(folder)


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_weights_beside_the_parts_are_not_taken_for_those_of_a_part(prior, folder, part):
    name = "diffusion_pytorch_model.safetensors"
    weights = load_file(folder / part / name)
    save_file({name: value + 1 for name, value in weights.items()}, folder / name, metadata={"format": "pt"})
    again = DiffusionPrior.from_pretrained(folder)
    for name, value in prior.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("part", ["vae", "unet", "scheduler"])
def test_a_missing_part_is_refused(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(CheckpointError, match="it needs the subfolders vae, unet and scheduler"):
        DiffusionPrior.from_pretrained(folder)


def test_parts_that_do_not_belong_together_are_refused(folder):
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=16).save_pretrained(folder / "vae")
    with pytest.raises(CheckpointError, match="takes 4 channels but the autoencoder gives 16"):
        DiffusionPrior.from_pretrained(folder)


def test_a_prior_that_predicts_something_else_is_refused(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(CheckpointError, match="predicts 'sample'"):
        DiffusionPrior.from_pretrained(folder)


def test_damaged_settings_are_refused(folder):
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="tiny"):
        DiffusionPrior.from_pretrained(folder)


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("scheduler", {"num_train_timesteps": 10**9}),
        ("scheduler", {"trained_betas": [0.01] * 100_000}),
        ("unet", {"layers_per_block": 1000}),
        ("unet", {"transformer_layers_per_block": [1, [1000]]}),
        ("unet", {"block_out_channels": [32] * 100}),
        ("unet", {"num_class_embeds": 10**12}),
        ("vae", {"latent_channels": 10**9}),
        ("vae", {"scaling_factor": float("nan")}),
    ],
)
def test_settings_that_would_take_endless_time_or_memory_are_refused(folder, part, settings):
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    (name,) = settings
    with pytest.raises(CheckpointError, match=f"tiny.*{name}"):
        DiffusionPrior.from_pretrained(folder)


def test_settings_that_are_no_settings_by_their_size_are_not_parsed(folder):
    file = folder / "vae" / "config.json"
    with file.open("r+b") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(CheckpointError, match=r"vae/config\.json is larger"):
        DiffusionPrior.from_pretrained(folder)


def test_the_embedded_architecture_compresses_four_times_and_fits_the_size():
    prior = embedded_architecture()
    assert prior.stride == 4
    assert prior.condition_width == 192
    half_precision_bytes = 2 * sum(parameter.numel() for parameter in prior.parameters())
    assert half_precision_bytes < 20e6
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert prior.decode(prior.encode(pixels)).shape == pixels.shape


def test_where_a_prior_was_loaded_from_is_not_written_down(stable_diffusion_folder, tmp_path):
    DiffusionPrior.from_pretrained(stable_diffusion_folder).save_pretrained(tmp_path / "again")
    for part in ("vae", "unet"):
        assert str(stable_diffusion_folder) not in (tmp_path / "again" / part / "config.json").read_text()
    DiffusionPrior.from_pretrained(tmp_path / "again")
