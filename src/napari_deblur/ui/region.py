"""Which part of a layer a preview takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.ui.layers import LayerImage, length_um

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

_SMALLEST_PX = 32


@dataclass(frozen=True)
class PlaneRange:
    """The planes of a box.

    Attributes
    ----------
    axis : int
        The array's axis along which they lie.
    front, depth : int
        What is shown.
    read_front, read_depth : int
        What is read.
    """

    axis: int
    front: int
    depth: int
    read_front: int
    read_depth: int


@dataclass(frozen=True)
class Region:
    """A rectangle of one plane, or a box of several, read with a margin that is cut off the result again.

    Attributes
    ----------
    plane : tuple of int
        Index along each leading axis.
    top, left, height, width : int
        What is shown.
    read_top, read_left, read_height, read_width : int
        What is read.
    planes : PlaneRange or None
        The planes of a box; None for the one plane.
    """

    plane: tuple[int, ...]
    top: int
    left: int
    height: int
    width: int
    read_top: int
    read_left: int
    read_height: int
    read_width: int
    planes: PlaneRange | None = None

    @property
    def index(self) -> tuple[slice, ...]:
        """Slices of the array to read; leading axes keep length 1, but for the planes of a box."""
        leading = [slice(i, i + 1) for i in self.plane]
        if self.planes is not None:
            box = self.planes
            leading[box.axis] = slice(box.read_front, box.read_front + box.read_depth)
        return (
            *leading,
            slice(self.read_top, self.read_top + self.read_height),
            slice(self.read_left, self.read_left + self.read_width),
        )

    @property
    def offset_px(self) -> tuple[int, ...]:
        """Position of the first pixel shown."""
        leading = list(self.plane)
        if self.planes is not None:
            leading[self.planes.axis] = self.planes.front
        return (*leading, self.top, self.left)

    @classmethod
    def whole_plane(cls, shape: tuple[int, ...], plane: tuple[int, ...]) -> Region:
        """Return all of one plane of an array."""
        height, width = shape[-2:]
        return cls(plane, 0, 0, height, width, 0, 0, height, width)

    def read_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is read of an array."""
        return tuple(len(range(*part.indices(size))) for part, size in zip(self.index, shape, strict=True))

    def trim(self, data: NDArray[Any]) -> NDArray[Any]:
        """Cut the margin off a result ``(…, read_height, read_width)``."""
        y, x = self.top - self.read_top, self.left - self.read_left
        data = data[..., y : y + self.height, x : x + self.width]
        if self.planes is None:
            return data
        first = self.planes.front - self.planes.read_front
        return data.take(range(first, first + self.planes.depth), axis=self.planes.axis)

    def with_planes(self, axis: int, size: int, depth: int, margin: int) -> Region:
        """Return the box of the planes around the one shown.

        Parameters
        ----------
        axis : int
            The axis along which the planes lie.
        size : int
            Number of planes that there are.
        depth, margin : int
            Number of planes to show, and to read on either side of them.
        """
        front, stop = _span(self.plane[axis] + 0.5, depth, size)
        read_front, read_stop = max(0, front - margin), min(size, stop + margin)
        box = PlaneRange(axis, front, stop - front, read_front, read_stop - read_front)
        return replace(self, planes=box)


def current_plane(viewer: Viewer, layer: Layer) -> tuple[int, ...]:
    """Return the indices along a layer's leading axes that the viewer shows."""
    point = world_to_layer(viewer, layer, viewer.dims.point)
    shape = layer.data[0].shape if layer.multiscale else layer.data.shape
    return tuple(
        int(np.clip(round(at), 0, size - 1)) for at, size in zip(point[:-2], shape[:-2], strict=True)
    )


def preview_region(viewer: Viewer, layer: Layer, *, size_px: int = 256, margin_px: int = 32) -> Region:
    """Return the part of a layer that a preview takes.

    A rectangle drawn in a Shapes layer, if that layer is the active one; else a square in the middle of what
    the viewer shows.

    Raises
    ------
    InvalidInputError
        If the drawn rectangle lies outside the image or is too small.
    """
    height, width = LayerImage.of(layer).shape[-2:]
    plane = current_plane(viewer, layer)
    drawn = _drawn_box(viewer, layer)
    if drawn is not None:
        (top, left), (bottom, right) = np.round(drawn).astype(int)
        top, bottom = (int(np.clip(v, 0, height)) for v in (top, bottom))
        left, right = (int(np.clip(v, 0, width)) for v in (left, right))
        if min(bottom - top, right - left) < _SMALLEST_PX:
            rule = f"must cover at least {_SMALLEST_PX} × {_SMALLEST_PX} pixels of the image"
            raise InvalidInputError("the drawn rectangle", rule, f"{bottom - top} × {right - left}")
    else:
        centre = world_to_layer(viewer, layer, _view_centre(viewer))[-2:]
        top, bottom = _span(float(centre[0]), size_px, height)
        left, right = _span(float(centre[1]), size_px, width)
    read_top, read_left = max(0, top - margin_px), max(0, left - margin_px)
    read_bottom, read_right = min(height, bottom + margin_px), min(width, right + margin_px)
    return Region(
        plane,
        top,
        left,
        bottom - top,
        right - left,
        read_top,
        read_left,
        read_bottom - read_top,
        read_right - read_left,
    )


def _span(centre: float, size: int, total: int) -> tuple[int, int]:
    size = min(size, total)
    start = int(np.clip(round(centre - size / 2), 0, total - size))
    return start, start + size


def _view_centre(viewer: Viewer) -> list[float]:
    point = [float(value) for value in viewer.dims.point]
    displayed = list(viewer.dims.displayed)
    camera = list(viewer.scene.camera.center)[-len(displayed) :]
    for axis, value in zip(displayed, camera, strict=True):
        point[axis] = float(value)
    return point


def world_to_layer(viewer: Viewer, layer: Layer, point: Any) -> NDArray[np.float64]:
    """Return a world position in pixels of a layer, also where the layer has another unit than the scene."""
    position = np.asarray(point, dtype=np.float64).copy()
    n = min(layer.ndim, len(position))
    scene_units = viewer.dims.units or ()
    for back in range(1, n + 1):
        if back > len(scene_units):
            break
        scene = length_um(1.0, str(scene_units[-back]))
        own = length_um(1.0, str(layer.units[-back]))
        if scene and own:
            position[-back] *= scene / own
    return np.asarray(layer.world_to_data(position), dtype=np.float64)


def _drawn_box(viewer: Viewer, layer: Layer) -> NDArray[np.float64] | None:
    """Return ((top, left), (bottom, right)) of the shape drawn last or selected, in pixels of a layer."""
    shapes = viewer.layers.selection.active
    if type(shapes).__name__ != "Shapes" or not len(shapes.data):
        return None
    chosen = max(shapes.selected_data, default=len(shapes.data) - 1)
    corners = np.asarray(
        [world_to_layer(viewer, layer, shapes.data_to_world(vertex))[-2:] for vertex in shapes.data[chosen]]
    )
    # A pixel covers half a step around its centre.
    return np.stack([corners.min(axis=0) + 0.5, corners.max(axis=0) + 0.5])
