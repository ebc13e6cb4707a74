from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import json
import os
import string
import tempfile
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_diff.dependencies import needed
from fusion_diff.errors import DependencyError, TooManyPixelsError, TrustError
from fusion_diff.micrograph.limits import check_claim
from fusion_diff.trust import signed as signed_module
from fusion_diff.trust.envelope import MAX_SIGNATURE_BYTES, MEDIA_TYPE, Sealed, encoding, seal
from fusion_diff.trust.keyring import revoke, rotate
from fusion_diff.trust.keys import Kind, load_private, new_key
from fusion_diff.trust.provenance import read_signature, sign, signature_of, verify
from fusion_diff.trust.signed import SignedFiles, load_signed, signed_bytes, signed_copy
from fusion_diff.trust.signed_contents import PREDICATE_TYPE, Contents, unsafe

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def keys(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir()
    new_key(folder / "K")
    return folder


@pytest.fixture
def batch(tmp_path):
    """A folder with subfolders, with names that sort differently as text and as paths, and with a .git."""
    folder = tmp_path / "batch"
    for name in ("a/b.tif", "a.tif", "ä ö.tif", ".git/config", ".gitignore", "a/.gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def statement_of(signature):
    return json.loads(base64.b64decode(json.loads(signature.read_text())["dsseEnvelope"]["payload"]))


def put_names(path, keys, names, **changes):
    """Signs arbitrary names with a valid key."""
    digest = hashlib.sha256(b"x").hexdigest()
    statement = Contents(path.name, dict.fromkeys(names, digest)).statement()
    statement["predicate"] |= changes
    signature_of(path).write_bytes(seal(statement, load_private(keys / "K")))


@pytest.mark.parametrize("kind", Kind)
def test_what_was_signed_is_verified(batch, tmp_path, kind):
    new_key(tmp_path / "K", kind=kind)
    made = sign(batch, tmp_path / "K")
    assert made.signature == tmp_path / "batch.sig"
    verified = verify(batch, tmp_path / "K.pub")
    assert set(verified.contents.digests) == {"a/b.tif", "a.tif", "ä ö.tif", "a/.gitignore"}
    assert verified.contents.digests["a.tif"] == hashlib.sha256(b"a.tif").hexdigest()
    assert verified.key.id == made.key.id
    moved = batch.rename(tmp_path / "renamed")
    assert verify(moved, [tmp_path / "K.pub"], signature=made.signature).contents == verified.contents


def test_a_single_file_is_signed_and_verified(batch, keys):
    made = sign(batch / "a.tif", keys / "K")
    assert made.signature == batch / "a.tif.sig"
    verify(batch / "a.tif", keys / "K.pub")
    (batch / "a.tif").write_bytes(b"other")
    with pytest.raises(TrustError, match=r"a\.tif: it was altered after it was signed"):
        verify(batch / "a.tif", keys / "K.pub")


def test_the_signature_is_written_as_the_standard_says(batch, keys):
    bundle = json.loads(sign(batch, keys / "K").signature.read_text())
    key = load_private(keys / "K").public
    assert bundle["mediaType"] == MEDIA_TYPE
    assert bundle["verificationMaterial"] == {"publicKey": {"hint": key.hint}, "tlogEntries": []}
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    (signature,) = envelope["signatures"]
    signed = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    assert encoding(payload) == signed
    assert key.has_signed(signed, base64.b64decode(signature["sig"]))
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE_TYPE
    resources = statement["predicate"]["resources"]
    assert [resource["name"] for resource in resources] == ["a/.gitignore", "a/b.tif", "a.tif", "ä ö.tif"]
    whole = hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()
    assert statement["subject"] == [{"name": "batch", "digest": {"sha256": whole}}]


def test_every_file_that_differs_is_named_in_a_line_of_its_own(batch, keys, tmp_path):
    sign(batch, keys / "K")
    (batch / "a.tif").write_bytes(b"other")
    (batch / "a" / "b.tif").unlink()
    (batch / "new\n.tif").write_bytes(b"new")
    (batch / "link.tif").symlink_to(batch / "a.tif")
    (batch / "far").symlink_to(tmp_path)
    os.mkfifo(batch / "pipe")
    with pytest.raises(TrustError) as error:
        verify(batch, keys / "K.pub")
    lines = str(error.value).splitlines()
    said = [line.removeprefix(f"{batch}/").split(",")[0].split(";")[0] for line in lines]
    assert said == [
        "a.tif: it was altered after it was signed",
        "a/b.tif: it is missing",
        "far: it is a symbolic link",
        "link.tif: it is a symbolic link",
        "new\\n.tif: it was added after signing",
        "pipe: it is a pipe or device",
    ]


LEFT = (".DS_Store", "a/._b.tif", "a/Thumbs.db", "desktop.ini")


def test_what_file_managers_leave_is_neither_signed_nor_an_addition(batch, keys):
    (batch / ".DS_Store").write_bytes(b"before")
    sign(batch, keys / "K")
    for name in LEFT:
        (batch / name).write_bytes(b"after")
    assert set(verify(batch, keys / "K.pub").contents.digests).isdisjoint(LEFT)
    copy = signed_copy(batch, keys / "K.pub")
    assert not any((copy / name).exists() for name in LEFT)
    (batch / "desktop.ini").unlink()
    (batch / "desktop.ini").symlink_to(batch / "a.tif")
    with pytest.raises(TrustError, match="a symbolic link"):
        verify(batch, keys / "K.pub")


def test_what_was_signed_is_verified_whatever_its_name(batch, keys):
    (batch / ".DS_Store").write_bytes(b"x")
    put_names(batch, keys, [".DS_Store"])
    for file in (batch / "a.tif", batch / "a" / "b.tif", batch / "ä ö.tif", batch / "a" / ".gitignore"):
        file.unlink()
    verify(batch, keys / "K.pub")
    (batch / ".DS_Store").write_bytes(b"altered")
    with pytest.raises(TrustError, match="altered after it was signed"):
        verify(batch, keys / "K.pub")


def test_a_signed_file_replaced_by_a_link_to_the_same_bytes_is_refused(batch, keys, tmp_path):
    sign(batch, keys / "K")
    (batch / "a.tif").rename(tmp_path / "a.tif")
    (batch / "a.tif").symlink_to(tmp_path / "a.tif")
    with pytest.raises(TrustError, match=r"a\.tif: it is a symbolic link"):
        verify(batch, keys / "K.pub")


def test_dots_behind_a_link_lead_where_they_lead_the_system(batch, keys, tmp_path):
    """The signed folder beside the link was verified, and the other one was opened."""
    sign(batch, keys / "K")
    (tmp_path / "real" / "line").mkdir(parents=True)
    (tmp_path / "real" / "batch").mkdir()
    (tmp_path / "real" / "batch" / "a.tif").write_bytes(b"other")
    (tmp_path / "link").symlink_to("real/line", target_is_directory=True)
    with pytest.raises(TrustError, match=r"real/batch"):
        verify(tmp_path / "link" / ".." / "batch", keys / "K.pub")
    with pytest.raises(TrustError, match=r"unsigned"):
        SignedFiles([keys / "K.pub"]).digest(tmp_path / "link" / ".." / "batch" / "a.tif")
    assert verify(tmp_path / "real" / ".." / "batch", keys / "K.pub").contents.name == "batch"


def test_a_link_to_a_signed_folder_is_refused(batch, keys, tmp_path):
    sign(batch, keys / "K")
    (tmp_path / "link").symlink_to(batch)
    for signature in (signature_of(batch), None):
        with pytest.raises(TrustError, match="link: it is a symbolic link"):
            verify(tmp_path / "link", keys / "K.pub", signature=signature)


def test_a_folder_in_the_place_of_a_file_is_refused(batch, keys, tmp_path):
    made = sign(batch / "a.tif", keys / "K")
    with pytest.raises(TrustError, match="a folder, but a file was signed"):
        verify(batch, keys / "K.pub", signature=made.signature)
    made = sign(batch, keys / "K")
    with pytest.raises(TrustError, match="a file, but a folder was signed"):
        verify(batch / "a.tif", keys / "K.pub", signature=made.signature)


def test_what_is_unsigned_is_refused(batch, keys):
    with pytest.raises(TrustError, match=r"batch: it is unsigned, as there is no .*batch\.sig"):
        verify(batch, keys / "K.pub")


def test_a_signature_by_another_key_is_refused(batch, keys, tmp_path):
    new_key(tmp_path / "other")
    sign(batch, tmp_path / "other")
    with pytest.raises(TrustError, match=r"batch\.sig: it is signed with another key .* than .*K\.pub"):
        verify(batch, keys / "K.pub")
    verify(batch, [keys / "K.pub", tmp_path / "other.pub"])


def test_a_signature_that_claims_the_right_key_is_not_believed(batch, keys, tmp_path):
    new_key(tmp_path / "other")
    made = sign(batch, tmp_path / "other").signature
    bundle = json.loads(made.read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = load_private(keys / "K").public.hint
    made.write_text(json.dumps(bundle))
    with pytest.raises(TrustError, match="altered or forged"):
        verify(batch, keys / "K.pub")
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    made.write_text(json.dumps(bundle))
    with pytest.raises(TrustError, match="signed with another key than"):
        verify(batch, keys / "K.pub")
    verify(batch, tmp_path / "other.pub")


def test_a_changed_statement_is_refused(batch, keys):
    made = sign(batch, keys / "K").signature
    (batch / "a.tif").write_bytes(b"other")
    bundle = json.loads(made.read_text())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    old, new = (hashlib.sha256(content).hexdigest().encode() for content in (b"a.tif", b"other"))
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(old, new)).decode()
    made.write_text(json.dumps(bundle))
    with pytest.raises(TrustError, match=r"batch\.sig: its signature by .* does not match its content"):
        verify(batch, keys / "K.pub")


def test_a_signature_expires_with_its_days_or_with_its_key(batch, keys, tmp_path):
    sign(batch, keys / "K", days=2, now=NOON)
    verify(batch, keys / "K.pub", now=NOON + 2 * DAY - timedelta(seconds=1))
    with pytest.raises(TrustError, match=r"batch\.sig: the signature expired at 2026-01-03T12:00:00Z"):
        verify(batch, keys / "K.pub", now=NOON + 2 * DAY)
    new_key(tmp_path / "short", days=1, now=NOON)
    made = sign(batch, tmp_path / "short", days=2, now=NOON)
    assert made.contents.expires == NOON + DAY
    with pytest.raises(TrustError, match=r"signed with .*short\.pub, which expired at 2026-01-02T12:00:00Z"):
        verify(batch, tmp_path / "short.pub", now=NOON + DAY)
    with pytest.raises(TrustError, match="the key expired"):
        sign(batch, tmp_path / "short", now=NOON + DAY)


def test_without_days_nothing_expires(batch, keys):
    assert "expires" not in statement_of(sign(batch, keys / "K", now=NOON).signature)["predicate"]
    verify(batch, keys / "K.pub", now=NOON + 10_000 * DAY)


def test_a_signature_by_a_revoked_key_is_refused(batch, keys):
    sign(batch, keys / "K")
    revoke(keys / "K", "lost on a train")
    with pytest.raises(TrustError, match=r"signed with .*K\.pub, which was revoked: lost on a train"):
        verify(batch, keys / "K.pub")
    with pytest.raises(TrustError, match="the key was revoked"):
        sign(batch, keys / "K")


def test_a_signature_by_an_endorsed_key_is_verified_with_the_old_one(batch, keys, tmp_path):
    endorsement = rotate(keys / "K", tmp_path / "new")
    sign(batch, tmp_path / "new")
    assert verify(batch, keys / "K.pub").key.name.endswith("new.pub")  # the endorsement lies beside the signature
    endorsement.rename(keys / endorsement.name)
    assert verify(batch, keys / "K.pub").key.name.endswith("new.pub")
    (keys / endorsement.name).unlink()
    with pytest.raises(TrustError, match="another key"):
        verify(batch, keys / "K.pub")


def test_an_endorsement_is_no_signature_of_files(batch, keys, tmp_path):
    rotate(keys / "K", tmp_path / "new").rename(signature_of(batch))
    with pytest.raises(TrustError, match="a statement of type urn:fusion-diff:key-endorsement:1"):
        verify(batch, keys / "K.pub")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../escape", "leads out of the folder"),
        ("a/../../escape", "leads out of the folder"),
        ("/etc/passwd", "an absolute path"),
        ("a\\b", "a backslash"),
        ("C:/x", "names a drive"),
        ("c:x", "names a drive"),
        ("a\x00b", "control characters"),
        ("a\nb", "control characters"),
        ("a//b", "not in its shortest form"),
        ("./a", "not in its shortest form"),
        ("a/", "not in its shortest form"),
        ("", "not a name"),
        ("x" * 5000, "not a name"),
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused_though_truly_signed(keys, tmp_path, name, says):
    put_names(tmp_path / "nowhere", keys, [name])  # no such folder exists: it is refused before it is read
    with pytest.raises(TrustError, match=says) as error:
        verify(tmp_path / "nowhere", keys / "K.pub")
    assert "\n" not in str(error.value)
    with pytest.raises(TrustError, match=says):
        signed_copy(tmp_path / "nowhere", keys / "K.pub")


@given(st.text(max_size=30) | st.text(alphabet="./\\:ab", max_size=12))
def test_a_name_that_is_safe_stays_in_the_folder(name):
    if unsafe(name) is None:
        assert os.path.normpath(os.path.join("/f", name)) == "/f/" + name  # noqa: PTH118
        assert name.encode("utf-8")
    if name and set(name) <= set(string.ascii_letters):
        assert unsafe(name) is None


def test_a_number_in_the_place_of_a_name_is_refused():
    assert unsafe(7) == "which is not a name"
    assert unsafe("a\ud800") is not None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"serialization": {"method": "shards", "hash_type": "sha256"}}, "hashed as shards"),
        ({"serialization": {"method": "files", "hash_type": "blake3"}}, "with blake3"),
        ({"serialization": None}, "not a list of files"),
        ({"resources": []}, "covers no file"),
        ({"resources": [{"name": "a"}]}, "not a list of files"),
        ({"resources": [{"name": "a", "algorithm": "md5", "digest": "0" * 64}]}, "is not a sha256"),
        ({"resources": [{"name": "a", "algorithm": "sha256", "digest": "0" * 63}]}, "is not a sha256"),
        ({"resources": [{"name": "a", "algorithm": "sha256", "digest": "0" * 64}]}, "do not add up"),
        ({"resources": [{"name": "a", "algorithm": "sha256", "digest": "0" * 64}] * 2}, "twice"),
        (
            {"resources": [{"name": name, "algorithm": "sha256", "digest": "0" * 64} for name in (".", "a")]},
            "both a file and a folder",
        ),
        ({"expires": "soon"}, "expiry time is unreadable"),
        ({"expires": None}, "expiry time is unreadable"),
    ],
)
def test_a_statement_that_is_no_list_of_files_is_refused_though_truly_signed(batch, keys, changes, says):
    put_names(batch, keys, ["a.tif"], **changes)
    with pytest.raises(TrustError, match=rf"batch\.sig: .*{says}"):
        verify(batch, keys / "K.pub")


