"""DeiT: a transformer on image patches, preceded by a class token and a distillation token.

Touvron et al. 2021, "Training data-efficient image transformers & distillation through attention". Sizes are named as
in published configurations, and published folders can be loaded (`config.json` and `model.safetensors`, for example
`facebook/deit-small-distilled-patch16-224`). There is no dropout, because the network stays frozen.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_diff.checkpoint import bounded_size, locate, read_json, write_json
from fusion_diff.errors import CheckpointError

SUMMARIES = 2
"""Number of tokens before the patches: class token and distillation token."""
LARGEST = {
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "intermediate_size": 8192,
    "patch_size": 64,
    "image_size": 1024,
}
"""Upper limits of sizes. Configurations may be untrusted; no published DeiT exceeds these."""
MAX_PARAMETERS = 2**28
"""Three times DeiT-base; 1 GiB in float32."""
MAX_PATCHES = 4096
"""Largest number of patches; attention is quadratic in it."""
KIND, ACTIVATION = "deit", "gelu"
"""Model type and activation that a configuration must have, as every published DeiT does."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
PUBLISHED_NAMES = (
    (r"^deit\.", ""),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
"""Patterns in published weight names and their replacements here, applied in this order."""


@dataclass(frozen=True)
class DeiTShape:
    """The sizes of a DeiT; the defaults are those of DeiT-base.

    Raises:
        ValueError: a size exceeds the limits above or is not valid.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16
    image_size: int = 224
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            bounded_size(name, getattr(self, name), most)
        bounded_size("the number of patches", self.grid**2, MAX_PATCHES)
        block = 4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size
        embeddings = self.hidden_size * (self.grid**2 + 3 * self.patch_size**2)
        bounded_size("the number of parameters", self.num_hidden_layers * block + embeddings, MAX_PARAMETERS)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} cannot be shared by {self.num_attention_heads} heads")
        if not isinstance(self.layer_norm_eps, float) or not 0 < self.layer_norm_eps < 1:
            raise ValueError(f"layer_norm_eps is {self.layer_norm_eps!r:.40}, and not between 0 and 1")

    @classmethod
    def of(cls, config: dict[str, Any]) -> DeiTShape:
        """Read the sizes from a configuration; other entries are ignored.

        Raises:
            ValueError: see the class.
        """
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})

    @property
    def grid(self) -> int:
        """Patches along each side of the image."""
        return self.image_size // self.patch_size


class _PatchEmbeddings(nn.Module):
    def __init__(self, shape: DeiTShape) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, shape.hidden_size, shape.patch_size, stride=shape.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        projected: Tensor = self.projection(pixels)
        return projected.flatten(2).transpose(1, 2)


class _Embeddings(nn.Module):
    """Patches as tokens, preceded by the two summary tokens, plus position embeddings."""

    def __init__(self, shape: DeiTShape) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.hidden_size))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, shape.hidden_size))
        self.patch_embeddings = _PatchEmbeddings(shape)
        self.position_embeddings = nn.Parameter(torch.zeros(1, SUMMARIES + shape.grid**2, shape.hidden_size))

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embeddings(pixels)
        count = patches.shape[0]  # not `len`, which an exported graph would store as a constant
        summaries = (token.expand(count, -1, -1) for token in (self.cls_token, self.distillation_token))
        embedded: Tensor = torch.cat([*summaries, patches], dim=1) + self.position_embeddings
        return embedded


class _Attention(nn.Module):
    def __init__(self, shape: DeiTShape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads = shape.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        if torch.compiler.is_exporting():
            # The fused kernel would export a guard against fully masked rows, which do not occur here.
            weights = (queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5).softmax(-1)
            attended = weights @ values
        else:
            attended = F.scaled_dot_product_attention(queries, keys, values)
        mixed: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return mixed


class _MLP(nn.Module):
    def __init__(self, shape: DeiTShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class _Block(nn.Module):
    """A pre-norm transformer block: attention, then an MLP, each with a residual connection."""

    def __init__(self, shape: DeiTShape) -> None:
        super().__init__()
        self.attention = _Attention(shape)
        self.layernorm_before = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.mlp = _MLP(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))
        y: Tensor = x + self.mlp(self.layernorm_after(x))
        return y


class DeiT(nn.Module):
    """The network up to its last block, without classification heads."""

    def __init__(self, shape: DeiTShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = _Embeddings(shape)
        self.layers = nn.ModuleList(_Block(shape) for _ in range(shape.num_hidden_layers))
        self.layernorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.apply(_initialise)

    @classmethod
    def from_published(cls, name_or_path: str) -> DeiT:
        """Load published weights from a folder or by hub id.

        Raises:
            CheckpointError: the weights cannot be found, are not those of a DeiT, or are incomplete.
        """
        folder = locate(name_or_path)
        cure = "give a folder holding config.json and model.safetensors of a DeiT, or a hub id reachable from here"
        config = read_json(folder / CONFIG_FILE)
        if config.get("model_type") != KIND:
            raise CheckpointError(f"{name_or_path}: a {config.get('model_type')!r:.40} and no DeiT; {cure}")
        if (activation := config.get("hidden_act", ACTIVATION)) != ACTIVATION:
            raise CheckpointError(f"{name_or_path}: a DeiT with {activation!r:.40} in place of {ACTIVATION!r}; {cure}")
        try:
            deit = cls(DeiTShape.of(config))
            state = {_name_here(name): value for name, value in load_file(folder / WEIGHTS_FILE).items()}
            missing = deit.load_state_dict(state, strict=False).missing_keys
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:300]  # torch lists every weight that does not fit
            raise CheckpointError(f"{name_or_path}: no DeiT with safetensors weights ({why}); {cure}") from error
        if missing:
            raise CheckpointError(
                f"{name_or_path}: {len(missing)} weights of a DeiT are missing, {missing[0]} among them; "
                "download or save it again"
            )
        return deit

    def save_pretrained(self, folder: str | Path) -> None:
        """Write configuration and weights to a folder that `from_published` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_FILE, {"model_type": KIND} | asdict(self.shape))
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the tokens after each block: class token, distillation token, patches row by row.

        Args:
            pixels: (B, 3, side, side) float, standardised.

        Returns:
            [(B, 2 + patches, width), …], not normalised.
        """
        tokens, after = self.embeddings(pixels), []
        for layer in self.layers:
            tokens = layer(tokens)
            after.append(tokens)
        return after


def _name_here(published: str) -> str:
    for pattern, name in PUBLISHED_NAMES:
        published = re.sub(pattern, name, published)
    return published


def _initialise(module: nn.Module) -> None:
    """Initialise as DeiT does: truncated normal with standard deviation 0.02, tokens and positions included."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, _Embeddings):
        for parameter in (module.cls_token, module.distillation_token, module.position_embeddings):
            nn.init.trunc_normal_(parameter, std=0.02)
