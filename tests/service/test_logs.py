"""The log: a JSON object a line, whoever writes it."""

from __future__ import annotations

import json
import logging
import warnings

from fusion_diff.service import logs


def test_every_line_is_an_object_whether_the_service_writes_it_or_something_that_it_uses(capfd):
    logs.configure()
    logging.getLogger("fusion_diff.service").info("one", extra={"peer": "192.0.2.7"})
    logging.getLogger("uvicorn.error").info("two")
    logging.getLogger("tifffile").warning("three\nand more")
    logging.getLogger("tifffile").info("not told")
    warnings.simplefilter("always")
    warnings.warn("four", stacklevel=1)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["message"] for line in lines] == ["one", "two", "three\nand more", "four"]
    assert lines[0]["peer"] == "192.0.2.7"
