"""Fill the patches of a PSF map that hold too little to tell."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_AXIS = "axis_rad"


def fill_invalid(
    values: NDArray[np.float32],
    valid: NDArray[np.bool_],
    names: tuple[str, ...],
    axis_period_rad: float = math.pi,
) -> NDArray[np.float32]:
    """Fill invalid patches from the nearest valid ones.

    Each takes the mean of the nearest valid patch in each of the four directions along the grid, weighted by
    the inverse distance (Shajkofci & Liebling 2020, §II-F); where no line meets one, the nearest overall. An
    axis is averaged as a direction modulo its period.

    Parameters
    ----------
    values : ndarray, shape (rows, cols, N)
    valid : ndarray, bool, shape (rows, cols)
        At least one is true.
    names : tuple of str
        Names of the N parameters.
    axis_period_rad : float
    """
    filled = values.copy()
    places = np.argwhere(valid)
    for row, col in np.argwhere(~valid):
        sources = _nearest_in_lines(valid, int(row), int(col))
        if not sources:
            nearest = places[np.abs(places - (row, col)).sum(axis=1).argmin()]
            sources = [(int(nearest[0]), int(nearest[1]), 1.0)]
        weights = np.array([1 / distance for _, _, distance in sources])
        weights /= weights.sum()
        stack = np.stack([values[r, c] for r, c, _ in sources]).astype(np.float64)
        filled[row, col] = weights @ stack
        if _AXIS in names:
            index = names.index(_AXIS)
            order = 2 * np.pi / axis_period_rad
            direction = weights @ np.exp(1j * order * stack[:, index])
            filled[row, col, index] = (np.angle(direction) / order) % axis_period_rad
    return filled


def _nearest_in_lines(valid: NDArray[np.bool_], row: int, col: int) -> list[tuple[int, int, float]]:
    """Return (row, column, distance) of the nearest valid patch up, down, left and right."""
    found = []
    for step_row, step_col in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c, distance = row + step_row, col + step_col, 1
        while 0 <= r < valid.shape[0] and 0 <= c < valid.shape[1]:
            if valid[r, c]:
                found.append((r, c, float(distance)))
                break
            r, c, distance = r + step_row, c + step_col, distance + 1
    return found
