from __future__ import annotations

import numpy as np
import pytest

import napari_deblur as nd
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.shared import get_engine
from napari_deblur.optics.basis_map import BasisMap
from napari_deblur.optics.simulated_fields import SimulatedFields
from napari_deblur.recipe import Recipe
from napari_deblur.steps.identify import IdentifyOperator, known_basis

SHAPE = (192, 208)


@pytest.fixture(scope="module")
def basis():
    return SimulatedFields(n_fields=20, n_positions=3).basis()


@pytest.fixture(scope="module")
def operator(basis):
    return basis.operator(basis.coefficients[1], SHAPE)


@pytest.fixture(scope="module")
def image(operator, texture, blurred):
    return 100 * blurred(texture(SHAPE, 3), operator, noise=0.01)


def off(found, operator):
    return float(np.linalg.norm(found.kernels() - operator.kernels()) / np.linalg.norm(operator.kernels()))


def test_the_blur_found_is_nearer_than_the_mean(basis, operator, image):
    found = nd.estimate_psf_map(image, basis=basis)
    assert isinstance(found, BasisMap)
    mean = basis.operator(basis.prior[0], SHAPE)
    assert off(found, operator) < 0.7 * off(mean, operator)
    assert found.predicted_error is not None
    assert found.record["step"]["kind"] == "identify-operator"
    assert 0 < float(found.confidence.min()) < 1


@pytest.mark.parametrize("method", ["wiener", "richardson-lucy", "tv-richardson-lucy", "hyper-laplacian"])
def test_a_basis_restores_blindly_and_a_field_of_it_without_search(basis, operator, image, method):
    blind = nd.deblur(image, method, basis)
    assert isinstance(blind.psf, BasisMap)
    assert blind.record.psf["source"] == "psf-basis"
    assert len(blind.record.psf["coefficients"]) == basis.n_coefficients
    known = nd.deblur(image, method, operator)
    assert known.record.psf["source"] == "psf-map"
    for result in (blind, known):
        # What is left is the noise, of standard deviation 1.
        assert 0.5 < float(np.sqrt(np.mean(result.residual**2))) < 1.5


def test_the_model_id_takes_a_simulated_microscope(image):
    found = nd.estimate_psf_map(image, model="product-convolution")
    assert found.basis.record["simulated"]["cutoff_cycles_per_px"] == pytest.approx(0.261)
    result = nd.deblur(image, "wiener", "product-convolution")
    np.testing.assert_allclose(result.psf.coefficients, found.coefficients, atol=1e-5)
    recipe = Recipe.from_records([result.record])
    assert recipe.psf.blind == "product-convolution"


def test_optics_set_the_simulated_microscope():
    optics = nd.Optics(na=1.2, wavelength_um=0.6, pixel_size_um=0.1)
    assert known_basis("product-convolution", optics).cutoff_cycles_per_px == pytest.approx(0.2)
    coarse = nd.Optics(na=1.2, wavelength_um=0.6, pixel_size_um=0.4)
    with pytest.raises(InvalidInputError, match="pixel_size_um must give"):
        known_basis("product-convolution", coarse)


def test_every_plane_of_a_stack_is_read_for_itself(basis, operator, image):
    stack = np.stack([image, image[::-1]])
    found = IdentifyOperator().run(Image(stack), basis, engine=get_engine())
    assert len(found) == 2
    assert np.abs(found[0].coefficients - found[1].coefficients).max() > 0.05
    result = nd.deblur(stack, "wiener", basis)
    assert len(result.psf) == 2
    np.testing.assert_allclose(result.psf[0].coefficients, found[0].coefficients, atol=1e-5)


def test_a_method_of_one_psf_starts_from_the_mean_of_the_field(basis, image):
    run = Run()
    result = nd.deblur(image[:96, :96], "self-deblur", basis, run=run, n_iterations=1)
    assert result.psf.ndim == 2
    assert any("starts from the map's mean" in note for note in result.record.notes)


def test_what_does_not_fit_the_basis_is_refused(small_basis, image):
    with pytest.raises(InvalidInputError, match="must belong to images of"):
        nd.deblur(image, "wiener", small_basis)
    other = Image(np.random.default_rng(0).random((96, 128), np.float32), "yx", (0.2, 0.2))
    with pytest.raises(InvalidInputError, match="pixel_size_um must be that of the PSF basis"):
        nd.deblur(other, "wiener", small_basis)
    with pytest.raises(InvalidInputError, match="product-convolution or a PSF basis"):
        known_basis("zernike-3")


def test_an_image_of_another_blur_is_remarked(basis):
    rng = np.random.default_rng(0)
    run = Run()
    IdentifyOperator().run(Image(rng.random(SHAPE, np.float32)), basis, engine=get_engine(), run=run)
    assert run.facts["distance_from_learned_fields"] >= 0


def test_a_recipe_repeats_a_basis_from_its_file(basis, image, tmp_path):
    path = basis.save(tmp_path / "basis.npz")
    steps = [{"kind": "deblur", "method": "wiener"}]
    for choice in ({"basis": str(path)}, {"basis": str(path), "basis_field": "3"}):
        recipe = Recipe.from_dict({"version": 1, "steps": steps, "psf": choice})
        result = recipe.run(Image(image), engine=get_engine())
        record = result.records[0]
        assert record["psf"]["path"] == str(path)
        again = Recipe.from_records([record])
        assert again.psf.basis == str(path)
        assert again.psf.basis_field == choice.get("basis_field")
    with pytest.raises(InvalidInputError, match="must name the basis"):
        Recipe.from_dict({"version": 1, "steps": steps, "psf": {"basis_field": "3"}})