def test_a_signature_cut_off_anywhere_is_refused(batch, keys):
    made = sign(batch, keys / "K").signature
    content = made.read_bytes()
    for length in range(0, len(content), 97):
        made.write_bytes(content[:length])
        with pytest.raises(TrustError, match=r"batch\.sig: it is malformed or cut off"):
            verify(batch, keys / "K.pub")


def test_a_signature_with_any_character_changed_is_refused_or_means_the_same(batch, keys):
    made = sign(batch, keys / "K").signature
    content = made.read_bytes()
    true = verify(batch, keys / "K.pub").contents
    refused = 0
    for place in range(0, len(content), 41):
        made.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert verify(batch, keys / "K.pub").contents == true  # as in a keyid, which nobody reads
        except TrustError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"mediaType": "text/plain"}', b"\x80\x04pickle"],
)
def test_what_is_no_bundle_is_refused(batch, keys, content):
    signature_of(batch).write_bytes(content)
    with pytest.raises(TrustError, match=r"batch\.sig: "):
        verify(batch, keys / "K.pub")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(JSON, JSON, JSON, JSON)
def test_any_bundle_is_taken_apart_or_refused(payload, signatures, material, kind):
    envelope = {"payload": payload, "signatures": signatures, "payloadType": kind}
    for bundle in (
        {"mediaType": MEDIA_TYPE, "dsseEnvelope": envelope, "verificationMaterial": {"publicKey": material}},
        {"mediaType": MEDIA_TYPE, "dsseEnvelope": kind, "verificationMaterial": material},
    ):
        with pytest.raises(TrustError, match=r"^x\.sig: "):
            Sealed.parse(json.dumps(bundle).encode(), "x.sig")


