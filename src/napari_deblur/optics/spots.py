"""Find small bright spots in a plane, and their centres to a fraction of a pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import FloatArray
from napari_deblur.core.run import Run
from napari_deblur.optics.measured import fourier_shift

SIGMA_PER_FWHM = 1 / 2.3548
_DETECTION_SNR = 5.0
_MOST_SPOTS = 2000


def noise_level(values: NDArray[np.float64]) -> float:
    """Return the standard deviation of the bulk of the values (median absolute deviation)."""
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return spread or float(values.std()) * 1e-3


def blobs(plane: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return a difference of Gaussians: high where something of the size sigma stands out."""
    from scipy.ndimage import gaussian_filter

    narrow = gaussian_filter(plane, sigma, mode="nearest")
    difference: NDArray[np.float64] = narrow - gaussian_filter(plane, 1.6 * sigma, mode="nearest")
    return difference


def sharpest_plane(planes: FloatArray, run: Run) -> int:
    """Return the index of the plane ``(n, y, x)`` in which small spots stand out most."""
    if len(planes) == 1:
        return 0
    found = []
    for index, plane in enumerate(planes):
        run.step(0, 3, f"looking for the sharpest plane ({index + 1} of {len(planes)})")
        found.append(float(np.percentile(blobs(plane.astype(np.float64), 1.5), 99.9)))
    best = int(np.argmax(found))
    run.note(f"Beads were measured in plane {best + 1} of {len(planes)}, the sharpest.")
    return best


def window_around(plane: NDArray[np.float64], row: int, col: int, half: int) -> NDArray[np.float64]:
    """Return a view of the pixels within ``half`` of a position, cut at the borders."""
    window: NDArray[np.float64] = plane[
        max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1
    ]
    return window


