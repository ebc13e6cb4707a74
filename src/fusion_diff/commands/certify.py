"""`fusion-diff certify`: the radius within which no change of the working pixels changes the smoothed choice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.commands.options import (
    Device,
    MaxPixels,
    Model,
    Page,
    PixelSize,
    RequireSigned,
    TrustedKeys,
    load_model,
    signed_files,
)
from fusion_diff.commands.terminal import print_figures, progress_bar, say
from fusion_diff.printable import printable


def certify_command(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="An image file. More than 224 by 224 pixels take longer.")
    ],
    model: Model = EMBEDDED,
    sigma: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=2.0,
            help=(
                "Standard deviation of the noise, for pixels in [0, 1]. More noise allows a larger radius "
                "but hides fine flaws."
            ),
        ),
    ] = 0.06,
    samples: Annotated[
        int,
        typer.Option(
            min=10,
            help=("Number of noisy copies. More allow a larger radius; each takes as long as one `inspect --purify`."),
        ),
    ] = 200,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.999999, help="Probability that the certificate holds.")
    ] = 0.999,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=(
                "Seed of the noise, to compute a certificate again. A secret one is drawn if omitted: whoever knows "
                "the seed can choose a micrograph for it."
            ),
        ),
    ] = None,
    pixel_size: PixelSize = None,
    page: Page = None,
    max_pixels: MaxPixels = None,
    device: Device = "cpu",
    require_signed: RequireSigned = False,
    trusted_key: TrustedKeys = None,
) -> int:
    """Certify a micrograph: whatever changes within a radius are made to its working pixels, the choice between
    authentic and not authentic, made by vote over noisy copies, stays the same.

    Working pixels are what the model is shown: the pixels of the file, stretched from their contrast range (0.5 and
    99.5 percentiles) to [0, 1], and enlarged where a side is shorter than 224. A change of the file that moves this
    range, as one grey level in a few pixels can, is not covered.

    The exit code is 0 if it is certified authentic, 1 if certified not authentic, 2 if nothing could be certified, the
    model's own choice, without noise, is the other side, or the micrograph is out of scope, and 3 if the command could
    not run.
    """
    from fusion_diff.inspection.wording import number
    from fusion_diff.micrograph import load_microstructure_data
    from fusion_diff.trust.certificate import certify, fewest_samples
    from fusion_diff.verdict.reasons import beyond

    if samples < (fewest := fewest_samples(confidence)):
        raise typer.BadParameter(
            f"--samples is {samples}, with which nothing can be certified at a confidence of {confidence:g}; "
            f"give at least {fewest}, or lower --confidence"
        )
    signed = signed_files(require_signed, trusted_key)
    micrograph = load_microstructure_data(
        path,
        pixel_size_um=pixel_size,
        page=page,
        max_pixels=max_pixels,
        sha256=signed.digest(path) if signed else None,
    )
    inspector = load_model(model, device, trusted_key or ())
    with progress_bar("Scoring noisy copies") as advance:
        found = certify(inspector, micrograph, sigma, samples, confidence, seed=seed, progress=advance)
    it = inspector.inspect(micrograph)
    own = "authentic" if it.score >= 0.5 else "not authentic"
    low, high = micrograph.contrast_range
    figures = {
        "side": found.decision,
        "the model's own choice, without noise": f"{own} (score {it.score:.3f})",
        "in scope": "yes" if it.in_scope else "no",
        "radius (L2, working pixels in [0, 1])": number(found.radius_l2),
        "working pixels": str(found.numbers),
        "contrast range (levels)": f"{low:g} to {high:g}",
        "votes": f"{found.votes} of {found.asked}; the other {found.samples - found.asked} selected the side",
        "share of all copies, lower bound": number(found.bound),
        "confidence": f"{found.confidence:g}",
        "seed of the noise": str(found.seed),
    }
    print_figures(f"Certificate of {printable(path)}", figures)
    if found.decision == "abstain":
        say("Abstained: no side could be shown to have the majority. Try more samples, or less noise.")
    else:
        say(
            f"No change of its working pixels with an L2 norm below {number(found.radius_l2)} changes the "
            f"smoothed choice, {found.decision}. A change of the file that moves its contrast range is not covered."
        )
        if found.decision != own:
            say(
                f"Without noise the model chooses {own}: the noise hides what the model sees, and this "
                "certificate says nothing about its verdict. Use less noise (--sigma)."
            )
    if not it.in_scope:
        say(beyond(it.pixel_size_um, it.compared_with))
    if found.decision != own or not it.in_scope:
        return 2
    return 0 if own == "authentic" else 1
