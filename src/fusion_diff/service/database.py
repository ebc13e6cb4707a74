"""The database: SQLite or PostgreSQL, brought up to date when it is opened."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from fusion_diff.errors import DependencyError, ServiceError
from fusion_diff.printable import paragraph

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY_SECONDS = 60
_MIGRATING = 0x46757344
"""Number of the advisory lock that migrations hold on PostgreSQL."""


class Database:
    """Opens a database and gives sessions. Those to write in begin with a write, so that none has to be tried again.

    Raises:
        ServiceError: the URL is none, or the database cannot be opened or brought up to date.
        DependencyError: its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        try:
            with self.engine.connect().execution_options(sqlite_begin="IMMEDIATE") as connection, connection.begin():
                migrate(connection)
        except OperationalError as error:
            raise ServiceError(
                f"the database at {self.where} cannot be opened ({paragraph(error.orig, 200)}); check its URL and that "
                "it runs"
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
        """Give a session that is not written in."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session that is committed at the end of the block, or rolled back on an error."""
        engine = self.engine.execution_options(sqlite_begin="IMMEDIATE")
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def check(self) -> None:
        """Ask the database something.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: it does not answer.
        """
        with self.engine.connect() as connection:
            connection.execute(select(1))

    def close(self) -> None:
        """Close its connections."""
        self.engine.dispose()


def configuration(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration: the migrations of this package, over an open connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(connection: Connection) -> None:
    """Bring a database up to date within the transaction that is open; processes that start together take turns."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
    command.upgrade(configuration(connection), "head")


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            return create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=20)
        if parsed.get_backend_name() != "sqlite":
            raise ServiceError(
                f"databases of kind {parsed.get_backend_name()!r} are not supported: use SQLite or PostgreSQL"
            )
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"the database's driver is not installed ({error}); pip install 'fusion-diff[postgresql]'"
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        if isinstance(error, ServiceError):
            raise
        raise ServiceError(
            "the database's URL is not one; give sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None  # the URL itself may hold a password
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_begin` says, schema changes included
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}")
