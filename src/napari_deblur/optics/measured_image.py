"""A measured PSF with its voxel size, brought to the voxels of the image that it belongs to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image
from napari_deblur.optics.measured import prepare_psf
from napari_deblur.optics.widths import fwhm_px

if TYPE_CHECKING:
    from napari_deblur.core.run import Run

_SAME_SIZE = 0.005
_CENTRED_PX = 0.25
_BACKGROUND = 0.002
# Share of the light that is kept where noise hides the tails, and where there is none.
_SUPPORT, _CLEAN_SUPPORT = 0.999, 1 - 1e-6
_SMALLEST_FOR_BACKGROUND = 9


def measured_psf(
    psf: Image,
    voxel_size_um: tuple[float, ...] | None,
    *,
    image_shape: tuple[int, ...] | None = None,
    run: Run | None = None,
    argument: str = "psf",
) -> tuple[FloatArray, dict[str, Any]]:
    """Prepare a measured PSF: background off, centred, resampled, cropped to its support, checked.

    Parameters
    ----------
    psf : Image, shape (y, x) or (z, y, x)
        With its own pixel size and distance of planes where they are known.
    voxel_size_um : tuple of float or None
        Size of the image's voxels, as many as the PSF has axes; None where it is not known.
    image_shape : tuple of int, optional
        Shape of the image that it will be used on.
    run : Run, optional
        Receives a note for everything that was changed.
    argument : str
        Name used in errors.

    Returns
    -------
    kernel : ndarray, float32
        As `prepare_psf` returns it.
    found : dict
        For the record (JSON types): shape, FWHM in voxels and µm, and what was done.

    Raises
    ------
    InvalidInputError
        As `prepare_psf`; and where the PSF is finer than the image's voxels by more than 20 times or coarser.
    """
    data = np.asarray(psf.data, dtype=np.float64)
    while data.ndim > 2 and data.shape[0] == 1:
        data = data[0]
    if data.ndim not in (2, 3):
        raise InvalidInputError(argument, "must have the axes (y, x) or (z, y, x)", f"shape {psf.data.shape}")
    if not np.isfinite(data).all() or data.max() <= 0:
        return prepare_psf(data, image_shape=image_shape, run=run, argument=argument), {}
    notes: list[str] = []
    data, level = _without_background(data, notes)
    factors = _factors(psf, data.ndim, voxel_size_um, notes, argument)
    data = _centred(data, factors, notes)
    data = _cropped(data, notes, _SUPPORT if level else _CLEAN_SUPPORT)
    if run is not None:
        for text in notes:
            run.note(f"{argument}: {text}.")
    kernel = prepare_psf(data / data.sum(), image_shape=image_shape, run=run, argument=argument)
    widths = fwhm_px(kernel)
    found: dict[str, Any] = {
        "shape": list(kernel.shape),
        "fwhm_px": [_rounded(width) for width in widths],
        "background_removed": level,
        "prepared": notes,
    }
    if voxel_size_um is not None:
        found["fwhm_um"] = [_rounded(w * s) for w, s in zip(widths, voxel_size_um, strict=True)]
    return kernel, found


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _without_background(data: NDArray[np.float64], notes: list[str]) -> tuple[NDArray[np.float64], float]:
    """Take off the median of the outermost voxels, where that is more than a trace of the peak."""
    if min(data.shape[-2:]) < _SMALLEST_FOR_BACKGROUND:
        return data, 0.0
    rim = np.ones(data.shape, dtype=bool)
    rim[..., 1:-1, 1:-1] = False
    level = float(np.median(data[rim]))
    if level < _BACKGROUND * float(data.max()):
        return data, 0.0
    notes.append(f"a background of {level:.4g} grey values was taken off")
    return data - level, level


def _factors(
    psf: Image, ndim: int, voxel_size_um: tuple[float, ...] | None, notes: list[str], argument: str
) -> tuple[float, ...]:
    """Return the image's voxel size over the PSF's, along each axis."""
    own: list[float | None] = [None] * ndim
    if psf.pixel_size_um is not None:
        own[-2:] = psf.pixel_size_um
    if ndim == 3:
        own[0] = psf.z_step_um
    wanted: tuple[float | None, ...] = voxel_size_um or (None,) * ndim
    if len(wanted) != ndim:
        wanted = (None,) * ndim
    if any(size is None for size in (*own, *wanted)):
        notes.append("its voxel size or the image's is not known, so both are taken to be the same")
        return (1.0,) * ndim
    found = tuple(float(w) / float(o) for w, o in zip(wanted, own, strict=True) if w and o)
    for factor in found:
        if not 0.05 <= factor <= 20:
            rule = "must have voxels between a twentieth and twenty times the size of the image's"
            raise InvalidInputError(argument, rule, f"{1 / factor:.3g} times their size")
    if all(abs(factor - 1) <= _SAME_SIZE for factor in found):
        return (1.0,) * ndim
    sizes = " × ".join(f"{float(size or 0):.4g}" for size in own)
    notes.append(f"it was resampled from voxels of {sizes} µm to the image's")
    return found


def core_centre_px(data: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centroid of what is brighter than half of the peak."""
    core = np.where(data >= 0.5 * data.max(), data, 0.0)
    grids = np.indices(data.shape, dtype=np.float64)
    centre: NDArray[np.float64] = np.array([(grid * core).sum() for grid in grids]) / core.sum()
    return centre


