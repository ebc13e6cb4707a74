"""Reading a checkpoint into the parts of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion_diff.checkpoint import EMBEDDED, NAME_LENGTH, based_on, locate, read_json, verify
from fusion_diff.diffusion.prior_source import PRIOR, PriorSource
from fusion_diff.encoder.dual_path import DualPathEncoder
from fusion_diff.encoder.flaw_detector import FlawDetector
from fusion_diff.encoder.local_path import LocalPath, channels_last
from fusion_diff.enrolment.files import load_enrolment
from fusion_diff.errors import CheckpointError
from fusion_diff.printable import paragraph
from fusion_diff.weights import expand, read_tensors

if TYPE_CHECKING:
    from pathlib import Path


def is_name(value: object) -> bool:
    """Return whether this can be a model's name: a text that is neither blank nor longer than `NAME_LENGTH`."""
    return isinstance(value, str) and len(value) <= NAME_LENGTH and bool(value.strip())


def parts_of(folder: Path) -> dict[str, Any]:
    """Return the arguments of `DiffusionModel`, read from a checkpoint after every file of it was verified.

    Raises:
        CheckpointError: this is no checkpoint, or it is incomplete, altered or of another format.
    """
    if (folder / "edge.json").is_file():
        raise CheckpointError(
            f"{folder}: an exported model, which fusion_diff.edge.EdgeSession.load loads; give the folder of the model "
            "that was exported"
        )
    sha256 = verify(folder)
    card = read_json(folder / "config.json")
    try:
        encoder = DualPathEncoder.from_config(**card["encoder"])
        if not is_name(card.get("name")):
            raise CheckpointError(
                f"{folder}: its config.json has no name of at most {NAME_LENGTH} characters; add one, or download or "
                "save the model again"
            )
        prior = PriorSource.of(folder, card)
        readme = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else ""
        own = expand(read_tensors(folder / "encoder.safetensors"))
        if card["prior"] == EMBEDDED:
            # Based on the embedded model: uses its prior, and its weights where the folder has none of its own.
            # Saving writes a complete checkpoint.
            base = locate(EMBEDDED)
            sha256 = based_on(sha256, verify(base))
            prior = PriorSource.of(base, {"prior": PRIOR})
            shared, wanted = expand(read_tensors(base / "encoder.safetensors")), encoder.state_dict().keys()
            own = {name: shared[name] for name in shared.keys() & wanted} | own
        published = {f"local_path.{name}": value for name, value in LocalPath.from_imagenet().state_dict().items()}
        encoder.load_state_dict(own | published)
    except Exception as error:  # a malformed configuration can raise many types
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder}: its configuration, card and weights do not match "
            f"({paragraph(error, 500)}); download or save it again"
        ) from error
    channels_last(encoder)
    encoder.global_path.skip_idle_adapters()
    detector = FlawDetector.load(folder, sum(encoder.paths))
    return {
        "encoder": encoder,
        "prior_source": prior,
        "card": card | prior.card,
        "readme": readme,
        "sha256": sha256,
        "enrolment": load_enrolment(folder, encoder, detector),
        "flaw_detector": detector,
    }
