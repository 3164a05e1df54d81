import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d

from napari_deblur.blur.convolution import Convolution, otf
from napari_deblur.blur.space_varying import (
    EigenPsfs,
    MaskThenConvolve,
    compress,
)
from napari_deblur.optics.interpolation import linear_interpolation_matrix
from napari_deblur.optics.psf import family, make_psf


def kernels_of_a_ramp(rows=4, cols=5, size=31):
    parameters = torch.zeros(rows, cols, 3)
    parameters[..., 0] = torch.linspace(0, 0.5, rows)[:, None]
    parameters[..., 1] = 0.2
    parameters[..., 2] = torch.linspace(0, 3, cols)
    return family("zernike-3").kernels(parameters, size).numpy()


def varying(shape=(70, 90), tolerance=0.01):
    rows, cols = np.linspace(5, 60, 4, dtype=np.float32), np.linspace(5, 80, 5, dtype=np.float32)
    return MaskThenConvolve(compress(kernels_of_a_ramp(), rows, cols, tolerance=tolerance), shape)


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(4, 40), width=st.integers(4, 40), half_y=st.integers(0, 9), half_x=st.integers(0, 9)
)
def test_forward_is_a_true_valid_convolution_and_adjoint_its_transpose(height, width, half_y, half_x):
    torch.manual_seed(height * 41 + width)
    kernel = torch.rand(2 * half_y + 1, 2 * half_x + 1)
    blur = Convolution(kernel, (height, width))
    x, y = torch.randn(blur.object_shape), torch.randn(height, width)
    expected = convolve2d(x.numpy(), kernel.numpy(), mode="valid")
    np.testing.assert_allclose(blur.forward(x), expected, atol=1e-4)
    left, right = float((blur.forward(x) * y).sum()), float((x * blur.adjoint(y)).sum())
    assert left == pytest.approx(right, rel=1e-4, abs=1e-3)


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(2, 14), min_size=2, max_size=3),
    half=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_sensitivity_without_transforms_is_the_transpose_of_ones(sizes, half, seed):
    torch.manual_seed(seed)
    blur = Convolution(torch.rand([2 * half + 1] + [5] * (len(sizes) - 1)), tuple(sizes))
    ones = torch.ones(sizes)
    found = blur.sensitivity_on_grid(ones)
    np.testing.assert_allclose(blur.object_part(found), blur.adjoint(ones), rtol=1e-4, atol=1e-4)
    assert float(found.abs().sum()) == pytest.approx(float(blur.object_part(found).abs().sum()))
    weight = torch.rand(sizes)
    np.testing.assert_allclose(
        blur.object_part(blur.sensitivity_on_grid(weight)), blur.adjoint(weight), rtol=1e-4, atol=1e-4
    )


def test_orientation_with_an_asymmetric_kernel():
    kernel = torch.zeros(5, 5)
    kernel[2, 4] = 1  # light moves by two pixels to the right
    blur = Convolution(kernel, (9, 9))
    x = torch.zeros(blur.object_shape)
    x[6, 4] = 1  # image row 4, column 2
    image = blur.forward(x)
    assert torch.nonzero(image > 0.5).tolist() == [[4, 4]]


def test_extend_reflects_even_beyond_the_image_and_crop_undoes_it():
    blur = Convolution(torch.ones(41, 3) / 123, (16, 16))
    y = torch.arange(256.0).reshape(16, 16)
    extended = blur.extend(y)
    assert extended.shape == blur.object_shape
    assert torch.equal(blur.crop(extended), y)
    np.testing.assert_array_equal(extended[:, 1:-1], np.pad(y.numpy(), ((20, 20), (0, 0)), mode="reflect"))


def test_space_varying_adjoint_by_inner_product():
    blur = varying()
    torch.manual_seed(0)
    x, y = torch.randn(blur.object_shape), torch.randn(blur.image_shape)
    assert float((blur.forward(x) * y).sum()) == pytest.approx(float((x * blur.adjoint(y)).sum()), rel=1e-4)


