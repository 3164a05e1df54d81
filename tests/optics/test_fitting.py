"""Fitting a family's parameters to a measured kernel."""

import numpy as np
import pytest

from napari_deblur.optics.fitting import distance_to, fit_family
from napari_deblur.optics.psf import make_psf


def measured(model, parameters, shift=(0, 0), noise=0.002, offset=0.01):
    """A kernel as it is measured: off centre, with noise, an offset and in counts."""
    kernel = np.roll(make_psf(model, parameters), shift, (0, 1))
    noisy = kernel + kernel.max() * (offset + np.random.default_rng(0).normal(0, noise, kernel.shape))
    return np.clip(1000 * noisy, 0, None)


@pytest.mark.parametrize("defocus_um", [3.0, 5.0, 10.0, 15.0])
def test_defocus_of_a_measured_probe_is_found(defocus_um):
    found = fit_family("zone-plate", measured("zone-plate", [defocus_um], shift=(3, -2)))
    assert found.parameters[0] == pytest.approx(defocus_um, abs=0.3)
    assert found.distance < 0.15
    assert found.shift_px == pytest.approx(np.hypot(3, 2), abs=0.1)
    assert not found.outside


def test_exact_members_have_no_distance():
    found = fit_family("zone-plate", make_psf("zone-plate", [6.2], 41))
    assert found.parameters[0] == pytest.approx(6.2, abs=0.01)
    assert found.distance < 1e-3
    assert found.shift_px < 1e-3


@pytest.mark.parametrize("parameters", [(0.25, 0.1, 0.6), (0.05, 0.3, 3.0), (0.4, 0.35, 1.6)])
def test_defocus_and_astigmatism_are_found_together(parameters):
    found = fit_family("zernike-3", measured("zernike-3", parameters))
    again = make_psf("zernike-3", found.parameters)
    truth = make_psf("zernike-3", parameters)
    assert np.linalg.norm(again - truth) < 0.05 * np.linalg.norm(truth)
    assert found.distance < 0.1
    # The axis turns with a period of π.
    assert np.cos(2 * (found.parameters[2] - parameters[2])) > 0.99


def test_what_is_no_member_lies_far_away():
    for kernel in (make_psf("gaussian-2", [1.0, 4.0]), make_psf("zernike-3", [0.1, 0.4, 0.3])):
        assert fit_family("zone-plate", kernel).distance > 0.3
        assert fit_family("zernike-1", kernel).distance > 0.3


def test_parameters_beyond_the_range_are_named():
    found = fit_family("zone-plate", make_psf("zone-plate", [17.0]))
    assert found.parameters[0] == pytest.approx(17, abs=0.05)
    assert found.outside == ("defocus_um",)


def test_oblong_and_large_kernels_are_taken():
    kernel = make_psf("zernike-1", [0.2], 161)
    assert fit_family("zernike-1", kernel).parameters[0] == pytest.approx(0.2, abs=0.01)
    assert fit_family("zernike-1", kernel[40:-40, 30:-30]).parameters[0] == pytest.approx(0.2, abs=0.02)


def test_a_kernel_without_shape_is_as_far_as_can_be():
    flat = np.full((15, 15), 1 / 225, np.float32)
    assert distance_to("zone-plate", [5.0], flat) == 1
    assert fit_family("zone-plate", flat).distance == 1
