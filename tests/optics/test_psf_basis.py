from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from napari_deblur.blur.space_varying import MaskThenConvolve, compress
from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.io.psf import read_psf_archive
from napari_deblur.optics.basis_learning import FieldPsfs, LearnBasis, principal_components, smooth
from napari_deblur.optics.basis_map import BasisMap
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap

SHAPE = (96, 128)


def blur_of(operator, shape=SHAPE, tolerance=1e-6):
    centers = operator.centers_px
    eigen = compress(operator.kernels(), centers[:, 0, 0], centers[0, :, 1], tolerance=tolerance)
    return MaskThenConvolve(eigen, shape)


def test_a_basis_is_orthogonal_and_keeps_the_flux(small_basis):
    kernels = small_basis.kernels.reshape(len(small_basis.kernels), -1).astype(np.float64)
    np.testing.assert_allclose(kernels.sum(axis=1), [1] + [0] * small_basis.n_psfs, atol=1e-5)
    gram = kernels[1:] @ kernels[1:].T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-6 * gram.max())
    maps = small_basis.maps.reshape(small_basis.n_maps, -1).astype(np.float64)
    np.testing.assert_allclose(maps @ maps.T / maps.shape[1], np.eye(small_basis.n_maps), atol=1e-5)
    kernels = small_basis.operator(small_basis.coefficients[3], SHAPE).kernels()
    np.testing.assert_allclose(kernels.sum(axis=(-2, -1)), 1, atol=1e-5)


def test_strengths_have_mean_square_one_over_the_fields(small_basis):
    local = np.einsum("sij,jrc->sirc", small_basis.coefficients, small_basis.maps)
    np.testing.assert_allclose((local**2).mean(axis=(0, 2, 3)), 1, rtol=1e-4)


