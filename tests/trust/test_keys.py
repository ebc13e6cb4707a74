from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.errors import TrustError
from fusion_diff.trust.keyring import REVOCATION, Keyring, check_valid, revoke, rotate
from fusion_diff.trust.keys import (
    MAX_PASSPHRASE_BYTES,
    PASSPHRASE,
    Kind,
    load_private,
    load_public,
    new_key,
    parse_public,
)
from fusion_diff.trust.provenance import read_signature, sign

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch):
    monkeypatch.delenv(PASSPHRASE, raising=False)


@pytest.mark.parametrize("kind", Kind)
def test_a_new_pair_is_read_back_and_signs_what_it_verifies(tmp_path, kind):
    made = new_key(tmp_path / "K", kind=kind)
    private, public = load_private(tmp_path / "K"), load_public(tmp_path / "K.pub")
    assert private.public.id == public.id == made.public.id
    assert public.kind == kind
    assert public.expires is None
    signature = private.sign(b"message")
    assert public.has_signed(b"message", signature)
    assert not public.has_signed(b"massage", signature)
    assert not public.has_signed(b"message", signature[:-1])
    assert not new_key(tmp_path / "L", kind=kind).public.has_signed(b"message", signature)


def test_a_key_that_the_disk_has_no_room_for_is_named_and_leaves_nothing(tmp_path, room_for):
    with room_for(20), pytest.raises(OSError, match="File too large") as caught:
        new_key(tmp_path / "K")
    assert caught.value.filename == str(tmp_path / "K.pub")
    assert list(tmp_path.iterdir()) == []


def test_the_id_and_the_hint_are_digests_of_the_key_in_der_and_in_pem(tmp_path):
    public = new_key(tmp_path / "K", days=1).public
    pem = (tmp_path / "K.pub").read_bytes().partition(b"\n")[2]
    assert public.hint == hashlib.sha256(pem).hexdigest()
    assert public.id == hashlib.sha256(base64.b64decode(pem.split(b"-----")[2])).hexdigest()


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_only_its_owner_may_read_a_private_key_even_with_a_lax_umask(tmp_path):
    before = os.umask(0)
    try:
        new_key(tmp_path / "K")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "K").stat().st_mode) == 0o600
    (tmp_path / "file").write_text("x")
    for mode, use in ((0o640, load_private), (0o604, lambda key: sign(tmp_path / "file", key))):
        (tmp_path / "K").chmod(mode)
        with pytest.warns(UserWarning, match="other users may read this private key") as caught:
            use(tmp_path / "K")
        assert caught[0].filename == __file__, "the line that called the package"


@pytest.mark.parametrize("name", ["K", "K.pub"])
@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_overwritten_by_a_new_key(tmp_path, name, link):
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / name).symlink_to(elsewhere) if link else (tmp_path / name).write_text("mine")
    with pytest.raises(TrustError, match="is not overwritten"):
        new_key(tmp_path / "K")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert link or (tmp_path / name).read_text() == "mine"


def test_an_encrypted_key_needs_its_passphrase_and_nothing_tells_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    made = new_key(tmp_path / "K")
    content = (tmp_path / "K").read_bytes()
    assert b"ENCRYPTED PRIVATE KEY" in content
    assert load_private(tmp_path / "K").public.id == made.public.id
    monkeypatch.setenv(PASSPHRASE, "open barley")
    with pytest.raises(TrustError, match="is not its passphrase") as wrong:
        load_private(tmp_path / "K")
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(TrustError, match=f"set {PASSPHRASE}"):
        load_private(tmp_path / "K")
    assert "barley" not in str(wrong.value)
    assert wrong.value.__cause__ is None


def test_a_key_that_is_not_encrypted_is_read_whatever_the_passphrase(tmp_path, monkeypatch):
    new_key(tmp_path / "K")
    monkeypatch.setenv(PASSPHRASE, "open sesame")
    assert load_private(tmp_path / "K").public.kind == "ed25519"


@pytest.mark.skipif(os.name != "posix", reason="an environment of bytes is POSIX's")
def test_a_passphrase_need_not_be_text(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE, os.fsdecode(b"\xff" * MAX_PASSPHRASE_BYTES))
    made = new_key(tmp_path / "K")
    assert load_private(tmp_path / "K").public.id == made.public.id
    pem = (tmp_path / "K").read_bytes()
    load_pem_private_key(pem, b"\xff" * MAX_PASSPHRASE_BYTES)
    monkeypatch.setenv(PASSPHRASE, os.fsdecode(b"\xfe"))
    with pytest.raises(TrustError, match="is not its passphrase"):
        load_private(tmp_path / "K")


def test_a_passphrase_that_is_too_long_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv(PASSPHRASE, "x")
    new_key(tmp_path / "K")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setenv(PASSPHRASE, "x" * (MAX_PASSPHRASE_BYTES + 1))
    for use in (lambda: new_key(tmp_path / "L"), lambda: load_private(tmp_path / "K")):
        with pytest.raises(TrustError, match=f"{PASSPHRASE}: it is longer than 1023 bytes; set a shorter"):
            use()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", Kind)
def test_a_private_key_does_not_show_in_its_repr(tmp_path, kind):
    key = new_key(tmp_path / "K", kind=kind)
    assert repr(key) == f"PrivateKey(public={key.public!r})"
    assert (tmp_path / "K.pub").read_text() == key.public.text()


def test_a_damaged_private_key_is_refused_without_quoting_it(tmp_path):
    new_key(tmp_path / "K")
    content = (tmp_path / "K").read_text()
    (tmp_path / "K").write_text(content.replace("MC", "XX", 1))
    with pytest.raises(TrustError, match="K: it is not a private key") as error:
        load_private(tmp_path / "K")
    assert content.splitlines()[1][4:] not in str(error.value)


def test_either_half_in_the_place_of_the_other_is_told(tmp_path):
    new_key(tmp_path / "K")
    with pytest.raises(TrustError, match=r"K: it is a private key; give its public key"):
        load_public(tmp_path / "K")
    with pytest.raises(TrustError, match=r"K\.pub: it is a public key, which cannot sign"):
        load_private(tmp_path / "K.pub")


def test_an_expiry_is_kept_with_both_halves(tmp_path):
    new_key(tmp_path / "K", days=30, now=NOON)
    ends = NOON + timedelta(days=30)
    assert load_public(tmp_path / "K.pub").expires == ends
    assert load_private(tmp_path / "K").public.expires == ends
    assert Keyring.of(tmp_path / "K.pub", now=ends - timedelta(seconds=1)).problem(load_public(tmp_path / "K.pub")) is (
        None
    )
    said = Keyring.of(tmp_path / "K.pub", now=ends).problem(load_public(tmp_path / "K.pub"))
    assert said == "expired at 2026-01-31T12:00:00Z"


def test_the_earliest_of_several_expiries_counts(tmp_path):
    new_key(tmp_path / "K", days=30, now=NOON)
    text = (tmp_path / "K.pub").read_text()
    for day in ("2026-01-02", "2027-01-02"):
        (tmp_path / "K.pub").write_text(f"Expires: {day}T12:00:00Z\n" + text)
        earliest = min(NOON + timedelta(days=30), datetime.fromisoformat(f"{day}T12:00:00Z"))
        assert load_public(tmp_path / "K.pub").expires == earliest


def test_an_expiry_that_cannot_be_read_is_refused(tmp_path):
    new_key(tmp_path / "K", days=30)
    text = (tmp_path / "K.pub").read_text()
    (tmp_path / "K.pub").write_text("Expires: next year\n" + text)
    with pytest.raises(TrustError, match="expiry time is unreadable"):
        load_public(tmp_path / "K.pub")


@pytest.mark.parametrize("days", [0, -1, 10**9])
def test_an_impossible_time_to_be_valid_is_refused_before_anything_is_written(tmp_path, days):
    with pytest.raises(TrustError, match="give 1 to"):
        new_key(tmp_path / "K", days=days)
    assert list(tmp_path.iterdir()) == []


