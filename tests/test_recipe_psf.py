"""A recipe made of records runs with the PSF that was used, or says that it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.engine.shared import get_engine
from napari_deblur.methods.base import registry
from napari_deblur.optics.settings import Optics
from napari_deblur.recipe import Recipe, make_step
from napari_deblur.recipe_psf import PsfChoice
from napari_deblur.steps.background import RemoveBackground
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.psf_map import EstimatePsfMap

OPTICS = Optics(na=0.7, wavelength_um=0.5, pixel_size_um=0.157)
MAP_STEP = {"kind": "estimate-psf-map", "model": "zernike-3", "stride_px": 32}
MAPPED = {"step": MAP_STEP}


@pytest.fixture(scope="module")
def image():
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    spots = np.zeros((144, 152), np.float32)
    spots[rng.integers(0, 144, 300), rng.integers(0, 152, 300)] = rng.uniform(500, 1000, 300)
    return Image(gaussian_filter(spots, 2.0) + 10, pixel_size_um=(0.157, 0.157), name="spots")


def deblurred(image, psf=None, **more):
    return Deblur(method="wiener").run(image, psf, engine=get_engine(), **more)


def repeated(psf, *before, method="wiener"):
    """Return the recipe of a run with a PSF that its record describes so."""
    step = make_step({"kind": "deblur", "method": {"kind": method}}).model_dump(mode="json")
    return Recipe.from_records([*before, {"step": step, "psf": psf}])


def test_optics_that_helped_a_blind_estimate_help_again(image):
    first = deblurred(image, "zernike-3", optics=OPTICS)
    assert first.record.input["optics"] == OPTICS.model_dump(mode="json")
    again = Recipe.from_records([first.record])
    assert (again.psf, again.optics) == (PsfChoice(blind="zernike-3"), OPTICS)
    assert np.array_equal(again.run(image, engine=get_engine()).image.data, first.image.data)
    kernel = np.ones((3, 3), np.float32) / 9
    # A recipe would take them for the PSF where nothing else is.
    assert "optics" not in deblurred(image, kernel, optics=OPTICS).record.input


def test_one_psf_of_the_field_stays_one_also_where_a_map_was_estimated(image, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(registry()["wiener"], "default_one_psf", True)
        first = deblurred(image)
    assert first.record.psf["grid"] == [1, 1]
    mapped = EstimatePsfMap(**MAP_STEP).run(image, engine=get_engine())
    again = Recipe.from_records([mapped.record, first.record])
    assert again.psf == PsfChoice(blind="gaussian-2", one_psf=True)
    assert Recipe.from_dict(again.to_dict()).psf == again.psf
    second = again.run(image, engine=get_engine())
    assert second.records[-1]["psf"] == first.record.psf
    assert np.array_equal(second.image.data, first.image.data)
    with pytest.raises(InvalidInputError, match="psf must name the model that reads one PSF"):
        Recipe.from_dict(
            {"version": 1, "steps": [{"kind": "deblur", "method": "wiener"}], "psf": {"one_psf": True}}
        )


def test_a_blind_estimate_is_no_map_of_a_step_before():
    blind = {"source": "psf-map", "model": "gaussian-2", "blind": True}
    assert repeated(blind, MAPPED).psf == PsfChoice(blind="gaussian-2")
    assert repeated({"source": "psf-map", "model": "zernike-3"}, MAPPED).psf == PsfChoice()


def test_the_step_that_estimated_the_map_in_use_counts():
    used = {"kind": "estimate-psf-map", "model": "gaussian-2", "stride_px": 16}
    psf = {"source": "psf-map", "model": "gaussian-2", "estimated": used}
    for before in ([], [MAPPED]):
        recipe = repeated(psf, *before)
        assert recipe.psf == PsfChoice()
        assert [step.kind for step in recipe.steps] == ["estimate-psf-map", "deblur"]
        assert recipe.steps[0] == EstimatePsfMap(model="gaussian-2", stride_px=16)
    assert repeated({**psf, "path": "/m.npz"}).psf == PsfChoice(map="/m.npz")


@pytest.mark.parametrize("before", [[], [MAPPED]])
def test_a_map_that_no_step_repeats_has_to_be_in_a_file(before):
    psf = {"source": "psf-map", "model": "zernike-3", "made": "edited by hand"}
    with pytest.raises(InvalidInputError, match=r"psf must be in a file .* save it .* edited by hand"):
        repeated(psf, *before)
    assert repeated({**psf, "path": "/m.npz"}, *before).psf == PsfChoice(map="/m.npz")


def test_a_search_starts_again_where_it_started():
    def started(start, *before, **more):
        psf = {"source": "self-deblur", "shape": [9, 9], "started_from": start, **more}
        return repeated(psf, *before, method="self-deblur")

    assert started({"source": "kernel"}, path="/k.npy").psf == PsfChoice(file="/k.npy")
    assert started({"source": "optics", **OPTICS.model_dump()}).optics == OPTICS
    blind = {"source": "psf-map", "model": "zernike-3", "blind": True}
    assert started(blind, MAPPED).psf == PsfChoice(blind="zernike-3")
    other = OPTICS.model_copy(update={"wavelength_um": 0.6})
    each = [{"source": "optics", **one.model_dump()} for one in (OPTICS, other)]
    found = started(each[0], channels=[{"source": "self-deblur", "started_from": one} for one in each])
    assert found.channels == (OPTICS, other)
    with pytest.raises(InvalidInputError, match="psf must be in a file"):
        started({"source": "kernel"})
    with pytest.raises(InvalidInputError, match=r"psf must be in a file .* another method found"):
        repeated({"source": "self-deblur", "started_from": {"source": "none"}})


def test_a_method_without_any_psf_takes_no_map_and_no_optics_either(image):
    mapped = {**MAPPED, "input": {"optics": OPTICS.model_dump()}}
    psf = {"source": "self-deblur", "started_from": {"source": "none", "shape": [9, 9]}}
    recipe = repeated(psf, mapped, method="self-deblur")
    assert recipe.psf == PsfChoice(default=True)
    assert Recipe.from_dict(recipe.to_dict()).psf == recipe.psf

    from napari_deblur.core.run import Run
    from napari_deblur.recipe_run import RecipeRun

    run = RecipeRun(recipe, image, get_engine(), Run())
    assert run.psf() == (None, None)


def test_a_background_that_was_given_is_estimated_again_or_refused(image):
    ground = RemoveBackground(n_iterations=1).run(image)
    first = deblurred(image, OPTICS, background=ground.background)
    assert first.record.input["background"] == "in memory"
    with pytest.raises(InvalidInputError, match=r"background must be estimated by a step before.*in memory"):
        Recipe.from_records([first.record])
    again = Recipe.from_records([ground.record, first.record])
    assert [step.kind for step in again.steps] == ["remove-background", "deblur"]
    second = again.run(image, engine=get_engine())
    assert np.allclose(second.image.data, first.image.data, atol=1e-3 * float(first.image.data.max()))
    assert "background" not in deblurred(ground.image, OPTICS).record.input, "it is the step's own"