def test_an_operator_is_the_sum_of_products_and_convolutions(small_basis):
    rng = np.random.default_rng(1)
    coefficients = small_basis.coefficients[0]
    operator = small_basis.operator(coefficients, SHAPE)
    blur = blur_of(operator)
    x = rng.random(blur.object_shape)
    height, width = blur.object_shape
    half = small_basis.kernel_size_px // 2
    maps = small_basis.maps_at(np.arange(height) - half, np.arange(width) - half, SHAPE)
    strengths = np.einsum("ij,jrc->irc", coefficients, maps)
    expected = convolve2d(x, small_basis.kernels[0], mode="valid")
    for strength, kernel in zip(strengths, small_basis.kernels[1:], strict=True):
        expected += convolve2d(strength * x, kernel, mode="valid")
    found = blur.forward(torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert blur.n_kernels <= 1 + small_basis.n_psfs


def test_the_adjoint_is_exact(small_basis):
    generator = torch.Generator().manual_seed(2)
    blur = blur_of(small_basis.operator(small_basis.coefficients[1], SHAPE))
    x = torch.randn(blur.object_shape, generator=generator)
    y = torch.randn(SHAPE, generator=generator)
    left, right = (blur.forward(x) * y).sum(), (x * blur.adjoint(y)).sum()
    assert abs(float(left - right)) < 1e-3 * float(x.norm() * y.norm()) / 10


def test_constant_strengths_are_a_convolution(small_basis):
    flat = np.zeros((small_basis.n_psfs, small_basis.n_maps), np.float32)
    flat_map = np.linalg.lstsq(
        small_basis.maps.reshape(small_basis.n_maps, -1).T, np.ones(13 * 13), rcond=None
    )[0]
    flat[0] = 0.5 * flat_map
    kernel = small_basis.operator(flat, SHAPE).psf_at(48, 64)
    strength = float(small_basis.maps_at([48], [64], SHAPE)[:, 0, 0] @ flat[0])
    np.testing.assert_allclose(kernel, small_basis.kernels[0] + strength * small_basis.kernels[1], atol=1e-6)
    x = torch.rand(112, 144)
    none = blur_of(small_basis.operator(np.zeros_like(flat), SHAPE))
    expected = convolve2d(x.numpy(), small_basis.kernels[0], mode="valid")
    np.testing.assert_allclose(none.forward(x).numpy(), expected, atol=1e-4)


def test_more_coefficients_leave_out_less_and_a_tolerance_takes_fewer(gaussian_fields):
    errors = [
        LearnBasis(n_coefficients=n, tolerance=0).learn(gaussian_fields, SHAPE).relative_error
        for n in (1, 4, 12)
    ]
    assert errors[0] > errors[1] > errors[2]
    within = LearnBasis(n_coefficients=12, tolerance=errors[1]).learn(gaussian_fields, SHAPE)
    assert within.n_coefficients <= 4
    assert within.relative_error <= errors[1] * (1 + 1e-6)


def test_the_reported_error_is_that_of_the_psfs(small_basis, gaussian_fields):
    left_out, total = 0.0, 0.0
    for field, coefficients in zip(gaussian_fields, small_basis.coefficients, strict=True):
        operator = small_basis.operator(coefficients, SHAPE)
        found = np.stack([operator.psf_at(y, x) for y, x in field.positions_px])
        left_out += float(((found - field.kernels) ** 2).sum())
        total += float((field.kernels**2).sum())
    assert small_basis.relative_error == pytest.approx((left_out / total) ** 0.5, rel=0.02)


def test_a_basis_comes_back_from_its_file(small_basis, tmp_path):
    path = small_basis.save(tmp_path / "basis.npz")
    back = PsfBasis.load(path)
    for name, array in small_basis.arrays().items():
        np.testing.assert_array_equal(array, back.arrays()[name])
    assert back.about() == small_basis.about()
    assert isinstance(read_psf_archive(path), PsfBasis)
    with pytest.raises(OutputError, match="must not exist"):
        small_basis.save(path)


def test_an_operator_comes_back_as_a_psf_map(small_basis, tmp_path):
    errors = np.full(small_basis.n_coefficients, 0.1)
    operator = small_basis.operator(small_basis.coefficients[2], SHAPE, predicted_error=errors)
    back = PsfMap.load(operator.save(tmp_path / "map.npz"))
    assert isinstance(back, BasisMap)
    np.testing.assert_array_equal(back.kernels(), operator.kernels())
    np.testing.assert_array_equal(back.predicted_error, operator.predicted_error)
    assert back.parameter_names[0] == "eigen_psf_1"
    assert not isinstance(read_psf_archive(tmp_path / "map.npz"), PsfBasis)


def test_a_damaged_or_foreign_file_is_refused(small_basis, tmp_path):
    path = small_basis.save(tmp_path / "basis.npz")
    whole = path.read_bytes()
    damaged = tmp_path / "damaged.npz"
    middle = len(whole) // 2
    damaged.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(InvalidInputError, match="psf_basis must be a saved PSF basis"):
        PsfBasis.load(damaged)
    arrays = dict(np.load(path))
    np.savez(tmp_path / "other.npz", **{**arrays, "maps": arrays["maps"][:, :5]})
    with pytest.raises(InvalidInputError, match="maps must have the shape"):
        PsfBasis.load(tmp_path / "other.npz")
    np.savez(tmp_path / "scaled.npz", **{**arrays, "kernels": 2 * arrays["kernels"]})
    with pytest.raises(InvalidInputError, match="sum 1"):
        PsfBasis.load(tmp_path / "scaled.npz")
    small_basis.operator(small_basis.coefficients[0], SHAPE).save(tmp_path / "map.npz")
    with pytest.raises(InvalidInputError, match="must be a saved PSF basis"):
        PsfBasis.load(tmp_path / "map.npz")
    with pytest.raises(InvalidInputError, match="must be an existing file"):
        PsfBasis.load(tmp_path / "none.npz")


def test_what_does_not_fit_is_refused(small_basis):
    with pytest.raises(InvalidInputError, match="must belong to images of"):
        small_basis.operator(small_basis.coefficients[0], (96, 129))
    with pytest.raises(InvalidInputError, match="coefficients must hold"):
        small_basis.operator([1.0], SHAPE)
    with pytest.raises(InvalidInputError, match="coefficients must be finite"):
        small_basis.operator(np.full(small_basis.n_coefficients, np.nan), SHAPE)
    with pytest.raises(InvalidInputError, match="basis_field must be 0 to 11"):
        small_basis.field("12")
    with pytest.raises(InvalidInputError, match="pixel_size_um"):
        small_basis.of_field(0, SHAPE, (0.2, 0.2))
    np.testing.assert_array_equal(small_basis.field("field 3"), small_basis.field(3))


def test_a_part_of_the_field_has_its_psfs(small_basis):
    operator = small_basis.operator(small_basis.coefficients[4], SHAPE)
    part = small_basis.part(30, 40, (50, 60)).operator(small_basis.coefficients[4], (50, 60))
    np.testing.assert_allclose(part.psf_at(10, 20), operator.psf_at(40, 60), atol=1e-6)


def test_a_simulated_field_stretches_over_an_image(small_basis):
    from dataclasses import replace

    free = replace(small_basis, any_size=True)
    operator = free.operator(small_basis.coefficients[4], (192, 256))
    same = small_basis.operator(small_basis.coefficients[4], SHAPE)
    np.testing.assert_allclose(operator.psf_at(191.5 / 2, 255.5 / 2), same.psf_at(47.5, 63.5), atol=1e-4)


def test_learning_refuses_what_does_not_vary(gaussian_fields):
    one = gaussian_fields[0]
    alike = FieldPsfs(one.positions_px, np.repeat(one.kernels[:1], 25, axis=0), "alike")
    with pytest.raises(InvalidInputError, match="must hold PSFs that differ"):
        LearnBasis().learn([alike], SHAPE)
    small = FieldPsfs(one.positions_px, one.kernels[:, 1:-1, 1:-1], "small")
    with pytest.raises(InvalidInputError, match="of one size"):
        LearnBasis().learn([one, small], SHAPE)
    with pytest.raises(InvalidInputError, match="two PSFs or more"):
        LearnBasis().learn([], SHAPE)


def test_one_field_has_a_prior_about_its_size(gaussian_fields):
    basis = LearnBasis(n_coefficients=6).learn(gaussian_fields[:1], SHAPE)
    mean, covariance = basis.prior
    np.testing.assert_allclose(mean, basis.coefficients[0].ravel(), rtol=1e-5)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_a_quadratic_is_fitted_exactly_and_noise_by_its_mean():
    rng = np.random.default_rng(3)
    places, wanted = rng.uniform(-1, 1, (40, 2)), np.array([[0.0, 0.0], [0.5, -0.5]])

    def curve(at):
        return (1 + at[:, 0] - 2 * at[:, 1] ** 2)[:, None]

    np.testing.assert_allclose(smooth(places, curve(places), wanted), curve(wanted), atol=1e-9)
    few = smooth(places[:1], np.array([[3.0]]), wanted)
    np.testing.assert_allclose(few, 3.0)


def test_principal_components_are_those_of_an_svd():
    values = np.random.default_rng(4).standard_normal((30, 8)) * np.arange(1, 9)
    for some in (values, values.T):
        found = principal_components(some, 3)
        _, _, right = np.linalg.svd(some, full_matrices=False)
        np.testing.assert_allclose(np.abs(found @ right[:3].T), np.eye(3), atol=1e-6)