def estimate_fwhm(plane: NDArray[np.float64], most: int = 40) -> float:
    """Return the typical width of the brightest spots, from their areas above half maximum."""
    from scipy.ndimage import gaussian_filter, label, maximum_filter

    smooth = gaussian_filter(plane, 0.7, mode="nearest")
    base = float(np.median(smooth))
    peaks = np.argwhere(
        (smooth == maximum_filter(smooth, 7)) & (smooth - base > _DETECTION_SNR * noise_level(smooth))
    )
    strength = smooth[tuple(peaks.T)]
    widths = []
    for row, col in peaks[np.argsort(strength)[::-1][:most]]:
        half = max(8, min(plane.shape) // 8)
        top, left = max(0, row - half), max(0, col - half)
        window = window_around(smooth, row, col, half)
        parts, _ = label(window > (smooth[row, col] + base) / 2)
        own = parts == parts[row - top, col - left]
        if window[own].max() <= smooth[row, col]:  # else it is a ring or a shoulder of a brighter spot
            widths.append(2 * np.sqrt(np.count_nonzero(own) / np.pi))
    if not widths:
        return 3.0
    # The smoothing before widened the spots by a little.
    return float(max(np.sqrt(max(np.median(widths) ** 2 - (0.7 / SIGMA_PER_FWHM) ** 2, 0)), 1.5))


def find_spots(plane: NDArray[np.float64], fwhm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions (n, 2) and signal-to-noise ratios (n,) of spots, the brightest first."""
    from scipy.ndimage import maximum_filter

    response = blobs(plane, fwhm * SIGMA_PER_FWHM)
    snr = response / noise_level(response)
    reach = 2 * max(1, round(fwhm / 2)) + 1
    peaks = np.argwhere((response == maximum_filter(response, reach)) & (snr > _DETECTION_SNR))
    strength = snr[tuple(peaks.T)]
    order = np.argsort(strength)[::-1][:_MOST_SPOTS]
    return peaks[order].astype(np.float64), strength[order]


def weighted_centre(patch: NDArray[np.float64], fwhm: float) -> NDArray[np.float64]:
    """Return the centre relative to the middle pixel: the centroid in a Gaussian window that follows."""
    middle = patch.shape[0] // 2
    axis = np.arange(patch.shape[0]) - middle
    width = 2 * (fwhm * SIGMA_PER_FWHM) ** 2
    centre = np.zeros(2)
    for _ in range(50):
        window = np.exp(-((axis - centre[0]) ** 2) / width)[:, None] * np.exp(
            -((axis - centre[1]) ** 2) / width
        )
        weighted = patch * window
        total = weighted.sum()
        if total <= 0:
            break
        found = np.array([weighted.sum(axis=1) @ axis, weighted.sum(axis=0) @ axis]) / total
        # Under a window as wide as the bead the centroid moves half of the way only.
        step = np.clip(2 * (found - centre), -1, 1)
        centre = centre + step
        if np.abs(step).max() < 1e-4:
            break
    return centre


def offset_to(template: NDArray[np.float64], patch: NDArray[np.float64], fwhm: float) -> NDArray[np.float64]:
    """Return by how much a patch lies off a template: least squares, at most half a pixel."""
    size = template.shape[0]
    distance = np.hypot(*np.meshgrid(*(np.arange(size) - size // 2,) * 2))
    core = distance <= max(2.0, 1.5 * fwhm)
    slope_y, slope_x = np.gradient(template, axis=0), np.gradient(template, axis=1)
    basis = np.stack([template[core], -slope_y[core], -slope_x[core]], axis=1)
    scale, shift_y, shift_x = np.linalg.lstsq(basis, patch[core], rcond=None)[0].tolist()
    return np.clip(np.array([shift_y, shift_x]) / scale, -0.5, 0.5) if scale > 0 else np.zeros(2)


def cut_out(
    plane: NDArray[np.float64],
    positions: NDArray[np.float64],
    reasons: list[str],
    size: int,
    fwhm: float,
) -> tuple[NDArray[np.float64], dict[int, NDArray[np.float64]]]:
    """Cut out every bead without a reason against it, background off, its centre moved to the middle.

    Returns
    -------
    positions : ndarray, shape (n, 2)
        Refined where a bead was cut out.
    patches : dict of int to ndarray, shape (size + 2, size + 2)
        By index of the candidate; one pixel more all around, for shifts.
    """
    refined = positions.copy()
    patches = {}
    half = size // 2 + 1
    for i, (y, x) in enumerate(positions):
        if reasons[i]:
            continue
        row, col = round(y), round(x)
        patch = window_around(plane, row, col, half)
        rim = np.concatenate([patch[[0, -1]].ravel(), patch[1:-1, [0, -1]].ravel()])
        patch = patch - np.median(rim)
        offset = weighted_centre(patch, fwhm)
        if np.abs(offset).max() > max(1.5, fwhm / 2) or patch.sum() <= 0:
            reasons[i] = "unlike the others"
            continue
        refined[i] = (row + offset[0], col + offset[1])
        patches[i] = fourier_shift(patch, (-offset[0], -offset[1]))
    return refined, patches


def without_noise(psf: NDArray[np.float64], fwhm: float) -> FloatArray:
    """Cut the tail where it is lost in noise, clip at zero and normalise.

    Noise around zero would become a pedestal once clipped. The radius is where the mean over a ring stays
    below twice its standard error; it ends softly over two pixels.
    """
    size = psf.shape[0]
    distance = np.hypot(*np.meshgrid(*(np.arange(size) - size // 2,) * 2))
    rings = distance.round().astype(int)
    count = np.bincount(rings.ravel())
    mean = np.bincount(rings.ravel(), weights=psf.ravel()) / count
    outer = psf[distance >= 0.8 * (size // 2)]
    noise = noise_level(outer)
    # Each bead's background came from the median of its rim; no more than that median's error is corrected.
    error = 1.25 * noise / np.sqrt(4 * size)
    pedestal = np.clip(outer.mean(), -2 * error, 2 * error)
    mean = mean - pedestal
    lost = mean < 2 * noise / np.sqrt(count)
    lost &= np.append(lost[1:], True)
    lost[: int(np.ceil(fwhm)) + 1] = False
    radius = float(np.flatnonzero(np.append(lost, True))[0])
    kept = np.maximum(psf - pedestal, 0) * np.clip((radius + 2 - distance) / 2, 0, 1)
    normalised: FloatArray = (kept / kept.sum()).astype(np.float32)
    return normalised
