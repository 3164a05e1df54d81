"""Three ways to estimate the smooth background of one plane."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import FloatArray
from napari_deblur.core.run import Run

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_WAVELET = "db6"
_SHRINK_ABOVE_RADIUS_PX = ((100, 8), (30, 4), (10, 2))
_EIGHT_BIT = 255.0
_STRIP_PX = 256


def coarsest_level(shape: tuple[int, int], wanted: int) -> int:
    """Return the deepest level, at most ``wanted``, that leaves two coarse pixels along the smaller side.

    A level-k approximation has one value per 2^k pixels; with fewer, little but a mean is left.
    """
    return min(wanted, max(1, int(math.log2(min(shape))) - 1))


def _reflected(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Bring indices beyond the ends back by half-sample symmetric extension."""
    folded = np.mod(index, 2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def _one_level(size: int) -> tuple[csr_array, csr_array]:
    """Return analysis (m, size) and synthesis (size, m) of the approximation, as sparse matrices."""
    import pywt
    from scipy.sparse import csr_array

    wavelet = pywt.Wavelet(_WAVELET)
    low, high = np.asarray(wavelet.dec_lo), np.asarray(wavelet.rec_lo)
    length = len(low)
    coarse = (size + length - 1) // 2
    row, tap = np.divmod(np.arange(coarse * length), length)
    analysis = csr_array((low[tap], (row, _reflected(2 * row + 1 - tap, size))), shape=(coarse, size))
    place = 2 * row + tap - (length - 2)
    kept = (place >= 0) & (place < size)
    synthesis = csr_array((high[tap][kept], (place[kept], row[kept])), shape=(size, coarse))
    return analysis, synthesis


@lru_cache(maxsize=16)
def lowpass_factors(size: int, level: int) -> tuple[FloatArray, FloatArray]:
    """Return the two thin matrices that keep an axis's level-k approximation and invert it.

    Zeroing all details and inverting is linear and separable, so that for a plane it is
    ``R_y (A_y X A_xᵀ) R_xᵀ`` with A of shape (m, size), R of shape (size, m), m ≈ size / 2^level: a hundredth
    of the work of the full transform, and right for odd sizes.
    """
    analysis, synthesis = _one_level(size)
    for _ in range(level - 1):
        finer, back = _one_level(analysis.shape[0])
        analysis, synthesis = finer @ analysis, synthesis @ back
    return analysis.toarray().astype(np.float32), synthesis.toarray().astype(np.float32)


def wavelet_lowpass(plane: FloatArray, level: int) -> FloatArray:
    """Return the plane rebuilt from its level-k approximation alone (db6, symmetric extension)."""
    down_y, up_y = lowpass_factors(plane.shape[0], level)
    down_x, up_x = lowpass_factors(plane.shape[1], level)
    smooth = up_y @ (down_y @ plane @ down_x.T) @ up_x.T
    return smooth.astype(np.float32, copy=False)


def wavelet_background(
    plane: FloatArray,
    *,
    level: int,
    n_iterations: int,
    divisor: float,
    count_scale: float,
    clip_at_mean_over: float | None,
    run: Run,
) -> FloatArray:
    """Estimate the background by iterated wavelet approximation.

    After Zhao et al. 2022 (doi:10.1038/s41587-021-01092-2): whatever stands more than half a shot noise above
    the approximation is cut down to there, and the approximation taken again.

    Parameters
    ----------
    plane : ndarray, float32, shape (y, x)
    level : int
        Level of the approximation.
    n_iterations : int
    divisor, count_scale : float
        The plane, its minimum taken off, is scaled to a maximum of ``count_scale / divisor`` meanwhile.
    clip_at_mean_over : float or None
        First clip at the mean divided by this.
    run : Run
        Progress and cancel.

    Returns
    -------
    ndarray, float32, shape (y, x)
        In the plane's units, the camera's offset included.
    """
    offset, scale = _offset_and_scale(plane, count_scale / divisor)
    if scale == 0:
        return plane.copy()
    start: NDArray[Any] = (plane - offset) / scale
    if clip_at_mean_over is not None:
        start = np.minimum(start, np.float32(start.mean(dtype=np.float64) / clip_at_mean_over))
    rest = start
    background = wavelet_lowpass(rest, level)
    for iteration in range(n_iterations):
        run.step(iteration, n_iterations, "background by wavelets")
        ceiling = background + np.sqrt(np.abs(rest)) / 2
        rest = np.where(start > ceiling, ceiling, rest)
        background = wavelet_lowpass(rest, level)
    # The wavelet's negative lobes reach below the darkest pixel beside bright objects; taking that off would
    # put light into empty places.
    estimate: FloatArray = (np.maximum(background, 0) * scale + offset).astype(np.float32, copy=False)
    return estimate


def _offset_and_scale(plane: FloatArray, top: float) -> tuple[np.float32, np.float32]:
    """Return the minimum, and what ``plane - minimum`` is divided by to end at ``top``."""
    low, high = plane.min(), plane.max()
    return low, np.float32((np.float64(high) - np.float64(low)) / top)


def shrink_factor(radius_px: float) -> int:
    """Return by how much a plane is shrunk before a structuring element of a radius is used on it."""
    return next((factor for above, factor in _SHRINK_ABOVE_RADIUS_PX if radius_px > above), 1)


def rolling_ball_background(plane: FloatArray, radius_px: float, run: Run) -> FloatArray:
    """Estimate the background by a ball that rolls under the surface of intensities.

    After Sternberg 1983 (doi:10.1109/MC.1983.1654163) with the habits of common implementations: the plane is
    smoothed over 3 × 3 pixels, shrunk by block minima for radii above 10 px, and its range counts as 8 bit,
    because the ball's height in grey values is its radius.
    """
    from scipy.ndimage import uniform_filter
    from skimage.restoration import ellipsoid_kernel, rolling_ball

    offset, scale = _offset_and_scale(plane, _EIGHT_BIT)
    if scale == 0:
        return plane.copy()
    shrink = shrink_factor(radius_px)
    half = max(1, round(radius_px / shrink))
    kernel = ellipsoid_kernel((2 * half + 1, 2 * half + 1), radius_px)

    def roll(strip: NDArray[Any]) -> NDArray[Any]:
        rolled: NDArray[Any] = rolling_ball(strip, kernel=kernel)
        return rolled

    smoothed = uniform_filter((plane - offset) / scale, size=3, mode="nearest")
    background = _shrunk(smoothed, shrink, half, roll, run, "rolling ball")
    return (background * scale + offset).astype(np.float32)


def opening_background(plane: FloatArray, radius_px: float, run: Run) -> FloatArray:
    """Estimate the background by a grey opening with a disc: what a white top-hat takes off.

    For radii above 10 px the plane is shrunk by block minima first.
    """
    from skimage.morphology import disk, opening

    shrink = shrink_factor(radius_px)
    half = max(1, round(radius_px / shrink))
    footprint = disk(half, decomposition="sequence") if half > 1 else disk(half)

    def opened(strip: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = opening(strip, footprint)
        return found

    return _shrunk(plane, shrink, 2 * half, opened, run, "white top-hat")


def _shrunk(
    plane: FloatArray,
    shrink: int,
    reach: int,
    estimate: Callable[[NDArray[Any]], NDArray[Any]],
    run: Run,
    message: str,
) -> FloatArray:
    """Shrink by block minima, estimate strip by strip (so that a cancel is heard), enlarge linearly.

    ``reach`` is how far, in shrunk pixels, a result depends on its neighbours.
    """
    height, width = plane.shape
    pad = ((0, -height % shrink), (0, -width % shrink))
    padded = np.pad(plane, pad, mode="edge")
    rows, cols = padded.shape[0] // shrink, padded.shape[1] // shrink
    small = padded.reshape(rows, shrink, cols, shrink).min(axis=(1, 3))
    found: FloatArray = np.empty(small.shape, dtype=np.float32)
    strip = max(_STRIP_PX, 4 * reach)
    for top in range(0, rows, strip):
        run.step(top, rows, message)
        bottom = min(top + strip, rows)
        low, high = max(0, top - reach), min(rows, bottom + reach)
        found[top:bottom] = estimate(small[low:high])[top - low : bottom - low]
    if shrink == 1:
        return found
    along_y, along_x = _linear_matrix(height, rows, shrink), _linear_matrix(width, cols, shrink)
    enlarged: FloatArray = np.ascontiguousarray((along_x @ (along_y @ found).T).T, dtype=np.float32)
    return enlarged


def _linear_matrix(size: int, coarse: int, shrink: int) -> csr_array:
    """Return the sparse matrix (size, coarse) of linear interpolation between block centres."""
    from scipy.sparse import csr_array

    at = np.clip((np.arange(size) - (shrink - 1) / 2) / shrink, 0, coarse - 1)
    low = np.minimum(at.astype(np.int64), max(coarse - 2, 0))
    share = (at - low).astype(np.float32)
    pixel = np.arange(size)
    return csr_array(
        (
            np.concatenate([1 - share, share]),
            (np.concatenate([pixel, pixel]), np.concatenate([low, np.minimum(low + 1, coarse - 1)])),
        ),
        shape=(size, coarse),
    )
