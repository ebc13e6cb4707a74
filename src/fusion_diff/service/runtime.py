"""The parts of the running service, opened and closed in order."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from fusion_diff.errors import ServiceError
from fusion_diff.printable import printable
from fusion_diff.service import ledger
from fusion_diff.service.concurrency_limits import Slots
from fusion_diff.service.database import Database, take_turn
from fusion_diff.service.learning import Learning
from fusion_diff.service.metrics import Metrics
from fusion_diff.service.model_registry import Shelf
from fusion_diff.service.queue import Queue
from fusion_diff.service.rates import RateLimit
from fusion_diff.service.sessions import SECRET_BYTES, Sessions
from fusion_diff.service.store import Store
from fusion_diff.service.uploads import claim
from fusion_diff.trust.files import read_bounded

if TYPE_CHECKING:
    from typing import BinaryIO

    from fusion_diff.service.settings import Settings

OPEN_FILES = 2**16
"""Open files that the process may have, if the system allows as many: connections, and the references of a job."""


@dataclass(frozen=True)
class Service:
    """The parts of a running service.

    Attributes:
        settings: the settings it was started with.
        database: the records.
        store: images and evidence.
        shelf: the models.
        queue: inspections under way.
        learning: audits and enrolments.
        metrics: the Prometheus metrics.
        rates: the rate limit.
        sessions: signs session cookies.
        slots: limits for concurrent uploads and decoding.
        claimed: open file whose lock keeps other processes from removing the uploads.
    """

    settings: Settings
    database: Database
    store: Store
    shelf: Shelf
    queue: Queue
    learning: Learning
    metrics: Metrics
    rates: RateLimit
    sessions: Sessions
    slots: Slots
    claimed: BinaryIO

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Open everything, load the model and migrate the database.

        Raises:
            FusionDiffError: a setting, the database, the store or the model is not usable.
            OSError: the data folder cannot be written.
        """
        raise_file_limit()
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        sessions = Sessions(_secret(settings.data / "session.key"))
        store, metrics = Store(settings.store, settings.incoming), Metrics()
        database = Database(settings.database)
        try:
            with database.write() as session:
                take_turn(session.connection())
                ledger.start(session)
            shelf = Shelf(settings, database)
            claimed = claim(settings.incoming)
            return cls(
                settings,
                database,
                store,
                shelf,
                Queue(settings, shelf.find, database, store, metrics),
                Learning(settings, shelf, store, database, metrics),
                metrics,
                RateLimit(settings.rate_limit),
                sessions,
                Slots(),
                claimed,
            )
        except BaseException:
            database.close()
            raise

    def stop(self) -> None:
        """Abort the running job, accept no more micrographs, and return at once. Accepted ones are finished."""
        self.learning.close(0)
        self.queue.stop(self.settings.drain_seconds)

    def close(self) -> None:
        """Stop, wait for accepted micrographs and the running job, and close everything."""
        self.stop()
        self.queue.close()
        self.learning.close(max(0.0, self.queue.until - time.monotonic()))
        self.database.close()
        self.claimed.close()


def raise_file_limit() -> None:
    """Raise the process's limit of open files to `OPEN_FILES`, or as far as the system allows.

    Many systems start processes with a limit of 1,024, for programs that use `select`.
    """
    if sys.platform == "win32":  # it has no such limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # macOS sets a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _secret(file: Path) -> bytes:
    """Return the secret in a file, and make the file if it is missing. No process sees it half written.

    Raises:
        TrustError: the file cannot be read or is too long.
        ServiceError: the file is too short.
        OSError: the file cannot be written.
    """
    if not file.exists():
        handle, part = tempfile.mkstemp(prefix=".session.", dir=file.parent)  # readable by the owner only
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(SECRET_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(part, file)
            except FileExistsError:  # another process made it first
                pass
            except OSError:  # a file system without hard links
                Path(part).replace(file)
        finally:
            Path(part).unlink(missing_ok=True)
    secret = read_bounded(file, SECRET_BYTES, "session secret")
    if len(secret) != SECRET_BYTES:
        raise ServiceError(
            f"{printable(file)}: {len(secret)} bytes, but a session secret has {SECRET_BYTES} random bytes; remove the "
            "file to have one made, or put such a secret there"
        )
    return secret


async def get_service(request: Request) -> Service:
    """Return the service that answers a request."""
    return cast("Service", request.app.state.service)


ServiceDep = Annotated[Service, Depends(get_service)]
