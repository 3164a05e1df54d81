"""How two PSF maps differ: two channels, two times, before and after an adjustment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf_map import PsfMap

_AXIS = "axis_rad"
_SAME_PLACE_PX = 1.0


@dataclass(frozen=True, eq=False)
class ParameterDifference:
    """The difference of one parameter in numbers.

    Attributes
    ----------
    name : str
    median : float
        Over the positions that are valid in both maps.
    spread : float
        Half the distance between the 16th and the 84th percentile.
    in_errors : float or None
        Root mean square of the difference over the error that both maps predict for it: about 1 where the
        maps agree within their errors.
    """

    name: str
    median: float
    spread: float
    in_errors: float | None


@dataclass(frozen=True, eq=False)
class MapDifference:
    """One map minus another.

    Attributes
    ----------
    parameter_names : tuple of str
    values : ndarray, float32, shape (rows, cols, N)
        Differences; of an axis the smallest turn, up to half its period.
    valid : ndarray, bool, shape (rows, cols)
        Where both maps are.
    expected_error : ndarray, float32, shape (rows, cols, N), or None
        Predicted standard deviation of the differences.
    """

    parameter_names: tuple[str, ...]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    expected_error: NDArray[np.float32] | None

    def summary(self) -> list[ParameterDifference]:
        """Return the numbers of every parameter."""
        found = []
        for index, name in enumerate(self.parameter_names):
            values = self.values[..., index][self.valid].astype(np.float64)
            low, middle, high = np.percentile(values, [16, 50, 84])
            ratio = None
            if self.expected_error is not None:
                expected = np.maximum(self.expected_error[..., index][self.valid], 1e-12)
                ratio = float(np.sqrt(np.mean((values / expected) ** 2)))
            found.append(ParameterDifference(name, float(middle), float(high - low) / 2, ratio))
        return found


def subtract(one: PsfMap, other: PsfMap) -> MapDifference:
    """Return one map minus another.

    Parameters
    ----------
    one, other : PsfMap
        Of the same family, on the same grid of the same field.

    Raises
    ------
    InvalidInputError
        If the maps cannot be compared, or no position is valid in both.
    """
    if one.model != other.model:
        raise InvalidInputError("other", f"must be of the family {one.model} to be compared", other.model)
    if one.grid_shape != other.grid_shape or one.image_shape != other.image_shape:
        rule = f"must have the grid {one.grid_shape} over {one.image_shape} pixels (use the same stride)"
        raise InvalidInputError("other", rule, f"{other.grid_shape} over {other.image_shape} pixels")
    if float(np.abs(one.centers_px - other.centers_px).max()) > _SAME_PLACE_PX:
        raise InvalidInputError("other", "must have its positions where the first map has them", "others")
    valid = one.valid & other.valid
    if not valid.any():
        raise InvalidInputError("other", "must be valid somewhere where the first map is", "nowhere")
    values = one.parameters - other.parameters
    if _AXIS in one.parameter_names:
        index = one.parameter_names.index(_AXIS)
        period = one.psf_family.axis_period_rad
        values[..., index] = period / 2 - (period / 2 - values[..., index]) % period
    error = None
    if one.predicted_error is not None and other.predicted_error is not None:
        error = np.hypot(one.predicted_error, other.predicted_error)
    return MapDifference(one.parameter_names, values, valid, error)