@given(JSON, JSON, JSON)
def test_any_statement_is_read_or_refused(subject, predicate, resources):
    serialization = {"method": "files", "hash_type": "sha256"}
    for inner in (predicate, {"serialization": serialization, "resources": resources}):
        for outer in (subject, [{"name": "x", "digest": {"sha256": subject}}]):
            with pytest.raises(TrustError, match=r"^x\.sig: "):
                Contents.parse({"subject": outer, "predicate": inner}, "x.sig")


def test_a_signature_by_certificate_is_told_apart():
    bundle = {"mediaType": MEDIA_TYPE, "dsseEnvelope": {}, "verificationMaterial": {"certificate": {}}}
    with pytest.raises(TrustError, match="signed with a certificate or an identity"):
        Sealed.parse(json.dumps(bundle).encode(), "x.sig")


def test_a_signature_that_is_too_large_is_not_parsed(batch, keys):
    with signature_of(batch).open("wb") as stream:
        stream.truncate(MAX_SIGNATURE_BYTES + 1)
    with pytest.raises(TrustError, match=r"batch\.sig: it is larger than 16777216 bytes"):
        verify(batch, keys / "K.pub")


def test_a_signature_of_more_values_than_any_has_is_not_parsed():
    """Those of 16 megabytes took 400 megabytes of memory before the signature was verified."""
    content = json.dumps({"mediaType": MEDIA_TYPE, "verificationMaterial": {"certificate": {}}, "dsseEnvelope": {}})
    for values, says in ((100, "signed with a certificate"), (10_000, "malformed or cut off")):
        with pytest.raises(TrustError, match=says):
            Sealed.parse(f'{content[:-1]}, "more": {[[]] * values}}}'.encode(), "x.sig")


