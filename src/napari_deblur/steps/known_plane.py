"""A flat sample of known depth at a few places: its tilt, which calibrates depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from napari_deblur.core.errors import InvalidInputError

_FEWEST = 3
# Points closer to a line than this share of their extent leave the tilt across it open.
_LEAST_WIDTH = 0.05


@dataclass(frozen=True)
class KnownPlane:
    """A tilted plane in the image.

    Attributes
    ----------
    tilt_deg : float
        Angle with the focal plane.
    azimuth_deg : float
        Direction in which depth grows: 0 along x (to the right), 90 along y (downwards).
    zero_at_px : tuple of float
        Where (y, x) its depth is 0; may lie outside the image.
    residual_um : float
        Root mean square distance of the points from the plane; 0 for three points.
    """

    tilt_deg: float
    azimuth_deg: float
    zero_at_px: tuple[float, float]
    residual_um: float


def plane_through(
    points_px: Sequence[tuple[float, float]],
    depths_um: Sequence[float],
    pixel_size_um: tuple[float, float],
) -> KnownPlane:
    """Fit a plane to points of known depth by least squares.

    Parameters
    ----------
    points_px : sequence of (y, x)
        At least three, not on one line.
    depths_um : sequence of float
        Positive away from the objective.
    pixel_size_um : tuple of float
        Along y and x.

    Raises
    ------
    InvalidInputError
        For too few points, points on one line, or a level plane.
    """
    if len(points_px) < _FEWEST:
        raise InvalidInputError("points", f"must be at least {_FEWEST}", f"{len(points_px)}")
    if len(points_px) != len(depths_um) or not np.isfinite(depths_um).all():
        raise InvalidInputError("depths_um", "must be one finite number per point", list(depths_um))
    where = np.asarray(points_px, dtype=np.float64) * pixel_size_um
    middle = where.mean(axis=0)
    widths = np.linalg.svd(where - middle, compute_uv=False)
    if widths[1] < _LEAST_WIDTH * widths[0] or widths[0] == 0:
        raise InvalidInputError("points", "must not lie on one line", "points on a line")
    depths = np.asarray(depths_um, dtype=np.float64)
    design = np.column_stack([np.ones(len(where)), where - middle])
    (height, along_y, along_x), *_ = np.linalg.lstsq(design, depths, rcond=None)
    slope = math.hypot(along_y, along_x)
    if slope * widths[0] < 1e-9 * max(1.0, float(np.abs(depths).max())):
        raise InvalidInputError("points", "must differ in depth: a level plane calibrates nothing", "level")
    zero = middle - height / slope**2 * np.array([along_y, along_x])
    residual = design @ np.array([height, along_y, along_x]) - depths
    return KnownPlane(
        tilt_deg=math.degrees(math.atan(slope)),
        azimuth_deg=math.degrees(math.atan2(along_y, along_x)),
        zero_at_px=(float(zero[0] / pixel_size_um[0]), float(zero[1] / pixel_size_um[1])),
        residual_um=float(np.sqrt(np.mean(residual**2))),
    )
