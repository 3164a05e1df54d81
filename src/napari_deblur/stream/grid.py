"""How an image is cut into blocks that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from napari_deblur.core.errors import InvalidInputError

Region = tuple[slice, ...]

# Blocks along y and x are multiples of this, because the sides of a TIFF's tiles are.
ALIGN_PX = 16
_TILE_PX = 256
_CHUNK_PX = 1024
# Smaller blocks would be little else than halo.
_LEAST_PX, _LEAST_PLANES = 64, 8


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes
    ----------
    number : int
    keep : tuple of slice
        What it contributes to the result; the blocks' kept parts touch without overlap.
    read : tuple of slice
        What is read for that: the kept part and its halo, cut at the image's border.
    """

    number: int
    keep: Region
    read: Region

    @property
    def inner(self) -> Region:
        """The kept part in the coordinates of what was read."""
        return tuple(
            slice(k.start - r.start, k.stop - r.start) for k, r in zip(self.keep, self.read, strict=True)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kept part."""
        return tuple(part.stop - part.start for part in self.keep)


@dataclass(frozen=True)
class Grid:
    """All blocks of an image.

    Parameters
    ----------
    shape : tuple of int
        Of the image.
    keep : tuple of int
        Sides of a block's kept part.
    halo : tuple of int
        How far around it is read, along each axis; 0 along axes whose planes are independent.
    """

    shape: tuple[int, ...]
    keep: tuple[int, ...]
    halo: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(-(-size // keep) for size, keep in zip(self.shape, self.keep, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __getitem__(self, number: int) -> Block:
        if not 0 <= number < len(self):
            raise IndexError(number)
        place, rest = [], number
        for count in reversed(self.counts):
            rest, index = divmod(rest, count)
            place.append(index)
        keep, read = [], []
        for index, size, side, halo in zip(reversed(place), self.shape, self.keep, self.halo, strict=True):
            start, stop = index * side, min((index + 1) * side, size)
            keep.append(slice(start, stop))
            read.append(slice(max(0, start - halo), min(size, stop + halo)))
        return Block(number, tuple(keep), tuple(read))

    def number_at(self, position: tuple[int, ...]) -> int:
        """Return the block that contributes a pixel."""
        places = (index // keep for index, keep in zip(position, self.keep, strict=True))
        return int(np.ravel_multi_index(tuple(places), self.counts))

    @property
    def largest_read(self) -> tuple[int, ...]:
        """Shape of the largest block with its halo."""
        return tuple(
            min(size, keep + 2 * halo)
            for size, keep, halo in zip(self.shape, self.keep, self.halo, strict=True)
        )

    @property
    def overhead(self) -> float:
        """Pixels read, halos counted every time, over the pixels of the image."""
        return math.prod(
            _read_length(size, keep, halo) / size
            for size, keep, halo in zip(self.shape, self.keep, self.halo, strict=True)
        )

    def chunks(self) -> tuple[int, ...]:
        """Return what the result stores in one piece: planes, of which no two blocks share one."""
        along = [_common(side, size) for side, size in zip(self.keep[-2:], self.shape[-2:], strict=True)]
        return (*(1,) * (len(self.shape) - 2), *along)


def choose_grid(
    shape: tuple[int, ...],
    halo: tuple[int, ...],
    *,
    bytes_of: Callable[[tuple[int, ...]], float],
    budget_bytes: float,
    stored: tuple[int, ...],
    block_px: int | None = None,
) -> Grid:
    """Choose the blocks that fit and read the fewest pixels twice.

    Parameters
    ----------
    shape : tuple of int
        Of the image.
    halo : tuple of int
        One per axis; 0 for axes whose planes are computed alone.
    bytes_of : callable
        Memory that a block of a given shape takes, halo included.
    budget_bytes : float
        Most memory that it may take.
    stored : tuple of int
        What the image's file stores in one piece. A block takes as many independent planes as that, if they
        fit, so that no piece is read once for each of them.
    block_px : int, optional
        Side of the blocks along the axes with a halo, and along y and x, instead of the choice.

    Raises
    ------
    InvalidInputError
        If ``block_px`` is too small to be a block.
    """
    if block_px is not None and block_px < ALIGN_PX:
        raise InvalidInputError("block_px", f"must be at least {ALIGN_PX}", block_px)
    options = []
    for axis, (size, reach) in enumerate(zip(shape, halo, strict=True)):
        in_plane = axis >= len(shape) - 2
        if reach == 0 and not in_plane:
            options.append([1])
        elif block_px is not None:
            options.append([_aligned(block_px, size) if in_plane else min(block_px, size)])
        else:
            options.append(_sides(size, in_plane=in_plane))

    def cost(keep: tuple[int, ...]) -> tuple[float, float, int]:
        grid = Grid(shape, keep, halo)
        return max(bytes_of(grid.largest_read), budget_bytes), grid.overhead, len(grid)

    best: tuple[int, ...] = min(product(*options), key=cost)
    keep = list(best)
    for axis in reversed(range(len(shape) - 2)):
        if halo[axis]:
            continue
        one = bytes_of(Grid(shape, tuple(keep), halo).largest_read)
        keep[axis] = max(1, min(stored[axis], shape[axis], int(budget_bytes / one)))
        if keep[axis] < shape[axis]:
            break
    return Grid(shape, tuple(keep), halo)


def scan_grid(shape: tuple[int, ...], stored: tuple[int, ...], *, largest_px: int) -> Grid:
    """Choose blocks for reading everything once: as many whole pieces of the file as fit, last axis first."""
    keep = [min(piece, size) for piece, size in zip(stored, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        others = math.prod(keep) // keep[axis]
        pieces = max(1, largest_px // max(1, others * keep[axis]))
        keep[axis] = min(shape[axis], keep[axis] * pieces)
    return Grid(shape, tuple(keep), (0,) * len(shape))


def _sides(size: int, *, in_plane: bool) -> list[int]:
    counts = sorted({*range(1, 9), *(round(8 * 1.3**n) for n in range(20))})
    least = _LEAST_PX if in_plane else _LEAST_PLANES
    sides = [side for count in counts if (side := -(-size // count)) >= least or count == 1]
    if in_plane:
        sides = [_aligned(side, size) for side in sides]
    return sorted(set(sides), reverse=True)


def _aligned(side: int, size: int) -> int:
    """Round a side up to whole chunks where it is longer than one, else to whole tiles."""
    if side >= size:
        return -(-size // ALIGN_PX) * ALIGN_PX
    unit = _CHUNK_PX if side > _CHUNK_PX else _TILE_PX if side > _TILE_PX else ALIGN_PX
    return -(-side // unit) * unit


def _common(side: int, size: int) -> int:
    """Return the side of chunks, of which a whole number makes a block."""
    if side >= size:
        return min(size, _CHUNK_PX)
    return _CHUNK_PX if side % _CHUNK_PX == 0 else side


def _read_length(size: int, keep: int, halo: int) -> int:
    return sum(min(size, start + keep + halo) - max(0, start - halo) for start in range(0, size, keep))
