"""Throughput, memory and crash safety of batches: python benchmarks/batch.py --json batch.json

Throughput is measured on small procedural micrographs, in rows per second of wall-clock and processor time. Compared
are a plain loop of `inspect`, `fusion-diff batch`, and with --cluster ADDRESS the same on a Ray cluster with 1 and 2
workers. They run in turn, --rounds times, and the best of each counts. Each model computes in one thread.
--memory 1000 100000 measures the peak memory of a batch of that many files. --kills 50 kills batches 50 times with
SIGKILL at random moments, and checks that no row is lost or repeated. These two judge by brightness only, so that the
batch itself is measured.
Two nodes on one machine: ray start --head --port=26379 --num-cpus=1; ray start --address=127.0.0.1:26379 --num-cpus=1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as parquet
import tifffile

from fusion_diff.batch.cluster import Cluster
from fusion_diff.batch.engine import LocalEngine, Settings
from fusion_diff.batch.run import run_batch
from fusion_diff.fewshot.decision import Calibration, DecisionRule
from fusion_diff.inspection.run import inspect_paths, load_inspector
from fusion_diff.synthetic import generate
from fusion_diff.verdict.compared import Compared
from fusion_diff.verdict.regions import find_regions
from fusion_diff.verdict.result import EvidenceMap, Inspection

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusion_diff.micrograph import Micrograph

DRAWN = 20
LINKS = 50_000
"""Hard links per file, within the limits of common file systems."""


REFERENCES = SimpleNamespace(
    labels=("bright",) * 9,
    references_sha256="0" * 64,
    compared=Compared("bright", {"bright": 9}, 9, {"authentic": 9, "not authentic": 0}),
    verifier=DecisionRule(Calibration(1.0, 0.0), np.arange(9.0), np.zeros(0), np.ones(9), np.zeros(0), 0.5),
)
"""As many references as decisions need, so that nothing is warned of."""


class Brightness:
    """Judges by mean brightness, which takes almost no time compared with reading the file and writing the row."""

    name, sha256, enrolment = "brightness", "0" * 64, REFERENCES

    def inspect(self, micrograph: Micrograph, *, alpha: float) -> Inspection:
        level = float(micrograph.window(0, 0, micrograph.height, micrograph.width).mean())
        score = level / np.iinfo(micrograph.dtype).max
        values = np.full((micrograph.height // 8, micrograph.width // 8), 1 - score, dtype=np.float32)
        evidence = EvidenceMap(values, 1 / 8, micrograph.height, micrograph.width)
        return Inspection(
            source=str(micrograph.source),
            file_sha256=micrograph.sha256,
            model_name=self.name,
            model_sha256=self.sha256,
            references_sha256=REFERENCES.references_sha256,
            score=score,
            decision="inconclusive",
            in_scope=True,
            predicted_class="bright" if score > 0.5 else "dark",
            p_values={"authentic": score},
            alpha=alpha,
            evidence=evidence,
            threshold=0.5,
            regions=find_regions(evidence, 0.5, pixel_size_um=micrograph.pixel_size_um),
            nearest=(),
            contributions={},
            reasons=(),
            height=micrograph.height,
            width=micrograph.width,
            pixel_size_um=micrograph.pixel_size_um,
            instrument=None,
            seconds=0.0,
            offset=0.0,
            compared_with=REFERENCES.compared,
        )


def make_images(folder: Path, count: int, side: int) -> Path:
    """Write a few micrographs, link them under `count` names, and return the folder of the links."""
    (folder / "drawn").mkdir(parents=True)
    names = folder / f"{count}"
    names.mkdir()
    each = max(DRAWN, -(-count // LINKS))
    for index in range(each):
        levels = np.rint(generate(index % DRAWN, size=side).pixels * 65535).astype(np.uint16)
        tifffile.imwrite(folder / "drawn" / f"{index}.tif", levels)
    for index in range(count):
        (names / f"{index:07d}.tif").hardlink_to(folder / "drawn" / f"{index % each}.tif")
    return names


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds of a call, and the processor seconds of this process and Ray's workers on this machine."""
    started, used = time.perf_counter(), processor_s()
    call()
    return time.perf_counter() - started, processor_s() - used


