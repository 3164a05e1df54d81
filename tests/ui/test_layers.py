from __future__ import annotations

import json

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.record import Record
from napari_deblur.ui.layers import METADATA_KEY, LayerImage, Placement, length_um, provenance
from napari_deblur.ui.region import Region

AFFINE = np.array([[0.9, -0.2, 3.0], [0.1, 1.1, -4.0], [0, 0, 1]])
PLACES = [
    {},
    {"scale": (0.5, 0.25), "translate": (10, -20), "units": ("um", "um"), "axis_labels": ("y", "x")},
    {"scale": (0.5, 0.25), "rotate": 30, "shear": [0.2], "translate": (3, 4)},
    {"scale": (2, 3), "affine": AFFINE, "rotate": -10},
]


def world(layer, points):
    return np.array([layer.data_to_world(point) for point in points])


@pytest.mark.parametrize("place", PLACES)
def test_a_copy_lies_where_its_input_lies(place):
    layer = Image(np.zeros((20, 30)), **place)
    copy = Image(np.zeros((20, 30)), **Placement.of(layer).kwargs())
    points = [(0, 0), (19, 0), (5, 29)]
    np.testing.assert_allclose(world(copy, points), world(layer, points), atol=1e-9)
    for name in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_allclose(getattr(copy, name), getattr(layer, name), atol=1e-9)
    np.testing.assert_allclose(copy.affine.affine_matrix, layer.affine.affine_matrix)
    assert copy.units == layer.units
    assert copy.axis_labels == layer.axis_labels


@pytest.mark.parametrize("place", PLACES)
def test_a_part_and_a_coarse_grid_lie_in_their_place(place):
    layer = Image(np.zeros((200, 300)), **place)
    coarse = Image(np.zeros((4, 6)), **Placement.of(layer).at((16, 24), (40, 48)).kwargs())
    np.testing.assert_allclose(coarse.data_to_world((0, 0)), layer.data_to_world((16, 24)), atol=1e-9)
    np.testing.assert_allclose(coarse.data_to_world((3, 5)), layer.data_to_world((136, 264)), atol=1e-9)


def test_a_plane_of_a_stack():
    layer = Image(
        np.zeros((5, 20, 30)), scale=(2, 0.5, 0.25), translate=(7, 1, 2), units=("um",) * 3, axis_labels="zyx"
    )
    plane = Placement.of(layer).last(2)
    assert plane.ndim == 2
    np.testing.assert_allclose(plane.scale, (0.5, 0.25))
    np.testing.assert_allclose(plane.translate, (1, 2))
    assert plane.axis_labels == ("y", "x")
    thick = plane.with_leading_axis("micrometer", "z")
    flat = Image(np.zeros((1, 20, 30)), **thick.kwargs())
    np.testing.assert_allclose(flat.data_to_world((0, 3, 4)), (0, 2.5, 3))


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [(65, "nm", 0.065), (0.1, "um", 0.1), (1, "pixel", None), (2, "second", None), (1, "mm", 1000)],
)
def test_lengths_become_micrometres(size, unit, expected):
    assert length_um(size, unit) == (pytest.approx(expected) if expected else None)


def test_pixel_size_comes_from_scale_and_unit():
    layer = Image(np.ones((3, 20, 30)), scale=(300, 65, 65), units=("nm",) * 3, name="cells")
    source = LayerImage.of(layer)
    assert source.axes == "zyx"
    assert source.pixel_size_um == pytest.approx((0.065, 0.065))
    assert source.z_step_um == pytest.approx(0.3)
    image = source.load()
    assert image.data.dtype == np.float32
    assert image.name == "cells"
    assert image.pixel_size_um == pytest.approx((0.065, 0.065))


def test_pixels_have_no_size_without_a_unit():
    source = LayerImage.of(Image(np.ones((20, 30)), scale=(0.5, 0.5)))
    assert source.pixel_size_um is None
    assert source.z_step_um is None


def test_an_affine_counts_in_the_pixel_size():
    source = LayerImage.of(Image(np.ones((20, 30)), affine=np.diag([2.0, 4.0, 1.0]), units=("um", "um")))
    assert source.pixel_size_um == pytest.approx((2, 4))


def test_time_and_channels_are_named():
    layer = Image(np.ones((2, 3, 20, 30)), axis_labels=("t", "z", "y", "x"))
    assert LayerImage.of(layer).axes == "tzyx"
    timed = Image(np.ones((2, 20, 30)), units=("second", "um", "um"))
    assert LayerImage.of(timed).axes == "tyx"
    assert LayerImage.of(timed).z_step_um is None


def test_rgb_and_labels_are_refused_with_the_fix():
    with pytest.raises(InvalidInputError, match="Split RGB"):
        LayerImage.of(Image(np.zeros((20, 30, 3)), rgb=True, name="photo"))
    with pytest.raises(InvalidInputError, match=r"image layer .* received cells \(Labels\)"):
        LayerImage.of(Labels(np.zeros((20, 30), int), name="cells"))


def test_multiscale_uses_the_finest_level():
    finest = np.random.default_rng(0).random((64, 64))
    layer = Image([finest, finest[::2, ::2]], multiscale=True)
    np.testing.assert_array_equal(LayerImage.of(layer).load().data, finest.astype(np.float32))


class Lazy:
    """An array that says when it is read."""

    def __init__(self, data):
        self.data, self.shape, self.dtype, self.ndim = data, data.shape, data.dtype, data.ndim
        self.reads = 0

    def __getitem__(self, key):
        return self.data[key]

    def __array__(self, dtype=None, copy=None):
        self.reads += 1
        return np.array(self.data, dtype=dtype)


def test_describing_a_layer_reads_no_pixels():
    lazy = Lazy(np.ones((4, 20, 30)))
    layer = Image(lazy, contrast_limits=(0, 1))
    before = lazy.reads
    source = LayerImage.of(layer)
    assert lazy.reads == before
    source.load()
    assert lazy.reads == before + 1


def test_dask_and_regions():
    dask = pytest.importorskip("dask.array")
    data = np.random.default_rng(0).random((4, 40, 50)).astype(np.float32)
    layer = Image(dask.from_array(data, chunks=(1, 20, 25)))
    region = Region((2,), 10, 5, 20, 30, 6, 0, 28, 40)
    part = LayerImage.of(layer).load(region.index)
    np.testing.assert_array_equal(part.data, data[2:3, 6:34, 0:40])
    np.testing.assert_array_equal(region.trim(part.data), data[2:3, 10:30, 5:35])
    assert region.offset_px == (2, 10, 5)


def test_pixels_that_are_no_numbers_name_the_layer():
    layer = Image(np.full((20, 30), np.nan), contrast_limits=(0, 1), name="cells")
    with pytest.raises(InvalidInputError, match="layer 'cells' must be finite"):
        LayerImage.of(layer).load()


def test_provenance_is_json():
    record = Record(step={"kind": "x"}, facts={"a": np.float32(0.5), "b": np.arange(3)}, input={"name": "µ"})
    content = provenance(record, role="result", of="cells")
    assert json.loads(json.dumps(content)) == content
    assert content[METADATA_KEY]["facts"] == {"a": 0.5, "b": [0, 1, 2]}
    assert content[METADATA_KEY]["of"] == "cells"
