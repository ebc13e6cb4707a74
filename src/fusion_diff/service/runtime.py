"""What the service consists of while it runs, opened and closed in order."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from fusion_diff.errors import ServiceError
from fusion_diff.printable import printable
from fusion_diff.service import ledger
from fusion_diff.service.database import Database, take_turn
from fusion_diff.service.learning import Learning
from fusion_diff.service.metrics import Metrics
from fusion_diff.service.queue import Queue
from fusion_diff.service.rates import RateLimit
from fusion_diff.service.sessions import SECRET_BYTES, Sessions
from fusion_diff.service.shelf import Shelf
from fusion_diff.service.slots import Slots
from fusion_diff.service.store import Store
from fusion_diff.service.uploads import claim
from fusion_diff.trust.files import read_bounded

if TYPE_CHECKING:
    from typing import BinaryIO

    from fusion_diff.service.settings import Settings


@dataclass(frozen=True)
class Service:
    """The parts of a running service.

    Attributes:
        settings: as it was started with.
        database: the records.
        store: images and evidence.
        shelf: models.
        queue: inspections under way.
        learning: audits and enrolments.
        metrics: what is counted.
        rates: the rate limit.
        sessions: signs what browsers keep.
        slots: how much is received and decoded at once.
        claimed: says, while it is open, that uploads are this process's.
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
        """Open everything; the model is loaded and the database brought up to date.

        Raises:
            FusionDiffError: something is not as it has to be.
            OSError: the data folder cannot be written.
        """
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        sessions = Sessions(_secret(settings.data / "session.key"))
        store, metrics = Store(settings.store), Metrics()
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
        """Give up what is being learned, take nothing more, and return at once; what was taken is being finished."""
        self.learning.close(0)
        self.queue.stop(self.settings.drain_seconds)

    def close(self) -> None:
        """Stop, wait for what was taken and what was being learned, and close everything."""
        self.stop()
        self.queue.close()
        self.learning.close(max(0.0, self.queue.until - time.monotonic()))
        self.database.close()
        self.claimed.close()


def _secret(file: Path) -> bytes:
    """Return the secret in a file, which is made if it is not there, and is never seen half written.

    Raises:
        TrustError: it cannot be read, or is longer than a secret.
        ServiceError: it is shorter.
        OSError: it cannot be written.
    """
    if not file.exists():
        handle, part = tempfile.mkstemp(prefix=".session.", dir=file.parent)  # for its owner alone
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(SECRET_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(part, file)
            except FileExistsError:  # another process was faster
                pass
            except OSError:  # a file system without hard links
                Path(part).replace(file)
        finally:
            Path(part).unlink(missing_ok=True)
    secret = read_bounded(file, SECRET_BYTES, "secret of sessions")
    if len(secret) != SECRET_BYTES:
        raise ServiceError(
            f"{printable(file)}: {len(secret)} bytes, and the secret of sessions is {SECRET_BYTES} random ones, which "
            "nobody guesses; remove the file to have one made, or put such a secret there"
        )
    return secret


async def get_service(request: Request) -> Service:
    """Return the service that answers a request."""
    return cast("Service", request.app.state.service)


ServiceDep = Annotated[Service, Depends(get_service)]
