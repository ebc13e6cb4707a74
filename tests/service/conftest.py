"""A service with a small model that is really enrolled, on SQLite and on PostgreSQL where that can be started."""

from __future__ import annotations

import io
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.references import ReferenceSet
from fusion_diff.service import ledger
from fusion_diff.service.app import create_app
from fusion_diff.service.database import Database
from fusion_diff.service.settings import Settings

SIDE = 64
Serve = Callable[..., AbstractContextManager[TestClient]]


@cache
def _draw(kind: str, seed: int, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng([seed, len(kind)])
    grain = gaussian_filter(rng.normal(size=(side, side)), 4.0 if kind == "coarse" else 1.0)
    return np.clip(32768 + 6000 * grain / grain.std(), 0, 65535).round().astype(np.uint16)


def _tiff(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels)
    return buffer.getvalue()


@pytest.fixture
def at_once() -> Callable[..., None]:
    """Call each of these in a thread of its own, and wait for all."""

    def run(*calls: Callable[[], object]) -> None:
        threads = [threading.Thread(target=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


@pytest.fixture(scope="session")
def draw() -> Callable[..., np.ndarray]:
    """Draws a surface in 16 bits, with fine or with coarse grain; seeds from 100 on are not among the references."""
    return _draw


@pytest.fixture(scope="session")
def tiff() -> Callable[[np.ndarray], bytes]:
    """Makes a TIFF of pixels."""
    return _tiff


@pytest.fixture(scope="session")
def micrograph() -> Callable[..., bytes]:
    """Gives what `draw` draws as a TIFF."""
    return lambda *what: _tiff(_draw(*what))


@pytest.fixture(scope="session")
def foreign() -> bytes:
    """A TIFF of stripes, which is out of scope of the model in `enrolled_folder`."""
    return _tiff((np.indices((SIDE, SIDE))[1] // 8 % 2 * 65535).astype(np.uint16))


def _enrol(base: Path, folder: Path) -> None:
    kinds = ["fine"] * 2 + ["coarse"] * 2
    micrographs = [Micrograph.from_array(_draw(kind, seed)) for seed, kind in enumerate(kinds)]
    model = DiffusionModel.from_pretrained(base)
    model.enroll(ReferenceSet.from_micrographs(micrographs, kinds, authentic="fine"))
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def enrolled_folder(built_once: Callable[[str, Callable[[Path], object]], Path], narrow_folder: Path) -> Path:
    """A narrow model enrolled with two fine and two coarse references, saved. Not to be changed."""
    return built_once("enrolled/narrow", partial(_enrol, narrow_folder))


@pytest.fixture(scope="session")
def whole_folder(built_once: Callable[[str, Callable[[Path], object]], Path], checkpoint_folder: Path) -> Path:
    """The embedded model enrolled with the same, for what has to take its time, saved. Not to be changed."""
    return built_once("enrolled/whole", partial(_enrol, checkpoint_folder))


@pytest.fixture
def serve(enrolled_folder: Path, tmp_path: Path) -> Serve:
    """Runs the service in this process, as a context manager that gives a client of it."""

    @contextmanager
    def run(**settings: object) -> Iterator[TestClient]:
        given = {"data": tmp_path / "data", "model": str(enrolled_folder), "insecure": True} | settings
        with TestClient(create_app(Settings(**given)), base_url="http://127.0.0.1") as client:
            yield client

    return run


@pytest.fixture(scope="module")
def client(enrolled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of a service that the tests of a module share; without keys, on SQLite."""
    settings = Settings(data=tmp_path_factory.mktemp("shared"), model=str(enrolled_folder), insecure=True)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as shared:
        yield shared


@pytest.fixture(scope="module")
def guarded(enrolled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client, which follows no redirects, of a service that the tests of a module share; it asks for keys."""
    settings = Settings(data=tmp_path_factory.mktemp("guarded"), model=str(enrolled_folder))
    app = create_app(settings)
    with TestClient(app, base_url="http://127.0.0.1", follow_redirects=False) as shared:
        yield shared


@pytest.fixture(scope="session")
def finished() -> Callable[[TestClient, str], dict[str, Any]]:
    """Waits for a job to end, and returns it."""

    def wait(client: TestClient, job_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + 300
        while (job := client.get(f"/v1/jobs/{job_id}").json())["state"] == "running":
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
        return job

    return wait


@pytest.fixture(scope="session")
def learn(finished: Callable[[TestClient, str], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Has the references of a set enrolled, or audited where no model is described, and returns the job as it ended."""

    def ask(client: TestClient, set_id: str, **model: object) -> dict[str, Any]:
        at = f"/v1/reference-sets/{set_id}"
        answer = client.post(f"{at}/enrol", json=model) if model else client.post(f"{at}/audit")
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
        return finished(client, job["id"])

    return ask


@pytest.fixture
def exported_ledger() -> Callable[[Database, Path], dict[str, Any]]:
    """Write the ledger and its head to FILE and FILE.head, as an auditor saves /v1/ledger and /v1/ledger/head."""

    def export(database: Database, file: Path) -> dict[str, Any]:
        with database.read() as session:
            head, written = ledger.head(session), ledger.head_bytes(session)
        file.write_bytes(b"".join(ledger.lines(database, head["count"])))
        file.with_name(f"{file.name}.head").write_bytes(written)
        return head

    return export


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, without the name of a database; thrown away afterwards."""
    found = [Path(each).parent for each in [shutil.which("initdb")] if each]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()]
    if not found:
        pytest.skip("PostgreSQL's initdb and postgres are not installed")
    user = None
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        users = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = users.get("postgres") or users.get("nobody")
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no other user")
    as_user = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short, for a socket in it
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    server = None
    try:
        for binaries in found:
            words = [binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]
            words += ["--locale=C"]
            made = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False, **as_user)
            if made.returncode == 0:
                break
            shutil.rmtree(folder / "data", ignore_errors=True)
        else:
            pytest.skip(f"PostgreSQL cannot be set up: {made.stderr[-300:]}")
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", folder / "data", *options],
                stdout=log,
                stderr=log,
                cwd=folder,
                **as_user,
            )
        url = f"postgresql+psycopg://postgres@/NAME?host={folder}"
        engine = create_engine(url.replace("/NAME", "/postgres"))
        for _ in range(600):
            try:
                engine.connect().close()
                break
            except OperationalError:
                if server.poll() is not None:
                    pytest.skip(f"PostgreSQL does not start: {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.1)
        engine.dispose()
        yield url
    finally:
        if server is not None:
            server.terminate()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of one kind and of the other."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.db'}"
    server = request.getfixturevalue("postgresql")
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server.replace("/NAME", "/postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.replace("/NAME", f"/{name}")
