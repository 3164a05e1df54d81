import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data

from napari_deblur import quality
from napari_deblur.core.errors import InvalidInputError

CAMERA = data.camera().astype(np.float32)


def test_snr_and_psnr_against_closed_forms():
    reference = np.full((20, 20), 2.0)
    assert quality.snr_db(reference * 1.1, reference) == pytest.approx(20, abs=1e-4)
    assert quality.psnr_db(reference + 0.1, reference, data_range=1) == pytest.approx(20, abs=1e-4)
    assert quality.snr_db(reference, reference) == float("inf")


def test_ssim_is_one_for_equal_images_and_falls_with_blur():
    assert quality.ssim(CAMERA, CAMERA) == pytest.approx(1)
    blurred = gaussian_filter(CAMERA, 2)
    assert quality.ssim(blurred, CAMERA) < 0.9
    local = quality.error_map(blurred, CAMERA)
    assert local.shape == CAMERA.shape
    assert local.mean() == pytest.approx((1 - quality.ssim(blurred, CAMERA)) / 2, abs=0.02)


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_frc_of_two_noisy_images_finds_where_signal_meets_noise(sigma):
    """The correlation of (signal + noise) pairs is S / (S + N); at 1/7 the signal's power is a sixth of N."""
    rng = np.random.default_rng(0)
    n = 512
    white = rng.standard_normal((n, n))
    signal = gaussian_filter(white, sigma, mode="wrap")
    noise = 0.02
    a, b = (signal + noise * rng.standard_normal((n, n)) for _ in range(2))
    # power of the filtered noise: exp(-(2π f σ)²); equal to noise²/6 at the crossing
    frequency = np.sqrt(-np.log(noise**2 / 6)) / (2 * np.pi * sigma)
    assert quality.frc_resolution_px(a, b) == pytest.approx(1 / frequency, rel=0.05)


def test_frc_of_one_image_follows_the_blur():
    rng = np.random.default_rng(0)
    resolutions = [
        quality.frc_resolution_px(gaussian_filter(CAMERA, sigma) + rng.normal(0, 2, CAMERA.shape))
        for sigma in (2, 4, 8)
    ]
    assert resolutions == sorted(resolutions)
    assert resolutions[0] >= 4


def test_frc_of_noise_is_infinite():
    noise = np.random.default_rng(0).standard_normal((2, 256, 256))
    assert quality.frc_resolution_px(*noise) == float("inf")


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: quality.snr_db(np.ones((4, 4)), np.ones((5, 5))), "estimate"),
        (lambda: quality.snr_db(np.ones((4, 4)), np.zeros((4, 4))), "reference"),
        (lambda: quality.ssim(np.ones((20, 20)), np.ones((20, 20))), "data_range"),
        (lambda: quality.ssim(np.ones((5, 5)), np.eye(5)), "estimate"),
        (lambda: quality.frc_resolution_px(np.ones((8, 8))), "image"),
        (lambda: quality.psnr_db(np.full((4, 4), np.nan), np.eye(4)), "estimate"),
    ],
)
def test_bad_input_is_named(call, argument):
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.argument == argument


@pytest.mark.parametrize("span", [np.nan, np.inf, 0, -1])
def test_a_range_without_meaning_is_refused(span):
    with pytest.raises(InvalidInputError, match="data_range must be positive"):
        quality.psnr_db(np.ones((32, 32)), np.eye(32), span)
