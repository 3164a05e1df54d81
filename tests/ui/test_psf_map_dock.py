from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.ui.layers import METADATA_KEY, LayerImage, Placement
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.psf_map_dock import PsfMapDock
from napari_deblur.ui.psf_overlays import Grid, add_overlays, astigmatism_lines, mosaic, readable


@pytest.fixture
def true_map(sample):
    psf_map = sample.psf_map(64)
    psf_map.valid[0, 0] = False
    return psf_map


@pytest.fixture
def estimates(monkeypatch, true_map):
    """Give the true map in place of an estimate, fitted to whatever image comes in."""
    calls = []

    def run(self, image, *, engine, run, optics=None):
        calls.append((self, image, optics))
        height, width = image.shape_yx
        maps = [
            type(true_map).from_parameters(
                "zernike-3",
                true_map.parameters,
                centers_px=true_map.centers_px * (height / 256, width / 256),
                image_shape=(height, width),
                valid=true_map.valid,
                confidence=true_map.confidence,
                predicted_error=np.full_like(true_map.parameters, 0.02),
                record={"step": {"kind": "estimate-psf-map"}, "seconds": 0.5},
            )
            for _ in image.planes()
        ]
        return maps if image.data.ndim > 2 else maps[0]

    monkeypatch.setattr(EstimatePsfMap, "run", run)
    return calls


@pytest.fixture
def dock(opened):
    dock = opened(PsfMapDock)
    return dock


@pytest.fixture
def mapped(viewer, dock, estimates, idle, sample):
    """A viewer with the sample and its map."""
    layer = viewer.add_image(
        sample.image.data, name="cells", scale=(0.64, 0.64), units=("um", "um"), translate=(10, 20)
    )
    dock.run()
    idle()
    return layer


def overlay(viewer, what):
    return viewer.layers[f"cells · {what}"]


@pytest.mark.window
def test_overlays_lie_over_the_input(viewer, mapped, true_map):
    names = [layer.name for layer in viewer.layers]
    assert names == [
        "cells",
        "cells · local PSFs",
        "cells · confidence",
        "cells · defocus error (waves)",
        "cells · astigmatism error (waves)",
        "cells · axis error (rad)",
        "cells · axis (rad)",
        "cells · astigmatism (waves)",
        "cells · defocus (waves)",
        "cells · invalid patches",
        "cells · astigmatism axis",
    ]
    defocus = overlay(viewer, "defocus (waves)")
    np.testing.assert_array_equal(defocus.data, true_map.parameters[..., 0])
    for at in ((0, 0), (3, 2)):
        centre = mapped.data_to_world(true_map.centers_px[at])
        np.testing.assert_allclose(defocus.data_to_world(at), centre, atol=1e-5)
        np.testing.assert_allclose(overlay(viewer, "invalid patches").data_to_world(at), centre, atol=1e-5)
    mosaic_layer = overlay(viewer, "local PSFs")
    side = mosaic_layer.data.shape[0] // 4
    tile_centre = (side - 1) / 2
    np.testing.assert_allclose(
        mosaic_layer.data_to_world((tile_centre, tile_centre + side)),
        mapped.data_to_world(true_map.centers_px[0, 1]),
        atol=1e-5,
    )
    assert overlay(viewer, "invalid patches").data[0, 0] == 1
    assert overlay(viewer, "invalid patches").data.sum() == 1
    assert all(layer.units == mapped.units for layer in viewer.layers)
    for layer in list(viewer.layers)[1:]:
        about = layer.metadata[METADATA_KEY]
        assert about == json.loads(json.dumps(about))
        assert (about["role"], about["of"]) == ("overlay", "cells")


def test_vectors_point_along_the_axis_with_the_power_as_length(viewer, mapped, true_map):
    lines = overlay(viewer, "astigmatism axis").data
    assert lines.shape == (15, 2, 2), "one line per valid patch"
    middle = lines[:, 0] + lines[:, 1] / 2
    np.testing.assert_allclose(middle, true_map.centers_px[true_map.valid], atol=1e-3)
    axis = true_map.parameters[true_map.valid][:, 2]
    angle = np.arctan2(lines[:, 1, 0], lines[:, 1, 1]) % np.pi
    assert np.abs(np.exp(2j * angle) - np.exp(2j * axis)).max() < 1e-4
    lengths = np.linalg.norm(lines[:, 1], axis=1)
    np.testing.assert_allclose(lengths, 0.8 * 64, rtol=1e-5)


