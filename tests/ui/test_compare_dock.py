from __future__ import annotations

import numpy as np
import pytest
import yaml

from napari_deblur.methods.base import registry
from napari_deblur.optics.psf import make_psf
from napari_deblur.ui.compare_dock import CompareDock
from napari_deblur.ui.deblur_dock import DeblurDock
from napari_deblur.ui.history import history
from napari_deblur.ui.layers import METADATA_KEY
from napari_deblur.ui.psf_panel import FILE
from napari_deblur.ui.side_by_side import SideBySide

QUICK = ("wiener", "richardson-lucy")


@pytest.fixture
def dock(opened, tmp_path, viewer, picture):
    np.save(tmp_path / "psf.npy", make_psf("gaussian-1", [1.5], 15))
    viewer.add_image(picture, name="cells", scale=(0.5, 0.5), units=("um", "um"), colormap="magenta")
    viewer.add_image(picture[:50], name="another", scale=(0.5, 0.5), units=("um", "um"))
    dock = opened(CompareDock)
    dock.picker.choose(viewer.layers["cells"])
    tick(dock, *QUICK)
    dock.list.form("richardson-lucy").fields["n_iterations"].set(3)
    dock.psf.combo.setCurrentIndex(dock.psf.combo.findData(FILE))
    dock.psf.path.setText(str(tmp_path / "psf.npy"))
    return dock


def tick(dock, *ids):
    for id_, box in dock.list.boxes.items():
        box.setChecked(id_ in ids)


def compared(viewer):
    return [layer for layer in viewer.layers if METADATA_KEY in layer.metadata]


def test_the_quick_methods_are_ticked_at_first(opened):
    dock = opened(CompareDock)
    assert {"wiener", "richardson-lucy", "tv-richardson-lucy"} <= set(dock.list.chosen)
    assert not {"cider", "self-deblur"} & set(dock.list.chosen)
    assert set(dock.list.boxes) == set(registry())
    assert dock.grid_button.isHidden()
    assert dock.table.isHidden()


def test_a_preview_stands_side_by_side_with_the_input(dock, viewer, idle):
    others = {layer.name: layer.visible for layer in viewer.layers}
    grid = viewer.canvas.grid
    before = (grid.enabled, grid.stride, viewer.scene.camera.zoom)
    dock.preview()
    idle()
    crop, *results = compared(viewer)
    assert "input" in crop.name
    assert [layer.name.split(" · ")[1] for layer in results] == ["Wiener", "Richardson–Lucy"]
    assert grid.enabled
    shown = [layer for layer in viewer.layers if layer.visible]
    assert shown == [crop, *results]
    assert all(layer.name_overlay.visible for layer in shown)
    for layer in results:
        assert layer.extent.world == pytest.approx(crop.extent.world)
        assert tuple(layer.contrast_limits) == tuple(crop.contrast_limits)
        assert layer.colormap.name == "magenta"
    results[0].contrast_limits = (1, 7)
    assert tuple(crop.contrast_limits) == (1, 7), "one contrast for all"

    dock.grid_button.click()
    assert (grid.enabled, grid.stride, viewer.scene.camera.zoom) == before
    assert {name: viewer.layers[name].visible for name in others} == others
    assert not any(layer.visible or layer.name_overlay.visible for layer in [crop, *results])
    results[0].contrast_limits = (2, 5)
    assert tuple(crop.contrast_limits) == (1, 7), "no longer linked"

    dock.grid_button.click()
    assert [layer for layer in viewer.layers if layer.visible] == [crop, *results]


def test_a_second_preview_takes_the_place_of_the_first(dock, viewer, idle):
    dock.preview()
    idle()
    first = compared(viewer)
    dock.preview()
    idle()
    assert compared(viewer) == first
    assert viewer.canvas.grid.enabled
    dock.grid_button.click()
    assert not viewer.canvas.grid.enabled


def test_results_equal_those_of_the_deblur_step(dock, viewer, idle, picture):
    from napari_deblur import deblur

    dock.run()
    idle()
    wiener, lucy = compared(viewer)
    psf = np.load(dock.psf.path.text())
    np.testing.assert_allclose(wiener.data, deblur(picture, "wiener", psf).image, rtol=1e-5, atol=1e-3)
    expected = deblur(picture, "richardson-lucy", psf, n_iterations=3).image
    np.testing.assert_allclose(lucy.data, expected, rtol=1e-5, atol=1e-3)
    own = viewer.layers["cells"]
    assert [layer for layer in viewer.layers if layer.visible] == [own, wiener, lucy]
    assert not history(viewer).records, "a recipe repeats one method, and none was chosen yet"


def test_the_input_has_its_own_contrast_back_afterwards(dock, viewer, idle):
    own = viewer.layers["cells"]
    limits = tuple(own.contrast_limits)
    dock.run()
    idle()
    own.contrast_limits = (0, 1)
    dock.grid_button.click()
    assert tuple(own.contrast_limits) == limits


def test_the_table_tells_what_each_method_did(dock, viewer, idle):
    dock.preview()
    idle()
    table = dock.table
    names = [table.item(row, 0).text() for row in range(table.rowCount())]
    assert names == ["input", "Wiener", "Richardson–Lucy"]
    assert all(table.item(row, column).text() for row in (1, 2) for column in range(table.columnCount()))
    table.selectRow(2)
    assert viewer.layers.selection.active is compared(viewer)[2]
    assert dock.best_button.isEnabled()
    table.selectRow(0)
    assert viewer.layers.selection.active is compared(viewer)[0]
    assert not dock.best_button.isEnabled(), "the input is no method"


