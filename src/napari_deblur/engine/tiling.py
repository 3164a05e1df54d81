"""Cut an image into overlapping windows and blend the results back together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import FloatArray


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
    """One tile of a plane."""

    y: Span
    x: Span

    @property
    def read(self) -> tuple[slice, slice]:
        """Part of the image that is computed on."""
        return slice(self.y.start, self.y.stop), slice(self.x.start, self.x.stop)

    @property
    def keep(self) -> tuple[slice, slice]:
        """Part of the image that the result is added to."""
        return slice(self.y.keep_start, self.y.keep_stop), slice(self.x.keep_start, self.x.keep_stop)

    @property
    def inner(self) -> tuple[slice, slice]:
        """The kept part in the coordinates of what was read."""
        return (
            slice(self.y.keep_start - self.y.start, self.y.keep_stop - self.y.start),
            slice(self.x.keep_start - self.x.start, self.x.keep_stop - self.x.start),
        )

    @property
    def origin(self) -> tuple[int, int]:
        """First pixel that is read."""
        return self.y.start, self.x.start

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of what is read."""
        return self.y.stop - self.y.start, self.x.stop - self.x.start


@dataclass(frozen=True)
class Tiling:
    """All windows of a plane.

    Parameters
    ----------
    shape : tuple of int
        Shape (y, x) of the plane.
    tile_px : int
        Side length of a tile; a plane that fits into one tile is one window.
    halo_px : int
        How far around the kept part the computation reads.
    blend_px : int
        Width of the zone over which neighbouring tiles fade into each other.
    """

    shape: tuple[int, int]
    tile_px: int
    halo_px: int
    blend_px: int

    @cached_property
    def windows(self) -> list[Window]:
        """All windows, row by row."""
        ys, xs = (self._spans(size) for size in self.shape)
        return [Window(y, x) for y, x in product(ys, xs)]

    @property
    def _half_blend(self) -> int:
        """Half of the fading zone; a tile never fades on both sides at once."""
        return min(self.blend_px // 2, self.tile_px // 4)

    def _spans(self, size: int) -> list[Span]:
        count = max(1, -(-size // self.tile_px))
        edges = [round(index * size / count) for index in range(count + 1)]
        half = self._half_blend
        spans = []
        for low, high in pairwise(edges):
            keep_low, keep_high = max(0, low - half), min(size, high + half)
            start, stop = max(0, keep_low - self.halo_px), min(size, keep_high + self.halo_px)
            spans.append(Span(start, stop, keep_low, keep_high, low, high))
        return spans

    def weights(self, window: Window) -> FloatArray:
        """Return the weights of a window's kept part; over all windows they add up to 1."""
        y, x = (self._ramp(span, size) for span, size in zip((window.y, window.x), self.shape, strict=True))
        weights: NDArray[np.float32] = y[:, None] * x[None, :]
        return weights

    def _ramp(self, span: Span, size: int) -> FloatArray:
        positions = np.arange(span.keep_start, span.keep_stop, dtype=np.float32) + 0.5
        width = float(max(2 * self._half_blend, 1))
        ramp = np.ones(len(positions), np.float32)
        if span.tile_start > 0:
            ramp = np.minimum(ramp, np.clip((positions - span.tile_start) / width + 0.5, 0, 1))
        if span.tile_stop < size:
            ramp = np.minimum(ramp, np.clip((span.tile_stop - positions) / width + 0.5, 0, 1))
        return ramp
