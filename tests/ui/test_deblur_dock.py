from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_deblur.core.record import Record
from napari_deblur.methods.base import registry
from napari_deblur.optics.psf import make_psf
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.deblur import Deblur
from napari_deblur.ui import worker
from napari_deblur.ui.deblur_dock import DeblurDock, summary
from napari_deblur.ui.layers import METADATA_KEY, Placement
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.psf_panel import BLIND, FILE, LAYER, MAP, OPTICS, cropped
from napari_deblur.ui.region import Region

FAST = registry()["richardson-lucy"](n_iterations=3)


@pytest.fixture
def dock(opened):
    dock = opened(DeblurDock)
    dock.method.set(FAST)
    return dock


@pytest.fixture
def cells(viewer, sample):
    return viewer.add_image(
        sample.image.data, name="cells", scale=(0.64, 0.64), units=("um", "um"), colormap="magenta"
    )


@pytest.fixture
def kernel():
    return make_psf("gaussian-2", [1.5, 2.0], 21)


def blobs(height, width):
    rng = np.random.default_rng(0)
    image = np.zeros((height, width), np.float32)
    image[rng.integers(0, height, 400), rng.integers(0, width, 400)] = rng.uniform(500, 2000, 400)
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, 2) + 100


def wedge(height, width, stride):
    """A map whose width grows along y and x."""
    rows, cols = np.arange(stride / 2, height, stride), np.arange(stride / 2, width, stride)
    centers = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1)
    return PsfMap.from_parameters(
        "gaussian-2", 1 + centers / 300, centers_px=centers, image_shape=(height, width)
    )


def know_map(viewer, layer, psf_map):
    map_store(viewer).add(MapEntry(layer.name, (psf_map,), (), (), Placement.of(layer)))


@pytest.mark.window
def test_with_a_map(viewer, dock, cells, sample, idle):
    assert dock.psf.current == BLIND, "without a map"
    know_map(viewer, cells, sample.psf_map())
    assert dock.psf.current == MAP, "as soon as there is one"
    dock.run_button.click()
    idle()
    result = viewer.layers["cells · Richardson–Lucy"]
    assert result.data.shape == sample.image.data.shape
    assert result.data.dtype == np.float32
    assert np.std(result.data) > np.std(sample.image.data)
    np.testing.assert_array_equal(result.scale, cells.scale)
    assert result.units == cells.units
    assert result.colormap.name == "magenta"
    about = result.metadata[METADATA_KEY]
    assert about == json.loads(json.dumps(about))
    assert about["psf"]["source"] == "psf-map"
    assert about["step"]["method"]["n_iterations"] == 3
    assert "CPU" in dock.status.text()


def test_preview_agrees_with_the_whole(viewer, dock, idle):
    layer = viewer.add_image(blobs(400, 480), name="cells")
    know_map(viewer, layer, wedge(400, 480, 64))
    viewer.scene.camera.center = (200, 300)
    dock.preview()
    idle()
    dock.run()
    idle()
    preview = viewer.layers["cells · Richardson–Lucy · preview"]
    whole = viewer.layers["cells · Richardson–Lucy"].data
    top, left = (int(v) for v in preview.translate)
    assert (top, left) == (72, 172)
    same = whole[top : top + 256, left : left + 256]
    assert np.abs(preview.data - same).max() < 0.01 * np.ptp(same)


def test_residual(viewer, dock, cells, sample, idle):
    know_map(viewer, cells, sample.psf_map())
    dock.residual.setChecked(True)
    dock.run()
    idle()
    residual = viewer.layers["cells · Richardson–Lucy · residual"]
    assert not residual.visible
    assert residual.contrast_limits[0] == -residual.contrast_limits[1]
    assert dock.picker.layer() is cells


