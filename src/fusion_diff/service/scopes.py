"""What API keys allow. A module of its own, because the command line needs it without the packages of the service."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """What a key allows: to read, to inspect, to enrol; `admin` allows all of these and the choice of models."""

    read = "read"
    inspect = "inspect"
    enrol = "enrol"
    admin = "admin"
