"""Batches on a real Ray cluster of two nodes on this machine, with workers and nodes lost during the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("ray")

from fusion_diff.batch import cluster as module
from fusion_diff.batch.cluster import Cluster, accelerator_of
from fusion_diff.batch.engine import LocalEngine, Settings
from fusion_diff.batch.run import run_batch
from fusion_diff.checkpoint import EMBEDDED
from fusion_diff.errors import BatchError
from fusion_diff.inspection.run import load_inspector
from fusion_diff.synthetic import builtin_samples

pytestmark = pytest.mark.filterwarnings("ignore")
COUNT = 40


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    drawn, _ = builtin_samples(4, size=96)
    for index in range(COUNT):
        pixels = drawn[index % len(drawn)].pixels
        tifffile.imwrite(folder / f"{index:03d}.tif", np.rint(pixels * 65535).astype(np.uint16))
    return folder


class Node:
    """A node of a cluster: `ray start --block` and its child processes."""

    def __init__(self, folder, name, *words):
        common = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        self.output = folder / f"{name}.log"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("ray"), "start", "--node-ip-address=127.0.0.1", *common, *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def processes(self):
        """Return ids and titles of the node's processes, found through their parents."""
        parents, titles = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        ours = {self.process.pid}
        for _ in parents:
            more = {child for child, parent in parents.items() if parent in ours} - ours
            if not more:
                break
            ours |= more
        return {pid: titles.get(pid, "") for pid in ours}

    def workers(self):
        return [pid for pid, title in self.processes().items() if title.startswith("ray::Worker")]

    def kill(self):
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def start(folder, name, address, *words):
    node = Node(folder, name, *words)
    host, _, port = address.partition(":")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert node.process.poll() is None, node.output.read_text()
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return node
        time.sleep(0.2)
    raise AssertionError(node.output.read_text())


def wait_for_workers(head, other, wanted):
    """Wait until the wanted numbers of workers run on the two nodes. A cluster itself waits only for the first."""
    deadline = time.monotonic() + 90
    while (found := (len(head.workers()), len(other.workers()))) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@contextlib.contextmanager
def cluster_of_two(folder, *of_the_other):
    """Start a cluster, and give its address, its head and its other node, which has further options."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, clients = one.getsockname()[1], two.getsockname()[1]
    address = f"127.0.0.1:{port}"
    options = (f"--port={port}", f"--ray-client-server-port={clients}", "--include-dashboard=false")
    head = start(folder, "head", address, "--head", *options)
    other = None
    try:
        other = start(folder, "other", address, f"--address={address}", *of_the_other)
        yield address, head, other
    finally:
        for node in (other, head):
            if node is not None:
                node.kill()


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """A cluster for tests that leave its nodes alive."""
    with cluster_of_two(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def two_nodes_to_lose(tmp_path):
    """A cluster of a test's own."""
    with cluster_of_two(tmp_path) as found:
        yield found


def names(rows):
    return sorted(Path(row["path"]).name for row in rows)


@pytest.mark.slow
def test_a_run_loses_and_repeats_nothing_though_a_worker_and_then_a_machine_are_lost(
    two_nodes_to_lose, images, tmp_path, read_rows
):
    address, head, other = two_nodes_to_lose
    killed = []

    def lose(done, total):
        if done.finished == 8:
            killed.extend(head.workers())
            os.kill(killed[0], signal.SIGKILL)
        if done.finished == 25:
            other.kill()

    with Cluster(address, EMBEDDED, Settings(heatmaps=True), workers=2) as cluster:
        wait_for_workers(head, other, (1, 1))
        done = run_batch(str(images), tmp_path / "out", cluster, rows=5, progress=lose)
    rows = read_rows(tmp_path / "out")
    assert killed
    assert done.finished == COUNT
    assert names(rows) == sorted(path.name for path in images.iterdir())
    assert not [row["error"] for row in rows if row["error"]]
    assert all((tmp_path / "out" / row["heatmap"]).is_file() for row in rows)

    run_batch(str(images / "00[0-3].tif"), tmp_path / "here", LocalEngine(load_inspector(EMBEDDED, "cpu"), Settings()))
    scores = {row["path"]: row["score"] for row in rows}
    for row in read_rows(tmp_path / "here"):
        assert row["score"] == pytest.approx(scores[row["path"]], abs=1e-4)


