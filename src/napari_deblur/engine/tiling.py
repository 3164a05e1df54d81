"""Cut an image into overlapping windows and blend the results back together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise, product

import numpy as np

from napari_deblur.core.image import FloatArray

SMALLEST_TILE_PX = 64
"""Least height and width of a tile that memory may ask for."""
SMALLEST_TILE_PLANES = 8
ALIGN_PX = 8
"""Tiles of planes begin at multiples of this, so that networks which work on a coarser grid see the same one
in every tile; halos of such networks are multiples of it too."""


@dataclass(frozen=True)
class Span:
    """One window along one axis, in pixels of the image.

    Attributes
    ----------
    start, stop : int
        What is read: the kept part plus the halo.
    keep_start, keep_stop : int
        What is kept: the tile plus half of the blend zone on each side.
    tile_start, tile_stop : int
        The tile itself; tiles touch without overlap.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int
    tile_start: int
    tile_stop: int


@dataclass(frozen=True)
class Window:
    """One tile of a plane or a volume, one span per axis."""

    spans: tuple[Span, ...]

    @property
    def read(self) -> tuple[slice, ...]:
        """Part of the image that is computed on."""
        return tuple(slice(span.start, span.stop) for span in self.spans)

    @property
    def keep(self) -> tuple[slice, ...]:
        """Part of the image that the result is added to."""
        return tuple(slice(span.keep_start, span.keep_stop) for span in self.spans)

    @property
    def inner(self) -> tuple[slice, ...]:
        """The kept part in the coordinates of what was read."""
        return tuple(slice(span.keep_start - span.start, span.keep_stop - span.start) for span in self.spans)

    @property
    def origin(self) -> tuple[int, ...]:
        """First pixel that is read."""
        return tuple(span.start for span in self.spans)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is read."""
        return tuple(span.stop - span.start for span in self.spans)


@dataclass(frozen=True)
class Tiling:
    """All windows of a plane or a volume.

    Parameters
    ----------
    shape : tuple of int
        Shape (y, x) or (z, y, x).
    tile_px : int or tuple of int
        Size of a tile along each axis; an axis that fits into one tile is not cut.
    halo_px : int or tuple of int
        How far around the kept part the computation reads.
    blend_px : int
        Width of the zone over which neighbouring tiles fade into each other.
    """

    shape: tuple[int, ...]
    tile_px: int | tuple[int, ...]
    halo_px: int | tuple[int, ...]
    blend_px: int

    @cached_property
    def windows(self) -> list[Window]:
        """All windows, row by row."""
        return [Window(spans) for spans in product(*(self._spans(axis) for axis in range(len(self.shape))))]

    @property
    def largest(self) -> tuple[int, ...]:
        """Shape of the largest window."""
        return tuple(
            max(span.stop - span.start for span in self._spans(axis)) for axis in range(len(self.shape))
        )

    def _tile(self, axis: int) -> int:
        return self.tile_px if isinstance(self.tile_px, int) else self.tile_px[axis]

    def _halo(self, axis: int) -> int:
        return self.halo_px if isinstance(self.halo_px, int) else self.halo_px[axis]

    def _half_blend(self, axis: int) -> int:
        """Half of the fading zone; a tile never fades on both sides at once."""
        return min(self.blend_px // 2, self._tile(axis) // 4)

    def _spans(self, axis: int) -> list[Span]:
        size, halo = self.shape[axis], self._halo(axis)
        count = max(1, -(-size // self._tile(axis)))
        step = ALIGN_PX if axis >= len(self.shape) - 2 and self._tile(axis) >= 2 * ALIGN_PX else 1
        inner = [step * round(index * size / count / step) for index in range(1, count)]
        edges = [0, *inner, size]
        half = self._half_blend(axis)
        spans = []
        for low, high in pairwise(edges):
            keep_low, keep_high = max(0, low - half), min(size, high + half)
            start, stop = max(0, keep_low - halo), min(size, keep_high + halo)
            spans.append(Span(start, stop, keep_low, keep_high, low, high))
        return spans

    def weights(self, window: Window) -> FloatArray:
        """Return the weights of a window's kept part; over all windows they add up to 1."""
        return reduce(np.multiply.outer, (self._ramp(span, axis) for axis, span in enumerate(window.spans)))

    def _ramp(self, span: Span, axis: int) -> FloatArray:
        positions = np.arange(span.keep_start, span.keep_stop, dtype=np.float32) + 0.5
        width = float(max(2 * self._half_blend(axis), 1))
        ramp = np.ones(len(positions), np.float32)
        if span.tile_start > 0:
            ramp = np.minimum(ramp, np.clip((positions - span.tile_start) / width + 0.5, 0, 1))
        if span.tile_stop < self.shape[axis]:
            ramp = np.minimum(ramp, np.clip((span.tile_stop - positions) / width + 0.5, 0, 1))
        return ramp


