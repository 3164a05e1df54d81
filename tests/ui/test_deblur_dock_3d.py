"""The Deblur dock on stacks: 3D, its preview, optics from the layer, the PSF viewer and the plan."""

from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.methods.base import registry
from napari_deblur.optics.settings import VOLUME_FIELDS, Optics
from napari_deblur.ui.deblur_dock import DeblurDock
from napari_deblur.ui.layers import METADATA_KEY
from napari_deblur.ui.optics_panel import known_optics
from napari_deblur.ui.psf_panel import BLIND, FILE, LAYER, OPTICS
from napari_deblur.ui.psf_view import ProfilePlot, PsfViewer, describe_widths

FAST = registry()["richardson-lucy"](n_iterations=3)
OPTICS_META = {"optics": {"na": 0.8, "wavelength_um": 0.52, "refractive_index": 1.33}}


def beads(shape, seed=0):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.float32)
    image[tuple(rng.integers(0, size, 60) for size in shape)] = rng.uniform(500, 2000, 60)
    return gaussian_filter(image, (2, 1.5, 1.5)) * 30 + 20


@pytest.fixture
def dock(opened):
    dock = opened(DeblurDock)
    dock.method.set(FAST)
    return dock


@pytest.fixture
def stack(viewer):
    """A z-stack with voxels of 0.6 × 0.2 × 0.2 µm whose metadata knows the objective."""
    return viewer.add_image(
        beads((20, 60, 70)),
        name="stack",
        scale=(0.6, 0.2, 0.2),
        units=("um", "um", "um"),
        metadata={METADATA_KEY: OPTICS_META},
    )