def test_lines_are_in_proportion_to_the_power(true_map):
    weaker = true_map.parameters.copy()
    weaker[0, 1, 1] /= 3
    one = type(true_map).from_parameters(
        "zernike-3", weaker, centers_px=true_map.centers_px, image_shape=true_map.image_shape
    )
    lengths = np.linalg.norm(astigmatism_lines([one], ())[:, 1], axis=1).reshape(4, 4)
    assert lengths[0, 1] == pytest.approx(lengths[0, 0] / 3, rel=1e-4)


@pytest.mark.window
def test_clicking_shows_the_psf_there(viewer, dock, mapped, true_map):
    assert not dock.view.picture.isVisibleTo(dock)
    click(viewer, mapped.data_to_world((100.0, 130.0)))
    text = dock.view.text.text()
    assert text.startswith("y 100, x 130 px")
    assert "defocus " in text
    assert "confidence 100%" in text
    assert dock.view.picture.isVisibleTo(dock)
    assert dock.view.picture.pixmap().width() > 50
    click(viewer, mapped.data_to_world((10.0, 10.0)))
    assert "too little texture" in dock.view.text.text()
    click(viewer, mapped.data_to_world((-50.0, 10.0)))
    assert dock.view.text.text().startswith("y 10, x 10"), "a click beside the image changes nothing"


def test_dragging_is_no_click(viewer, dock, mapped):
    click(viewer, mapped.data_to_world((100.0, 130.0)), drag=True)
    assert dock.view.text.text().startswith("Click the image")


def click(viewer, position, drag=False):
    """Press, perhaps drag, and release the mouse as napari passes it on."""
    event = SimpleNamespace(
        type="mouse_press",
        position=position,
        is_dragging=False,
        button=1,
        modifiers=(),
        handled=False,
        pos=(0, 0),
    )
    mouse_press_callbacks(viewer, event)
    if drag:
        event.type, event.is_dragging = "mouse_move", True
        mouse_move_callbacks(viewer, event)
    event.type = "mouse_release"
    mouse_release_callbacks(viewer, event)


@pytest.mark.window
def test_a_second_run_replaces_the_overlays(viewer, dock, mapped, idle):
    count = len(viewer.layers)
    dock.run()
    idle()
    assert len(viewer.layers) == count
    assert len(map_store(viewer).entries) == 1
    assert dock.picker.layer() is mapped, "overlays are no inputs"


def test_save_and_load(viewer, dock, mapped, idle, tmp_path, true_map, notes):
    path = tmp_path / "map.npz"
    assert dock.save_button.isEnabled()
    dock.save(path)
    store = map_store(viewer)
    store.entries.clear()
    assert dock.load(path)
    idle()
    np.testing.assert_array_equal(store.entries[0].maps[0].parameters, true_map.parameters)
    assert store.entries[0].path == path.resolve(), "for the record"
    smaller = viewer.add_image(np.random.default_rng(0).random((64, 64)), name="small")
    dock.picker.choose(smaller)
    dock.load(path)
    idle()
    assert "must belong to an image of (64, 64) pixels" in notes[-1][1]


def test_the_form_and_the_optics_reach_the_step(viewer, dock, estimates, idle, sample):
    viewer.add_image(sample.image.data, name="cells", scale=(640, 640), units=("nm", "nm"))
    dock.form.form.set(EstimatePsfMap(model="gaussian-2", stride_px=40))
    dock.optics.tick.setChecked(True)
    assert dock.optics.form.fields["pixel_size_um"].value() == pytest.approx(0.64)
    dock.optics.form.fields["na"].set(0.2)
    dock.optics.form.fields["wavelength_um"].set(0.58)
    dock.run()
    idle()
    step, image, optics = estimates[0]
    assert (step.model, step.stride_px) == ("gaussian-2", 40)
    assert image.pixel_size_um == pytest.approx((0.64, 0.64))
    assert optics.na == 0.2
    assert optics.pixel_size_um == pytest.approx(0.64)


def test_optics_that_lack_a_value_are_asked_for(viewer, dock, estimates, sample, notes):
    viewer.add_image(sample.image.data, name="cells")
    dock.optics.tick.setChecked(True)
    dock.run()
    assert notes == [("error", "na is required; received nothing")]
    assert estimates == []


