from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.optics.measured import centroid_px, fourier_shift, prepare_psf
from napari_deblur.optics.psf import make_psf


def gaussian(shape, centre, sigma=1.5):
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.exp(-sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) / (2 * sigma**2))


def test_good_kernel_is_returned_unchanged_and_without_notes():
    kernel = gaussian((11, 13), (5, 6))
    kernel /= kernel.sum()
    run = Run()
    ready = prepare_psf(kernel, image_shape=(64, 64), run=run)
    assert ready.dtype == np.float32
    np.testing.assert_allclose(ready, kernel, rtol=1e-5)
    assert run.notes == []


def test_off_centre_odd_kernel_keeps_its_place():
    kernel = np.zeros((7, 7))
    kernel[1, 5] = 1
    assert prepare_psf(kernel)[1, 5] == 1


@pytest.mark.parametrize("size", [2, 4, 12])
@pytest.mark.parametrize("habit", ["pixel n/2", "pixel (n-1)/2"])
def test_even_kernels_end_centred_whatever_their_habit(size, habit):
    centre = size / 2 if habit == "pixel n/2" else (size - 1) / 2
    kernel = gaussian((size, size), (centre, centre), sigma=size / 12 + 0.2)
    run = Run()
    ready = prepare_psf(kernel, run=run)
    assert ready.shape == (size + 1, size + 1)
    np.testing.assert_allclose(centroid_px(ready), (size + 1) // 2, atol=0.13)
    assert ready.sum() == pytest.approx(1, abs=1e-6)
    assert any("even size" in note for note in run.notes)


def test_only_the_even_axis_is_touched():
    kernel = gaussian((11, 12), (5, 6))
    ready = prepare_psf(kernel)
    assert ready.shape == (11, 13)
    np.testing.assert_allclose(ready[:, :12] * kernel.sum(), kernel, rtol=1e-5)


def test_even_half_pixel_shift_is_accurate():
    kernel = gaussian((24, 24), (11.5, 11.5))
    expected = gaussian((25, 25), (12, 12))
    np.testing.assert_allclose(prepare_psf(kernel), expected / expected.sum(), atol=2e-6)


def test_fourier_shift_moves_content_towards_higher_indices():
    moved = fourier_shift(gaussian((21, 20), (8, 9)), (1.25, -0.5))
    np.testing.assert_allclose(moved, gaussian((21, 20), (9.25, 8.5)), atol=2e-4)


def test_notes_tell_what_was_changed():
    kernel = 7 * gaussian((9, 9), (4, 4))
    kernel[0, 0] = -0.02
    run = Run()
    ready = prepare_psf(kernel, run=run)
    assert ready.min() == 0
    assert ready.sum() == pytest.approx(1, abs=1e-6)
    assert any("summed to" in note for note in run.notes)
    assert any("negative" in note for note in run.notes)


def test_pedestal_is_remarked():
    run = Run()
    prepare_psf(gaussian((15, 15), (7, 7)) + 0.5, run=run)
    assert any("offset" in note for note in run.notes)


def test_three_axes_and_a_leading_one_are_accepted():
    assert prepare_psf(np.ones((3, 5, 5))).shape == (3, 5, 5)
    assert prepare_psf(np.ones((1, 1, 5, 5))).shape == (5, 5)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (np.zeros((5, 5)), "positive"),
        (-np.ones((5, 5)), "positive"),
        (np.full((5, 5), np.nan), "finite"),
        (np.ones(5), "axes"),
        (np.ones((2, 3, 5, 5)), "axes"),
        (np.ones((0, 5)), "length 0"),
        (np.ones((5, 5)) * 1j, "real"),
        (np.diag([1.0, -0.5, 1.0]), "negative"),
        (np.ones((33, 5)), "larger than the image"),
        (np.ones((3, 5, 5)), "more axes"),
        (np.ones((32, 5)), "larger than the image"),
        ("kernel", "real numbers"),
    ],
)
def test_bad_kernels_are_refused_with_the_argument_named(kernel, said):
    with pytest.raises(InvalidInputError, match=said) as caught:
        prepare_psf(kernel, image_shape=(32, 32), argument="bead")
    assert caught.value.argument == "bead"


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    dtype=st.sampled_from(["u1", "<u2", ">u2", "i4", "f2", "f4", ">f8", "?"]),
    seed=st.integers(0, 99),
)
def test_any_shape_and_dtype_ends_in_the_convention(shape, dtype, seed):
    kernel = (np.random.default_rng(seed).random(shape) * 100 + 1).astype(dtype)
    ready = prepare_psf(kernel)
    assert ready.dtype == np.float32
    assert all(size % 2 == 1 for size in ready.shape)
    assert ready.min() >= 0
    assert ready.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-38, 1e36])
def test_extreme_scales_neither_overflow_nor_vanish(scale):
    ready = prepare_psf(np.ones((5, 5), np.float32) * np.float32(scale))
    np.testing.assert_allclose(ready, 1 / 25, rtol=1e-5)


def test_a_kernel_off_its_centre_is_noted_and_left():
    kernel = np.roll(make_psf("gaussian-1", [1.5], 21), 5, axis=0)
    run = Run()
    np.testing.assert_allclose(prepare_psf(kernel, run=run), kernel, atol=1e-6)
    assert any("+5.0, +0.0 pixels (y, x) off its centre" in note for note in run.notes)
    run = Run()
    prepare_psf(np.roll(kernel, -5, axis=0), run=run)
    assert not run.notes
