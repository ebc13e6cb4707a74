"""Inspection of many micrographs in turn. One that cannot be read is reported, and the run continues."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_diff.counted import counted
from fusion_diff.errors import CheckpointError, EnrolmentError, foreseen, machine_fault, out_of_memory
from fusion_diff.micrograph.thumbnail import thumbnail
from fusion_diff.printable import explained, printable
from fusion_diff.verdict.concluding import LEARNED

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from fusion_diff.enrolment import Enrolment
    from fusion_diff.fewshot.decision import Decision
    from fusion_diff.micrograph import Micrograph
    from fusion_diff.model import DiffusionModel
    from fusion_diff.verdict.inspector import Inspector
    from fusion_diff.verdict.result import Inspection

THUMBNAIL_SIDE = 640
"""Longest side of a thumbnail, in pixels."""


@dataclass(frozen=True)
class Defended:
    """A model with purification or detection of attacks in every inspection; satisfies `Inspector`."""

    model: DiffusionModel
    purify: bool = False
    detect_attacks: bool = False

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def sha256(self) -> str:
        """Digest of the model."""
        return self.model.sha256

    @property
    def enrolment(self) -> Enrolment | None:
        """The references of the model."""
        return self.model.enrolment

    def inspect(self, micrograph: Micrograph, *, alpha: float) -> Inspection:
        """Return the verdict on one micrograph, see `DiffusionModel.inspect`."""
        return self.model.inspect(micrograph, alpha=alpha, purify=self.purify, detect_attacks=self.detect_attacks)


@dataclass(frozen=True)
class Overruling:
    """Decision of an expert that replaces the model's.

    Attributes:
        decision: the expert's decision.
        by: name of the expert.
        at: time of the decision, in UTC.
        reason: reason of the decision.
    """

    decision: Decision
    by: str
    at: datetime
    reason: str


@dataclass(frozen=True)
class Recorded:
    """Where a service recorded a verdict.

    Attributes:
        id: id of the inspection.
        by: name of the API key that it was made with.
        version: version of FusionDiff that made it.
        ledger_sequence: sequence of its line in the service's ledger.
    """

    id: str
    by: str
    version: str
    ledger_sequence: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result for one path: an inspection with a thumbnail, or an error.

    Attributes:
        path: the micrograph's file.
        inspection: the verdict; None where there is an error.
        error: error and cure, in a sentence; None where there is an inspection.
        thumbnail: uint8 (h, w) or (h, w, 3), contrast-stretched, the longer side at most `THUMBNAIL_SIDE` pixels; None
            where there is an error, or thumbnails were not requested.
        overruled: decision of an expert; None where there is none.
        elsewhere: whether the error lies with this machine, a share or the model instead of the file.
        judged: when the inspection or the error was made, in UTC.
        recorded: where a service recorded it; None where none did.
    """

    path: Path
    inspection: Inspection | None = None
    error: str | None = None
    thumbnail: NDArray[np.uint8] | None = None
    overruled: Overruling | None = None
    elsewhere: bool = False
    judged: datetime = field(default_factory=partial(datetime.now, UTC))
    recorded: Recorded | None = None


def load_inspector(name: str, device: str, trusted_keys: Sequence[str | os.PathLike[str]] = ()) -> Inspector:
    """Load a model by name, folder or hub id onto a device, or an exported one by its folder.

    Args:
        name: name, folder or hub id of the model.
        device: device by torch's name; exported models take their runtime's names too.
        trusted_keys: public keys. If any are given, one of them must have signed the folder.

    Raises:
        CheckpointError: there is no such model, or it is incomplete, altered or has another format.
        DependencyError: the runtime of an exported model is not installed.
        DeviceError: there is no such device here.
        TrustError: it is not exactly what a trusted key signed; nothing of it is parsed then.
    """
    from fusion_diff.edge.session import EdgeSession, is_exported

    keys = [Path(key) for key in trusted_keys]
    if not is_exported(name):
        from fusion_diff.devices import present
        from fusion_diff.model import DiffusionModel

        return DiffusionModel.from_pretrained(name, trusted_keys=keys or None).to(present(device))
    load = partial(EdgeSession.load, device=device)
    if not keys:
        return load(name)
    from fusion_diff.trust.signed import load_signed

    return load_signed(name, keys, load)