def test_the_optics_are_filled_from_the_layer(dock, stack):
    dock.psf.choose(OPTICS)
    found = dock.psf.optics.value()
    expected = {"na": 0.8, "wavelength_um": 0.52, "refractive_index": 1.33}
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.pixel_size_um, found.z_step_um) == pytest.approx((0.2, 0.6))


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"objective": {"LensNA": "1.4"}, "channels": [{"EmissionWavelength": 525}]}, (1.4, 0.525)),
        ({"Numerical Aperture": 0.95, "emission_wavelength": 0.6}, (0.95, 0.6)),
        ({"na": "unknown", "name": 3}, (None, None)),
        ({"na": -1}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_metadata_of_many_kinds(metadata, expected):
    found = known_optics(metadata)
    assert (found.get("na"), found.get("wavelength_um")) == expected


def test_a_stack_is_restored_in_3d_where_its_voxels_are_known(viewer, dock, stack, idle):
    dock.psf.choose(OPTICS)
    assert dock.volumes
    dock.run()
    idle()
    about = viewer.layers["stack · Richardson–Lucy"].metadata[METADATA_KEY]
    assert about["facts"]["restored_in"] == "3D"
    assert about["psf"]["z_step_um"] == pytest.approx(0.6)
    assert dock.viewer_of_psf.text.text().startswith("FWHM")
    dock.deep.setChecked(False)
    dock.run()
    idle()
    about = viewer.layers["stack · Richardson–Lucy [1]"].metadata[METADATA_KEY]
    assert about["facts"]["restored_in"] == "2D"


def test_3d_is_offered_only_where_it_means_something(viewer, dock, stack):
    assert dock.psf.current == BLIND
    assert not dock.volumes
    dock.psf.choose(OPTICS)
    assert dock.volumes
    assert all(dock.psf.optics.form.is_row_shown(name) for name in VOLUME_FIELDS)
    flat = viewer.add_image(beads((1, 60, 70))[0], name="flat")
    dock.picker.choose(flat)
    assert not dock.volumes
    assert not any(dock.psf.optics.form.is_row_shown(name) for name in VOLUME_FIELDS)
    silent = viewer.add_image(beads((8, 60, 70)), name="silent")
    dock.picker.choose(silent)
    assert not dock.deep.isChecked(), "its planes' distance is not known"
    dock.deep.setChecked(True)
    assert dock.volumes


def test_without_a_distance_of_planes_3d_asks_for_it(viewer, dock, notes):
    viewer.add_image(beads((8, 60, 70)), name="silent", metadata={METADATA_KEY: OPTICS_META})
    dock.psf.choose(OPTICS)
    dock.psf.optics.form.fields["pixel_size_um"].set(0.2)
    dock.deep.setChecked(True)
    dock.run()
    assert "distance of planes must be given" in notes[0][1]


def test_preview_is_a_box_around_the_plane_shown_and_agrees_with_the_whole(viewer, dock, idle):
    layer = viewer.add_image(
        beads((30, 200, 210)),
        name="stack",
        scale=(0.6, 0.2, 0.2),
        units=("um", "um", "um"),
        metadata={METADATA_KEY: OPTICS_META},
    )
    viewer.dims.set_point(0, 15 * 0.6)
    dock.psf.choose(OPTICS)
    region = dock.region(layer)
    assert (region.planes.front, region.planes.depth) == (12, 6)
    assert (region.planes.read_front, region.planes.read_depth) == (4, 22)
    assert (region.height, region.width, region.read_height) == (96, 96, 160)
    dock.preview()
    idle()
    preview = viewer.layers["stack · Richardson–Lucy · preview"]
    assert preview.data.shape == (6, 96, 96)
    assert preview.translate[0] == pytest.approx(12 * 0.6)
    dock.run()
    idle()
    whole = viewer.layers["stack · Richardson–Lucy"].data
    same = whole[12:18, region.top : region.top + 96, region.left : region.left + 96]
    # The PSF reaches a little further than the margin.
    assert np.corrcoef(preview.data.ravel(), same.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("source", [FILE, LAYER])
def test_a_measured_psf_in_3d(viewer, dock, stack, idle, notes, tmp_path, source):
    grids = np.indices((9, 15, 15))
    psf = np.exp(-((grids[0] - 4) ** 2 / 8 + ((grids[1] - 7) ** 2 + (grids[2] - 7) ** 2) / 4)).astype(
        np.float32
    )
    dock.psf.choose(source)
    if source == FILE:
        np.save(tmp_path / "psf.npy", psf)
        dock.psf.path.setText(str(tmp_path / "psf.npy"))
    else:
        layer = viewer.add_image(psf, name="bead", scale=(0.6, 0.2, 0.2), units=("um", "um", "um"))
        dock.psf.layer.choose(layer)
        dock.picker.choose(stack)
    dock.run()
    idle()
    assert not notes
    about = viewer.layers["stack · Richardson–Lucy"].metadata[METADATA_KEY]
    assert about["facts"]["restored_in"] == "3D"
    dock.deep.setChecked(False)
    dock.run()
    idle()
    assert "PSF must be 2D" in notes[0][1]


def test_the_psf_is_shown_before_a_run(dock, stack, idle):
    dock.psf.choose(OPTICS)
    assert dock.viewer_of_psf.isHidden()
    dock.show_button.click()
    idle()
    assert not dock.viewer_of_psf.isHidden()
    assert "µm (z, y, x)" in dock.viewer_of_psf.text.text()
    assert not dock.viewer_of_psf.front.pixmap().isNull()


def test_the_plan_is_told_before_a_run(dock, stack, idle):
    from napari_deblur.engine.shared import get_engine

    get_engine()
    dock.psf.choose(OPTICS)
    dock.show_plan()
    assert dock.plan_text.text().startswith("Plan: one volume in one piece: ")
    dock.deep.setChecked(False)
    dock.show_plan()
    assert dock.plan_text.text().startswith("Plan: 20 planes, 15 at a time: ")
    idle()


def test_viewer_draws_lines_and_tells_widths(qtbot):
    from napari_deblur.optics.psf_3d import optics_psf_3d

    optics = Optics(na=1.0, wavelength_um=0.5, pixel_size_um=0.1, z_step_um=0.3)
    psf = optics_psf_3d(optics, (11, 21, 21))
    viewer = PsfViewer()
    qtbot.addWidget(viewer)
    viewer.show_psf(psf, optics.voxel_size_um)
    assert set(viewer.plot.lines) == {"z", "y", "x"}
    viewer.plot.resize(240, 110)
    picture = viewer.plot.grab().toImage()
    colours = {picture.pixelColor(x, y).name() for x in range(240) for y in range(110)}
    assert {"#009e73", "#56b4e9"} <= colours
    viewer.show_psf(psf[5])
    assert "px (y, x)" in viewer.text.text()
    assert viewer.side.isHidden()


def test_a_psf_without_a_width_is_shown_too(qtbot):
    assert "–" in describe_widths(np.ones((3, 3), np.float32), None)
    plot = ProfilePlot()
    qtbot.addWidget(plot)
    plot.grab()  # nothing to draw yet
    plot.show_psf(np.ones((1, 1), np.float32), None)
    assert not plot.grab().isNull()
