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
from napari_deblur.optics.rendering import wavefront
from napari_deblur.optics.settings import Optics

MIDDLE = {"gaussian-1": [1.7], "gaussian-2": [1.2, 2.9]}
MIDDLE |= {"zernike-1": [0.3], "zernike-2": [0.25, 0.6], "zernike-3": [0.3, 0.2, 0.6]}
MIDDLE |= {"zernike-7": [0.1, -0.05, 0.08, 0.12, -0.07, 0.03, -0.1]}
SEVEN = family("zernike-7").parameter_names


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
    if model == "zernike-7":
        # Coma is not symmetric; balanced by tilt it leaves the peak, if not the centroid, where it was.
        assert np.hypot(y.ravel()[kernel.argmax()], x.ravel()[kernel.argmax()]) < 1.5
        return
    # All others are symmetric about their centre, so the centroid is exactly there.
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


def test_seven_aberrations_hold_defocus_and_astigmatism():
    power, axis = 0.12, 0.7
    oblique, vertical = power * math.sin(2 * axis), power * math.cos(2 * axis)
    seven = make_psf("zernike-7", [0.1, oblique, vertical, 0, 0, 0, 0], 31)
    three = make_psf("zernike-3", [0.1, power, axis], 31, cutoff_cycles_per_px=0.261)
    np.testing.assert_allclose(seven, three, atol=1e-6)


def test_without_aberrations_seven_are_the_airy_pattern_at_their_own_cutoff():
    kernel = make_psf("zernike-7", dict.fromkeys(SEVEN, 0.0))
    assert kernel.shape == (31, 31)
    y, x = _offsets(kernel)
    airy = _airy(np.hypot(y, x), 0.261)
    np.testing.assert_allclose(kernel, airy / airy.sum(), atol=1.5e-3 * kernel.max())


def test_the_phase_of_seven_aberrations_is_a_direct_sum_over_the_pupil():
    # The defining integral at single pixels, on a finer grid of another kind than the one it is rendered on.
    from napari_deblur.optics.zernike import zernike

    values = MIDDLE["zernike-7"]
    line = (torch.arange(800, dtype=torch.float64) + 0.5) / 400 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    rho, phi = torch.hypot(y, x), torch.atan2(y, x)
    phase = sum(value * zernike(4 + index, rho, phi) for index, value in enumerate(values))
    pupil = (rho <= 1) * torch.exp(2j * math.pi * phase)
    kernel = family("zernike-7")._render(torch.tensor([values]), 31, 0.261)[0]
    found, expected = [], []
    for dy, dx in ((0, 0), (1, 0), (0, 1), (-2, 3), (4, 1), (-3, -3)):
        turns = 0.261 * (dy * y + dx * x)
        expected.append(float((pupil * torch.exp(2j * math.pi * turns)).sum().abs() ** 2))
        found.append(float(kernel[15 + dy, 15 + dx]))
    found, expected = np.array(found) / sum(found), np.array(expected) / sum(expected)
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())


