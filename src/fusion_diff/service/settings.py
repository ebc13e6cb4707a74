"""Settings of the service: environment variables with the prefix FUSION_DIFF_, or arguments."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fusion_diff.checkpoint import EMBEDDED, IN_MODEL, enclosing
from fusion_diff.errors import ServiceError
from fusion_diff.micrograph import MAX_PIXELS
from fusion_diff.printable import paragraph

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Loopback addresses, which other machines cannot reach."""


class Settings(BaseSettings):
    """Where the service listens, where it stores its data, and its limits.

    Attributes:
        data: folder of all data, unless the next three say otherwise.
        database_url: SQLAlchemy URL; SQLite in the data folder if omitted.
        store_url: folder or fsspec URL of images and evidence; in the data folder if omitted.
        models_folder: folder of enrolled models; in the data folder if omitted.
        model: the start model: a name, a folder or a hub id. References are enrolled on it, and it judges unless an
            enrolled model was chosen as default.
        device: device to compute on.
        host: address to listen on.
        port: port to listen on.
        insecure: ask for no API key; allowed on a loopback address only.
        trusted_proxies: comma-separated addresses and networks of proxies whose headers about caller and protocol are
            trusted; `*` for all.
        max_upload_bytes: largest file, in bytes.
        max_request_bytes: largest request, in bytes.
        max_files: most files in a request; the smaller of this and `queue_length` holds.
        max_pixels: most pixels of a micrograph.
        rate_limit: most requests of a caller per minute.
        queue_length: most micrographs that wait or are being judged.
        drain_seconds: how long a shutdown waits for accepted requests.
        telemetry: whether to send traces and metrics to the OpenTelemetry endpoint of the environment.
    """

    model_config = SettingsConfigDict(env_prefix="FUSION_DIFF_", extra="ignore", frozen=True)

    data: Path = Path("fusion-diff-data")
    database_url: str | None = Field(default=None, repr=False)  # may contain a password
    store_url: str | None = Field(default=None, repr=False)
    models_folder: Path | None = None
    model: str = EMBEDDED
    device: str = "cpu"
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    insecure: bool = False
    trusted_proxies: str = "127.0.0.1,::1"
    max_upload_bytes: int = Field(default=2**29, ge=1)
    max_request_bytes: int = Field(default=2**31, ge=1)
    max_files: int = Field(default=256, ge=1, le=1000)
    max_pixels: int = Field(default=2**28, ge=1, le=MAX_PIXELS)
    rate_limit: int = Field(default=6000, ge=1)
    queue_length: int = Field(default=256, ge=1, le=100_000)
    drain_seconds: int = Field(default=30, ge=0)
    telemetry: bool = False

    @field_validator("data", "database_url", "store_url", "models_folder", "model", "device", "host", mode="before")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip():
            raise ValueError("is empty; give it a value, or unset it")
        return value

    @field_validator("data", "models_folder")
    @classmethod
    def _outside_models(cls, value: Path | None) -> Path | None:
        if value is not None and enclosing(value) is not None:  # its files would keep the model from being loaded
            raise ValueError(f"{value}: {IN_MODEL}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for each in value.split(",") if value.strip() not in ("", "*") else ():
            try:
                ip_network(each.strip())
            except ValueError as error:
                raise ValueError(
                    f"{error}; give addresses or networks separated by commas, such as 10.0.0.0/8"
                ) from None
        return value

    @model_validator(mode="after")
    def _loopback_only(self) -> Self:
        if self.insecure and self.host not in LOOPBACK:
            raise ValueError(
                f"a service without API keys (--insecure) listens on {LOOPBACK[0]} only, not on {self.host}; make keys "
                "with fusion-diff service-keys new, and leave --insecure out"
            )
        return self

    @property
    def database(self) -> str:
        """URL of the database."""
        if self.database_url is not None:
            return self.database_url
        from sqlalchemy import URL

        return URL.create("sqlite", database=str((self.data / "records.db").absolute())).render_as_string()

    @property
    def store(self) -> str:
        """Folder or URL of images and evidence."""
        return str((self.data / "blobs").absolute()) if self.store_url is None else self.store_url

    @property
    def models(self) -> Path:
        """Folder of enrolled models."""
        return self.data / "models" if self.models_folder is None else self.models_folder

    @property
    def incoming(self) -> Path:
        """Folder of uploads before they are stored."""
        return self.data / "incoming"


def read_settings(**given: object) -> Settings:
    """Return the settings of the environment, overridden by the given ones that are not None.

    Raises:
        ServiceError: a setting is out of range, or settings contradict each other.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        told = "; ".join(
            f"{_named(each['loc'])}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_input=False, include_url=False)
        )
        raise ServiceError(f"the service cannot start: {paragraph(told, 500)}") from None


def _named(place: tuple[int | str, ...]) -> str:
    """Return the name of a setting with that of its environment variable."""
    return f"{place[0]} (FUSION_DIFF_{str(place[0]).upper()})" if place else "settings"
