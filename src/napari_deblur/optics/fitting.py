"""The parameters of a family that a measured kernel is nearest to, and how near that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_deblur.optics.measured import centroid_px, fourier_shift
from napari_deblur.optics.psf import PsfFamily, family

Distances = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_LARGEST_PX = 129
_BEYOND = 1.2
_N_STARTS = {1: 1, 2: 3, 3: 4}
_GRID = {1: (61,), 2: (13, 9), 3: (9, 5, 8)}
_LEAST_SHIFT_PX = 0.05
_BRIGHT = 0.1
_BATCH = 64
_FEW_STEPS, _MANY_STEPS = 20, 120


@dataclass(frozen=True)
class FamilyFit:
    """The member of a family that a kernel is nearest to.

    Attributes
    ----------
    model : str
    parameters : tuple of float
        In the family's order.
    distance : float
        min ‖kernel − a · member − b‖ / ‖kernel − b‖ over brightness a and an even ground b, for a measured
        kernel's noise and offset sum up over its many dark pixels.
    shift_px : float
        How far the kernel's centroid lay from its centre; it was moved there.
    outside : tuple of str
        Parameters that lie outside the family's ranges.
    """

    model: str
    parameters: tuple[float, ...]
    distance: float
    shift_px: float
    outside: tuple[str, ...]


def fit_family(model: str, kernel: NDArray[np.floating]) -> FamilyFit:
    """Fit the parameters of a family to a kernel.

    The search starts from a grid over the family's ranges, widened by a fifth, and goes on by the simplex
    method of Nelder & Mead 1965 (doi:10.1093/comjnl/7.4.308).

    Parameters
    ----------
    model : str
        Id of the family; at most three parameters.
    kernel : ndarray, shape (y, x)
        Odd-sized, not negative, not zero everywhere.

    Returns
    -------
    FamilyFit

    Raises
    ------
    UnknownNameError
    """
    array = np.ascontiguousarray(kernel, dtype=np.float32)
    return _fit(model, array.shape, array.tobytes())


def distance_to(model: str, parameters: Sequence[float], kernel: NDArray[np.floating]) -> float:
    """Return how far a kernel lies from one member of a family, measured as in `FamilyFit`."""
    target, _ = _centred(np.asarray(kernel, dtype=np.float64) / float(np.max(kernel)))
    return float(_distances(_rendered(family(model), np.array([parameters]), len(target)), target)[0])


@lru_cache(maxsize=64)
def _fit(model: str, shape: tuple[int, ...], content: bytes) -> FamilyFit:
    chosen = family(model)
    kernel = np.frombuffer(content, np.float32).reshape(shape).astype(np.float64)
    target, shift = _centred(kernel / kernel.max())
    names, ranges = chosen.parameter_names, chosen.parameter_ranges

    def distances(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return _distances(_rendered(chosen, values, len(target)), target)

    found = np.array([_refined(chosen, start, distances, _FEW_STEPS) for start in _starts(chosen, distances)])
    nearest = found[int(np.argmin(distances(found)))]
    values = _refined(chosen, nearest, distances, _MANY_STEPS)
    outside = tuple(
        name
        for name, value in zip(names, values, strict=True)
        if value > ranges[name][1] + 1e-3 * (ranges[name][1] - ranges[name][0])
    )
    distance = float(distances(np.array([values]))[0])
    return FamilyFit(model, tuple(float(value) for value in values), distance, shift, outside)


def _centred(kernel: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return the square around the centre of what is bright, and how far that lay off."""
    side = max(kernel.shape)
    more = [((side - size) // 2, side - size - (side - size) // 2) for size in kernel.shape]
    square = np.pad(kernel, more, mode="edge")
    away = side // 2 - centroid_px(np.maximum(square - _BRIGHT * square.max(), 0))
    shift = float(np.hypot(*away))
    if shift > _LEAST_SHIFT_PX:
        square = fourier_shift(square, tuple(float(part) for part in away))
    cut = max(0, (side - _LARGEST_PX + 1) // 2)
    return square[cut : side - cut, cut : side - cut], shift


def _distances(members: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each member (n, k, k), with brightness and ground by least squares."""
    flat, wanted = members.reshape(len(members), -1), target.ravel()
    centred, goal = flat - flat.mean(axis=1, keepdims=True), wanted - wanted.mean()
    power = (centred**2).sum(axis=1)
    brightness = np.maximum(centred @ goal / np.maximum(power, 1e-30), 0)
    ground = wanted.mean() - brightness * flat.mean(axis=1)
    left = (goal**2).sum() - brightness**2 * power
    total = ((wanted - ground[:, None]) ** 2).sum(axis=1)
    # A kernel without any shape is explained by none: it is as far off as can be.
    return np.asarray(np.where(total > 0, np.sqrt(np.maximum(left, 0) / np.maximum(total, 1e-30)), 1.0))


def _rendered(chosen: PsfFamily, values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    import torch

    given = torch.tensor(np.atleast_2d(values), dtype=torch.float32)
    kernels = torch.cat([chosen.kernels(part, size) for part in given.split(_BATCH)])
    return np.asarray(kernels.double().numpy())


def _starts(chosen: PsfFamily, distances: Distances) -> NDArray[np.float64]:
    """Return the best points of a grid: with several parameters there are several minima."""
    counts = _GRID[len(chosen.parameter_names)]
    lines = []
    for count, name in zip(counts, chosen.parameter_names, strict=True):
        low, high = chosen.parameter_ranges[name]
        turning = name.endswith("_rad")
        lines.append(np.linspace(low, high if turning else _BEYOND * high, count, endpoint=not turning))
    grid = np.array(list(product(*lines)))
    return np.asarray(grid[np.argsort(distances(grid))[: _N_STARTS[len(counts)]]])


def _refined(
    chosen: PsfFamily, start: NDArray[np.float64], distances: Distances, n_steps: int
) -> NDArray[np.float64]:
    from scipy.optimize import minimize

    names = chosen.parameter_names
    spans = np.array([chosen.parameter_ranges[name][1] - chosen.parameter_ranges[name][0] for name in names])
    sides = np.array([1 / (count - 1) for count in _GRID[len(names)]])
    simplex = np.vstack([start / spans, *(start / spans + side for side in np.diag(sides))])

    def objective(scaled: NDArray[np.float64]) -> float:
        return float(distances(_in_range(names, scaled * spans)[None])[0])

    options = {"initial_simplex": simplex, "xatol": 3e-4, "fatol": 1e-6, "maxiter": n_steps}
    found = minimize(objective, start / spans, method="Nelder-Mead", options=options)
    return _in_range(names, found.x * spans)


def _in_range(names: tuple[str, ...], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the equal parameters that a user would state: no negative ones, axes within [0, π)."""
    found = np.array(values, dtype=np.float64)
    for index, name in enumerate(names):
        if name == "astigmatism_waves" and found[index] < 0 and "axis_rad" in names:
            found[index] *= -1
            found[names.index("axis_rad")] += np.pi / 2
    for index, name in enumerate(names):
        if name.endswith("_rad"):
            found[index] %= np.pi
        elif not name.startswith("sigma"):
            found[index] = abs(found[index])
    return found
