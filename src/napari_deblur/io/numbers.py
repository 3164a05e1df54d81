"""The numbers that images are written as: float32, or whole grey values in half the room."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray

Dtype = Literal["float32", "uint16"]


def check_dtype(dtype: str, source: dict[str, Any], kind: str) -> None:
    """Refuse, before a long run, numbers that cannot hold its result.

    Parameters
    ----------
    dtype : {"float32", "uint16"}
    source : dict
        What `napari_deblur.core.image.Image.source` holds of the input's file.
    kind : str
        Format of the result.

    Raises
    ------
    InvalidInputError
    """
    if dtype == "float32":
        return
    if kind == "png":
        raise InvalidInputError("dtype", "must be left out for .png, which is for looking at only", dtype)
    stored = source.get("dtype")
    if stored is not None and np.dtype(stored).kind not in "bui":
        rule = f"must be float32 for an image of {stored}: whole numbers would lose its fractions"
        raise InvalidInputError("dtype", rule, dtype)


def as_stored(data: FloatArray, dtype: str | np.dtype[Any]) -> NDArray[Any]:
    """Return pixels as the numbers that a file holds: rounded to the nearest where those are whole.

    Raises
    ------
    InvalidInputError
        If a value lies outside what the numbers can hold.
    """
    wanted = np.dtype(dtype)
    if wanted.kind == "f":
        return data.astype(wanted, copy=False)
    whole = np.rint(data)
    low, high, limits = float(whole.min()), float(whole.max()), np.iinfo(wanted)
    if low < limits.min or high > limits.max:
        rule = f"must be float32 for a result with values outside {limits.min} to {limits.max}"
        raise InvalidInputError("dtype", rule, f"{wanted.name} for values from {low:g} to {high:g}")
    return whole.astype(wanted)


def with_dtype(record: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return a record that tells of the rounding, where there was one."""
    if dtype == "float32":
        return record
    facts = {**record.get("facts", {}), "stored_as": dtype, "rounded_to_grey_values": 1}
    return {**record, "facts": facts}
