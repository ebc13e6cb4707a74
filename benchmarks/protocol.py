"""The few-shot protocol of the other files here: tasks on real ceramics, and draws of references and queries.

References and queries are of different specimens. Seed s shuffles the sorted groups with numpy.random.default_rng(s).
k references of each side are drawn from the first half of the groups, and every image of the other half is a query. A
seed is skipped if its first half has fewer than k images of a side, or its second half fewer than 5. On `jun_glaze`,
references come from session s1 and the queries are all of s2, of the same two bowls: what is unseen there is the day,
not the specimen.

The folder of --data holds

    ebc_crack/sound/*.png, ebc_crack/crack/*.png     patches, <specimen>_<micrograph>__y<top>x<left>.png
    ebc_micrographs/masks/<specimen>_<micrograph>.*  labels of the whole micrographs, 2 is crack
    ebc_micrographs/images/*.png                     the whole micrographs
    ferrite_tile/groups.csv                          columns file, class (`free` or a flaw) and group
    ferrite_tile/images/<file>, ferrite_tile/masks/<stem of the file>.png
    jun_glaze/china1/*.jpg, .../china4, .../china5, .../china6    s1... and s2... are the sessions
    ceramic_sem_gallery/                             any micrographs, as strangers
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image as Picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fusion_diff.micrograph import Micrograph

FEWEST_QUERIES = 5
ALL = 1000
"""Number of shots that stands for all references."""


@dataclass(frozen=True)
class Image:
    path: Path
    authentic: bool
    group: str
    mark: Path | None = None
    """An image of pixel labels."""
    window: tuple[int, int] | None = None
    """Position (top, left) in the mark that the image was cut from; None if both have the same size."""
    flaw: int = 1
    """Pixel labels of this value or higher are the flaw."""

    @property
    def marked(self) -> bool:
        return self.mark is not None

    def read(self) -> Micrograph:
        from fusion_diff import load_microstructure_data  # patchcore_anomalib.py runs without

        return load_microstructure_data(self.path, crop_data_bar=False)

    def read_mark(self, height: int, width: int) -> NDArray[np.bool_] | None:
        """Return the mask of the flaw, (height, width), or None without a mark."""
        if self.mark is None:
            return None
        labels = np.asarray(Picture.open(self.mark).convert("L"))
        top, left = self.window or (0, 0)
        marked = labels[top : top + height, left : left + width] >= self.flaw
        return marked if marked.any() else None


@dataclass(frozen=True)
class Task:
    """One classification task on one set of images."""

    name: str
    references: tuple[Image, ...]
    queries: tuple[Image, ...] | None
    """If None, references and queries both come from `references`, split by group."""
    shows: str = ""
    """What it is about, where its set has several tasks of different difficulty."""
    sha256: str = ""
    """Digest of the images, their classes and groups, of a set of one's own."""

    def __post_init__(self) -> None:
        for side in (self.references, self.queries or self.references):
            if len({image.authentic for image in side}) < 2:
                raise FileNotFoundError(
                    f"{self.name}: images of one side at least are missing; is the folder of --data the one that holds "
                    f"{self.name}, laid out as benchmarks/protocol.py says?"
                )


@dataclass(frozen=True)
class Draw:
    task: Task
    seed: int
    shots: int
    references: list[Image]
    queries: list[Image]


def draw(task: Task, shots: int, seed: int) -> Draw | None:
    """Return the references and queries of a seed, or None if the seed is skipped."""
    rng = np.random.default_rng(seed)
    if task.queries is None:
        groups = sorted({image.group for image in task.references})
        rng.shuffle(groups)
        first = set(groups[: len(groups) // 2])
        pool = [image for image in task.references if image.group in first]
        queries = [image for image in task.references if image.group not in first]
    else:
        pool, queries = list(task.references), list(task.queries)
    references: list[Image] = []
    for authentic in (True, False):
        side = [image for image in pool if image.authentic == authentic]
        if (
            len(side) < (1 if shots == ALL else shots)
            or sum(image.authentic == authentic for image in queries) < FEWEST_QUERIES
        ):
            return None
        references += [side[index] for index in rng.permutation(len(side))[:shots]]
    return Draw(task, seed, shots, references, queries)


def some(images: Sequence[Image], count: int, seed: int) -> list[Image]:
    """Return a random sample of images, the same for the same seed; all of them if there are no more."""
    return [images[index] for index in np.random.default_rng(seed).permutation(len(images))[:count]]


def ebc_crack(data: Path) -> list[Task]:
    """Sound against cracked barrier coatings; the specimen is the file name up to the first underscore.

    Marks come from the masks of the whole micrographs (2 is crack); a patch's name contains its position.
    """

    def mark(path: Path) -> tuple[Path | None, tuple[int, int] | None]:
        found = re.fullmatch(r"(.+)__y(\d+)x(\d+)", path.stem)
        masks = sorted((data / "ebc_micrographs" / "masks").glob(f"{found[1]}.*")) if found else []
        return (masks[0], (int(found[2]), int(found[3]))) if found and masks else (None, None)

    images = [
        Image(path, folder == "sound", path.name.split("_")[0], *(mark(path) if folder == "crack" else ()), flaw=2)
        for folder in ("sound", "crack")
        for path in sorted((data / "ebc_crack" / folder).glob("*.png"))
    ]
    return [Task("ebc_crack", tuple(images), None)]


def ferrite_tile(data: Path) -> list[Task]:
    """Flawless against five kinds of flaw; groups from groups.csv; flaws have masks."""
    root = data / "ferrite_tile"
    images = []
    with (root / "groups.csv").open(encoding="utf-8", newline="") as file:
        for row in sorted(csv.DictReader(file), key=lambda row: row["file"]):
            path = root / "images" / row["file"]
            mark = (root / "masks" / row["file"]).with_suffix(".png")
            images.append(Image(path, row["class"] == "free", row["group"], mark if mark.exists() else None))
    return [Task("ferrite_tile", tuple(images), None)]


def jun_glaze(data: Path) -> list[Task]:
    """One bowl against a similar one, enrolled in one session and queried in another; each view is a group."""
    tasks = []
    for authentic, other in (("china5", "china6"), ("china6", "china5"), ("china1", "china4"), ("china4", "china1")):
        images = [
            Image(path, folder == authentic, f"{folder}/{re.sub('_c[0-9]+$', '', path.stem)}")
            for folder in (authentic, other)
            for path in sorted((data / "jun_glaze" / folder).glob("*.jpg"))
        ]
        first = tuple(image for image in images if image.path.name.startswith("s1"))
        second = tuple(image for image in images if image.path.name.startswith("s2"))
        tasks.append(Task("jun_glaze", first, second, f"{min(authentic, other)} and {max(authentic, other)}"))
    return tasks


SETS = {"ebc_crack": ebc_crack, "ferrite_tile": ferrite_tile, "jun_glaze": jun_glaze}