def test_a_folder_whose_signature_nobody_would_read_is_not_signed(tmp_path, keys):
    deep = tmp_path / "batch" / "/".join(letter * 240 for letter in "abcdefghijkl")
    deep.mkdir(parents=True)
    for index in range(4300):
        (deep / f"{index}.tif").touch()
    with pytest.raises(
        TrustError, match=r"batch: its 4,300 files make a signature larger than .* sign its sub-folders"
    ):
        sign(tmp_path / "batch", keys / "K")
    assert not signature_of(tmp_path / "batch").exists()
    sign(deep, keys / "K")
    assert len(verify(deep, keys / "K.pub").contents.digests) == 4300


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_signature_that_is_a_pipe_or_a_folder_is_refused_and_not_waited_for(batch, keys, make):
    make(signature_of(batch))
    with pytest.raises(TrustError, match=r"batch\.sig"):
        verify(batch, keys / "K.pub")


def test_a_signature_inside_the_folder_does_not_sign_itself(batch, keys):
    made = sign(batch, keys / "K", out=batch / "model.sig")
    assert statement_of(made.signature)["predicate"]["serialization"]["ignore_paths"][-1] == "model.sig"
    verify(batch, keys / "K.pub", signature=batch / "model.sig")
    again = sign(batch, keys / "K", out=batch / "model.sig")
    assert again.contents == made.contents


