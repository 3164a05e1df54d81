"""Zone-plate probes against closed forms, finer grids and the published distances."""

import math

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.probes import PUBLISHED_DEFOCUS_UM, ZonePlate, render_probes, zone_plate_psf
from napari_deblur.optics.psf import FAMILIES, PROBES, family, make_psf

OPEN = ZonePlate(central_stop_um=0)


def rendered(plate, defocus_um, size, **more):
    kernels = render_probes(torch.tensor(np.atleast_1d(defocus_um), dtype=torch.float32), size, plate, **more)
    return kernels.double().numpy()


def test_defaults_state_the_published_case():
    plate = ZonePlate()
    assert plate.wavelength_um == pytest.approx(0.1378e-3, rel=1e-3)
    assert plate.zones_cycles_per_px == pytest.approx(0.35 / 2)
    assert plate.disc_diameter_px(15.0) == pytest.approx(23, abs=0.2)
    assert plate.depth_of_focus_um < 5
    assert plate.focal_length_um == pytest.approx(150 * 0.016 / plate.wavelength_um)


def test_focus_without_a_stop_is_the_airy_pattern():
    """First zero at 1.22 Δr."""
    plate = ZonePlate(**{**OPEN.model_dump(), "pixel_size_um": 0.0004})
    profile = rendered(plate, 0.0, 201)[0, 100, 100:]
    zero_px = 1.2197 * plate.outermost_zone_um / plate.pixel_size_um
    minimum = 20 + int(np.argmin(profile[20:70]))
    assert minimum == pytest.approx(zero_px, abs=1)
    assert profile[minimum] < 1e-4 * profile[0]
    from scipy.special import j1

    radius = np.arange(1, 60)
    argument = math.pi * radius * plate.pixel_size_um / plate.outermost_zone_um
    np.testing.assert_allclose(profile[1:60] / profile[0], (2 * j1(argument) / argument) ** 2, atol=2e-3)


def test_a_stop_narrows_the_focus_and_lifts_its_rings():
    """The first zero of an annulus solves J1(x) = s J1(s x): Born & Wolf, *Principles of Optics*, §8.6.2."""
    from scipy.optimize import brentq
    from scipy.special import j1

    stop = ZonePlate().stop_share
    zero = brentq(lambda x: j1(x) - stop * j1(stop * x), 3.0, 3.83)
    plate = ZonePlate(pixel_size_um=0.0004, band_limit=1)
    profile = rendered(plate, 0.0, 201)[0, 100, 100:]
    minimum = 20 + int(np.argmin(profile[20:70]))
    expected_px = zero / math.pi * plate.outermost_zone_um / plate.pixel_size_um
    assert minimum == pytest.approx(expected_px, abs=1)
    assert expected_px < 1.2197 * plate.outermost_zone_um / plate.pixel_size_um


def test_far_from_focus_the_probe_fills_the_geometric_cone():
    plate = ZonePlate()
    defocus_um = 120.0
    radius_px = plate.disc_diameter_px(defocus_um) / 2
    size = 2 * int(2 * radius_px) + 1
    kernel = rendered(plate, defocus_um, size)[0]
    y, x = np.mgrid[:size, :size] - size // 2
    radius = np.hypot(y, x)
    inside = (radius <= 1.05 * radius_px) & (radius >= 0.95 * plate.stop_share * radius_px)
    assert kernel[inside].sum() > 0.92 * kernel.sum()
    shadow = kernel[radius < 0.6 * plate.stop_share * radius_px].mean()
    assert shadow < 0.2 * kernel[inside].mean()


def test_energy_does_not_depend_on_defocus():
    """The window of 257 pixels holds all light of all probes to a thousandth."""
    sums = rendered(ZonePlate(), PUBLISHED_DEFOCUS_UM, 257).sum(axis=(1, 2))
    np.testing.assert_allclose(sums, sums[0], rtol=1e-3)
    inner = rendered(ZonePlate(), PUBLISHED_DEFOCUS_UM, 65).sum(axis=(1, 2))
    assert (inner > 0.97 * sums).all()


