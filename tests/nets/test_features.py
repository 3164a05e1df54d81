import numpy as np
import pytest
import torch

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.run import Run
from napari_deblur.methods.richardson_lucy import RichardsonLucy
from napari_deblur.nets.features import FeatureExtractor, deconvolved
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, find_model, load_network
from napari_deblur.optics.psf import make_psf


@pytest.fixture
def blur():
    return Convolution(torch.from_numpy(make_psf("gaussian-1", [1.5], size_px=9)), (40, 48))


class Twice(torch.nn.Module):
    def forward(self, grey):
        return torch.cat([3 * grey - 1, -grey], dim=1)


def test_features_are_scaled_and_deconvolved(blur):
    torch.manual_seed(0)
    y = blur.forward(torch.rand(blur.object_shape))
    features, image = deconvolved(Twice(), y, blur, 30, Run())
    assert features.shape == (2, *blur.object_shape)
    assert image.shape == blur.object_shape
    scaled = (y - y.min()) / (y.max() - y.min())
    for feature, wanted in zip(features, (scaled, 1 - scaled), strict=True):
        assert (feature >= 0).all()
        assert float((blur.forward(feature) - wanted).norm() / wanted.norm()) < 0.1


def test_the_image_goes_along_as_in_richardson_lucy(blur):
    torch.manual_seed(0)
    y = blur.forward(torch.rand(blur.object_shape))
    _, image = deconvolved(Twice(), y, blur, 200, Run())
    plain = RichardsonLucy(n_iterations=200).solve(y, blur, Run())
    assert float((blur.crop(image - plain)).norm() / blur.crop(plain).norm()) < 0.02


def test_no_iterations_is_no_error(blur):
    features, _ = deconvolved(Twice(), torch.rand(40, 48), blur, 0, Run())
    np.testing.assert_array_equal(features, 0.5)


def test_grey_takes_all_channels():
    network = FeatureExtractor()
    grey = torch.rand(2, 1, 20, 24)
    assert network(grey).shape == (2, 16, 20, 24)


def test_the_shipped_extractor_is_small_and_has_an_honest_card(monkeypatch):
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    network, card = load_network("cider-features")
    assert find_model("cider-features").path.stat().st_size < 1e6
    assert card["n_parameters"] == sum(parameter.numel() for parameter in network.parameters()) == 39_712
    assert card["task"] == "features"
    assert card["parameter_names"] == []
    assert "training-resources" in card["data"]["held_out_for_test"]
    assert not any("training-resources" in group for group in card["data"]["groups"])
    assert not any("levin" in group.lower() for group in card["data"]["groups"])
    for figures in card["held_out"].values():
        assert figures["psnr_features_db"] > figures["psnr_wiener_db"] > figures["psnr_blurred_db"]
