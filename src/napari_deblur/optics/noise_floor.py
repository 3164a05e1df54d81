"""Noise that is not white: how images betray that they were enlarged, and what that hides.

An image that was enlarged (scaled up, registered or rectified by interpolation) holds nothing beyond the
sampling that it was taken with. Its noise is then flat up to there and missing beyond, so that everything
which measures noise pixel by pixel finds far too little of it, and a network that was trained on white noise
takes its fine grain for detail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_PX, _SMALL_BLOCK_PX = 128, 64
_MOST_PX = 1024
_SMALLEST_PX = 16
# Where a plateau is looked for, in cycles per pixel.
_EDGES = (0.36, 0.32, 0.28, 0.25, 0.22, 0.19, 0.16, 0.14, 0.12)
# A plateau changes by less than this over a third of an octave; structure falls faster.
_LEAST_FALL, _LARGEST_FALL = 0.6, 1.4
# From half of the plateau to a twentieth: 1.3 for cubic interpolation, 2.1 for a Gaussian's spectrum.
_SHARPEST_OPTICS = 1.55
# Noise is all over the field: the quieter blocks have at least this share of the middle one's.
_LEAST_EVENNESS = 0.4
_QUIET_PERCENTILE = 20
# Noise is as often above as below its mean: of blurred points the same band has a skewness of 0.3 and more.
_LARGEST_SKEWNESS = 0.2
_BAND = 1.6
# An interpolated image's spectrum still falls where it ends, by a factor of two and more over this.
_WHITE = 1.6


@dataclass(frozen=True, eq=False)
class NoiseFloor:
    """The spectrum of an image whose noise stops short of the highest frequencies.

    Attributes
    ----------
    density : float
        Of the noise where it is flat: the variance per pixel that white noise of this strength has, in grey
        values squared.
    frequencies : ndarray
        In cycles per pixel, from where the noise begins to fall.
    power : ndarray
        Density of the image's spectrum there, same length.
    """

    density: float
    frequencies: NDArray[np.float64]
    power: NDArray[np.float64]

    @property
    def variance(self) -> float:
        """Variance per pixel of the noise as it is: less than the density, for it lacks frequencies."""
        side = 4 * len(self.frequencies)
        radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
        return self.density - float(np.mean(self._missing(radius)))

    def _missing(self, radius: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the density that white noise would have beyond the image's own, by frequency."""
        missing = np.clip(self.density - self.power, 0, None)
        by_frequency: NDArray[np.float64] = np.interp(
            radius, self.frequencies, missing, left=0.0, right=self.density
        )
        return by_frequency

    def filled(self, plane: FloatArray, seed: int = 0) -> FloatArray:
        """Return a plane ``(y, x)`` with the noise added that its highest frequencies lack.

        The sum's noise is white with the image's own `density`: like a camera image of the same blur at this
        sampling, with as much noise where there is signal.
        """
        height, width = plane.shape
        radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
        shape = np.sqrt(self._missing(radius))
        white = np.random.default_rng(seed).standard_normal((height, width))
        extra = np.fft.irfft2(np.fft.rfft2(white) * shape, s=(height, width))
        return (plane + extra).astype(np.float32)


def noise_floor(plane: FloatArray) -> NoiseFloor | None:
    """Return the noise floor of a plane that was enlarged; None for all others.

    Spectra of overlapping blocks are averaged over rings, once by the mean and once by the median, in which
    the lines of a periodic object do not count. The noise of an enlarged image shows as a plateau that ends
    sharply, in every block; blur makes structure fall slowly, and structure is not the same all over. Many
    small points everywhere look alike, but point one way, up, and white noise comes after them. A bilinear
    enlargement by less than about 3 falls as slowly as a lens, and is not told from one.

    Parameters
    ----------
    plane : ndarray, shape (y, x)
        Of at least 96 pixels a side; smaller ones tell nothing.
    """
    side = _BLOCK_PX if min(plane.shape) >= 2 * _BLOCK_PX else _SMALL_BLOCK_PX
    if 2 * min(plane.shape) < 3 * side:
        return None
    by_mean, by_median = _ring_spectra(plane, side)
    if _plateau(by_mean) is None or (found := _plateau(by_median)) is None:
        return None
    density, start = found
    power = np.median(by_mean, axis=0)
    if _ends_white(power) and abs(_skewness(plane, start, side)) > _LARGEST_SKEWNESS:
        return None
    frequencies = np.arange(len(power)) / (2 * (len(power) - 1))
    beyond = frequencies >= start
    return NoiseFloor(density, frequencies[beyond], power[beyond])