@pytest.mark.parametrize("suffix", [".npy", ".tif", ".npz"])
def test_with_a_file(viewer, dock, cells, sample, kernel, idle, tmp_path, suffix):
    path = tmp_path / f"psf{suffix}"
    if suffix == ".npz":
        sample.psf_map().save(path)
    else:
        from napari_deblur.io.write import write_psf

        write_psf(kernel, path)
    dock.psf.choose(FILE)
    dock.psf.path.setText(str(path))
    dock.run()
    idle()
    about = viewer.layers["cells · Richardson–Lucy"].metadata[METADATA_KEY]
    assert about["psf"]["source"] == ("psf-map" if suffix == ".npz" else "kernel")


def test_with_a_layer(viewer, dock, cells, kernel, idle, notes):
    dock.psf.choose(LAYER)
    dock.run()
    assert "must be another layer than the image" in notes[0][1]
    psf = viewer.add_image(kernel, name="beads")
    dock.psf.layer.choose(psf)
    dock.run()
    idle()
    assert "cells · Richardson–Lucy" in viewer.layers


def test_with_optics_filled_from_the_layer(viewer, dock, cells, idle):
    dock.psf.choose(OPTICS)
    fields = dock.psf.optics.form.fields
    assert fields["pixel_size_um"].value() == pytest.approx(0.64)
    fields["na"].set(0.2)
    fields["wavelength_um"].set(0.58)
    dock.run()
    idle()
    about = viewer.layers["cells · Richardson–Lucy"].metadata[METADATA_KEY]
    assert about["psf"]["source"] == "optics"


def test_blind_keeps_the_estimate_for_the_next_run(viewer, dock, cells, sample, idle, monkeypatch):
    from napari_deblur.steps.psf_map import EstimatePsfMap

    asked = []

    def estimate(self, image, *, engine, run, optics=None):
        asked.append((self.model, optics))
        return sample.psf_map()

    monkeypatch.setattr(EstimatePsfMap, "estimate", estimate)
    assert dock.psf.current == BLIND
    dock.run()
    idle()
    assert asked == [("zernike-3", None)]
    assert isinstance(map_store(viewer).entries[0].maps[0], PsfMap)
    assert dock.psf.current == MAP


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (MAP, "PSF map must exist: run the PSF map dock or choose 'Blind'"),
        (FILE, "PSF file must be chosen"),
        (OPTICS, "na is required"),
    ],
)
def test_what_is_missing_is_named(viewer, dock, cells, notes, key, text):
    dock.psf.choose(key)
    dock.run()
    assert len(notes) == 1
    assert text in notes[0][1]


@pytest.mark.parametrize(
    ("psf", "text"),
    [
        (np.zeros((9, 9)), "zero"),
        (np.ones((301, 301)), "image"),
        (-np.ones((9, 9)), "positive"),
        (np.full((9, 9), np.nan), "finite"),
    ],
)
def test_bad_kernels_are_refused_with_a_sentence(viewer, dock, cells, idle, notes, tmp_path, psf, text):
    path = tmp_path / "psf.npy"
    np.save(path, psf)
    dock.psf.choose(FILE)
    dock.psf.path.setText(str(path))
    dock.run()
    idle()
    assert len(notes) == 1
    assert text in notes[0][1]
    assert len(viewer.layers) == 1


def test_a_missing_file_is_named(viewer, dock, cells, idle, notes):
    dock.psf.choose(FILE)
    dock.psf.path.setText("/nowhere/psf.tif")
    dock.run()
    idle()
    assert "/nowhere/psf.tif" in notes[0][1]


@pytest.mark.window
def test_a_cancel_keeps_the_partial_result(viewer, dock, cells, sample, idle, qtbot):
    know_map(viewer, cells, sample.psf_map())
    dock.method.set(registry()["richardson-lucy"](n_iterations=2000))
    dock.run()
    qtbot.waitUntil(lambda: "iteration" in dock.message.text(), timeout=20_000)
    dock.cancel_button.click()
    idle()
    result = viewer.layers["cells · Richardson–Lucy (cancelled)"]
    assert result.metadata[METADATA_KEY]["partial"] is True
    assert np.isfinite(result.data).all()


