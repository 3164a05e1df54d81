from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from npe2 import PluginManifest

import napari_deblur
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.io.read import read_image, read_record
from napari_deblur.ui import samples as ui_samples
from napari_deblur.ui.layers import METADATA_KEY
from napari_deblur.ui.writers import write_image_layer

MANIFEST = Path(napari_deblur.__file__).parent / "napari.yaml"
DOCKS = ["Background", "PSF map", "Deblur", "Compare", "Depth", "Live defocus"]


@pytest.fixture
def plugin(npe2pm):
    with npe2pm.tmp_plugin(manifest=PluginManifest.from_file(MANIFEST)) as plugin:
        yield plugin


def test_the_manifest_is_valid_and_every_command_exists():
    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert manifest.name == "napari-deblur"
    assert [widget.display_name for widget in manifest.contributions.widgets] == DOCKS


def test_the_top_level_manifest_is_a_relative_link():
    link = MANIFEST.parents[2] / "napari.yaml"
    if not link.parent.joinpath("pyproject.toml").exists():
        pytest.skip("installed without the repository")
    assert link.is_symlink()
    assert link.readlink() == Path("src/napari_deblur/napari.yaml")


def test_menus_and_docks_open_from_the_plugin(plugin, make_napari_viewer):
    viewer = make_napari_viewer(strict_qt=True)
    from napari._app_model import get_app_model

    menus = get_app_model().menus

    def commands(menu):
        return {item.command.id for item in menus.get_menu(menu) if hasattr(item, "command")}

    assert {"napari-deblur.background", "napari-deblur.deblur"} <= commands("napari/layers/filter")
    assert "napari-deblur.psf_map" in commands("napari/layers/measure")
    assert "napari-deblur.depth" in commands("napari/layers/visualize")
    viewer.add_image(np.random.default_rng(0).random((64, 64)), name="cells")
    for name in DOCKS:
        _, widget = viewer.window.add_plugin_dock_widget("napari-deblur", name)
        assert widget.title == name
        assert widget.picker.layer() is viewer.layers["cells"], "the proxy that napari hands out is unwrapped"


def test_the_device_is_a_preference(plugin_settings, npe2pm, monkeypatch):
    from napari.settings import get_plugin_settings

    from napari_deblur.core.errors import DeviceError
    from napari_deblur.engine import shared
    from napari_deblur.ui import device

    monkeypatch.setattr(shared, "_shared", shared.get_engine())
    monkeypatch.setattr(device, "_applied", ["auto"])
    assert device.wanted_device() == "auto", "also where napari does not know the plugin"
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    get_plugin_settings("napari-deblur").engine.device = "cpu"
    assert device.wanted_device() == "cpu"
    assert device.engine_on("cpu").report.reason == "asked for"
    assert device.engine_on("cpu") is shared.get_engine()
    with pytest.raises(DeviceError, match="'mps' cannot be used"):
        device.engine_on("mps")
    assert device.engine_on("cpu").device == "cpu"


def test_samples_open_at_scale(plugin, make_napari_viewer, monkeypatch, sample):
    from napari_deblur import samples

    monkeypatch.setattr(samples, "tilted_cells", lambda: sample)
    viewer = make_napari_viewer()
    (layer,) = viewer.open_sample("napari-deblur", "tilted-cells")
    np.testing.assert_array_equal(layer.data, sample.image.data)
    np.testing.assert_allclose(layer.scale, (0.64, 0.64))
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 2
    assert layer.metadata[METADATA_KEY]["optics"]["na"] == 0.2
    monkeypatch.setattr(samples, "tilted_grid", lambda: sample)
    assert ui_samples.tilted_grid()[0][2] == "image"


def test_save_writes_sizes_and_record(plugin, make_napari_viewer, tmp_path):
    viewer = make_napari_viewer()
    data = np.random.default_rng(0).random((3, 20, 30)).astype(np.float32)
    record = {"step": {"kind": "deblur"}, "role": "result"}
    layer = viewer.add_image(
        data, name="cells", scale=(300, 65, 65), units=("nm",) * 3, metadata={METADATA_KEY: record}
    )
    path = tmp_path / "cells.ome.tif"
    assert viewer.layers.save(str(path), plugin="napari-deblur") == [str(path)]
    image = read_image(path)
    np.testing.assert_array_equal(image.data, data)
    assert image.pixel_size_um == pytest.approx((0.065, 0.065))
    assert image.z_step_um == pytest.approx(0.3)
    assert read_record(path) == record
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
    layer.metadata = {}
    viewer.layers.save(str(path), plugin="napari-deblur")
    assert read_record(path) is None


def test_depth_with_gaps_is_written(tmp_path):
    data = np.where(np.eye(20) > 0, np.nan, 1.5).astype(np.float32)
    path = str(tmp_path / "depth.tif")
    write_image_layer(path, data, {"name": "depth", "scale": (1, 1)})
    np.testing.assert_array_equal(tifffile.imread(path), data)


def test_integers_and_multiscale_are_written(tmp_path):
    data = np.arange(600, dtype=np.uint16).reshape(20, 30)
    path = str(tmp_path / "counts.tif")
    write_image_layer(path, [data, data[::2, ::2]], {"name": "counts", "multiscale": True})
    np.testing.assert_array_equal(tifffile.imread(path), data.astype(np.float32))


def test_rgb_is_not_written(tmp_path):
    with pytest.raises(InvalidInputError, match="Split RGB"):
        write_image_layer(str(tmp_path / "a.tif"), np.zeros((20, 30, 3)), {"name": "photo", "rgb": True})


def test_opening_the_docks_does_not_import_torch():
    code = """
import sys
import napari_deblur.ui.background_dock, napari_deblur.ui.psf_map_dock
import napari_deblur.ui.deblur_dock, napari_deblur.ui.depth_dock
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
app = QApplication([])
viewer = ViewerModel()
ui = napari_deblur.ui
classes = (ui.background_dock.BackgroundDock, ui.psf_map_dock.PsfMapDock,
           ui.deblur_dock.DeblurDock, ui.depth_dock.DepthDock)
docks = [cls(viewer) for cls in classes]
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("name", DOCKS)
def test_docks_fit_into_300_pixels(plugin, opened, name):
    """Nothing may be cut off at the right, with everything unfolded and every source shown."""
    from npe2 import PluginManager
    from qtpy.QtWidgets import QScrollArea
    from superqt import QCollapsible

    (widget,) = [w for w in plugin.manifest.contributions.widgets if w.display_name == name]
    dock = opened(widget.get_callable(_registry=PluginManager.instance().commands))
    for section in dock.findChildren(QCollapsible):
        section.expand(animate=False)
    pages = getattr(getattr(dock, "psf", None), "combo", None)
    for index in range(pages.count() if pages else 1):
        if pages:
            pages.setCurrentIndex(index)
        inner = dock.findChild(QScrollArea).widget()
        assert inner.minimumSizeHint().width() <= 280
