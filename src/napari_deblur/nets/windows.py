"""Windows of patches over a plane: their cells in feature maps, their means, interpolation between them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional

CELL_PX = 16
"""Pixels that one place of the spatial branch's maps stands for."""


def cells(length: int, starts: list[int], size: int) -> Tensor:
    """Return the cells (patches, cells) of each patch along an axis: whole ones, nearest to where it lies."""
    count = size // CELL_PX
    last = length // CELL_PX - count
    first = torch.tensor([min(round(start / CELL_PX), last) for start in starts])
    return first[:, None] + torch.arange(count)


def windows(maps: Tensor, cells: Tensor, dim: int) -> Tensor:
    """Return each patch's cells along an axis, the axis now counting patches and a new last one cells."""
    chosen = maps.index_select(dim, cells.flatten().to(maps.device))
    counted: Tensor = chosen.unflatten(dim, tuple(cells.shape))
    return counted.movedim(dim, -1)


def spans(cells: int, tile_px: int) -> list[slice]:
    """Split an axis into even parts of at most a tile."""
    count = -(-cells * CELL_PX // tile_px)
    edges = [round(index * cells / count) for index in range(count + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]


def window_means(planes: Tensor, rows: list[int], cols: list[int], size: int) -> Tensor:
    """Return the mean (planes, rows, cols) over each patch, from a table of sums."""
    # MPS knows no float64.
    precise = planes.cpu() if planes.device.type == "mps" else planes
    table = functional.pad(precise.double().cumsum(-2).cumsum(-1), (1, 0, 1, 0))
    y, x = torch.tensor(rows, device=table.device), torch.tensor(cols, device=table.device)
    tall = table[:, y + size] - table[:, y]
    return ((tall[..., x + size] - tall[..., x]) / size**2).to(planes)


def interpolation(length: int, starts: list[int], size: int) -> Tensor:
    """Return the matrix (length, starts) that interpolates linearly between centres, constant beyond them."""
    centres = torch.tensor(starts, dtype=torch.float64) + (size - 1) / 2
    if len(starts) == 1:
        return torch.ones((length, 1))
    at = torch.arange(length, dtype=torch.float64).clamp(centres[0], centres[-1])
    low = (torch.searchsorted(centres, at, right=True) - 1).clamp(0, len(starts) - 2)
    share = (at - centres[low]) / (centres[low + 1] - centres[low])
    matrix = torch.zeros((length, len(starts)), dtype=torch.float64)
    pixels = torch.arange(length)
    matrix[pixels, low] = 1 - share
    matrix[pixels, low + 1] = share
    return matrix