def test_signing_replaces_a_signature_and_nothing_else(batch, keys):
    sign(batch, keys / "K")
    (batch / "a.tif").write_bytes(b"other")
    sign(batch, keys / "K")
    verify(batch, keys / "K.pub")
    for out in (batch / "a.tif", batch, keys / "K.pub"):
        with pytest.raises(TrustError, match="it exists and is not a signature"):
            sign(batch, keys / "K", out=out)
    assert (batch / "a.tif").read_bytes() == b"other"
    assert sorted(path.name for path in batch.parent.iterdir()) == ["batch", "batch.sig", "keys"]


def test_signing_replaces_no_statement_about_a_key(batch, keys):
    rotate(keys / "K", keys / "L")
    for statement in (revoke(keys / "L", "stolen"), keys / "L.pub.endorsed.json"):
        before = statement.read_bytes()
        with pytest.raises(TrustError, match="it exists and is not a signature of files"):
            sign(batch, keys / "K", out=statement)
        assert statement.read_bytes() == before


@pytest.mark.parametrize("payload", [b"[]", b"\xff", b"[" * 100_000])
def test_signing_replaces_no_bundle_that_is_not_about_files(batch, keys, payload):
    bundle = json.loads(seal({}, load_private(keys / "K")))
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    signature_of(batch).write_text(json.dumps(bundle))
    with pytest.raises(TrustError, match="it exists and is not a signature of files"):
        sign(batch, keys / "K")


