"""Loading models that must be signed."""

from __future__ import annotations

import copy
import gc
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fusion_diff.checkpoint import read_json, seal, verify, write_json
from fusion_diff.errors import CheckpointError, TrustError
from fusion_diff.micrograph import Micrograph
from fusion_diff.model import DiffusionModel
from fusion_diff.trust.keys import new_key
from fusion_diff.trust.provenance import sign


@pytest.fixture
def folder(checkpoint_folder, tmp_path, monkeypatch):
    """A signed checkpoint; private copies are made in `tmp`."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    folder = shutil.copytree(checkpoint_folder, tmp_path / "line-7")
    new_key(tmp_path / "K")
    sign(folder, tmp_path / "K")
    return folder


@pytest.fixture
def key(folder):
    return folder.parent / "K.pub"


def test_a_signed_model_is_loaded_and_is_the_same(folder, key, draw):
    signed = DiffusionModel.from_pretrained(folder, trusted_keys=[key])
    plain = DiffusionModel.from_pretrained(folder)
    assert signed.sha256 == plain.sha256 == verify(folder)
    micrograph = Micrograph.from_array(draw("fine", 7))
    with pytest.warns(UserWarning, match="built-in"):
        scores = [model.inspect(micrograph).score for model in (signed, plain)]
    assert np.ptp(scores) < 1e-6


def test_the_prior_read_later_is_the_signed_one_and_the_copy_goes_with_the_last_copy_of_the_model(
    folder, key, tmp_path
):
    model = DiffusionModel.from_pretrained(str(folder), trusted_keys=str(key))
    weights = "prior/unet/diffusion_pytorch_model.safetensors"
    original = (folder / weights).read_bytes()
    (folder / weights).write_bytes(b"other")
    assert model.reconstruction.prior.stride == 4
    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / weights).read_bytes() == original
    # Beside its own copies: torch, where nothing has used it before, makes a folder there.
    assert len(list((tmp_path / "tmp").glob("fusion-diff-*"))) == 1
    own = copy.deepcopy(model)
    del model
    gc.collect()
    own.save_pretrained(tmp_path / "of the copy")
    assert (tmp_path / "of the copy" / weights).read_bytes() == original
    del own
    gc.collect()
    assert list((tmp_path / "tmp").glob("fusion-diff-*")) == []


@pytest.mark.parametrize("what", ["unsigned", "altered", "added", "missing", "link", "resealed", "another key"])
def test_what_is_not_what_was_signed_is_refused_before_it_is_parsed(folder, key, tmp_path, what):
    sig = folder.with_name("line-7.sig")
    if what == "unsigned":
        sig.unlink()
    elif what == "altered":
        (folder / "config.json").write_bytes(b"not JSON")
    elif what == "added":
        (folder / "new.pkl").write_bytes(b"\x80\x04")
    elif what == "missing":
        (folder / "encoder.safetensors").unlink()
    elif what == "link":
        (folder / "config.json").rename(tmp_path / "config.json")
        (folder / "config.json").symlink_to(tmp_path / "config.json")
    elif what == "resealed":  # the checkpoint's own manifest is valid again
        write_json(folder / "config.json", read_json(folder / "config.json") | {"name": "forged"})
        seal(folder)
        assert verify(folder)
    else:
        new_key(tmp_path / "other")
        sign(folder, tmp_path / "other")
    says = {"link": "a symbolic link", "resealed": "altered", "another key": "signed with another key"}.get(what, what)
    with pytest.raises(TrustError, match=says):
        DiffusionModel.from_pretrained(folder, trusted_keys=[key])
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "keys",
    ["", [], (), [""], pytest.param(iter(()), id="an empty iterator"), [None], 7, b"K.pub", ["K.pub", 7]],
    ids=repr,
)
def test_no_keys_at_all_are_refused_instead_of_trusted(folder, keys):
    with pytest.raises(TrustError, match=r"trusted_keys: .* names no key"):
        DiffusionModel.from_pretrained(folder, trusted_keys=keys)


@pytest.mark.parametrize("prior", ["../elsewhere", "owner/name", "absolute"])
def test_a_prior_outside_of_what_was_signed_is_refused(folder, key, tmp_path, prior):
    shutil.copytree(folder / "prior", tmp_path / "elsewhere")
    prior = str(tmp_path / "elsewhere") if prior == "absolute" else prior
    write_json(folder / "config.json", read_json(folder / "config.json") | {"prior": prior})
    seal(folder)
    sign(folder, tmp_path / "K")
    with pytest.raises(TrustError, match=r"line-7: its prior .* is outside the signed folder"):
        DiffusionModel.from_pretrained(folder, trusted_keys=[key])


def test_a_signed_folder_that_is_no_checkpoint_is_refused_as_before(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text(json.dumps({}))
    new_key(tmp_path / "K")
    sign(tmp_path / "x", tmp_path / "K")
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        DiffusionModel.from_pretrained(tmp_path / "x", trusted_keys=[tmp_path / "K.pub"])


def test_the_signature_beside_a_checkpoint_does_not_disturb_its_own_manifest(folder):
    assert Path(f"{folder}.sig").is_file()
    verify(folder)
