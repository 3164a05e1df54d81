"""A measured PSF with its voxel size, and its widths."""

import math

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.optics.measured import prepare_psf
from napari_deblur.optics.measured_image import core_centre_px, measured_psf
from napari_deblur.optics.widths import fwhm_px, fwhm_um, profiles

FWHM_OF_SIGMA = 2 * math.sqrt(2 * math.log(2))


def gaussian(shape, centre, sigmas):
    grids = np.indices(shape)
    squares = sum(((g - c) / s) ** 2 for g, c, s in zip(grids, centre, sigmas, strict=True))
    return np.exp(-squares / 2)


@pytest.mark.parametrize("sigmas", [(1.2, 2.0), (3.0, 1.5, 1.2)])
def test_width_of_a_gaussian(sigmas):
    shape = (33,) * len(sigmas)
    found = fwhm_px(gaussian(shape, (16,) * len(sigmas), sigmas))
    np.testing.assert_allclose(found, FWHM_OF_SIGMA * np.array(sigmas), rtol=0.03)


def test_width_between_samples_and_in_um():
    kernel = gaussian((41, 41), (20.4, 19.7), (2.5, 4.0))
    np.testing.assert_allclose(fwhm_um(kernel, (0.1, 0.2)), FWHM_OF_SIGMA * np.array([0.25, 0.8]), rtol=0.02)


def test_a_psf_that_does_not_fall_to_half_has_no_width():
    assert fwhm_px(np.ones((5, 5))) == (math.inf, math.inf)


def test_profiles_go_through_the_brightest_voxel():
    lines = profiles(gaussian((9, 11, 13), (4, 5, 6), (1, 2, 3)))
    assert [len(line) for line in lines] == [9, 11, 13]
    assert [int(line.argmax()) for line in lines] == [4, 5, 6]


def test_bead_is_resampled_centred_cropped_and_freed_of_its_background():
    rng = np.random.default_rng(0)
    data = 1000 * gaussian((41, 61, 61), (18.4, 33.3, 28.9), (4.0, 3.0, 3.0)) + 100
    bead = Image(rng.poisson(data).astype(np.float32), "zyx", (0.05, 0.05), 0.1)
    run = Run()
    kernel, found = measured_psf(bead, (0.2, 0.1, 0.1), image_shape=(40, 64, 64), run=run)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(core_centre_px(kernel.astype(float)), np.array(kernel.shape) // 2, atol=0.15)
    expected = FWHM_OF_SIGMA * np.array([0.4, 0.15, 0.15])
    np.testing.assert_allclose(found["fwhm_um"], expected, rtol=0.1)
    assert kernel.shape[1] < 31
    assert found["background_removed"] == pytest.approx(100, abs=2)
    for word in ("background", "centred", "resampled", "support"):
        assert any(word in note for note in run.notes), word


def test_a_kernel_that_is_as_it_should_be_stays_as_it_is():
    kernel = gaussian((15, 17), (7, 8), (1.5, 2.0)).astype(np.float32)
    kernel /= kernel.sum()
    run = Run()
    ready, found = measured_psf(Image(kernel, "yx", (0.1, 0.1)), (0.1, 0.1), run=run)
    np.testing.assert_allclose(ready, prepare_psf(kernel), atol=2e-3 * kernel.max())
    assert not any("centred" in note or "resampled" in note for note in run.notes)
    assert found["shape"] == list(ready.shape)


def test_unknown_voxel_sizes_are_taken_to_be_the_same_and_said():
    run = Run()
    ready, _ = measured_psf(Image(gaussian((9, 9), (4, 4), (1, 1)).astype(np.float32)), (0.1, 0.1), run=run)
    assert ready.shape == (9, 9)
    assert any("not known" in note for note in run.notes)


@pytest.mark.parametrize("step", [0.001, 10.0])
def test_absurd_voxel_ratios_are_refused(step):
    bead = Image(gaussian((9, 15, 15), (4, 7, 7), (1, 1, 1)).astype(np.float32), "zyx", (0.1, 0.1), step)
    with pytest.raises(InvalidInputError, match="psf must have voxels between"):
        measured_psf(bead, (0.1, 0.1, 0.1))


@pytest.mark.parametrize("data", [np.zeros((9, 9)), np.full((9, 9), np.nan), np.zeros((2, 3, 9, 9))])
def test_bad_measurements_are_named(data):
    with pytest.raises(InvalidInputError, match="bead must"):
        measured_psf(Image(data.astype(np.float32)), None, argument="bead")