def smallest_tile(ndim: int) -> tuple[int, ...]:
    """Return the smallest tile along each of the last ``ndim`` axes."""
    return (*(SMALLEST_TILE_PLANES for _ in range(ndim - 2)), SMALLEST_TILE_PX, SMALLEST_TILE_PX)


def fit_tile(
    shape: tuple[int, ...],
    halo_px: tuple[int, ...],
    blend_px: int,
    bytes_of: Callable[[tuple[int, ...]], float],
    budget_bytes: float,
) -> tuple[int, ...]:
    """Return the tile that fits the memory at the least extra work.

    Starting from the whole, the axis whose next cut makes all windows together smallest is cut again, until
    the largest window fits. Halos make every cut cost something; a cut that leaves the window as large as it
    was (a halo wider than the rest of the axis) is passed over.

    Parameters
    ----------
    shape : tuple of int
    halo_px : tuple of int
        Halo along each axis.
    blend_px : int
    bytes_of : callable
        Memory that a window of a given shape takes.
    budget_bytes : float
    """
    tile = shape
    while bytes_of(Tiling(shape, tile, halo_px, blend_px).largest) > budget_bytes:
        options = [
            option
            for axis in range(len(shape))
            if (option := _next_cut(shape, tile, halo_px, blend_px, axis)) is not None
        ]
        if not options:
            break
        tile = min(options, key=lambda one: _work(shape, one, halo_px, blend_px))
    return tile


def _work(shape: tuple[int, ...], tile: tuple[int, ...], halo_px: tuple[int, ...], blend_px: int) -> int:
    tiling = Tiling(shape, tile, halo_px, blend_px)
    counts = [-(-size // side) for size, side in zip(shape, tile, strict=True)]
    return int(np.prod(counts, dtype=np.int64)) * int(np.prod(tiling.largest, dtype=np.int64))


def _next_cut(
    shape: tuple[int, ...], tile: tuple[int, ...], halo_px: tuple[int, ...], blend_px: int, axis: int
) -> tuple[int, ...] | None:
    """Return the tile after the next cut along an axis that makes the windows smaller, if there is one."""
    smallest = smallest_tile(len(shape))[axis]
    before = Tiling(shape, tile, halo_px, blend_px).largest[axis]
    count = -(-shape[axis] // tile[axis])
    while True:
        count += 1
        side = -(-shape[axis] // count)
        if side < smallest:
            return None
        option = (*tile[:axis], side, *tile[axis + 1 :])
        if Tiling(shape, option, halo_px, blend_px).largest[axis] < before:
            return option


def halved(tile: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return a tile with its longest side halved, or None where no side can shrink further."""
    smallest = smallest_tile(len(tile))
    room = [axis for axis, side in enumerate(tile) if side > smallest[axis]]
    if not room:
        return None
    axis = max(room, key=lambda one: tile[one] / smallest[one])
    return (*tile[:axis], max(-(-tile[axis] // 2), smallest[axis]), *tile[axis + 1 :])
