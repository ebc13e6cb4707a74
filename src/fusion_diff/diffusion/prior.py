"""The diffusion prior: a frozen latent diffusion model of micrographs.

Any diffusers folder in the Stable Diffusion v1 layout can be used: subfolders `vae` (AutoencoderKL), `unet`
(UNet2DConditionModel with cross-attention) and `scheduler`. The embedded prior has the same layout at a thousandth of
the size. Text encoder, tokenizer and safety checker are not read, because conditions come from the encoder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.checkpoint import MAX_JSON_BYTES, read_json
from fusion_diff.errors import CheckpointError
from fusion_diff.printable import paragraph
from fusion_diff.weights import read_tensors

LARGEST = 2**16
"""Upper limit of numbers in a prior's settings; even the number of noise levels is smaller."""
MAX_LAYERS = 16
"""Upper limit of blocks, of layers per block and of transformers per layer; Stable Diffusion XL has ten at most."""
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_OLDER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of the published autoencoder's attention weights, and what diffusers calls them now."""


class DiffusionPrior(nn.Module):
    """Latent diffusion: encode, add noise, denoise, decode.

    Pixels are (B, 3, H, W) floats in [0, 1], with H and W multiples of `stride`. Latents are (B, C, H/stride,
    W/stride), with about unit variance. Conditions are (B, tokens, `condition_width`); zeros mean no condition.
    """

    def __init__(self, vae: AutoencoderKL, unet: UNet2DConditionModel, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.vae = vae
        self.unet = unet
        self.scheduler = scheduler
        self.alphas_cumprod: Tensor
        alphas = scheduler.alphas_cumprod.float()
        self.register_buffer("alphas_cumprod", alphas, persistent=False)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DiffusionPrior:
        """Load a prior from a folder in the Stable Diffusion v1 layout, frozen.

        Read are the files that `prior_source.READ` names, and no pickles.

        Raises:
            CheckpointError: a part is missing or damaged, or does not follow the layout.
        """
        name = str(folder)
        # Each part by its own folder: in the whole one, diffusers prefers weights beside the parts.
        vae_folder, unet_folder, scheduler_folder = (Path(folder, part) for part in ("vae", "unet", "scheduler"))
        try:
            for kind, part in (
                (AutoencoderKL, vae_folder),
                (UNet2DConditionModel, unet_folder),
                (DDIMScheduler, scheduler_folder),
            ):
                if not part.is_dir():  # diffusers would ask the hub
                    raise FileNotFoundError(f"there is no folder {part.name}")
                file = part / kind.config_name
                if file.is_file() and file.stat().st_size > MAX_JSON_BYTES:
                    raise ValueError(f"{part.name}/{file.name} is larger than {MAX_JSON_BYTES} bytes")
                _check_settings(kind.load_config(part), part.name)
            vae, vae_missing = _network(AutoencoderKL, vae_folder)
            unet, unet_missing = _network(UNet2DConditionModel, unet_folder)
            scheduler = DDIMScheduler.from_pretrained(scheduler_folder)
        except Exception as error:  # diffusers and safetensors each raise their own types
            raise CheckpointError(
                f"{name}: cannot be loaded as a diffusion prior ({type(error).__name__}: {paragraph(error, 500)}); "
                "it needs the subfolders vae, unet and scheduler of the Stable Diffusion v1 layout, with safetensors "
                "weights"
            ) from error
        if missing := [*vae_missing, *unet_missing]:
            raise CheckpointError(
                f"{name}: {len(missing)} weights are missing from its files, such as {missing[0]}; "
                "download or save the prior again"
            )
        if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
            raise CheckpointError(
                f"{name}: its U-Net predicts {scheduler.config.prediction_type!r}, which is not supported; use a prior "
                "that predicts 'epsilon' or 'v_prediction'"
            )
        if unet.config.in_channels != vae.config.latent_channels:
            raise CheckpointError(
                f"{name}: the U-Net takes {unet.config.in_channels} channels but the autoencoder gives "
                f"{vae.config.latent_channels}; use a prior whose U-Net and autoencoder match"
            )
        return cls(vae, unet, scheduler).freeze()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the prior to a folder in the Stable Diffusion v1 layout, weights as safetensors."""
        for name, part in (("vae", self.vae), ("unet", self.unet), ("scheduler", self.scheduler)):
            part.save_pretrained(f"{folder}/{name}")
        for name in ("vae", "unet"):  # diffusers writes the path a part was loaded from; remove it
            file = Path(f"{folder}/{name}/config.json")
            config = json.loads(file.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")

    def freeze(self) -> Self:
        """Switch to evaluation mode, turn off gradients of all parameters, and return the prior."""
        return self.eval().requires_grad_(False)

    @property
    def stride(self) -> int:
        """Pixels per latent, along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def condition_width(self) -> int:
        """Width of a condition token."""
        return int(self.unet.config.cross_attention_dim)

    @property
    def timesteps(self) -> int:
        """Number of noise levels that the prior was trained on."""
        return int(self.scheduler.config.num_train_timesteps)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the latents of pixels in [0, 1]: the mean of the autoencoder's posterior, scaled."""
        latents: Tensor = self.vae.encode(pixels * 2 - 1).latent_dist.mode() * self.vae.config.scaling_factor
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Return the pixels of latents, clipped to [0, 1]."""
        decoded: Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return (decoded / 2 + 0.5).clamp(0, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise to latents, to the noise level of each timestep (Ho et al. 2020, eq. 4)."""
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1).to(latents.dtype)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def noise_prediction_loss(
        self, latents: Tensor, condition: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the mean squared error of what the U-Net predicts, at random noise levels.

        That is the noise (Ho et al. 2020, eq. 14), or for `v_prediction` the velocity (Salimans & Ho 2022).
        Gradients reach `condition`, and the U-Net unless it is frozen. `generator` has to be on their device.
        """
        noise = torch.randn(latents.shape, generator=generator, dtype=latents.dtype, device=latents.device)
        timesteps = torch.randint(self.timesteps, (len(latents),), generator=generator, device=latents.device)
        noised = self.add_noise(latents, noise, timesteps)
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
            target = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        predicted = self.unet(noised, timesteps, encoder_hidden_states=condition).sample
        return F.mse_loss(predicted.float(), target.float())

    def regenerate(self, pixels: Tensor, condition: Tensor, *, strength: float, noise: Tensor | int | None) -> Tensor:
        """Return pixels encoded, noised, denoised in one step (see `denoise`) and decoded (SDEdit, Meng et al. 2022).

        Args:
            pixels: (B, 3, H, W) in [0, 1].
            condition: (tokens, condition width), the same for the whole batch.
            strength: how far to diffuse, in (0, 1].
            noise: standard normal noise that expands to the shape of the latents, or a seed, or None for no noise. With
                a seed, the noise is the same for every image, so results do not depend on the place in a batch.

        Raises:
            ValueError: `strength` is out of range.
        """
        latents = self.encode(pixels)
        if not isinstance(noise, Tensor):
            noise = (
                latents.new_zeros(())
                if noise is None
                else torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(noise))
            )
        denoised = self.denoise(
            latents,
            condition.expand(len(pixels), *condition.shape),
            strength=strength,
            steps=1,
            noise=noise.to(latents.device).expand_as(latents),
        )
        return self.decode(denoised)

    def denoise(self, latents: Tensor, condition: Tensor, *, strength: float, steps: int, noise: Tensor) -> Tensor:
        """Add noise to latents up to `strength` and denoise them with DDIM (Song et al. 2021), given `condition`.

        Args:
            latents: (B, C, h, w) of the micrograph.
            condition: (B, tokens, condition width), for example the mean condition of the authentic references.
            strength: how far to diffuse, in (0, 1]; 1 leaves nothing of the micrograph.
            steps: denoising steps, at least 1.
            noise: (B, C, h, w) standard normal.

        Returns:
            (B, C, h, w) denoised latents.

        Raises:
            ValueError: `strength` or `steps` is out of range.
        """
        if not 0 < strength <= 1 or steps < 1:
            raise ValueError(f"strength must lie in (0, 1] and steps be at least 1, not {strength} and {steps}")
        start = max(1, round(strength * self.timesteps)) - 1
        levels = torch.linspace(start, 0, steps + 1).round().long()
        x = self.add_noise(latents, noise, levels[:1].to(latents.device))
        for index in range(steps):
            level, following = int(levels[index]), int(levels[index + 1])
            alpha = self.alphas_cumprod[level]
            # The last step ends at noise level 0, the clean latents.
            alpha_next = self.alphas_cumprod[following] if index < steps - 1 else torch.ones_like(alpha)
            output = self.unet(x, level, encoder_hidden_states=condition).sample
            if self.scheduler.config.prediction_type == "v_prediction":
                clean = alpha.sqrt() * x - (1 - alpha).sqrt() * output
                noise_left = alpha.sqrt() * output + (1 - alpha).sqrt() * x
            else:
                clean = (x - (1 - alpha).sqrt() * output) / alpha.sqrt()
                noise_left = output
            x = alpha_next.sqrt() * clean + (1 - alpha_next).sqrt() * noise_left
        return x


def _check_settings(settings: dict[str, Any], part: str) -> None:
    """Check that settings, which may be untrusted, cannot use unbounded time or memory.

    Raises:
        ValueError: a number or list is larger than in any prior of the layout.
    """
    for name, setting in settings.items():
        most = MAX_LAYERS if "layers_per_block" in name else LARGEST
        values = [setting]
        while values:
            value = values.pop()
            if isinstance(value, list):
                longest = LARGEST if name == "trained_betas" else MAX_LAYERS
                if len(value) > longest:
                    raise ValueError(f"{name!r:.80} of the {part} has {len(value)} entries, more than {longest}")
                values += value
            elif isinstance(value, int | float) and not abs(value) <= most:
                raise ValueError(f"{name!r:.80} of the {part} is {value!r:.40}, more than {most}")


def _network(kind: Any, folder: Path) -> tuple[Any, list[str]]:
    """Return a part with the weights in its folder, in float32, and the names of weights that are missing there.

    Not by `from_pretrained` of diffusers: while that builds a network, those that other threads build lack their
    weights, and two calls at once leave torch so for good.

    Raises:
        CheckpointError: a file is missing or damaged.
        RuntimeError: a weight does not fit.
        ValueError: the index names something that is no file of weights; or the network has numbers that no file holds.
    """
    with torch.device("meta"):  # nothing is drawn only to be replaced; this is a setting of the thread
        network = kind.from_config(kind.load_config(folder))
    names, index = [_WEIGHTS], folder / f"{_WEIGHTS}.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        if not all(re.fullmatch(r"diffusion_pytorch_model-\d{5}-of-\d{5}\.safetensors", name) for name in names):
            raise ValueError(f"{index.name} names other files than weights")
    state = {}
    for name in names:
        for weight, value in read_tensors(folder / name).items():
            state[re.sub(r"(?<=\.)[a-z_]+(?=\.\w+$)", lambda it: _OLDER_NAMES.get(it[0], it[0]), weight)] = value
    missing = network.load_state_dict(state, strict=False, assign=True).missing_keys
    if any(buffer.is_meta for buffer in network.buffers()):  # the filters of K blocks; no prior of the layout has any
        raise ValueError(f"the {folder.name} has blocks of a kind that is not supported")
    return network, missing


def embedded_architecture() -> DiffusionPrior:
    """Build the embedded prior's networks, untrained. Compression is 4×, because 8× blurs hairline cracks."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 48, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=224,
        mid_block_add_attention=False,
        scaling_factor=1.0,  # set after training, from the standard deviation of the latents
    )
    unet = UNet2DConditionModel(
        sample_size=56,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=192,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )
    return DiffusionPrior(vae, unet, scheduler)
