from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_deblur.optics.basis_map import BasisMap
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.simulated_fields import SimulatedFields
from napari_deblur.ui.bases import basis_store
from napari_deblur.ui.deblur_dock import DeblurDock
from napari_deblur.ui.maps import map_store
from napari_deblur.ui.psf_map_dock import PsfMapDock
from napari_deblur.ui.psf_panel import BASIS, BLIND, FILE

SHAPE = (128, 144)


@pytest.fixture(scope="session")
def simulated():
    return SimulatedFields(n_fields=12, n_positions=3).basis()


@pytest.fixture(scope="session")
def cells(simulated, texture, blurred):
    operator = simulated.operator(simulated.coefficients[2], SHAPE)
    return 100 * blurred(texture(SHAPE, 3), operator, noise=0.01)


@pytest.fixture
def beads():
    """A stack of Gaussian beads on a grid, wider towards the lower right and out of focus."""
    y, x = np.mgrid[:160, :160].astype(np.float64)
    stack = np.full((3, 160, 160), 50.0)
    for plane in range(3):
        for cy in range(20, 150, 30):
            for cx in range(20, 150, 30):
                width = 1.3 + 0.004 * cy + 0.2 * abs(plane - 1)
                high = 1.3 + 0.004 * cx
                spot = np.exp(-((y - cy) ** 2 / (2 * width**2) + (x - cx) ** 2 / (2 * high**2)))
                stack[plane] += 3000 * spot / (width * high)
    return (stack + np.random.default_rng(0).normal(0, 2, stack.shape)).astype(np.float32)


@pytest.mark.window
def test_a_basis_is_built_from_beads_saved_loaded_and_used(viewer, opened, idle, beads, tmp_path):
    dock = opened(PsfMapDock)
    layer = viewer.add_image(beads, name="beads", scale=(0.2, 0.1, 0.1), units=("um",) * 3)
    panel = dock.bases
    assert not panel.save_button.isEnabled()
    panel.tick(layer)
    assert panel.ticked() == [layer]
    panel.build()
    idle()
    basis = panel.basis
    assert basis is not None
    assert basis.pixel_size_um == pytest.approx(0.1)
    assert len(basis.labels) == 3
    assert "coefficients" in panel.text.text()
    assert not panel.pictures[0].pixmap().isNull()
    panel.save(tmp_path / "mine")
    saved = PsfBasis.load(tmp_path / "mine.npz")
    np.testing.assert_array_equal(saved.kernels, basis.kernels)
    panel.load(tmp_path / "mine.npz")
    assert list(basis_store(viewer).entries) == ["mine", "beads · basis"]


def test_the_blur_found_becomes_the_layers_map_and_restores(viewer, opened, idle, simulated, cells):
    viewer.add_image(cells, name="cells")
    dock = opened(PsfMapDock)
    basis_store(viewer).add("scope", simulated)
    dock.bases.chosen.setCurrentText("scope")
    dock.bases.find_blur()
    idle()
    entry = map_store(viewer).entries[0]
    assert isinstance(entry.maps[0], BasisMap)
    assert entry.path is None
    assert "cells · eigen psf 1" in [layer.name for layer in viewer.layers]
    dock.show_at((64, 70))
    assert "eigen psf 1" in dock.view.text.text()
    assert list(dock.editor.sliders) == list(entry.maps[0].parameter_names)
    deblur = opened(DeblurDock)
    deblur.picker.choose(viewer.layers["cells"])
    deblur.method.combo.setCurrentIndex(deblur.method.combo.findData("wiener"))
    deblur.run()
    idle()
    record = viewer.layers["cells · Wiener"].metadata["napari-deblur"]
    assert record["psf"]["model"] == "product-convolution"


@pytest.mark.parametrize("source", [BASIS, FILE, BLIND])
def test_the_deblur_dock_takes_a_basis(viewer, opened, idle, simulated, cells, tmp_path, source):
    viewer.add_image(cells, name="cells")
    path = simulated.save(tmp_path / "scope.npz")
    basis_store(viewer).add("scope", simulated, path)
    dock = opened(DeblurDock)
    dock.method.combo.setCurrentIndex(dock.method.combo.findData("wiener"))
    dock.psf.choose(source)
    dock.psf.path.setText(str(path))
    dock.psf.model.setCurrentText("product-convolution")
    dock.run()
    idle()
    about = viewer.layers["cells · Wiener"].metadata["napari-deblur"]
    assert about["psf"]["source"] == "psf-basis"
    if source != BLIND:
        assert about["psf"]["path"] == str(path)
    dock.preview()
    idle()
    assert any("preview" in layer.name for layer in viewer.layers)


def test_a_field_of_the_basis_is_taken_as_measured(viewer, opened, idle, simulated, cells):
    viewer.add_image(cells, name="cells")
    basis_store(viewer).add("scope", simulated)
    dock = opened(DeblurDock)
    dock.method.combo.setCurrentIndex(dock.method.combo.findData("wiener"))
    dock.psf.choose(BASIS)
    dock.psf.basis_field.setCurrentText(simulated.labels[4])
    dock.run()
    idle()
    about = viewer.layers["cells · Wiener"].metadata["napari-deblur"]
    assert about["psf"]["basis_field"] == simulated.labels[4]
    np.testing.assert_allclose(about["psf"]["coefficients"], simulated.coefficients[4].ravel(), atol=1e-4)


def test_mistakes_are_told(viewer, opened, idle, notes, simulated, cells, tmp_path):
    viewer.add_image(cells, name="cells")
    dock = opened(PsfMapDock)
    dock.bases.build_button.click()
    assert "bead stacks must be ticked" in notes[-1][1]
    (tmp_path / "no.npz").write_bytes(b"nothing")
    dock.attempt(lambda: dock.bases.load(tmp_path / "no.npz"))
    assert "must be a saved PSF basis" in notes[-1][1]
    basis_store(viewer).add("fixed", replace(simulated, any_size=False))
    dock.bases.find_blur()
    idle()
    assert "must belong to images of" in notes[-1][1]