def _centred(data: NDArray[np.float64], factors: tuple[float, ...], notes: list[str]) -> NDArray[np.float64]:
    """Resample so that the core lies on the middle voxel; leave alone what is as it should be."""
    from scipy import ndimage

    centre = core_centre_px(data)
    away = centre - np.array([size // 2 for size in data.shape])
    off = bool((np.abs(away) > _CENTRED_PX).any())
    same = all(factor == 1 for factor in factors)
    if same and not off:
        return data
    if off:
        moved = ", ".join(f"{-value:+.2f}" for value in away)
        notes.append(f"it was centred (moved by {moved} of its voxels)")
    # Voxels larger than the PSF's own collect light over their width, which a sample between does not.
    spread = [0.29 * math.sqrt(max(factor**2 - 1, 0)) for factor in factors]
    if any(spread):
        data = ndimage.gaussian_filter(data, spread, mode="constant")
    halves = [
        max(int(min(at, size - 1 - at) / factor), 0)
        for at, size, factor in zip(centre, data.shape, factors, strict=True)
    ]
    axes = [
        at + (np.arange(2 * half + 1) - half) * factor
        for at, half, factor in zip(centre, halves, factors, strict=True)
    ]
    where = np.meshgrid(*axes, indexing="ij")
    moved_data: NDArray[np.float64] = ndimage.map_coordinates(data, where, order=3, mode="nearest")
    return moved_data


def _cropped(data: NDArray[np.float64], notes: list[str], share: float) -> NDArray[np.float64]:
    """Cut the rim that holds next to no light, and clip what noise made negative."""
    before = data.shape
    spans = []
    for axis, size in enumerate(data.shape):
        marginal = data.sum(axis=tuple(other for other in range(data.ndim) if other != axis))
        spans.append(_support(marginal, size, share))
    data = np.maximum(data[tuple(spans)], 0)
    if data.shape != before:
        old, new = (" × ".join(str(size) for size in shape) for shape in (before, data.shape))
        notes.append(f"it was cropped to its support, {old} to {new} voxels")
    return data


def _support(marginal: NDArray[np.float64], size: int, share: float) -> slice:
    """Return the smallest span around the centre that holds nearly all light."""
    half = size // 2
    total = float(marginal.sum())
    if size % 2 == 0 or total <= 0:
        return slice(0, size)
    for reach in range(1, half):
        if float(marginal[half - reach : half + reach + 1].sum()) >= share * total:
            return slice(half - reach, half + reach + 1)
    return slice(0, size)
