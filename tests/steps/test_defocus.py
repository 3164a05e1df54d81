from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf import make_psf, optics_psf
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.defocus import defocus_signal, defocus_waves_per_um


def one_row(model, parameters, **more):
    values = np.asarray(parameters, dtype=float)[None]
    centers = np.stack([np.zeros(len(values[0])), np.arange(len(values[0])) * 64.0], axis=-1)[None]
    return PsfMap.from_parameters(model, values, centers_px=centers, image_shape=(64, 640), **more)


@pytest.mark.parametrize(
    ("na", "index", "wavelength"), [(0.3, 1.0, 0.5), (0.95, 1.0, 0.6), (1.4, 1.515, 0.525)]
)
def test_waves_per_um_against_a_numeric_projection(na, index, wavelength):
    n = 1501
    y, x = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j]
    rho_squared = x**2 + y**2
    inside = rho_squared <= 1
    path = index * (1 - np.sqrt(1 - (na / index) ** 2 * rho_squared[inside])) / wavelength
    expected = (path * np.sqrt(3) * (2 * rho_squared[inside] - 1)).mean()
    optics = Optics(na=na, wavelength_um=wavelength, pixel_size_um=0.1, refractive_index=index)
    assert defocus_waves_per_um(optics) == pytest.approx(expected, rel=2e-3)


def test_waves_per_um_of_small_apertures_follow_the_short_formula():
    optics = Optics(na=0.25, wavelength_um=0.5, pixel_size_um=0.3, refractive_index=1.0)
    assert defocus_waves_per_um(optics) == pytest.approx(optics.defocus_waves_per_um, rel=0.02)
    assert defocus_waves_per_um(optics) == pytest.approx(0.25**2 / (4 * np.sqrt(3) * 0.5), rel=0.02)


def test_waves_per_um_turn_a_distance_into_the_same_psf():
    optics = Optics(na=0.5, wavelength_um=0.5, pixel_size_um=0.22, refractive_index=1.0)
    distance = 2.5
    exact = optics_psf(optics, defocus_um=distance, size_px=41)
    family = make_psf("zernike-1", [distance * defocus_waves_per_um(optics)], 41, optics=optics)
    focus = make_psf("zernike-1", [0.0], 41, optics=optics)
    assert np.linalg.norm(exact - family) < 0.05 * np.linalg.norm(exact)
    assert np.linalg.norm(exact - focus) > 0.5 * np.linalg.norm(exact)


def test_opposite_defocus_looks_like_an_axis_turned_by_90_degrees():
    """The identity behind the rule: (-d, a, φ) ≡ (d, a, φ + 90°), and it differs from (d, a, φ)."""
    beyond = make_psf("zernike-3", [0.3, 0.2, 0.0], 41)
    before = make_psf("zernike-3", [0.3, 0.2, np.pi / 2], 41)
    np.testing.assert_allclose(before, beyond.T, atol=1e-5)
    assert np.linalg.norm(before - beyond) > 0.3 * np.linalg.norm(beyond)


def test_the_signal_is_the_signed_defocus():
    axis = 0.7
    signed = np.linspace(-0.5, 0.5, 9)
    parameters = [(abs(d), 0.2, (axis if d >= 0 else axis + np.pi / 2) % np.pi) for d in signed]
    signal = defocus_signal(one_row("zernike-3", parameters), "astigmatism")
    np.testing.assert_allclose(signal.along(axis)[0], signed, atol=1e-6)
    assert signal.principal_axis_rad() == pytest.approx(axis, abs=1e-6)


def test_a_signed_defocus_that_was_read_is_preferred_to_the_product():
    signed = np.array([[[-0.02, 0.01, 0.1, 0.1], [0.2, -0.1, 0.01, 0.02]]], dtype=np.float32)
    psf_map = one_row("zernike-3", [(0.1, 0.2, 1.0), (0.3, 0.2, 2.0)], signed_defocus_waves=signed)
    signal = defocus_signal(psf_map, "astigmatism")
    np.testing.assert_allclose([signal.u[0], signal.v[0]], [[-0.02, 0.2], [0.01, -0.1]], rtol=1e-6)
    assert signal.precision[0, 1] > signal.precision[0, 0] > 0
    by_parameters = defocus_signal(psf_map, "paper")
    assert by_parameters.u[0, 0] == pytest.approx(0.1 * (2 * 1.0 / np.pi - 1), abs=1e-6)