def test_what_could_not_be_verified_is_not_signed(batch, keys, tmp_path):
    (batch / "link").symlink_to(tmp_path)
    (batch / "back\\slash").write_bytes(b"x")
    (batch / "bell\a").write_bytes(b"x")
    with pytest.raises(TrustError) as error:
        sign(batch, keys / "K")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    for text in (
        "link: it is a symbolic link",
        "a name which contains a backslash",
        "which contains control characters",
    ):
        assert text in str(error.value)
    (tmp_path / "empty" / ".git").mkdir(parents=True)
    with pytest.raises(TrustError, match="empty: it contains no files to sign"):
        sign(tmp_path / "empty", keys / "K")
    with pytest.raises(TrustError, match="missing: cannot be read"):
        sign(tmp_path / "missing", keys / "K")
    assert not signature_of(batch).exists()


def test_neither_a_linked_file_nor_a_linked_signature_is_followed(batch, keys, tmp_path):
    (tmp_path / "link").symlink_to(batch / "a.tif")
    with pytest.raises(TrustError, match="link: it is a symbolic link"):
        sign(tmp_path / "link", keys / "K")
    made = sign(batch, keys / "K")
    made.signature.rename(tmp_path / "moved")
    made.signature.symlink_to(tmp_path / "moved")
    with pytest.raises(TrustError, match=r"batch\.sig: it is a symbolic link"):
        verify(batch, keys / "K.pub")
    with pytest.raises(TrustError, match=r"batch\.sig: it is a symbolic link"):
        SignedFiles(keys / "K.pub").digest(batch / "a.tif")


def test_a_private_key_is_not_handed_on_with_what_it_signs(keys):
    with pytest.raises(TrustError, match="the private key lies in the folder or file to be signed"):
        sign(keys, keys / "K")


def test_a_private_key_in_the_home_folder_is_not_handed_on_either(keys, monkeypatch):
    monkeypatch.setenv("HOME", str(keys))
    monkeypatch.setenv("USERPROFILE", str(keys))
    with pytest.raises(TrustError, match="the private key lies in the folder or file to be signed"):
        sign(keys, "~/K")


def test_a_signed_copy_holds_what_was_signed_and_nothing_else(batch, keys):
    sign(batch, keys / "K")
    seen = []

    class Loaded:
        def __init__(self, copy):
            seen.append(copy)
            self.names = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}

    loaded = load_signed(batch, [keys / "K.pub"], Loaded)
    assert loaded.names == {"a/b.tif", "a.tif", "ä ö.tif", "a/.gitignore"}
    (copy,) = seen
    assert copy.name == "batch"
    assert copy.parent.stat().st_mode & 0o077 == 0
    (batch / "a.tif").write_bytes(b"other")
    assert (copy / "a.tif").read_bytes() == b"a.tif"
    del loaded
    assert not copy.parent.exists()
    with pytest.raises(TrustError, match="altered"):
        load_signed(batch, [keys / "K.pub"], Loaded)
    assert len(seen) == 1


def test_a_file_swapped_between_verifying_and_copying_is_refused(batch, keys, tmp_path, monkeypatch):
    sign(batch, keys / "K")

    def verify_and_swap(*args, **kwargs):
        verified = verify(*args, **kwargs)
        (batch / "a.tif").write_bytes(b"other")
        return verified

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(signed_module, "verify", verify_and_swap)
    with pytest.raises(TrustError, match=r"a\.tif: changed while it was being read"):
        signed_copy(batch, keys / "K.pub")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("size", [2, 2**20])
