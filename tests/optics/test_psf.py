from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import j1

from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.optics.psf import (
    DEFAULT_CUTOFF_CYCLES_PER_PX,
    FAMILIES,
    family,
    make_psf,
    optics_psf,
)
from napari_deblur.optics.settings import Optics

MIDDLE = {"gaussian-1": [1.7], "gaussian-2": [1.2, 2.9]}
MIDDLE |= {"zernike-1": [0.3], "zernike-2": [0.25, 0.6], "zernike-3": [0.3, 0.2, 0.6]}


def _offsets(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.indices(kernel.shape)
    return y - kernel.shape[0] // 2, x - kernel.shape[1] // 2


def _second_moments(kernel: np.ndarray) -> tuple[float, float]:
    y, x = _offsets(kernel)
    return float((kernel * y**2).sum()), float((kernel * x**2).sum())


def _airy(radius_px: np.ndarray, cutoff: float) -> np.ndarray:
    v = 2 * np.pi * cutoff * np.maximum(radius_px, 1e-9)
    return (2 * j1(v) / v) ** 2


@pytest.mark.parametrize("model", list(FAMILIES))
def test_kernels_are_odd_centred_normalised_and_float32(model):
    kernel = make_psf(model, MIDDLE[model])
    y, x = _offsets(kernel)
    assert kernel.dtype == np.float32
    assert kernel.shape[0] == kernel.shape[1] == family(model).default_size_px
    assert kernel.shape[0] % 2 == 1
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.min() >= 0
    # Every family here is symmetric about its centre, so the centroid is exactly there.
    assert abs((kernel * y).sum()) < 1e-4
    assert abs((kernel * x).sum()) < 1e-4
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("model", list(FAMILIES))
def test_batches_equal_single_kernels(model):
    chosen = family(model)
    low = torch.tensor([chosen.parameter_ranges[name][0] for name in chosen.parameter_names])
    high = torch.tensor([chosen.parameter_ranges[name][1] for name in chosen.parameter_names])
    parameters = low + (high - low) * torch.rand((2, 3, len(low)), generator=torch.Generator().manual_seed(0))
    kernels = chosen.kernels(parameters, 33)
    assert kernels.shape == (2, 3, 33, 33)
    alone = make_psf(model, parameters[1, 2].tolist(), 33)
    np.testing.assert_allclose(kernels[1, 2].numpy(), alone, atol=1e-7)


def test_in_focus_kernel_is_the_airy_pattern():
    kernel = make_psf("zernike-1", [0.0])
    y, x = _offsets(kernel)
    airy = _airy(np.hypot(y, x), DEFAULT_CUTOFF_CYCLES_PER_PX)
    np.testing.assert_allclose(kernel, airy / airy.sum(), atol=1.5e-3 * kernel.max())


def test_first_dark_ring_lies_at_061_over_the_cutoff():
    cutoff = 0.03
    profile = make_psf("zernike-1", [0.0], 101, cutoff_cycles_per_px=cutoff)[50, 50:]
    ring = int(np.argmax(np.diff(profile) > 0))
    assert ring == pytest.approx(0.6098 / cutoff, abs=0.6)
    assert profile[ring] < 1e-3 * profile[0]


def test_transfer_function_is_that_of_a_circular_pupil():
    size = 511
    kernel = make_psf("zernike-1", [0.0], size)
    transfer = np.fft.fft2(np.fft.ifftshift(kernel.astype(float))).real[0, : size // 2]
    ratio = np.arange(size // 2) / size / (2 * DEFAULT_CUTOFF_CYCLES_PER_PX)
    inside = np.minimum(ratio, 1)
    closed_form = 2 / np.pi * (np.arccos(inside) - inside * np.sqrt(1 - inside**2))
    np.testing.assert_allclose(transfer, closed_form, atol=4e-3)


def test_the_cutoff_scales_the_kernel():
    fine = make_psf("zernike-3", MIDDLE["zernike-3"], 121, cutoff_cycles_per_px=0.1)
    coarse = make_psf("zernike-3", MIDDLE["zernike-3"], 41, cutoff_cycles_per_px=0.3)
    every_third = fine[::3, ::3]
    np.testing.assert_allclose(every_third / every_third.sum(), coarse, atol=4e-3 * coarse.max())


def test_an_undersampled_pupil_still_gives_the_airy_pattern():
    kernel = make_psf("zernike-1", [0.0], 15, cutoff_cycles_per_px=0.7)
    y, x = _offsets(kernel)
    airy = _airy(np.hypot(y, x), 0.7)
    np.testing.assert_allclose(kernel, airy / airy.sum(), atol=3e-3)


@given(st.floats(0.7, 4.5), st.floats(0.7, 4.5))
@settings(max_examples=25, deadline=None)
def test_gaussian_moments_are_the_squares_of_the_widths(sigma_y, sigma_x):
    moments = _second_moments(make_psf("gaussian-2", [sigma_y, sigma_x]))
    assert moments == pytest.approx((sigma_y**2, sigma_x**2), rel=0.02)


def test_gaussian_two_has_its_first_width_down_the_rows():
    along_y, along_x = _second_moments(make_psf("gaussian-2", {"sigma_x_px": 1.0, "sigma_y_px": 3.0}))
    assert along_y == pytest.approx(9, rel=0.01)
    assert along_x == pytest.approx(1, rel=0.01)


def test_a_narrow_gaussian_tends_to_one_pixel():
    kernel = make_psf("gaussian-1", [0.3])
    assert kernel[20, 20] > 0.95
    assert kernel.sum() == pytest.approx(1, abs=1e-6)


def _moment_axis(kernel: np.ndarray) -> float:
    """Return the direction of the longest spread, from x towards y, in [0, π)."""
    y, x = _offsets(kernel)
    inner = kernel * (np.hypot(y, x) < 15)
    xx, yy, xy = (inner * x * x).sum(), (inner * y * y).sum(), (inner * x * y).sum()
    return float(0.5 * np.arctan2(2 * xy, xx - yy) % np.pi)


@pytest.mark.parametrize("axis", [0.0, 0.4, math.pi / 4, 1.2, math.pi / 2, 2.5])
def test_with_defocus_the_kernel_is_longest_along_the_axis(axis):
    # Along φ = axis, defocus and astigmatism bend the wavefront the same way: there the rays spread furthest.
    measured = _moment_axis(make_psf("zernike-3", [0.3, 0.15, axis]))
    difference = (measured - axis + math.pi / 2) % math.pi - math.pi / 2
    assert abs(difference) < 0.03


@given(st.floats(0.0, 0.6), st.floats(0.0, 0.4), st.floats(0.0, math.pi))
@settings(max_examples=15, deadline=None)
def test_ambiguities_of_even_orders(defocus, astigmatism, axis):
    chosen = family("zernike-3")
    given_, flipped, turned = chosen.kernels(
        torch.tensor(
            [
                [defocus, astigmatism, axis],
                # Flipping every sign: defocus below 0 is not offered to users, but the kernel is the same.
                [-defocus, astigmatism, axis + math.pi / 2],
                [defocus, astigmatism, axis + math.pi],
            ]
        )
    ).numpy()
    np.testing.assert_allclose(given_, flipped, atol=2e-6)
    np.testing.assert_allclose(given_, turned, atol=2e-6)


def test_smaller_families_are_cuts_through_the_larger_one():
    np.testing.assert_allclose(make_psf("zernike-1", [0.3]), make_psf("zernike-3", [0.3, 0, 1.0]), atol=1e-7)
    np.testing.assert_allclose(
        make_psf("zernike-2", [0.3, 0.8]), make_psf("zernike-3", [0, 0.3, 0.8]), atol=1e-7
    )
    np.testing.assert_allclose(make_psf("gaussian-1", [1.5]), make_psf("gaussian-2", [1.5, 1.5]), atol=1e-7)


def test_strehl_ratio_follows_marechal_for_small_aberrations():
    # Noll-normalised coefficients are rms waves: the peak falls as exp(-(2π rms)²).
    chosen = family("zernike-1")
    raw = chosen._render(torch.tensor([[0.0], [0.05]]), 511, 0.22)
    ratio = float(raw[1, 255, 255] / raw[0, 255, 255])
    assert ratio == pytest.approx(math.exp(-((2 * math.pi * 0.05) ** 2)), abs=0.005)


def test_optics_give_the_cutoff():
    optics = Optics(na=0.8, wavelength_um=0.5, pixel_size_um=0.1)
    with_optics = make_psf("zernike-1", [0.2], 31, optics=optics)
    with_cutoff = make_psf("zernike-1", [0.2], 31, cutoff_cycles_per_px=0.16)
    np.testing.assert_allclose(with_optics, with_cutoff, atol=1e-6)
    with pytest.raises(InvalidInputError, match="cutoff_cycles_per_px must be left out"):
        make_psf("zernike-1", [0.2], optics=optics, cutoff_cycles_per_px=0.2)


def test_optics_psf_is_airy_in_focus_and_symmetric_through_it():
    optics = Optics(na=0.5, wavelength_um=0.5, pixel_size_um=0.2, refractive_index=1.0)
    np.testing.assert_allclose(
        optics_psf(optics, size_px=41), make_psf("zernike-1", [0.0], 41, optics=optics), atol=1e-6
    )
    np.testing.assert_allclose(optics_psf(optics, 3.0, 41), optics_psf(optics, -3.0, 41), atol=1e-6)
    low = Optics(na=0.2, wavelength_um=0.5, pixel_size_um=0.5, refractive_index=1.0)
    waves = low.defocus_waves_per_um * 10
    paraxial = make_psf("zernike-1", [waves], 41, optics=low)
    np.testing.assert_allclose(optics_psf(low, 10.0, 41), paraxial, atol=0.02 * paraxial.max())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("zernike-1", [0.1], 32), "size_px"),
        (("zernike-1", [0.1], -3), "size_px"),
        (("zernike-1", [0.1, 0.2]), "parameters"),
        (("zernike-1", ["a"]), "parameters"),
        (("zernike-1", {"defocus": 0.1}), "parameters"),
        (("zernike-1", [-0.1]), "defocus_waves"),
        (("zernike-2", [-0.1, 0]), "astigmatism_waves"),
        (("gaussian-1", [0]), "sigma_px"),
        (("gaussian-2", [1, float("nan")]), "sigma_x_px"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, name):
    with pytest.raises(InvalidInputError) as caught:
        make_psf(*arguments)
    assert caught.value.argument == name


@pytest.mark.parametrize("cutoff", [0.0, -0.1, 100.0, float("nan")])
def test_impossible_cutoffs_are_refused(cutoff):
    with pytest.raises(InvalidInputError, match="cutoff_cycles_per_px"):
        make_psf("zernike-1", [0.1], cutoff_cycles_per_px=cutoff)


def test_an_unknown_family_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="zernike-3"):
        make_psf("airy", [1])
