"""A point spread function that the user brings: checked, centred on a pixel and normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, as_float32

if TYPE_CHECKING:
    from napari_deblur.core.run import Run

_TOLERATED_NEGATIVE = 0.01
_TOLERATED_SUM_ERROR = 1e-3
_SUSPECT_PEDESTAL = 0.1
_SMALLEST_FOR_PEDESTAL = 9
_BRIGHT_SHARE, _NOTED_SHIFT_PX = 0.5, 2.0


def prepare_psf(
    psf: Any,
    *,
    image_shape: tuple[int, ...] | None = None,
    run: Run | None = None,
    argument: str = "psf",
) -> FloatArray:
    """Check a kernel and bring it to the package's convention.

    Parameters
    ----------
    psf : array_like, shape (y, x) or (z, y, x)
        Any real dtype; leading axes of length 1 are dropped from more than two axes.
    image_shape : tuple of int, optional
        Shape of the image it will be used on; its last axes are compared with the kernel's.
    run : Run, optional
        Receives a note for everything that was changed.
    argument : str
        Name used in errors.

    Returns
    -------
    ndarray, float32
        Odd-sized, centre at ``size // 2``, non-negative, sum 1.

    Notes
    -----
    An axis of even length n has no centre pixel. Two habits exist: the centre at pixel n/2 (as FFT shifts
    have it) or half a pixel before, at (n - 1)/2. The one nearer to the kernel's centroid is taken; the
    second takes a Fourier shift of half a pixel. Either way one row is added at the end.

    Raises
    ------
    InvalidInputError
        For kernels that are not 2D or 3D, not finite, zero everywhere, negative beyond 1 % of the peak, or
        larger than the image.
    """
    kernel = as_float32(psf, argument).astype(np.float64)
    while kernel.ndim > 2 and kernel.shape[0] == 1:
        kernel = kernel[0]
    if kernel.ndim not in (2, 3):
        raise InvalidInputError(argument, "must have the axes (y, x) or (z, y, x)", f"shape {np.shape(psf)}")
    _check_fits(kernel.shape, image_shape, argument)
    kernel = _non_negative(kernel, run, argument)
    _warn_of_pedestal(kernel, run, argument)
    kernel = _odd_sized(kernel, run, argument)
    _check_fits(kernel.shape, image_shape, argument)
    _note_off_centre(kernel, run, argument)
    total = float(kernel.sum())
    if abs(total - 1) > _TOLERATED_SUM_ERROR:
        _note(run, f"{argument} summed to {total:.4g}; it was divided by that, so that the flux is kept.")
    return np.ascontiguousarray(kernel / total, dtype=np.float32)


def _note(run: Run | None, text: str) -> None:
    if run is not None:
        run.note(text)


def _note_off_centre(kernel: NDArray[np.float64], run: Run | None, argument: str) -> None:
    """Tell where a kernel as it is given will move the image."""
    bright = np.maximum(kernel - _BRIGHT_SHARE * kernel.max(), 0)
    # Along z light may well lie off: lenses focus elsewhere in a sample of another index.
    off = (centroid_px(bright) - [size // 2 for size in kernel.shape])[-2:]
    if np.abs(off).max() > _NOTED_SHIFT_PX:
        by = ", ".join(f"{part:+.1f}" for part in off)
        _note(
            run,
            f"{argument} is brightest {by} pixels (y, x) off its centre, and the result is moved the other "
            "way; given with its pixel size, a measured PSF is centred.",
        )


def _check_fits(shape: tuple[int, ...], image_shape: tuple[int, ...] | None, argument: str) -> None:
    if image_shape is None:
        return
    spatial = tuple(image_shape)[-len(shape) :]
    if len(spatial) < len(shape):
        rule = f"must not have more axes than the image {tuple(image_shape)} it blurs"
        raise InvalidInputError(argument, rule, f"shape {shape}")
    if any(own > there for own, there in zip(shape, spatial, strict=True)):
        raise InvalidInputError(
            argument, f"must not be larger than the image {tuple(image_shape)}", f"shape {shape}"
        )


def _non_negative(kernel: NDArray[np.float64], run: Run | None, argument: str) -> NDArray[np.float64]:
    low, peak = float(kernel.min()), float(kernel.max())
    if peak <= 0:
        rule = "must have positive values (a camera's offset subtracted, no more)"
        raise InvalidInputError(
            argument, rule, "zero everywhere" if low == peak == 0 else f"maximum {peak:g}"
        )
    if low < -_TOLERATED_NEGATIVE * peak:
        raise InvalidInputError(
            argument,
            f"must not be negative (beyond {_TOLERATED_NEGATIVE:.0%} of its peak)",
            f"minimum {low:g} against a peak of {peak:g}",
        )
    if low < 0:
        _note(
            run, f"{argument} had negative values down to {-low / peak:.2%} of its peak; they were set to 0."
        )
    # Divided by the peak, so that sums of extreme values neither overflow nor vanish further on.
    return np.maximum(kernel, 0) / peak if not 1e-30 < peak < 1e30 else np.maximum(kernel, 0)


def _warn_of_pedestal(kernel: NDArray[np.float64], run: Run | None, argument: str) -> None:
    if min(kernel.shape) < _SMALLEST_FOR_PEDESTAL:
        return
    inner = np.zeros(kernel.shape, dtype=bool)
    inner[(slice(1, -1),) * kernel.ndim] = True
    border = float(np.median(kernel[~inner])) / float(kernel.max())
    if border > _SUSPECT_PEDESTAL:
        _note(
            run,
            f"{argument} does not fall to zero at its border ({border:.0%} of the peak): "
            "was the camera's offset subtracted, and is the kernel large enough?",
        )


def centroid_px(kernel: NDArray[Any]) -> NDArray[np.float64]:
    """Return the centre of mass of a kernel in pixels, one value per axis."""
    weights = np.asarray(kernel, dtype=np.float64)
    total = weights.sum()
    found = [
        (weights.sum(axis=tuple(a for a in range(weights.ndim) if a != axis)) * np.arange(size)).sum() / total
        for axis, size in enumerate(weights.shape)
    ]
    return np.array(found)


def fourier_shift(kernel: NDArray[np.float64], shift_px: tuple[float, ...]) -> NDArray[np.float64]:
    """Move the content of an array by a fraction of a pixel.

    Parameters
    ----------
    kernel : ndarray, float64
        Falls to (nearly) the same value at all borders: the shift is periodic behind a rim of zeros.
    shift_px : tuple of float
        Distance along each axis; positive moves towards higher indices.

    Returns
    -------
    ndarray, float64
        Same shape.
    """
    rim = [(size // 2 + 1, size // 2 + 1) for size in kernel.shape]
    padded = np.pad(kernel, rim)
    spectrum = np.fft.fftn(padded)
    for axis, (size, shift) in enumerate(zip(padded.shape, shift_px, strict=True)):
        frequency = np.fft.fftfreq(size)
        phase = np.exp(-2j * np.pi * frequency * shift)
        if size % 2 == 0:
            # The Nyquist term has no sign of its own: only its real part keeps the result real.
            phase[size // 2] = np.cos(np.pi * shift)
        spectrum *= phase.reshape([-1 if a == axis else 1 for a in range(padded.ndim)])
    inner = tuple(slice(low, low + size) for (low, _), size in zip(rim, kernel.shape, strict=True))
    moved: NDArray[np.float64] = np.fft.ifftn(spectrum).real[inner]
    return moved


def _odd_sized(kernel: NDArray[np.float64], run: Run | None, argument: str) -> NDArray[np.float64]:
    even = [size % 2 == 0 for size in kernel.shape]
    if not any(even):
        return kernel
    before = kernel.shape
    centre = centroid_px(kernel)
    shift = tuple(
        0.5 if is_even and at < size / 2 - 0.25 else 0.0
        for is_even, at, size in zip(even, centre, kernel.shape, strict=True)
    )
    kernel = np.pad(kernel, [(0, int(is_even)) for is_even in even])
    if any(shift):
        # A shift by half a pixel rings a little around sharp edges; kernels have no negative values.
        kernel = np.maximum(fourier_shift(kernel, shift), 0)
    moved = "moved by half a pixel and " if any(shift) else ""
    _note(run, f"{argument} of even size {before} was {moved}padded to {kernel.shape}, its centre kept.")
    return kernel