# With exp(+2πi …) as the transform, a wavefront that rises towards +x sends the light towards -x.
@pytest.mark.parametrize(("name", "axis"), [("vertical_coma_waves", 0), ("horizontal_coma_waves", 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_tail_of_coma_points_along_its_axis(name, axis, sign):
    kernel = make_psf("zernike-7", dict.fromkeys(SEVEN, 0.0) | {name: 0.15 * sign})
    along, across = _offsets(kernel)[axis], _offsets(kernel)[1 - axis]
    third = float((kernel * along.clip(-9, 9) ** 3).sum())
    assert sign * third < -1, "the tail lies on the negative side of a positive coma"
    assert abs(float((kernel * across.clip(-9, 9) ** 3).sum())) < 1e-3
    peak = along.ravel()[kernel.argmax()]
    assert sign * peak >= 0, "and the peak on the other"


def test_trefoil_has_three_lobes_where_its_angle_says():
    angles = np.arange(0, 360, 5)
    for name, lobes in (("vertical_trefoil_waves", (30, 150, 270)), ("oblique_trefoil_waves", (0, 120, 240))):
        kernel = make_psf(
            "zernike-7", dict.fromkeys(SEVEN, 0.0) | {name: 0.15}, 127, cutoff_cycles_per_px=0.06
        )
        y, x = _offsets(kernel)
        turn = np.degrees(np.arctan2(y, x)) % 360
        ring = np.hypot(y, x) < 25
        weight = [kernel[ring & (np.abs((turn - a + 180) % 360 - 180) < 10)].sum() for a in angles]
        brightest = angles[int(np.argmax(weight))]
        # To first order the field gains i times the cubic's transform, which is i³ cos 3 (θ - lobe).
        distance = [abs((brightest - lobe + 180) % 360 - 180) for lobe in lobes]
        assert min(distance) <= 5


def test_sign_ambiguities_of_seven_aberrations():
    values = np.array(MIDDLE["zernike-7"], np.float32)
    even = np.array([-1, -1, -1, 1, 1, 1, 1], np.float32)
    kernel, evens_reversed, all_reversed, odds_reversed = (
        family("zernike-7")
        .kernels(torch.from_numpy(np.stack([values, even * values, -values, -even * values])))
        .numpy()
    )
    np.testing.assert_allclose(evens_reversed, kernel, atol=1e-6)
    np.testing.assert_allclose(all_reversed, kernel[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(odds_reversed, kernel[::-1, ::-1], atol=1e-6)
    assert np.abs(all_reversed - kernel).max() > 0.1 * kernel.max(), "that is another kernel"


def test_kernels_have_the_gradients_of_finite_differences():
    values = torch.tensor(MIDDLE["zernike-7"], dtype=torch.float32, requires_grad=True)
    weight = torch.randn((31, 31), generator=torch.Generator().manual_seed(0))
    (family("zernike-7").kernels(values) * weight).sum().backward()
    step = 2e-3
    for index in range(7):
        moved = values.detach().repeat(2, 1)
        moved[:, index] += torch.tensor([step, -step])
        high, low = (family("zernike-7").kernels(moved) * weight).sum(dim=(1, 2))
        assert float(values.grad[index]) == pytest.approx(float(high - low) / (2 * step), rel=0.03, abs=2e-3)


def test_a_wavefront_has_the_rms_of_its_coefficients_and_the_images_axes():
    values = torch.tensor(MIDDLE["zernike-7"])
    waves, inside = wavefront(values, family("zernike-7").noll_indices, 200)
    assert float(waves[inside].square().mean().sqrt()) == pytest.approx(float(values.norm()), rel=0.01)
    coma, _ = wavefront(torch.tensor([1.0]), (7,), 100)
    assert float(coma[-1, 50]) == pytest.approx(math.sqrt(8), rel=0.1), "vertical coma rises down the rows"
    assert float(coma[0, 50]) == pytest.approx(-math.sqrt(8), rel=0.1)


def test_each_family_has_its_own_default_cutoff():
    assert {
        id: entry.default_cutoff_cycles_per_px for id, entry in FAMILIES.items() if entry.needs_cutoff
    } == {
        "zernike-1": 0.22,
        "zernike-2": 0.22,
        "zernike-3": 0.22,
        "zernike-7": 0.261,
    }
    assert family("zernike-7").size_px() == 31
    assert family("zernike-7").size_px(0.1305) == 63


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
        (("zernike-7", [-0.1, 0, 0, 0, 0, 0, 0]), "defocus_waves"),
        (("zernike-7", [0.1, 0, 0]), "parameters"),
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


def test_a_space_of_operators_has_no_single_psf():
    with pytest.raises(InvalidInputError, match="PsfBasis"):
        make_psf("product-convolution", [0.0])
