"""3D PSFs from optics, against closed forms."""

import math

import numpy as np
import pytest
from scipy.special import j1

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.optics.psf import optics_psf
from napari_deblur.optics.psf_3d import (
    fitted_psf_3d,
    focus_um,
    natural_shape,
    optics_psf_3d,
    radial_intensity,
)
from napari_deblur.optics.settings import Optics
from napari_deblur.optics.widths import fwhm_um

OIL = {"na": 1.4, "wavelength_um": 0.52, "pixel_size_um": 0.08, "z_step_um": 0.2}
LOW = {"na": 0.2, "wavelength_um": 0.5, "pixel_size_um": 0.4, "z_step_um": 2.0, "refractive_index": 1.0}


@pytest.mark.parametrize("na", [0.2, 0.8, 1.4])
def test_scalar_focus_is_the_airy_pattern_at_any_aperture(na):
    optics = Optics(**{**OIL, "na": na}, theory="scalar")
    r = np.linspace(0, 3, 200)
    found = radial_intensity(optics, r, np.zeros(1))[0]
    v = 2 * math.pi * na * r[1:] / optics.wavelength_um
    np.testing.assert_allclose(found[1:] / found[0], (2 * j1(v) / v) ** 2, atol=1e-10)


def test_scalar_axis_is_sinc_squared_in_the_paraxial_limit():
    optics = Optics(**{**LOW, "na": 0.05}, theory="scalar")
    z = np.linspace(-900, 900, 301)
    found = radial_intensity(optics, np.zeros(1), z)[:, 0]
    quarter = math.pi * optics.na**2 * z / (2 * optics.wavelength_um)  # u / 4
    np.testing.assert_allclose(found / found.max(), np.sinc(quarter / math.pi) ** 2, atol=2e-3)


@pytest.mark.parametrize("optics", [Optics(**OIL), Optics(**OIL, theory="scalar"), Optics(**LOW)])
def test_every_plane_holds_the_same_light(optics):
    r = (np.arange(1200) + 0.5) * (40 * optics.wavelength_um / optics.na / 1200)
    planes = np.linspace(-1, 1, 5) * optics.wavelength_um / optics.na**2
    light = radial_intensity(optics, r, planes) @ r
    np.testing.assert_allclose(light / light[2], 1, atol=0.015)


def test_vectorial_tends_to_scalar_at_low_aperture_and_is_wider_at_high():
    kernels = {}
    for name, values in (("low", LOW), ("high", OIL)):
        shape = (9, 31, 31)
        kernels[name] = [optics_psf_3d(Optics(**values, theory=t), shape) for t in ("scalar", "vectorial")]
    scalar, vectorial = kernels["low"]
    assert np.abs(scalar - vectorial).max() < 0.01 * scalar.max()
    scalar, vectorial = kernels["high"]
    voxel = (0.2, 0.08, 0.08)
    assert fwhm_um(vectorial, voxel)[2] > 1.05 * fwhm_um(scalar, voxel)[2]


def test_vectorial_focus_agrees_with_the_integrals_of_richards_and_wolf():
    """Summed by the midpoint rule over θ, without substitution."""
    optics = Optics(**OIL)
    alpha = math.asin(1.4 / 1.515)
    theta = (np.arange(20000) + 0.5) * alpha / 20000
    from scipy.special import jv

    k, r, z = 2 * math.pi * 1.515 / 0.52, 0.21, 0.35
    wave = np.exp(1j * k * z * np.cos(theta)) * np.sqrt(np.cos(theta)) * np.sin(theta)
    argument = k * r * np.sin(theta)
    fields = [
        (wave * (1 + np.cos(theta)) * jv(0, argument)).sum(),
        (wave * np.sin(theta) * jv(1, argument)).sum(),
        (wave * (1 - np.cos(theta)) * jv(2, argument)).sum(),
    ]
    expected = (abs(fields[0]) ** 2 + 2 * abs(fields[1]) ** 2 + abs(fields[2]) ** 2) * (alpha / 20000) ** 2
    assert radial_intensity(optics, np.array([r]), np.array([z]))[0, 0] == pytest.approx(expected, rel=1e-6)