def test_a_copy_that_cannot_be_written_is_blamed_on_its_own_folder(batch, keys, tmp_path, monkeypatch, size, room_for):
    """A write fails at once, and one that waits in the buffer when the file is closed."""
    for file in batch.rglob("*.tif"):
        file.write_bytes(bytes(size))
    sign(batch, keys / "K")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with room_for(1), pytest.raises(OSError, match="File too large") as caught:
        signed_copy(batch, keys / "K.pub")
    assert str(tmp_path / "tmp") in str(caught.value)
    assert str(batch) not in str(caught.value)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_error_on_a_copy_names_the_folder_that_was_given_and_keeps_what_else_it_tells(batch, keys):
    sign(batch, keys / "K")
    with pytest.raises(TooManyPixelsError) as refused, signed_bytes(batch, [keys / "K.pub"]) as copy:
        check_claim(str(copy / "a.tif"), 70, 50, channels=1, bits=8, max_pixels=100)
    assert str(refused.value).startswith(f"{batch / 'a.tif'}: its header claims 70x50")
    assert (refused.value.width, refused.value.height) == (70, 50)
    with pytest.raises(DependencyError) as refused, signed_bytes(batch, [keys / "K.pub"]) as copy:
        needed(str(copy), "nowhere", "batch")
    assert str(refused.value).startswith(f"{batch} needs nowhere")


def test_a_copy_is_removed_where_loading_fails(batch, keys):
    sign(batch, keys / "K")
    seen = []

    def fail(copy):
        seen.append(copy)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load_signed(batch, keys / "K.pub", fail)
    assert not seen[0].parent.exists()


def test_a_file_is_covered_by_its_own_signature_or_by_that_of_a_folder_above(batch, keys):
    sign(batch, keys / "K")
    signed = SignedFiles(keys / "K.pub")
    for name in ("a.tif", "a/b.tif"):
        assert signed.digest(batch / name) == hashlib.sha256(name.encode()).hexdigest()
    (batch / "new.tif").write_bytes(b"new")
    with pytest.raises(TrustError, match=r"new\.tif: it is not in the signature .*batch\.sig"):
        signed.digest(batch / "new.tif")
    sign(batch / "new.tif", keys / "K")
    assert signed.digest(batch / "new.tif") == hashlib.sha256(b"new").hexdigest()


def test_a_file_without_a_signature_or_with_a_bad_one_is_refused_each_time(batch, keys, tmp_path):
    signed = SignedFiles([keys / "K.pub"])
    with pytest.raises(TrustError, match=r"a\.tif: it is unsigned"):
        signed.digest(batch / "a.tif")
    new_key(tmp_path / "other")
    sign(batch, tmp_path / "other")
    for name in ("a.tif", "a/b.tif"):
        with pytest.raises(TrustError, match=r"batch\.sig: it is signed with another key"):
            signed.digest(batch / name)


def test_of_signatures_of_single_files_nothing_is_kept(batch, keys):
    signed = SignedFiles(keys / "K.pub")
    for content in (b"first", b"second"):
        (batch / "a.tif").write_bytes(content)
        sign(batch / "a.tif", keys / "K")
        assert signed.digest(batch / "a.tif") == hashlib.sha256(content).hexdigest()


def test_of_a_refusal_no_traceback_is_kept(batch, keys, tmp_path):
    new_key(tmp_path / "other")
    sign(batch, tmp_path / "other")
    signed = SignedFiles(keys / "K.pub")
    with contextlib.suppress(TrustError):
        signed.digest(batch / "a.tif")
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, TrustError) and str(batch) in str(each)]


def test_a_linked_file_is_not_covered(batch, keys):
    sign(batch, keys / "K")
    (batch / "link.tif").symlink_to(batch / "a.tif")
    with pytest.raises(TrustError, match=r"link\.tif: it is a symbolic link"):
        SignedFiles(keys / "K.pub").digest(batch / "link.tif")


