from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf import family, make_psf
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.recipe import Recipe
from napari_deblur.recipe_psf import PsfChoice
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.ui.deblur_dock import DeblurDock
from napari_deblur.ui.history import history
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.psf_editor import PsfEditor, coloured_wavefront
from napari_deblur.ui.psf_map_dock import PsfMapDock
from napari_deblur.ui.psf_panel import MAP

NAMES = family("zernike-7").parameter_names
FOUND = np.array([0.1, -0.05, 0.0812345, 0.12, -0.07, 0.03, -0.1], np.float32)


def seven(grid=(2, 2), shape=(96, 112)):
    parameters = np.broadcast_to(FOUND, (*grid, 7)).copy()
    y, x = (np.linspace(20, size - 20, count) for size, count in zip(shape, grid, strict=True))
    return PsfMap.from_parameters(
        "zernike-7",
        parameters,
        centers_px=np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1),
        image_shape=shape,
        predicted_error=np.full_like(parameters, 0.012),
        record={"step": {"kind": "estimate-psf-map"}, "seconds": 0.5},
    )


@pytest.fixture
def editor(qtbot):
    offered = []
    widget = PsfEditor(offered.append)
    qtbot.addWidget(widget)
    widget.offered = offered
    return widget


def picture_of(label):
    return label.pixmap().toImage()


def rms_in(text):
    return float(text.split("Wavefront ")[1].split(" waves")[0])


def test_a_slider_per_aberration_shows_what_was_estimated(editor):
    editor.show_at(seven(), 1, 0)
    assert tuple(editor.sliders) == NAMES
    assert editor.values == dict(zip(NAMES, map(float, FOUND), strict=True)), "as exact as it came"
    assert editor.sliders["vertical_coma_waves"].value() == pytest.approx(0.12)
    assert editor.sliders["defocus_waves"].minimum() == 0
    assert editor.sliders["defocus_waves"].maximum() == pytest.approx(0.15)
    assert editor.sliders["oblique_trefoil_waves"].minimum() == pytest.approx(-0.15)
    assert rms_in(editor.text.text()) == pytest.approx(np.linalg.norm(FOUND), abs=0.002)
    assert "edited" not in editor.text.text()


def test_the_picture_and_the_wavefront_follow_a_slider_and_go_back(editor):
    editor.show_at(seven(), 0, 0)
    psf, wavefront = picture_of(editor.picture), picture_of(editor.wavefront)
    editor.sliders["horizontal_coma_waves"].setValue(0.15)
    assert editor.values["horizontal_coma_waves"] == pytest.approx(0.15)
    assert picture_of(editor.picture) != psf
    assert picture_of(editor.wavefront) != wavefront
    assert "edited" in editor.text.text()
    editor.reset_button.click()
    assert picture_of(editor.picture) == psf
    assert "edited" not in editor.text.text()


def test_the_edited_psf_is_that_of_the_sliders_for_the_whole_image(editor):
    editor.show_at(seven(), 0, 0)
    editor.sliders["defocus_waves"].setValue(0.02)
    editor.use_button.click()
    (edited,) = editor.offered
    assert edited.grid_shape == (1, 1)
    assert edited.record["edited"]["defocus_waves"] == pytest.approx(0.02)
    expected = make_psf("zernike-7", edited.parameters[0, 0].tolist())
    np.testing.assert_allclose(edited.psf_at(3, 90), expected, atol=1e-7)
    assert edited.parameters[0, 0, 2] == FOUND[2], "what was not touched is exact"


def test_other_families_have_their_own_sliders_and_no_wavefront_without_a_pupil(editor):
    editor.show_at(seven(), 0, 0)
    gaussian = PsfMap.from_parameters(
        "gaussian-2", [[[2.0, 1.0]]], centers_px=[[[8, 8]]], image_shape=(16, 16)
    )
    editor.show_at(gaussian, 0, 0)
    assert list(editor.sliders) == ["sigma_y_px", "sigma_x_px"]
    assert not editor.wavefront.isVisibleTo(editor)
    astigmatic = PsfMap.from_parameters(
        "zernike-3", [[[0.2, 0.1, 0.3]]], centers_px=[[[8, 8]]], image_shape=(16, 16)
    )
    editor.show_at(astigmatic, 0, 0)
    assert editor.wavefront.isVisibleTo(editor)
    assert rms_in(editor.text.text()) == pytest.approx(np.hypot(0.2, 0.1), abs=0.002)