def test_widths_follow_the_textbook():
    """Lateral 0.51 λ/NA, axial 0.88 λ / (n − √(n² − NA²)) at moderate aperture (scalar)."""
    optics = Optics(
        na=0.5, wavelength_um=0.5, pixel_size_um=0.05, z_step_um=0.1, refractive_index=1.0, theory="scalar"
    )
    z, y, x = fwhm_um(optics_psf_3d(optics, (91, 41, 41)), (0.1, 0.05, 0.05))
    assert y == pytest.approx(0.514 * 0.5 / 0.5, rel=0.02)
    assert x == pytest.approx(y, rel=1e-4)
    assert z == pytest.approx(0.886 * 0.5 / (1 - math.sqrt(0.75)), rel=0.03)


@pytest.mark.parametrize("depth", [5.0, 40.0])
def test_a_mismatch_moves_the_focus_as_snell_says_near_the_axis(depth):
    optics = Optics(**{**OIL, "na": 0.2}, sample_index=1.33, depth_um=depth)
    assert focus_um(optics) == pytest.approx(depth * 1.515 / 1.33, rel=0.005)


def test_a_mismatch_at_high_aperture_blurs_and_skews_the_axis():
    matched = optics_psf_3d(Optics(**OIL), (41, 9, 9))
    deep = optics_psf_3d(Optics(**OIL, sample_index=1.38, depth_um=10), (41, 9, 9))
    voxel = (0.2, 0.08, 0.08)
    assert fwhm_um(deep, voxel)[0] > 1.3 * fwhm_um(matched, voxel)[0]
    np.testing.assert_allclose(matched, matched[::-1], rtol=1e-4, atol=1e-9)
    axis = deep[:, 4, 4]
    assert axis.argmax() == 20
    assert np.abs(axis - axis[::-1]).sum() > 0.2 * axis.sum()


def test_the_same_index_given_or_not_gives_the_same_kernel():
    plain, told = Optics(**OIL), Optics(**OIL, sample_index=1.515, depth_um=30)
    np.testing.assert_allclose(optics_psf_3d(told, (9, 15, 15)), optics_psf_3d(plain, (9, 15, 15)), rtol=1e-4)


def test_its_focal_plane_is_the_2d_kernel_of_the_same_optics():
    optics = Optics(**LOW, theory="scalar")
    plane = optics_psf_3d(optics, (1, 31, 31))[0]
    np.testing.assert_allclose(plane, optics_psf(optics, size_px=31), atol=2e-3 * plane.max())


def test_convention_and_size():
    optics = Optics(**OIL)
    kernel = optics_psf_3d(optics)
    assert kernel.dtype == np.float32
    assert kernel.shape == natural_shape(optics, (0.2, 0.08, 0.08))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert np.unravel_index(kernel.argmax(), kernel.shape) == tuple(size // 2 for size in kernel.shape)
    run = Run()
    small = fitted_psf_3d(optics, (6, 40, 41), run)
    assert small.shape == (5, 39, 41)
    assert any("was cut" in note for note in run.notes)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: optics_psf_3d(Optics(**{**OIL, "z_step_um": None})), "z_step_um"),
        (lambda: optics_psf_3d(Optics(**OIL), (4, 5, 5)), "shape"),
        (lambda: optics_psf_3d(Optics(**OIL), (5, 5, 1001)), "shape"),
        (lambda: optics_psf_3d(Optics(**OIL), (5, 5, 5), (0.0, 0.1, 0.1)), "voxel_size_um"),
    ],
)
def test_bad_requests_are_named(call, argument):
    with pytest.raises(InvalidInputError) as caught:
        call()
    assert caught.value.argument == argument