def test_a_map_of_another_image_is_offered_but_not_taken(viewer, dock, cells, sample):
    other = viewer.add_image(sample.image.data[:100], name="other", units=("um", "um"))
    know_map(viewer, other, wedge(64, 64, 32))
    assert dock.psf.current == BLIND
    assert dock.psf.map.count() == 0, "it does not fit"
    beads = viewer.add_image(sample.image.data, name="beads", units=("um", "um"))
    know_map(viewer, beads, sample.psf_map())
    assert dock.psf.current == BLIND
    assert dock.psf.map.count() == 1
    dock.picker.choose(beads)
    assert dock.psf.current == MAP


def test_every_method_runs_from_the_dock(viewer, dock, cells, sample, idle):
    know_map(viewer, cells, sample.psf_map())
    for cls in registry().values():
        if not (cls.space_varying or cls.blind):
            continue  # refuses a map; the live dock's tests run it
        few = {"n_iterations": 2} if "n_iterations" in cls.model_fields else {}
        dock.method.set(cls(**few))
        assert dock.form.value(method=dock.method.value()) == Deblur(method=cls(**few))
        dock.run()
        idle()
        assert f"cells · {cls(**few).label}" in viewer.layers


def test_a_method_of_one_psf_refuses_a_map(viewer, dock, cells, sample, idle, notes):
    know_map(viewer, cells, sample.psf_map())
    dock.method.set(registry()["latent-deformation"]())
    dock.run()
    idle()
    assert "psf must be a single kernel for Latent deformation; received a PSF map" in notes.pop()[1]
    assert [layer.name for layer in viewer.layers if "Latent" in layer.name] == []


def test_a_stack_with_one_map_and_with_many(viewer, dock, idle, notes):
    stack = viewer.add_image(np.stack([blobs(96, 112)] * 2), name="stack")
    one = wedge(96, 112, 32)
    entry = MapEntry("stack", (one,), (0,), (2,), Placement.of(stack), stack.unique_id)
    map_store(viewer).add(entry)
    dock.run()
    idle()
    assert viewer.layers["stack · Richardson–Lucy"].data.shape == (2, 96, 112)
    map_store(viewer).add(replace(entry, maps=(one, one), plane=None))
    dock.preview()
    idle()
    assert "stack · Richardson–Lucy · preview" in viewer.layers
    dock.run()
    idle()
    assert not notes
    assert "stack · Richardson–Lucy [1]" in viewer.layers


def test_a_renamed_layer_keeps_its_map(viewer, dock, cells, sample):
    entry = MapEntry("cells", (sample.psf_map(),), (), (), Placement.of(cells), cells.unique_id)
    map_store(viewer).add(entry)
    cells.name = "something else"
    dock.layer_picked()
    assert dock.psf.current == MAP
    assert dock.psf.entry() is entry


def test_a_cropped_map_keeps_positions_and_kernels():
    psf_map = wedge(256, 256, 32)
    region = Region((), 70, 100, 60, 50, 64, 90, 80, 70)
    part = cropped(psf_map, region)
    assert part.image_shape == (80, 70)
    for y, x in ((10.0, 20.0), (79.0, 69.0), (0.0, 0.0)):
        np.testing.assert_allclose(part.psf_at(y, x), psf_map.psf_at(y + 64, x + 90), atol=1e-7)
    tiny = cropped(psf_map, Region((), 18, 18, 4, 4, 18, 18, 4, 4))
    np.testing.assert_allclose(tiny.psf_at(1.0, 1.0), psf_map.psf_at(19.0, 19.0), atol=1e-7)


def test_where_a_background_was_taken_off_the_flux_is_no_percentage():
    facts = {"flux_change": 0.31, "reblur_residual_rms": 2.0}
    assert summary(Record({}, facts=facts)) == "flux +31.00%, residual 2 grey values (RMS)"
    told = summary(Record({}, facts={**facts, "flux_change_grey_values_per_px": 1.94}))
    assert told.startswith("flux +1.9 grey values per pixel (a background that is too high adds light), ")
    assert "%" not in told


