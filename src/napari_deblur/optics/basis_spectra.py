"""Local power spectra of an image, as the likelihood of a PSF basis' operators needs them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf_basis import PsfBasis

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST_WINDOW_PX = 64
# Windows along each side of a region; neighbours overlap by half.
_WINDOWS = 4
# Blur that is smooth over the field does not need more regions along a side.
_MOST_REGIONS = 8
_LOWEST_CYCLES = 2.5


@dataclass(frozen=True, eq=False)
class Spectra:
    """Averaged power spectra of R regions of an image, at F frequencies of a half plane.

    Attributes
    ----------
    power : Tensor, shape (R, F)
    terms : Tensor, shape (T, F)
        What the scenes' log spectra are made of: 1, log f, its square, cos 2φ, sin 2φ, and these two times
        log f.
    maps : Tensor, shape (R, J)
        The maps of the basis at the regions' centres.
    transfer : Tensor, complex, shape (1 + I, F)
        Transforms of the kernels.
    share : Tensor, shape (F,)
        As how many independent powers each counts: about half as many as windows that overlap by half.
    windows : Tensor, complex, shape (R, F)
        Transform of one window of each region.
    frequencies : Tensor, shape (2, F)
        Along y and x, in cycles per pixel.
    """

    power: Tensor
    terms: Tensor
    maps: Tensor
    transfer: Tensor
    share: Tensor
    windows: Tensor
    frequencies: Tensor


def window_px(basis: PsfBasis) -> int:
    """Return the side of the windows: a power of two that holds the kernels twice."""
    return max(_SMALLEST_WINDOW_PX, 1 << math.ceil(math.log2(2 * basis.kernel_size_px)))


def measure_spectra(plane: NDArray[np.float32], basis: PsfBasis) -> Spectra:
    """Measure the spectra of a plane's regions.

    Parameters
    ----------
    plane : ndarray, shape (y, x)
    basis : PsfBasis

    Raises
    ------
    InvalidInputError
        If the plane is smaller than a window, or constant.
    """
    import torch

    side = window_px(basis)
    if min(plane.shape) < side:
        rule = f"must be at least {side} × {side} pixels to find its blur in the PSF basis"
        raise InvalidInputError("image", rule, f"shape {plane.shape}")
    window, frequencies, taken, half = _grid(side)
    tops, lefts = (
        np.array_split(starts, _count(len(starts))) for starts in (_starts(n, side) for n in plane.shape)
    )
    power, maps, windows, counts = [], [], [], []
    for rows in tops:
        for cols in lefts:
            cut = np.stack([plane[y : y + side, x : x + side] for y in rows for x in cols]).astype(np.float64)
            cut -= (cut * window).sum(axis=(1, 2), keepdims=True) / window.sum()
            found = np.fft.rfft2(cut * window)[:, taken] / side
            power.append((np.abs(found) ** 2).mean(axis=0))
            windows.append(found[np.argmax(np.abs(found).sum(axis=1))])
            counts.append(len(cut))
            ys, xs = ([float(part.mean()) + (side - 1) / 2] for part in (rows, cols))
            maps.append(basis.maps_at(ys, xs, plane.shape)[:, 0, 0])
    if not np.any(power):
        raise InvalidInputError("image", "must show something to find its blur", "a constant plane")
    transfer = np.fft.rfft2(_wrapped(basis.kernels, side))[:, taken]
    share = half[taken] * max(1.0, float(np.mean(counts)) / 2)

    def real(array: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))

    def imaginary(array: NDArray[np.complexfloating]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.complex64))

    return Spectra(
        real(np.stack(power)),
        real(_terms(frequencies[:, taken])),
        real(np.stack(maps)),
        imaginary(transfer),
        real(share),
        imaginary(np.stack(windows)),
        real(frequencies[:, taken]),
    )


def _grid(
    side: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Return the window, the frequencies (2, P, P/2+1), which of them count, and as how many."""
    taper = np.hanning(side + 1)[:side]
    window = np.outer(taper, taper)
    window /= np.sqrt((window**2).mean())
    fy, fx = np.broadcast_arrays(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    taken = np.hypot(fy, fx) >= _LOWEST_CYCLES / side
    return window, np.stack([fy, fx]), taken, np.where((fx == 0) | (fx == 0.5), 0.5, 1.0)


def _terms(frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    phase = np.arctan2(frequencies[0], frequencies[1])
    log_f = np.log(np.hypot(*frequencies) / 0.1)
    turn = [np.cos(2 * phase), np.sin(2 * phase)]
    return np.stack([np.ones_like(log_f), log_f, log_f**2, *turn, *(log_f * part for part in turn)])


def _count(n_windows: int) -> int:
    return min(max(1, round(n_windows / _WINDOWS)), _MOST_REGIONS)


def _starts(size: int, side: int) -> NDArray[np.int64]:
    count = math.ceil((size - side) / (side // 2)) + 1
    return np.round(np.linspace(0, size - side, count)).astype(np.int64)


def _wrapped(kernels: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """Return kernels on a grid with their centres at its first pixel."""
    half = kernels.shape[-1] // 2
    grid = np.zeros((len(kernels), side, side))
    grid[:, : kernels.shape[1], : kernels.shape[2]] = kernels
    return np.roll(grid, (-half, -half), axis=(1, 2))
