"""Checks that every maker of kernels shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError

LARGEST_SIZE_PX = 511


def checked_size(size_px: Any) -> int:
    """Return a kernel size, refusing even, non-positive or huge ones."""
    whole = isinstance(size_px, int | np.integer) and not isinstance(size_px, bool)
    if not whole or size_px % 2 == 0 or not 1 <= size_px <= LARGEST_SIZE_PX:
        raise InvalidInputError("size_px", f"must be an odd number from 1 to {LARGEST_SIZE_PX}", size_px)
    return int(size_px)


def checked_cutoff(cutoff_cycles_per_px: Any) -> float:
    """Return a cut-off, refusing one that is not positive or that no camera image could show."""
    if not 0.005 <= cutoff_cycles_per_px <= 5:
        rule = "must be between 0.005 and 5 (NA · pixel size / wavelength)"
        raise InvalidInputError("cutoff_cycles_per_px", rule, cutoff_cycles_per_px)
    return float(cutoff_cycles_per_px)


def checked_parameters(
    names: Sequence[str], parameters: Sequence[float] | Mapping[str, float] | Any
) -> list[float]:
    """Return the parameters in order, refusing missing, extra, non-finite and meaningless values."""
    if isinstance(parameters, Mapping):
        if set(parameters) != set(names):
            raise InvalidInputError(
                "parameters", f"must name exactly {', '.join(names)}", str(list(parameters))
            )
        parameters = [parameters[name] for name in names]
    try:
        values = np.atleast_1d(np.asarray(parameters, dtype=float))
    except (TypeError, ValueError):
        raise InvalidInputError("parameters", "must be numbers", parameters) from None
    if values.shape != (len(names),):
        raise InvalidInputError("parameters", f"must be {len(names)} numbers: {', '.join(names)}", parameters)
    check_values(names, values)
    return [float(value) for value in values]


def check_values(names: Sequence[str], values: NDArray[Any]) -> None:
    """Refuse values ``(…, N)`` of parameters that are not finite or have no meaning.

    Raises
    ------
    InvalidInputError
        Naming the first parameter that breaks its rule.
    """
    for name, column in zip(names, np.moveaxis(values, -1, 0).reshape(len(names), -1), strict=True):
        if not np.isfinite(column).all():
            raise InvalidInputError(name, "must be finite", float(column[~np.isfinite(column)][0]))
        least = float(column.min())
        if name.startswith("sigma") and least <= 0:
            raise InvalidInputError(name, "must be positive", least)
        if name in ("defocus_waves", "astigmatism_waves") and least < 0:
            rule = "must be 0 or more (reversing defocus and astigmatism together gives the same kernel)"
            raise InvalidInputError(name, rule, least)
