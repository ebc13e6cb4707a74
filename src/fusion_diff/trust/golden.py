"""Golden sets: micrographs with known scores, scored again before a model is put to use.

A golden set is a folder of images with `golden.json`. That file holds each image's sha256, score and decision, and the
digests of the model and references that gave them. Another machine, library or device changes scores by less than the
tolerance; a larger drift points to an unintended change.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fusion_diff.checkpoint import bounded_size, in_place
from fusion_diff.errors import CheckpointError, EnrolmentError, TrustError, foreseen, out_of_memory
from fusion_diff.fewshot.decision import Decision
from fusion_diff.home import left_by_file_manager
from fusion_diff.micrograph.ifd import MAX_PAGES
from fusion_diff.printable import printable
from fusion_diff.trust.files import digest_plain, read_bounded
from fusion_diff.verdict.inspector import identity
from fusion_diff.whole import WholeFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusion_diff.verdict.inspector import Inspector

FORMAT = "fusion-diff/golden/1"
FILE = "golden.json"
MAX_BYTES = 2**24
MAX_IMAGES = 10_000
TOLERANCE = 0.001


@dataclass(frozen=True)
class GoldenImage:
    """An image of a golden set.

    Attributes:
        file: its name in the folder.
        sha256: sha256 of its bytes.
        score: expected score.
        decision: expected decision.
    """

    file: str
    sha256: str
    score: float
    decision: Decision


@dataclass(frozen=True)
class GoldenSet:
    """Contents of `golden.json`.

    Attributes:
        alpha: error rate of the decisions.
        model: `name`, `sha256` and `references_sha256` of the model that gave the scores.
        images: the images.
        page: page of every image, from 0; None chooses it by file.
    """

    alpha: float
    model: dict[str, str | None]
    images: tuple[GoldenImage, ...]
    page: int | None = None


@dataclass(frozen=True)
class Comparison:
    """An image scored again.

    Attributes:
        image: the image with its expected score and decision.
        score: new score; None where it could not be scored.
        decision: new decision; None likewise.
        problem: difference or error, in a sentence; empty where there is none.
    """

    image: GoldenImage
    score: float | None
    decision: str | None
    problem: str


def make_golden(
    model: Inspector,
    images: Sequence[Path],
    folder: Path,
    *,
    alpha: float = 0.1,
    page: int | None = None,
    max_pixels: int | None = None,
    progress: Callable[[int, int, Path], None] | None = None,
) -> GoldenSet:
    """Score images, and write them with their scores to a new folder, completely or not at all.

    Args:
        model: an enrolled model.
        images: image files, copied under their own names. A number precedes a name that is taken, and replaces one with
            characters that are not portable.
        folder: a new or empty folder, not the current one.
        alpha: error rate of the decisions.
        page: page of every image, from 0; None chooses it by file, see `load_microstructure_data`.
        max_pixels: maximum size of an image in pixels; `MAX_PIXELS` if None.
        progress: called as `progress(done, total, path)` before each image.

    Raises:
        TrustError: the folder is not empty or cannot be replaced, there are no images or too many, or an image changed
            meanwhile.
        MicrographError: an image cannot be read.
    """
    from fusion_diff.micrograph import load_microstructure_data

    if why := in_place(folder):
        raise TrustError(f"{printable(folder)}: {why}; choose a new folder, such as {printable(folder / 'golden')}")
    folder = Path(os.path.realpath(folder))
    if folder.exists() and (not folder.is_dir() or not all(map(left_by_file_manager, folder.iterdir()))):
        raise TrustError(
            f"{printable(folder)}: it exists already and is not empty; choose a new folder for the golden set"
        )
    if not 0 < len(images) <= MAX_IMAGES:
        raise TrustError(f"{printable(folder)}: a golden set cannot have {len(images)} images; give 1 to {MAX_IMAGES}")
    with WholeFolder(folder) as draft:
        entries, taken = [], {FILE.casefold()}  # some file systems ignore case
        for done, path in enumerate(images):
            if progress is not None:
                progress(done, len(images), path)
            name = path.name
            if not _plain(name):
                name = f"{done:04d}{path.suffix if _plain(path.suffix) else ''}"
            while name.casefold() in taken:  # the numbered name may be taken too
                name = f"{done:04d}-{name}"
            taken.add(name.casefold())
            # The original is read, so that errors name it.
            micrograph = load_microstructure_data(path, page=page, max_pixels=max_pixels)
            shutil.copyfile(path, draft / name)
            if digest_plain(draft / name) != micrograph.sha256:
                raise TrustError(f"{printable(path)}: it changed while it was copied; try again once it is written")
            it = model.inspect(micrograph, alpha=alpha)
            entries.append(GoldenImage(name, micrograph.sha256, float(it.score), it.decision))
        golden = GoldenSet(alpha, identity(model), tuple(entries), page)
        value = {"format": FORMAT, "alpha": alpha, "model": golden.model, "images": [vars(each) for each in entries]}
        value |= {} if page is None else {"page": page}
        text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
        (draft / FILE).write_text(text, encoding="ascii", newline="\n")
    return golden


def read_golden(folder: Path) -> GoldenSet:
    """Read `golden.json` of a folder.

    Raises:
        TrustError: the file is missing, too large or malformed, or names a file outside of the folder.
    """
    file = folder / FILE
    content = read_bounded(file, MAX_BYTES, "golden set")
    try:
        value = json.loads(content)
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {str(value['format'])[:80]!r}, but this version reads {FORMAT!r}")
        alpha, images = float(value["alpha"]), tuple(_image(each) for each in value["images"])
        model = {key: value["model"].get(key) for key in ("name", "sha256", "references_sha256")}
        page = value.get("page")
        if page is not None:
            bounded_size("page", page, MAX_PAGES - 1, least=0)
        if not (0 < alpha < 1 and 0 < len(images) <= MAX_IMAGES):
            raise ValueError(f"an alpha of {alpha} and {len(images)} images")
        if not all(item is None or isinstance(item, str) for item in model.values()):
            raise ValueError("its model is not described by text")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = printable(repr(error), 200)
        raise TrustError(f"{printable(file)}: it is not a usable golden set ({reason}); make it again") from error
    return GoldenSet(alpha, model, images, page)


def _plain(name: str) -> bool:
    """Return whether a name is a plain file name on any system, and not the golden set's own."""
    return name not in ("", ".", "..", FILE) and name.isprintable() and not set(name) & set("/\\:")


