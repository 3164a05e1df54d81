"""How good an image is, with and without a reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, as_float32

_FRC_THRESHOLD = 1 / 7
_SMALLEST_FRC_PX = 32


def snr_db(estimate: Any, reference: Any) -> float:
    """Return −10 log₁₀(‖estimate − reference‖² / ‖reference‖²).

    Parameters
    ----------
    estimate, reference : array_like of the same shape

    Raises
    ------
    InvalidInputError
        If shapes differ, values are not finite or the reference is zero everywhere.
    """
    x, y = _pair(estimate, reference)
    power = float(np.sum(y.astype(np.float64) ** 2))
    if power == 0:
        raise InvalidInputError("reference", "must not be zero everywhere", "zeros")
    return _decibel(power, float(np.sum((x.astype(np.float64) - y) ** 2)))


def psnr_db(estimate: Any, reference: Any, data_range: float | None = None) -> float:
    """Return 10 log₁₀(range² / mean squared error).

    Parameters
    ----------
    estimate, reference : array_like of the same shape
    data_range : float, optional
        Span of the values; by default that of the reference.
    """
    x, y = _pair(estimate, reference)
    span = _range(y, data_range)
    return _decibel(span**2, float(np.mean((x.astype(np.float64) - y) ** 2)))


def ssim(estimate: Any, reference: Any, data_range: float | None = None) -> float:
    """Return the structural similarity with a Gaussian window of σ = 1.5 pixels.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861, as scikit-image computes it.
    """
    return float(_ssim(estimate, reference, data_range)[0])


def error_map(estimate: Any, reference: Any, data_range: float | None = None) -> FloatArray:
    """Return the local structural dissimilarity (1 − SSIM) / 2, same shape as the images."""
    local: FloatArray = ((1 - _ssim(estimate, reference, data_range)[1]) / 2).astype(np.float32)
    return local


def _ssim(estimate: Any, reference: Any, data_range: float | None) -> tuple[Any, Any]:
    from skimage.metrics import structural_similarity

    x, y = _pair(estimate, reference)
    if x.ndim != 2 or min(x.shape) < 11:
        raise InvalidInputError("estimate", "must be 2D and at least 11 pixels wide", f"shape {x.shape}")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    mean, local = structural_similarity(y, x, data_range=_range(y, data_range), **options)
    return mean, local


def frc_resolution_px(image: Any, other: Any = None) -> float:
    """Return the resolution by Fourier ring correlation at the threshold 1/7, in pixels.

    Parameters
    ----------
    image : array_like, shape (y, x)
    other : array_like, optional
        A second image of the same scene with independent noise. Without it the image is split along its two
        diagonals into pairs of half-size images, as Koho et al. 2019 (doi:10.1038/s41467-019-11024-z) do; the
        known shift between the halves is undone, and no finer resolution than 2 pixels of the halves
        (4 pixels) can then be told.

    Returns
    -------
    float
        The period at which the correlation falls below the threshold; the Nyquist period where it never does,
        infinity where it never rises above.
    """
    first = as_float32(image)
    if first.ndim != 2 or min(first.shape) < _SMALLEST_FRC_PX:
        rule = f"must be 2D and at least {_SMALLEST_FRC_PX} pixels wide"
        raise InvalidInputError("image", rule, f"shape {first.shape}")
    if other is not None:
        x, y = _pair(first, other)
        return _crossing(_ring_correlation(x, y), 1.0)
    height, width = (size // 2 * 2 for size in first.shape)
    even = first[:height, :width]
    a, b = _halves_of_diagonal(even)
    c, d = _halves_of_diagonal(even[:, ::-1])
    return _crossing((_ring_correlation(a, b) + _ring_correlation(c, d)) / 2, 2.0)


def _halves_of_diagonal(image: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the two images on the even and odd pixels of the diagonal, registered to each other."""
    first, second = image[::2, ::2], image[1::2, 1::2]
    fy = np.fft.fftfreq(second.shape[0])[:, None]
    fx = np.fft.fftfreq(second.shape[1])[None, :]
    # The odd pixels lie half a (coarse) pixel further along both axes.
    moved = np.fft.ifft2(np.fft.fft2(second) * np.exp(-1j * np.pi * (fy + fx))).real
    return first, moved.astype(np.float32)


def _ring_correlation(x: FloatArray, y: FloatArray) -> NDArray[np.float64]:
    """Return the correlation per ring; ring k holds the frequencies around k / n cycles per pixel."""
    size = min(x.shape)
    window = np.hanning(x.shape[0])[:, None] * np.hanning(x.shape[1])[None, :]
    fx = np.fft.fft2((x - x.mean()) * window)
    fy = np.fft.fft2((y - y.mean()) * window)
    radius = np.hypot(np.fft.fftfreq(x.shape[0])[:, None], np.fft.fftfreq(x.shape[1])[None, :])
    ring = np.round(radius * size).astype(int)
    cross = np.bincount(ring.ravel(), (fx * fy.conj()).real.ravel())
    power_x, power_y = (np.bincount(ring.ravel(), (abs(f) ** 2).ravel()) for f in (fx, fy))
    correlation: NDArray[np.float64] = cross / np.sqrt(np.maximum(power_x * power_y, 1e-30))
    return correlation[: size // 2 + 1]


def _crossing(correlation: NDArray[np.float64], pixel: float) -> float:
    """Return the period of the first ring below the threshold, after a mean over three rings."""
    n = 2 * (len(correlation) - 1)
    smooth = np.convolve(np.pad(correlation, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    below = np.flatnonzero(smooth[1:] < _FRC_THRESHOLD) + 1
    if len(below) == 0:
        return 2.0 * pixel
    ring = int(below[0])
    if ring == 1:
        return float("inf")
    high, low = smooth[ring - 1], smooth[ring]
    exact = ring - 1 + (high - _FRC_THRESHOLD) / max(high - low, 1e-12)
    return float(n * pixel / exact)


def _pair(estimate: Any, reference: Any) -> tuple[FloatArray, FloatArray]:
    x, y = as_float32(estimate, "estimate"), as_float32(reference, "reference")
    if x.shape != y.shape:
        raise InvalidInputError("estimate", f"must have the reference's shape {y.shape}", f"shape {x.shape}")
    return x, y


def _range(reference: FloatArray, data_range: float | None) -> float:
    span = float(np.ptp(reference)) if data_range is None else float(data_range)
    if not 0 < span < np.inf:
        raise InvalidInputError("data_range", "must be positive (a constant reference has none)", span)
    return span


def _decibel(signal: float, error: float) -> float:
    return float("inf") if error == 0 else float(10 * np.log10(signal / error))
