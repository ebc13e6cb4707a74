"""The command line of an edge installation: `fusion-diff-edge inspect PATH… --model EXPORTED`.

It needs only NumPy, tifffile and the runtime. In a full installation, `fusion-diff inspect` does the same and can write
a report.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from fusion_diff import __version__
from fusion_diff.dependencies import WHOLE
from fusion_diff.errors import FusionDiffError, foreseen
from fusion_diff.home import at_home
from fusion_diff.inspection.run import exit_code, inspect_paths
from fusion_diff.micrograph.ifd import MAX_PAGES
from fusion_diff.micrograph.limits import MAX_PIXELS, MIN_SIDE
from fusion_diff.printable import escape_on_streams, explained, paragraph, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fusion_diff.inspection.run import Outcome

FAILED = 3
STOPPED = 130
MAX_THREADS = 1024
MOST_PIXELS = 2**34
"""Largest value of `--max-pixels`, the same as that of `fusion-diff`."""
ELSEWHERE = (
    "audit", "batch", "certify", "demo", "enroll", "export", "keys", "policy", "pretrain", "serve", "service-keys",
    "service-prune", "sign", "validate", "verify", "verify-model",
)  # fmt: skip
"""Commands of the full installation only."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # argparse would exit with 2, which has a meaning here
        self.print_usage(sys.stderr)
        self.exit(FAILED, f"Error: {paragraph(message)}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code, which is the same as that of `fusion-diff inspect`.

    Args:
        arguments: the arguments after the program's name; those of this process if omitted.
    """
    escape_on_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ELSEWHERE:
        _complain(f"{words[0]} needs the full FusionDiff, not only its edge package; {WHOLE}")
        return FAILED
    options = _parser().parse_args(words)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_args, **_kwargs: _warn(message)
        try:
            code = exit_code(_inspect(options))
            sys.stdout.flush()
        except KeyboardInterrupt:
            print("Stopped.", file=sys.stderr)
            return STOPPED
        except BrokenPipeError:  # the reader of stdout is gone, and the flush at exit would fail, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            with suppress(OSError):  # stderr may be the same pipe
                _complain("the run broke off, as the reader of its output has gone")
            return FAILED
        except Exception as error:
            if foreseen(error):
                _complain(explained(error))
            else:
                traceback.print_exc()  # a bug; Python would exit with 1, which means "some are not authentic"
            return FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fusion-diff-edge", description="Verify ceramic microstructures with an exported model.")
    parser.add_argument("--version", action="version", version=f"fusion-diff-edge {__version__}")
    inspect = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "inspect",
        help="inspect micrographs (exit code: 0 all authentic, 1 some not, 2 some inconclusive, 3 failed)",
    )
    inspect.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders or patterns")
    inspect.add_argument("--model", required=True, metavar="EXPORTED", help="folder written by `fusion-diff export`")
    inspect.add_argument("--alpha", type=_fraction, default=0.1, help="error rate on each side (default: 0.1)")
    inspect.add_argument(
        "--pixel-size", type=_positive, metavar="UM", help="pixel size of all files in µm (default: from each file)"
    )
    inspect.add_argument(
        "--page",
        type=partial(_whole, least=0, most=MAX_PAGES - 1),
        metavar="N",
        help="page of multi-page TIFFs to read, counted from 0, for every file (default: the first page, or the "
        "largest if the first is a thumbnail)",
    )
    inspect.add_argument(
        "--max-pixels",
        type=partial(_whole, least=MIN_SIDE**2, most=MOST_PIXELS),
        metavar="N",
        help=f"refuse files of more than N pixels (default: {MAX_PIXELS:,}); raise it only for files that you trust",
    )
    inspect.add_argument(
        "--device",
        default="AUTO",
        help="AUTO (default), CPU, GPU, NPU, or a device name of the runtime, such as CUDAExecutionProvider or GPU.1",
    )
    inspect.add_argument(
        "--threads",
        type=partial(_whole, least=1, most=MAX_THREADS),
        help="number of CPU threads (default: chosen by the runtime)",
    )
    inspect.add_argument(
        "--json", type=at_home, metavar="FILE", help="write one JSON record per micrograph to this file; - for stdout"
    )
    return parser


def _inspect(options: argparse.Namespace) -> Iterator[Outcome]:
    """Print, record and yield each outcome; they are not collected, because many would take too much memory."""
    from contextlib import nullcontext

    from fusion_diff.edge.session import EdgeSession
    from fusion_diff.inspection.files import place, refusal
    from fusion_diff.inspection.record import STDOUT, RecordWriter
    from fusion_diff.micrograph import discover
    from fusion_diff.verdict.reasons import undecidable

    files, records = discover(options.paths), options.json
    if records not in (None, STDOUT) and (why := refusal(records, {place(file) for file in files})):
        raise FusionDiffError(f"--json {printable(records)}: {why}")
    session = EdgeSession.load(options.model, device=options.device, threads=options.threads)
    if (why := undecidable(session.enrolment, options.alpha)) is not None:
        _warn(f"nothing can be decided: {why}")
    with RecordWriter(records) if records else nullcontext() as writer:
        for outcome in inspect_paths(
            session,
            files,
            alpha=options.alpha,
            pixel_size_um=options.pixel_size,
            page=options.page,
            max_pixels=options.max_pixels,
            thumbnails=False,
        ):
            if writer is not None:
                writer.write(outcome)
            if (it := outcome.inspection) is None:
                _complain(str(outcome.error))
            else:
                if records != STDOUT:
                    print(f"{printable(outcome.path)}\t{it.score:.3f}\t{it.decision}\t{printable(it.predicted_class)}")
                if not it.in_scope:  # on stderr, because programs parse the columns of stdout
                    _warn(f"{printable(outcome.path)}: {it.reasons[0]}")
            yield outcome


def _warn(text: object) -> None:
    print(f"Warning: {paragraph(text)}", file=sys.stderr)


def _complain(text: str) -> None:
    print(f"Error: {paragraph(text)}", file=sys.stderr)


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {value:g}")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number greater than 0, not {value:g}")
    return value


def _whole(text: str, *, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, not {text[:40]!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # argparse would name this function in its message
        raise argparse.ArgumentTypeError(f"must be a number, not {text[:40]!r}") from None


if __name__ == "__main__":
    sys.exit(main())