def test_keys_of_other_kinds_are_refused(tmp_path):
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())):
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(TrustError, match="of another kind"):
            parse_public(public, "K.pub")
        (tmp_path / "K").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (tmp_path / "K").chmod(0o600)
        with pytest.raises(TrustError, match="of another kind"):
            load_private(tmp_path / "K")
    with pytest.raises(TrustError, match="kind is 'dsa'"):
        new_key(tmp_path / "L", kind="dsa")


def test_two_keys_in_one_file_are_refused(tmp_path):
    pem = new_key(tmp_path / "K").public.pem + new_key(tmp_path / "L").public.pem
    with pytest.raises(TrustError, match="not a single public key"):
        parse_public(pem.encode(), "K.pub")


def test_a_file_that_is_far_too_large_for_a_key_is_not_read_whole(tmp_path):
    with (tmp_path / "K.pub").open("wb") as stream:
        stream.truncate(2**33)
    with pytest.raises(TrustError, match="too large for a key"):
        load_public(tmp_path / "K.pub")


@given(st.binary(max_size=300) | st.binary().map(lambda b: b"-----BEGIN PUBLIC KEY-----\n" + b.hex().encode()))
def test_any_bytes_are_a_public_key_or_refused(content):
    with pytest.raises(TrustError):
        parse_public(content, "K.pub")


def test_a_rotated_key_is_trusted_by_those_who_trust_the_old_one(tmp_path):
    new_key(tmp_path / "old", kind="ecdsa-p256")
    endorsement = rotate(tmp_path / "old", tmp_path / "new", days=5, now=NOON)
    assert endorsement == tmp_path / "new.pub.endorsed.json"
    rotate(tmp_path / "new", tmp_path / "newest", kind="ed25519", now=NOON)
    ring = Keyring.of([tmp_path / "old.pub"], now=NOON)
    names = ("old.pub", "new.pub", "newest.pub")
    assert [key.id for key in ring.keys] == [load_public(tmp_path / name).id for name in names]
    assert [key.kind for key in ring.keys] == ["ecdsa-p256", "ecdsa-p256", "ed25519"]
    assert ring.keys[1].expires == NOON + timedelta(days=5)
    assert len(Keyring.of(tmp_path / "newest.pub", now=NOON).keys) == 1
    assert (
        len(Keyring.of(tmp_path / "old.pub", now=NOON + timedelta(days=5)).keys) == 2
    )  # the chain ends at the expired


def test_an_endorsement_by_a_stranger_or_an_altered_one_does_not_count(tmp_path):
    (tmp_path / "a").mkdir()
    new_key(tmp_path / "a" / "ours")
    new_key(tmp_path / "stranger")
    made = rotate(tmp_path / "stranger", tmp_path / "theirs")
    (tmp_path / "a" / made.name).write_bytes(made.read_bytes())
    assert len(Keyring.of(tmp_path / "a" / "ours.pub").keys) == 1
    claimed = json.loads(made.read_text())
    claimed["verificationMaterial"]["publicKey"]["hint"] = load_public(tmp_path / "a" / "ours.pub").hint
    (tmp_path / "a" / made.name).write_text(json.dumps(claimed))
    with pytest.raises(
        TrustError, match=r"theirs\.pub\.endorsed\.json: its signature by .* does not match its content"
    ):
        Keyring.of(tmp_path / "a" / "ours.pub")


def test_a_revoked_key_and_what_it_endorsed_are_not_valid(tmp_path):
    new_key(tmp_path / "old")
    rotate(tmp_path / "old", tmp_path / "new")
    assert revoke(tmp_path / "old", " stolen\n") == tmp_path / "old.pub.revoked.json"
    ring = Keyring.of(tmp_path / "old.pub")
    assert len(ring.keys) == 1
    assert ring.problem(ring.keys[0]) == "was revoked: stolen"
    with pytest.raises(TrustError, match="the key was revoked: stolen"):
        rotate(tmp_path / "old", tmp_path / "newer")
    assert not (tmp_path / "newer").exists()
    with pytest.raises(TrustError, match="is not overwritten"):
        revoke(tmp_path / "old", "again")


