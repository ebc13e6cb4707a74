"""Checkpoints are loaded only if complete and unaltered, and written atomically."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion_diff import whole
from fusion_diff.checkpoint import (
    EMBEDDED,
    FORMAT,
    MANIFEST,
    Writer,
    digest,
    expect_free,
    locate,
    read_json,
    seal,
    verify,
    write_json,
)
from fusion_diff.errors import CheckpointError
from fusion_diff.model import DiffusionModel
from fusion_diff.weights import read_tensors


@pytest.fixture
def small(tmp_path) -> Path:
    """A small folder in the format of a checkpoint."""
    with Writer(tmp_path / "small") as draft:
        save_file({"a": torch.arange(3.0), "flag": torch.tensor([True])}, draft / "encoder.safetensors")
        (draft / "prior" / "vae").mkdir(parents=True)
        write_json(draft / "prior" / "vae" / "config.json", {"latent_channels": 4})
        write_json(draft / "config.json", {"name": "small"})
    return tmp_path / "small"


@pytest.fixture
def real(checkpoint_folder, tmp_path) -> Path:
    """A copy of a real checkpoint that a test may break."""
    return shutil.copytree(checkpoint_folder, tmp_path / "real")


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_whole_checkpoint_verifies_to_the_digest_of_its_manifest(small):
    assert verify(small) == digest(small / MANIFEST)
    manifest = json.loads((small / MANIFEST).read_text())
    assert manifest["format"] == FORMAT
    assert set(manifest["sha256"]) == {"config.json", "encoder.safetensors", "prior/vae/config.json"}


def test_a_real_checkpoint_verifies(checkpoint_folder):
    verify(checkpoint_folder)


@pytest.mark.parametrize("name", ["encoder.safetensors", "prior/vae/config.json", "config.json"])
def test_one_altered_bit_is_noticed_and_its_file_named(small, name):
    content = bytearray((small / name).read_bytes())
    content[len(content) // 2] ^= 1
    (small / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}: altered or truncated"):
        verify(small)


@pytest.mark.parametrize("kept", [0, -1])
def test_a_truncated_file_is_noticed(small, kept):
    file = small / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors: altered or truncated"):
        verify(small)


def test_a_missing_file_is_noticed(small):
    (small / "prior" / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"vae/config\.json: missing"):
        verify(small)


@pytest.mark.parametrize("name", ["enrolment.json", "prior/vae/extra.bin", "prior/manifest.json", ".hidden"])
def test_an_extra_file_is_noticed(small, name):
    (small / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"{name}: not listed in the checkpoint's manifest"):
        verify(small)


LEFT = (".DS_Store", "._config.json", "Thumbs.db", "desktop.ini")


def test_what_file_managers_leave_is_no_part_of_a_checkpoint(small):
    before = verify(small)
    for name in LEFT:
        (small / name).write_bytes(b"left")
        (small / "prior" / name).write_bytes(b"left")
    assert verify(small) == before
    with Writer(small) as draft:
        write_json(draft / "config.json", {"name": "new"})
    assert set(files_in(small)) == {"config.json", MANIFEST}


def test_a_folder_that_somebody_only_looked_into_is_written_into(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".DS_Store").write_bytes(b"left")
    expect_free(tmp_path / "new")


def test_what_merely_has_their_name_is_noticed(small):
    (small / ".DS_Store").symlink_to(small / "config.json")
    with pytest.raises(CheckpointError, match="not listed in the checkpoint's manifest"):
        verify(small)
    (small / ".DS_Store").unlink()
    (small / "Thumbs.db").mkdir()
    (small / "Thumbs.db" / "a.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not listed in the checkpoint's manifest"):
        verify(small)


def test_what_the_manifest_lists_is_verified_whatever_its_name(small):
    (small / ".DS_Store").write_bytes(b"listed")
    listed = read_json(small / MANIFEST)
    listed["sha256"][".DS_Store"] = digest(small / ".DS_Store")
    write_json(small / MANIFEST, listed)
    verify(small)
    (small / ".DS_Store").write_bytes(b"altered")
    with pytest.raises(CheckpointError, match="altered or truncated"):
        verify(small)


def test_what_a_file_manager_left_is_not_listed(small):
    """macOS writes such files beside others on some drives, and they may not be copied along."""
    (small / "._encoder.safetensors").write_bytes(b"AppleDouble")
    seal(small)
    (small / "._encoder.safetensors").unlink()
    verify(small)


def test_a_named_pipe_is_noticed_rather_than_waited_for(small):
    os.mkfifo(small / "enrolment.json")
    with pytest.raises(CheckpointError, match=r"enrolment\.json: not listed in the checkpoint's manifest"):
        verify(small)


def test_folders_that_lie_in_each_other_without_end_are_refused(small, monkeypatch):
    monkeypatch.chdir(small)
    for _ in range(1200):
        Path("a").mkdir()
        os.chdir("a")
    Path("b").touch()
    with pytest.raises(CheckpointError, match=r"lie in each other too deeply .*; remove those that were added"):
        verify(small)
    monkeypatch.chdir(small)  # what removes the folder of a test comes no deeper either
    for _ in range(1200):
        os.chdir("a")
    Path("b").unlink()
    for _ in range(1200):
        os.chdir("..")
        Path("a").rmdir()


@pytest.mark.parametrize("name", ["encoder.safetensors", MANIFEST])
def test_a_link_is_refused_even_to_the_right_content(small, tmp_path, name):
    file = small / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=f"{re.escape(name)}: a link"):
        verify(small)


def test_a_folder_that_is_a_link_is_refused(small, tmp_path):
    (small / "prior").rename(tmp_path / "elsewhere")
    (small / "prior").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(CheckpointError, match="prior"):
        verify(small)


def test_names_in_the_manifest_cannot_lead_outside(small, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    manifest = read_json(small / MANIFEST)
    manifest["sha256"]["../secret.json"] = digest(tmp_path / "secret.json")
    write_json(small / MANIFEST, manifest)
    with pytest.raises(CheckpointError, match="missing from the checkpoint"):
        verify(small)


@pytest.mark.parametrize("name", ["\x1b[2J", "a" * 100_000, "/etc/passwd", "\udcff"])
def test_a_stranger_s_name_in_the_manifest_comes_into_the_message_short_and_printable(small, name):
    manifest = json.loads((small / MANIFEST).read_text())
    manifest["sha256"] = {name: "0"} | manifest["sha256"]
    (small / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="missing from the checkpoint") as caught:
        verify(small)
    assert str(small) in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_stranger_s_format_comes_into_the_message_short(small):
    (small / MANIFEST).write_text(json.dumps({"format": "f" * 100_000, "sha256": {}}))
    with pytest.raises(CheckpointError, match="but this version reads") as caught:
        verify(small)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["weights.bin", "weights.pt", "prior/unet.pkl", "model.ckpt"])
def test_a_pickle_by_its_name_is_refused_even_with_a_manifest_for_it(small, name):
    (small / name).write_bytes(pickle.dumps({"a": 1}))
    seal(small)
    with pytest.raises(CheckpointError, match="a pickle file, which is refused"):
        verify(small)


def test_a_pickle_renamed_is_never_run_even_with_a_manifest_for_it(real, tmp_path):
    sprung = tmp_path / "sprung"
    for write in (torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))):
        write({"a": Trap(sprung)}, real / "encoder.safetensors")
        seal(real)
        verify(real)
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            read_tensors(real / "encoder.safetensors")
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            DiffusionModel.from_pretrained(real)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists(), "the trap is a real one"


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "null", "{}", '{"format": "fusion-diff/checkpoint/2", "sha256": {}}', "[" * 200_000],
)
def test_a_damaged_or_foreign_manifest_is_refused(small, manifest):
    (small / MANIFEST).write_text(manifest)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        verify(small)


def test_a_manifest_of_another_shape_is_refused(small):
    write_json(small / MANIFEST, {"format": FORMAT, "sha256": ["config.json"]})
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        verify(small)


def test_a_json_file_too_large_to_be_one_is_not_read(tmp_path):
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(CheckpointError, match="larger than"):
        read_json(tmp_path / "huge.json")


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        verify(tmp_path)


@pytest.mark.parametrize(
    "name", ["no-such-model", "", ".", "..", "a/b/c", "./missing/x", "/nowhere/at-all", "x\0", "x" * 300]
)
def test_an_unknown_name_says_what_names_there_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name in ("", ".", ".."):  # folders, but not checkpoints
        with pytest.raises(CheckpointError):
            verify(locate(name))
    else:
        with pytest.raises(CheckpointError, match=EMBEDDED):
            locate(name)


def test_a_file_is_not_a_checkpoint(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no such model; give a folder that `enroll --out`"):
        locate(tmp_path / "model.safetensors")


def test_a_hub_id_out_of_reach_says_what_to_do(monkeypatch, tmp_path):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError,
        match=r"owner/name: there is no .* download .* \(\w+Error: .*HF_HUB_OFFLINE.*\); check .*download it",
    ):
        locate("owner/name")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("models/line7", "models/line7: the folder models does not contain line7; give a folder"),
        ("~/line7", "~/line7: no such folder; give a folder"),
        ("~nobody-of-this-name", "~nobody-of-this-name: no such folder; give a folder"),
    ],
)
def test_a_folder_that_was_mistyped_is_not_asked_of_a_hub(tmp_path, monkeypatch, name, says):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(CheckpointError, match=re.escape(says)):
        locate(name)


def in_hub_cache(checkpoint: Path, cache: Path) -> Path:
    """Store a checkpoint as the hub client does: content by digest, and a snapshot of links to it."""
    home, revision = cache / "models--owner--name", "0" * 40
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    (home / "blobs").mkdir()
    for file in [file for file in checkpoint.rglob("*") if file.is_file()]:
        blob = home / "blobs" / digest(file)
        shutil.copy(file, blob)
        link = home / "snapshots" / revision / file.relative_to(checkpoint)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return home / "snapshots" / revision


def test_a_checkpoint_in_the_hub_s_cache_loads_though_it_consists_of_links(small, tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    snapshot = in_hub_cache(small, tmp_path / "cache")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = locate("owner/name")
    assert folder == snapshot
    assert verify(folder) == verify(small)


@pytest.mark.parametrize("name", ["config.json", MANIFEST])
def test_a_link_out_of_the_hub_s_cache_is_refused(small, tmp_path, name):
    snapshot = in_hub_cache(small, tmp_path / "cache")
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(small / name)
    with pytest.raises(CheckpointError, match=f"{re.escape(name)}: a link"):
        verify(snapshot)


def test_a_cache_may_be_behind_a_link_but_not_its_contents_alone(small, tmp_path):
    snapshot = in_hub_cache(small, tmp_path / "disk")
    (tmp_path / "cache").symlink_to(tmp_path / "disk")
    assert verify(tmp_path / "cache" / snapshot.relative_to(tmp_path / "disk")) == verify(small)
    blobs = snapshot.parent.with_name("blobs")
    blobs.symlink_to(blobs.rename(tmp_path / "elsewhere"))
    with pytest.raises(CheckpointError, match=r"manifest\.json: a link"):
        verify(snapshot)


def test_an_error_while_writing_leaves_the_old_checkpoint_as_it_was(small):
    before = files_in(small)

    def fail() -> None:
        with Writer(small) as draft:
            (draft / "config.json").write_text("{}")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert files_in(small) == before
    assert [path.name for path in small.parent.iterdir()] == ["small"]


@pytest.fixture
def no_exchange(monkeypatch):
    """A file system on which two folders cannot trade places in one step."""
    monkeypatch.setattr(whole, "_exchange", lambda *_: False)


@pytest.mark.usefixtures("no_exchange")
def test_an_error_while_moving_into_place_leaves_the_old_checkpoint_and_no_draft(small):
    before, drafts = files_in(small), []

    def fail() -> None:
        with Writer(small) as draft:
            drafts.append(draft)
            draft.with_name(draft.name + ".old").write_text("in the way")

    with pytest.raises(OSError, match=r"\.old"):
        fail()
    assert not drafts[0].exists()
    assert files_in(small) == before


@pytest.mark.usefixtures("no_exchange")
def test_a_draft_that_cannot_take_the_place_leaves_the_old_checkpoint_there(small, monkeypatch):
    before, drafts, rename = files_in(small), [], Path.rename

    def held(self, target):
        if self in drafts:
            raise PermissionError(13, "a scanner holds the folder")
        return rename(self, target)

    def fail() -> None:
        with Writer(small) as draft:
            drafts.append(draft)

    monkeypatch.setattr(Path, "rename", held)
    with pytest.raises(PermissionError, match="scanner"):
        fail()
    assert files_in(small) == before
    assert set(small.parent.iterdir()) == {small, *drafts}, "what was to take the place is kept"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_checkpoint_is_replaced_whole(small, exchange, request):
    if not exchange:
        request.getfixturevalue("no_exchange")
    old = verify(small)
    with Writer(small) as draft:
        write_json(draft / "config.json", {"name": "other"})
        assert verify(small) == old, "the old one is there until the new one is complete"
    assert set(files_in(small)) == {"config.json", MANIFEST}
    verify(small)
    assert [path.name for path in small.parent.iterdir()] == ["small"]


@pytest.mark.parametrize(("mask", "folders", "files"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_who_may_read_a_checkpoint_is_decided_by_the_umask(tmp_path, umask, mask, folders, files):
    umask(mask)
    with Writer(tmp_path / "model") as draft:
        save_file({"a": torch.arange(3.0)}, draft / "encoder.safetensors")
        (draft / "prior").mkdir()
        write_json(draft / "prior" / "config.json", {})
    model = tmp_path / "model"
    modes = {path: path.stat().st_mode & 0o777 for path in (model, *model.rglob("*"))}
    assert modes == {path: folders if path.is_dir() else files for path in modes}


def test_an_empty_folder_is_written_into(tmp_path):
    (tmp_path / "empty").mkdir()
    with Writer(tmp_path / "empty") as draft:
        write_json(draft / "config.json", {})
    verify(tmp_path / "empty")


@pytest.mark.parametrize("named", [".", "../empty", "absolute"])
def test_the_current_folder_is_refused_before_any_work(tmp_path, monkeypatch, named):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    folder = tmp_path / "empty" if named == "absolute" else Path(named)
    for write in (expect_free, Writer):
        with pytest.raises(CheckpointError, match=r"the current folder, which cannot be replaced.*choose a new folder"):
            write(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]
    with Writer(Path("model")) as draft:
        write_json(draft / "config.json", {})
    verify(tmp_path / "empty" / "model")


def test_the_root_of_a_volume_is_refused_before_any_work():
    with pytest.raises(CheckpointError, match="the root of a disk or volume"):
        expect_free(Path("/"))


@pytest.mark.parametrize("there", [True, False])
def test_through_a_link_the_linked_folder_is_written(small, tmp_path, there):
    target = small if there else tmp_path / "new" / "model"
    (tmp_path / "link").symlink_to(target, target_is_directory=True)
    with Writer(tmp_path / "link") as draft:
        write_json(draft / "config.json", {"name": "other"})
    assert (tmp_path / "link").is_symlink()
    assert set(files_in(target)) == {"config.json", MANIFEST}
    verify(target)


def test_a_link_that_leads_in_circles_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(CheckpointError, match="leads back to itself"):
        expect_free(tmp_path / "link")


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="something that is not a checkpoint; choose an empty or new folder"):
        Writer(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter-1.tex").read_text() == "years of work"
    with pytest.raises(CheckpointError, match="holds something that is not a checkpoint"):
        Writer(tmp_path / "thesis" / "chapter-1.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


@pytest.mark.parametrize(
    "manifest", ['{"name": "my web app"}', '{"format": "fusion-diff/checkpoint/1"}', "not JSON", None]
)
def test_a_folder_with_some_other_manifest_is_not_replaced(tmp_path, manifest):
    app = tmp_path / "app"
    app.mkdir()
    if manifest is None:
        (app / MANIFEST).symlink_to("nothing")
    else:
        (app / MANIFEST).write_text(manifest)
    (app / "index.html").write_text("work")
    for write in (expect_free, Writer):
        with pytest.raises(CheckpointError, match="app: holds something that is not a checkpoint; choose an empty"):
            write(app)
    assert {path.name for path in app.iterdir()} == {MANIFEST, "index.html"}
    assert [path.name for path in tmp_path.iterdir()] == ["app"]


def test_files_that_were_put_into_a_checkpoint_are_named_and_not_lost(small):
    (small / "photos").mkdir()
    (small / "photos" / "a.tif").write_bytes(b"irreplaceable")
    (small / "link").symlink_to(small.parent)
    before = files_in(small)
    for write in (expect_free, Writer):
        with pytest.raises(
            CheckpointError,
            match=r"small: holds 2 files that are not part of the checkpoint there and would be lost "
            r"\(link, photos/a\.tif\); move them elsewhere, or choose another folder",
        ):
            write(small)
    assert files_in(small) == before
    assert [path.name for path in small.parent.iterdir()] == ["small"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_file_that_comes_while_a_checkpoint_is_written_is_not_lost(small, exchange, request):
    if not exchange:
        request.getfixturevalue("no_exchange")

    def add() -> None:
        with Writer(small) as draft:
            write_json(draft / "config.json", {"name": "other"})
            (small / "notes.txt").write_text("mine")

    before = files_in(small)
    with pytest.raises(CheckpointError, match=r"holds 1 file that is not part of .* \(notes\.txt\)"):
        add()
    assert files_in(small) == before | {"notes.txt": b"mine"}
    assert [path.name for path in small.parent.iterdir()] == ["small"]


@pytest.mark.parametrize("exchange", [True, False])
def test_nor_is_one_that_comes_while_the_files_are_flushed(small, exchange, request, monkeypatch):
    if not exchange:
        request.getfixturevalue("no_exchange")
    before, flush = files_in(small), whole._flush

    def slow(file):
        (small / "notes.txt").write_text("mine")
        flush(file)

    def write() -> None:
        with Writer(small) as draft:
            write_json(draft / "config.json", {"name": "other"})

    monkeypatch.setattr(whole, "_flush", slow)
    with pytest.raises(CheckpointError, match=r"holds 1 file that is not part of .* \(notes\.txt\)"):
        write()
    assert files_in(small) == before | {"notes.txt": b"mine"}
    assert [path.name for path in small.parent.iterdir()] == ["small"]


def test_an_incomplete_checkpoint_is_replaced(small):
    (small / "encoder.safetensors").unlink()
    (small / "config.json").write_text("edited")
    with Writer(small) as draft:
        write_json(draft / "config.json", {})
    verify(small)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": None},
        {"encoder": {"global_config": {}, "condition_width": "wide"}},
        {"prior": None, "encoder": "x"},
        {"name": ...},
        {"encoder": ...},
        {"prior": ...},
    ],
)
def test_a_configuration_that_makes_no_sense_is_a_checkpoint_error(real, change):
    card = read_json(real / "config.json") | change
    write_json(real / "config.json", {key: value for key, value in card.items() if value is not ...})
    seal(real)
    with pytest.raises(CheckpointError, match="real"):
        DiffusionModel.from_pretrained(real)


@pytest.mark.parametrize(
    "shape",
    [{"hidden_size": 96}, {"num_hidden_layers": 3}, {"patch_size": 0}, {"num_attention_heads": 0}, {"hidden_size": -8}],
)
def test_weights_of_another_shape_than_the_configuration_are_refused(real, shape):
    card = read_json(real / "config.json")
    card["encoder"]["global_config"] |= shape
    write_json(real / "config.json", card)
    seal(real)
    with pytest.raises(CheckpointError, match="do not match"):
        DiffusionModel.from_pretrained(real)


HUGE = 2**40


@pytest.mark.parametrize(
    "shape",
    [
        *({name: HUGE} for name in ("hidden_size", "num_hidden_layers", "intermediate_size", "image_size")),
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 8, "num_attention_heads": 8},
        {"image_size": 1024, "patch_size": 1},
        {"num_attention_heads": 5},
        {"layer_norm_eps": "small"},
        {"hidden_size": True},
        {"hidden_size": "9" * 1_000_000},
    ],
)
def test_a_configuration_that_asks_for_a_gigantic_network_is_refused_before_it_is_made(real, shape):
    card = read_json(real / "config.json")
    card["encoder"]["global_config"] |= shape
    write_json(real / "config.json", card)
    seal(real)
    with pytest.raises(CheckpointError, match=r"must be a whole number|cannot be shared|not between 0 and 1") as caught:
        DiffusionModel.from_pretrained(real)
    assert "real" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["condition_width", "condition_tokens", "bottleneck"])
@pytest.mark.parametrize("value", [HUGE, 0, -1, 1.5, None])
def test_conditions_and_adapters_of_no_possible_size_are_refused(real, name, value):
    card = read_json(real / "config.json")
    card["encoder"][name] = value
    write_json(real / "config.json", card)
    seal(real)
    with pytest.raises(CheckpointError, match=f"{name} is .*, but must be a whole number from 1 to"):
        DiffusionModel.from_pretrained(real)


def test_a_missing_encoder_is_named(real):
    (real / "encoder.safetensors").unlink()
    seal(real)
    with pytest.raises(CheckpointError, match=r"encoder\.safetensors"):
        DiffusionModel.from_pretrained(real)


def test_integers_without_their_scale_are_refused(real):
    tensors = load_file(real / "encoder.safetensors")
    lost = next(name for name in tensors if name.endswith(".scale"))
    del tensors[lost]
    save_file(tensors, real / "encoder.safetensors")
    seal(real)
    with pytest.raises(CheckpointError, match=lost):
        DiffusionModel.from_pretrained(real)


def spoil_card(folder):
    (folder / "README.md").write_bytes(b"\xff\xfe nothing")


def spoil_prior(folder):
    write_json(folder / "config.json", read_json(folder / "config.json") | {"prior": "x" * 300})


@pytest.mark.parametrize("spoil", [spoil_card, spoil_prior])
def test_a_card_or_prior_that_cannot_be_read_is_told_as_any_other_damage(real, spoil):
    spoil(real)
    seal(real)
    with pytest.raises(CheckpointError, match="do not match"):
        DiffusionModel.from_pretrained(real)


@pytest.mark.parametrize("slope", [0.0, -1.0])
def test_what_was_learned_is_not_loaded_upside_down(real, slope):
    described = read_json(real / "enrolment.json")
    described["verifier"]["calibration"]["slope"] = slope
    write_json(real / "enrolment.json", described)
    seal(real)
    with pytest.raises(CheckpointError, match="the wrong sign"):
        DiffusionModel.from_pretrained(real)


def test_a_folder_without_a_manifest_is_told_to_be_no_model(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no manifest\.json, so it is no model, or only part of one; give a folder"
    ):
        verify(tmp_path)
