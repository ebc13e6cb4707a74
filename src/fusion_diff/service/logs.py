"""Logs of the service on stderr: one JSON object per line, with the request id; without headers and queries."""

from __future__ import annotations

import json
import logging
import warnings
from datetime import UTC, datetime
from typing import Any

_EXTRA = ("request_id", "method", "path", "status", "seconds", "caller", "peer")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of ASCII JSON, so that no content can break the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name in _EXTRA if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            told["trace"] = self.formatException(record.exc_info)
        return json.dumps(told)


def configure() -> None:
    """Set up JSON logs for the service, its server, their libraries and Python's warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], force=True)
    for name in ("fusion_diff", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True  # the service logs requests itself
    log = logging.getLogger("fusion_diff")
    warnings.showwarning = lambda message, *_args, **_kwargs: log.warning("%s", message)
