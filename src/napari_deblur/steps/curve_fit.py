"""Robust fits of a defocus signal against known depth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from napari_deblur.steps.defocus import DefocusSignal, Grid
from napari_deblur.steps.surface_fit import outlier_weights, robust_spread

_GENTLE_ROUNDS = 15
_STRICT_ROUNDS = 6
_GENTLE = 1.345


def _robustly(fit: Callable[[Grid], Grid], trust: Grid, floor: float) -> None:
    """Refit with outliers weighed down.

    First gently (Huber's weights), until the fit and the spread around it have settled; then outliers are let
    go of at that spread. To shrink the spread further on would lock onto whichever part agrees best.

    Parameters
    ----------
    fit : callable
        Takes weights (n,), returns the distances (n,) from the fit.
    trust : ndarray, shape (n,)
    floor : float
        Least spread.
    """
    counts, spread = np.ones_like(trust), floor
    for _ in range(_GENTLE_ROUNDS):
        distance = np.abs(fit(trust * counts))
        spread = max(robust_spread(distance, trust), floor)
        counts = np.minimum(1, _GENTLE * spread / np.maximum(distance, 1e-300))
    for _ in range(_STRICT_ROUNDS):
        counts = outlier_weights(fit(trust * counts), spread)


def robust_lines(z: Grid, values: Grid, trust: Grid) -> tuple[Grid, Grid]:
    """Fit lines through values (k, n) over z (n,) together; return slopes (k,) and residuals (n, k).

    The values carry the noise and z is known, so it is they that are regressed on z: the reverse would find
    too small a scale.
    """
    slopes, residuals = np.zeros(len(values)), values.T

    def fit(weight: Grid) -> Grid:
        nonlocal slopes, residuals
        mean_z = (weight * z).sum() / weight.sum()
        mean = (weight * values).sum(axis=1) / weight.sum()
        spread_z = max(float((weight * (z - mean_z) ** 2).sum()), 1e-300)
        slopes = (weight * (z - mean_z) * (values - mean[:, None])).sum(axis=1) / spread_z
        residuals = (values - mean[:, None] - slopes[:, None] * (z - mean_z)).T
        distance: Grid = np.linalg.norm(residuals, axis=1)
        return distance

    _robustly(fit, trust, 1e-9 * float(np.abs(values).max()))
    return slopes, residuals


def fitted_azimuth(signal: DefocusSignal, y: Grid, x: Grid, guess: float) -> float:
    """Return the direction of steepest change, on the guess's side: the leading part of the two gradients."""
    trust = (signal.weights * signal.precision).ravel()
    design = np.stack([np.ones(y.size), y.ravel(), x.ravel()], axis=1)
    values = np.stack([signal.u.ravel(), signal.v.ravel()], axis=1)
    plane: Grid = np.zeros((3, 2))

    def fit(weight: Grid) -> Grid:
        nonlocal plane
        root = np.sqrt(weight)[:, None]
        plane = np.asarray(np.linalg.lstsq(design * root, values * root, rcond=None)[0], dtype=np.float64)
        distance: Grid = np.linalg.norm(values - design @ plane, axis=1)
        return distance

    _robustly(fit, trust, 1e-9 * float(np.abs(values).max()))
    along_y, along_x = np.linalg.svd(plane[1:])[0][:, 0]
    azimuth = math.atan2(along_y, along_x)
    return azimuth if math.cos(azimuth - guess) >= 0 else azimuth + math.pi


def rising_curve(z: Grid, quantity: Grid, trust: Grid, knots: int, slope: float) -> tuple[Grid, Grid, float]:
    """Fit the quantity as a rising broken line over depth.

    Parameters
    ----------
    z, quantity, trust : ndarray, shape (n,)
    knots : int
        Corners of the line, both ends included.
    slope : float
        Of the quantity over depth, on the whole; the line rises by at least a twentieth of it everywhere.

    Returns
    -------
    quantity, depth : ndarray, shape (knots,)
        Corners of the line, both rising.
    residual_um : float
        Spread around it, along depth.
    """
    used = trust > 0
    corners = np.linspace(z[used].min(), z[used].max(), knots)
    basis = np.stack([np.interp(z, corners, hat) for hat in np.eye(knots)], axis=1)
    # Just enough stiffness for corners that no depth lies near.
    bend = np.diff(np.eye(knots), n=2, axis=0) * math.sqrt(1e-5 * float(trust.sum()))
    at: Grid = np.zeros(knots)
    residuals: Grid = quantity

    def fit(weight: Grid) -> Grid:
        nonlocal at, residuals
        root = np.sqrt(weight)
        left = np.concatenate([basis * root[:, None], bend])
        right = np.concatenate([quantity * root, np.zeros(len(bend))])
        at = np.asarray(np.linalg.lstsq(left, right, rcond=None)[0], dtype=np.float64)
        residuals = quantity - basis @ at
        return residuals

    _robustly(fit, trust, 1e-9 * slope * float(np.ptp(z)))
    least = 0.05 * slope * float(corners[1] - corners[0])
    rising = at[0] + np.concatenate([[0.0], np.cumsum(np.maximum(np.diff(at), least))])
    return rising, corners, robust_spread(residuals, trust) / slope


def crossing(at: Grid, to: Grid) -> float:
    """Return the depth at which the quantity is 0, on the broken line or its continuation."""
    low = int(np.clip(np.searchsorted(at, 0.0) - 1, 0, len(at) - 2))
    return float(to[low] + (0 - at[low]) * (to[low + 1] - to[low]) / (at[low + 1] - at[low]))
