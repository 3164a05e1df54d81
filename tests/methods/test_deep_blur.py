import numpy as np
import pytest
import torch
from skimage import data
from tests.methods.conftest import tiny_deblurring_network

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.errors import UnknownNameError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.deep_blur import DEBLURRING, DeepBlur
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, find_model
from napari_deblur.optics.psf import make_psf
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.deblur import Deblur

SIZE = 96
KERNEL = make_psf("gaussian-1", [1.5], size_px=11)
SHARP = data.camera()[100 : 110 + SIZE, 200 : 210 + SIZE].astype(np.float32) / 255
TRAINED_FOR = {
    "photons": [30.0, 2e4],
    "read_noise_share": [0.001, 0.15],
    "half_energy_radius_px": [1.0, 6.0],
}


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))
    return tiny_deblurring_network(tmp_path, **TRAINED_FOR)


@pytest.fixture(scope="module")
def clean():
    return Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE)).forward(torch.from_numpy(SHARP)).numpy()


def noisy(image, sigma, seed=0):
    return (image + sigma * np.random.default_rng(seed).standard_normal(image.shape)).astype(np.float32)


def run(image, engine, psf=KERNEL, **parameters):
    return Deblur(method=DeepBlur(**parameters)).run(Image(image, name="cells"), psf, engine=engine)


def test_results_are_marked_as_learned(tiny, clean, engine):
    result = run(noisy(clean, 0.01), engine)
    assert result.record.learned
    assert result.image.name == "cells · Deep-Blur (learned)"
    assert result.record.weights == {DEBLURRING: find_model(DEBLURRING).sha256}
    assert not result.record.notes


def test_without_weights_it_says_so_before_anything_is_computed(tmp_path, monkeypatch, clean, engine):
    monkeypatch.setattr("napari_deblur.nets.weights.folders", lambda: [tmp_path])
    steps = []
    with pytest.raises(UnknownNameError, match=DEBLURRING):
        Deblur(method=DeepBlur()).run(Image(clean), None, engine=engine, run=Run(on_progress=steps.append))
    assert not steps


def test_the_network_is_loaded_once_and_anew_where_the_weights_changed(tiny, tmp_path, monkeypatch):
    device = torch.device("cpu")
    first, _ = DeepBlur()._network(device)
    assert DeepBlur()._network(device)[0] is first
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(other))
    tiny_deblurring_network(other, seed=1)
    second, card = DeepBlur()._network(device)
    assert second is not first
    assert card["trained_for"] == {}


def test_noise_level_and_contrast_are_measured(tiny, clean):
    y = torch.from_numpy(noisy(clean, 0.05))
    blur = Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE))
    settled = DeepBlur().settle(y, blur, Run())
    variance = settled.photon_gain * settled.mean_level + settled.read_noise**2
    assert variance == pytest.approx(0.05**2, rel=0.3)
    assert settled.mean_level == pytest.approx(float(clean.mean()), rel=0.02)
    assert settled.contrast == pytest.approx(float(clean.std()), rel=0.05)
    given = DeepBlur(read_noise=0.2, photon_gain=0.0, mean_level=0.1, contrast=0.3)
    assert given.settle(y, blur, Run()) == given


def test_what_is_given_in_grey_values_keeps_its_meaning(tiny, clean, engine):
    y = noisy(clean, 0.05)
    given = {"read_noise": 0.05, "photon_gain": 0.001, "mean_level": 0.4, "contrast": 0.25}
    plain = run(y, engine, **given).image.data
    scaled = run(300 * y, engine, **{name: 300 * value for name, value in given.items()}).image.data
    np.testing.assert_allclose(scaled, 300 * plain, rtol=1e-3, atol=0.3)


def test_more_noise_is_told_by_the_factor(tiny, clean, engine):
    y = noisy(clean, 0.05)
    sharp, plain, smooth = (run(y, engine, noise_factor=factor).image.data for factor in (0.3, 1.0, 5.0))
    rough = [float(np.abs(np.diff(image)).mean()) for image in (sharp, plain, smooth)]
    assert rough[0] > 1.05 * rough[1] > 1.05**2 * rough[2]


def test_half_precision_does_not_move_the_answer(tiny, clean, engine):
    y = noisy(clean, 0.03)
    half, full = (run(y, engine, precision=one).image.data for one in ("automatic", "float32"))
    assert np.abs(half - full).max() < 5e-3 * np.ptp(full)


def test_tiles_differ_little_from_the_whole(tiny, engine):
    y = noisy(data.camera()[:400, :400].astype(np.float32) / 255, 0.02)
    whole = run(y, engine, precision="float32")
    step = Deblur(method=DeepBlur(precision="float32"), tile_px=200)
    tiled = step.run(Image(y), KERNEL, engine=engine)
    assert np.abs(whole.image.data - tiled.image.data).max() < 0.01 * np.ptp(whole.image.data)
    assert any("in tiles" in note for note in tiled.record.notes)


@pytest.mark.parametrize(
    ("sigma", "width", "words"),
    [(0.6, 1.5, "trained on up to 24%"), (0.01, 6.0, "trained on up to 6.0"), (0.01, 4.0, None)],
)
def test_what_the_network_was_not_trained_for_is_said(tiny, clean, engine, sigma, width, words):
    psf = make_psf("gaussian-1", [width], size_px=41)
    notes = run(noisy(clean, sigma), engine, psf).record.notes
    assert [words in note for note in notes] == ([True] if words else [])


def test_a_psf_map_restores_and_an_uncertain_one_warns(tiny, clean, engine):
    centers = np.stack(np.meshgrid([20.0, 76.0], [20.0, 76.0], indexing="ij"), axis=-1)
    widths = np.array([[1.2, 1.4], [1.6, 1.8]], np.float32)[..., None]
    y = noisy(clean, 0.01)
    for confidence, warns in ((0.9, False), (0.2, True)):
        psf_map = PsfMap.from_parameters(
            "gaussian-1",
            widths,
            centers_px=centers,
            image_shape=(SIZE, SIZE),
            confidence=np.full((2, 2), confidence),
        )
        result = run(y, engine, psf_map)
        assert result.record.facts["eigen_psfs"] > 1
        assert any("The PSF is uncertain" in note for note in result.record.notes) == warns


def test_every_plane_of_a_stack_is_measured_by_itself(tiny, clean, engine):
    stack = np.stack([noisy(clean, 0.1), 5 * noisy(clean, 0.01, 1)])
    found = run(stack, engine).image.data
    np.testing.assert_allclose(found[1], run(stack[1], engine).image.data, rtol=1e-3, atol=1e-2)


def test_an_enlarged_image_is_restored_without_its_grain(tiny, engine):
    from scipy.ndimage import zoom

    small = data.camera()[60:188, 180:308].astype(np.float32) / 255
    grain = 0.1 * np.random.default_rng(0).standard_normal(small.shape)
    enlarged = zoom(small + grain, 2, order=3).astype(np.float32)
    result = run(enlarged, engine)
    assert any("enlarged" in note for note in result.record.notes)
    assert result.record.facts["noise_share_of_brightest"] > 0.05
    assert not any(
        "enlarged" in note for note in run(noisy(zoom(small, 2, order=3), 0.1), engine).record.notes
    )
