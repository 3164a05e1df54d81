from __future__ import annotations

import gc
import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from napari.utils.interactions import mouse_press_callbacks, mouse_release_callbacks

from napari_deblur import samples
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.ui.calibration_panel import FocusStack, TiltedPlane
from napari_deblur.ui.depth_dock import DepthDock, surface_placement
from napari_deblur.ui.layers import METADATA_KEY, Placement
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.writers import write_surface_layer


@pytest.fixture
def dock(opened):
    dock = opened(DepthDock)
    return dock


@pytest.fixture
def cells(viewer, sample):
    place = {"scale": (640, 640), "units": ("nm", "nm"), "translate": (5000, 7000)}
    layer = viewer.add_image(sample.image.data, name="cells", **place)
    entry = MapEntry("cells", (sample.psf_map(32),), (), (), Placement.of(layer))
    map_store(viewer).add(entry)
    return layer


def calibrate(dock):
    dock.calibration.tilted.set(TiltedPlane(tilt_deg=12, azimuth_deg=90))
    dock.calibration.fit_button.click()


@pytest.mark.window
def test_depth_in_micrometres_from_a_tilted_plane(viewer, dock, cells, sample, idle, qtbot):
    assert "zernike-3" in dock.map_text.text()
    calibrate(dock)
    assert "tilted plane" in dock.calibration.text.text()
    dock.run_button.click()
    idle()
    depth = viewer.layers["cells · depth (µm)"]
    known = np.isfinite(depth.data)
    assert known.mean() > 0.9
    span = np.ptp(sample.depth_um)
    assert np.abs(depth.data - sample.depth_um)[known].max() < 0.05 * span
    confidence = viewer.layers["cells · depth confidence"]
    for layer in (depth, confidence):
        np.testing.assert_array_equal(layer.scale, cells.scale)
        np.testing.assert_array_equal(layer.translate, cells.translate)
        about = layer.metadata[METADATA_KEY]
        assert about == json.loads(json.dumps(about))
        assert about["calibrated"] is True
    assert dock.picker.layer() is cells
    assert dock.picker.count() == 1, "depth is no input"


def test_the_surface_lies_over_the_image(viewer, dock, cells, sample, idle):
    calibrate(dock)
    dock.run()
    idle()
    surface = viewer.layers["cells · surface"]
    vertices, faces, values = surface.data
    assert len(values) == len(vertices)
    last = vertices[:, 1:].argmax(axis=0)[0]
    row, col = vertices[last][1:] / 0.64
    expected = cells.data_to_world((row, col))
    np.testing.assert_allclose(surface.data_to_world(vertices[last])[1:], expected, rtol=1e-5)
    height = surface.data_to_world(vertices[last])[0]
    assert height == pytest.approx(1000 * vertices[last][0], rel=1e-4), "z in the layer's unit, nm"
    assert faces.max() < len(vertices)