def test_the_transfer_function_ends_at_twice_the_band_limit():
    kernel = rendered(ZonePlate(pixel_size_um=0.009), 5.0, 255)[0]
    window = np.hanning(255)[:, None] * np.hanning(255)[None, :]
    transfer = np.abs(np.fft.fft2(np.fft.ifftshift(kernel * window)))
    radius = np.hypot(np.fft.fftfreq(255)[:, None], np.fft.fftfreq(255)[None, :])
    assert transfer[radius > 0.35 + 0.01].max() < 1e-4 * transfer[0, 0]
    assert transfer[(radius > 0.3) & (radius < 0.33)].max() > 1e-3 * transfer[0, 0]


def test_agrees_with_a_finer_grid():
    coarse = rendered(ZonePlate(), PUBLISHED_DEFOCUS_UM, 65)
    fine = rendered(ZonePlate(), PUBLISHED_DEFOCUS_UM, 65, least_grid=4096)
    coarse, fine = (one / one.sum(axis=(1, 2), keepdims=True) for one in (coarse, fine))
    error = np.linalg.norm(coarse - fine, axis=(1, 2)) / np.linalg.norm(fine, axis=(1, 2))
    assert error.max() < 5e-4


def test_probes_grow_with_the_distance_and_their_sign_is_lost():
    kernels = rendered(ZonePlate(), PUBLISHED_DEFOCUS_UM, 65)
    kernels /= kernels.sum(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[:65, :65] - 32
    spread = np.sqrt((kernels * (y**2 + x**2)).sum(axis=(1, 2)))
    assert (np.diff(spread) > 0).all()
    assert kernels[0].max() > 10 * kernels[-1].max(), "the six probes differ drastically"
    np.testing.assert_allclose(rendered(ZonePlate(), -7.0, 65), rendered(ZonePlate(), 7.0, 65), rtol=1e-4)


@pytest.mark.parametrize("defocus_um", PUBLISHED_DEFOCUS_UM)
def test_is_a_family_of_kernels(defocus_um):
    kernel = make_psf("zone-plate", [defocus_um])
    assert kernel.shape == (65, 65)
    assert kernel.dtype == np.float32
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)
    np.testing.assert_array_equal(kernel, make_psf("zone-plate", {"defocus_um": defocus_um}))


def test_no_network_is_asked_to_read_it():
    assert "zone-plate" in PROBES
    assert not set(PROBES) & set(FAMILIES)
    assert family("zone-plate").parameter_names == ("defocus_um",)


def test_impossible_plates_are_refused():
    with pytest.raises(
        InvalidInputError, match=r"central_stop_um must be smaller than the diameter 100 µm.*120"
    ):
        ZonePlate(diameter_um=100, central_stop_um=120)
    with pytest.raises(InvalidInputError, match="energy_kev"):
        ZonePlate(energy_kev=0)


def test_any_plate_gives_a_kernel():
    plate = ZonePlate(energy_kev=12.0, outermost_zone_um=0.03, pixel_size_um=0.01, central_stop_um=45.0)
    for defocus_um in (0.0, 20.0, -80.0):
        kernel = zone_plate_psf(plate, defocus_um)
        wide = zone_plate_psf(plate, defocus_um, 301)
        middle = slice(150 - kernel.shape[0] // 2, 151 + kernel.shape[0] // 2)
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        assert wide[middle, middle].sum() > 0.9, "the default size holds the light"
    np.testing.assert_allclose(zone_plate_psf(ZonePlate(), 5.0, 65), make_psf("zone-plate", [5.0]), atol=1e-7)
    with pytest.raises(InvalidInputError, match="defocus_um must be finite"):
        zone_plate_psf(plate, float("nan"))
    with pytest.raises(InvalidInputError, match="size_px"):
        zone_plate_psf(plate, 5.0, 64)


def test_plates_of_the_same_shape_differ_in_scale_alone():
    """Probes depend on the cut-off in pixels, the stop's share and d λ / Δr²."""
    default = ZonePlate()
    other = ZonePlate(energy_kev=4.5, outermost_zone_um=0.032, pixel_size_um=0.0112)
    factor = (
        (other.outermost_zone_um / default.outermost_zone_um) ** 2
        * default.wavelength_um
        / other.wavelength_um
    )
    np.testing.assert_allclose(
        zone_plate_psf(other, 7.0 * factor, 65), zone_plate_psf(default, 7.0, 65), atol=1e-6
    )
