from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.ui.region import current_plane, preview_region, world_to_layer


def test_the_middle_of_the_view(viewer):
    layer = viewer.add_image(np.zeros((600, 800)), scale=(0.5, 0.5), translate=(100, 0))
    viewer.scene.camera.center = (100 + 0.5 * 300, 0.5 * 500)
    region = preview_region(viewer, layer, size_px=256, margin_px=32)
    assert (region.top, region.left, region.height, region.width) == (172, 372, 256, 256)
    assert (region.read_top, region.read_left, region.read_height, region.read_width) == (140, 340, 320, 320)


def test_a_view_beside_the_image_takes_its_nearest_part(viewer):
    layer = viewer.add_image(np.zeros((300, 100)))
    viewer.scene.camera.center = (-1000, 5000)
    region = preview_region(viewer, layer, size_px=256, margin_px=32)
    assert (region.top, region.left, region.height, region.width) == (0, 0, 256, 100)
    assert (region.read_height, region.read_width) == (288, 100)


def test_the_plane_shown(viewer):
    layer = viewer.add_image(np.zeros((5, 64, 64)), scale=(2, 1, 1))
    viewer.dims.set_point(0, 6)
    assert current_plane(viewer, layer) == (3,)
    assert preview_region(viewer, layer).index[0] == slice(3, 4)


def test_units_are_converted(viewer):
    viewer.add_image(np.zeros((10, 10)), units=("um", "um"))
    layer = viewer.add_image(np.zeros((100, 100)), scale=(100, 100), units=("nm", "nm"))
    factor = {"micrometer": 1.0, "nanometer": 1000.0}[str(viewer.dims.units[-1])]
    np.testing.assert_allclose(world_to_layer(viewer, layer, (4 * factor, 5 * factor)), (40, 50), atol=1e-6)


def test_a_drawn_rectangle(viewer):
    layer = viewer.add_image(np.zeros((600, 800)), scale=(0.5, 0.5))
    corners = np.array([[49.75, 99.75], [49.75, 149.75], [99.75, 149.75], [99.75, 99.75]])
    shapes = viewer.add_shapes([corners], shape_type="rectangle")
    viewer.layers.selection.active = shapes
    region = preview_region(viewer, layer)
    assert (region.top, region.left, region.height, region.width) == (100, 200, 100, 100)
    viewer.layers.selection.active = layer
    assert preview_region(viewer, layer).height == 256


def test_a_rectangle_outside_is_refused(viewer):
    layer = viewer.add_image(np.zeros((100, 100)))
    viewer.add_shapes([np.array([[200, 200], [200, 300], [300, 300], [300, 200]])], shape_type="rectangle")
    with pytest.raises(InvalidInputError, match="drawn rectangle must cover at least"):
        preview_region(viewer, layer)
