"""Our faster Inception against torch-fidelity's own, of the same random weights."""

from pathlib import Path

import pytest
import torch

from bench.features import InceptionV3Compat, fidelity
from bench.features.inception import SIDE, resize_matrix


def theirs(inception_file: Path, images: torch.Tensor, layer: str) -> torch.Tensor:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    made = FeatureExtractorInceptionV3(
        "inception-v3-compat", [layer], feature_extractor_weights_path=str(inception_file)
    )
    with torch.no_grad():
        return made(images)[0]


def pictures(n: int, h: int, w: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n, 3, 6, 6, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear").byte()


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (299, 299), (320, 300)])
def test_features_are_torch_fidelitys_within_a_ten_thousandth_of_their_spread(
    size: tuple[int, int], inception_file: Path
) -> None:
    images = pictures(10, *size)
    found = InceptionV3Compat(str(inception_file)).of_layers(images, ("features", "logits"))
    for ours, layer in (("features", "2048"), ("logits", "logits")):
        want = theirs(inception_file, images, layer)
        assert (found[ours] - want).abs().max() < 1e-4 * want.std(0).mean()


@pytest.mark.parametrize("size", [4, 32, 299, 500])
def test_the_resize_is_tensorflows(size: int) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x as their_resize,
    )

    x = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0)) * 255
    matrix = resize_matrix(size)
    torch.testing.assert_close(matrix.sum(1), torch.ones(SIDE))
    want = their_resize(x, size=(SIDE, SIDE), align_corners=False)
    torch.testing.assert_close(matrix @ x @ matrix.T, want, rtol=1e-5, atol=1e-4)


def test_other_precisions_are_other_extractors(inception_file: Path) -> None:
    plain = InceptionV3Compat(str(inception_file))
    half = InceptionV3Compat(str(inception_file), precision="float16")
    assert plain.name == "inception-v3-compat" and half.name == "inception-v3-compat-float16"
    assert plain.digest == half.digest
    images = pictures(4, 64, 64)
    want, found = plain(images), half(images)
    assert found.dtype == torch.float32 and not torch.equal(found, want)
    assert (found - want).abs().max() < 0.1 * want.std(0).mean()
    with pytest.raises(ValueError, match="unknown precision 'int8'"):
        InceptionV3Compat(str(inception_file), precision="int8")  # type: ignore[arg-type]


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Small(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            sizes.append(len(x))
            if len(x) > self.most:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return (x.float().flatten(1),)

    network = Small(1, 1)
    network.most = 3
    images = pictures(9, 4, 4)
    assert torch.equal(fidelity.through(images, network)[0], images.float().flatten(1))
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    network.most = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        fidelity.through(images, network)