def processor_s() -> float:
    ticks = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().startswith(b"ray::Worker"):
                ticks += sum(map(int, (entry / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


class FullCluster(Cluster):
    """A cluster that can wait for all of its workers; a batch would start with the first."""

    def wait_for_all(self) -> None:
        """Wait until every worker has loaded the model."""
        while self._starting:
            self._wait()


def rates(images: Path, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure rows per second of the plain loop, the batch and the cluster, in turn."""
    import torch

    torch.set_num_threads(1)
    inspector, settings = load_inspector(options.model, "cpu"), Settings()
    files = sorted(images.iterdir())
    list(inspect_paths(inspector, files[:2], thumbnails=False))
    found: dict[str, list[tuple[float, float]]] = {}

    def record(name: str, call: Callable[[], Any]) -> None:
        found.setdefault(name, []).append(timed(call))
        print(f"  {name}: {len(files) / found[name][-1][0]:.2f} rows/s", file=sys.stderr, flush=True)

    for turn in range(options.rounds):
        record("loop of inspect", lambda: list(inspect_paths(inspector, files, thumbnails=False)))
        record(
            "batch", lambda turn=turn: run_batch(str(images), folder / f"here-{turn}", LocalEngine(inspector, settings))
        )
        for workers in (1, 2) if options.cluster else ():
            with FullCluster(options.cluster, options.model, settings, workers=workers) as cluster:
                cluster.wait_for_all()
                # An actor's first micrograph takes longer than the others.
                run_batch(str(images), folder / f"warm-{workers}-{turn}", cluster) if turn == 0 else None
                out = folder / f"ray-{workers}-{turn}"
                record(
                    f"Ray, {workers} worker{'s' * (workers > 1)}",
                    lambda out=out, on=cluster: run_batch(str(images), out, on),
                )
    rows = []
    for name, taken in found.items():
        seconds, processor = (min(column) for column in zip(*taken, strict=True))
        rows.append({"engine": name, "rows_per_s": len(files) / seconds, "processor_s_per_row": processor / len(files)})
    return rows


def in_child(call: Callable[[], Any], kill_when: Callable[[], bool] | None = None) -> tuple[bool, float]:
    """Run a call in a forked process, optionally killed; return whether it ended by itself, and its peak MiB."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    while True:
        ended, status, used = os.wait4(child, 0 if kill_when is None else os.WNOHANG)
        if ended:
            break
        if kill_when is not None and kill_when():
            os.kill(child, signal.SIGKILL)
            kill_when = None
        else:
            time.sleep(0.001)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("a batch failed")
    return not os.WIFSIGNALED(status), used.ru_maxrss / 1024


def memory(counts: list[int], folder: Path, side: int) -> list[dict[str, Any]]:
    """Measure the peak memory of batches of many files."""
    rows = []
    for count in counts:
        images = make_images(folder / f"memory-{count}", count, side)
        started = time.perf_counter()
        _, peak = in_child(
            lambda images=images, count=count: run_batch(
                str(images), folder / f"m{count}", LocalEngine(Brightness(), Settings())
            )
        )
        rows.append({"images": count, "peak_mib": peak, "rows_per_s": count / (time.perf_counter() - started)})
    return rows


def kills(wanted: int, images: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Kill batches at random moments, and count lost or repeated rows; there must be none."""
    draw = random.Random(seed)
    result: dict[str, Any] = dict.fromkeys(("kills", "amid_rows", "runs", "lost", "repeated"), 0)
    names = {str(path) for path in images.iterdir()}
    out = folder / "killed"
    kept: set[str] = set()

    def go() -> None:
        run_batch(str(images), out, LocalEngine(Brightness(), Settings(heatmaps=True)), rows=7)

    while True:
        last = result["kills"] >= wanted
        # A random moment within the next files written, from before the first to during the last.
        files = len(list(out.glob("part-*"))) + draw.randint(0, 3)
        pause = draw.uniform(0, 0.1)

        def due(out: Path = out, files: int = files, pause: float = pause) -> bool:
            there = len(list(out.glob("part-*"))) >= files
            time.sleep(pause if there else 0)
            return there

        ended, _ = in_child(go, None if last else due)
        result["runs"] += 1
        result["kills"] += not ended
        paths = paths_in(out)
        found = set(paths)
        result["repeated"] += len(paths) - len(found)
        result["lost"] += len(kept - found) + (len(names - found) if ended else 0)
        result["amid_rows"] += not ended and 0 < len(found) < len(names)
        kept = found
        if last:
            return result
        if ended:
            out, kept = folder / f"killed-{result['runs']}", set()


def paths_in(out: Path) -> list[str]:
    """Return the paths of all rows, read in a forked process, because pyarrow's threads do not survive a fork."""
    told = out.with_name("paths.json")

    def read() -> None:
        parts = sorted(out.glob("part-*.parquet"))
        told.write_text(json.dumps([path for part in parts for path in parquet.read_table(part)["path"].to_pylist()]))

    in_child(read)
    return list(json.loads(told.read_text()))


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table in Markdown."""
    print(f"\n{title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(
            "| " + " | ".join(f"{each:.4g}" if isinstance(each, float) else str(each) for each in row.values()) + " |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100, help="for rates and kills")
    parser.add_argument("--side", type=int, default=96, help="of the micrographs, in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="of the rates; 0 leaves them out")
    parser.add_argument("--model", default="fusion-diff-v1-ceramic")
    parser.add_argument("--cluster", metavar="ADDRESS")
    parser.add_argument("--memory", nargs="*", type=int, default=[], metavar="N")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"side": options.side, "images": options.images}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = make_images(folder / "images", options.images, options.side)
        # Fork first: a process that has computed with threads cannot be forked safely.
        if options.kills:
            result["kills"] = kills(options.kills, images, folder, options.seed)
            table("Killed", [result["kills"]])
        if options.memory:
            result["memory"] = memory(options.memory, folder, options.side)
            table("Memory", result["memory"])
        if options.rounds:
            result["rates"] = rates(images, folder, options)
            table("Rates", result["rates"])
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    broken = result.get("kills", {})
    return int(bool(broken.get("lost") or broken.get("repeated")))


if __name__ == "__main__":
    sys.exit(main())