def test_the_papers_rule_is_its_formula():
    parameters = [(0.3, 0.2, 0.1), (0.3, 0.2, 3.0), (0.2, 0.2, np.pi / 2)]
    signal = defocus_signal(one_row("zernike-3", parameters), "paper")
    expected = [a1 * (2 * a3 / np.pi - 1) for a1, _, a3 in parameters]
    np.testing.assert_allclose(signal.along(0.0)[0], expected, atol=1e-6)


def test_squared_widths_are_linear_in_defocus_where_their_difference_is_not():
    """Widths of the Gaussians that fit astigmatic kernels best, a = 0.2 waves, defocus 0 to 0.5 waves."""
    wide = np.array([2.41, 4.24, 5.83, 7.91, 9.71, 11.64])
    narrow = np.array([2.41, 1.02, 1.04, 2.37, 4.29, 6.19])
    sigma_x, sigma_y = np.r_[narrow[:0:-1], wide], np.r_[wide[:0:-1], narrow]
    defocus = np.linspace(-0.5, 0.5, 11)
    signal = defocus_signal(one_row("gaussian-2", np.stack([sigma_y, sigma_x], -1)[:10]), "astigmatism")
    assert np.corrcoef(signal.along(0.0)[0], defocus[:10])[0, 1] ** 2 > 0.995
    assert np.corrcoef((sigma_x - sigma_y)[:10], defocus[:10])[0, 1] ** 2 < 0.93


def test_faint_astigmatism_and_invalid_positions_count_less():
    parameters = [(0.3, 0.2, 0.1), (0.3, 0.0, 0.1), (0.3, 0.01, 0.1), (0.3, 0.2, 0.1)]
    signal = defocus_signal(
        one_row("zernike-3", parameters, valid=[[True, True, True, False]]), "astigmatism"
    )
    weights = signal.weights[0]
    assert weights[0] > 0.98
    assert weights[1] == 0
    assert 0.1 < weights[2] < 0.3
    assert weights[3] == 0


def test_predicted_errors_weigh():
    parameters = [(0.3, 0.2, 0.1)] * 3
    error = np.array([[[0.01, 0.01, 0.02], [0.1, 0.01, 0.02], [0.05, 0.05, 0.05]]], dtype=np.float32)
    precision = defocus_signal(
        one_row("zernike-3", parameters, predicted_error=error), "astigmatism"
    ).precision[0]
    assert precision[0] > precision[2] > precision[1] > 0
    widths = one_row("gaussian-2", [(2.0, 3.0)] * 3, predicted_error=error[..., :2])
    assert defocus_signal(widths, "astigmatism").precision[0, 0] > 1


def test_places_with_a_guessed_axis_count_for_little():
    error = np.array([[[0.05, 0.02, 0.1], [0.05, 0.02, 0.9]]], dtype=np.float32)
    psf_map = one_row("zernike-3", [(0.1, 0.2, 0.1)] * 2, predicted_error=error)
    sure, guessed = defocus_signal(psf_map, "astigmatism").precision[0]
    assert guessed < 0.2 * sure


@pytest.mark.parametrize(
    ("model", "parameters", "rule", "argument"),
    [
        ("zernike-1", [(0.3,)], "astigmatism", "psf_map"),
        ("gaussian-1", [(2.0,)], "astigmatism", "psf_map"),
        ("gaussian-2", [(2.0, 1.0)], "paper", "rule"),
    ],
)
def test_maps_without_a_side_of_focus_are_refused(model, parameters, rule, argument):
    with pytest.raises(InvalidInputError) as caught:
        defocus_signal(one_row(model, parameters), rule)
    assert caught.value.argument == argument


def test_a_map_without_texture_is_refused():
    with pytest.raises(InvalidInputError, match="at least one valid position"):
        defocus_signal(one_row("zernike-3", [(0.3, 0.2, 0.1)], valid=[[False]]), "astigmatism")
