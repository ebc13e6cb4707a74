"""Logs of the service: a JSON object a line, on stderr, with the id of the request; no header and no query."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

_EXTRA = ("request_id", "method", "path", "status", "seconds", "caller", "model", "count")
_LOGGERS = ("fusion_diff", "uvicorn")


class JsonFormatter(logging.Formatter):
    """Writes a record as one line of JSON, in ASCII, so that nothing in it can break the line."""

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


def configure(level: int = logging.INFO) -> None:
    """Have the service and its server log as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(level)
    logging.getLogger("uvicorn.access").disabled = True  # the service logs its requests itself