def inspect_paths(
    model: Inspector,
    paths: Iterable[str | os.PathLike[str]],
    *,
    alpha: float = 0.1,
    pixel_size_um: float | None = None,
    page: int | None = None,
    max_pixels: int | None = None,
    signed_sha256: Callable[[Path], str] | None = None,
    progress: Callable[[int, int, Path], None] | None = None,
    thumbnails: bool = True,
) -> Iterator[Outcome]:
    """Inspect micrographs in turn, and yield each outcome as soon as it is known.

    Args:
        model: an enrolled `DiffusionModel`, or another `Inspector`.
        paths: image files, in the order of inspection.
        alpha: error rate on either side, in (0, 1).
        pixel_size_um: pixel size for every file, instead of the files' own.
        page: page of every file, from 0; None chooses it by file, see `load_microstructure_data`.
        max_pixels: maximum size of a micrograph in pixels; `MAX_PIXELS` if None.
        signed_sha256: returns the signed sha256 of a file, or raises `TrustError`, such as `SignedFiles.digest`. A file
            with another sha256 is refused before it is parsed.
        progress: called as `progress(done, total, path)` before each micrograph is read.
        thumbnails: whether outcomes have one.

    Yields:
        One outcome per path, in order. A verdict on the same bytes as an earlier one has a note of it. An error that is
        `foreseen`, such as a `FusionDiffError` or a lack of memory, becomes the outcome's error. Other exceptions are
        faults of the program and are raised.
    """
    from fusion_diff.micrograph import load_microstructure_data

    files = [Path(path) for path in paths]
    judged: dict[str, Path] = {}
    for done, path in enumerate(files):
        if progress is not None:
            progress(done, len(files), path)
        try:
            sha256 = None if signed_sha256 is None else signed_sha256(path)
            micrograph = load_microstructure_data(
                path, pixel_size_um=pixel_size_um, page=page, max_pixels=max_pixels, sha256=sha256
            )
            inspection = model.inspect(micrograph, alpha=alpha)
            if (sha256 := inspection.file_sha256) and (first := judged.setdefault(sha256, path)) != path:
                same = f"It has the same bytes as {printable(first)}."
                inspection = replace(inspection, notes=(*inspection.notes, same))
            small = thumbnail(micrograph, THUMBNAIL_SIDE) if thumbnails else None
            outcome = Outcome(path, inspection=inspection, thumbnail=small)
        except Exception as error:
            if not foreseen(error):
                error.add_note(f"while inspecting {printable(path)}")
                raise
            elsewhere = machine_fault(error, CheckpointError, EnrolmentError) is not None
            outcome = Outcome(path, error=_explain(path, error), elsewhere=elsewhere)
        yield outcome


def not_inspected(path: Path, error: Exception) -> Outcome:
    """Return the outcome of a micrograph that a run did not come to, because the error ended it before."""
    return Outcome(path, error=f"{printable(path)}: it was not inspected, as the run broke off: {explained(error)}")


def same_bytes(count: int) -> str:
    """Return the warning of so many verdicts on the same bytes as others, which have a note of it."""
    many = counted(count, "micrograph has", "micrographs have")
    return (
        f"{many} the same bytes as another one, as the notes of the verdicts say; if they stand for different parts, "
        "take an image of each"
    )


def remarks(outcomes: Iterable[Outcome]) -> list[str]:
    """Return warnings of verdicts on the same bytes, and of verdicts on references of the model, in sentences."""
    verdicts = [outcome.inspection for outcome in outcomes if outcome.inspection is not None]
    digests = [it.file_sha256 for it in verdicts]
    lines = [same_bytes(many)] if (many := len(digests) - len(set(digests))) else []
    if learned := sum(any(note.endswith(LEARNED) for note in it.notes) for it in verdicts):
        many_are = counted(learned, "micrograph is a reference", "micrographs are references")
        lines.append(
            f"{many_are} of the model, as the notes of the verdicts say: it has learned from them, so their verdicts "
            "say nothing about new ones"
        )
    return lines


def time_span(outcomes: Iterable[Outcome]) -> tuple[datetime, datetime] | None:
    """Return when the first outcome was begun, without reading, and when the last was made; None if there is none."""
    took = ((each.judged, each.inspection.seconds if each.inspection else 0.0) for each in outcomes)
    times = [(at - timedelta(seconds=seconds), at) for at, seconds in took]
    return (min(times)[0], max(ended for _, ended in times)) if times else None


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return the exit code of a run, for CI jobs; 0 means that all micrographs are authentic.

    The most severe outcome decides: 3 if any micrograph could not be inspected or there was none, else 1 if any is not
    authentic, else 2 if any is inconclusive, else 0. A job that stops on counterfeits but leaves inconclusive verdicts
    to a person accepts 0 and 2; files that cannot be read still stop it.
    """
    decisions = {outcome.inspection and outcome.inspection.decision for outcome in outcomes}
    if not decisions or None in decisions:
        return 3
    if "not authentic" in decisions:
        return 1
    return 0 if decisions == {"authentic"} else 2


def _explain(path: Path, error: Exception) -> str:
    """Return a sentence that names the file, the error and the cure."""
    name = printable(path)
    if out_of_memory(error):
        return f"{name}: not enough memory to inspect it; close other programs, or crop the micrograph and try again"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: cannot be read ({error.strerror}); check that the file is there and that you may read it"
    text = str(error) or type(error).__name__
    return text if printable(path.name) in printable(text) else f"{name}: {text}"