def test_a_revocation_beside_the_signature_counts_too(tmp_path):
    (tmp_path / "keys").mkdir()
    new_key(tmp_path / "keys" / "K")
    moved = revoke(tmp_path / "keys" / "K", "lost").rename(tmp_path / "any.revoked.json")
    ring = Keyring.of(tmp_path / "keys" / "K.pub", beside=tmp_path / "model.sig")
    assert ring.revoked == {ring.keys[0].id: "lost"}
    assert Keyring.of(tmp_path / "keys" / "K.pub").revoked == {}
    assert moved.exists()


@pytest.mark.parametrize("folder", ["h1", "h2", "h3"])
def test_a_revocation_beside_any_link_on_the_way_to_a_key_counts(tmp_path, folder):
    for each in ("h1", "h2", "h3"):
        (tmp_path / each).mkdir()
    new_key(tmp_path / "h3" / "b")
    (tmp_path / "h2" / "b.pub").symlink_to("../h3/b.pub")
    (tmp_path / "h1" / "b.pub").symlink_to(tmp_path / "h2" / "b.pub")
    assert Keyring.of(tmp_path / "h1" / "b.pub").revoked == {}
    revoke(tmp_path / "h3" / "b", "lost").rename(tmp_path / folder / "b.pub.revoked.json")
    assert list(Keyring.of(tmp_path / "h1" / "b.pub").revoked.values()) == ["lost"]


@pytest.mark.parametrize("beside", ["K", "d/L", "d/e/M"])
def test_a_revoked_key_does_not_sign_through_a_link(tmp_path, beside):
    (tmp_path / "d" / "e").mkdir(parents=True)
    new_key(tmp_path / "K")
    (tmp_path / "d" / "L").symlink_to("../K")
    (tmp_path / "d" / "e" / "M").symlink_to(tmp_path / "d" / "L")
    (tmp_path / "file").write_text("x")
    revoke(tmp_path / "K", "lost").rename(tmp_path / f"{beside}.pub.revoked.json")
    with pytest.raises(TrustError, match="the key was revoked: lost"):
        sign(tmp_path / "file", tmp_path / "d" / "e" / "M")
    assert not (tmp_path / "file.sig").exists()


def test_a_link_that_leads_back_to_itself_is_told(tmp_path):
    new_key(tmp_path / "K")
    (tmp_path / "to").symlink_to("fro")
    (tmp_path / "fro").symlink_to("to")
    (tmp_path / "x.pub").symlink_to("x.pub")
    says = "it is a symbolic link that leads back to itself"
    for read, file in ((load_private, "to"), (load_public, "x.pub"), (Keyring.of, "x.pub")):
        with pytest.raises(TrustError, match=says):
            read(tmp_path / file)
    (tmp_path / "K.pub.revoked.json").symlink_to("K.pub.revoked.json")
    with pytest.raises(TrustError, match=rf"K\.pub\.revoked\.json: {says}"):
        Keyring.of(tmp_path / "K.pub")


