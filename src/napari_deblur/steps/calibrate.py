"""Fits a depth calibration to maps of a sample whose depth is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.steps.curve_fit import crossing, rising_curve, robust_lines
from napari_deblur.steps.defocus import DefocusSignal, Grid, Rule
from napari_deblur.steps.lookup import LookupTable, has_readings, readings
from napari_deblur.steps.surface_fit import robust_spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_deblur.optics.psf_map import PsfMap

Shape = Literal["linear", "monotone", "lookup"]

_FEWEST_POSITIONS = 6
_MONOTONE_KNOTS = 9


def fit_calibration(
    psf_maps: Sequence[PsfMap],
    signals: Sequence[DefocusSignal],
    heights: Sequence[Grid],
    *,
    rule: Rule,
    shape: Shape | None,
    without_readings: Shape,
    focus_is_zero: bool,
) -> dict[str, Any]:
    """Return the fields of a `DepthCalibration`.

    Parameters
    ----------
    psf_maps, signals : sequence
        Maps of the sample, and the signed defocus read from each.
    heights : sequence of ndarray, shape (rows, cols)
        Known depth in µm at the positions of each map.
    rule : {'astigmatism', 'paper'}
    shape : {'linear', 'monotone', 'lookup'} or None
        None: 'lookup' where the maps allow it, else ``without_readings``.
    focus_is_zero : bool
        Whether depth is counted from focus, wherever the heights have their zero.

    Raises
    ------
    InvalidInputError
        If the maps hold too little to fit, or cannot be looked up.
    """
    z = np.concatenate([height.ravel() for height in heights])
    u, v = (np.concatenate([getattr(signal, name).ravel() for signal in signals]) for name in ("u", "v"))
    trust = np.concatenate([(signal.weights * signal.precision).ravel() for signal in signals])
    count = np.count_nonzero(trust > 0)
    if count < _FEWEST_POSITIONS or float(np.ptp(z[trust > 0])) == 0:
        rule_text = f"must have at least {_FEWEST_POSITIONS} valid positions at different depths"
        raise InvalidInputError("psf_map", rule_text, f"{count} valid positions")
    slopes, residuals = robust_lines(z, np.stack([u, v]), trust)
    slope = float(np.hypot(*slopes))
    axis = 0.5 * math.atan2(slopes[1], slopes[0]) % math.pi
    quantity = u * math.cos(2 * axis) + v * math.sin(2 * axis)
    spread = robust_spread(residuals @ slopes / max(slope, 1e-300), trust)
    if slope * float(np.ptp(z[trust > 0])) < 2 * spread or slope == 0:
        raise InvalidInputError(
            "psf_map",
            "must show defocus that changes with depth (is the cylinder lens in, the sample textured?)",
            f"a change of {slope * float(np.ptp(z)):.3g} against a scatter of {spread:.3g}",
        )
    chosen = shape or ("lookup" if _can_look_up(psf_maps, rule) else without_readings)
    knots = min(_MONOTONE_KNOTS, len(np.unique(z[trust > 0]))) if chosen == "monotone" else 2
    at, to, residual = rising_curve(z, quantity, trust, knots, slope)
    table = _table(psf_maps, signals, z, axis, rule) if chosen == "lookup" else None
    if focus_is_zero:
        to = to - crossing(at, to)
        focus = table.focus_um() if table else None
        table = table.shifted(-focus) if table and focus is not None else table
    return {
        "axis_rad": axis,
        "curve": tuple((float(a), float(b)) for a, b in zip(at, to, strict=True)),
        "table": table,
        "residual_um": residual,
        "source": {"positions": int(count), "scale_um_per_unit": 1 / slope, "shape": chosen},
    }


def _can_look_up(psf_maps: Sequence[PsfMap], rule: Rule) -> bool:
    return rule == "astigmatism" and all(has_readings(psf_map) for psf_map in psf_maps)


def _table(
    psf_maps: Sequence[PsfMap], signals: Sequence[DefocusSignal], z: Grid, axis_rad: float, rule: Rule
) -> LookupTable:
    if not _can_look_up(psf_maps, rule):
        rule_text = "must be 'linear' or 'monotone' for maps without a signed defocus of their own"
        raise InvalidInputError("shape", rule_text, "'lookup'")
    parts = [readings(psf_map, axis_rad) for psf_map in psf_maps]
    found, errors = (np.concatenate([part[i].reshape(-1, 4) for part in parts]) for i in (0, 1))
    trust = np.concatenate([signal.weights.ravel() for signal in signals])
    gaps = np.diff(np.unique(np.round(z[trust > 0], 6)))
    return LookupTable.fitted(z, found, errors, trust, float(gaps.max()))


def checked_maps(psf_maps: Sequence[PsfMap]) -> list[PsfMap]:
    """Return maps to calibrate with; refuses none and a mixture.

    Raises
    ------
    InvalidInputError
    """
    if not psf_maps:
        raise InvalidInputError("psf_map", "must hold at least one map", "none")
    kinds = sorted({f"{one.model} at cut-off {known_cutoff(one)}" for one in psf_maps})
    if len(kinds) > 1:
        raise InvalidInputError("psf_maps", "must be of one family and cut-off", ", ".join(kinds))
    return list(psf_maps)


def known_cutoff(psf_map: PsfMap) -> float | None:
    """Return the cut-off where the family depends on it."""
    return psf_map.cutoff_cycles_per_px if psf_map.model == "zernike-3" else None


def known_pixel_size(given: tuple[float, float] | float | None, psf_map: PsfMap) -> tuple[float, float]:
    """Return the pixel size in µm along y and x, the map's own where none is given.

    Raises
    ------
    InvalidInputError
        If nobody knows it, or it is not positive.
    """
    size = psf_map.pixel_size_um if given is None else given
    if size is None:
        raise InvalidInputError("pixel_size_um", "is needed: the map does not know it", "nothing")
    pair = (float(size), float(size)) if isinstance(size, (int, float)) else (float(size[0]), float(size[1]))
    if not all(math.isfinite(value) and value > 0 for value in pair):
        raise InvalidInputError("pixel_size_um", "must be positive", pair)
    return pair


def distances_um(
    psf_map: PsfMap,
    pixel_size_um: tuple[float, float] | float | None,
    origin_px: tuple[float, float] | None,
) -> tuple[Grid, Grid]:
    """Return how far along y and x (rows, cols) a map's places lie from a point, by default the middle."""
    pixel = known_pixel_size(pixel_size_um, psf_map)
    middle = tuple((side - 1) / 2 for side in psf_map.image_shape)
    y, x = (
        (psf_map.centers_px[..., axis].astype(np.float64) - (origin_px or middle)[axis]) * pixel[axis]
        for axis in (0, 1)
    )
    return y, x


def counted_from_focus(signals: Sequence[DefocusSignal], heights: list[Grid]) -> list[Grid]:
    """Return the depths of several samples, each counted from where that sample is in focus.

    Each lay at its own height; along their common axis the signed defocus passes zero at focus.
    """
    if len(heights) < 2:
        return heights
    z = np.concatenate([height.ravel() for height in heights])
    u, v = (np.concatenate([getattr(signal, name).ravel() for signal in signals]) for name in ("u", "v"))
    trust = np.concatenate([(signal.weights * signal.precision).ravel() for signal in signals])
    slopes, _ = robust_lines(z, np.stack([u, v]), trust)
    axis = 0.5 * math.atan2(slopes[1], slopes[0])
    found = []
    for signal, height in zip(signals, heights, strict=True):
        own = (signal.weights * signal.precision).ravel()
        (slope,), _ = robust_lines(height.ravel(), signal.along(axis).ravel()[None], own)
        if slope == 0:
            found.append(height)
            continue
        at, to, _ = rising_curve(height.ravel(), signal.along(axis).ravel(), own, 2, abs(slope))
        found.append(height - crossing(at, to))
    return found
