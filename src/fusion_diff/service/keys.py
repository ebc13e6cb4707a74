"""API keys: shown once, stored as hashes.

A key is `fdk_<id>_<secret>`. The secret is 256 random bits, so a fast hash suffices. The id finds the row; then one
hash is compared, in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusion_diff.checkpoint import NAME_LENGTH
from fusion_diff.errors import ServiceError
from fusion_diff.printable import printable
from fusion_diff.service.scopes import Scope
from fusion_diff.service.tables import ApiKey, now

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy.orm import Session

_FORM = re.compile(r"fdk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_ID_LENGTH = 12
_KEY_BYTES = 32


@dataclass(frozen=True)
class Caller:
    """The caller of a request.

    Attributes:
        id: id of the key; empty if the service asks for none.
        name: name of the key, as the records show it.
        scopes: the allowed scopes.
    """

    id: str
    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Tell whether a scope is allowed; `admin` includes all scopes."""
        return scope in self.scopes or Scope.admin in self.scopes


ANYBODY = Caller("", "anybody", frozenset(Scope))
"""The caller if the service asks for no key."""


def new_key(session: Session, name: str, scopes: Iterable[str]) -> str:
    """Make a key and return it. Only its hash is stored, so it cannot be shown again.

    Spaces around the name are left out.

    Raises:
        ServiceError: the name is empty, too long or not printable, or no scope is given.
    """
    wanted, name = sorted({Scope(scope) for scope in scopes}), name.strip()
    if not name or len(name) > NAME_LENGTH or printable(name) != name:
        raise ServiceError(
            f"{printable(name, 80)!r}: the name of a key is one line of 1 to {NAME_LENGTH} printable characters"
        )
    if not wanted:
        raise ServiceError(f"{name}: a key without a scope allows nothing; give one or more of {', '.join(Scope)}")
    key_id, secret = secrets.token_hex(_ID_LENGTH // 2), secrets.token_urlsafe(_KEY_BYTES)
    session.add(ApiKey(id=key_id, name=name, sha256=_hash(secret), scopes=[str(scope) for scope in wanted]))
    return f"fdk_{key_id}_{secret}"


def expect_free(session: Session, name: str) -> None:
    """Check that no valid key has a name, because records name callers by it.

    Raises:
        ServiceError: one has.
    """
    same = select(ApiKey.id).where(ApiKey.name == name.strip(), ApiKey.revoked.is_(None))
    key_id = session.scalar(same.limit(1))
    if key_id is not None:
        raise ServiceError(
            f"{printable(name, 80)}: the key {key_id} has this name, and records name callers by it; choose another "
            f"name, or first run fusion-diff service-keys revoke {key_id}"
        )


def id_of(key: str) -> str | None:
    """Return the id written in a key; None if the key is malformed. The key need not be valid."""
    form = _FORM.fullmatch(key)
    return None if form is None else form[1]


def valid_ids(session: Session) -> frozenset[str]:
    """Return the ids of all keys that are not revoked."""
    return frozenset(session.scalars(select(ApiKey.id).where(ApiKey.revoked.is_(None))))


def caller_of(session: Session, key: str) -> Caller | None:
    """Return the caller of a key; None if the key is malformed, unknown or revoked."""
    form = _FORM.fullmatch(key)
    if form is None:
        return None
    row = session.get(ApiKey, form[1])
    known = row.sha256 if row is not None else _hash("")
    same = hmac.compare_digest(known, _hash(form[2]))
    if row is None or not same or row.revoked is not None:
        return None
    return caller(row)


def caller_by_id(session: Session, key_id: str) -> Caller | None:
    """Return the caller of the key with this id; None if it is unknown or revoked."""
    row = session.get(ApiKey, key_id)
    return None if row is None or row.revoked is not None else caller(row)


def still_may(session: Session, caller: Caller, scope: Scope) -> bool:
    """Tell whether a caller of an earlier moment is allowed a scope now; its key may have been revoked."""
    known = ANYBODY if caller == ANYBODY else caller_by_id(session, caller.id)
    return known is not None and known.may(scope)


def caller(row: ApiKey) -> Caller:
    """Return the caller of a key's row."""
    return Caller(row.id, row.name, frozenset(Scope(scope) for scope in row.scopes))


def all_keys(session: Session) -> Sequence[ApiKey]:
    """Return all keys, including revoked ones, oldest first."""
    return session.scalars(select(ApiKey).order_by(ApiKey.created, ApiKey.id)).all()


def revoke(session: Session, key: str) -> ApiKey:
    """Revoke a key, given by its id or whole, with immediate effect.

    Raises:
        ServiceError: no key has that id.
    """
    row = session.get(ApiKey, id_of(key) or key)
    if row is None:
        shown = printable(key) if len(key) <= _ID_LENGTH else "what was given"  # which may hold a secret
        raise ServiceError(f"{shown}: no key has this id; fusion-diff service-keys list shows all")
    row.revoked = row.revoked or now()
    return row


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