def test_keys_are_found_in_the_home_folder_with_their_revocations(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    made = new_key("~/a").public
    assert load_private("~/a").public.id == load_public("~/a.pub").id == made.id
    assert rotate("~/a", "~/b") == tmp_path / "b.pub.endorsed.json"
    assert len(Keyring.of("~/a.pub").keys) == 2
    check_valid(load_private("~/a"), "~/a")
    assert revoke("~/a", "lost") == tmp_path / "a.pub.revoked.json"
    assert list(Keyring.of("~/a.pub").revoked.values()) == ["lost"]
    with pytest.raises(TrustError, match="the key was revoked: lost"):
        check_valid(load_private("~/a"), "~/a")
    with pytest.raises(TrustError, match=r"~nobody-of-that-name/b\.pub: cannot be read"):
        load_public("~nobody-of-that-name/b.pub")
    with pytest.raises(TrustError, match="File name too long"):
        load_public("x" * 5000)


def test_statements_may_be_links_as_clusters_mount_them(tmp_path):
    new_key(tmp_path / "old")
    statements = rotate(tmp_path / "old", tmp_path / "new"), revoke(tmp_path / "new", "lost")
    (tmp_path / "mounted" / "..data").mkdir(parents=True)
    for file in (tmp_path / "old.pub", *statements):
        (tmp_path / "mounted" / file.name).symlink_to(file.rename(tmp_path / "mounted" / "..data" / file.name))
    ring = Keyring.of(tmp_path / "mounted" / "old.pub")
    assert [ring.problem(key) for key in ring.keys] == [None, "was revoked: lost"]
    (tmp_path / "mounted" / "..data" / statements[1].name).unlink()
    with pytest.raises(TrustError, match=r"new\.pub\.revoked\.json: cannot be read"):
        Keyring.of(tmp_path / "mounted" / "old.pub")


def test_the_revocation_of_the_key_that_endorsed_the_signer_is_told(tmp_path):
    new_key(tmp_path / "a")
    rotate(tmp_path / "a", tmp_path / "b")
    new_key(tmp_path / "c", days=1, now=NOON)
    (tmp_path / "file").write_text("x")
    made = sign(tmp_path / "file", tmp_path / "b")
    revoke(tmp_path / "a", "stolen")
    with pytest.raises(TrustError, match=r"another key .* than \S*a\.pub \(which was revoked: stolen\), \S*c\.pub;"):
        read_signature(made.signature, [tmp_path / "a.pub", tmp_path / "c.pub"], now=NOON)
    with pytest.raises(TrustError, match=r"than \S*c\.pub \(which expired at 2026-01-02T12:00:00Z\);"):
        read_signature(made.signature, [tmp_path / "c.pub"], now=NOON + timedelta(days=1))


def test_nobody_can_revoke_the_key_of_another(tmp_path):
    new_key(tmp_path / "ours")
    new_key(tmp_path / "theirs")
    file = revoke(tmp_path / "theirs", "spite")
    bundle = json.loads(file.read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == REVOCATION
    statement["predicate"]["publicKey"] = (tmp_path / "ours.pub").read_text()
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    file.write_text(json.dumps(bundle))
    with pytest.raises(TrustError, match=r"theirs\.pub\.revoked\.json: its signature by .* does not match its content"):
        Keyring.of(tmp_path / "ours.pub")


def test_an_endorsement_is_no_revocation(tmp_path):
    new_key(tmp_path / "K")
    rotate(tmp_path / "K", tmp_path / "L").rename(tmp_path / "K.pub.revoked.json")
    with pytest.raises(TrustError, match="not a revocation"):
        Keyring.of(tmp_path / "K.pub")


def test_a_revocation_that_cannot_be_read_is_not_passed_over(tmp_path):
    new_key(tmp_path / "K")
    file = revoke(tmp_path / "K", "lost")
    file.write_bytes(file.read_bytes()[:-40])
    cure = "restore this revocation from a copy, or remove it"
    with pytest.raises(TrustError, match=rf"revoked\.json: it is malformed or cut off.*; {cure}") as refused:
        Keyring.of(tmp_path / "K.pub")
    assert "sign again" not in str(refused.value)


@pytest.mark.parametrize("suffix", ["endorsed", "revoked"])
def test_a_statement_about_a_key_that_is_far_too_large_is_not_read(tmp_path, suffix):
    new_key(tmp_path / "K")
    with (tmp_path / f"L.pub.{suffix}.json").open("wb") as stream:
        stream.truncate(2**20)
    with pytest.raises(TrustError, match=rf"{suffix}\.json: it is larger than \d+ bytes, too large for a statement"):
        Keyring.of(tmp_path / "K.pub")


@pytest.mark.parametrize("because", ["", "  ", "x" * 1001])
def test_a_revocation_has_a_reason(tmp_path, because):
    new_key(tmp_path / "K")
    with pytest.raises(TrustError, match="needs a reason"):
        revoke(tmp_path / "K", because)


def test_without_a_key_nothing_is_trusted():
    with pytest.raises(TrustError, match="give at least one public key"):
        Keyring.of([])
