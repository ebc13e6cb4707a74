"""Contents of a signature of files: the sha256 of each, in the statement format of model-signing 1.1."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fusion_diff.errors import TrustError
from fusion_diff.printable import printable
from fusion_diff.trust.keys import read_time, write_time

if TYPE_CHECKING:
    from collections.abc import Iterable

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
IGNORED = (".git", ".gitattributes", ".github", ".gitignore")
"""Names at the top of a folder that are left out, as by model-signing."""
ALONE = "."
"""Name of the file where a single file is signed."""

_MAX_NAME = 4096


@dataclass(frozen=True)
class Contents:
    """Files that were signed.

    Attributes:
        name: name of the folder or file when it was signed.
        digests: sha256 of each file, keyed by its name relative to the folder, or by `ALONE` for a single file.
        expires: time at which the signature expires; None for never.
    """

    name: str
    digests: dict[str, str]
    expires: datetime | None = None

    def statement(self, ignored: Iterable[str] = IGNORED) -> dict[str, Any]:
        """Return the in-toto statement.

        The subject's digest is the sha256 of the files' digests, sorted by the parts of their names.

        Args:
            ignored: names that were left out.
        """
        names = sorted(self.digests, key=lambda name: PurePosixPath(name).parts)
        predicate: dict[str, Any] = {
            "resources": [{"algorithm": "sha256", "digest": self.digests[name], "name": name} for name in names],
            "serialization": {
                "hash_type": "sha256",
                "ignore_paths": list(ignored),
                "method": "files",
                "allow_symlinks": False,
            },
        }
        if self.expires is not None:
            predicate["expires"] = write_time(self.expires)
        digest = _root([self.digests[name] for name in names])
        return {
            "subject": [{"name": self.name, "digest": {"sha256": digest}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }

    @classmethod
    def parse(cls, statement: dict[str, Any], source: str) -> Contents:
        """Parse a statement whose signature was verified. Names that lead out of the folder are refused all the same.

        Args:
            statement: the in-toto statement.
            source: the signature's file, for messages.

        Raises:
            TrustError: a name is unsafe or repeated, a digest is malformed, the digests do not match the subject's, or
                the serialisation is not supported.
        """
        digests: dict[str, str] = {}
        try:
            (subject,) = statement["subject"]
            predicate = statement["predicate"]
            serialization = predicate["serialization"]
            method, hash_type = serialization["method"], serialization["hash_type"]
            if (method, hash_type) != ("files", "sha256"):
                raise TrustError(
                    f"{source}: its files are hashed as {printable(method, 80)} with "
                    f"{printable(hash_type, 80)}, but this version verifies whole files with sha256; sign "
                    "it again"
                )
            for resource in predicate["resources"]:
                name, digest = resource["name"], resource["digest"]
                problem = unsafe(name) if name != ALONE else None
                if problem:
                    raise TrustError(f"{source}: it names the file {printable(repr(name))}, {problem}; do not trust it")
                if name in digests:
                    raise TrustError(f"{source}: it names the file {printable(name)} twice; do not trust it")
                if resource["algorithm"] != "sha256" or not re.fullmatch("[0-9a-f]{64}", digest):
                    raise TrustError(f"{source}: its digest of {printable(name)} is not a sha256; sign it again")
                digests[name] = digest
            if not digests or (ALONE in digests and len(digests) > 1):
                raise TrustError(f"{source}: it covers no file, or both a file and a folder; sign it again")
            if _root(digests.values()) != subject["digest"]["sha256"]:
                raise TrustError(
                    f"{source}: the digests of the files do not add up to the digest of the whole; sign it again"
                )
            expires = read_time(predicate["expires"], source) if "expires" in predicate else None
            return cls(printable(subject["name"]), digests, expires)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, TrustError):
                raise
            raise TrustError(f"{source}: the signed content is not a list of files; sign it again") from error


def unsafe(name: object) -> str | None:
    """Return why a name is unsafe; None where it is a relative path within the folder."""
    if not isinstance(name, str) or not name or len(name) > _MAX_NAME:
        return "which is not a name"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        return "which contains control characters or is not Unicode"
    if "\\" in name:
        return "which contains a backslash"
    if name.startswith("/"):
        return "an absolute path"
    if re.match("[A-Za-z]:", name):
        return "which names a drive"
    if ".." in name.split("/"):
        return "which leads out of the folder"
    if any(part in ("", ".") for part in name.split("/")):
        return "which is not in its shortest form"
    return None


def _root(digests: Iterable[str]) -> str:
    sha256 = hashlib.sha256()
    for digest in digests:
        sha256.update(bytes.fromhex(digest))
    return sha256.hexdigest()