def with_white_noise(y: Tensor) -> Tensor:
    """Return an image whose noise is white: itself, or with the noise added that enlarging took.

    Parameters
    ----------
    y : Tensor, shape (…, y, x)
        Leading axes are judged by their middle plane.
    """
    import torch

    planes = y.reshape(-1, *y.shape[-2:])
    middle = planes[len(planes) // 2].float().cpu().numpy()
    floor = noise_floor(middle)
    if floor is None:
        return y
    filled = [floor.filled(plane.float().cpu().numpy(), seed) for seed, plane in enumerate(planes)]
    return torch.from_numpy(np.stack(filled)).to(y).reshape(y.shape)


def dark_noise(image: FloatArray) -> float:
    """Return the noise's standard deviation per pixel where an image has no light.

    Parameters
    ----------
    image : ndarray, shape (…, y, x)
        With what the noise has below zero. Of one smaller than 16 pixels, what lies below zero is taken.
    """
    import torch

    from napari_deblur.optics.noise import measure_noise

    if min(image.shape[-2:]) < _SMALLEST_PX:
        below = image[image < 0]
        return float(np.sqrt(np.mean(below**2))) if below.size else 0.0
    _, variance = measure_noise(torch.from_numpy(np.ascontiguousarray(image)))
    floor = noise_floor(image.reshape(-1, *image.shape[-2:])[len(image) // 2 if image.ndim > 2 else 0])
    return math.sqrt(max(variance, floor.variance if floor is not None else 0.0))


def noise_variance(y: Tensor) -> float:
    """Return the mean variance of the noise per pixel, as it is; 0 for images of fewer than 16 pixels a side.

    Parameters
    ----------
    y : Tensor, shape (y, x)
    """
    from napari_deblur.optics.noise import measure_noise

    if min(y.shape[-2:]) < _SMALLEST_PX:
        return 0.0
    gain, read = measure_noise(y)
    floor = noise_floor(y.float().cpu().numpy())
    return max(gain * float(y.mean()) + read, floor.variance if floor is not None else 0.0)


def _ring_spectra(plane: FloatArray, side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the spectral density per block and ring ``(blocks, side / 2 + 1)``, by mean and by median."""
    blocks = np.lib.stride_tricks.sliding_window_view(plane[:_MOST_PX, :_MOST_PX], (side, side))
    # Of a small plane blocks overlap more, so that there are enough to tell whether all of it is alike.
    hop = side // 2 if min(plane.shape) >= 2 * side else side // 4
    blocks = blocks[::hop, ::hop].reshape(-1, side, side)
    hann = np.hanning(side + 2)[1:-1]
    window = hann[:, None] * hann[None, :]
    window /= math.sqrt(float(np.mean(window**2)))
    windowed = (blocks - blocks.mean(axis=(1, 2), keepdims=True)) * window
    power = np.abs(np.fft.rfft2(windowed)) ** 2 / side**2
    ring = np.rint(np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) * side)
    rings = [power[:, ring == number] for number in range(side // 2 + 1)]
    by_mean = np.stack([one.mean(axis=1) for one in rings], axis=1)
    # Powers of noise are distributed exponentially: their median is ln 2 of their mean.
    by_median = np.stack([np.median(one, axis=1) for one in rings], axis=1) / math.log(2)
    return by_mean, by_median


def _ends_white(power: NDArray[np.float64]) -> bool:
    """Return whether a spectrum by frequency up to Nyquist is flat at its end."""
    last = len(power) // 10
    return float(power[-2 * last : -last].mean()) < _WHITE * float(power[-last:].mean())


def _skewness(plane: FloatArray, frequency: float, side: int) -> float:
    """Return the skewness of an image's band around a frequency, the median over its blocks."""
    height, width = (size // side * side for size in plane[:_MOST_PX, :_MOST_PX].shape)
    part = plane[:height, :width]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    outside = (radius < frequency / _BAND) | (radius > frequency * _BAND)
    spectrum = np.fft.rfft2(part)
    spectrum[outside] = 0
    band = np.fft.irfft2(spectrum, s=(height, width))
    blocks = band.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(-1, side**2)
    blocks = blocks - blocks.mean(axis=1, keepdims=True)
    third, second = (blocks**3).mean(axis=1), (blocks**2).mean(axis=1)
    return float(np.median(third / np.maximum(second, 1e-30) ** 1.5))


def _plateau(spectra: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the highest density of a plateau that ends sharply, and the frequency up to which it is flat."""
    middle = np.median(spectra, axis=0)
    frequencies = np.arange(len(middle)) / (2 * (len(middle) - 1))

    def first_below(density: float, start: float) -> float:
        below = np.flatnonzero((middle < density) & (frequencies > start))
        return float(frequencies[below[0]]) if len(below) else math.inf

    best: tuple[float, float] | None = None
    for edge in _EDGES:
        upper = (frequencies >= 0.8 * edge) & (frequencies <= edge)
        lower = (frequencies >= 0.64 * edge) & (frequencies < 0.8 * edge)
        of_blocks = spectra[:, upper].mean(axis=1)
        density = float(np.median(of_blocks))
        if density <= 0 or (best is not None and density <= best[0]):
            continue
        fall = float(middle[lower].mean()) / density
        end, half = first_below(density / 20, edge), first_below(density / 2, edge)
        even = float(np.percentile(of_blocks, _QUIET_PERCENTILE)) / density >= _LEAST_EVENNESS
        if even and _LEAST_FALL < fall < _LARGEST_FALL and end < _SHARPEST_OPTICS * half:
            best = (density, 0.8 * edge)
    return best
