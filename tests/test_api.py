"""The public contract: names, shapes and errors that other code relies on."""

import numpy as np
import pytest

import napari_deblur as nd
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.samples import tilted_cells

MODELS = {"gaussian-1", "gaussian-2", "zernike-1", "zernike-2", "zernike-3"}


@pytest.fixture(scope="module")
def sample():
    return tilted_cells(192)


def test_every_public_name_exists():
    for name in nd.__all__:
        assert getattr(nd, name) is not None
    with pytest.raises(AttributeError):
        _ = nd.nothing
    assert set(nd.__all__) <= set(dir(nd))


def test_methods_say_what_they_can_do():
    found = {method.id: method for method in nd.methods()}
    assert {"wiener", "richardson-lucy", "tv-richardson-lucy"} <= set(found)
    for method in found.values():
        assert method.title
        assert method.reference
        assert method.blind == (method.id == "self-deblur")
        assert method.learned == (method.family == "learned")
        assert not (method.space_varying and method.blind)
        assert method.ndim in ((2,), (2, 3))
    for id_ in ("wiener", "richardson-lucy", "tv-richardson-lucy"):
        assert 3 in found[id_].ndim


def test_models_come_with_cards():
    found = {model.id: model for model in nd.models()}
    assert set(found) >= MODELS
    for model in found.values():
        assert len(model.sha256) == 64
        assert set(model.parameter_ranges) == set(model.parameter_names)
        for low, high in model.parameter_ranges.values():
            assert low < high
        for key in ("data", "held_out", "training", "licence", "sha256"):
            assert key in model.card


@pytest.mark.parametrize("model", sorted(MODELS))
def test_make_psf_gives_an_odd_normalised_kernel(model):
    n = {"1": 1, "2": 2, "3": 3}[model[-1]]
    psf = nd.make_psf(model, [0.5] * n, size_px=31)
    assert psf.shape == (31, 31)
    assert psf.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_psf_map_of_an_array(sample, model):
    psf_map = nd.estimate_psf_map(sample.image.data, model=model, stride_px=64)
    rows, cols = psf_map.grid_shape
    assert (rows, cols) == (2, 2)
    assert psf_map.parameters.shape == (rows, cols, len(psf_map.parameter_names))
    assert psf_map.valid.shape == psf_map.confidence.shape == (rows, cols)
    assert psf_map.centers_px.shape == (rows, cols, 2)
    assert psf_map.kernels().shape[:2] == (rows, cols)
    assert psf_map.psf_at(100, 50).sum() == pytest.approx(1, abs=1e-4)


def test_blind_deblurring_by_model_id_and_by_default(sample):
    by_id = nd.deblur(sample.image.data, "richardson-lucy", "gaussian-2", n_iterations=3)
    by_default = nd.deblur(sample.image.data, "richardson-lucy", n_iterations=3)
    assert by_id.psf.model == by_default.psf.model == "gaussian-2"
    assert by_id.record.weights["gaussian-2"]
    np.testing.assert_array_equal(by_id.image, by_default.image)
    assert by_id.image.shape == sample.image.data.shape
    assert not by_id.partial


def test_background_adds_up(sample):
    result = nd.remove_background(sample.image.data)
    assert isinstance(result.image, np.ndarray)
    total = result.image + result.background + result.clipped
    np.testing.assert_allclose(total, sample.image.data, atol=1e-2)


def test_depth_from_image_is_relative_without_calibration(sample):
    result = nd.estimate_depth(sample.psf_map(32))
    assert not result.calibrated
    assert result.depth_um.shape == result.confidence.shape == sample.image.data.shape
    with pytest.raises(InvalidInputError):
        nd.estimate_depth(np.stack([sample.image.data] * 2))


def test_depth_of_a_stack_is_refused_before_anything_is_estimated(sample, monkeypatch):
    def never(*args, **more):
        raise AssertionError("estimated")

    monkeypatch.setattr("napari_deblur.api.estimate_psf_map", never)
    with pytest.raises(InvalidInputError, match=r"image_or_psf_map must be one plane .*shape \(2, "):
        nd.estimate_depth(np.stack([sample.image.data] * 2))


def test_unknown_model_is_named(sample):
    with pytest.raises(InvalidInputError, match="model"):
        nd.estimate_psf_map(sample.image.data, model="gaussian-9")
    with pytest.raises(InvalidInputError, match="stride_px"):
        nd.estimate_psf_map(sample.image.data, stride_px=0)


def test_methods_stays_a_function_and_a_package():
    from napari_deblur.methods import base

    assert [method.id for method in nd.methods()] == list(base.registry())
