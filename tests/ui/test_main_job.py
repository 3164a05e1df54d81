"""The main job through the docks' own buttons, with the shipped networks."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog

from napari_deblur.nets.weights import list_models
from napari_deblur.recipe import Recipe
from napari_deblur.ui.background_dock import BackgroundDock
from napari_deblur.ui.calibration_panel import TiltedPlane
from napari_deblur.ui.deblur_dock import DeblurDock
from napari_deblur.ui.depth_dock import DepthDock
from napari_deblur.ui.history import history
from napari_deblur.ui.psf_map_dock import PsfMapDock
from napari_deblur.ui.samples import _layer

pytestmark = pytest.mark.skipif(
    "zernike-3" not in {model.id for model in list_models()}, reason="the network is not installed"
)


@pytest.mark.window
def test_background_map_deblurring_and_depth(viewer, opened, idle, sample, tmp_path, monkeypatch):
    data, options, _ = _layer(sample)
    viewer.add_image(data, **options)
    background, psf_map, deblur, depth = map(opened, (BackgroundDock, PsfMapDock, DeblurDock, DepthDock))
    background.run_button.click()
    idle()
    front = viewer.layers["tilted cells · foreground"]
    for dock in (psf_map, deblur, depth):
        dock.picker.choose(front)
    psf_map.run_button.click()
    idle()
    name = front.name
    assert f"{name} · defocus (waves)" in viewer.layers
    deblur.run_button.click()
    idle()
    restored = viewer.layers[f"{name} · {deblur.method.method_class.title}"]
    assert np.isfinite(restored.data).all()
    assert "flux" in deblur.message.text()
    depth.calibration.tilted.set(TiltedPlane(tilt_deg=12, azimuth_deg=90))
    depth.calibration.fit_button.click()
    depth.run_button.click()
    idle()
    found = viewer.layers[f"{name} · depth (µm)"].data
    known = np.isfinite(found)
    agreement = np.corrcoef(found[known], sample.depth_um[known])[0, 1]
    assert agreement > 0.8

    path = tmp_path / "recipe.yaml"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(path), ""))
    deblur.recipe_button.click()
    recipe = Recipe.load(path)
    kinds = [step.kind for step in recipe.steps]
    assert kinds == ["remove-background", "estimate-psf-map", "deblur", "estimate-depth"]


def test_a_recipe_of_nothing_is_refused(viewer, opened, notes, tmp_path, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(tmp_path / "r.yaml"), ""))
    opened(BackgroundDock).recipe_button.click()
    assert "recipe must hold at least one step" in notes[0][1]


def test_of_each_kind_the_last_run_counts(viewer):
    runs = history(viewer)
    for kind in ("deblur", "estimate-psf-map", "deblur"):
        runs.add({"step": {"kind": kind}, "number": len(runs.records)})
    assert [record["step"]["kind"] for record in runs.records] == ["estimate-psf-map", "deblur"]
    assert history(viewer) is runs
