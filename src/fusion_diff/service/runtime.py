"""What the service consists of while it runs, opened and closed in order."""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from fusion_diff.errors import TrustError
from fusion_diff.service import ledger
from fusion_diff.service.database import Database
from fusion_diff.service.learning import Learning
from fusion_diff.service.metrics import Metrics
from fusion_diff.service.queue import Queue
from fusion_diff.service.rates import RateLimit
from fusion_diff.service.sessions import SECRET_BYTES, Sessions
from fusion_diff.service.shelf import Shelf
from fusion_diff.service.store import Store
from fusion_diff.service.uploads import claim
from fusion_diff.trust.files import read_bounded, write_new

if TYPE_CHECKING:
    from pathlib import Path
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
    claimed: BinaryIO

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Open everything; the model is loaded and the database brought up to date.

        Raises:
            FusionDiffError: something is not as it has to be.
            OSError: the data folder cannot be written.
        """
        settings.data.mkdir(parents=True, exist_ok=True)
        database, store, metrics = Database(settings.database), Store(settings.store), Metrics()
        try:
            with database.write() as session:
                ledger.start(session)
            shelf = Shelf(settings, database)
            claimed = claim(settings.incoming)
            return cls(
                settings,
                database,
                store,
                shelf,
                Queue(settings, shelf.find, database, store, metrics),
                Learning(settings, shelf, store, database),
                metrics,
                RateLimit(settings.rate_limit),
                Sessions(_secret(settings.data / "session.key")),
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
    """Return the secret in a file, which is made if it is not there."""
    with contextlib.suppress(TrustError):  # it is there already
        write_new(file, secrets.token_bytes(SECRET_BYTES), 0o600)
    return read_bounded(file, SECRET_BYTES, "secret of sessions")


async def get_service(request: Request) -> Service:
    """Return the service that answers a request."""
    return cast("Service", request.app.state.service)


ServiceDep = Annotated[Service, Depends(get_service)]