def test_the_surface_is_written_in_micrometres(viewer, dock, cells, idle, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    calibrate(dock)
    dock.run()
    idle()
    layer = viewer.layers["cells · surface"]
    path = tmp_path / "surface.ply"
    meta = dict(zip(("data", "meta", "kind"), layer.as_layer_data_tuple(), strict=True))["meta"]
    assert write_surface_layer(str(path), layer.data, meta) == [str(path)]
    mesh = trimesh.load(path, process=False)
    np.testing.assert_allclose(mesh.vertices[:, ::-1], layer.data[0], atol=1e-3)


def test_without_calibration_it_is_relative(viewer, dock, cells, idle):
    dock.run()
    idle()
    depth = viewer.layers["cells · depth (relative)"]
    assert depth.metadata[METADATA_KEY]["calibrated"] is False
    assert "cells · depth (µm)" not in viewer.layers
    assert "cells · surface" in viewer.layers


def test_calibrations_are_saved_and_loaded(viewer, dock, cells, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    calibrate(dock)
    made = dock.calibration.calibration
    path = str(tmp_path / "calibration.json")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (path, ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *args: (path, ""))
    dock.calibration.save_button.click()
    dock.calibration.clear_button.click()
    assert dock.calibration.calibration is None
    assert not dock.calibration.save_button.isEnabled()
    dock.calibration.load_button.click()
    assert dock.calibration.calibration == made
    assert DepthCalibration.load(path) == made


def test_a_file_that_is_no_calibration_is_named(viewer, dock, notes, tmp_path, monkeypatch):
    from qtpy.QtWidgets import QFileDialog

    path = tmp_path / "other.json"
    path.write_text("{}")
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *args: (str(path), ""))
    dock.calibration.load_button.click()
    assert "must be a depth calibration saved by napari-deblur" in notes[0][1]


def test_from_optics(viewer, dock, cells, sample, idle):
    panel = dock.calibration
    panel.kind.setCurrentIndex(panel.kind.findData("optics"))
    assert panel.optics.form.fields["pixel_size_um"].value() == pytest.approx(0.64)
    panel.optics.form.set(sample.optics)
    panel.lens.fields["axis_deg"].set(0.0)
    panel.fit_button.click()
    dock.run()
    idle()
    assert "cells · depth (µm)" in viewer.layers


def test_from_a_stack_of_maps(viewer, dock, sample, notes):
    maps = []
    for z in (-10.0, 0.0, 10.0):
        waves = np.full((6, 6), z * sample.optics.defocus_waves_per_um)
        centers = np.stack(np.meshgrid(*[np.arange(16, 192, 32)] * 2, indexing="ij"), axis=-1)
        maps.append(
            type(sample.psf_map()).from_parameters(
                "zernike-3",
                samples.zernike_3_parameters(waves, 0.15, 0.0),
                centers_px=centers,
                image_shape=(192, 192),
            )
        )
    layer = viewer.add_image(np.random.default_rng(0).random((3, 192, 192)), name="stack")
    panel = dock.calibration
    panel.kind.setCurrentIndex(panel.kind.findData("stack"))
    panel.stack.set(FocusStack(first_um=-10, step_um=10))
    panel.fit_button.click()
    assert "PSF map must exist" in notes[0][1]
    map_store(viewer).add(MapEntry("stack", tuple(maps), None, (3,), Placement.of(layer)))
    panel.fit_button.click()
    assert panel.calibration.depth_range_um == pytest.approx((-10, 10), abs=0.5)


def test_no_map_and_missing_values_are_named(viewer, dock, sample, notes):
    viewer.add_image(sample.image.data, name="cells")
    dock.run()
    dock.calibration.fit_button.click()
    assert "PSF map must exist" in notes[0][1]
    assert "PSF map must exist" in notes[1][1]
    map_store(viewer).add(MapEntry("cells", (sample.psf_map(),), (), (), Placement.of(viewer.layers[0])))
    dock.calibration.fit_button.click()
    assert "tilt_deg is required" in notes[2][1]


@pytest.mark.window
def test_show_in_3d_and_back(viewer, dock, cells, idle):
    dock.run()
    idle()
    before = [layer.visible for layer in viewer.layers]
    dock.show_button.click()
    assert viewer.dims.ndisplay == 3
    assert [layer.name for layer in viewer.layers if layer.visible] == ["cells · surface"]
    dock.show_button.click()
    assert viewer.dims.ndisplay == 2
    assert [layer.visible for layer in viewer.layers] == before


def test_3d_is_left_when_the_dock_is_closed(viewer, dock, cells, idle):
    dock.run()
    idle()
    before = [layer.visible for layer in viewer.layers]
    viewer.scene.camera.zoom = 3.0
    dock.show_button.click()
    assert viewer.dims.ndisplay == 3
    dock.release()
    assert viewer.dims.ndisplay == 2
    assert viewer.scene.camera.zoom == 3.0
    assert [layer.visible for layer in viewer.layers] == before


def test_who_was_in_3d_before_stays_there(viewer, dock, cells, idle):
    dock.run()
    idle()
    viewer.dims.ndisplay = 3
    dock.show_button.click()
    dock.show_button.click()
    assert viewer.dims.ndisplay == 3


def test_only_the_chosen_image_s_newest_surface_is_shown(viewer, dock, cells, idle, notes):
    dock.run()
    idle()
    dock.run()
    idle()
    mine = [layer for layer in viewer.layers if layer.name.startswith("cells · surface")]
    assert len(mine) == 2
    mesh = (np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]))
    viewer.add_surface(mesh, name="a mesh of something else")
    dock.show_button.click()
    assert [layer for layer in viewer.layers if layer.visible] == [mine[1]]
    other = viewer.add_image(cells.data[::-1], name="other")
    dock.picker.choose(other)
    assert not dock.show_button.isChecked()
    assert viewer.dims.ndisplay == 2
    dock.show_button.click()
    assert notes == [("error", "surface must exist: press Run on this image first; received none")]
    assert not dock.show_button.isChecked()
    assert viewer.dims.ndisplay == 2
    assert other.visible


def test_a_surface_that_is_deleted_ends_its_view(viewer, dock, cells, idle):
    dock.run()
    idle()
    dock.show_button.click()
    viewer.layers.remove("cells · surface")
    assert not dock.show_button.isChecked()
    assert viewer.dims.ndisplay == 2
    assert cells.visible


def test_a_run_meanwhile_shows_its_own_surface(viewer, dock, cells, idle):
    dock.run()
    idle()
    dock.show_button.click()
    dock.run()
    idle()
    assert [layer.name for layer in viewer.layers if layer.visible] == ["cells · surface [1]"]
    dock.show_button.click()
    assert viewer.dims.ndisplay == 2
    assert viewer.layers["cells · depth (relative) [1]"].visible


def test_results_that_are_deleted_are_not_kept(viewer, dock, cells, idle):
    dock.run()
    idle()
    dock.show_button.click()
    references = [find for find, _ in dock.alone._before._kept if isinstance(find, weakref.ref)]
    assert [find() for find in references] == list(viewer.layers)
    depth = viewer.layers["cells · depth (relative)"]
    viewer.layers.remove(depth)
    assert not [one for one in gc.get_referrers(depth) if isinstance(one, dict) and depth in one]


def test_optics_come_from_the_layer_alone(viewer, dock, cells):
    field = dock.calibration.optics.form.fields["pixel_size_um"]
    assert field.value() == pytest.approx(0.64)
    dock.picker.choose(viewer.add_image(np.eye(64), name="unknown"))
    assert repr(field.value()) == "nothing"


def test_a_surface_in_pixels():
    flat = Placement.from_meta({"scale": (2, 2)}, 2)
    placed = surface_placement(flat, None)
    np.testing.assert_array_equal(placed.scale, (2, 2, 2))
    assert placed.units == ("pixel",) * 3


def test_points_of_known_depth_calibrate(viewer, dock, cells, sample):
    panel = dock.calibration
    panel.kind.setCurrentIndex(panel.kind.findData("points"))
    clicks = [(20, 30), (230, 40), (120, 220), (60, 140)]
    for y, x in clicks:
        panel.points.form.fields["depth_um"].set(float(sample.depth_um[y, x]))
        panel.points.click_button.setChecked(True)
        click(viewer, cells.data_to_world((float(y), float(x))))
    marks = viewer.layers["cells · known depths"]
    np.testing.assert_allclose(marks.data, clicks)
    np.testing.assert_allclose(marks.data_to_world((20, 30)), cells.data_to_world((20, 30)), rtol=1e-6)
    np.testing.assert_allclose(marks.features["depth_um"], [sample.depth_um[at] for at in clicks], rtol=1e-3)
    assert dock.picker.layer() is cells, "marks are no input, and do not take the selection"
    panel.fit_button.click()
    plane = panel.points.plane(dock.entry())
    assert plane.tilt_deg == pytest.approx(12, abs=0.5)
    dock.calibration.tilted.set(TiltedPlane(tilt_deg=plane.tilt_deg, azimuth_deg=plane.azimuth_deg))
    by_points = panel.calibration
    calibrate(dock)
    assert by_points.scale_um == pytest.approx(panel.calibration.scale_um, rel=0.05)
    panel.points.undo_button.click()
    assert len(marks.data) == 3
    panel.points.clear_button.click()
    assert "cells · known depths" not in viewer.layers


def test_clicks_count_only_while_asked_for_and_inside(viewer, dock, cells, notes):
    panel = dock.calibration
    click(viewer, cells.data_to_world((20.0, 30.0)))
    panel.kind.setCurrentIndex(panel.kind.findData("points"))
    panel.points.click_button.setChecked(True)
    click(viewer, cells.data_to_world((-20.0, 30.0)))
    assert panel.points.points == []
    assert "point must lie inside the image" in notes[0][1]
    panel.fit_button.click()
    assert "points must be at least 3" in notes[1][1]


@pytest.mark.window
def test_closing_the_dock_stops_listening_to_clicks(viewer, dock, cells):
    before = len(viewer.mouse_drag_callbacks)
    viewer.window.remove_dock_widget(dock)
    assert len(viewer.mouse_drag_callbacks) == before - 1


def click(viewer, position):
    """Press and release the mouse as napari passes it on."""
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
    event.type = "mouse_release"
    mouse_release_callbacks(viewer, event)
