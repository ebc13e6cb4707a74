"""`fusion-diff verify-model`: check that a model still gives the scores of a golden set."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_diff.commands.options import AlphaOfGolden, Device, MaxPixels, PageOfGolden, load_model, path_option
from fusion_diff.commands.outputs import expect_apart, expect_folder
from fusion_diff.commands.stopping import stoppable
from fusion_diff.commands.terminal import complain, progress_bar, say
from fusion_diff.counted import counted
from fusion_diff.errors import TrustError
from fusion_diff.trust.keys import load_public
from fusion_diff.trust.signed import signed_bytes
from fusion_diff.verdict.inspector import identity

if TYPE_CHECKING:
    from collections.abc import Sequence


@stoppable
def verify_model_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An enrolled model: a name, a folder or a hub id.")],
    golden: Annotated[
        Path, path_option("--golden", metavar="DIR", help="Folder of the golden set: images and golden.json.")
    ],
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGES]...", help="With --make: image files, folders or patterns.")
    ] = None,
    make: Annotated[bool, typer.Option("--make", help="Make a golden set from IMAGES, scored by MODEL.")] = False,
    tolerance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest accepted drift of a score; 0.001 if omitted.")
    ] = None,
    trusted_key: Annotated[
        list[Path] | None,
        path_option(
            "--trusted-key",
            metavar="K.pub",
            help=(
                "Use the golden set only if this key signed it (DIR.sig); repeatable. The signature of MODEL "
                "is not checked; `fusion-diff verify` does that."
            ),
        ),
    ] = None,
    alpha: AlphaOfGolden = None,
    page: PageOfGolden = None,
    max_pixels: MaxPixels = None,
    device: Device = "cpu",
) -> int:
    """Score a golden set again and report changes, or make one.

    The exit code is 0 if nothing changed; 1 if a score drifted, a decision changed, or an image or the signature was
    altered; 3 if the command could not run.
    """
    if bool(images) != make:
        raise typer.BadParameter("--make and IMAGES go together; give both or neither")
    if not make:
        for option, given, what in (
            ("--alpha", alpha is not None, "scored at its own error rate"),
            ("--page", page is not None, "read at the pages it was made with"),
        ):
            if given:
                raise typer.BadParameter(
                    f"{option} applies to --make; a golden set is always {what}; leave {option} out"
                )
        return _compare(model, golden, tolerance, trusted_key or (), max_pixels, device)
    for option, given in (("--tolerance", tolerance is not None), ("--trusted-key", bool(trusted_key))):
        if given:
            raise typer.BadParameter(
                f"{option} applies to scoring a golden set, but --make makes a new one; leave {option} out"
            )
    return _make(model, golden, images or [], 0.1 if alpha is None else alpha, page, max_pixels, device)


def _make(
    model: str, golden: Path, images: list[str], alpha: float, page: int | None, max_pixels: int | None, device: str
) -> int:
    """Make a golden set, and return the exit code."""
    from fusion_diff.micrograph import discover
    from fusion_diff.trust.golden import make_golden

    expect_apart("--golden", golden)
    expect_folder("--golden", golden)
    files = discover(images)
    with progress_bar("Scoring") as advance:
        made = make_golden(
            load_model(model, device), files, golden, alpha=alpha, page=page, max_pixels=max_pixels, progress=advance
        )
    say(f"Golden set of {counted(len(made.images), 'image')}: {golden}")
    return 0


def _compare(
    model: str,
    golden: Path,
    tolerance: float | None,
    trusted_keys: Sequence[Path],
    max_pixels: int | None,
    device: str,
) -> int:
    """Score a golden set again, report what changed, and return the exit code."""
    from fusion_diff.trust.golden import TOLERANCE, compare

    allowed = TOLERANCE if tolerance is None else tolerance
    for key in trusted_keys:
        load_public(key)  # an error of usage, not of the golden set
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(signed_bytes(golden, trusted_keys))
        except TrustError as error:
            for line in str(error).splitlines():
                complain(line)
            return 1
        inspector = load_model(model, device)
        with progress_bar("Scoring") as advance:
            expected, found = compare(inspector, folder, tolerance=allowed, max_pixels=max_pixels, progress=advance)
    now = identity(inspector)
    for name, what in (("sha256", "model differs from the one"), ("references_sha256", "references differ from those")):
        if now[name] != expected.model[name]:
            say(f"Note: the {what} that made the golden set.")
    problems = [each.problem for each in found if each.problem]
    for problem in problems:
        complain(problem)
    drifts = [abs(each.score - each.image.score) for each in found if each.score is not None]
    largest = max(drifts, default=0.0)
    say(f"{counted(len(found), 'image')}, {len(problems)} not as expected; largest drift {largest:.6f}.")
    return 1 if problems else 0
