"""What a PSF map's network was trained for, and what lies outside of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import FloatArray
from napari_deblur.core.run import Run
from napari_deblur.optics.psf import family
from napari_deblur.optics.psf_map import PsfMap

AXIS, POWER = "axis_rad", "astigmatism_waves"
_ASTIGMATISM = ("vertical_astigmatism_waves", "oblique_astigmatism_waves")
# A patch with more of its pixels at the top has lost about a third of what the network could tell of it.
LARGEST_SATURATED_SHARE = 0.05
# Fewer pixels at the very top are no plateau: every image has a brightest one.
_FEWEST_SATURATED = 16
# Frequencies in cycles per pixel, and a margin for the window's own width.
_BEYOND, _LAST_RING, _CORNERS = 1.03, 0.48, 0.6
_LARGEST_SPECTRUM_PX = 2048
MOST_DETAIL_BEYOND = 1.5
# A kernel longer than this many times its width is a line.
_LINE = 3.0
# Length of the mean of all directions, as unit vectors at twice the angle.
_ONE_DIRECTION = 0.8
_NEAR_END = 0.01
# A parameter is there if it is larger than this many times its predicted error.
_SIGNIFICANT = 2.0
_MOST = 0.5
# In a field that is in focus in places, other places show it.
_ALMOST_ALL = 0.95
# Below this the map's parameters scatter by more than two thirds of what plain guessing would.
_LOW_CONFIDENCE = 1 / 3


def saturated_share(
    plane: FloatArray, tops: Sequence[float], lefts: Sequence[float], size_px: float
) -> FloatArray:
    """Return the share (rows, cols) of each patch's pixels that are as bright as the image can show.

    Parameters
    ----------
    plane : ndarray, shape (y, x)
    tops, lefts : sequence of float
        First pixels of the patches.
    size_px : float
    """
    top = plane == plane.max()
    shares = np.zeros((len(tops), len(lefts)), np.float32)
    if int(top.sum()) < _FEWEST_SATURATED:
        return shares
    for row, y in enumerate(tops):
        band = top[round(y) : round(y + size_px)]
        for col, x in enumerate(lefts):
            shares[row, col] = band[:, round(x) : round(x + size_px)].mean()
    return shares


def confidence(model: str, errors: FloatArray, validity: FloatArray) -> FloatArray:
    """Return the share of each parameter's spread that is known, averaged, times the validity.

    A parameter of which nothing is known has the standard deviation of a uniform distribution over its range.
    The axis is left out: it is uncertain by nature where the astigmatism is weak.

    Parameters
    ----------
    model : str
    errors : ndarray, shape (rows, cols, N)
        Predicted standard deviations.
    validity : ndarray, shape (rows, cols)
    """
    known = [
        np.clip(1 - errors[..., index] * np.sqrt(12) / (high - low), 0, 1)
        for index, (name, (low, high)) in enumerate(family(model).parameter_ranges.items())
        if name != AXIS
    ]
    result: FloatArray = (np.mean(known, axis=0) * validity).astype(np.float32)
    return result


def detail_beyond_cutoff(plane: FloatArray, cutoff_cycles_per_px: float) -> float:
    """Return the power between the end of what the optics pass and Nyquist, over that of the corners beyond.

    Incoherent light carries nothing above twice the cut-off NA · pixel / λ: there is noise alone, which is
    white, so the ratio is 1 (0.86 to 1.18 over the training range). 1 too where there is no room to measure.

    Parameters
    ----------
    plane : ndarray, shape (y, x)
    cutoff_cycles_per_px : float
    """
    start = 2 * cutoff_cycles_per_px * _BEYOND
    if start >= _LAST_RING:
        return 1.0
    corner = [max(0, (size - _LARGEST_SPECTRUM_PX) // 2) for size in plane.shape]
    part = plane[tuple(slice(at, at + _LARGEST_SPECTRUM_PX) for at in corner)].astype(np.float64)
    window = np.hanning(part.shape[0])[:, None] * np.hanning(part.shape[1])[None, :]
    power = np.abs(np.fft.rfft2((part - part.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(part.shape[0])[:, None], np.fft.rfftfreq(part.shape[1])[None, :])
    ring, corners = (radius > start) & (radius < 0.5), radius > _CORNERS
    return float(power[ring].mean() / max(power[corners].mean(), 1e-30))


def like_motion(model: str, values: FloatArray, errors: FloatArray) -> bool:
    """Tell whether a map says what motion looks like: a blur that is a line, and the same one all over.

    At a line focus of an astigmatic lens the kernel is a line too, so a network that knows astigmatism reads
    motion as such a focus. The kernel's extents along its two axes are in the ratio of the wavefront's
    slopes there, ``4 √3 defocus ± 2 √6 astigmatism``.

    Parameters
    ----------
    model : str
    values, errors : ndarray, shape (n, N)
        Of valid patches.
    """
    names = family(model).parameter_names
    column = dict(zip(names, values.T.astype(np.float64), strict=True))
    error = dict(zip(names, errors.T.astype(np.float64), strict=True))
    if set(_ASTIGMATISM) <= set(column):
        vertical, oblique = (column[name] for name in _ASTIGMATISM)
        column |= {POWER: np.hypot(vertical, oblique), AXIS: np.arctan2(oblique, vertical) / 2}
        error[POWER] = np.maximum(*(error[name] for name in _ASTIGMATISM))
    if {"defocus_waves", POWER, AXIS} <= set(column):
        focus = 4 * np.sqrt(3) * column["defocus_waves"]
        cylinder = 2 * np.sqrt(6) * column[POWER]
        # Near focus all is small, and the ratio of two errors says nothing.
        focus = np.where(column[POWER] > _SIGNIFICANT * error[POWER], focus, 0.0)
        long, short, axis = focus + cylinder, np.abs(focus - cylinder), column[AXIS]
    elif {"sigma_y_px", "sigma_x_px"} <= set(column):
        y, x = column["sigma_y_px"], column["sigma_x_px"]
        long, short, axis = np.maximum(y, x), np.minimum(y, x), np.where(y > x, np.pi / 2, 0.0)
    else:
        return False
    lines = bool(np.mean(long > _LINE * short) > _MOST)
    return lines and bool(abs(np.mean(np.exp(2j * axis))) > _ONE_DIRECTION)


def note_uncertain_psf(psf: object, run: Run) -> None:
    """Tell the user of a learned method that a PSF map is uncertain, or beyond what networks know.

    A trained network turns the traces of a wrong PSF into structure that looks as likely as any other.

    Parameters
    ----------
    psf : object
        Only a `PsfMap` says how far it is to be trusted.
    run : Run
    """
    if not isinstance(psf, PsfMap) or not psf.valid.any():
        return
    for index, (name, (low, high)) in enumerate(psf.psf_family.parameter_ranges.items()):
        found, near = psf.parameters[..., index], _NEAR_END * (high - low)
        if name != AXIS and bool(((found < low - near) | (found > high + near)).any()):
            run.note(
                f"{name} leaves the range of {low:g} to {high:g} that networks are trained for: what a "
                "learned method makes of such a PSF is not to be trusted."
            )
    trust = float(np.median(psf.confidence[psf.valid]))
    if trust < _LOW_CONFIDENCE:
        run.note(
            f"The PSF is uncertain (confidence {trust:.2f}), and a learned method makes likely structure of "
            "what a wrong PSF leaves: compare with a classical method, and look at the residual."
        )


def note_limits(
    model: str,
    values: FloatArray,
    errors: FloatArray,
    valid: NDArray[np.bool_],
    trust: FloatArray,
    run: Run,
) -> FloatArray:
    """Tell the user where a map meets the ends of what its network was trained for; return the confidence.

    Parameters
    ----------
    model : str
    values, errors : ndarray, shape (rows, cols, N)
    valid : ndarray of bool, shape (rows, cols)
        At least one is true.
    trust : ndarray, shape (rows, cols)
        Confidence.
    run : Run

    Returns
    -------
    ndarray, shape (rows, cols)
        The confidence, halved where there are two explanations of what is seen.
    """
    sharp = np.ones(int(valid.sum()), bool)
    for index, (name, (low, high)) in enumerate(family(model).parameter_ranges.items()):
        if name == AXIS:
            continue
        found, expected = values[valid][:, index], errors[valid][:, index]
        near, signed = _NEAR_END * (high - low), low < 0
        size = np.abs(found) if signed else found - low
        sharp &= size <= np.maximum(_SIGNIFICANT * expected, near)
        for end, at_end in ((high, found > high - near), (low, signed & (found < low + near))):
            if float(np.mean(at_end)) > 0.1:
                run.note(f"{name} is at {end:g}, the end of the trained range, in over a tenth of the map.")
    if float(np.median(trust[valid])) < _LOW_CONFIDENCE:
        run.note(
            "Low confidence: the network expects large errors. The image may be too noisy, too empty, or "
            "blurred in a way that the model does not know."
        )
    elif sharp.mean() > _ALMOST_ALL:
        run.note("The image is as sharp as the network can tell: there may be no blur to remove.")
    if like_motion(model, values[valid], errors[valid]):
        run.note(
            "The blur is the same line all over the image: the line focus of an astigmatic lens, or motion "
            "of the sample or the camera, which the model does not know. The confidence is halved."
        )
        return np.asarray(trust / 2, dtype=np.float32)
    return trust