def test_weights_come_before_the_convolution():
    """A point source spreads with the PSF of its own place: the column of the operator is that PSF."""
    blur = varying(tolerance=1e-5)
    x = torch.zeros(blur.object_shape)
    x[15 + 5, 15 + 80] = 1  # the grid's first row, last column
    image = torch.nn.functional.pad(blur.forward(x), (15, 15, 15, 15))
    spread = image[20 - 15 : 20 + 16, 95 - 15 : 95 + 16]
    inside = (slice(10, None), slice(0, 25))  # the part that lies in the field of view
    np.testing.assert_allclose(spread[inside], kernels_of_a_ramp()[0, -1][inside], atol=1e-5)


def test_one_psf_everywhere_equals_the_plain_convolution():
    kernel = make_psf("zernike-3", [0.3, 0.2, 0.7], size_px=31)
    grid = np.broadcast_to(kernel, (3, 3, 31, 31))
    position = np.array([10, 30, 50], np.float32)
    varying_, plain = (
        MaskThenConvolve(compress(grid, position, position), (64, 64)),
        Convolution(torch.from_numpy(kernel), (64, 64)),
    )
    assert varying_.n_kernels == 1
    x = torch.rand(plain.object_shape)
    np.testing.assert_allclose(varying_.forward(x), plain.forward(x), atol=1e-5)
    np.testing.assert_allclose(varying_.mean_otf_power((64, 64)), plain.mean_otf_power((64, 64)), atol=1e-5)


@pytest.mark.parametrize("tolerance", [0.2, 0.05, 0.01, 0.001])
def test_compression_keeps_the_tolerance_and_the_flux(tolerance):
    kernels = kernels_of_a_ramp()
    position = np.arange(5, dtype=np.float32)
    eigen = compress(kernels, position[:4], position, tolerance=tolerance)
    rebuilt = np.einsum("krc,khw->rchw", eigen.weights, eigen.kernels)
    error = np.linalg.norm(rebuilt - kernels) / np.linalg.norm(kernels)
    assert error <= tolerance + 1e-6
    assert error == pytest.approx(eigen.relative_error, abs=1e-5)
    np.testing.assert_allclose(rebuilt.sum(axis=(-2, -1)), 1, atol=1e-4)


def test_windows_see_the_same_operator_as_the_whole():
    rows = np.linspace(5, 60, 4, dtype=np.float32)
    cols = np.linspace(5, 80, 5, dtype=np.float32)
    eigen: EigenPsfs = compress(kernels_of_a_ramp(), rows, cols)
    whole = MaskThenConvolve(eigen, (70, 90))
    part = MaskThenConvolve(eigen, (30, 40), origin_px=(20, 25))
    x = torch.rand(whole.object_shape)
    cut = x[20 : 20 + part.object_shape[0], 25 : 25 + part.object_shape[1]]
    np.testing.assert_allclose(part.forward(cut), whole.forward(x)[20:50, 25:65], atol=1e-5)


def test_interpolation_is_linear_inside_and_constant_outside():
    matrix = linear_interpolation_matrix(np.array([-3, 0, 2.5, 10, 99]), np.array([0, 10, 20], np.float32))
    np.testing.assert_allclose(matrix @ [0.0, 1.0, 5.0], [0, 0, 0.25, 1, 5])
    np.testing.assert_allclose(linear_interpolation_matrix(np.arange(3), np.array([7], np.float32)), 1)


@pytest.mark.parametrize(
    ("kernel_shape", "shape"),
    [((5,), (12,)), ((3, 7), (9, 16)), ((3, 5, 1), (8, 5, 6)), ((2, 3, 5, 7), (6, 8, 10))],
)
def test_a_transfer_function_is_the_transform_of_the_centred_kernel(kernel_shape, shape):
    torch.manual_seed(0)
    kernel = torch.rand(kernel_shape, dtype=torch.float64, requires_grad=True)
    ndim = len(shape)
    whole = torch.zeros((*kernel_shape[:-ndim], *shape), dtype=torch.float64)
    whole[(..., *(slice(0, size) for size in kernel_shape[-ndim:]))] = kernel.detach()
    dims = tuple(range(-ndim, 0))
    rolled = torch.roll(whole, tuple(-(size // 2) for size in kernel_shape[-ndim:]), dims)
    found = otf(kernel, shape)
    torch.testing.assert_close(found.detach(), torch.fft.rfftn(rolled, dim=dims))
    found.abs().sum().backward()  # what learns a kernel differentiates through this
    assert bool(kernel.grad.isfinite().all())
    assert bool(kernel.grad.any())
