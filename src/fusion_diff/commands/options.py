"""Options and loading functions that several commands share."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusion_diff.checkpoint import locate
from fusion_diff.commands.terminal import progress_bar
from fusion_diff.dependencies import missing
from fusion_diff.errors import CheckpointError
from fusion_diff.home import at_home
from fusion_diff.printable import printable
from fusion_diff.trust.signed import SignedFiles, is_embedded, signed_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusion_diff.model import DiffusionModel
    from fusion_diff.references import ReferenceSet


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter("must be greater than 0")
    return value


def _fraction(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter("must lie between 0 and 1")
    return value


def _from_home(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [at_home(each) for each in value]
    return None if value is None else at_home(value)


path_option = partial(typer.Option, callback=_from_home)
"""The option for a path or several, whose leading `~` stands for the home folder. Shells leave it in `--out=~/x`."""


def named_path(text: str) -> Path:
    """Return the path in an argument. An empty one is refused, because Python takes it for the current folder.

    Raises:
        typer.BadParameter: it is empty, as an unset variable of a shell is.
    """
    if not text:
        raise typer.BadParameter("PATH is empty; give a file or a folder, or . for the current folder")
    return Path(text)


def _page(words: str) -> Any:
    return typer.Option("--page", min=0, max=99_999, metavar="N", help=words)


def _alpha(words: str) -> Any:
    return typer.Option("--alpha", callback=_fraction, help=words)


_ERROR_RATE = "Error rate on either side, between 0 and 1. A smaller one leaves more micrographs inconclusive."
PixelSize = Annotated[
    float | None,
    typer.Option(
        "--pixel-size",
        metavar="UM",
        callback=_positive,
        help="Pixel size in µm of every file, instead of the size in the files.",
    ),
]
Page = Annotated[
    int | None,
    _page(
        "Page of multi-page TIFFs to read, counted from 0, for every file. If omitted, the first page, or the "
        "largest if the first is a thumbnail."
    ),
]
PageOfGolden = Annotated[
    int | None,
    _page("With --make: page of multi-page TIFFs to read, counted from 0, for every file; saved in the golden set."),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        min=32 * 32,
        max=2**34,
        metavar="N",
        help="Refuse files of more than N pixels; 1,073,741,824 (2^30) if omitted. Raise it only for files that you "
        "trust.",
    ),
]
Alpha = Annotated[float, _alpha(_ERROR_RATE)]
AlphaOrPolicy = Annotated[float | None, _alpha(f"{_ERROR_RATE} If omitted, the policy's, or 0.1.")]
AlphaOfGolden = Annotated[
    float | None, _alpha("With --make: error rate on either side, saved in the golden set; 0.1 if omitted.")
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="FUSION_DIFF_MODEL",  # the same as the service's: a container verifies the model that it uses
        help="Model to use: a name, a folder or a hub id. inspect, batch and validate also take an exported model.",
    ),
]
Groups = Annotated[
    str | None,
    typer.Option(
        "--groups",
        metavar="REGEX|CSV",
        help=(
            "Which images of a folder show the same specimen: a regular expression with one group (…) for "
            "the file names, such as '^([^_]+)_', or a CSV file with the columns file and group. If omitted, "
            "groups.csv in it is used if it exists."
        ),
    ),
]
Marks = Annotated[
    Path | None,
    path_option(
        "--marks",
        metavar="FOLDER",
        help="Folder of flaw masks, named CLASS/NAME.png. If omitted, REFS/masks is used if it exists.",
    ),
]
Record = Annotated[
    Path | None,
    path_option(
        "--record",
        metavar="FILE",
        dir_okay=False,
        help="Append every outcome to this ledger, which `fusion-diff audit FILE` checks.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        envvar="FUSION_DIFF_DEVICE",  # the same as the service's: a GPU image sets it once for all commands
        help="Device to compute on: cpu, cuda, npu, xpu or mps; refused if it is not here. With an exported model also "
        "AUTO or a device name of its runtime, such as CUDAExecutionProvider or GPU.1.",
    ),
]


RequireSigned = Annotated[
    bool,
    typer.Option(
        "--require-signed",
        help="Read only models, references and micrographs that are signed with a key given by --trusted-key.",
    ),
]
TrustedKeys = Annotated[
    list[Path] | None,
    path_option("--trusted-key", metavar="K.pub", help="Public key to trust, with --require-signed; repeatable."),
]


def read_references(
    path: Path,
    authentic: str,
    *,
    groups: str | None = None,
    marks: Path | None = None,
    pixel_size: float | None = None,
    page: int | None,
    max_pixels: int | None,
    allow_conflicts: bool,
    trusted_keys: Sequence[Path] | None,
) -> ReferenceSet:
    """Read labelled references from a folder or a CSV file, with a progress bar; see `ReferenceSet.from_folder`.

    If keys are given, one of them must have signed the folder, and exactly the bytes that it signed are read.

    Raises:
        ReferenceSetError, MicrographError: as `ReferenceSet.from_folder` and `from_csv`.
        TrustError: the folder is unsigned, or differs from what a trusted key signed.
    """
    from fusion_diff.references import ReferenceSet

    if path.is_file() and path.suffix.lower() != ".csv":
        raise typer.BadParameter(
            f"{path}: not a set of references; give a folder with one sub-folder per class, or a CSV file (.csv)"
        )
    if trusted_keys and (path.is_file() or marks is not None or (groups or "").lower().endswith(".csv")):
        raise typer.BadParameter(
            "--require-signed reads nothing but a signed folder: put images, groups.csv and masks into it, sign it "
            "(`fusion-diff sign`), and leave out --marks and a CSV file of --groups"
        )
    with signed_bytes(path, trusted_keys or ()) as folder, progress_bar("Reading references") as advance:
        if path.is_dir() or path.suffix.lower() != ".csv":
            return ReferenceSet.from_folder(
                folder,
                authentic=authentic,
                groups=groups,
                marks=marks,
                pixel_size_um=pixel_size,
                page=page,
                max_pixels=max_pixels,
                allow_conflicts=allow_conflicts,
                progress=advance,
            )
        if groups is not None or marks is not None or pixel_size is not None:
            raise typer.BadParameter(
                "a CSV file gives groups, marks and pixel sizes in its columns group, mark and "
                "pixel_size_um; leave out --groups, --marks and --pixel-size"
            )
        return ReferenceSet.from_csv(
            path,
            authentic=authentic,
            page=page,
            max_pixels=max_pixels,
            allow_conflicts=allow_conflicts,
            progress=advance,
        )


def load_model(name: str, device: str, trusted_keys: Sequence[Path] = ()) -> DiffusionModel:
    """Load a whole model by name, folder or hub id onto a device. If keys are given, one of them must have signed it.

    Raises:
        CheckpointError: there is no such model; or it is incomplete, altered, exported, or has another format.
        DeviceError: there is no such device here.
    """
    from fusion_diff.devices import present
    from fusion_diff.edge.session import is_exported

    if is_exported(name):
        raise CheckpointError(
            f"{printable(name)}: an exported model can only inspect; give the model that it was exported from"
        )
    from fusion_diff.model import DiffusionModel

    return DiffusionModel.from_pretrained(name, trusted_keys=trusted_keys or None).to(present(device))


def signed_files(required: bool, trusted_keys: Sequence[Path] | None) -> SignedFiles | None:
    """Return the lookup of signed files; None where signatures are not required.

    Raises:
        TrustError: a key cannot be read.
    """
    if required != bool(trusted_keys):
        raise typer.BadParameter("--require-signed and --trusted-key go together; give both or neither")
    return SignedFiles(trusted_keys) if trusted_keys else None


def keys_for(model: str, trusted_keys: Sequence[Path] | None) -> Sequence[Path]:
    """Return the keys one of which has to have signed a model to learn with: none for what comes with the package."""
    return () if not trusted_keys or is_embedded(locate(model)) else trusted_keys


def service_installed() -> None:
    """Check that the service's packages are installed.

    Raises:
        DependencyError: some are missing.
    """
    needed = (
        "alembic",
        "fastapi",
        "fsspec",
        "prometheus_client",
        "pydantic_settings",
        "python_multipart",
        "sqlalchemy",
        "uvicorn",
    )
    absent = [name.replace("_", "-") for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        raise missing("the service", *absent, extra="service")
