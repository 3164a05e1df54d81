"""How wide a point spread function is: full width at half maximum along its axes, and the lines to plot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def profiles(psf: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Return the lines through the brightest voxel along each axis, as a share of it.

    Parameters
    ----------
    psf : ndarray, shape (y, x) or (z, y, x)

    Returns
    -------
    list of ndarray, float64
        One per axis, in the axes' order.
    """
    data = np.asarray(psf, dtype=np.float64)
    peak = np.unravel_index(int(data.argmax()), data.shape)
    top = float(data[peak]) or 1.0
    lines = []
    for axis in range(data.ndim):
        index: Any = tuple(slice(None) if other == axis else at for other, at in enumerate(peak))
        lines.append(data[index] / top)
    return lines


def fwhm_px(psf: NDArray[Any]) -> tuple[float, ...]:
    """Return the full width at half maximum along each axis in voxels.

    The half is crossed between two samples where a parabola through the logarithm of the three samples around
    the top (a Gaussian there) has its own top, and lines between samples meet half of that.

    Parameters
    ----------
    psf : ndarray, shape (y, x) or (z, y, x)

    Returns
    -------
    tuple of float
        Infinite along an axis on which the PSF does not fall to half.
    """
    return tuple(_width(line) for line in profiles(psf))


def _width(line: NDArray[np.float64]) -> float:
    at = int(line.argmax())
    half = _top(line, at) / 2
    low, high = at, at
    while low > 0 and line[low] > half:
        low -= 1
    while high < len(line) - 1 and line[high] > half:
        high += 1
    if line[low] > half or line[high] > half:
        return math.inf
    left = low + (half - line[low]) / max(float(line[low + 1] - line[low]), 1e-30)
    right = high - (half - line[high]) / max(float(line[high - 1] - line[high]), 1e-30)
    return float(right - left)


def _top(line: NDArray[np.float64], at: int) -> float:
    """Return the maximum between samples."""
    if not 0 < at < len(line) - 1 or min(line[at - 1], line[at + 1]) <= 0:
        return float(line[at])
    before, here, after = (math.log(float(value)) for value in line[at - 1 : at + 2])
    bend = before - 2 * here + after
    return float(line[at]) if bend >= 0 else math.exp(here - (after - before) ** 2 / (8 * bend))


def fwhm_um(psf: NDArray[Any], voxel_size_um: tuple[float, ...]) -> tuple[float, ...]:
    """Return the full width at half maximum along each axis in µm.

    Parameters
    ----------
    psf : ndarray, shape (y, x) or (z, y, x)
    voxel_size_um : tuple of float
        One per axis.
    """
    return tuple(width * size for width, size in zip(fwhm_px(psf), voxel_size_um, strict=True))


def half_energy_radius_px(psf: NDArray[Any]) -> float:
    """Return the radius around its centre of mass within which half of a 2D PSF's light falls, in pixels.

    Unlike the second moment it stays finite for diffraction patterns, whatever size they are cut to.

    Parameters
    ----------
    psf : ndarray, shape (y, x)
        Negative values count as zero.
    """
    light = np.clip(np.asarray(psf, dtype=np.float64), 0, None)
    total = float(light.sum())
    if total == 0:
        return 0.0
    y, x = np.indices(light.shape)
    radius = np.hypot(y - (y * light).sum() / total, x - (x * light).sum() / total).ravel()
    order = np.argsort(radius)
    inside = np.cumsum(light.ravel()[order]) / total
    return float(np.interp(0.5, inside, radius[order]))
