"""The database: SQLite or PostgreSQL. Opening it runs the migrations."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError
from sqlalchemy.orm import Session

from fusion_diff.dependencies import missing
from fusion_diff.errors import ServiceError
from fusion_diff.printable import paragraph

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY_SECONDS = 60
_POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""libpq's time limits unless the URL sets them; without them one that was cut silently holds its caller for hours."""
_DISK = ("SQLITE_IOERR", "SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_READONLY")
"""Beginnings of SQLite's names for errors of the disk, its space and permissions."""
_INVALID = "the database URL is not valid; give sqlite:///FILE or postgresql://USER@HOST/NAME"
_STARTING = 0x46757344
"""Key of the PostgreSQL advisory lock that a process holds while it starts."""


class Database:
    """Opens a database and gives sessions. On SQLite, write sessions take the write lock first, so none needs a retry.

    Raises:
        ServiceError: the URL is invalid, or the database cannot be opened or migrated.
        DependencyError: the driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        try:
            with self.engine.connect().execution_options(sqlite_begin="IMMEDIATE") as connection, connection.begin():
                migrate(connection)
        except DatabaseError as error:
            self.close()
            raise ServiceError(
                f"the database at {self.where} cannot be opened ({paragraph(error.orig, 200)}); {_cure(error)}"
            ) from None
        except CommandError as error:
            self.close()
            raise ServiceError(
                f"the database at {self.where} cannot be migrated ({paragraph(error, 200)}): it was used by a "
                "newer version of FusionDiff; install that version, or restore the backup made before the upgrade"
            ) from None
        except BaseException:
            self.close()
            raise

    @property
    def where(self) -> str:
        """The database's URL, without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a read-only session."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session that commits at the end of the block and rolls back on an error."""
        engine = self.engine.execution_options(sqlite_begin="IMMEDIATE")
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def check(self) -> None:
        """Run a trivial query.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not answer.
            ServiceError: it takes no changes: PostgreSQL is a standby, or guards itself against a full disk.
        """
        with self.engine.connect() as connection:
            on_postgresql = connection.dialect.name == "postgresql"
            if connection.scalar(text("SHOW transaction_read_only" if on_postgresql else "SELECT 1")) == "on":
                raise ServiceError(
                    f"the database at {self.where} is read-only; name the primary in FUSION_DIFF_DATABASE_URL, or "
                    "free some space on the database's disk"
                )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def take_turn(connection: Connection) -> None:
    """Wait until no other process is in a transaction that took a turn. SQLite allows one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _STARTING})


def migrate(connection: Connection) -> None:
    """Run the migrations in the open transaction. Processes that start together take turns."""
    take_turn(connection)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def private_file(file: Path) -> None:
    """Make a file and its folder, readable by the owner only. An existing file or folder keeps its permissions."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):  # exists already, or SQLite reports why it cannot be made
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database; None for another database, and where the URL names it by a `file:` URI.

    Raises:
        ServiceError: the URL is invalid.
    """
    parsed = _parsed(url)
    is_file = parsed.get_backend_name() == "sqlite" and not str(parsed.database).startswith("file:")
    return Path(str(parsed.database)) if is_file else None


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise ServiceError(_INVALID) from None  # the URL may contain a password
    if kind == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise ServiceError(f"databases of kind {kind!r} are not supported; use SQLite or PostgreSQL")
    if not parsed.database or ":memory:" in parsed.database or parsed.query.get("mode") == "memory":
        raise ServiceError(
            "the database URL names no file, so all records would be lost when the service ends; give sqlite:///FILE"
        )
    return parsed


def _engine(url: str) -> Engine:
    parsed = _parsed(url)
    try:
        if parsed.get_backend_name() == "postgresql":
            limits = {name: value for name, value in _POSTGRESQL.items() if name not in parsed.query}
            return create_engine(parsed, connect_args=limits, pool_pre_ping=True, pool_size=10, max_overflow=20)
        if (file := sqlite_file(url)) is not None:
            private_file(file)
        engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
    except ModuleNotFoundError:
        raise missing("the database", "psycopg[binary]", extra="postgresql") from None
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ServiceError(_INVALID) from None
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _cure(error: DatabaseError) -> str:
    """Return what to do about a database that cannot be opened."""
    if getattr(error.orig, "sqlite_errorname", "").startswith(_DISK):
        return "check the free space of its disk, and that this user may write the file and its folder"
    return (
        "check the URL, that the database runs, and that it is one of this service; if it is damaged, restore it from "
        "a backup"
    )


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # `_begin` starts transactions, also those of schema changes
    # SQLite's own lower() handles ASCII only: "öfen" would not match "ÖFEN".
    connection.create_function("lower", 1, _lower, deterministic=True)
    cursor = connection.cursor()
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:  # SQLite does not wait for other processes here
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > until:
                raise
            time.sleep(0.01)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}")
