"""Saving, loading and moving a model."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion_diff.checkpoint import EMBEDDED, Writer, read_json, seal, verify, write_json
from fusion_diff.diffusion.prior_source import PriorSource
from fusion_diff.errors import ArgumentError, CheckpointError, DeviceError
from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel


@pytest.fixture(scope="module")
def saved(enrolled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "line-7"
    enrolled.save_pretrained(folder)
    return folder


def test_a_saved_model_gives_the_same_verdicts(enrolled, saved, draw):
    loaded = DiffusionModel.from_pretrained(saved)
    assert loaded.enrolment.references_sha256 == enrolled.enrolment.references_sha256
    assert loaded.enrolment.figures == pytest.approx(enrolled.enrolment.figures, rel=1e-4)
    for kind in ("fine", "coarse"):
        micrograph = Micrograph.from_array(draw(kind, 90, size=(240, 260)))
        ours, theirs = loaded.inspect(micrograph, alpha=0.2), enrolled.inspect(micrograph, alpha=0.2)
        assert ours.score == pytest.approx(theirs.score, abs=1e-5)
        assert (ours.decision, ours.predicted_class) == (theirs.decision, theirs.predicted_class)
        assert ours.p_values == theirs.p_values
        assert ours.in_scope == theirs.in_scope
        np.testing.assert_allclose(ours.evidence.values, theirs.evidence.values, atol=1e-4)


def test_a_saved_model_is_a_checkpoint_with_what_it_was_made_of(enrolled, saved, checkpoint_folder):
    names = {file.relative_to(saved).as_posix() for file in saved.rglob("*") if file.is_file()}
    assert {"enrolment.json", "enrolment.safetensors", "encoder.safetensors", "README.md"} <= names
    for part in ("unet", "vae"):
        file = f"prior/{part}/diffusion_pytorch_model.safetensors"
        assert (saved / file).read_bytes() == (checkpoint_folder / file).read_bytes()
    assert read_json(saved / "config.json") == read_json(checkpoint_folder / "config.json")


def test_a_model_signs_its_verdicts_with_one_digest_saved_and_loaded(narrow, make_references, draw, tmp_path):
    before = narrow.sha256
    narrow.enroll(make_references({"fine": 2, "coarse": 2}))
    assert narrow.sha256 == before
    narrow.save_pretrained(tmp_path / "line-7")
    loaded = DiffusionModel.from_pretrained(tmp_path / "line-7")
    micrograph = Micrograph.from_array(draw("fine", 93))
    ours, theirs = narrow.inspect(micrograph), loaded.inspect(micrograph)
    assert ours.model_sha256 == theirs.model_sha256 == verify(tmp_path / "line-7") != before


def test_a_model_has_the_digest_of_what_it_saved_even_if_another_is_saved_in_its_place_at_once(
    narrow, tmp_path, monkeypatch
):
    other, move = copy.deepcopy(narrow), Writer._move
    other.name = "other"

    def moved_twice(writer):
        move(writer)
        monkeypatch.undo()
        other.save_pretrained(tmp_path / "line-7")

    monkeypatch.setattr(Writer, "_move", moved_twice)
    narrow.save_pretrained(tmp_path / "line-7")
    saved = narrow.sha256
    assert DiffusionModel.from_pretrained(tmp_path / "line-7").sha256 == other.sha256 != saved
    narrow.save_pretrained(tmp_path / "again")
    assert narrow.sha256 == saved


def test_saving_what_was_just_loaded_changes_no_weight(saved, tmp_path):
    DiffusionModel.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "encoder.safetensors").read_bytes() == (saved / "encoder.safetensors").read_bytes()
    assert (tmp_path / "again" / "enrolment.json").read_bytes() == (saved / "enrolment.json").read_bytes()


def test_every_tensor_of_the_encoder_comes_back_as_it_was(enrolled, saved):
    ours, theirs = DiffusionModel.from_pretrained(saved).encoder.state_dict(), enrolled.encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []


def test_a_model_can_be_saved_over_itself(saved, tmp_path, make_references):
    folder = shutil.copytree(saved, tmp_path / "line-7")
    model = DiffusionModel.from_pretrained(folder)
    model.enroll(make_references({"fine": 2, "coarse": 1}))
    model.save_pretrained(folder)
    again = DiffusionModel.from_pretrained(folder)
    assert again.enrolment.counts == {"fine": 2, "coarse": 1}
    assert again.reconstruction.prior.stride == 4


def test_a_model_that_is_not_enrolled_is_saved_without_an_enrolment(model, tmp_path):
    model.save_pretrained(str(tmp_path / "bare"))
    assert not (tmp_path / "bare" / "enrolment.json").exists()
    assert DiffusionModel.from_pretrained(tmp_path / "bare").enrolment is None


def test_a_name_never_changes_by_itself(narrow, make_references, draw, tmp_path):
    base = narrow.name
    narrow.enroll(make_references({"fine": 2, "coarse": 2}))
    narrow.save_pretrained(tmp_path / "line-7")
    assert DiffusionModel.from_pretrained(tmp_path / "line-7").name == narrow.name == base
    narrow.name = "kiln 3"
    narrow.save_pretrained(tmp_path / "line-7")
    loaded = DiffusionModel.from_pretrained(tmp_path / "line-7")
    loaded.enroll(make_references({"fine": 3, "coarse": 2}))
    loaded.save_pretrained(tmp_path / "line-8")
    again = DiffusionModel.from_pretrained(tmp_path / "line-8")
    assert again.name == again.inspect(Micrograph.from_array(draw("fine", 93))).model_name == "kiln 3"
    assert again.readme.startswith("# kiln 3\n")


def test_a_copy_on_disk_or_in_memory_keeps_its_name_and_its_digest(narrow, make_references, tmp_path):
    narrow.enroll(make_references({"fine": 2, "coarse": 2}))
    narrow.name = "kiln 3"
    narrow.save_pretrained(tmp_path / "first")
    loaded = DiffusionModel.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "copy")
    loaded.save_pretrained(tmp_path / "first")
    assert {DiffusionModel.from_pretrained(tmp_path / each).name for each in ("first", "copy")} == {"kiln 3"}
    assert verify(tmp_path / "first") == verify(tmp_path / "copy") == narrow.sha256
    other = copy.copy(narrow)
    other.name = "kiln 4"
    assert narrow.name == "kiln 3"


NO_NAMES = ["", "  ", None, 7, "x" * 256]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_refused(model, name):
    before = model.name
    with pytest.raises(ArgumentError, match="is no name; give a text"):
        model.name = name
    assert model.name == before


def test_a_model_without_a_name_is_refused(checkpoint_folder, tmp_path):
    folder = shutil.copytree(checkpoint_folder, tmp_path / "nameless")
    card = read_json(folder / "config.json")
    del card["name"]
    for named in (card, *(card | {"name": name} for name in NO_NAMES)):
        write_json(folder / "config.json", named)
        seal(folder)
        with pytest.raises(CheckpointError, match=r"nameless: its config\.json has no name of at most 255 .*; add one"):
            DiffusionModel.from_pretrained(folder)


def test_a_place_where_no_folder_can_be_made_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    for place in ("/proc/x", tmp_path / "file" / "line-7"):
        with pytest.raises(CheckpointError, match=rf"{place}: the folder cannot be created \(.*or choose another"):
            model.save_pretrained(place)


def test_a_prior_that_is_gone_is_named_and_nothing_is_left_behind(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "line-7")
    model = DiffusionModel.from_pretrained(folder)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=rf"{folder}/prior: the diffusion prior no longer exists"):
        model.save_pretrained(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["altered", "added", "a pipe", "a linked folder", "removed"])
def test_a_prior_that_changed_since_the_model_was_loaded_is_neither_used_nor_saved(saved, tmp_path, what):
    folder = shutil.copytree(saved, tmp_path / "line-7")
    model, file = DiffusionModel.from_pretrained(folder), folder / "prior" / "unet" / "config.json"
    if what == "altered":
        file.write_text(file.read_text() + " ")
        seal(folder)
    elif what == "added":
        file = file.with_name("more.json")
        file.write_text("{}")
    elif what == "a pipe":
        file = file.with_name("more.json")
        os.mkfifo(file)
    elif what == "a linked folder":
        file = file.with_name("more")
        file.symlink_to(saved)
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=rf"{file}: altered, removed or added since the model was loaded"):
        model.reconstruction  # noqa: B018
    with pytest.raises(CheckpointError, match=rf"{file}: altered, removed or added since the model was loaded"):
        model.save_pretrained(tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["line-7"]


def test_what_file_managers_leave_is_not_copied_along(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    for place in (folder, folder / "prior", folder / "prior" / "unet"):
        (place / ".DS_Store").write_bytes(b"left")
    DiffusionModel.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    DiffusionModel.from_pretrained(tmp_path / "copy")
    assert not any((tmp_path / "copy").rglob(".DS_Store"))


def test_a_prior_of_another_name_in_the_folder_is_saved_with_the_model(checkpoint_folder, tmp_path, monkeypatch):
    folder = shutil.copytree(checkpoint_folder, tmp_path / "model")
    (folder / "parts").mkdir()
    (folder / "prior").rename(folder / "parts" / "diffusion")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"prior": "parts/diffusion"})
    seal(folder)
    monkeypatch.chdir(tmp_path)
    model = DiffusionModel.from_pretrained("model")
    monkeypatch.chdir("/")
    model.save_pretrained(tmp_path / "copy")
    shutil.rmtree(folder)
    assert DiffusionModel.from_pretrained(tmp_path / "copy").reconstruction.prior.stride == 4


def test_a_prior_beside_the_folder_is_still_found_from_where_a_copy_is(checkpoint_folder, tmp_path):
    folder = shutil.copytree(checkpoint_folder, tmp_path / "model")
    (folder / "prior").rename(tmp_path / "shared")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"prior": "../shared"})
    seal(folder)
    DiffusionModel.from_pretrained(folder).save_pretrained(tmp_path / "far" / "copy")
    assert not (tmp_path / "far" / "copy" / "prior").exists()
    assert DiffusionModel.from_pretrained(tmp_path / "far" / "copy").reconstruction.prior.stride == 4


def test_the_home_folder_can_be_written_as_a_tilde(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("~/line-7")
    assert [path.name for path in tmp_path.iterdir()] == ["line-7"]
    assert DiffusionModel.from_pretrained("~/line-7").sha256 == model.sha256


@pytest.mark.parametrize("wrong", [None, 7, "", "x\0", "x" * 5000])
def test_what_is_no_folder_is_refused_as_a_checkpoint_is(model, wrong):
    with pytest.raises(CheckpointError, match=r"not a folder; give the path|cannot be created \(File name too long\)"):
        model.save_pretrained(wrong)
    with pytest.raises(CheckpointError, match=r"give a folder that `enroll --out` or save_pretrained wrote"):
        DiffusionModel.from_pretrained(wrong)


def test_an_exported_model_is_said_to_be_one(exported_folder):
    with pytest.raises(CheckpointError, match=r"an exported model, which fusion_diff\.edge\.EdgeSession\.load loads"):
        DiffusionModel.from_pretrained(exported_folder)


def test_a_model_and_its_enrolment_are_shown_in_a_line(model, enrolled):
    told = repr(enrolled.enrolment)
    assert told.startswith("Enrolment(fine: 5, coarse: 5; authentic='fine', each counted as a specimen, auroc ")
    assert len(told) < 120
    assert repr(enrolled) == f"DiffusionModel({enrolled.name!r}, {told}, on cpu)"
    assert repr(model) == f"DiffusionModel({model.name!r}, no references, on cpu)"


def test_an_altered_enrolment_is_noticed(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "altered")
    text = (folder / "enrolment.json").read_text()
    (folder / "enrolment.json").write_text(text.replace('"label": "coarse"', '"label": "fine"'))
    with pytest.raises(CheckpointError, match=r"enrolment\.json: altered"):
        DiffusionModel.from_pretrained(folder)


def test_an_unknown_name_says_which_names_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=EMBEDDED):
        DiffusionModel.from_pretrained("fusion-diff-v99")


def test_a_prior_in_the_stable_diffusion_layout_can_take_the_place_of_its_own(
    checkpoint_folder, stable_diffusion_folder, tmp_path, make_references, draw
):
    """Only its condition width must equal the encoder's."""
    from diffusers import UNet2DConditionModel

    prior = shutil.copytree(stable_diffusion_folder, tmp_path / "sd")
    torch.manual_seed(0)
    UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=192,
        attention_head_dim=4,
        norm_num_groups=4,
        layers_per_block=1,
    ).save_pretrained(prior / "unet")
    folder = shutil.copytree(checkpoint_folder, tmp_path / "model")
    shutil.rmtree(folder / "prior")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"prior": str(prior)})
    seal(folder)
    model = DiffusionModel.from_pretrained(folder)
    enrolment = model.enroll(make_references({"fine": 2, "coarse": 2}), reconstruction=True)
    assert model.reconstruction.prior.stride == 8
    assert "weight of reconstruction" in enrolment.figures
    assert 0 < model.inspect(Micrograph.from_array(draw("fine", 91))).score < 1
    model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "prior").exists()
    assert DiffusionModel.from_pretrained(tmp_path / "saved").card["prior"] == str(prior)