def test_one_plane_or_every_plane_of_a_stack(viewer, dock, estimates, idle, sample):
    data = np.stack([sample.image.data, sample.image.data[::-1]])
    layer = viewer.add_image(data, name="cells", scale=(3, 1, 1))
    viewer.dims.set_point(0, 3)
    dock.run()
    idle()
    assert estimates[0][1].data.shape == (1, 256, 256)
    np.testing.assert_array_equal(estimates[0][1].data[0], data[1])
    assert overlay(viewer, "defocus (waves)").data.shape == (4, 4)
    dock.all_planes.setChecked(True)
    dock.run()
    idle()
    assert estimates[1][1].data.shape == data.shape
    assert overlay(viewer, "defocus (waves)").data.shape == (2, 4, 4)
    assert overlay(viewer, "astigmatism axis").data.shape == (30, 2, 3)
    assert overlay(viewer, "local PSFs").data.shape[0] == 2
    click(viewer, layer.data_to_world((1.0, 100.0, 100.0)))
    assert dock.view.text.text().startswith("y 100, x 100")


def test_preview_covers_its_region(viewer, dock, estimates, idle):
    layer = viewer.add_image(np.random.default_rng(0).random((800, 800)), name="cells")
    viewer.scene.camera.center = (400, 400)
    dock.preview()
    idle()
    assert estimates[0][1].data.shape == (320, 320)
    defocus = viewer.layers["cells · defocus (waves) · preview"]
    first = layer.world_to_data(defocus.data_to_world((0, 0)))
    np.testing.assert_allclose(first, 240 + 31.5 * 320 / 256, atol=1e-3)
    assert map_store(viewer).entries == [], "a preview is no map of the image"
    assert dock.message.text() == "Done"
    assert defocus.metadata[METADATA_KEY]["role"] == "preview"
    assert dock.picker.layer() is layer, "a preview is no input"


def test_a_preview_leaves_the_map_of_the_whole_image(viewer, dock, mapped, true_map, idle):
    moved = replace(true_map, parameters=true_map.parameters + np.float32(0.1))
    other = viewer.add_image(np.zeros((256, 256)), name="red")
    dock.store.add(MapEntry.of(LayerImage.of(other), [moved], ()))
    dock.compare.button.click()
    marks = {METADATA_KEY: {"role": "overlay", "of": "cells", "quantity": "known depths"}}
    viewer.add_points([[3, 4]], name="cells · known depths", metadata=marks)
    sharp = {METADATA_KEY: {"role": "preview", "of": "cells", "quantity": "Wiener"}}
    viewer.add_image(np.eye(16), name="cells · Wiener · preview", metadata=sharp)
    before = [(layer.name, layer.data) for layer in viewer.layers]
    dock.preview()
    idle()
    assert [(layer.name, layer.data) for layer in viewer.layers][: len(before)] == before
    previews = [layer.name for layer in viewer.layers if layer.name.endswith(" · preview")]
    assert "cells · defocus (waves) · preview" in previews
    click(viewer, mapped.data_to_world((100.0, 130.0)))
    assert dock.view.text.text().startswith("y 100, x 130 px")
    dock.preview()
    idle()
    assert [layer.name for layer in viewer.layers if layer.name.endswith(" · preview")] == previews
    dock.run()
    idle()
    left = {layer.name for layer in viewer.layers}
    assert not {name for name in left if name.endswith(" · preview")} - {"cells · Wiener · preview"}
    assert {"cells · defocus (waves)", "cells · known depths", "cells · Wiener · preview"} <= left
    assert not any("minus" in name for name in left), "a difference to a map that is gone"


def test_the_confidence_of_an_older_map_is_not_repeated(viewer, dock, mapped, idle):
    assert "Confidence" in dock.message.text()
    dock.submit("building a basis", lambda run: None, lambda basis: None)
    idle()
    assert dock.message.text() == "Done"


def test_optics_come_from_the_metadata_too(viewer, dock, sample):
    viewer.add_image(sample.image.data, name="cells", metadata={"LensNA": 0.4})
    assert dock.optics.form.fields["na"].value() == 0.4


def test_predicted_errors_and_confidence_are_overlays(viewer, dock, mapped, true_map):
    error = overlay(viewer, "defocus error (waves)")
    np.testing.assert_allclose(error.data, 0.02)
    assert error.contrast_limits == pytest.approx([0, 0.6 / np.sqrt(12)])
    assert not error.visible
    np.testing.assert_array_equal(overlay(viewer, "confidence").data, true_map.confidence)
    assert "Confidence 100% (median), 15 of 16 patches valid" in dock.message.text()


