"""Mutations of JSON texts and safetensors files that leave them readable."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from common import change_bytes

_VALUES = (
    0,
    1,
    -1,
    7,
    2**31,
    2**63,
    10**400,
    10**4300 - 1,
    0.5,
    1e999,
    float("nan"),
    "",
    "a",
    "\x1b[2J",
    "ü" * 300,
    True,
    None,
)
_SHAPES = ([], [0], [1], [2, 0], [2**31, 2**31], [-1], [3, 4], [4, 3])
_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "I8", "U8", "BOOL", "C64", "U64", "X")


def mutate_value(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one node of it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if rng.random() < 0.1:
            return value | {rng.choice(("", "../x", "\x1b[2J", "a" * 3000, key + "x")): value[key]}
        return value | {key: mutate_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :]
        if rng.random() < 0.2:
            return [*value, value[at]]
        return [*value[:at], mutate_value(value[at], rng), *value[at + 1 :]]
    return rng.choice((*_VALUES, [], {}, [value], {"a": value}, value))


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Change a node of a JSON text; or its bytes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if value is None or rng.random() < 0.2:
        return change_bytes(data, rng)
    try:
        return json.dumps(mutate_value(value, rng)).encode()
    except ValueError:  # a number too long to be written
        return change_bytes(data, rng)


def mutate_tensors(data: bytes, rng: random.Random) -> bytes:
    """Change dtype, shape, place or name of a tensor, or values; or bytes anywhere."""
    try:
        length = struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8 : 8 + length])
        name = rng.choice(sorted(key for key in header if key != "__metadata__"))
        one = dict(header[name])
    except (ValueError, struct.error, IndexError, TypeError, AttributeError):
        return change_bytes(data, rng)
    body = data[8 + length :]
    what = rng.randrange(8)
    if what == 0:
        one["dtype"] = rng.choice(_DTYPES)
    elif what == 1:
        one["shape"] = rng.choice((*_SHAPES, one.get("shape", [])[::-1]))
    elif what == 2:  # of the same size, so that it is read
        one["shape"] = rng.choice(([_product(one.get("shape", []))], [1, *one.get("shape", [])]))
    elif what == 3:
        one["data_offsets"] = [rng.choice((0, 1, 8, len(body), 2**40)) for _ in range(2)]
    elif what == 4:
        same = {"F32": ("I32", "U32"), "F16": ("BF16", "I16"), "BOOL": ("U8", "I8"), "I64": ("F64", "C64")}
        one["dtype"] = rng.choice(same.get(one.get("dtype", ""), _DTYPES))
    elif what == 5:
        header[name + "x"] = header.pop(name)
        return _packed(header, body)
    elif what == 6:
        at = rng.randrange(len(body) + 1)
        body = (body[:at] + rng.choice((b"\0\x7c", b"\xff\xff\xff\xff", bytes(64))) + body[at:])[: len(body)]
    else:
        return change_bytes(data, rng)
    return _packed(header | {name: one}, body)


def _product(shape: list[Any]) -> int:
    out = 1
    for side in shape:
        out *= int(side)
    return out


def _packed(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body
