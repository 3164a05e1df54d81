from __future__ import annotations

import json

import numpy as np
import pytest

from napari_deblur.steps.background import RemoveBackground
from napari_deblur.ui.background_dock import BackgroundDock
from napari_deblur.ui.layers import METADATA_KEY


@pytest.fixture
def dock(opened):
    dock = opened(BackgroundDock)
    return dock


@pytest.mark.window
def test_foreground_and_background_are_added(viewer, dock, idle, picture):
    layer = viewer.add_image(picture, name="cells", scale=(0.2, 0.2), units=("um", "um"), colormap="green")
    dock.form.form.fields["levels"].editor.value = 4
    dock.run_button.click()
    idle()
    assert [layer.name for layer in viewer.layers] == ["cells", "cells · background", "cells · foreground"]
    foreground, background = viewer.layers["cells · foreground"], viewer.layers["cells · background"]
    rest = picture - foreground.data - background.data
    assert rest.max() < 1e-3, "the rest is what was clipped: nothing above zero"
    for result in (foreground, background):
        np.testing.assert_array_equal(result.scale, layer.scale)
        assert result.units == layer.units
        assert result.colormap.name == "green"
        about = result.metadata[METADATA_KEY]
        assert about == json.loads(json.dumps(about))
        assert about["step"]["levels"] == 4
        assert about["of"] == "cells"
    assert "s" in dock.status.text()


def test_replaying_the_record_gives_the_same(viewer, dock, idle, picture):
    viewer.add_image(picture, name="cells")
    dock.form.form.fields["levels"].editor.value = 3
    dock.run()
    idle()
    result = viewer.layers["cells · foreground"]
    step = RemoveBackground(**result.metadata[METADATA_KEY]["step"])
    from napari_deblur.core.image import Image

    np.testing.assert_array_equal(step.run(Image(picture)).image.data, result.data)


def test_stacks_plane_by_plane(viewer, dock, idle, picture):
    stack = np.stack([picture, picture[::-1]])
    viewer.add_image(stack, name="stack", scale=(2, 1, 1))
    dock.run()
    idle()
    result = viewer.layers["stack · foreground"]
    assert result.data.shape == stack.shape
    np.testing.assert_array_equal(result.scale, (2, 1, 1))


def test_bad_parameters_are_refused_with_a_sentence(viewer, dock, idle, picture, notes):
    viewer.add_image(picture, name="cells")
    dock.form.form.set(RemoveBackground(algorithm="rolling-ball", radius_px=500))
    dock.run()
    idle()
    assert notes == [("error", "radius_px must be below the image's smaller side, 96 px; received 500")]


def test_the_foreground_layer_keeps_the_noise_below_zero(viewer, dock, idle, picture):
    from napari_deblur.ui.layers import LayerImage

    viewer.add_image(picture, name="cells")
    dock.form.form.fields["levels"].editor.value = 4
    dock.run()
    idle()
    foreground, background = viewer.layers["cells · foreground"], viewer.layers["cells · background"]
    image = LayerImage.of(foreground).checked()
    np.testing.assert_allclose(image.unclipped, picture - background.data, atol=1e-3)
    part = LayerImage.of(foreground).load((slice(3, 40), slice(5, 60)))
    np.testing.assert_array_equal(part.unclipped, image.unclipped[3:40, 5:60])
    foreground.data = foreground.data + 1
    assert LayerImage.of(foreground).below is None, "other pixels have nothing to do with it"