def test_a_map_without_errors_has_no_error_overlay(viewer, true_map):
    layer = viewer.add_image(np.zeros((256, 256)), name="cells")
    add_overlays(viewer, "cells", Placement.of(layer), [true_map], (), None)
    assert "cells · confidence" in viewer.layers
    assert "cells · defocus error (waves)" not in viewer.layers


def test_two_channels_are_compared(viewer, dock, mapped, true_map, sample):
    other = viewer.add_image(sample.image.data, name="red", scale=(0.64, 0.64), units=("um", "um"))
    moved = true_map.parameters.copy()
    moved[..., 0] += 0.1
    red = replace(true_map, parameters=moved, predicted_error=np.full_like(moved, 0.02))
    dock.store.add(MapEntry.of(LayerImage.of(other), [red], ()))
    panel = dock.compare
    assert [panel.others.itemText(i) for i in range(panel.others.count())] == ["red"]
    panel.button.click()
    layer = viewer.layers["cells minus red · defocus (waves)"]
    np.testing.assert_allclose(layer.data[true_map.valid], -0.1, atol=1e-5)
    assert np.isnan(layer.data[0, 0]), "invalid in one of them"
    np.testing.assert_allclose(
        layer.data_to_world((2, 1)), mapped.data_to_world(true_map.centers_px[2, 1]), atol=1e-5
    )
    assert layer.contrast_limits[0] == -layer.contrast_limits[1]
    assert "cells minus red\ndefocus: -0.1 ± " in panel.text.text()
    assert "beyond the predicted errors (3.5×)" in panel.text.text()
    assert "axis: +0 ± 0 rad, within" in panel.text.text()
    count = len(viewer.layers)
    panel.button.click()
    assert len(viewer.layers) == count, "shown again in place"
    assert dock.picker.layer() is mapped


def test_maps_that_cannot_be_compared_are_named(viewer, dock, mapped, true_map, notes):
    panel = dock.compare
    assert panel.others.count() == 0
    assert not panel.button.isEnabled()
    one = true_map.from_parameters(
        "gaussian-1", [[[2.0]]], centers_px=[[[128, 128]]], image_shape=true_map.image_shape
    )
    layer = viewer.add_image(np.zeros((256, 256)), name="other")
    dock.store.add(MapEntry.of(LayerImage.of(layer), [one], ()))
    panel.button.click()
    assert "must be of the family zernike-3" in notes[0][1]


def test_planes_of_one_stack_are_compared(viewer, dock, estimates, idle, sample, notes):
    viewer.add_image(np.stack([sample.image.data] * 3), name="cells")
    dock.all_planes.setChecked(True)
    dock.run()
    idle()
    panel = dock.compare
    names = [panel.others.itemText(i) for i in range(panel.others.count())]
    assert names == ["cells [0]", "cells [1]", "cells [2]"]
    viewer.dims.set_point(0, 2)
    panel.others.setCurrentIndex(0)
    panel.button.click()
    assert panel.text.text().startswith("cells [2] minus cells [0]\ndefocus: +0 ± 0 waves")
    panel.others.setCurrentIndex(2)
    panel.button.click()
    assert "must be another map" in notes[-1][1]


@pytest.mark.window
def test_closing_the_dock_stops_listening(viewer, dock, mapped):
    before = len(viewer.mouse_drag_callbacks)
    viewer.window.remove_dock_widget(dock)
    assert len(viewer.mouse_drag_callbacks) == before - 1


def test_readable_names():
    assert readable("defocus_waves") == "defocus (waves)"
    assert readable("sigma_y_px") == "sigma y (px)"
    assert readable("strange") == "strange"


def test_a_single_patch_has_a_grid(true_map):
    one = type(true_map).from_parameters(
        "zernike-3", true_map.parameters[:1, :1], centers_px=[[[64, 80]]], image_shape=(128, 160)
    )
    grid = Grid.of(one)
    np.testing.assert_array_equal(grid.first_px, (64, 80))
    np.testing.assert_array_equal(grid.step_px, (128, 160))
    assert mosaic(one).max() == 1


def test_a_map_that_cannot_be_written_is_named(viewer, dock, mapped, notes, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    path = tmp_path / "missing" / "map.npz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(path), ""))
    dock.save_button.click()
    assert len(notes) == 1
    assert str(path) in notes[0][1]
    assert list(tmp_path.iterdir()) == []
