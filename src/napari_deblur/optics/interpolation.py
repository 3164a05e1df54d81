"""Linear interpolation on a grid of positions, as a matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def linear_interpolation_matrix(
    targets_px: NDArray[np.generic], grid_px: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the matrix (targets, grid) of linear interpolation, constant beyond the grid's ends."""
    matrix = np.zeros((len(targets_px), len(grid_px)), np.float32)
    clamped = np.clip(targets_px, grid_px[0], grid_px[-1])
    low = np.clip(np.searchsorted(grid_px, clamped, side="right") - 1, 0, max(len(grid_px) - 2, 0))
    high = np.minimum(low + 1, len(grid_px) - 1)
    gap = np.where(high > low, grid_px[high] - grid_px[low], 1.0)
    share = np.where(high > low, (clamped - grid_px[low]) / gap, 0.0)
    rows = np.arange(len(targets_px))
    np.add.at(matrix, (rows, low), 1.0 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix
