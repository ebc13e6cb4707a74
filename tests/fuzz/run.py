"""Fuzz the readers under coverage guidance, one after the other: `python tests/fuzz/run.py --seconds 30 [NAME …]`."""

from __future__ import annotations

import argparse
import importlib
import logging
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py"))
READERS = ("micrograph", "references", "trust", "checkpoint", "enrolment", "fewshot")
INSTRUMENTED = tuple(f"fusion_diff.{part}" for part in READERS)
PARSERS = ("tifffile", "PIL")
"""Libraries in Python whose branches guide the search as well."""

TIMEOUT_S, RSS_MB = 20, 3000


def load(name: str) -> ModuleType:
    """Return a harness by name."""
    return importlib.import_module(f"fuzz_{name}")


def fuzz(name: str, options: list[str]) -> None:
    """Run one harness in this process; does not return."""
    import atheris

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it says something of every damaged file
    with atheris.instrument_imports(include=[*INSTRUMENTED, *PARSERS]):
        harness = load(name)

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, max_size))
        return harness.mutate(data, rng)[:max_size]

    atheris.Setup([sys.argv[0], *options], harness.check, custom_mutator=mutated)
    atheris.Fuzz()


def run(name: str, seconds: int, artifacts: Path) -> tuple[str, str, str, str]:
    """Run one harness in a process of its own; returns its row of the table."""
    with tempfile.TemporaryDirectory(prefix="fusion-diff-corpus-") as corpus:
        for index, seed in enumerate(load(name).seeds()):
            (Path(corpus) / f"seed-{index:02d}").write_bytes(seed)
        limits = [f"-max_total_time={seconds}", f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={RSS_MB}"]
        limits += [f"-max_len={load(name).MAX_LEN}", f"-artifact_prefix={artifacts}/{name}-", "-print_final_stats=1"]
        command = [sys.executable, __file__, "--one", name, corpus, *limits]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, errors="replace", check=False)
    output = done.stdout + done.stderr
    executions = re.findall(r"number_of_executed_units:\s*(\d+)", output)
    coverage = re.findall(r"cov: (\d+)", output)
    finding = "none"
    if done.returncode:
        (artifacts / f"{name}.log").write_text(output, encoding="utf-8")
        told = re.findall(r"^(?:\S*(?:Error|Exception|Exit|Interrupt|Warning)\b.*|==\d+== ?ERROR: .*)$", output, re.M)
        finding = " / ".join(line[:160] for line in told[:2]) or f"exit code {done.returncode}"
    return name, executions[-1] if executions else "?", coverage[-1] if coverage else "?", finding


def main() -> int:
    """Parse the command line; returns 1 where there were findings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"harnesses to run; all by default: {', '.join(NAMES)}"
    )
    parser.add_argument("--seconds", type=int, default=30, help="time for each (default 30)")
    parser.add_argument("--artifacts", type=Path, help="folder for inputs of findings")
    parser.add_argument("--replay", nargs=2, metavar=("NAME", "FILE"), help="check one file and show what it raises")
    arguments = parser.parse_args()
    if arguments.replay:
        load(arguments.replay[0]).check(Path(arguments.replay[1]).read_bytes())
        return 0
    if unknown := sorted(set(arguments.names) - set(NAMES)):
        parser.error(f"no harness {', '.join(unknown)}; there are {', '.join(NAMES)}")
    artifacts = arguments.artifacts or Path(tempfile.mkdtemp(prefix="fusion-diff-findings-"))
    artifacts.mkdir(parents=True, exist_ok=True)
    print(f"{'reader':<12}{'executions':>12}{'coverage':>10}  findings (inputs in {artifacts})")
    found = False
    for name in arguments.names or NAMES:
        row = run(name, arguments.seconds, artifacts)
        found |= row[3] != "none"
        print(f"{row[0]:<12}{row[1]:>12}{row[2]:>10}  {row[3]}", flush=True)
    return int(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], sys.argv[3:])
    sys.exit(main())
