from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.io.read import read_image

npe2 = pytest.importorskip("npe2")


@pytest.fixture
def plugin(monkeypatch):
    """Register a plugin that reads ``*.strange`` for the time of a test."""
    manager = npe2.PluginManager.instance()
    monkeypatch.setattr(manager, "discover", lambda *_, **__: 0)
    layers = []

    def read(path):
        return lambda _path: list(layers)

    with npe2.DynamicPlugin("strange-reader", plugin_manager=manager) as found:
        found.contribute.reader(filename_patterns=["*.strange"])(read)
        yield layers


def test_a_plugin_reads_what_we_cannot(tmp_path, plugin):
    pixels = np.arange(2 * 20 * 30, dtype=np.uint16).reshape(2, 20, 30)
    meta = {
        "name": "cells",
        "scale": (500, 100, 100),
        "units": ("nm", "nm", "nm"),
        "axis_labels": ("z", "y", "x"),
    }
    plugin.append(([pixels, pixels[:, ::2, ::2]], meta, "image"))
    path = tmp_path / "a.strange"
    path.touch()
    image = read_image(path)
    assert np.array_equal(image.data, pixels)
    assert (image.axes, image.name, image.z_step_um) == ("zyx", "cells", pytest.approx(0.5))
    assert image.pixel_size_um == pytest.approx((0.1, 0.1))
    assert image.source["format"] == "napari plugin strange-reader"


def test_a_scale_without_unit_is_no_size(tmp_path, plugin):
    path = tmp_path / "a.strange"
    path.touch()
    plugin.append((np.ones((20, 30)), {"scale": (2, 2)}))
    assert read_image(path).pixel_size_um is None


def test_what_plugins_give_is_checked(tmp_path, plugin):
    path = tmp_path / "a.strange"
    path.touch()
    plugin.append((np.ones((20, 30, 3)), {"rgb": True}, "image"))
    with pytest.raises(InvalidInputError, match="image must be single-channel"):
        read_image(path)
    with pytest.raises(InvalidInputError, match="series must be below the 1 images"):
        read_image(path, series=1)
    plugin[0] = (np.ones(7), {}, "image")
    with pytest.raises(InvalidInputError, match="image must have 2 to 5 axes"):
        read_image(path)
    (tmp_path / "a.unheard-of").touch()
    with pytest.raises(InvalidInputError, match="or be read by a napari plugin"):
        read_image(tmp_path / "a.unheard-of")
