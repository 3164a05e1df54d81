"""Depth by looking up a map's readings in a calibration's table.

Along the axis of an astigmatic lens, four readings of a PSF map change with depth: defocus and astigmatism,
the same on both sides of focus, and the astigmatism's and the defocus's signed forms, opposite on the sides.
None is good everywhere: near focus the unsigned defocus is never quite zero, far from it the signed one
shrinks where the side is in doubt, and all depend a little on the texture. Where a calibration knows them all
over depth, the depth of a place is where its readings fit best, as single molecules are located in depth by
the two widths of their astigmatic spots (Huang et al. 2008, doi:10.1126/science.1153529).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

if TYPE_CHECKING:
    from napari_deblur.optics.psf_map import PsfMap

Grid = NDArray[np.float64]

_DEPTHS = 81
_BANDWIDTHS = 22
"""The table is smoothed by a window whose standard deviation is this part of the depth range."""
_DEGREES = 4.0
"""Of freedom of Student's distribution: a reading far off is an outlier, not a certainty."""
_AROUND = 0.1
_N = 4
_LEAST_SCATTER_WAVES = 1e-3
_UNSIGNED = np.array([1, 1, 0, 0])


class LookupTable(BaseModel):
    """What a map reads over depth: mean and covariance.

    Attributes
    ----------
    depth_um : tuple of float, length D
        Ascending, evenly spaced.
    mean : tuple, shape (D, 4)
        Defocus, astigmatism, astigmatism along the axis, signed defocus along it; waves.
    covariance : tuple, shape (D, 4, 4)
        Scatter of single places around the mean.
    error : tuple, shape (D, 4)
        What the estimator expected its errors to be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    depth_um: tuple[float, ...]
    mean: tuple[tuple[float, ...], ...]
    covariance: tuple[tuple[tuple[float, ...], ...], ...]
    error: tuple[tuple[float, ...], ...]

    @field_validator("depth_um")
    @classmethod
    def _ascending(cls, depths: tuple[float, ...]) -> tuple[float, ...]:
        if len(depths) < 2 or (np.diff(depths) <= 0).any():
            raise ValueError("must increase")
        return depths

    @field_validator("mean", "covariance", "error")
    @classmethod
    def _rectangular(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if set(np.array(values).shape[1:]) != {_N}:
            raise ValueError(f"must hold {_N} readings per depth")
        return values

    @classmethod
    def fitted(
        cls, depth_um: Grid, readings: Grid, errors: Grid, trust: Grid, spacing_um: float
    ) -> LookupTable:
        """Fit local lines over depth.

        Parameters
        ----------
        depth_um : ndarray, shape (n,)
        readings, errors : ndarray, shape (n, 4)
        trust : ndarray, shape (n,)
        spacing_um : float
            Distance between depths that were seen; the window reaches over it.
        """
        depths = np.linspace(depth_um[trust > 0].min(), depth_um[trust > 0].max(), _DEPTHS)
        width = max(float(np.ptp(depths)) / _BANDWIDTHS, 0.75 * spacing_um)
        means, covariances, expected = [], [], []
        for depth in depths:
            offset = (depth_um - depth) / width
            weight = trust * np.exp(-(offset**2) / 2)
            design = np.stack([np.ones_like(offset), offset], axis=1)
            root = np.sqrt(weight)[:, None]
            line = np.linalg.lstsq(design * root, readings * root, rcond=None)[0]
            residuals = readings - design @ line
            means.append(line[0])
            scatter = (weight[:, None] * residuals).T @ residuals / weight.sum()
            covariances.append(scatter + _LEAST_SCATTER_WAVES**2 * np.eye(_N))
            expected.append(np.sqrt(weight @ errors**2 / weight.sum()))
        return cls(
            depth_um=tuple(depths.tolist()),
            mean=np.array(means).tolist(),
            covariance=np.array(covariances).tolist(),
            error=np.array(expected).tolist(),
        )

    def shifted(self, by_um: float) -> LookupTable:
        """Return the table with all depths moved."""
        return self.model_copy(update={"depth_um": tuple(depth + by_um for depth in self.depth_um)})

    def focus_um(self) -> float | None:
        """Return the depth at which the signed defocus rises through zero, None where it does not."""
        signed = np.array(self.mean)[:, 3]
        rising = np.flatnonzero((signed[:-1] < 0) & (signed[1:] >= 0))
        if not len(rising):
            return None
        middle = rising[np.abs(rising - len(signed) / 2).argmin()]
        low, high = self.depth_um[middle], self.depth_um[middle + 1]
        return float(low + (high - low) * signed[middle] / (signed[middle] - signed[middle + 1]))

    def look_up(self, readings: Grid, errors: Grid) -> tuple[Grid, Grid]:
        """Return depth and its standard deviation, shapes (rows, cols).

        Parameters
        ----------
        readings, errors : ndarray, shape (rows, cols, 4)

        Notes
        -----
        The table knows how its own sample's places scatter, but neither that another image is noisier nor
        that its texture shifts all of its readings. The first shows in larger expected errors than those of
        the table's sample. The second is what the errors of the unsigned readings stand for; signed ones
        vanish at focus whatever the texture, for it looks the same from both sides.
        """
        depths = np.array(self.depth_um)
        log_likelihood = np.empty((*readings.shape[:2], len(depths)))
        here, known = (np.median((part**2).sum(axis=-1)) for part in (errors, np.array(self.error)))
        noisier = max(float(here / known), 1.0)
        texture = (_UNSIGNED * errors**2)[..., None] * np.eye(_N)
        for index, (mean, covariance) in enumerate(zip(self.mean, self.covariance, strict=True)):
            total = noisier * np.array(covariance) + texture
            distance = readings - np.array(mean)
            solved = np.linalg.solve(total, distance[..., None])[..., 0]
            square = (distance * solved).sum(axis=-1)
            log_likelihood[..., index] = -0.5 * (_DEGREES + _N) * np.log1p(square / _DEGREES)
            log_likelihood[..., index] -= 0.5 * np.linalg.slogdet(total)[1]
        chance = np.exp(log_likelihood - log_likelihood.max(axis=-1, keepdims=True))
        chance /= chance.sum(axis=-1, keepdims=True)
        mean_depth = (chance * depths).sum(axis=-1)
        spread = np.sqrt((chance * (depths - mean_depth[..., None]) ** 2).sum(axis=-1))
        # The likeliest depth, made continuous: where two depths compete, their mean would be neither.
        best = depths[chance.argmax(axis=-1)][..., None]
        near = chance * (np.abs(depths - best) <= _AROUND * np.ptp(depths) / 2)
        return (near * depths).sum(axis=-1) / near.sum(axis=-1), spread


def has_readings(psf_map: PsfMap) -> bool:
    """Return whether a map holds what the table needs."""
    return psf_map.signed_defocus_waves is not None and psf_map.predicted_error is not None


def readings(psf_map: PsfMap, axis_rad: float) -> tuple[Grid, Grid]:
    """Return a map's readings along a lens's axis and their expected errors, shapes (rows, cols, 4)."""
    if psf_map.signed_defocus_waves is None or psf_map.predicted_error is None:
        raise ValueError("the map was not read by a network that regresses the signed defocus")
    values, error = psf_map.parameters.astype(np.float64), psf_map.predicted_error.astype(np.float64)
    signed = psf_map.signed_defocus_waves.astype(np.float64)
    defocus, power, axis = np.moveaxis(values, -1, 0)
    cos, sin = np.cos(2 * axis_rad), np.sin(2 * axis_rad)
    found = (
        defocus,
        power,
        power * np.cos(2 * (axis - axis_rad)),
        signed[..., 0] * cos + signed[..., 1] * sin,
    )
    along = np.hypot(signed[..., 2] * cos, signed[..., 3] * sin)
    expected = (error[..., 0], error[..., 1], error[..., 1], along)
    return np.stack(found, axis=-1), np.stack(expected, axis=-1)
