"""The main public class: load a model, enrol references, inspect micrographs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusion_diff.checkpoint import EMBEDDED, NAME_LENGTH, Writer, as_folder, locate, write_json
from fusion_diff.devices import OwnNumbers, available, in_forked_child, own_settings
from fusion_diff.diffusion.reconstruction import ReconstructionPath
from fusion_diff.encoder.local_path import channels_last
from fusion_diff.enrolment import Enrolment
from fusion_diff.enrolment.card import enrolled_card
from fusion_diff.enrolment.files import save_enrolment
from fusion_diff.enrolment.learning import learn
from fusion_diff.errors import ArgumentError, EnrolmentError, TrustError
from fusion_diff.fewshot.decision import check_alpha
from fusion_diff.judging import judge, read
from fusion_diff.loading import is_name, parts_of
from fusion_diff.micrograph.micrograph import several
from fusion_diff.verdict.concluding import predict
from fusion_diff.verdict.result import Inspection
from fusion_diff.warn import warn_of_builtin_references
from fusion_diff.weights import compact

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.diffusion.prior_source import PriorSource
    from fusion_diff.encoder.dual_path import DualPathEncoder
    from fusion_diff.encoder.flaw_detector import FlawDetector
    from fusion_diff.fewshot.fusion import Difference
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.references import ReferenceSet

_LOADING = Lock()
"""Held while a prior is loaded, so that threads that ask for the same one load it once."""


def _free_lock() -> None:
    global _LOADING
    _LOADING = Lock()  # the thread that held it is not in the child


in_forked_child(_free_lock)


class DiffusionModel:
    """Verifies micrographs against enrolled references. Make one with `from_pretrained`.

    Attributes:
        sha256: identifies the exact weights. It is the digest of the manifest of the checkpoint that was last loaded
            or saved, combined with that of the base model if there is one. It covers a prior outside of the checkpoint
            only if `card` has its sums (`prior_sha256`), as `pretrain` notes them. Enrolling does not change it before
            the model is saved. Verdicts give the digest of the references separately.
        enrolment: the enrolled references and what was learned from them; None before `enroll`.
        flaw_detector: gives enrolment a first guess of where flaws are, and evidence where few references show any;
            None in a checkpoint without one.
        card: the checkpoint's `config.json`: how the weights were made.
        readme: the checkpoint's model card, in Markdown.
    """

    def __init__(
        self,
        encoder: DualPathEncoder,
        prior_source: PriorSource,
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

    def __repr__(self) -> str:
        """Return the name, the enrolment and the device."""
        enrolled = "no references" if self.enrolment is None else repr(self.enrolment)
        return f"DiffusionModel({self.name!r}, {enrolled}, on {self._device})"

    @property
    def name(self) -> str:
        """Name of the model in verdicts and records; stored in `config.json`. It is its base's until you set it."""
        return str(self.card["name"])

    @name.setter
    def name(self, name: str) -> None:
        if not is_name(name):
            raise ArgumentError(
                f"name: {name!r:.80} is no name; give a text of at most {NAME_LENGTH} characters that is not empty"
            )
        self.card = self.card | {"name": name}  # a copy of the model keeps its own

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = EMBEDDED,
        *,
        trusted_keys: Iterable[str | os.PathLike[str]] | str | os.PathLike[str] | None = None,
    ) -> DiffusionModel:
        """Load a model by embedded name, folder or hub id, after checking every file against its manifest.

        Args:
            name_or_path: embedded name, folder or hub id.
            trusted_keys: public keys. If they are given, one of them must have signed the folder (`<folder>.sig`), and
                the model is loaded from a private copy of the verified bytes. None, the default, asks for no signature.

        Raises:
            CheckpointError: there is no such checkpoint, or it is incomplete, altered or of another format.
            TrustError: it is unsigned, or differs from what a trusted key signed, and nothing of it was parsed; or
                `trusted_keys` is empty.
        """
        if trusted_keys is None:
            with own_settings(), OwnNumbers():
                return cls(**parts_of(locate(name_or_path)))
        from fusion_diff.trust.signed import load_signed

        if isinstance(trusted_keys, str | os.PathLike) or not isinstance(trusted_keys, Iterable):
            trusted_keys = [trusted_keys]
        keys = list(trusted_keys)
        if not keys or not all(isinstance(key, str | os.PathLike) and str(key) for key in keys):
            raise TrustError(
                f"trusted_keys: {trusted_keys!r:.80} names no key; give public keys, or leave it out to load the model "
                "whoever made it"
            )
        folder = locate(name_or_path)
        paths = [Path(key) for key in keys]
        model = load_signed(folder, paths, cls.from_pretrained, part=lambda model: model._prior_source)
        if not model._prior_source.contained:
            raise TrustError(
                f"{folder}: its prior {model.card['prior']!r} is outside the signed folder; copy the prior into it and "
                "sign again"
            )
        return model

    def to(self, device: str | torch.device) -> DiffusionModel:
        """Move the model to `cpu`, `cuda`, `npu`, `xpu` or `mps` and return it.

        If the device is not available, the model is moved to the CPU with a warning.

        Raises:
            DeviceError: this is not the name of a device.
        """
        wanted = available(device)
        with own_settings():
            self.encoder.to(wanted)
            if self.flaw_detector is not None:
                self.flaw_detector.to(wanted)
            if "reconstruction" in self.__dict__:
                self.reconstruction.prior.to(wanted)
            if self.enrolment is not None:
                self.enrolment = self.enrolment.to(wanted)
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

        with _LOADING, own_settings():
            if "reconstruction" not in self.__dict__:  # from Python 3.12 on, several threads may come here
                prior = DiffusionPrior.from_pretrained(self._prior_source.folder()).to(self._device)
                channels_last(prior.vae)
                self.__dict__["reconstruction"] = ReconstructionPath(prior, self.encoder)
            loaded: ReconstructionPath = self.__dict__["reconstruction"]
            return loaded

    def enroll(
        self,
        references: ReferenceSet,
        *,
        difference: Difference = "any",
        reconstruction: bool = False,
        detect_attacks: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Enrolment:
        """Learn from labelled references, replacing any earlier enrolment.

        Args:
            references: authentic references, and any number of other classes; flaws may be marked.
            difference: what sets the authentic class apart from the others. `whole`: the whole material, such as its
                grain size, porosity, firing or glaze, so that texture as a whole gets most of the weight. `any`:
                flaws that have a place as well; the references show which of the two it is.
            reconstruction: use the diffusion path as evidence, too. Encoding takes about four times as long. At
                inspection the path runs only if fusion gave it a weight.
            detect_attacks: measure how purification changes the scores of the references, so that `inspect` can detect
                attacks. Takes as long again as encoding with the diffusion path.
            progress: called with the steps done and their total: one step per reference, and one more per reference for
                each of the two options above. What follows the last step, learning from all of them, may take longer
                than the steps.

        Returns:
            The enrolment, with cross-fitted `figures` and `warnings()`.

        Raises:
            EnrolmentError: the references do not allow any verdict.
            ArgumentError: `difference` is neither.
            CheckpointError: the diffusion prior, which is loaded on first use, cannot be read.

        Warns:
            UserWarning: a side has a single specimen, there are too few references to cross-fit, no groups are given,
                or the scores mean little; `warnings()` of the enrolment has more to say.
        """
        self.enrolment = enrolment = learn(
            self,
            references,
            difference=difference,
            reconstruction=reconstruction,
            detect_attacks=detect_attacks,
            progress=progress,
        )
        enrolment.warn()
        return enrolment

    def inspect(
        self,
        micrograph: Micrograph,
        *,
        alpha: float = 0.1,
        shots: int | None = None,
        purify: bool = False,
        detect_attacks: bool = False,
    ) -> Inspection:
        """Return the verdict on a micrograph: score, decision, class, evidence map, regions, nearest references.

        Args:
            micrograph: any size; very large ones are read and encoded tile by tile.
            alpha: error rate of the decision, in (0, 1). At most this share of authentic micrographs is called not
                authentic, and at most this share of the others authentic.
            shots: use at most this many of the enrolled references per class; all if omitted.
            purify: judge the micrograph after purification by the diffusion prior, see `diffusion.purification`. It is
                compared with references that were not purified, so that authentic ones commonly score lower than
                otherwise, and `alpha` does not bound the errors. Whether it is in scope does not change.
            detect_attacks: judge it with and without purification, and report whether the scores differ more than
                those of the references. If they do, the decision is `inconclusive` instead of `authentic`.

        Raises:
            ArgumentError: `alpha` does not lie between 0 and 1.
            EnrolmentError: no references are enrolled; or `detect_attacks`, and they were enrolled without it, or
                `shots` leaves some out.
            ReferenceSetError: `shots` is no whole number of at least 1.
            MicrographError: this is not a micrograph, or its file can no longer be read.
            CheckpointError: the diffusion prior, which is loaded on first use, cannot be read.

        Warns:
            UserWarning: only built-in references are enrolled; no class has as many references as `shots`; or what is
                learned of `shots` means little. Whether the micrograph is in scope is said by `in_scope`.
        """
        alpha = check_alpha(alpha)
        with own_settings():
            enrolment = self.expect_enrolled(shots)
            return judge(self, enrolment, micrograph, alpha=alpha, purify=purify, detect_attacks=detect_attacks)

    def predict_authenticity(self, sample: Micrograph | Iterable[Micrograph], shots: int | None = None) -> Tensor:
        """Return the probability of being authentic, calibrated if there are at least two specimens on each side.

        Args:
            sample: a micrograph, or any iterable of several.
            shots: use at most this many of the enrolled references per class; all if omitted.

        Returns:
            float32 tensor on the CPU in [0, 1]: 0-dimensional for one micrograph, (B,) for several.

        Raises:
            EnrolmentError: no references are enrolled, or `shots` leaves one authentic reference alone.
            ReferenceSetError: `shots` is no whole number of at least 1.
            MicrographError: these are not micrographs, or a file can no longer be read.
            CheckpointError: the diffusion prior, which is loaded on first use, cannot be read.

        Warns:
            UserWarning: a micrograph is out of scope, so that its score is meaningless; only built-in references are
                enrolled; no class has as many references as `shots`; or what is learned of `shots` means little.
        """
        micrographs, single = several(sample)
        enrolment, scores = self.expect_enrolled(shots), []
        for index, each in enumerate(micrographs):  # a generator runs with the caller's own settings
            with own_settings():
                scores.append(predict(each, enrolment, read(self, enrolment, each), None if single else index))
        return torch.tensor(scores[0] if single else scores, dtype=torch.float32, device="cpu")

    def expect_enrolled(self, shots: int | None = None) -> Enrolment:
        """Return the enrolment of all references, or one learned from at most `shots` of each class.

        Raises:
            EnrolmentError: no references are enrolled, or `shots` leaves one authentic reference alone.
            ReferenceSetError: `shots` is no whole number of at least 1.

        Warns:
            UserWarning: only built-in references are enrolled; or as `Enrolment.shots`.
        """
        enrolment = self.enrolment  # read once: another thread may enrol meanwhile
        if enrolment is None:
            raise EnrolmentError(
                f"{self.name} has no enrolled references; enrol references first, with `fusion-diff enroll` or "
                "model.enroll(ReferenceSet.from_folder(...))"
            )
        if enrolment.builtin:
            warn_of_builtin_references()
        return enrolment if shots is None else enrolment.shots(shots)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the model with its enrolment to a folder that `from_pretrained` reads, and update `sha256`.

        Raises:
            CheckpointError: the folder is no path, holds something else or cannot be created; or the diffusion prior,
                which is copied from where the model was loaded, is no longer there or no longer the same.
            OSError: there is no room on the disk.
        """
        from safetensors.torch import save_file

        writer, enrolment = Writer(as_folder(folder)), self.enrolment
        with writer as draft:
            save_file(compact(self.encoder.own_state()), draft / "encoder.safetensors")
            self._prior_source.save(draft)
            if self.flaw_detector is not None:
                self.flaw_detector.save(draft)
            write_json(draft / "config.json", self.card)
            readme = self.readme
            if enrolment is not None:
                save_enrolment(enrolment, draft)
                readme = enrolled_card(self.name, enrolment, readme)
            (draft / "README.md").write_text(readme, encoding="utf-8", newline="\n")
        self.sha256 = writer.sha256  # a model loaded from there has the same
