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
