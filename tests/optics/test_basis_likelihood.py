from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.optics.basis_learning import FieldPsfs, LearnBasis
from napari_deblur.optics.basis_likelihood import SpectralLikelihood
from napari_deblur.optics.psf import family
from napari_deblur.optics.simulated_fields import SimulatedFields

SHAPE, WIDE = (96, 128), (320, 320)


@pytest.fixture(scope="module")
def wide_basis():
    """The basis of a simulated microscope, over a field of several regions."""
    return SimulatedFields(n_fields=20, n_positions=3).basis().over(WIDE)


def off(found, operator):
    """Return the relative error of the kernels of a map."""
    error = np.linalg.norm(found.kernels() - operator.kernels())
    return float(error / np.linalg.norm(operator.kernels()))


def test_the_operator_is_found_in_the_image(wide_basis, texture, blurred):
    scores, spread = [], []
    for number in (0, 5, 9):
        operator = wide_basis.operator(wide_basis.coefficients[number], WIDE)
        y = blurred(texture(WIDE, number), operator, noise=0.01)
        found = SpectralLikelihood(y, wide_basis).find(Run())
        mean = wide_basis.operator(wide_basis.prior[0], WIDE)
        scores.append((off(wide_basis.operator(found.coefficients, WIDE), operator), off(mean, operator)))
        spread.append((found.coefficients - wide_basis.coefficients[number]) / found.errors)
    errors, before = np.mean(scores, axis=0)
    assert errors < before / 2
    assert 0.3 < np.sqrt(np.mean(np.square(spread))) < 3


def test_the_scale_of_the_image_does_not_matter(small_basis, texture, blurred):
    y = blurred(texture(SHAPE, 1), small_basis.operator(small_basis.coefficients[2], SHAPE), noise=0.01)
    one = SpectralLikelihood(y, small_basis).find(Run())
    other = SpectralLikelihood(1000 * y + 5000, small_basis).find(Run())
    np.testing.assert_allclose(one.coefficients, other.coefficients, atol=0.1)


def test_a_psf_is_told_from_the_same_turned_by_half(blurred):
    rng = np.random.default_rng(0)
    fields = []
    for number in range(10):
        waves = torch.zeros(9, 7)
        waves[:, 3] = float(rng.choice([-1, 1]) * rng.uniform(0.1, 0.2))
        kernels = family("zernike-7").kernels(waves, 31).numpy()
        places = np.stack(np.meshgrid([0, 64, 127], [0, 64, 127], indexing="ij"), axis=-1).reshape(-1, 2)
        fields.append(FieldPsfs(places.astype(float), kernels, str(number)))
    basis = LearnBasis(n_coefficients=2).learn(fields, (128, 128))
    scene = np.zeros((128, 128), np.float32)
    scene[tuple(rng.integers(8, 120, (2, 60)))] = 1
    right = 0
    for number in range(4):
        operator = basis.operator(basis.coefficients[number], (128, 128))
        found = SpectralLikelihood(blurred(scene, operator, noise=0.002), basis).find(Run())
        right += bool(np.sum(found.coefficients * basis.coefficients[number]) > 0)
    assert right == 4


def test_what_cannot_be_read_is_refused(small_basis):
    with pytest.raises(InvalidInputError, match="must be at least 64"):
        SpectralLikelihood(np.random.default_rng(0).random((60, 96), np.float32), small_basis)
    with pytest.raises(InvalidInputError, match="a constant plane"):
        SpectralLikelihood(np.full(SHAPE, 3.0, np.float32), small_basis)


def test_the_search_can_be_cancelled(small_basis, texture):
    run = Run()
    run.cancel()
    with pytest.raises(CancelledError):
        SpectralLikelihood(texture(SHAPE), small_basis).find(run)
