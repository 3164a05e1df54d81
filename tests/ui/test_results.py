"""Previews and overlays are updated in place; results are added."""

from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.ui.layers import LayerImage, Placement, provenance
from napari_deblur.ui.region import preview_region
from napari_deblur.ui.results import Result, add_results, put_layer


@pytest.fixture
def cells(viewer, picture):
    return viewer.add_image(picture, name="cells")


def test_a_hidden_preview_is_shown_again(viewer, cells):
    region = preview_region(viewer, cells, size_px=64, margin_px=0)
    source = LayerImage.of(cells)
    data = np.random.default_rng(0).random(source.checked(region).data.shape).astype(np.float32)
    (first,) = add_results(viewer, source, region, {}, [Result(data, "sharp")])
    first.visible = False
    (second,) = add_results(viewer, source, region, {}, [Result(data + 1, "sharp")])
    assert second is first
    assert first.visible
    np.testing.assert_array_equal(first.data, region.trim(data + 1))


def put(viewer, cells, role, **look):
    about = provenance({}, role=role, of="cells", quantity="trust")
    return put_layer(
        viewer, "image", cells.data, Placement.of(cells), name="cells · trust", metadata=about, **look
    )


@pytest.mark.parametrize(("role", "look"), [("overlay", {}), ("preview", {"visible": False})])
def test_overlays_and_what_starts_hidden_stay_as_the_user_left_them(viewer, cells, role, look):
    layer = put(viewer, cells, role, **look)
    layer.visible = False
    assert put(viewer, cells, role, **look) is layer
    assert not layer.visible
    layer.visible = True
    put(viewer, cells, role, **look)
    assert layer.visible
