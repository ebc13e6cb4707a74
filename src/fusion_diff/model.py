"""The main public class: load a model, enrol references, inspect micrographs."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusion_diff.checkpoint import (
    EMBEDDED,
    MANIFEST,
    Writer,
    based_on,
    compact,
    digest,
    expand,
    locate,
    read_json,
    read_tensors,
    verify,
    write_json,
)
from fusion_diff.devices import available
from fusion_diff.diffusion.reconstruction import ReconstructionPath
from fusion_diff.encoder.flaw_detector import FlawDetector
from fusion_diff.encoder.fusion import DualPathEncoder
from fusion_diff.encoder.local_path import LocalPath, channels_last
from fusion_diff.enrolment import Enrolment
from fusion_diff.enrolment.card import enrolled_card
from fusion_diff.enrolment.files import load_enrolment, save_enrolment
from fusion_diff.enrolment.learning import learn
from fusion_diff.errors import CheckpointError, EnrolmentError, TrustError
from fusion_diff.fewshot.decision import check_alpha
from fusion_diff.micrograph import Micrograph
from fusion_diff.printable import paragraph
from fusion_diff.verdict.concluding import predict
from fusion_diff.verdict.judging import judge, read
from fusion_diff.verdict.result import Inspection
from fusion_diff.warn import warn_of_builtin_references

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fusion_diff.references import ReferenceSet


class DiffusionModel:
    """Verifies micrographs against enrolled references. Make one with `from_pretrained`.

    Attributes:
        sha256: identifies the exact weights. It is the digest of the manifest of the checkpoint that was last loaded
            or saved, combined with that of the base model if there is one. Enrolling does not change it before the
            model is saved. Verdicts give the digest of the references separately.
        enrolment: the enrolled references and what was learned from them; None before `enroll`.
        flaw_detector: gives enrolment a first guess of where flaws are; None in a checkpoint without one.
        card: the checkpoint's `config.json`: how the weights were made.
        readme: the checkpoint's model card, in Markdown.
    """

    def __init__(
        self,
        encoder: DualPathEncoder,
        prior_source: str,
        *,
        card: dict[str, Any],
        readme: str,
        sha256: str,
        enrolment: Enrolment | None,
        flaw_detector: FlawDetector | None = None,
    ) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.card = card
        self.readme = readme
        self.sha256 = sha256
        self.enrolment = enrolment
        self.flaw_detector = flaw_detector
        self._prior_source = prior_source
        self._device = torch.device("cpu")
        self._by_shots: dict[str, Enrolment] = {}
        self._name_was_set = self._enrolled_anew = False

    def __repr__(self) -> str:
        """Return the name, the enrolment and the device."""
        enrolled = "no references" if self.enrolment is None else repr(self.enrolment)
        return f"DiffusionModel({self.name!r}, {enrolled}, on {self._device})"

    @property
    def name(self) -> str:
        """Name of the model in verdicts and records; stored in `config.json`.

        A model that has enrolled references takes the name of the folder it is saved to, unless you set another name.
        """
        return str(self.card["name"])

    @name.setter
    def name(self, name: str) -> None:
        self.card["name"] = name
        self._name_was_set = True

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path = EMBEDDED, *, trusted_keys: Sequence[str | Path] = ()
    ) -> DiffusionModel:
        """Load a model by embedded name, folder or hub id, after checking every file against its manifest.

        Args:
            name_or_path: embedded name, folder or hub id.
            trusted_keys: public keys. If any are given, one of them must have signed the folder (`<folder>.sig`), and
                the model is loaded from a private copy of the verified bytes.

        Raises:
            CheckpointError: there is no such checkpoint, or it is incomplete, altered or of another format.
            TrustError: it is unsigned, or differs from what a trusted key signed; nothing of it was parsed.
        """
        folder = locate(name_or_path)
        if trusted_keys:
            from fusion_diff.trust.signed import load_signed

            model = load_signed(folder, trusted_keys, cls.from_pretrained)
            model._refuse_prior_from_elsewhere(folder)
            return model
        sha256 = verify(folder)
        card = read_json(folder / "config.json")
        try:
            encoder = DualPathEncoder.from_config(**card["encoder"])
            if "name" not in card:
                raise CheckpointError(
                    f"{folder}: its config.json has no name; add one, or download or save the model again"
                )
            prior = str(card["prior"])
            source = str(folder / prior) if (folder / prior).is_dir() else prior
            readme = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else ""
            own = expand(read_tensors(folder / "encoder.safetensors"))
            if prior == EMBEDDED:
                # Based on the embedded model: uses its prior, and its weights where the folder has none of its own.
                # Saving writes a complete checkpoint.
                base = locate(EMBEDDED)
                sha256 = based_on(sha256, verify(base))
                source, card["prior"] = str(base / "prior"), "prior"
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
        return cls(
            encoder,
            source,
            card=card,
            readme=readme,
            sha256=sha256,
            enrolment=load_enrolment(folder, encoder, detector),
            flaw_detector=detector,
        )

    def _refuse_prior_from_elsewhere(self, folder: Path) -> None:
        from fusion_diff.trust.contents import unsafe

        prior = str(self.card["prior"])
        if unsafe(prior) or self._prior_source == prior:  # a path outside the folder, or a hub id
            raise TrustError(
                f"{folder}: its prior {prior!r} is outside the signed folder; copy the prior into it and sign again"
            )

    def to(self, device: str | torch.device) -> DiffusionModel:
        """Move the model to `cpu`, `cuda`, `npu`, `xpu` or `mps` and return it.

        If the device is not available, the model is moved to the CPU with a warning.

        Raises:
            DeviceError: this is not the name of a device.
        """
        wanted = available(device)
        self.encoder.to(wanted)
        if self.flaw_detector is not None:
            self.flaw_detector.to(wanted)
        if "reconstruction" in self.__dict__:
            self.reconstruction.prior.to(wanted)
        if self.enrolment is not None:
            self.enrolment = self.enrolment.to(wanted)
        self._by_shots.clear()
        self._device = wanted
        return self

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self._device

    @cached_property
    def reconstruction(self) -> ReconstructionPath:
        """The diffusion path, loaded on first use."""
        from fusion_diff.diffusion.prior import DiffusionPrior

        prior = DiffusionPrior.from_pretrained(self._prior_source).to(self._device)
        channels_last(prior.vae)
        return ReconstructionPath(prior, self.encoder)

    def enroll(
        self,
        references: ReferenceSet,
        *,
        reconstruction: bool = False,
        detect_attacks: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Enrolment:
        """Learn from labelled references, replacing any earlier enrolment.

        Args:
            references: authentic references, and any number of other classes; flaws may be marked.
            reconstruction: use the diffusion path as evidence, too. Encoding takes about four times as long. At
                inspection the path runs only if fusion gave it a weight.
            detect_attacks: measure how purification changes the scores of the references, so that `inspect` can detect
                attacks. Takes as long again as encoding with the diffusion path.
            progress: called with the steps done and their total: one step per reference, and one more per reference for
                each of the two options above.

        Returns:
            The enrolment, with cross-fitted `figures` and `warnings()`.

        Raises:
            EnrolmentError: the references do not allow any verdict.
            CheckpointError: the diffusion prior, which is loaded on first use, cannot be read.
        """
        self.enrolment = learn(
            self, references, reconstruction=reconstruction, detect_attacks=detect_attacks, progress=progress
        )
        self._by_shots.clear()
        self._enrolled_anew = True
        return self.enrolment

    def inspect(
        self, micrograph: Micrograph, *, alpha: float = 0.1, purify: bool = False, detect_attacks: bool = False
    ) -> Inspection:
        """Return the verdict on a micrograph: score, decision, class, evidence map, regions, nearest references.

        Args:
            micrograph: any size; very large ones are read and encoded tile by tile.
            alpha: error rate of the decision, in (0, 1). At most this share of authentic micrographs is called not
                authentic, and at most this share of the others authentic.
            purify: judge the micrograph after purification by the diffusion prior, see `diffusion.purification`.
                Calibration and p-values still use the references without purification.
            detect_attacks: judge it with and without purification, and report whether the scores differ more than
                those of the references. If they do, the decision is `inconclusive` instead of `authentic`.

        Raises:
            ValueError: `alpha` does not lie between 0 and 1.
            EnrolmentError: no references are enrolled, or they were enrolled without `detect_attacks`.
            MicrographError: this is not a micrograph, or its file can no longer be read.
            CheckpointError: the diffusion prior, which is loaded on first use, cannot be read.
        """
        check_alpha(alpha)
        return judge(
            self, self.expect_enrolled(), micrograph, alpha=alpha, purify=purify, detect_attacks=detect_attacks
        )

    def predict_authenticity(self, sample: Micrograph | Sequence[Micrograph], shots: int | None = None) -> Tensor:
        """Return the probability of being authentic, calibrated if there are at least two references on each side.

        Args:
            sample: a micrograph, or several.
            shots: use at most this many of the enrolled references per class; all if omitted.

        Returns:
            float32 tensor on the CPU in [0, 1]: 0-dimensional for one micrograph, (B,) for several.

        Raises:
            EnrolmentError: no references are enrolled, or `shots` leaves one authentic reference alone.
            ReferenceSetError: `shots` is no whole number of at least 1, or exceeds the references of every class.
            MicrographError: these are not micrographs, or a file can no longer be read.
            CheckpointError: the diffusion prior, which is loaded on first use, cannot be read.

        Warns:
            UserWarning: a micrograph is out of scope, so that its score is meaningless; or only built-in references
                are enrolled.
        """
        enrolment = self.expect_enrolled(shots)
        several = isinstance(sample, Sequence)
        micrographs = sample if isinstance(sample, Sequence) else [sample]
        scores = [predict(each, enrolment, read(self, enrolment, each)) for each in micrographs]
        return torch.tensor(scores if several else scores[0], dtype=torch.float32)

    def expect_enrolled(self, shots: int | None = None) -> Enrolment:
        """Return the enrolment of all references, or one learned from at most `shots` of each class.

        Raises:
            EnrolmentError: no references are enrolled, or `shots` leaves one authentic reference alone.
            ReferenceSetError: `shots` is no whole number of at least 1, or exceeds the references of every class.

        Warns:
            UserWarning: only built-in references are enrolled.
        """
        if self.enrolment is None:
            raise EnrolmentError(
                f"{self.name} has no enrolled references; enrol references first, with `fusion-diff enroll` or "
                "model.enroll(ReferenceSet.from_folder(...))"
            )
        if self.enrolment.builtin:
            warn_of_builtin_references()
        if shots is None:
            return self.enrolment
        key = repr(shots)  # True and 1.0 equal 1 as keys, but are not valid numbers of shots
        if key not in self._by_shots:
            self._by_shots[key] = self.enrolment.shots(shots)
        return self._by_shots[key]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model with its enrolment to a folder that `from_pretrained` reads, and update `sha256`.

        After `enroll` the model takes the name of the folder, unless you set `name`. A copy keeps its name.

        Raises:
            CheckpointError: the folder holds something else or cannot be created; or the diffusion prior, which is
                copied from where the model was loaded, is no longer there.
            OSError: there is no room on the disk.
        """
        from pathlib import Path

        from safetensors.torch import save_file

        name = self._name_saved_in(Path(folder))
        own_prior = self.card["prior"] == "prior"
        if own_prior and not Path(self._prior_source).is_dir():
            raise CheckpointError(
                f"{self._prior_source}: the diffusion prior to copy no longer exists; restore the folder "
                f"that {self.name} was loaded from, then save again"
            )

        with Writer(Path(folder)) as draft:
            save_file(compact(self.encoder.own_state()), draft / "encoder.safetensors")
            if own_prior:  # copied as it is; a prior given by path or hub id is only referred to
                shutil.copytree(self._prior_source, draft / "prior")
            if self.flaw_detector is not None:
                self.flaw_detector.save(draft)
            write_json(draft / "config.json", self.card | {"name": name})
            readme = self.readme
            if self.enrolment is not None:
                save_enrolment(self.enrolment, draft)
                readme = enrolled_card(name, self.enrolment, readme)
            (draft / "README.md").write_text(readme, encoding="utf-8")
        self.card["name"], self._enrolled_anew = name, False
        self.sha256 = digest(Path(folder) / MANIFEST)  # a model loaded from there has the same

    def _name_saved_in(self, folder: Path) -> str:
        """Return the name that the model gets when it is saved to a folder."""
        if self._enrolled_anew and not self._name_was_set and self.enrolment and not self.enrolment.builtin:
            return folder.resolve().name or self.name
        return self.name