@pytest.mark.slow
def test_a_cluster_that_is_lost_is_a_clear_error_and_what_is_done_is_kept(
    two_nodes_to_lose, images, tmp_path, read_rows
):
    address, head, other = two_nodes_to_lose

    def lose(done, total):
        if done.finished == 10:
            head.kill()
            other.kill()

    with (
        pytest.raises(BatchError, match=r"there is no cluster at this address.*rows are kept in"),
        Cluster(address, EMBEDDED, Settings(), workers=2) as cluster,
    ):
        run_batch(str(images), tmp_path / "out", cluster, rows=3, progress=lose)
    kept = read_rows(tmp_path / "out")
    assert 10 <= len(kept) == len(set(names(kept))) < COUNT


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", ["GPU", "NPU"])
def test_as_many_workers_start_as_there_are_devices(tmp_path, monkeypatch, accelerator):
    """They compute on the CPU, because the device that Ray is told of need not be there."""
    monkeypatch.setattr(module, "accelerator_of", lambda _: accelerator)
    with (
        cluster_of_two(tmp_path, "--num-gpus=1", '--resources={"NPU": 1}') as (address, head, other),
        Cluster(address, EMBEDDED, Settings()) as cluster,
    ):
        assert cluster.workers == 1
        assert (len(head.workers()), len(other.workers())) == (0, 1)


def test_a_worker_that_loads_an_export_of_the_model_ends_the_run(
    two_nodes, tmp_path, checkpoint_folder, exported_folder
):
    model = tmp_path / "model"
    shutil.copytree(checkpoint_folder, model)
    with Cluster(two_nodes[0], str(model), Settings(), workers=1) as cluster:
        shutil.rmtree(model)
        shutil.copytree(exported_folder, model)
        cluster._start()
        with pytest.raises(BatchError, match=r"a worker loaded a different model: [0-9a-f]{64} instead of"):
            cluster._wait()


@pytest.mark.parametrize(
    ("device", "accelerator"),
    [
        ("cpu", None),
        ("CPU", None),
        ("AUTO", None),
        ("mps", None),
        ("cuda", "GPU"),
        ("cuda:0", "GPU"),
        ("xpu", "GPU"),
        ("GPU", "GPU"),
        ("GPU.0", "GPU"),
        ("CUDAExecutionProvider", "GPU"),
        ("npu", "NPU"),
        ("NPU", "NPU"),
    ],
)
def test_a_worker_asks_for_the_kind_of_device_that_it_computes_on(device, accelerator):
    assert accelerator_of(device) == accelerator


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_keeps_what_is_done(two_nodes, images, tmp_path, read_rows):
    out = tmp_path / "out"
    words = ["batch", str(images), "--out", str(out), "--heatmaps", "--cluster", two_nodes[0], "--workers", "2"]
    run = subprocess.Popen([sys.executable, "-m", "fusion_diff", *words], stderr=subprocess.PIPE, text=True)
    while len(list(out.glob("heatmaps/*/*.png"))) < 2:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.05)
    run.terminate()
    _, said = run.communicate()
    assert run.returncode == 143, said
    assert 1 <= len(read_rows(out)) < COUNT


@pytest.mark.slow
def test_a_micrograph_that_takes_every_worker_with_it_becomes_a_row_with_that_error(
    two_nodes, tmp_path, read_rows, monkeypatch
):
    address, *nodes = two_nodes
    monkeypatch.setattr(module, "MOST_LOSSES", 2)  # each has a worker load the model again
    (tmp_path / "in").mkdir()
    pixels = np.tile(builtin_samples(1, size=96)[0][0].pixels, (40, 40))  # slow enough to kill its worker
    tifffile.imwrite(tmp_path / "in" / "poison.tif", np.rint(pixels * 65535).astype(np.uint16))
    over = threading.Event()
    killed = []

    def kill_at_work():
        while not over.wait(0.05):
            for node in nodes:
                for pid, title in node.processes().items():
                    if title.startswith("ray::Worker.judge") and pid not in killed:
                        killed.append(pid)
                        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    try:
        with Cluster(address, EMBEDDED, Settings(), workers=1) as cluster:
            run_batch(str(tmp_path / "in"), tmp_path / "out", cluster)
    finally:
        over.set()
        killer.join()
    (row,) = read_rows(tmp_path / "out")
    assert len(killed) == 2
    assert row["decision"] is None
    assert "poison.tif: 2 workers were lost while inspecting it" in row["error"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:x", "auto"])
def test_a_cluster_that_is_not_there_is_told_at_once(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(BatchError, match="check that Ray runs there") as caught:
        Cluster(address, EMBEDDED, Settings())
    assert str(caught.value).startswith(f"{'127.0.0.1:2' if address == 'auto' else address}: ")
