from __future__ import annotations

import numpy as np
import pytest

import napari_deblur as nd
from napari_deblur.comparison import able, compare, quick_methods, steps_of
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.base import registry
from napari_deblur.optics.psf import make_psf
from napari_deblur.recipe import Recipe
from napari_deblur.samples import tilted_cells


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return Image(rng.poisson(60, (160, 176)).astype(np.float32))


def test_each_method_gets_what_the_deblur_step_gives(engine, image):
    steps, psf = steps_of(["wiener", "richardson-lucy"]), make_psf("gaussian-1", [1.5], 15)
    found = list(compare(steps, image, psf, engine=engine, run=Run()))
    assert [one.method for one in found] == list(steps)
    for one in found:
        alone = steps[one.method].run(image, psf, engine=engine)
        np.testing.assert_array_equal(one.result.image.data, alone.image.data)
        assert one.result.record.facts == alone.record.facts
        assert set(one.row()) >= {"method", "seconds", "flux_change", "residual_rms"}


def test_a_blind_estimate_is_made_once_and_recorded_for_all(engine, monkeypatch):
    from napari_deblur.steps.psf_map import EstimatePsfMap

    calls, estimate = [], EstimatePsfMap.estimate
    monkeypatch.setattr(
        EstimatePsfMap, "estimate", lambda *args, **more: calls.append(1) or estimate(*args, **more)
    )
    cells, steps = tilted_cells(192).image, steps_of(["wiener", "richardson-lucy"])
    found = list(compare(steps, cells, "gaussian-2", engine=engine, run=Run()))
    assert len(calls) == 1
    first, second = (one.result for one in found)
    assert second.record.psf == first.record.psf
    np.testing.assert_array_equal(second.psf.parameters, first.psf.parameters)
    recipe = Recipe.from_records([second.record])
    assert recipe.psf.blind == "gaussian-2", "a recipe finds it again in its own images"


def test_a_cancel_ends_the_comparison(engine, image):
    run = Run()
    run.on_progress = lambda progress: run.cancel() if "iteration" in progress.message else None
    steps = steps_of(["richardson-lucy", "wiener"])
    found = list(compare(steps, image, make_psf("gaussian-1", [1.5], 15), engine=engine, run=run))
    assert [one.method for one in found] == ["richardson-lucy"]
    assert found[0].result.partial


def test_quick_methods_are_neither_slow_nor_for_one_psf_only():
    quick = quick_methods()
    assert "cider" not in quick
    assert all(registry()[id_].space_varying for id_ in quick)


def test_methods_without_volumes_are_left_out_or_refused():
    steps = steps_of(["wiener", "hyper-laplacian"])
    stack = Image(np.ones((6, 32, 32), np.float32))
    cube = np.ones((3, 3, 3), np.float32) / 27
    taken, left_out = able(steps, cube, stack, chosen=False)
    assert (list(taken), left_out) == (["wiener"], ["hyper-laplacian"])
    with pytest.raises(InvalidInputError, match="must all work in 3D"):
        able(steps, cube, stack, chosen=True)
    flat, none = able(steps, cube[1], stack, chosen=True)
    assert (list(flat), none) == (list(steps), [])


def test_the_api_takes_settings_arrays_and_a_background(image):
    from napari_deblur.methods.richardson_lucy import RichardsonLucy

    psf = make_psf("gaussian-1", [1.5], 15)
    few, more = RichardsonLucy(n_iterations=2), RichardsonLucy(n_iterations=4)
    run = Run()
    found = nd.compare(
        image.data, [few, more, "latent-deformation"], psf, background=image.data * 0.1, run=run
    )
    assert [one.method for one in found] == ["richardson-lucy", "richardson-lucy (2)"]
    assert any(note.startswith("Latent deformation") for note in run.notes)
    for one, method in zip(found, (few, more), strict=True):
        alone = nd.deblur(image.data, method, psf, background=image.data * 0.1)
        np.testing.assert_array_equal(one.result.image, alone.image)


def test_what_no_method_can_do_is_an_error(image):
    with pytest.raises(InvalidInputError, match="psf must"):
        nd.compare(image.data, ["latent-deformation"], make_psf("gaussian-1", [1.5], 15))
