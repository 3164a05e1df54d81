"""Turn scattered trust and noisy depths on a grid into a smooth surface over the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatGrid = NDArray[np.float64]

_ROUNDS = 8
_OUTLIER_SPREADS = 2.5
_LEAST_SUPPORT = 0.3


def robust_spread(residuals: NDArray[Any], weights: NDArray[Any]) -> float:
    """Return the standard deviation of the bulk of residuals: the weighted median of their sizes, scaled."""
    sizes, trust = np.abs(residuals).ravel(), np.asarray(weights, dtype=np.float64).ravel()
    order = np.argsort(sizes)
    total = np.cumsum(trust[order])
    if total[-1] <= 0:
        return 0.0
    middle = int(np.searchsorted(total, total[-1] / 2))
    return 1.4826 * float(sizes[order][min(middle, len(sizes) - 1)])


def outlier_weights(residuals: NDArray[Any], spread: float) -> FloatGrid:
    """Return how much a value still counts at its distance from the fit: 1 near it, falling to 0 (Cauchy)."""
    weights: FloatGrid = 1 / (1 + (residuals / max(_OUTLIER_SPREADS * spread, 1e-12)) ** 2) ** 2
    return weights


def smooth_surface(
    values: FloatGrid, weights: FloatGrid, ys: FloatGrid, xs: FloatGrid, sigma_px: float
) -> tuple[FloatGrid, FloatGrid]:
    """Fit a plane around every node, by trust and distance, letting go of outliers.

    Local planes, unlike averages, do not pull a slope towards the middle at the borders.

    Parameters
    ----------
    values, weights : ndarray, shape (rows, cols)
        Depths, and how far to trust them (0: not at all).
    ys, xs : ndarray, shapes (rows,), (cols,)
        Positions of the nodes in pixels.
    sigma_px : float
        Reach of a fit: standard deviation of its Gaussian window. 0: values are only tested for outliers.

    Returns
    -------
    smooth : ndarray, shape (rows, cols)
        Defined everywhere; where there is no trust nearby, from farther away.
    residuals : ndarray, shape (rows, cols)
        Of the values against the fit; 0 where they have no weight.
    """
    reach = sigma_px if sigma_px > 0 else _spacing(ys, xs)
    trusted = weights > 0
    kept = np.where(trusted, values, 0.0)
    floor = 1e-6 * float(np.ptp(values[trusted])) if trusted.any() else 0.0
    counts = outlier_weights(*_against_neighbours(kept, trusted, floor))
    for _ in range(_ROUNDS):
        smooth = _local_planes(kept, weights * counts, ys, xs, reach)
        residuals = np.where(trusted, kept - smooth, 0.0)
        counts = outlier_weights(residuals, max(robust_spread(residuals, weights), floor))
    if sigma_px <= 0:
        smooth = np.where(trusted, kept, smooth)
    return smooth, residuals


def _spacing(ys: FloatGrid, xs: FloatGrid) -> float:
    steps = np.concatenate([np.diff(ys), np.diff(xs)])
    return float(np.median(steps)) if len(steps) else 1.0


def _against_neighbours(
    values: FloatGrid, trusted: NDArray[np.bool_], floor: float
) -> tuple[FloatGrid, float]:
    """Return the distance of every node from the median of its 3 × 3 neighbourhood, and its spread."""
    padded = np.pad(np.where(trusted, values, np.nan), 1, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*values.shape, 9)
    known = np.where(np.isnan(around).all(axis=-1, keepdims=True), 0.0, around)
    residuals = np.where(trusted, values - np.nanmedian(known, axis=-1), 0.0)
    return residuals, max(robust_spread(residuals, trusted), floor)


def _local_planes(
    values: FloatGrid, weights: FloatGrid, ys: FloatGrid, xs: FloatGrid, sigma: float
) -> FloatGrid:
    """Return the value of each node's own weighted plane, at that node.

    Window and powers factor into y and x, so that all sums are small matrix products.
    """
    found = np.full(values.shape, np.nan)
    extent = float(np.hypot(np.ptp(ys), np.ptp(xs))) + sigma
    while np.isnan(found).any() and sigma < 8 * extent:
        along_y, along_x = _window_powers(ys, sigma), _window_powers(xs, sigma)

        def total(of: FloatGrid, p: int, q: int, y: Any = along_y, x: Any = along_x) -> FloatGrid:
            summed: FloatGrid = y[p] @ of @ x[q].T
            return summed

        mass = total(weights, 0, 0)
        matrix = np.empty((*values.shape, 3, 3))
        powers = ((0, 0), (1, 0), (0, 1))
        for i, (p, q) in enumerate(powers):
            for j, (r, s) in enumerate(powers):
                matrix[..., i, j] = total(weights, p + r, q + s)
        # A little resistance to slopes: without it a lone row of trusted nodes would tilt freely.
        matrix[..., 1, 1] += 1e-4 * mass
        matrix[..., 2, 2] += 1e-4 * mass
        right = np.stack([total(weights * values, p, q) for p, q in powers], axis=-1)
        solvable = np.isnan(found) & (mass > _LEAST_SUPPORT * max(float(weights.max()), 1e-300))
        found[solvable] = np.linalg.solve(matrix[solvable], right[solvable][..., None])[:, 0, 0]
        sigma *= 2
    return np.where(np.isnan(found), 0.0, found)


def _window_powers(positions: FloatGrid, sigma: float) -> list[FloatGrid]:
    offset = (positions[None, :] - positions[:, None]) / sigma
    window = np.exp(-(offset**2) / 2)
    return [window * offset**power for power in range(3)]


def interpolation_matrix(positions: FloatGrid, size: int, *, cubic: bool) -> FloatGrid:
    """Return the matrix (size, n) that takes values at n positions to every pixel of an axis.

    Cubic (or linear) between the positions; outside, the line through the last two goes on for at most one
    spacing, which is half a patch, and stays constant beyond.
    """
    from scipy.interpolate import make_interp_spline

    n = len(positions)
    if n == 1:
        return np.ones((size, 1))
    first, last = positions[1] - positions[0], positions[-1] - positions[-2]
    pixels = np.clip(np.arange(size, dtype=np.float64), positions[0] - first, positions[-1] + last)
    inside = np.clip(pixels, positions[0], positions[-1])
    matrix: FloatGrid = make_interp_spline(positions, np.eye(n), k=3 if cubic and n > 3 else 1)(inside)
    before = np.maximum(positions[0] - pixels, 0) / first
    after = np.maximum(pixels - positions[-1], 0) / last
    matrix[:, 0] += before
    matrix[:, 1] -= before
    matrix[:, -1] += after
    matrix[:, -2] -= after
    return matrix


def over_image(
    values: FloatGrid, ys: FloatGrid, xs: FloatGrid, shape: tuple[int, int], *, cubic: bool
) -> NDArray[np.float32]:
    """Interpolate a grid of values at every pixel of an image, float32, shape (y, x)."""
    along_y = interpolation_matrix(ys, shape[0], cubic=cubic)
    along_x = interpolation_matrix(xs, shape[1], cubic=cubic)
    return (along_y @ values @ along_x.T).astype(np.float32)


def nearest_over_image(
    values: NDArray[Any], ys: FloatGrid, xs: FloatGrid, shape: tuple[int, int]
) -> NDArray[Any]:
    """Give every pixel of an image the value of the nearest node."""
    rows = np.abs(np.arange(shape[0])[:, None] - ys[None, :]).argmin(axis=1)
    cols = np.abs(np.arange(shape[1])[:, None] - xs[None, :]).argmin(axis=1)
    taken: NDArray[Any] = values[np.ix_(rows, cols)]
    return taken