def test_the_best_is_run_on_everything_and_is_what_a_recipe_repeats(dock, viewer, idle, tmp_path):
    dock.preview()
    idle()
    dock.table.selectRow(2)
    dock.best_button.click()
    idle()
    whole = viewer.layers["cells · Richardson–Lucy"]
    assert whole.data.shape == viewer.layers["cells"].data.shape
    assert whole.visible
    assert not viewer.canvas.grid.enabled
    path = history(viewer).save_recipe(tmp_path / "recipe.yaml")
    (step,) = yaml.safe_load(path.read_text())["steps"]
    assert step["method"]["kind"] == "richardson-lucy"
    assert step["method"]["n_iterations"] == 3


def test_no_method_is_refused(dock, viewer, notes):
    tick(dock)
    dock.preview()
    assert "methods must hold at least one" in notes[-1][1]
    assert not compared(viewer)


def test_a_cancel_keeps_what_is_done(dock, viewer, idle, qtbot):
    tick(dock, "wiener", "tv-richardson-lucy")
    dock.list.form("tv-richardson-lucy").fields["n_iterations"].set(2000)
    dock.run()
    qtbot.waitUntil(lambda: "iteration" in dock.message.text(), timeout=20_000)
    dock.cancel()
    idle()
    names = [layer.name for layer in compared(viewer)]
    assert names[0] == "cells · Wiener"
    assert names[1:] == ["cells · TV Richardson–Lucy (cancelled)"]


def test_layers_that_are_gone_do_not_come_back(dock, viewer, idle):
    dock.preview()
    idle()
    for layer in compared(viewer):
        viewer.layers.remove(layer)
    dock.grid_button.click()
    assert not viewer.canvas.grid.enabled
    dock.grid_button.click()
    assert not dock.grid_button.isChecked(), "nothing is left to show"


def test_a_method_that_cannot_do_it_does_not_cost_the_others(dock, viewer, idle):
    tick(dock, "wiener", "latent-deformation")
    dock.run()
    idle()
    assert [layer.name for layer in compared(viewer)] == ["cells · Wiener"]
    assert "Latent deformation (learned): psf must" in dock.message.text()


def test_where_no_method_can_do_it_the_user_is_told(dock, viewer, idle, notes):
    tick(dock, "latent-deformation")
    dock.run()
    idle()
    assert not compared(viewer)
    assert "psf must" in notes[-1][1]


def test_previews_of_the_deblur_dock_are_left_alone(dock, viewer, idle, opened):
    other = opened(DeblurDock)
    other.picker.choose(viewer.layers["cells"])
    other.method.set(registry()["wiener"]())
    other.psf.combo.setCurrentIndex(other.psf.combo.findData(FILE))
    other.psf.path.setText(dock.psf.path.text())
    other.preview()
    idle()
    preview = viewer.layers["cells · Wiener · preview"]
    dock.preview()
    idle()
    dock.grid_button.click()
    assert preview.visible
    other.preview()
    idle()
    assert preview.visible
    assert "cells · Wiener · compared" in viewer.layers


def test_another_layer_ends_the_comparison(dock, viewer, idle):
    dock.preview()
    idle()
    dock.table.selectRow(1)
    dock.picker.choose(viewer.layers["another"])
    assert not viewer.canvas.grid.enabled
    assert dock.table.isHidden()
    dock.run_selected()
    assert not dock.board.busy


def test_an_input_that_is_deleted_meanwhile_is_not_taken_for_another(dock, viewer, idle):
    dock.run()
    viewer.layers.remove("cells")
    idle()
    shown = [layer.name for layer in viewer.layers if layer.visible]
    assert shown == ["cells · Wiener", "cells · Richardson–Lucy"]
    dock.table.selectRow(1)
    assert viewer.layers.selection.active.name == "cells · Wiener"


@pytest.mark.window
def test_a_closed_dock_leaves_the_window_as_it_was(dock, viewer, idle, qtbot):
    dock.preview()
    idle()
    assert viewer.canvas.grid.enabled
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not viewer.canvas.grid.enabled)
    assert viewer.layers["cells"].visible


def test_methods_without_volumes_are_left_out_of_a_stack(opened, viewer, idle, tmp_path):
    rng = np.random.default_rng(0)
    stack = rng.poisson(50, (8, 40, 44)).astype(np.float32)
    layer = viewer.add_image(stack, name="stack", scale=(0.3, 0.1, 0.1), units=("um",) * 3, axis_labels="zyx")
    psf = np.ones((3, 3, 3), np.float32) / 27
    np.save(tmp_path / "psf.npy", psf)
    dock = opened(CompareDock)
    dock.picker.choose(layer)
    tick(dock, "wiener", "hyper-laplacian")
    dock.psf.combo.setCurrentIndex(dock.psf.combo.findData(FILE))
    dock.psf.path.setText(str(tmp_path / "psf.npy"))
    dock.deep.setChecked(True)
    dock.run()
    idle()
    assert [one.name for one in compared(viewer)] == ["stack · Wiener"]
    assert "Hyper-Laplacian works plane by plane" in dock.message.text()


def test_one_layer_alone_can_stand_in_the_grid(viewer, picture):
    layer = viewer.add_image(picture)
    grid = SideBySide(viewer)
    grid.show([layer])
    assert grid.shown
    grid.restore()
    assert not grid.shown
    assert layer.visible