def test_a_batch_that_was_picked_from_is_told(batch, keys):
    sign(batch, keys / "K")
    (batch / "a.tif").unlink()
    for ask in (SignedFiles.digest, SignedFiles.expect_covered):
        with pytest.warns(UserWarning, match=r"batch: 1 of 4 signed files are missing, the first is a\.tif") as caught:
            ask(SignedFiles(keys / "K.pub"), batch / "a" / "b.tif")
        assert caught[0].filename == __file__, "the line that called the package"


def test_nothing_lies_beside_the_root():
    with pytest.raises(TrustError, match="no signature can lie beside it"):
        signature_of("/")


@pytest.fixture
def model_signing():
    """OpenSSF's model-signing, with which signatures are exchanged."""
    pytest.importorskip("OpenSSL")  # which it needs, and does not declare
    module = pytest.importorskip("model_signing")
    for part in ("signing", "verifying", "hashing"):
        pytest.importorskip(f"model_signing.{part}")
    return module


@pytest.mark.parametrize("what", ["batch", "batch/a.tif"])
def test_model_signing_verifies_what_is_signed_here(model_signing, batch, tmp_path, what):
    new_key(tmp_path / "E", kind="ecdsa-p256", days=7)
    made = sign(tmp_path / what, tmp_path / "E", days=3)
    verifier = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "E.pub")
    verifier.verify(tmp_path / what, made.signature)
    (batch / "a.tif").write_bytes(b"other")
    with pytest.raises(ValueError, match="Hash mismatch"):
        verifier.verify(tmp_path / what, made.signature)


@pytest.mark.parametrize("what", ["batch", "batch/a.tif"])
def test_what_model_signing_signs_is_verified_here(model_signing, batch, tmp_path, what):
    new_key(tmp_path / "E", kind="ecdsa-p256")
    theirs = tmp_path / "theirs.sig"
    model_signing.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "E").sign(tmp_path / what, theirs)
    verified = verify(tmp_path / what, tmp_path / "E.pub", signature=theirs)
    assert verified.contents == sign(tmp_path / what, tmp_path / "E").contents
    ours, other = statement_of(signature_of(tmp_path / what)), statement_of(theirs)
    for statement in (ours, other):  # a set, written in any order
        statement["predicate"]["serialization"]["ignore_paths"].sort()
    assert ours == other
    assert json.loads(theirs.read_text()).keys() == json.loads(signature_of(tmp_path / what).read_text()).keys()
    (batch / "a.tif").write_bytes(b"other")
    with pytest.raises(TrustError, match=r"a\.tif: it was altered"):
        verify(tmp_path / what, tmp_path / "E.pub", signature=theirs)


@pytest.mark.parametrize("curve", ["SECP384R1", "SECP521R1"])
def test_model_signings_larger_curves_are_verified_too(model_signing, batch, tmp_path, curve):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = ec.generate_private_key(getattr(ec, curve)())
    (tmp_path / "E").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "E").chmod(0o600)
    (tmp_path / "E.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    theirs = tmp_path / "theirs.sig"
    model_signing.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "E").sign(batch, theirs)
    assert verify(batch, tmp_path / "E.pub", signature=theirs).key.kind == f"ecdsa-p{curve[4:7]}"
    made = sign(batch, tmp_path / "E")
    model_signing.verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "E.pub").verify(
        batch, made.signature
    )


def test_files_that_git_keeps_are_verified_where_model_signing_was_told_to_sign_them(model_signing, batch, tmp_path):
    new_key(tmp_path / "E", kind="ecdsa-p256")
    hashing = model_signing.hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=tmp_path / "E")
    signer.set_hashing_config(hashing).sign(batch, tmp_path / "batch.sig")
    assert ".git/config" in verify(batch, tmp_path / "E.pub").contents.digests
    (batch / ".git" / "config").write_bytes(b"other")
    with pytest.raises(TrustError, match=r"\.git/config: it was altered"):
        verify(batch, tmp_path / "E.pub")


def test_a_signature_is_read_without_the_files(batch, keys):
    made = sign(batch, keys / "K")
    for path in batch.rglob("*.tif"):
        path.unlink()
    assert read_signature(made.signature, keys / "K.pub").contents == made.contents
