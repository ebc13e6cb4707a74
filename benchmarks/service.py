"""The service under load: python benchmarks/service.py --json service.json

Measures requests per second and latencies with 1, 8 and 32 clients. Each is compared with a plain `inspect` loop of one
process over the same files, measured before and after in the same run, so that other load on the machine affects both.
Processor time per micrograph, which other load does not affect, is reported, too. --soak measures memory over time.
--hostile mixes malformed files with valid ones. --kills kills the process during writes: no accepted inspection may be
lost, and the ledger must verify.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import tifffile

from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.service import ledger
from fusion_diff.service.database import Database
from fusion_diff.service.settings import Settings
from fusion_diff.synthetic import generate
from fusion_diff.trust.ledger_check import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BARE = (
    "import sys, time, warnings; warnings.simplefilter('ignore'); from pathlib import Path;"
    "from fusion_diff.model import DiffusionModel; from fusion_diff.inspection.run import inspect_paths;"
    "model = DiffusionModel.from_pretrained(sys.argv[1]); files = sorted(Path(sys.argv[2]).glob('*.tif'));"
    "list(inspect_paths(model, files[:2])); count, started, used = 0, time.perf_counter(), time.process_time()\n"
    "while time.perf_counter() - started < float(sys.argv[3]):\n"
    "    for outcome in inspect_paths(model, files): count += 1\n"
    "print(count / (time.perf_counter() - started), 1000 * (time.process_time() - used) / count)"
)


class Server:
    """The service in a separate process."""

    def __init__(self, model: str, data: Path, threads: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.data = f"http://127.0.0.1:{port}", data
        words = [sys.executable, "-m", "fusion_diff", "serve", "--insecure", "--port", str(port)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "FUSION_DIFF_RATE_LIMIT": "1000000"}
        data.mkdir(parents=True, exist_ok=True)
        with (data / "log").open("a") as log:
            words += ["--data", str(data), "--model", model]
            self.process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)

    def __enter__(self) -> Server:
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"the service did not start: {(self.data / 'log').read_text()[-2000:]}")
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{self.address}/readyz").status_code == 200:
                    return self
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def processor_ms(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def draw(folder: Path, count: int, side: int) -> list[bytes]:
    """Return generated micrographs as the bytes of 16-bit TIFFs."""
    folder.mkdir()
    for seed in range(count):
        pixels = generate(seed, size=side, material="alumina").pixels
        tifffile.imwrite(folder / f"{seed:03}.tif", np.rint(pixels * 65535).astype(np.uint16))
    return [file.read_bytes() for file in sorted(folder.glob("*.tif"))]


def bare(model: str, folder: Path, seconds: float, threads: int) -> tuple[float, float]:
    """Return the micrographs per second of the inspect loop, and the milliseconds of processor time per micrograph."""
    words = [sys.executable, "-c", BARE, model, str(folder), str(seconds)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    rate, used = map(float, done.stdout.split())
    return rate, used


def post(client: httpx2.Client, address: str, content: bytes) -> httpx2.Response:
    return client.post(f"{address}/v1/inspections", files=[("files", ("a.tif", content))])


def drive(
    address: str,
    clients: int,
    until: Callable[[], bool],
    pick: Callable[[int], bytes],
    seen: Callable[[httpx2.Response, float], None],
) -> None:
    """Run clients that post one micrograph after the other; each stops when the service does."""

    def run(first: int) -> None:
        with contextlib.suppress(httpx2.TransportError), httpx2.Client(timeout=300) as client:
            index = first
            while until():
                started = time.perf_counter()
                answer = post(client, address, pick(index))
                seen(answer, time.perf_counter() - started)
                index += clients

    threads = [threading.Thread(target=run, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def load(server: Server, clients: int, seconds: float, contents: list[bytes]) -> dict[str, float]:
    """Return the rate and latencies with a number of clients."""
    took: list[float] = []

    def seen(answer: httpx2.Response, seconds: float) -> None:
        if answer.json()["results"][0]["inspection"] is None:
            raise SystemExit(f"not inspected: {answer.text}")
        took.append(seconds)

    started, used = time.perf_counter(), server.processor_ms()
    drive(
        server.address,
        clients,
        lambda: time.perf_counter() - started < seconds,
        lambda index: contents[index % len(contents)],
        seen,
    )
    elapsed = time.perf_counter() - started
    p50, p95, p99 = (float(np.percentile(took, q) * 1000) for q in (50, 95, 99))
    row = {"clients": clients, "per_s": len(took) / elapsed, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
    return row | {"processor_ms": (server.processor_ms() - used) / len(took)}


def soak(server: Server, seconds: float, contents: list[bytes]) -> dict[str, Any]:
    """Return the service's memory in MB under 8 clients: after a tenth of the time, at the end, and the maximum."""
    samples: list[tuple[float, float]] = []
    started, done = time.perf_counter(), threading.Event()

    def watch() -> None:
        while not done.wait(1):
            samples.append((time.perf_counter() - started, server.memory_mb()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    row = load(server, 8, seconds, contents)
    done.set()
    watcher.join()
    settled = [memory for at, memory in samples if at > seconds / 10]
    quarter = max(1, len(settled) // 4)
    first, last = float(np.median(settled[:quarter])), float(np.median(settled[-quarter:]))
    return row | {"seconds": seconds, "first_mb": first, "last_mb": last, "most_mb": max(settled)}


def hostile(contents: list[bytes], chance: random.Random) -> bytes:
    """Return the bytes of a malformed file."""
    content = bytearray(chance.choice(contents))
    way = chance.randrange(5)
    if way == 0:
        return bytes(content[: chance.randrange(len(content))])
    if way == 1:
        for _ in range(chance.randrange(1, 50)):
            content[chance.randrange(min(len(content), 400))] = chance.randrange(256)
        return bytes(content)
    if way == 2:
        return chance.choice((b"II*\x00", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")) + chance.randbytes(500)
    if way == 3:
        at = chance.randrange(len(content))
        return bytes(content[:at]) + chance.randbytes(64) + bytes(content[at:])
    return b"\x80\x05" + chance.randbytes(100)


def attack(server: Server, count: int, contents: list[bytes]) -> dict[str, int]:
    """Send malformed files, with a valid one after every ten, and count the outcomes."""
    chance, lock = random.Random(0), threading.Lock()
    told = {"sent": 0, "inspected": 0, "refused": 0, "faults": 0}

    def more() -> bool:
        with lock:
            told["sent"] += 1
            return told["sent"] <= count

    def pick(index: int) -> bytes:
        with lock:
            return contents[index % len(contents)] if index % 11 == 10 else hostile(contents, chance)

    def seen(answer: httpx2.Response, _seconds: float) -> None:
        fault = answer.status_code >= 500
        inspected = answer.status_code == 200 and answer.json()["results"][0]["inspection"] is not None
        with lock:
            told["faults" if fault else "inspected" if inspected else "refused"] += 1

    drive(server.address, 8, more, pick, seen)
    told["sent"] = told["inspected"] + told["refused"] + told["faults"]
    return told | {"recorded": recorded(server.data)[0], "alive": int(server.process.poll() is None)}


def recorded(data: Path) -> tuple[int, bool]:
    """Return the number of verdicts in the ledger, and whether it verifies."""
    database = Database(Settings(data=data).database)
    head = ledger.export(database, data / "verdicts.jsonl")
    database.close()
    report = check(data / "verdicts.jsonl", expect=head["hash"])
    return sum(count for each, count in report.decisions.items() if each != "error"), report.intact


def kill(model: str, data: Path, times: int, contents: list[bytes], threads: int) -> dict[str, Any]:
    """Kill the service repeatedly during writes, and count accepted inspections that are lost."""
    accepted: list[str] = []
    chance = random.Random(0)
    for _ in range(times):
        before = len(accepted)
        with Server(model, data, threads) as server:

            def end(server: Server = server, before: int = before) -> None:
                while len(accepted) < before + 4:
                    time.sleep(0.005)
                time.sleep(chance.random() * 0.3)
                server.process.kill()

            killer = threading.Thread(target=end)
            killer.start()
            drive(
                server.address,
                4,
                lambda: True,
                lambda index: contents[index % len(contents)],
                lambda answer, _: accepted.append(answer.json()["results"][0]["inspection"]["id"]),
            )
            killer.join()
    with Server(model, data, threads) as server, httpx2.Client() as client:
        lost = [each for each in accepted if client.get(f"{server.address}/v1/inspections/{each}").status_code != 200]
    count, intact = recorded(data)
    return {"kills": times, "accepted": len(accepted), "lost": len(lost), "recorded": count, "intact": intact}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--clients", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement")
    parser.add_argument("--side", type=int, default=224, help="of the micrographs, in pixels")
    parser.add_argument("--threads", type=int, default=1, help="that the model computes in")
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--hostile", type=int, metavar="N")
    parser.add_argument("--kills", type=int, metavar="N")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"side": options.side, "threads": options.threads, "rows": []}
    with scratch() as folder:
        contents = draw(folder / "micrographs", 32, options.side)
        with Server(options.model, folder / "load", options.threads) as server:
            print("| clients | requests/s | bare loop/s | share | p50, ms | p95, ms | p99, ms | CPU, ms | bare, ms |")
            print("|---|---|---|---|---|---|---|---|---|")
            before = None
            for clients in options.clients:
                if before is None:
                    before = bare(options.model, folder / "micrographs", options.seconds / 2, options.threads)
                load(server, clients, 1, contents)  # warm
                row = load(server, clients, options.seconds, contents)
                after = bare(options.model, folder / "micrographs", options.seconds / 2, options.threads)
                row["bare_per_s"], row["bare_processor_ms"] = ((x + y) / 2 for x, y in zip(before, after, strict=True))
                row["share"], before = row["per_s"] / row["bare_per_s"], after
                result["rows"].append(row)
                line = "| {clients} | {per_s:.2f} | {bare_per_s:.2f} | {share:.0%} | {p50_ms:.0f} | {p95_ms:.0f} | "
                line += "{p99_ms:.0f} | {processor_ms:.0f} | {bare_processor_ms:.0f} |"
                print(line.format_map(row), flush=True)
            if options.soak:
                result["soak"] = soak(server, options.soak, contents)
                told = (
                    "\nSoak of {seconds:.0f} s: {per_s:.2f} requests/s; memory {first_mb:.0f} MB in the first quarter, "
                )
                print((told + "{last_mb:.0f} MB in the last, {most_mb:.0f} MB at most").format_map(result["soak"]))
        if options.hostile:
            with Server(options.model, folder / "hostile", options.threads) as server:
                result["hostile"] = attack(server, options.hostile, contents)
            told = (
                "\nHostile: {sent} sent, {refused} refused, {inspected} inspected, {recorded} recorded, {faults} faults"
            )
            print(told.format_map(result["hostile"]))
        if options.kills:
            result["kills"] = kill(options.model, folder / "kills", options.kills, contents, options.threads)
            told = (
                "\nKilled {kills} times: {accepted} accepted, {lost} lost, {recorded} recorded; chain intact: {intact}"
            )
            print(told.format_map(result["kills"]))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