def test_threads_that_ask_for_the_diffusion_path_at_once_load_it_once(narrow):
    load = type(narrow).reconstruction.func  # from Python 3.12 on, a cached property holds no lock
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(load, [narrow] * 4))) == 1
    assert narrow.reconstruction is load(narrow)


def test_a_prior_that_is_not_there_is_named_when_it_is_needed(narrow_folder, tmp_path, make_references):
    folder = shutil.copytree(narrow_folder, tmp_path / "model")
    shutil.rmtree(folder / "prior")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"prior": str(tmp_path / "moved")})
    seal(folder)
    model = DiffusionModel.from_pretrained(folder)
    model.enroll(make_references({"fine": 2}))
    with pytest.raises(CheckpointError, match="moved: the diffusion prior no longer exists"):
        model.enroll(make_references({"fine": 2}), reconstruction=True)


def test_built_in_references_warn_that_they_are_not_yours(enrolled, draw):
    model = DiffusionModel(
        enrolled.encoder,
        PriorSource(""),
        card=enrolled.card,
        readme="",
        sha256=enrolled.sha256,
        enrolment=replace(enrolled.enrolment.shots(1), builtin=True),
    )
    with pytest.warns(UserWarning, match="built-in procedural references only"):
        model.predict_authenticity(Micrograph.from_array(draw("fine", 0)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", torch.device("cuda")])
def test_without_a_gpu_it_stays_on_the_cpu_and_says_so(model, device):
    with pytest.warns(UserWarning, match="not available here; computing on the CPU"):
        assert model.to(device) is model
    assert model.device.type == "cpu"
    assert {parameter.device.type for parameter in model.encoder.parameters()} == {"cpu"}


@pytest.mark.parametrize("device", ["nonsense", "cuda:-1", "", None, 3.5])
def test_what_is_not_a_device_is_refused(model, device):
    with pytest.raises(DeviceError, match="use cpu, cuda, npu, xpu or mps"):
        model.to(device)


@pytest.mark.parametrize("device", ["npu", "npu:1", "xpu", "mps"])
def test_other_kinds_of_device_that_are_absent_fall_back_to_the_cpu(model, device):
    backend = getattr(torch, device.partition(":")[0], None)
    if backend is not None and backend.is_available():
        pytest.skip(f"there is a {device} here")
    with pytest.warns(UserWarning, match=f"device {device} is not available here; computing on the CPU"):
        assert model.to(device).device.type == "cpu"


def test_moving_to_the_cpu_keeps_the_verdict_and_warns_of_nothing(enrolled, saved, draw):
    micrograph = Micrograph.from_array(draw("coarse", 92))
    model = DiffusionModel.from_pretrained(saved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.to("cpu")
    assert model.inspect(micrograph).score == pytest.approx(enrolled.inspect(micrograph).score, abs=1e-5)


def test_a_disk_that_fills_up_while_weights_are_written_is_an_error_of_the_system(model, tmp_path, room_for):
    with room_for(2**14), pytest.raises(OSError, match="File too large") as caught:
        model.save_pretrained(tmp_path / "m")
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "m"))
    assert list(tmp_path.iterdir()) == []