def test_a_flat_wavefront_is_no_division_by_zero(qapp):
    waves = np.zeros((20, 20), np.float32)
    waves[0, 0] = np.nan
    picture = coloured_wavefront(waves, 20).toImage()
    assert picture.pixelColor(0, 0).alpha() == 0
    assert picture.pixelColor(10, 10).alpha() == 255


@pytest.fixture
def estimates(monkeypatch):
    monkeypatch.setattr(
        EstimatePsfMap, "run", lambda self, image, **more: seven((1, 1) if self.one_psf else (2, 2))
    )


@pytest.mark.window
def test_reading_editing_and_restoring_in_the_window(viewer, opened, estimates, idle, picture, notes):
    layer = viewer.add_image(picture, name="cells")
    dock = opened(PsfMapDock)
    dock.run()
    idle()
    assert not dock.editing.isVisibleTo(dock)
    dock.show_at(layer.data_to_world((30.0, 40.0)))
    assert dock.editing.isVisibleTo(dock)
    text = dock.view.text.text()
    assert "in waves:\n" in text
    assert "oblique astigmatism -0.050 ± 0.012\n" in text
    assert all(name.removesuffix("_waves").replace("_", " ") in text for name in NAMES)
    dock.editing.expand()
    dock.editor.sliders["defocus_waves"].setValue(0.03)
    dock.editor.use_button.click()
    assert "edited PSF" in dock.message.text()
    assert dock.entry().maps[0].grid_shape == (2, 2), "the estimate is kept"

    deblur = opened(DeblurDock)
    assert deblur.psf.current == MAP
    assert deblur.psf.map.currentText() == "cells · edited PSF · zernike-7, 1 × 1"
    deblur.method.combo.setCurrentIndex(deblur.method.combo.findData("wiener"))
    deblur.run()
    idle()
    assert "cells · Wiener" in [one.name for one in viewer.layers]
    psf = viewer.layers["cells · Wiener"].metadata["napari-deblur"]["psf"]
    assert psf["grid"] == [1, 1]
    assert psf["median"]["defocus_waves"] == pytest.approx(0.03)


def test_an_edited_psf_makes_a_recipe_only_from_its_file(viewer, opened, estimates, idle, picture, tmp_path):
    viewer.add_image(picture, name="cells")
    dock = opened(PsfMapDock)
    dock.run()
    idle()
    dock.show_at((30.0, 40.0))
    dock.editor.sliders["defocus_waves"].setValue(0.03)
    dock.editor.use_button.click()
    deblur = opened(DeblurDock)
    deblur.method.combo.setCurrentIndex(deblur.method.combo.findData("wiener"))
    deblur.run()
    idle()
    with pytest.raises(InvalidInputError, match=r"psf must be in a file .* save it .* edited by hand"):
        history(viewer).save_recipe(tmp_path / "r.yaml")
    dock.editor.save(tmp_path / "mine")
    deblur.run()
    idle()
    recipe = Recipe.load(history(viewer).save_recipe(tmp_path / "r.yaml"))
    assert recipe.psf == PsfChoice(map=str(tmp_path / "mine.npz"))
    saved = dict(zip(NAMES, PsfMap.load(recipe.psf.map).parameters[0, 0], strict=True))
    assert saved["defocus_waves"] == pytest.approx(0.03)


def test_one_psf_of_the_field_is_shown_at_once(viewer, opened, estimates, idle, picture):
    viewer.add_image(picture, name="cells")
    dock = opened(PsfMapDock)
    dock.form.form.fields["one_psf"].set(True)
    dock.run()
    idle()
    assert dock.view.text.text().startswith("y 20, x 20")
    assert dock.editing.isVisibleTo(dock)


def test_depth_and_defaults_take_the_estimate_not_what_was_edited(viewer, picture):
    layer = viewer.add_image(picture, name="cells")
    source, store = LayerImage.of(layer), map_store(viewer)
    estimate = MapEntry.of(source, [seven()], None)
    store.add(estimate)
    store.add(
        MapEntry("cells · edited PSF", (seven((1, 1)),), None, (), source.placement, source.layer_id, True)
    )
    assert store.best_for(source) is estimate
    assert [entry.edited for entry in store.usable(source)] == [True, False]
