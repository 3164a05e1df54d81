from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.optics.beads import Beads, fwhm_px
from napari_deblur.optics.measured import centroid_px, fourier_shift, prepare_psf

SPOTS = [
    (40.3, 50.7),
    (45.0, 120.2),
    (110.6, 60.1),
    (120.4, 130.9),
    (180.2, 90.5),
    (200.8, 190.3),
    (60.5, 200.0),
]


def bent_kernel(size=25):
    """Asymmetric, so that orientation and centring can be told apart."""
    y, x = np.mgrid[:size, :size] - size // 2
    kernel = np.exp(-(y**2 / 8 + x**2 / 4.5)) + 0.3 * np.exp(-((y - 3) ** 2 + (x - 2) ** 2) / 6)
    return kernel / kernel.sum()


def scene(kernel, spots=SPOTS, peaks=1000.0, background=100.0, shape=(240, 250), seed=0):
    image = np.full(shape, background)
    half = kernel.shape[0] // 2 + 1
    scaled = np.pad(kernel / kernel.max(), 1)
    for (y, x), peak in zip(spots, np.broadcast_to(peaks, len(spots)), strict=True):
        row, col = round(y), round(x)
        moved = fourier_shift(scaled, (y - row, x - col)) * peak
        image[row - half : row + half + 1, col - half : col + half + 1] += moved
    return np.random.default_rng(seed).poisson(np.maximum(image, 0)).astype(np.float32)


def error(measured, kernel):
    """Relative difference after taking out the arbitrary choice of an asymmetric kernel's centre."""
    shift = tuple(centroid_px(kernel) - centroid_px(measured))
    return np.linalg.norm(fourier_shift(measured.astype(float), shift) - kernel) / np.linalg.norm(kernel)


def test_the_kernel_comes_back_in_the_right_orientation():
    kernel = bent_kernel()
    found = Beads(size_px=25).measure(scene(kernel))
    assert found.psf.shape == (25, 25)
    assert found.psf.dtype == np.float32
    assert found.psf.sum() == pytest.approx(1, abs=1e-5)
    assert found.psf.min() >= 0
    assert error(found.psf, kernel) < 0.05
    assert error(found.psf[::-1, ::-1], kernel) > 0.2
    assert found.used.all()
    np.testing.assert_allclose(prepare_psf(found.psf), found.psf, rtol=1e-5)


def test_positions_are_found_to_a_tenth_of_a_pixel():
    y, x = np.mgrid[:25, :25] - 12
    kernel = np.exp(-(y**2 + x**2) / 8.0)
    found = Beads().measure(scene(kernel))
    distance = np.linalg.norm(found.positions_px[:, None] - np.array(SPOTS)[None], axis=-1).min(axis=0)
    assert distance.max() < 0.1
    np.testing.assert_allclose(found.fwhm_px, 4.71, rtol=0.03)
    middle = found.psf.shape[0] // 2
    assert np.unravel_index(found.psf.argmax(), found.psf.shape) == (middle, middle)
    np.testing.assert_allclose(centroid_px(found.psf), middle, atol=0.05)


def test_bad_beads_are_skipped_for_the_right_reason():
    kernel = bent_kernel()
    spots = [*SPOTS, (120.0, 215.0), (127.0, 222.0), (22.0, 160.0), (200.0, 130.0), (205.0, 40.0)]
    peaks = [1000.0] * 7 + [900.0, 900.0, 900.0, 9000.0, 70.0]
    image = scene(kernel, spots, peaks)
    image = np.minimum(image, 4095)
    image[10:14, 60:63] += 2000
    image[160:166, 20:60] += 800
    found = Beads(size_px=25, min_snr=40).measure(image)

    def fate(y, x):
        return found.reasons[int(np.linalg.norm(found.positions_px - (y, x), axis=1).argmin())]

    assert fate(120, 215) == fate(127, 222) == "too close to another"
    assert fate(12, 61) == "too close to the border"
    assert fate(200, 130) == "saturated"
    assert fate(205, 40) == "too dim"
    assert fate(163, 40) in ("unlike the others", "too close to another")
    assert all(fate(*spot) == "" for spot in SPOTS)
    assert error(found.psf, kernel) < 0.06
    assert found.used.sum() == len(SPOTS) + 1
    assert len(found.reasons) == len(found.positions_px) == len(found.used)


def test_a_given_saturation_value_counts():
    kernel = bent_kernel()
    image = scene(kernel, peaks=[1000.0] * 6 + [3000.0])
    found = Beads(size_px=25, saturation=2000).measure(image)
    assert found.reasons.count("saturated") == 1


def test_noise_in_the_tails_does_not_become_a_pedestal():
    y, x = np.mgrid[:31, :31] - 15
    kernel = np.exp(-(y**2 + x**2) / 8.0)
    kernel /= kernel.sum()
    found = Beads(size_px=31).measure(scene(kernel, peaks=150.0))
    far = np.hypot(y, x) > 9
    assert found.psf[far].sum() < 0.03
    assert error(found.psf, kernel) < 0.12


def test_ring_shaped_beads_work_when_their_width_is_given():
    y, x = np.mgrid[:31, :31] - 15
    ring = np.exp(-((np.hypot(y, x) - 6) ** 2) / 4)
    ring /= ring.sum()
    found = Beads(size_px=31, bead_fwhm_px=14).measure(scene(ring, peaks=600.0))
    assert error(found.psf, ring) < 0.1


def test_of_a_stack_the_sharpest_plane_is_measured():
    y, x = np.mgrid[:41, :41] - 20
    planes = [scene(np.exp(-(y**2 + x**2) / (2 * sigma**2)), peaks=4000 / sigma**2) for sigma in (4, 2, 5)]
    run = Run()
    found = Beads().measure(Image(np.stack(planes)), run)
    assert found.plane == 1
    np.testing.assert_allclose(found.fwhm_px, 4.71, rtol=0.05)
    assert any("plane 2 of 3" in note for note in run.notes)


def test_one_bead_is_enough_and_said_so():
    run = Run()
    found = Beads(size_px=25).measure(scene(bent_kernel(), SPOTS[:1]), run)
    assert found.used.sum() == 1
    assert any("Only 1 bead" in note for note in run.notes)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (
            np.random.default_rng(0).normal(100, 5, (128, 128)),
            "nothing that looks like a bead|too dim|unlike",
        ),
        (scene(bent_kernel(), [(30.0, 30.0), (36.0, 36.0)]), "too close to another"),
        (np.ones((64, 64)), "constant"),
        (np.full((64, 64), np.nan), "finite"),
        (np.ones(64), "axes"),
    ],
)
def test_images_without_a_good_bead_are_refused(image, said):
    with pytest.raises(InvalidInputError, match=said) as caught:
        Beads(size_px=15).measure(image)
    assert caught.value.argument == "image"


@pytest.mark.parametrize("size", [24, 301])
def test_bad_kernel_sizes_are_refused(size):
    with pytest.raises(InvalidInputError, match="size_px"):
        Beads(size_px=size).measure(scene(bent_kernel()))


def test_cancel_is_heard():
    run = Run()
    run.cancel()
    with pytest.raises(CancelledError):
        Beads().measure(scene(bent_kernel()), run)


def test_width_of_a_known_profile():
    y, x = np.mgrid[:61, :61] - 30
    kernel = np.exp(-(y**2 / (2 * 4.0**2) + x**2 / (2 * 2.0**2)))
    np.testing.assert_allclose(fwhm_px(kernel), (2.3548 * 4, 2.3548 * 2), rtol=0.01)
    assert fwhm_px(np.ones((5, 7)))[1] == 7