def test_a_cancelled_blind_run_over_a_stack_leaves_no_broken_map(dock, viewer, sample, idle, qtbot):
    movie = np.stack([sample.image.data] * 3)
    layer = viewer.add_image(movie, name="movie")
    dock.picker.choose(layer)
    dock.psf.combo.setCurrentIndex(dock.psf.combo.findData(BLIND))
    dock.method.set(registry()["richardson-lucy"](n_iterations=2000))
    dock.run()
    qtbot.waitUntil(lambda: "iteration" in dock.message.text(), timeout=30_000)
    dock.cancel()
    idle()
    assert any("cancelled" in one.name for one in viewer.layers)
    assert not map_store(viewer).entries


def slow(monkeypatch):
    """Show the result so far from the first iteration on."""
    monkeypatch.setattr(worker, "_FIRST_IMAGE_S", 0.0)
    monkeypatch.setattr(worker, "_IMAGE_PAUSE_S", 0.0)


def test_the_result_so_far_is_seen_while_a_run_takes_its_time(
    dock, viewer, cells, kernel, tmp_path, idle, monkeypatch
):
    slow(monkeypatch)
    np.save(tmp_path / "k.npy", kernel)
    dock.psf.combo.setCurrentIndex(dock.psf.combo.findData(FILE))
    dock.psf.path.setText(str(tmp_path / "k.npy"))
    dock.method.set(registry()["richardson-lucy"](n_iterations=8))
    seen = []
    viewer.layers.events.inserted.connect(
        lambda event: seen.append((event.value.name, event.value.data.copy()))
    )
    dock.run()
    idle()
    (live_name, live), (name, result) = seen
    assert (live_name, name) == ("cells · so far", "cells · Richardson–Lucy")
    assert live.shape == result.shape
    assert 0.5 < live.mean() / result.mean() < 2, "in grey values"
    assert "cells · so far" not in viewer.layers


def test_a_preview_of_a_stack_is_seen_where_it_lies(dock, viewer, kernel, tmp_path, idle, monkeypatch, qtbot):
    slow(monkeypatch)
    movie = np.stack([blobs(300, 320)] * 3)
    layer = viewer.add_image(movie, name="movie", scale=(1, 0.5, 0.5))
    np.save(tmp_path / "k.npy", kernel)
    dock.picker.choose(layer)
    dock.psf.combo.setCurrentIndex(dock.psf.combo.findData(FILE))
    dock.psf.path.setText(str(tmp_path / "k.npy"))
    viewer.dims.set_point(0, 2)
    places = []
    viewer.layers.events.inserted.connect(
        lambda event: places.append((event.value.name, event.value.extent.world))
    )
    dock.preview()
    idle()
    live, preview = places
    assert live[0] == "movie · so far"
    np.testing.assert_allclose(live[1], preview[1])
    dock.method.set(registry()["richardson-lucy"](n_iterations=200))
    dock.run()
    qtbot.waitUntil(lambda: len(places) == 3, timeout=20_000)
    dock.cancel()
    idle()
    assert places[2][0] == "movie · so far"
    np.testing.assert_allclose(places[2][1][:, 1:], layer.extent.world[:, 1:])


def test_a_live_layer_that_the_user_deletes_stays_away(
    dock, viewer, cells, kernel, tmp_path, idle, monkeypatch, qtbot
):
    slow(monkeypatch)
    np.save(tmp_path / "k.npy", kernel)
    dock.psf.combo.setCurrentIndex(dock.psf.combo.findData(FILE))
    dock.psf.path.setText(str(tmp_path / "k.npy"))
    dock.method.set(registry()["richardson-lucy"](n_iterations=300))
    names = []
    viewer.layers.events.inserted.connect(lambda event: names.append(event.value.name))
    dock.run()
    qtbot.waitUntil(lambda: "cells · so far" in viewer.layers, timeout=20_000)
    viewer.layers.remove("cells · so far")
    dock.cancel()
    idle()
    assert names.count("cells · so far") == 1