def _image(value: Any) -> GoldenImage:
    name, sha256, decision = value["file"], value["sha256"], value["decision"]
    if not isinstance(name, str) or not _plain(name):
        raise ValueError(f"{str(name)[:80]!r} is not the name of a file beside it")
    if not isinstance(sha256, str) or len(sha256) != 64 or decision not in get_args(Decision):
        raise ValueError(f"the digest or decision of {name[:80]!r}")
    score = value["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError(f"the score of {name[:80]!r}")
    return GoldenImage(name, sha256, float(score), decision)


def compare(
    model: Inspector,
    folder: Path,
    *,
    tolerance: float = TOLERANCE,
    max_pixels: int | None = None,
    progress: Callable[[int, int, Path], None] | None = None,
) -> tuple[GoldenSet, tuple[Comparison, ...]]:
    """Score a golden set again.

    An image with another sha256 than expected is not parsed.

    Args:
        model: model to verify.
        folder: the golden set.
        tolerance: largest allowed change of a score.
        max_pixels: maximum size of an image in pixels; `MAX_PIXELS` if None.
        progress: called as `progress(done, total, path)` before each image.

    Returns:
        The golden set, and a comparison for each image, in order.

    Raises:
        TrustError: the folder is not a golden set.
    """
    golden = read_golden(folder)
    found = []
    for done, image in enumerate(golden.images):
        if progress is not None:
            progress(done, len(golden.images), folder / image.file)
        found.append(_compare(model, folder / image.file, image, golden, tolerance, max_pixels))
    return golden, tuple(found)


def _compare(
    model: Inspector, file: Path, image: GoldenImage, golden: GoldenSet, tolerance: float, max_pixels: int | None
) -> Comparison:
    from fusion_diff.micrograph import load_microstructure_data

    try:
        if digest_plain(file) != image.sha256:
            return Comparison(image, None, None, f"{image.file}: the image was altered; restore it from a copy")
        micrograph = load_microstructure_data(file, page=golden.page, max_pixels=max_pixels, sha256=image.sha256)
        it = model.inspect(micrograph, alpha=golden.alpha)
    except Exception as error:
        if not foreseen(error) or isinstance(error, EnrolmentError | CheckpointError):  # no image is to blame
            raise
        if out_of_memory(error):
            cure = "close other programs, or verify the model on a machine with more memory"
            return Comparison(image, None, None, f"{image.file}: not enough memory to score it; {cure}")
        return Comparison(image, None, None, f"{image.file}: missing or unreadable ({error})")
    problems = []
    drift = abs(it.score - image.score)
    if not (math.isfinite(drift) and drift <= tolerance):
        problems.append(f"the score is {it.score:.6f}, expected {image.score:.6f}")
    if it.decision != image.decision:
        problems.append(f"the decision is {it.decision}, expected {image.decision}")
    return Comparison(image, it.score, it.decision, f"{image.file}: {'; '.join(problems)}" if problems else "")
