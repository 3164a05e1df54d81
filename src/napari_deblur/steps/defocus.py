"""The signed distance from focus that a PSF map holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError

if TYPE_CHECKING:
    from napari_deblur.optics.psf_map import PsfMap
    from napari_deblur.optics.settings import Optics

Rule = Literal["astigmatism", "paper"]
Grid = NDArray[np.float64]

DEPTH_MODELS = ("zernike-3", "gaussian-2")
_FAINT_ASTIGMATISM_WAVES = 0.02
_SIDE_WEIGHT = 2.0


@dataclass(frozen=True, eq=False)
class DefocusSignal:
    """Two numbers per position whose combination ``u cos 2φ + v sin 2φ`` is proportional to depth.

    A cylinder lens makes astigmatism of constant power a at the axis φ. Since defocus d and -d with the axis
    turned by 90° give the same kernel, a map with d ≥ 0 shows the axis φ beyond focus and φ + 90° before it:
    with ``u = d cos 2θ`` and ``v = d sin 2θ`` of the axis θ found, the combination is the signed defocus.
    Where the map holds these products as its estimator read them, they are used: they pass smoothly through
    focus, where d and θ, each uncertain, make a step.
    Gaussian widths along y and x show the same (for a cylinder along x or y) as ``u = σx² - σy²``, which
    geometrical optics makes proportional to a · d; the plain difference of the widths saturates.

    Attributes
    ----------
    u, v : ndarray, shape (rows, cols)
    weights : ndarray, shape (rows, cols)
        Trust, 0 to 1: validity and confidence, and less where astigmatism is too faint to tell the sign.
    precision : ndarray, shape (rows, cols)
        Relative weight from the estimator's own predicted error; 1 where it gives none.
    """

    u: Grid
    v: Grid
    weights: Grid
    precision: Grid

    def weighed(self, spread: Grid) -> DefocusSignal:
        """Return the same with its precision from known standard deviations, shape (rows, cols)."""
        return replace(self, precision=_precision(spread**2, self.weights))

    def along(self, axis_rad: float) -> Grid:
        """Return the signed quantity for a cylinder axis."""
        return self.u * math.cos(2 * axis_rad) + self.v * math.sin(2 * axis_rad)

    def principal_axis_rad(self) -> float:
        """Return the cylinder axis along which the values lie, in [0, π/2); the side 'beyond' stays open."""
        trust = self.weights * self.precision
        uu, vv, uv = (
            float((trust * a * b).sum()) for a, b in ((self.u, self.u), (self.v, self.v), (self.u, self.v))
        )
        return (0.25 * math.atan2(2 * uv, uu - vv)) % (math.pi / 2)


def defocus_signal(psf_map: PsfMap, rule: Rule) -> DefocusSignal:
    """Read the quantity behind depth from a PSF map.

    Parameters
    ----------
    psf_map : PsfMap
        Of the family zernike-3, or gaussian-2 with the rule 'astigmatism'.
    rule : {'astigmatism', 'paper'}
        'paper' is a₁ (2 a₃/π - 1) (Shajkofci and Liebling 2020, doi:10.1109/TIP.2020.2986880), which is
        symmetric about focus only for a cylinder at 45°.

    Raises
    ------
    InvalidInputError
        If the family holds no sign of defocus, the rule does not fit it, or no position is valid.
    """
    if psf_map.model not in DEPTH_MODELS:
        rule_text = f"must be of the family {' or '.join(DEPTH_MODELS)}: others do not tell the side of focus"
        raise InvalidInputError("psf_map", rule_text, psf_map.model)
    if rule == "paper" and psf_map.model != "zernike-3":
        raise InvalidInputError("rule", f"must be 'astigmatism' for {psf_map.model}", repr(rule))
    weights = np.where(psf_map.valid, np.clip(psf_map.confidence, 0, 1), 0).astype(np.float64)
    if not weights.any():
        raise InvalidInputError("psf_map", "must have at least one valid position", "none with texture")
    values = psf_map.parameters.astype(np.float64)
    error = None if psf_map.predicted_error is None else psf_map.predicted_error.astype(np.float64)
    if psf_map.model == "gaussian-2":
        sigma_y, sigma_x = values[..., 0], values[..., 1]
        variance = (
            None if error is None else 4 * ((sigma_y * error[..., 0]) ** 2 + (sigma_x * error[..., 1]) ** 2)
        )
        return DefocusSignal(
            sigma_x**2 - sigma_y**2, np.zeros_like(sigma_x), weights, _precision(variance, weights)
        )
    defocus, power, axis = values[..., 0], values[..., 1], values[..., 2]
    variance = None if error is None else error[..., 0] ** 2 + (2 * defocus * error[..., 2]) ** 2
    weights = weights * power**2 / (power**2 + _FAINT_ASTIGMATISM_WAVES**2)
    if rule == "astigmatism" and psf_map.signed_defocus_waves is not None:
        u, v, u_error, v_error = np.moveaxis(psf_map.signed_defocus_waves.astype(np.float64), -1, 0)
        return DefocusSignal(u, v, weights, _precision(u_error**2 + v_error**2, weights))
    if rule == "paper":
        u, v = defocus * (2 * np.mod(axis, np.pi) / np.pi - 1), np.zeros_like(defocus)
    else:
        u, v = defocus * np.cos(2 * axis), defocus * np.sin(2 * axis)
    precision = _precision(variance, weights)
    if error is not None:
        # Near focus the axis, and with it the side, is a guess, while the defocus found is never negative:
        # such places count for little beside any whose side is known.
        precision = precision * np.exp(-_SIDE_WEIGHT * error[..., 2] ** 2)
    return DefocusSignal(u, v, weights, precision)


def _precision(variance: Grid | None, weights: Grid) -> Grid:
    if variance is None or not (weights > 0).any():
        return np.ones_like(weights)
    typical = float(np.median(variance[weights > 0]))
    # At most twice the typical weight: an estimator that is sure of itself is not always right.
    return 2 * typical / (variance + typical) if typical > 0 else np.ones_like(weights)


def defocus_waves_per_um(optics: Optics) -> float:
    """Return Noll-normalised defocus in waves per µm of axial distance, for the whole aperture.

    The projection of the exact path difference ``n z (1 - √(1 - (NA ρ/n)²)) / λ`` on Noll's fourth
    polynomial; for small apertures it goes to ``Optics.defocus_waves_per_um``, NA² / (4 √3 n λ).
    """
    nodes, weights = np.polynomial.legendre.leggauss(200)
    rho_squared = (nodes + 1) / 2
    sine = optics.na / optics.refractive_index
    path = optics.refractive_index / optics.wavelength_um * (1 - np.sqrt(1 - sine**2 * rho_squared))
    return float((weights / 2 * path * math.sqrt(3) * (2 * rho_squared - 1)).sum())
